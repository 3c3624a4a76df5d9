//! Manifests from `-f`: a file, or `-` for standard input, and what they say to the scheduler. A relative `storageUri`
//! without a scheme, such as `./models/iris`, is a path beside the manifest: the protocol knows absolute paths only, and
//! where the manifest lies is known here only.

use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crds::{Manifest, Violation};
use messages::scheduler as wire;

/// Why there are no manifests.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("read {}", .path.display())]
    Read {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("{}\n{}", counted(.0.len()), .0.iter().map(|violation| format!("  {violation}")).collect::<Vec<_>>().join("\n"))]
    Violations(Vec<Violation>),
    #[error("{found} {name} is no {wanted}: remove it from this file, or use the verb for files of all kinds")]
    OtherKind { found: Kind, name: String, wanted: Kind },
    #[error("storageUri {uri:?} of model {model} is a path beside the manifest, and there is nothing at {}", .path.display())]
    NoArtifact {
        model: String,
        uri: String,
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
}

/// What a resource is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Experiment,
    Pipeline,
    Model,
    Server,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Experiment => "experiment",
            Kind::Pipeline => "pipeline",
            Kind::Model => "model",
            Kind::Server => "server",
        })
    }
}

/// A resource by its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Named {
    pub(crate) kind: Kind,
    pub(crate) name: String,
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// What a manifest declares, as the scheduler is told.
#[derive(Clone, Debug)]
pub(crate) enum Resource {
    Experiment(Box<wire::Experiment>),
    Pipeline(Box<wire::Pipeline>),
    Model(Box<wire::Model>),
    Server(wire::ServerNotify),
}

/// What `-f -` is called in messages.
const STDIN: &str = "standard input";

/// The text of a file or of standard input, up to `limit` bytes and one more.
pub(crate) fn read(path: &Path, limit: usize) -> Result<String, Error> {
    let failed = |cause| Error::Read { path: path.to_owned(), cause };
    let mut text = String::new();
    let limit = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    if path == Path::new("-") {
        io::stdin().lock().take(limit).read_to_string(&mut text).map_err(failed)?;
    } else {
        std::fs::File::open(path).map_err(failed)?.take(limit).read_to_string(&mut text).map_err(failed)?;
    }
    Ok(text)
}

fn parse(path: &Path, only: Option<Kind>) -> Result<Vec<Manifest>, Error> {
    let text = read(path, crds::MAX_TEXT)?;
    let source = if path == Path::new("-") { STDIN.to_owned() } else { path.display().to_string() };
    let manifests = crds::parse(&text, &source).map_err(Error::Violations)?;
    if let Some(wanted) = only {
        for manifest in &manifests {
            let Named { kind, name } = named(manifest);
            if kind != wanted {
                return Err(Error::OtherKind { found: kind, name, wanted });
            }
        }
    }
    Ok(manifests)
}

/// What a file declares, of one kind or of any.
pub(crate) fn resources(path: &Path, only: Option<Kind>) -> Result<Vec<Resource>, Error> {
    // Without a parent, and for standard input, paths are relative to the current folder.
    let folder = path.parent().unwrap_or(Path::new(""));
    parse(path, only)?.into_iter().map(|manifest| resource(manifest, folder)).collect()
}

/// The names in a file, of one kind or of any. Artifacts beside it may be gone.
pub(crate) fn names(path: &Path, only: Option<Kind>) -> Result<Vec<Named>, Error> {
    Ok(parse(path, only)?.iter().map(named).collect())
}

fn named(manifest: &Manifest) -> Named {
    let kind = match manifest {
        Manifest::Model(_) => Kind::Model,
        Manifest::Server(_) => Kind::Server,
        Manifest::Pipeline(_) => Kind::Pipeline,
        Manifest::Experiment(_) => Kind::Experiment,
    };
    Named { kind, name: manifest.name().to_owned() }
}

