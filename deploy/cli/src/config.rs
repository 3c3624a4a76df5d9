//! What the command line keeps below `$HOME/.config/seldon/cli`: named configurations, of which one may be active
//! (`configs.json`), and the routes of the last answer (`session`). The form of both is the compatible one, so programs
//! that know it share them. Decides nothing about precedence; `address` does.
//!
//! Invariants: the home folder is `$HOME`, never one from the user database; a file is replaced whole or not at all.

mod registry;
mod session;

use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use serde::Deserialize;

pub(crate) use registry::{Active, Registry};
pub(crate) use session::Session;

/// Below the home folder.
const FOLDER: &str = ".config/seldon/cli";
/// These files hold a few names, paths and addresses; a larger one is another file.
const MAX_FILE: u64 = 1 << 20;

/// Why what is kept cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("$HOME is not set, and configurations and sessions are kept in $HOME/{FOLDER}: set it")]
    NoHome,
    #[error("read {}", .path.display())]
    Read {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("write {}", .path.display())]
    Write {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("{} is not what `config add` writes: correct or remove it", .path.display())]
    BadRegistry {
        path: PathBuf,
        #[source]
        cause: serde_json::Error,
    },
    #[error("{} is no configuration (JSON with dataplane, controlplane and kafka)", .path.display())]
    BadConfig {
        path: PathBuf,
        #[source]
        cause: serde_json::Error,
    },
    #[error("config {key} is not known: `config list` shows what is")]
    Unknown { key: String },
    #[error("config {key} is not active: {}", .active.as_ref().map_or("none is".to_owned(), |active| format!("{active} is")))]
    NotActive { key: String, active: Option<String> },
    #[error("the key of a config must not be empty")]
    EmptyKey,
    #[error("config {key} is active and cannot be used (`config deactivate {key}` turns it off)")]
    Active {
        key: String,
        #[source]
        cause: Box<Error>,
    },
    #[error(
        "config {key} asks for TLS ({field}), which is not in this version: remove the field, or name the address with a flag"
    )]
    Tls { key: String, field: &'static str },
}

/// The content of a configuration file. Fields that are not known are not looked at, as elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Config {
    pub(crate) dataplane: DataPlane,
    pub(crate) controlplane: ControlPlane,
}

/// Where inference is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct DataPlane {
    pub(crate) infer_host: String,
    pub(crate) tls: bool,
}

/// Where the scheduler is. TLS means something only with a key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ControlPlane {
    pub(crate) scheduler_host: String,
    pub(crate) key_path: String,
}

/// The folder, whether it is there or not. `variable` reads the environment.
pub(crate) fn folder(variable: impl Fn(&str) -> Option<String>) -> Result<PathBuf, Error> {
    let home = variable("HOME").filter(|home| !home.is_empty()).ok_or(Error::NoHome)?;
    Ok(Path::new(&home).join(FOLDER))
}

/// The text of a file; nothing when there is no file.
fn read(path: &Path) -> Result<Option<String>, Error> {
    let failed = |cause| Error::Read { path: path.to_owned(), cause };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(cause) if matches!(cause.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(cause) => return Err(failed(cause)),
    };
    let mut text = String::new();
    file.take(MAX_FILE).read_to_string(&mut text).map_err(failed)?;
    Ok(Some(text))
}

/// Makes `text` the content of a file; its folder is made when it is missing.
fn replace(path: &Path, text: &str) -> Result<(), Error> {
    let write = || {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let temporary = path.with_extension(format!("{}.new", std::process::id()));
        let mut file = std::fs::File::create(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    write().map_err(|cause| Error::Write { path: path.to_owned(), cause })
}

#[cfg(test)]
mod tests {
    use super::{Error, folder};

    #[test]
    fn home_is_the_variable_and_nothing_else() {
        let found = folder(|name| (name == "HOME").then(|| "/h".to_owned()));
        assert_eq!(found.ok().as_deref(), Some(std::path::Path::new("/h/.config/seldon/cli")));
        assert!(matches!(folder(|_| None), Err(Error::NoHome)));
        assert!(matches!(folder(|_| Some(String::new())), Err(Error::NoHome)));
    }
}
