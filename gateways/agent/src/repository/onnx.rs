//! Artifacts of the built-in server: which folder or file of an artifact is the model. Looks, copies nothing.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// What the server loads when there are several.
pub(crate) const MODEL_FILE: &str = "model.onnx";
const EXTENSION: &str = "onnx";
/// An artifact with more entries at its top is a mistaken path.
const MOST_ENTRIES: usize = 10_000;

/// Why an artifact is no model.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("read {}", .path.display())]
    Read {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("{}: is no .{EXTENSION} file", .path.display())]
    NotOnnx { path: PathBuf },
    #[error("artifactVersion {version}: {} is a file, which has no versions", .path.display())]
    VersionOfFile { version: u32, path: PathBuf },
    #[error("artifactVersion {version}: {} has no folder of that number (it has: {found})", .path.display())]
    NoVersion { version: u32, path: PathBuf, found: String },
    #[error("{}: has no .{EXTENSION} file, also not in a folder with a number", .path.display())]
    NoModel { path: PathBuf },
    #[error("{}: has {count} .{EXTENSION} files and none is called {MODEL_FILE}", .path.display())]
    Ambiguous { path: PathBuf, count: usize },
    #[error("{}: has more than {MOST_ENTRIES} entries", .path.display())]
    TooMany { path: PathBuf },
}

/// The part of an artifact that the server needs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Artifact {
    File(PathBuf),
    Folder(PathBuf),
}

/// The file, the numbered folder asked for, the highest numbered folder that holds a model, or the root.
pub(crate) fn choose(artifact: &Path, version: Option<u32>) -> Result<Artifact, Error> {
    if !artifact.is_dir() {
        return match version {
            Some(version) => Err(Error::VersionOfFile { version, path: artifact.to_owned() }),
            None if is_onnx(artifact) => Ok(Artifact::File(artifact.to_owned())),
            None => Err(Error::NotOnnx { path: artifact.to_owned() }),
        };
    }
    let numbered = numbered_folders(artifact)?;
    if let Some(version) = version {
        let Some(folder) = numbered.get(&version) else {
            let found: Vec<String> = numbered.keys().map(u32::to_string).collect();
            let found = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
            return Err(Error::NoVersion { version, path: artifact.to_owned(), found });
        };
        return holds_model(folder).map(|()| Artifact::Folder(folder.clone()));
    }
    for folder in numbered.values().rev() {
        match holds_model(folder) {
            Ok(()) => return Ok(Artifact::Folder(folder.clone())),
            Err(Error::NoModel { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    holds_model(artifact).map(|()| Artifact::Folder(artifact.to_owned()))
}

fn numbered_folders(artifact: &Path) -> Result<BTreeMap<u32, PathBuf>, Error> {
    let mut found = BTreeMap::new();
    for path in entries(artifact)? {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let number = name.parse::<u32>().ok().filter(|number| number.to_string() == name);
        if let Some(number) = number.filter(|_| path.is_dir()) {
            found.insert(number, path);
        }
    }
    Ok(found)
}

fn holds_model(folder: &Path) -> Result<(), Error> {
    let models: Vec<PathBuf> = entries(folder)?.into_iter().filter(|path| is_onnx(path) && path.is_file()).collect();
    match models.len() {
        0 => Err(Error::NoModel { path: folder.to_owned() }),
        1 => Ok(()),
        _ if models.iter().any(|path| path.ends_with(MODEL_FILE)) => Ok(()),
        count => Err(Error::Ambiguous { path: folder.to_owned(), count }),
    }
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let read = |cause| Error::Read { path: folder.to_owned(), cause };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(read)? {
        if found.len() == MOST_ENTRIES {
            return Err(Error::TooMany { path: folder.to_owned() });
        }
        found.push(entry.map_err(read)?.path());
    }
    Ok(found)
}

fn is_onnx(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == EXTENSION)
}
