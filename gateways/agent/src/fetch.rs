//! Where an artifact is, and the copy of it. The user's files are only read, never linked to; the copy is bounded, takes
//! regular files alone and follows no link out of the artifact. Blocks: runs on a thread of its own.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::OFlags;

/// A path is worth naming only when somebody can read it.
const LONGEST_URI: usize = 4096;

/// Why there is no copy of an artifact.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("uri: is empty; give an absolute path or file:///path")]
    NoUri,
    #[error("uri: has {length} bytes, at most {LONGEST_URI} are accepted")]
    LongUri { length: usize },
    #[error(
        "uri {uri:?}: {scheme}:// needs the storage feature, which is not in this build; give an absolute path or file:///path"
    )]
    Scheme { uri: String, scheme: String },
    #[error("uri {uri:?}: is a relative path; give an absolute path or file:///path")]
    Relative { uri: String },
    #[error("uri {uri:?}: names another machine ({host}); file URIs have no host: file:///path")]
    Host { uri: String, host: String },
    #[error("uri {uri:?}: {problem}")]
    Encoding { uri: String, problem: &'static str },
    #[error("{}: is outside the folders artifacts may come from", .path.display())]
    Outside { path: PathBuf },
    #[error("{action} {}", .path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("{}: is a link that leaves the artifact ({})", .path.display(), .target.display())]
    Link { path: PathBuf, target: PathBuf },
    #[error("{}: is neither a file nor a folder", .path.display())]
    Special { path: PathBuf },
    #[error("{}: the artifact is larger than {limit} bytes", .path.display())]
    TooLarge { path: PathBuf, limit: u64 },
    #[error("{}: the artifact has more than {limit} files and folders", .path.display())]
    TooMany { path: PathBuf, limit: usize },
    #[error("{}: is more than {limit} folders deep", .path.display())]
    TooDeep { path: PathBuf, limit: usize },
}

impl Error {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |cause| Self::Io { action, path, cause }
    }
}

/// What one artifact may be at most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) bytes: u64,
    pub(crate) entries: usize,
    pub(crate) depth: usize,
}

impl Limits {
    /// Larger than any model that fits the memory of one machine; entries and depth stop a mistaken path (`/`) early.
    pub(crate) const DEFAULT: Self = Self { bytes: 256 << 30, entries: 10_000, depth: 16 };
}

/// The path that a URI means. Nothing is read.
pub(crate) fn locate(uri: &str) -> Result<PathBuf, Error> {
    let shown = || uri.to_owned();
    if uri.is_empty() {
        return Err(Error::NoUri);
    }
    if uri.len() > LONGEST_URI {
        return Err(Error::LongUri { length: uri.len() });
    }
    let path = match uri.split_once("://") {
        Some(("file", rest)) => {
            let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            if !matches!(host, "" | "localhost") {
                return Err(Error::Host { uri: shown(), host: host.to_owned() });
            }
            PathBuf::from(percent_decode(path).map_err(|problem| Error::Encoding { uri: shown(), problem })?)
        }
        Some((scheme, _)) if is_scheme(scheme) => {
            return Err(Error::Scheme { uri: shown(), scheme: scheme.to_owned() });
        }
        Some(_) | None => PathBuf::from(uri),
    };
    if uri.contains('\0') || path.as_os_str().as_encoded_bytes().contains(&0) {
        return Err(Error::Encoding { uri: shown(), problem: "has a zero byte" });
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(Error::Encoding { uri: shown(), problem: "has a .. in it" });
    }
    if !path.is_absolute() {
        return Err(Error::Relative { uri: shown() });
    }
    Ok(path)
}

fn is_scheme(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
}

fn percent_decode(text: &str) -> Result<String, &'static str> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let digits = bytes.next().zip(bytes.next());
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let value = digits.and_then(|(high, low)| Some(digit(high)? * 16 + digit(low)?));
        decoded.push(value.and_then(|value| u8::try_from(value).ok()).ok_or("has a % without two hexadecimal digits")?);
    }
    String::from_utf8(decoded).map_err(|_| "is not UTF-8 after percent-decoding")
}

/// The artifact itself: links in the way to it are followed, and it must be below one of the roots, if there are any.
pub(crate) fn resolve(path: &Path, roots: &[PathBuf]) -> Result<PathBuf, Error> {
    let real = path.canonicalize().map_err(Error::io("find", path))?;
    let inside = |root: &PathBuf| root.canonicalize().is_ok_and(|root| real.starts_with(root));
    if roots.is_empty() || roots.iter().any(inside) { Ok(real) } else { Err(Error::Outside { path: real }) }
}

