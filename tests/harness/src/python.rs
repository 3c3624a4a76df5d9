//! Python packages for clients that are not ours: installed once into the cache, pinned, never into the system.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cached;

/// The folder with the packages of a requirements file, for `PYTHONPATH`. Blocks.
pub fn packages(requirements: &Path) -> Result<PathBuf> {
    let text = std::fs::read_to_string(requirements).with_context(|| format!("read {}", requirements.display()))?;
    // Compiled packages fit one version of Python on one kind of machine.
    let machine = said(python().args(["-c", "import sys, platform; print(sys.version, platform.platform())"]))?;
    let mut hasher = DefaultHasher::new();
    (text, machine).hash(&mut hasher);
    let cache = runtime::wheel::cache_dir().context("find the cache")?;
    let folder = cache.join(format!("python-{:016x}", hasher.finish()));
    cached::once(&folder, |partial| {
        println!("installing {} into {} (once)", requirements.display(), folder.display());
        let options = ["-m", "pip", "install", "--no-input", "--disable-pip-version-check", "--quiet", "--target"];
        said(python().args(options).arg(partial).arg("-r").arg(requirements)).map(drop)
    })?;
    Ok(folder)
}

/// Runs a program with these packages and returns what it said. Blocks.
pub fn run(packages: &Path, program: &Path, arguments: &[&str]) -> Result<String> {
    said(command(packages, program).args(arguments))
}

/// The program with these packages, without arguments.
#[must_use]
pub fn command(packages: &Path, program: &Path) -> Command {
    let mut command = python();
    command.env("PYTHONPATH", packages).arg("-B").arg(program);
    command
}

fn python() -> Command {
    Command::new("python3")
}

fn said(command: &mut Command) -> Result<String> {
    cached::said(command, "python3 is needed, 3.9 or newer, with pip")
}
