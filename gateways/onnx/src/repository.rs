//! The models of this server: loading, unloading, listing.
//!
//! A model is a folder of that name in the model folder; the agent puts it there. Nothing is loaded unasked.
//!
//! Invariant: one name is loaded by one thread at a time, and everybody who asks meanwhile gets that outcome.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ort::environment::Environment;
use tokio::sync::watch;

use crate::{
    failure::Failure,
    model::{self, Model, Sizing},
    signature::UnsupportedInput,
};

/// The usual file name, taken when there are several.
const MODEL_FILE: &str = "model.onnx";
const EXTENSION: &str = "onnx";
/// Artifacts made for other servers keep their files in a folder for each version.
const VERSION_FOLDER: &str = "1";
/// No file system has longer names.
const MAX_NAME: usize = 255;

/// Why a model is not loaded or unloaded. Cheap to clone: everybody who waits for a load gets it.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Error {
    #[error("model name '{name}' {reason}")]
    Name { name: String, reason: &'static str },
    #[error("model '{name}': there is no folder {}", .folder.display())]
    NoFolder { name: String, folder: PathBuf },
    #[error("model '{name}': no .{EXTENSION} file in {} or its folder {VERSION_FOLDER}", .folder.display())]
    NoModelFile { name: String, folder: PathBuf },
    #[error("model '{name}': {} has {count} .{EXTENSION} files and none is called {MODEL_FILE}", .folder.display())]
    Ambiguous { name: String, folder: PathBuf, count: usize },
    #[error("model '{name}': read {}: {reason}", .path.display())]
    Read { name: String, path: PathBuf, reason: String },
    #[error("model '{name}': {} is no model onnx runtime can load: {reason}", .file.display())]
    Corrupt { name: String, file: PathBuf, reason: String },
    #[error("model '{name}': {source}")]
    UnsupportedInput { name: String, source: UnsupportedInput },
    #[error("model '{name}': onnx runtime failed: {reason}")]
    Runtime { name: String, reason: String },
    #[error("model '{name}': loading panicked")]
    Panicked { name: String },
    #[error("model '{name}' is not known")]
    Unknown { name: String },
}

/// Where a model stands, in the words of the repository API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Ready,
    Loading,
    Unavailable,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ready => "READY",
            Self::Loading => "LOADING",
            Self::Unavailable => "UNAVAILABLE",
        })
    }
}

/// One line of the index.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) name: String,
    pub(crate) status: Status,
    pub(crate) reason: String,
}

type Outcome = Result<(), Error>;

enum Entry {
    Loading(watch::Receiver<Option<Outcome>>),
    Ready(Arc<Model>),
    Failed(Error),
}

pub(crate) struct Repository {
    folder: PathBuf,
    sizing: Sizing,
    environment: &'static Environment,
    entries: Mutex<BTreeMap<String, Entry>>,
}

impl Repository {
    pub(crate) fn new(folder: PathBuf, sizing: Sizing, environment: &'static Environment) -> Self {
        Self { folder, sizing, environment, entries: Mutex::new(BTreeMap::new()) }
    }

    /// The loaded model of that name.
    pub(crate) fn get(&self, name: &str) -> Result<Arc<Model>, Failure> {
        match self.entries().get(name) {
            Some(Entry::Ready(model)) => Ok(Arc::clone(model)),
            Some(Entry::Loading(_) | Entry::Failed(_)) | None => {
                Err(Failure::NotLoaded { name: name.chars().take(MAX_NAME).collect() })
            }
        }
    }

