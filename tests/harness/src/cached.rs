//! What is made once with a program of this machine and kept in the cache: who makes it, and what that program said.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Lines of a program's output that a failure shows.
const SHOWN_LINES: usize = 30;

/// Calls `make` with a path beside `kept`, a file or a folder, when that is not there, and renames it. Blocks.
pub fn once(kept: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if kept.exists() {
        return Ok(());
    }
    let cache = kept.parent().context("what is kept has a folder")?;
    std::fs::create_dir_all(cache).with_context(|| format!("make {}", cache.display()))?;
    // Several test processes may want it; the kernel gives the lock back when one is killed.
    let lock = File::create(kept.with_added_extension("lock")).context("make a lock file")?;
    lock.lock().context("lock the cache")?;
    if kept.exists() {
        return Ok(());
    }
    let partial = kept.with_added_extension("partial");
    if partial.is_dir() {
        std::fs::remove_dir_all(&partial).with_context(|| format!("remove {}", partial.display()))?;
    } else if partial.exists() {
        std::fs::remove_file(&partial).with_context(|| format!("remove {}", partial.display()))?;
    }
    make(&partial)?;
    std::fs::rename(&partial, kept).with_context(|| format!("rename to {}", kept.display()))
}

/// Runs a program to its end and returns its standard output; `needed` says what to install when it is missing. Blocks.
pub fn said(command: &mut Command, needed: &'static str) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().context(needed)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    if !output.status.success() {
        let all = format!("{out}{err}");
        let lines: Vec<&str> = all.lines().collect();
        let shown = lines.get(lines.len().saturating_sub(SHOWN_LINES)..).unwrap_or_default().join("\n");
        bail!("{command:?} ended with {}\n{shown}", output.status);
    }
    Ok(out)
}
