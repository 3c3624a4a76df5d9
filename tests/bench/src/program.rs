//! The program `switchyard` that is measured: cargo puts it beside this one. Children of ours are started by it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use runtime::child::{self, Child, Output};

/// Brings the program up to date when cargo runs us; it was not built with us, because nothing of it is linked.
pub(crate) fn build() -> Result<()> {
    if let Some(cargo) = std::env::var_os("CARGO") {
        let mut command = Command::new(cargo);
        command.args(["build", "--quiet", "--locked", "-p", "switchyard"]);
        if !cfg!(debug_assertions) {
            command.arg("--release");
        }
        let status = command.status().context("run cargo")?;
        ensure!(status.success(), "cargo could not build switchyard: {status}");
    }
    let path = path()?;
    ensure!(path.is_file(), "{} is missing: cargo build --release -p switchyard", path.display());
    Ok(())
}

pub(crate) fn path() -> Result<PathBuf> {
    let this = std::env::current_exe().context("find this program")?;
    Ok(this.with_file_name("switchyard"))
}

/// Starts this program again; what it says goes to `log`.
pub(crate) async fn again(arguments: &[String], folder: &Path, log: &Path) -> Result<Child> {
    let this = std::env::current_exe().context("find this program")?;
    run(&this, &arguments.iter().map(String::as_str).collect::<Vec<_>>(), folder, log).await
}

/// Starts the program; what it says goes to `log`.
pub(crate) async fn start(arguments: &[&str], folder: &Path, log: &Path) -> Result<Child> {
    run(&path()?, arguments, folder, log).await
}

/// Starts any program; what it says goes to `log`.
pub(crate) async fn run(program: &Path, arguments: &[&str], folder: &Path, log: &Path) -> Result<Child> {
    let output = || Output::File(log.to_owned());
    let command = child::Command::new(program).args(arguments).launcher(&path()?).current_dir(folder);
    let child = command.stdout(output()).stderr(output()).spawn().await;
    child.with_context(|| format!("start {} {arguments:?}", program.display()))
}