    /// Loads a model, unless it is loaded. A load goes on when the one who asked goes away.
    pub(crate) async fn load(self: Arc<Self>, name: &str) -> Result<(), Error> {
        check_name(name)?;
        let mut outcome = match self.begin_load(name) {
            None => return Ok(()),
            Some(Begun::ByAnother(outcome)) => outcome,
            Some(Begun::ByUs(sender, outcome)) => {
                let (repository, name) = (Arc::clone(&self), name.to_owned());
                // The thread does all that is left to do, so nobody has to wait for its handle.
                drop(tokio::task::spawn_blocking(move || repository.finish_load(&name, &sender)));
                outcome
            }
        };
        let panicked = Error::Panicked { name: name.to_owned() };
        match outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or(Err(panicked)),
            Err(_) => Err(panicked),
        }
    }

    /// Forgets a model; its memory goes with the last request that uses it. Waits for a load that is going on.
    pub(crate) async fn unload(&self, name: &str) -> Result<(), Error> {
        check_name(name)?;
        loop {
            let mut loading = match self.remove(name) {
                Ok(model) => {
                    // Freeing a large model takes a while.
                    drop(tokio::task::spawn_blocking(move || drop(model)).await);
                    tracing::info!(model = name, "unloaded");
                    return Ok(());
                }
                Err(Some(loading)) => loading,
                Err(None) => return Err(Error::Unknown { name: name.to_owned() }),
            };
            // Whatever the outcome, and also when the sender is gone: look again.
            let _ = loading.wait_for(Option::is_some).await;
        }
    }

    /// Every model that is loaded or has failed to, and the folders that could be loaded. Blocks.
    pub(crate) fn index(&self, only_ready: bool) -> Vec<Listed> {
        let mut listed: Vec<Listed> = self
            .entries()
            .iter()
            .map(|(name, entry)| {
                let (status, reason) = match entry {
                    Entry::Ready(_) => (Status::Ready, String::new()),
                    Entry::Loading(_) => (Status::Loading, String::new()),
                    Entry::Failed(error) => (Status::Unavailable, error.to_string()),
                };
                Listed { name: name.clone(), status, reason }
            })
            .collect();
        if only_ready {
            listed.retain(|model| model.status == Status::Ready);
            return listed;
        }
        let known: BTreeSet<String> = listed.iter().map(|model| model.name.clone()).collect();
        let folders = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        listed.extend(
            folders
                .filter(|entry| entry.path().is_dir())
                .filter_map(|entry| entry.file_name().into_string().ok())
                .filter(|name| check_name(name).is_ok() && !known.contains(name))
                .map(|name| Listed { name, status: Status::Unavailable, reason: String::new() }),
        );
        listed
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        // The map is changed by single insertions and removals, so it is whole even after a panic.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin_load(&self, name: &str) -> Option<Begun> {
        let mut entries = self.entries();
        match entries.get(name) {
            Some(Entry::Ready(_)) => None,
            Some(Entry::Loading(outcome)) => Some(Begun::ByAnother(outcome.clone())),
            Some(Entry::Failed(_)) | None => {
                let (sender, outcome) = watch::channel(None);
                entries.insert(name.to_owned(), Entry::Loading(outcome.clone()));
                Some(Begun::ByUs(sender, outcome))
            }
        }
    }

    fn finish_load(&self, name: &str, sender: &watch::Sender<Option<Outcome>>) {
        let opened = catch_unwind(AssertUnwindSafe(|| self.open(name)))
            .unwrap_or_else(|_| Err(Error::Panicked { name: name.to_owned() }));
        let (entry, outcome) = match opened {
            Ok(model) => {
                tracing::info!(model = name, "loaded");
                (Some(Entry::Ready(Arc::new(model))), Ok(()))
            }
            // Names without a folder are not kept: anybody can think of any number of them.
            Err(error @ Error::NoFolder { .. }) => (None, Err(error)),
            Err(error) => (Some(Entry::Failed(error.clone())), Err(error)),
        };
        match entry {
            Some(entry) => self.entries().insert(name.to_owned(), entry),
            None => self.entries().remove(name),
        };
        sender.send_replace(Some(outcome));
    }

    fn open(&self, name: &str) -> Result<Model, Error> {
        let file = find_file(&self.folder, name)?;
        Model::open(self.environment, name, &file, self.sizing).map_err(|error| match error {
            model::Error::Input(source) => Error::UnsupportedInput { name: name.to_owned(), source },
            model::Error::Runtime(error) => {
                let reason = error.message().to_owned();
                match error.code() {
                    ort::ErrorCode::EngineError
                    | ort::ErrorCode::RuntimeException
                    | ort::ErrorCode::ExecutionProviderFailure => Error::Runtime { name: name.to_owned(), reason },
                    _ => Error::Corrupt { name: name.to_owned(), file, reason },
                }
            }
        })
    }

    /// The removed model (`None` for one that had failed), or what it waits for, or nothing when it is unknown.
    fn remove(&self, name: &str) -> Result<Option<Arc<Model>>, Option<watch::Receiver<Option<Outcome>>>> {
        let mut entries = self.entries();
        match entries.remove(name) {
            Some(Entry::Ready(model)) => Ok(Some(model)),
            Some(Entry::Failed(_)) => Ok(None),
            Some(Entry::Loading(outcome)) => {
                entries.insert(name.to_owned(), Entry::Loading(outcome.clone()));
                Err(Some(outcome))
            }
            None => Err(None),
        }
    }
}

enum Begun {
    ByUs(watch::Sender<Option<Outcome>>, watch::Receiver<Option<Outcome>>),
    ByAnother(watch::Receiver<Option<Outcome>>),
}

/// A name is one folder in the model folder and nothing else.
fn check_name(name: &str) -> Result<(), Error> {
    let reason = if name.is_empty() {
        "is empty"
    } else if name.len() > MAX_NAME {
        "is too long"
    } else if name.starts_with('.') {
        "starts with a dot"
    } else if name.contains(['/', '\\', '\0']) {
        "is not the name of one folder"
    } else {
        return Ok(());
    };
    Err(Error::Name { name: name.chars().take(MAX_NAME).collect(), reason })
}

fn find_file(models: &Path, name: &str) -> Result<PathBuf, Error> {
    let folder = models.join(name);
    if !folder.is_dir() {
        return Err(Error::NoFolder { name: name.to_owned(), folder });
    }
    for folder in [folder.clone(), folder.join(VERSION_FOLDER)] {
        let mut files = match model_files(&folder) {
            Ok(files) => files,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Error::Read { name: name.to_owned(), path: folder, reason: error.to_string() }),
        };
        if let Some(file) = files.iter().find(|file| file.ends_with(MODEL_FILE)) {
            return Ok(file.clone());
        }
        match files.len() {
            0 => {}
            1 => return Ok(files.remove(0)),
            count => return Err(Error::Ambiguous { name: name.to_owned(), folder, count }),
        }
    }
    Err(Error::NoModelFile { name: name.to_owned(), folder })
}

fn model_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == EXTENSION) && path.is_file() {
            files.push(path);
        }
    }
    Ok(files)
}
