//! Where the scheduler and Envoy are, and who said so: flag > file of the installation > active configuration >
//! environment > default. Called as `seldon` there is no file of an installation.

use std::fmt;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use http::uri::Authority;
use serde::Deserialize;

use crate::config::{self, Active, Registry};

/// The file that `switchyard up` writes into its folder.
pub(crate) const ENDPOINTS_FILE: &str = "endpoints.json";
/// That file holds a few addresses; a larger one is another file.
const MAX_ENDPOINTS_FILE: u64 = 64 << 10;

/// What a verb talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Scheduler,
    Inference,
    Log,
    Xds,
}

impl Target {
    /// The flag that names it.
    pub(crate) fn flag(self) -> &'static str {
        match self {
            Target::Scheduler => "--scheduler-host",
            Target::Inference => "--inference-host",
            Target::Log => "--log-host",
            Target::Xds => "--xds-host",
        }
    }

    fn variable(self) -> &'static str {
        match self {
            Target::Scheduler => "SELDON_SCHEDULE_HOST",
            Target::Inference => "SELDON_INFER_HOST",
            Target::Log => "SWITCHYARD_LOG_HOST",
            Target::Xds => "SWITCHYARD_XDS_HOST",
        }
    }

    fn default_address(self) -> &'static str {
        match self {
            Target::Scheduler => "127.0.0.1:9004",
            Target::Inference => "127.0.0.1:9000",
            Target::Log => "127.0.0.1:9012",
            Target::Xds => "127.0.0.1:9002",
        }
    }

    /// The default of the compatible command line.
    fn seldon_default(self) -> &'static str {
        match self {
            Target::Scheduler => "0.0.0.0:9004",
            Target::Inference => "0.0.0.0:9000",
            Target::Log => "0.0.0.0:9012",
            Target::Xds => "0.0.0.0:9002",
        }
    }

    /// What a configuration says about it.
    fn configured(self, active: Active) -> Result<String, config::Error> {
        let Active { key, config } = active;
        match self {
            Target::Scheduler if !config.controlplane.key_path.is_empty() => {
                Err(config::Error::Tls { key, field: "controlplane.keyPath" })
            }
            Target::Scheduler => Ok(config.controlplane.scheduler_host),
            Target::Inference if config.dataplane.tls => Err(config::Error::Tls { key, field: "dataplane.tls" }),
            Target::Inference => Ok(config.dataplane.infer_host),
            // The compatible configuration knows neither.
            Target::Log | Target::Xds => Ok(String::new()),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Target::Scheduler => "the scheduler",
            Target::Inference => "Envoy",
            Target::Log => "the log",
            Target::Xds => "the scheduler's port for Envoys",
        })
    }
}

