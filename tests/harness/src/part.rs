//! A part as a process of its own, which can be killed and started again as it was.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use runtime::child::{Child, Command, Output};
use rustix::process::{Pid, Signal, kill_process};

use crate::binary::switchyard;

/// Parts end within their own drain, which is shorter.
const STOPS_WITHIN: Duration = Duration::from_secs(20);

/// One process of the program.
#[derive(Debug)]
pub struct Part {
    name: String,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    log: PathBuf,
    child: Option<Child>,
}

impl Part {
    /// `switchyard <arguments>`, with its output in `<folder>/<name>.log`. Does not run yet.
    #[must_use]
    pub fn new(name: &str, folder: &Path, arguments: &[&str]) -> Part {
        Part {
            name: name.to_owned(),
            arguments: arguments.iter().map(|text| (*text).to_owned()).collect(),
            environment: Vec::new(),
            log: folder.join(format!("{name}.log")),
            child: None,
        }
    }

    /// Adds to the environment that it inherits.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Part {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Its process, when it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::pid)
    }

    /// Starts it; it may not be ready yet.
    pub async fn start(&mut self) -> Result<()> {
        let mut command = Command::new(switchyard()).args(&self.arguments).launcher(switchyard());
        for (name, value) in &self.environment {
            command = command.env(name, value);
        }
        let output = || Output::File(self.log.clone());
        let child = command.stdout(output()).stderr(output()).spawn().await;
        self.child = Some(child.with_context(|| format!("start {}", self.name))?);
        Ok(())
    }

    /// SIGKILL to the process and nobody else. The time is when it was dead for sure.
    pub async fn kill9(&mut self) -> Result<Instant> {
        let mut child = self.child.take().with_context(|| format!("{} does not run", self.name))?;
        let pid = child.pid().with_context(|| format!("{} has ended by itself", self.name))?;
        kill9(pid)?;
        child.wait().await?;
        Ok(Instant::now())
    }

    /// SIGTERM, and its exit status.
    pub async fn stop(&mut self) -> Result<ExitStatus> {
        let mut child = self.child.take().with_context(|| format!("{} does not run", self.name))?;
        child.stop(STOPS_WITHIN).await.with_context(|| format!("stop {}", self.name))
    }

    /// Waits for its end.
    pub async fn ended(&mut self, within: Duration) -> Result<ExitStatus> {
        let child = self.child.as_mut().with_context(|| format!("{} does not run", self.name))?;
        let ended = tokio::time::timeout(within, child.wait()).await;
        Ok(ended.with_context(|| format!("{} does not end", self.name))??)
    }
}

/// SIGKILL.
pub(crate) fn kill9(pid: u32) -> Result<()> {
    signal(pid, Signal::KILL)
}

fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("a process id")?;
    kill_process(pid, signal).with_context(|| format!("send {signal:?} to process {pid:?}"))
}

/// A process that stands still until this is dropped.
#[derive(Debug)]
pub struct Frozen(u32);

impl Frozen {
    /// Stops this process.
    pub(crate) fn new(pid: u32) -> Result<Self> {
        signal(pid, Signal::STOP)?;
        Ok(Self(pid))
    }

    /// Stops the child of `parent` that has this text in its command line.
    pub(crate) fn child(parent: u32, text: &str) -> Result<Self> {
        let has =
            |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains(text));
        let child = children(parent)?.into_iter().find(has);
        Self::new(child.with_context(|| format!("process {parent} has no child with {text}"))?)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // It may have been ended meanwhile.
        let _ended = signal(self.0, Signal::CONT);
    }
}

/// The children of a process.
pub(crate) fn children(parent: u32) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").context("read /proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // A process may end while we look.
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        // "pid (name) state parent …", and the name may have any character in it.
        let fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace());
        if fields.and_then(|mut fields| fields.nth(1)?.parse::<u32>().ok()) == Some(parent) {
            found.push(pid);
        }
    }
    Ok(found)
}
