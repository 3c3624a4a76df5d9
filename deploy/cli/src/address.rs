//! Where the scheduler and Envoy are, and who said so: flag > file of the installation > environment > default.

use std::fmt;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use http::uri::Authority;
use serde::Deserialize;

/// The file that `switchyard up` writes into its folder.
pub(crate) const ENDPOINTS_FILE: &str = "endpoints.json";
/// That file holds a few addresses; a larger one is another file.
const MAX_ENDPOINTS_FILE: u64 = 64 << 10;

/// What a verb talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Scheduler,
    Inference,
}

impl Target {
    /// The flag that names it.
    pub(crate) fn flag(self) -> &'static str {
        match self {
            Target::Scheduler => "--scheduler-host",
            Target::Inference => "--inference-host",
        }
    }

    fn variable(self) -> &'static str {
        match self {
            Target::Scheduler => "SELDON_SCHEDULE_HOST",
            Target::Inference => "SELDON_INFER_HOST",
        }
    }

    fn default_address(self) -> &'static str {
        match self {
            Target::Scheduler => "127.0.0.1:9004",
            Target::Inference => "127.0.0.1:9000",
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Target::Scheduler => "the scheduler",
            Target::Inference => "Envoy",
        })
    }
}

/// Who said where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Flag(&'static str),
    File(PathBuf),
    Variable(&'static str),
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Flag(flag) => write!(f, "from {flag}"),
            Origin::File(path) => write!(f, "from {}", path.display()),
            Origin::Variable(name) => write!(f, "from ${name}"),
            Origin::Default => f.write_str("the default"),
        }
    }
}

/// An address with a host and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) target: Target,
    pub(crate) authority: Authority,
    pub(crate) origin: Origin,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {} ({})", self.target, self.authority, self.origin)
    }
}

/// Why there is no address.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{text:?} ({origin}) is no address of {target}: write it as host:port, for example {example}", example = .target.default_address())]
    Malformed { target: Target, text: String, origin: Origin },
    #[error("read {}", .path.display())]
    Read {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("{} is not what `switchyard up` writes: remove it, or name the addresses with flags", .path.display())]
    BadFile {
        path: PathBuf,
        #[source]
        cause: serde_json::Error,
    },
}

/// What `switchyard up` writes.
#[derive(Debug, Default, Deserialize)]
struct Endpoints {
    scheduler: Option<String>,
    inference: Option<String>,
}

/// Where `target` is. `variable` reads the environment.
pub(crate) fn find(
    target: Target,
    flag: Option<&str>,
    dir: &Path,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Address, Error> {
    if let Some(text) = flag {
        return parse(target, text, Origin::Flag(target.flag()));
    }
    let path = dir.join(ENDPOINTS_FILE);
    let endpoints = read(&path)?;
    let written = match target {
        Target::Scheduler => endpoints.scheduler,
        Target::Inference => endpoints.inference,
    };
    if let Some(text) = written {
        return parse(target, &text, Origin::File(path));
    }
    match variable(target.variable()).filter(|text| !text.is_empty()) {
        Some(text) => parse(target, &text, Origin::Variable(target.variable())),
        None => parse(target, target.default_address(), Origin::Default),
    }
}

/// The addresses in the file; none when there is no file.
fn read(path: &Path) -> Result<Endpoints, Error> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(cause) if matches!(cause.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Endpoints::default());
        }
        Err(cause) => return Err(Error::Read { path: path.to_owned(), cause }),
    };
    let mut text = String::new();
    file.take(MAX_ENDPOINTS_FILE)
        .read_to_string(&mut text)
        .map_err(|cause| Error::Read { path: path.to_owned(), cause })?;
    serde_json::from_str(&text).map_err(|cause| Error::BadFile { path: path.to_owned(), cause })
}

fn parse(target: Target, text: &str, origin: Origin) -> Result<Address, Error> {
    let bare = text.strip_prefix("http://").unwrap_or(text);
    let bare = bare.strip_suffix('/').unwrap_or(bare);
    match bare.parse::<Authority>() {
        Ok(authority)
            if authority.port_u16().is_some_and(|port| port > 0)
                && !authority.host().is_empty()
                && !bare.contains('@') =>
        {
            Ok(Address { target, authority, origin })
        }
        Ok(_) | Err(_) => Err(Error::Malformed { target, text: text.chars().take(256).collect(), origin }),
    }
}

#[cfg(test)]
mod tests {
    use super::{ENDPOINTS_FILE, Origin, Target, find};

    #[test]
    fn flag_beats_file_beats_environment_beats_default() {
        let dir = tempfile::tempdir().expect("a folder");
        let none = |_: &str| None;
        let set = |name: &str| (name == "SELDON_SCHEDULE_HOST").then(|| "env:3".to_owned());
        let empty = |_: &str| Some(String::new());
        let check = |flag, variable: &dyn Fn(&str) -> Option<String>, expected: (&str, Origin)| {
            let found = find(Target::Scheduler, flag, dir.path(), variable).expect("an address");
            assert_eq!((found.authority.as_str(), found.origin), expected);
        };
        check(None, &none, ("127.0.0.1:9004", Origin::Default));
        check(None, &empty, ("127.0.0.1:9004", Origin::Default));
        check(None, &set, ("env:3", Origin::Variable("SELDON_SCHEDULE_HOST")));
        let file = dir.path().join(ENDPOINTS_FILE);
        std::fs::write(&file, r#"{"inference": "file:1"}"#).expect("write");
        check(None, &set, ("env:3", Origin::Variable("SELDON_SCHEDULE_HOST")));
        std::fs::write(&file, r#"{"scheduler": "file:2", "log": "file:9"}"#).expect("write");
        check(None, &set, ("file:2", Origin::File(file)));
        check(Some("http://[::1]:1/"), &set, ("[::1]:1", Origin::Flag("--scheduler-host")));
    }

    #[test]
    fn what_is_no_address_is_refused_with_its_origin() {
        let dir = tempfile::tempdir().expect("a folder");
        for text in ["", "localhost", "host:", "host:0", "host:99999", "https://host:1", "me@host:1", "a b:1", ":9"] {
            let error = find(Target::Inference, Some(text), dir.path(), |_| None).expect_err(text).to_string();
            assert!(error.contains("--inference-host") && error.contains("127.0.0.1:9000"), "{error}");
        }
        std::fs::write(dir.path().join(ENDPOINTS_FILE), "{").expect("write");
        let error = find(Target::Inference, None, dir.path(), |_| None).expect_err("no JSON").to_string();
        assert!(error.contains(ENDPOINTS_FILE), "{error}");
    }
}