/// Who said where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Flag(&'static str),
    File(PathBuf),
    Config(String),
    Variable(&'static str),
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Flag(flag) => write!(f, "from {flag}"),
            Origin::File(path) => write!(f, "from {}", path.display()),
            Origin::Config(key) => write!(f, "from config {key}"),
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
    #[error(transparent)]
    Config(#[from] config::Error),
    #[error("{} is not what `switchyard up` writes: remove it, or name the addresses with flags", .path.display())]
    BadFile {
        path: PathBuf,
        #[source]
        cause: serde_json::Error,
    },
}

/// Where addresses may be written down.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place<'a> {
    /// In the folder of an installation, before anywhere else.
    Installation(&'a Path),
    /// Where the compatible command line looks.
    Seldon,
}

/// What `switchyard up` writes.
#[derive(Debug, Default, Deserialize)]
struct Endpoints {
    scheduler: Option<String>,
    inference: Option<String>,
    log: Option<String>,
    xds: Option<String>,
}

/// Where `target` is. `variable` reads the environment.
pub(crate) fn find(
    target: Target,
    flag: Option<&str>,
    place: Place<'_>,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Address, Error> {
    if let Some(text) = flag {
        return parse(target, text, Origin::Flag(target.flag()));
    }
    let default = match place {
        Place::Installation(dir) => {
            let path = dir.join(ENDPOINTS_FILE);
            let endpoints = read(&path)?;
            let written = match target {
                Target::Scheduler => endpoints.scheduler,
                Target::Inference => endpoints.inference,
                Target::Log => endpoints.log,
                Target::Xds => endpoints.xds,
            };
            if let Some(text) = written {
                return parse(target, &text, Origin::File(path));
            }
            target.default_address()
        }
        Place::Seldon => target.seldon_default(),
    };
    // Without a home folder nothing can be active.
    if let Ok(folder) = config::folder(&variable)
        && let Some(active) = Registry::open(&folder)?.active()?
    {
        let origin = Origin::Config(active.key.clone());
        let text = target.configured(active)?;
        if !text.is_empty() {
            return parse(target, &text, origin);
        }
    }
    match variable(target.variable()).filter(|text| !text.is_empty()) {
        Some(text) => parse(target, &text, Origin::Variable(target.variable())),
        None => parse(target, default, Origin::Default),
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
    use super::{ENDPOINTS_FILE, Origin, Place, Target, find};
    use crate::config::Registry;

    #[test]
    fn flag_beats_file_beats_environment_beats_default() {
        let dir = tempfile::tempdir().expect("a folder");
        let none = |_: &str| None;
        let set = |name: &str| (name == "SELDON_SCHEDULE_HOST").then(|| "env:3".to_owned());
        let empty = |_: &str| Some(String::new());
        let check = |flag, variable: &dyn Fn(&str) -> Option<String>, expected: (&str, Origin)| {
            let found = find(Target::Scheduler, flag, Place::Installation(dir.path()), variable).expect("an address");
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
    fn flag_beats_configuration_beats_environment_beats_default() {
        let home = tempfile::tempdir().expect("a folder");
        let home_text = home.path().display().to_string();
        let set = |name: &str| match name {
            "HOME" => Some(home_text.clone()),
            "SELDON_SCHEDULE_HOST" | "SELDON_INFER_HOST" => Some("env:3".to_owned()),
            _ => None,
        };
        let find = |target, flag| {
            find(target, flag, Place::Seldon, set).map(|found| (found.authority.to_string(), found.origin))
        };
        let default = super::find(Target::Scheduler, None, Place::Seldon, |_| None).expect("an address");
        assert_eq!((default.authority.as_str(), default.origin), ("0.0.0.0:9004", Origin::Default));
        let default = super::find(Target::Inference, None, Place::Seldon, |_| None).expect("an address");
        assert_eq!((default.authority.as_str(), default.origin), ("0.0.0.0:9000", Origin::Default));
        let from_env = ("env:3".to_owned(), Origin::Variable("SELDON_SCHEDULE_HOST"));
        assert_eq!(find(Target::Scheduler, None).expect("an address"), from_env);

        let file = home.path().join("c.json");
        let config = |text: &str| std::fs::write(&file, text).expect("write");
        config(r#"{"controlplane":{"schedulerHost":"config:2","tls":true},"dataplane":{}}"#);
        let mut registry = Registry::open(&home.path().join(".config/seldon/cli")).expect("a registry");
        registry.add("c", &file).expect("added");
        assert_eq!(find(Target::Scheduler, None).expect("an address"), from_env, "it is not active");
        registry.activate("c").expect("activated");
        let from_config = ("config:2".to_owned(), Origin::Config("c".to_owned()));
        assert_eq!(find(Target::Scheduler, None).expect("an address"), from_config);
        assert_eq!(find(Target::Inference, None).expect("an address").0, "env:3", "it says nothing about this one");
        assert_eq!(find(Target::Scheduler, Some("flag:1")).expect("an address").0, "flag:1");

        config(
            r#"{"controlplane":{"schedulerHost":"config:2","keyPath":"k"},"dataplane":{"inferHost":"d:1","tls":true}}"#,
        );
        for (target, field) in [(Target::Scheduler, "controlplane.keyPath"), (Target::Inference, "dataplane.tls")] {
            let error = find(target, None).expect_err("no TLS").to_string();
            assert!(error.contains(field) && error.contains("TLS"), "{error}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_its_origin() {
        let dir = tempfile::tempdir().expect("a folder");
        for text in ["", "localhost", "host:", "host:0", "host:99999", "https://host:1", "me@host:1", "a b:1", ":9"] {
            let error = find(Target::Inference, Some(text), Place::Installation(dir.path()), |_| None)
                .expect_err(text)
                .to_string();
            assert!(error.contains("--inference-host") && error.contains("127.0.0.1:9000"), "{error}");
        }
        std::fs::write(dir.path().join(ENDPOINTS_FILE), "{").expect("write");
        let error =
            find(Target::Inference, None, Place::Installation(dir.path()), |_| None).expect_err("no JSON").to_string();
        assert!(error.contains(ENDPOINTS_FILE), "{error}");
    }
}
