//! Programs in Go, for peers and clients that are not ours: built once into the cache from `tests/go`, pinned there.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{cached, root};

/// The program `name` of the module `tests/go`. The first time takes minutes: its modules are fetched and compiled.
/// Blocks.
pub fn program(name: &str) -> Result<PathBuf> {
    let module = root().join("tests/go");
    ensure!(module.join(name).is_dir(), "{} has no program {name}", module.display());
    let mut hasher = DefaultHasher::new();
    // The compiler, what it builds for, and what it builds.
    said(go(&module).arg("version"))?.hash(&mut hasher);
    for path in sources(&module)? {
        let text = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        (path.strip_prefix(&module)?, text).hash(&mut hasher);
    }
    let cache = runtime::wheel::cache_dir().context("find the cache")?;
    let program = cache.join(format!("go-{name}-{:016x}", hasher.finish()));
    cached::once(&program, |partial| {
        println!("building {} into {} (once)", module.join(name).display(), program.display());
        // Git says nothing about these sources that the hash does not.
        let options = ["build", "-trimpath", "-buildvcs=false", "-o"];
        said(go(&module).args(options).arg(partial).arg(format!("./{name}"))).map(drop)
    })?;
    Ok(program)
}

/// Whatever the module is made of, in one order.
fn sources(module: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![module.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))?;
        for entry in entries {
            let path = entry.with_context(|| format!("read {}", folder.display()))?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

fn go(module: &Path) -> Command {
    let mut command = Command::new("go");
    command.current_dir(module);
    command
}

fn said(command: &mut Command) -> Result<String> {
    cached::said(command, "go is needed, 1.26 or newer: https://go.dev/doc/install")
}
