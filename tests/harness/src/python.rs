//! Python packages for clients that are not ours: installed once into the cache, pinned, never into the system.

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Lines of a program's output that a failure shows.
const SHOWN_LINES: usize = 30;

/// The folder with the packages of a requirements file, for `PYTHONPATH`. Blocks.
pub fn packages(requirements: &Path) -> Result<PathBuf> {
    let text = std::fs::read_to_string(requirements).with_context(|| format!("read {}", requirements.display()))?;
    // Compiled packages fit one version of Python on one kind of machine.
    let machine = said(python().args(["-c", "import sys, platform; print(sys.version, platform.platform())"]))?;
    let mut hasher = DefaultHasher::new();
    (text, machine).hash(&mut hasher);
    let cache = runtime::wheel::cache_dir().context("find the cache")?;
    let folder = cache.join(format!("python-{:016x}", hasher.finish()));
    if folder.is_dir() {
        return Ok(folder);
    }
    std::fs::create_dir_all(&cache).with_context(|| format!("make {}", cache.display()))?;
    // Several test processes may want it; the kernel gives the lock back when one is killed.
    let lock = File::create(folder.with_added_extension("lock")).context("make a lock file")?;
    lock.lock().context("lock the cache")?;
    if folder.is_dir() {
        return Ok(folder);
    }
    println!("installing {} into {} (once)", requirements.display(), folder.display());
    let partial = folder.with_added_extension("partial");
    if partial.exists() {
        std::fs::remove_dir_all(&partial).with_context(|| format!("remove {}", partial.display()))?;
    }
    let options = ["-m", "pip", "install", "--no-input", "--disable-pip-version-check", "--quiet", "--target"];
    said(python().args(options).arg(&partial).arg("-r").arg(requirements))?;
    std::fs::rename(&partial, &folder).with_context(|| format!("rename to {}", folder.display()))?;
    Ok(folder)
}

/// Runs a program with these packages and returns what it said. Blocks.
pub fn run(packages: &Path, program: &Path, arguments: &[&str]) -> Result<String> {
    said(python().env("PYTHONPATH", packages).arg("-B").arg(program).args(arguments))
}

fn python() -> Command {
    Command::new("python3")
}

fn said(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().context("python3 is needed, 3.9 or newer, with pip")?;
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
