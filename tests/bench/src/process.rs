//! What the kernel knows of a process: its processor time, its memory, its children.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

/// Processor time of all threads that live. (`stat` would add those that ended, in steps of 10 ms; threads of the
/// processes we ask for do not end.)
pub(crate) fn processor_time(pid: u32) -> Result<Duration> {
    threads_time(pid, |_| true)
}

/// The same of this process's threads of one name.
pub(crate) fn time_of_threads(name: &str) -> Result<Duration> {
    threads_time(std::process::id(), |thread| thread == name)
}

fn threads_time(pid: u32, counts: impl Fn(&str) -> bool) -> Result<Duration> {
    let mut total = Duration::ZERO;
    for thread in fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("find process {pid}"))? {
        let folder = thread?.path();
        // A thread of another name may end while we look.
        let Ok(name) = fs::read_to_string(folder.join("comm")) else { continue };
        if !counts(name.trim_end()) {
            continue;
        }
        let text = fs::read_to_string(folder.join("schedstat")).context("read schedstat")?;
        let nanoseconds = text.split_whitespace().next().and_then(|word| word.parse().ok());
        total += Duration::from_nanos(nanoseconds.context("schedstat begins with a number")?);
    }
    Ok(total)
}

/// Resident memory in kB: all of it, and with what is shared counted in part.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    pub(crate) resident: u64,
    pub(crate) proportional: u64,
}

pub(crate) fn memory(pid: u32) -> Result<Memory> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).with_context(|| format!("process {pid}"))?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
        number.with_context(|| format!("{name} of process {pid}"))
    };
    Ok(Memory { resident: field("Rss:")?, proportional: field("Pss:")? })
}

/// SIGKILL to the process and nobody else.
pub(crate) fn kill9(pid: u32) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("a process id")?;
    kill_process(pid, Signal::KILL).with_context(|| format!("kill process {pid:?}"))
}

/// Resident memory of a process in bytes, and how much of it is of files (its program, its store).
pub(crate) fn resident(pid: u32) -> Result<(u64, u64)> {
    Ok((status(pid, "VmRSS:")?, status(pid, "RssFile:")?))
}

/// The most resident memory that a process has had, in bytes.
pub(crate) fn most_resident(pid: u32) -> Result<u64> {
    status(pid, "VmHWM:")
}

/// A field of `status` that is in kB, in bytes.
fn status(pid: u32, name: &str) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("process {pid}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    number.map(|kilobytes| kilobytes * 1_024).with_context(|| format!("{name} of process {pid}"))
}

/// A child and the words of its command line.
#[derive(Clone, Debug)]
pub(crate) struct Child {
    pub(crate) pid: u32,
    pub(crate) words: Vec<String>,
}

impl Child {
    /// What people call it.
    pub(crate) fn name(&self) -> &str {
        match self.words.get(1) {
            Some(verb) if verb == "onnx-server" => "onnx-server",
            _ => self.words.first().map_or("?", |program| program.rsplit('/').next().unwrap_or(program)),
        }
    }

    /// The word after a flag.
    pub(crate) fn flag(&self, flag: &str) -> Option<&str> {
        let position = self.words.iter().position(|word| word == flag)?;
        self.words.get(position + 1).map(String::as_str)
    }
}

pub(crate) fn children(parent: u32) -> Result<Vec<Child>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("read /proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // A process may end while we look.
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        // "pid (name) state parent …", and the name may have any character in it.
        let fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace());
        if fields.and_then(|mut fields| fields.nth(1)?.parse::<u32>().ok()) != Some(parent) {
            continue;
        }
        let Ok(words) = fs::read(format!("/proc/{pid}/cmdline")) else { continue };
        let words = words.split(|byte| *byte == 0).filter(|word| !word.is_empty());
        found.push(Child { pid, words: words.map(|word| String::from_utf8_lossy(word).into_owned()).collect() });
    }
    found.sort_by_key(|child| child.pid);
    Ok(found)
}

/// One line for the head of the results.
pub(crate) fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let model = text("/proc/cpuinfo").lines().find_map(|line| Some(line.strip_prefix("model name")?.to_owned()));
    let model = model.unwrap_or_default().trim_start_matches([' ', '\t', ':']).to_owned();
    let load = text("/proc/loadavg").split_whitespace().next().unwrap_or("?").to_owned();
    let kernel = text("/proc/sys/kernel/osrelease").trim().to_owned();
    format!("{cores} cores ({model}), Linux {kernel}, load before the run {load}")
}