fn resource(manifest: Manifest, folder: &Path) -> Result<Resource, Error> {
    let name = manifest.name().to_owned();
    let faulty = |faults| faulty(&name, faults);
    Ok(match manifest {
        Manifest::Model(model) => Resource::Model(Box::new(beside(*model, folder)?.to_wire().map_err(faulty)?)),
        Manifest::Server(server) => Resource::Server(server.to_wire().map_err(faulty)?),
        Manifest::Pipeline(pipeline) => Resource::Pipeline(Box::new(pipeline.to_wire().map_err(faulty)?)),
        Manifest::Experiment(experiment) => Resource::Experiment(Box::new(experiment.to_wire().map_err(faulty)?)),
    })
}

/// A fault that the conversion of a manifest found after it was read, which the reader excludes.
fn faulty(name: &str, faults: Vec<crds::Fault>) -> Error {
    let violation = |fault: crds::Fault| Violation {
        source_name: name.to_owned(),
        line: None,
        path: fault.path,
        problem: fault.problem,
    };
    Error::Violations(faults.into_iter().map(violation).collect())
}

/// Makes a relative `storageUri` absolute. One with a colon names a remote, not a file.
fn beside(mut model: crds::Model, folder: &Path) -> Result<crds::Model, Error> {
    let uri = &model.spec.storage_uri;
    if Path::new(uri).is_absolute() || uri.contains(':') {
        return Ok(model);
    }
    let path = folder.join(uri);
    let missing =
        |cause| Error::NoArtifact { model: model.metadata.name.clone(), uri: uri.clone(), path: path.clone(), cause };
    let absolute = path.canonicalize().map_err(missing)?;
    let text = absolute.into_os_string().into_string();
    let not_text = |_| missing(io::Error::new(io::ErrorKind::InvalidFilename, "its path is not UTF-8"));
    model.spec.storage_uri = text.map_err(not_text)?;
    Ok(model)
}

fn counted(violations: usize) -> String {
    if violations == 1 { "1 violation".to_owned() } else { format!("{violations} violations") }
}

#[cfg(test)]
mod tests {
    use super::{Error, Resource, resources};

    fn model(uri: &str) -> String {
        format!(
            "apiVersion: mlops.seldon.io/v1alpha1\nkind: Model\nmetadata: {{name: iris}}\nspec: {{storageUri: '{uri}'}}\n"
        )
    }

    #[test]
    fn a_relative_path_is_beside_the_manifest_and_everything_else_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().canonicalize().expect("its path");
        std::fs::create_dir_all(root.join("models/iris")).expect("a folder");
        let file = root.join("models/iris.yaml");
        let here = root.join("models/iris").display().to_string();
        for (uri, expected) in [
            ("./iris", here.as_str()),
            ("iris", &here),
            ("../models/./iris", &here),
            ("/mnt/iris", "/mnt/iris"),
            ("s3://bucket/iris", "s3://bucket/iris"),
            ("minio:bucket/iris", "minio:bucket/iris"),
        ] {
            std::fs::write(&file, model(uri)).expect("write");
            let found = resources(&file, None).expect(uri);
            let [Resource::Model(model)] = found.as_slice() else { unreachable!("{found:?}") };
            assert_eq!(model.model_spec.as_ref().map(|spec| spec.uri.as_str()), Some(expected), "{uri}");
        }
        std::fs::write(&file, model("./nothing")).expect("write");
        assert!(matches!(resources(&file, None), Err(Error::NoArtifact { .. })));
    }

    #[test]
    fn the_samples_are_good_manifests() {
        let samples = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples");
        let mut count = 0;
        let folders = [samples.clone(), samples.join("pipelines")];
        for entry in folders.iter().flat_map(|folder| std::fs::read_dir(folder).expect("the samples")) {
            let path = entry.expect("an entry").path();
            if path.extension().is_some_and(|extension| extension == "yaml") {
                count += 1;
                assert!(crds::parse(&super::read(&path, crds::MAX_TEXT).expect("text"), "sample").is_ok(), "{path:?}");
                // A model that is not part of the repository may have been fetched or not.
                let fetched = resources(&path, None).map(drop).or_else(|error| match error {
                    Error::NoArtifact { .. } => Ok(()),
                    error => Err(error),
                });
                assert!(fetched.is_ok(), "{path:?}: {fetched:?}");
            }
        }
        assert!(count > 0);
    }
}