/// Copies the folder `from`, a part of the artifact `within`, to the new folder `to`.
pub(crate) fn copy_folder(within: &Path, from: &Path, to: &Path, limits: Limits) -> Result<(), Error> {
    Copy { within, limits, bytes: 0, entries: 0 }.folder(from, to, 0)
}

/// Copies one file to the new file `to`.
pub(crate) fn copy_file(from: &Path, to: &Path, limits: Limits) -> Result<(), Error> {
    Copy { within: from, limits, bytes: 0, entries: 0 }.file(from, to)
}

struct Copy<'a> {
    within: &'a Path,
    limits: Limits,
    bytes: u64,
    entries: usize,
}

impl Copy<'_> {
    fn folder(&mut self, from: &Path, to: &Path, depth: usize) -> Result<(), Error> {
        if depth > self.limits.depth {
            return Err(Error::TooDeep { path: from.to_owned(), limit: self.limits.depth });
        }
        std::fs::create_dir(to).map_err(Error::io("make", to))?;
        for entry in std::fs::read_dir(from).map_err(Error::io("read", from))? {
            let entry = entry.map_err(Error::io("read", from))?;
            self.entries += 1;
            if self.entries > self.limits.entries {
                return Err(Error::TooMany { path: self.within.to_owned(), limit: self.limits.entries });
            }
            let (source, target) = (self.real(&entry.path())?, to.join(entry.file_name()));
            let kind = std::fs::symlink_metadata(&source).map_err(Error::io("read", &source))?.file_type();
            if kind.is_dir() {
                self.folder(&source, &target, depth + 1)?;
            } else if kind.is_file() {
                self.file(&source, &target)?;
            } else {
                return Err(Error::Special { path: source });
            }
        }
        Ok(())
    }

    /// What a link inside the artifact leads to.
    fn real(&self, path: &Path) -> Result<PathBuf, Error> {
        let metadata = std::fs::symlink_metadata(path).map_err(Error::io("read", path))?;
        if !metadata.file_type().is_symlink() {
            return Ok(path.to_owned());
        }
        let target = path.canonicalize().map_err(Error::io("follow the link", path))?;
        if target.starts_with(self.within) { Ok(target) } else { Err(Error::Link { path: path.to_owned(), target }) }
    }

    fn file(&mut self, from: &Path, to: &Path) -> Result<(), Error> {
        // Whatever the path has become since it was looked at: no link is followed and no pipe waited for.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
        let source = OpenOptions::new().read(true).custom_flags(flags.cast_signed()).open(from);
        let source = source.map_err(Error::io("open", from))?;
        let metadata = source.metadata().map_err(Error::io("read", from))?;
        if !metadata.is_file() {
            return Err(Error::Special { path: from.to_owned() });
        }
        let left = self.limits.bytes - self.bytes;
        let too_large = || Error::TooLarge { path: self.within.to_owned(), limit: self.limits.bytes };
        if metadata.len() > left {
            return Err(too_large());
        }
        let target = File::create_new(to).map_err(Error::io("make", to))?;
        let copied = transfer(source, target, left.saturating_add(1), from, to)?;
        if copied > left {
            return Err(too_large());
        }
        self.bytes += copied;
        Ok(())
    }
}

/// Read and write apart, so that an error names the right side.
fn transfer(source: File, mut target: File, most: u64, from: &Path, to: &Path) -> Result<u64, Error> {
    const CHUNK: usize = 1 << 20;
    let mut source = source.take(most);
    let mut chunk = vec![0; CHUNK];
    let mut copied = 0;
    loop {
        let read = match source.read(&mut chunk) {
            Ok(0) => return Ok(copied),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Error::io("read", from)(error)),
        };
        target.write_all(chunk.get(..read).unwrap_or_default()).map_err(Error::io("write", to))?;
        copied += read as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_mean_absolute_paths_on_this_machine_or_an_error_that_teaches() {
        let check = |uri: &str, expected: &str| {
            let found = locate(uri).map_or_else(|error| error.to_string(), |path| path.display().to_string());
            assert!(found.contains(expected), "{uri}: {found}");
        };
        check("/models/iris", "/models/iris");
        check("file:///models/my%20iris", "/models/my iris");
        check("file://localhost/models", "/models");
        check("", "is empty");
        check("models/iris", "relative path");
        check("./iris", "relative path");
        check("s3://bucket/iris", "s3:// needs the storage feature");
        check("gs://bucket/iris", "gs:// needs the storage feature");
        check("file://other/models", "another machine (other)");
        check("file:///a%2", "two hexadecimal digits");
        check("file:///a%zz", "two hexadecimal digits");
        check("file:///a%ff", "not UTF-8");
        check("file:///a%00b", "zero byte");
        check("/models/../etc", "..");
        check("file:///models/%2e%2e/etc", "..");
        check(&format!("/{}", "a".repeat(5000)), "at most 4096");
    }
}
