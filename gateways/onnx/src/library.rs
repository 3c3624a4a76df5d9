//! Finds the library of ONNX Runtime and opens it, once for each process.
//!
//! Order: `$ORT_DYLIB_PATH`, the system's library, the pinned wheel. What is named explicitly is never replaced by
//! something else: a broken `$ORT_DYLIB_PATH` is an error, not a reason to look further.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use ort::{environment::Environment, logging::LogLevel};
use runtime::wheel::{self, Progress, pins::ONNXRUNTIME};

/// The variable that names the library.
const VARIABLE: &str = "ORT_DYLIB_PATH";
/// Where systems keep libraries; the file is called `libonnxruntime.so` or has a version behind it.
const FOLDERS: [&str; 6] = [
    "/usr/local/lib",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/opt/onnxruntime/lib",
];
const FILE: &str = "libonnxruntime.so";
/// Where the wheel keeps it.
const WHEEL_FOLDER: &str = "onnxruntime/capi";

/// Why there is no library, or none that works.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The variable names a file that is not there.
    #[error("{VARIABLE} names {path}, which is no file")]
    NotThere {
        /// The path as given.
        path: PathBuf,
    },
    /// The wheel could not be fetched.
    #[error(transparent)]
    Fetch(#[from] wheel::Error),
    /// The wheel is not laid out as the pinned one.
    #[error("the wheel has no {FILE} in {}", .folder.display())]
    NotInWheel {
        /// Where it should be.
        folder: PathBuf,
    },
    /// The file is no library of ONNX Runtime, or too old a one.
    #[error("open onnx runtime: {reason}")]
    Open {
        /// The loader's own words, with the path.
        reason: String,
    },
    /// The process has opened another library before.
    #[error("onnx runtime is open already from {open}, {wanted} cannot be opened too")]
    Other {
        /// The one that is open.
        open: PathBuf,
        /// The one asked for.
        wanted: PathBuf,
    },
}

/// The path of the library, fetched if it has to be. Blocks.
///
/// # Errors
/// `$ORT_DYLIB_PATH` is wrong, or the wheel cannot be fetched.
pub fn find_library(progress: &dyn Fn(Progress)) -> Result<PathBuf, Error> {
    if let Some(path) = std::env::var_os(VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from) {
        return if path.is_file() { Ok(path) } else { Err(Error::NotThere { path }) };
    }
    if let Some(path) = FOLDERS.iter().find_map(|folder| in_folder(Path::new(folder))) {
        return Ok(path);
    }
    let wheel = wheel::fetch(&ONNXRUNTIME, progress)?;
    let folder = wheel.join(WHEEL_FOLDER);
    in_folder(&folder).ok_or(Error::NotInWheel { folder })
}

/// The environment every session lives in, opened from `library` by the first caller.
pub(crate) fn environment(library: &Path) -> Result<&'static Environment, Error> {
    struct Open {
        library: PathBuf,
        environment: &'static Environment,
    }
    static OPEN: Mutex<Option<Open>> = Mutex::new(None);

    // Looking into the file first gives a better reason than the loader's.
    check_is_library(library)?;
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(open) = open.as_ref() {
        return if open.library == library {
            Ok(open.environment)
        } else {
            Err(Error::Other { open: open.library.clone(), wanted: library.to_owned() })
        };
    }
    let failed = |reason: String| Error::Open { reason };
    let builder = ort::init_from(library).map_err(|error| failed(error.to_string()))?;
    let environment = builder
        .with_name("switchyard")
        .with_telemetry(false)
        .with_logger(Arc::new(log))
        .build()
        .map_err(|error| failed(error.to_string()))?;
    environment.set_log_level(LogLevel::Warning);
    // Sessions may live in threads that outlive everything else, so the environment is never closed.
    let environment: &'static Environment = Box::leak(Box::new(environment));
    *open = Some(Open { library: library.to_owned(), environment });
    Ok(environment)
}

/// Shared libraries of this system start with these bytes.
const ELF: [u8; 4] = *b"\x7fELF";

fn check_is_library(library: &Path) -> Result<(), Error> {
    if !cfg!(target_os = "linux") {
        return Ok(());
    }
    let mut start = [0; ELF.len()];
    let read = std::fs::File::open(library).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut start));
    match read {
        Ok(()) if start == ELF => Ok(()),
        Ok(()) => Err(Error::Open { reason: format!("{} is no shared library", library.display()) }),
        Err(error) => Err(Error::Open { reason: format!("read {}: {error}", library.display()) }),
    }
}

/// What ONNX Runtime says: its errors come back as results too, so here they are no more than details.
fn log(level: LogLevel, category: &str, _id: &str, location: &str, message: &str) {
    match level {
        LogLevel::Verbose | LogLevel::Info => tracing::trace!(category, location, "{message}"),
        LogLevel::Warning | LogLevel::Error | LogLevel::Fatal => tracing::debug!(category, location, "{message}"),
    }
}

fn in_folder(folder: &Path) -> Option<PathBuf> {
    let exact = folder.join(FILE);
    if exact.is_file() {
        return Some(exact);
    }
    let versioned = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path()).filter(|path| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.and_then(|name| name.strip_prefix(FILE)).is_some_and(|version| version.starts_with('.')) && path.is_file()
    });
    versioned.max()
}
