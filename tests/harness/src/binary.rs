//! The program under test: `switchyard` as cargo built it beside this test, and running it to its end.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::process;

/// A verb that has not ended by then hangs; the longest one waits for a model.
const ENDS_WITHIN: Duration = Duration::from_secs(60);

/// The program `switchyard` of the profile that this test was built with.
///
/// # Panics
/// When it was not built; the message says how.
#[must_use]
pub fn switchyard() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let test = std::env::current_exe().expect("a running program has a path");
        // target/<profile>/deps/<test>
        let folder = test.ancestors().nth(2).expect("tests are below the target folder");
        let path = folder.join("switchyard");
        let profile = if folder.ends_with("debug") { "" } else { " --release" };
        assert!(path.is_file(), "{} is missing: cargo build{profile} -p switchyard", path.display());
        path
    })
}

/// What a run of the program said.
#[derive(Clone, Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
    pub took: Duration,
}

impl Said {
    /// Standard output, when all went well.
    pub fn well(self) -> Result<String> {
        if self.code != Some(0) {
            bail!("exit status {:?}\n{}{}", self.code, self.out, self.err);
        }
        Ok(self.out)
    }

    /// Standard error, when it ended with `code`.
    pub fn failed(self, code: i32) -> Result<String> {
        if self.code != Some(code) {
            bail!("exit status {:?} instead of {code}\n{}{}", self.code, self.out, self.err);
        }
        Ok(self.err)
    }
}

/// Runs the program in `folder`; the environment is empty but for what is given, and what a program needs to be found.
pub async fn run(folder: &Path, environment: &[(&str, String)], arguments: &[&str]) -> Result<Said> {
    let mut command = Command::new(switchyard());
    command.args(arguments).current_dir(folder).env_clear();
    for name in ["PATH", "HOME"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.envs(environment.iter().map(|(name, value)| (*name, value.as_str()))).stdin(Stdio::null());
    let started = Instant::now();
    let output = process::Command::from(command).kill_on_drop(true).output();
    let output = tokio::time::timeout(ENDS_WITHIN, output).await;
    let output: Output = output.with_context(|| format!("switchyard {arguments:?} does not end"))??;
    Ok(Said {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
        took: started.elapsed(),
    })
}
