//! Child processes that die with us, also when we are killed with SIGKILL. A child is started as
//! `<launcher> run-child <our pid> -- program arguments…`; the launcher is this program again, which asks the kernel
//! for a signal at its parent's death and then becomes the program (`run_child`). Not a supervisor: callers restart
//! what has ended, with a `Backoff`.
//!
//! Invariants: all children are started by one thread that never ends, because the kernel sends that signal when the
//! *thread* that started the child ends. Each child leads a process group of its own: Ctrl-C in a terminal reaches us
//! and not it, and what it leaves behind is killed with the group. (A grandchild outlives a SIGKILL of ours, unless
//! its own parent sees to it.) On systems other than Linux there is no such signal; the rest is the same.

use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::process as tokio_process;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// The verb under which a launcher's `main` must call `run_child` with the arguments after it.
pub const RUN_CHILD: &str = "run-child";

/// Exit status for `run_child`'s error: what a shell reports for a command it could not execute.
pub const NOT_EXECUTED: i32 = 127;

/// Starts that wait for the one thread that starts children; each takes about a millisecond, and a full queue only
/// makes the caller wait.
const STARTS_QUEUED: usize = 16;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{program:?} is not an executable file on this machine")]
    NoProgram { program: OsString },
    #[error("open {path:?} for the output of {program:?}")]
    Output { program: OsString, path: PathBuf, source: io::Error },
    #[error("start {program:?}")]
    Start { program: OsString, source: io::Error },
    #[error("start {program:?}: the thread that starts child processes is not there")]
    NoThread { program: OsString },
}

/// Where a stream of a child goes.
#[derive(Clone, Debug, Default)]
pub enum Output {
    #[default]
    Inherit,
    Discard,
    /// Appended to; created when missing.
    File(PathBuf),
}

/// A child process to be.
#[derive(Debug)]
pub struct Command {
    program: OsString,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    directory: Option<PathBuf>,
    stdout: Output,
    stderr: Output,
    launcher: Option<PathBuf>,
}

impl Command {
    /// A path, or a name to look for on the PATH.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            arguments: Vec::new(),
            environment: Vec::new(),
            directory: None,
            stdout: Output::Inherit,
            stderr: Output::Inherit,
            launcher: None,
        }
    }

    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    pub fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// Adds to the environment the child inherits.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    pub fn current_dir(mut self, directory: impl AsRef<Path>) -> Self {
        self.directory = Some(directory.as_ref().to_owned());
        self
    }

    pub fn stdout(mut self, output: Output) -> Self {
        self.stdout = output;
        self
    }

    pub fn stderr(mut self, output: Output) -> Self {
        self.stderr = output;
        self
    }

    /// A program that answers the verb `run-child`; without one, this very program must.
    pub fn launcher(mut self, program: impl AsRef<Path>) -> Self {
        self.launcher = Some(program.as_ref().to_owned());
        self
    }

    /// Must be called inside a tokio runtime with I/O.
    pub async fn spawn(self) -> Result<Child, Error> {
        let program = self.program.clone();
        let command = self.build()?;
        let (reply, answer) = oneshot::channel();
        let start = Start { command, runtime: Handle::current(), reply };
        let Some(thread) = starting_thread() else { return Err(Error::NoThread { program }) };
        // Blocks only while STARTS_QUEUED starts wait, that is for milliseconds.
        if thread.send(start).is_err() {
            return Err(Error::NoThread { program });
        }
        match answer.await {
            Ok(Ok(inner)) => Ok(Child { inner }),
            Ok(Err(source)) => Err(Error::Start { program, source }),
            Err(_) => Err(Error::NoThread { program }),
        }
    }

    fn build(self) -> Result<tokio_process::Command, Error> {
        let program = find_program(&self.program).ok_or_else(|| Error::NoProgram { program: self.program.clone() })?;
        let launcher = match self.launcher {
            Some(path) => path,
            // The kernel's name for the running file works even after an upgrade has replaced it on disk.
            None if cfg!(target_os = "linux") => PathBuf::from("/proc/self/exe"),
            None => std::env::current_exe().map_err(|source| Error::Start { program: self.program.clone(), source })?,
        };
        let stdio = |output: Output| -> Result<Stdio, Error> {
            Ok(match output {
                Output::Inherit => Stdio::inherit(),
                Output::Discard => Stdio::null(),
                Output::File(path) => append_to(&path)
                    .map_err(|source| Error::Output { program: self.program.clone(), path, source })?
                    .into(),
            })
        };
        let mut command = tokio_process::Command::new(launcher);
        command.arg(RUN_CHILD).arg(std::process::id().to_string()).arg("--").arg(program).args(self.arguments);
        command.envs(self.environment).stdin(Stdio::null());
        command.stdout(stdio(self.stdout)?).stderr(stdio(self.stderr)?);
        if let Some(directory) = self.directory {
            command.current_dir(directory);
        }
        command.process_group(0).kill_on_drop(true);
        Ok(command)
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// The executable file of that name: a path as it is (made absolute), else the first on the PATH.
pub fn find_program(program: impl AsRef<OsStr>) -> Option<PathBuf> {
    let program = program.as_ref();
    let executable =
        |path: &Path| path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0);
    if program.as_encoded_bytes().contains(&b'/') {
        let path = std::path::absolute(program).ok()?;
        return executable(&path).then_some(path);
    }
    let folders = std::env::var_os("PATH")?;
    std::env::split_paths(&folders).map(|folder| folder.join(program)).find(|path| executable(path))
}

struct Start {
    command: tokio_process::Command,
    runtime: Handle,
    reply: oneshot::Sender<io::Result<tokio_process::Child>>,
}

fn starting_thread() -> Option<&'static SyncSender<Start>> {
    static THREAD: OnceLock<Option<SyncSender<Start>>> = OnceLock::new();
    let start = || {
        let (sender, starts) = sync_channel::<Start>(STARTS_QUEUED);
        let body = move || {
            // The sender is never dropped, so this loop, and with it the thread, ends with the process.
            for mut start in starts {
                let _inside = start.runtime.enter();
                // Nobody waits for the answer any more: the child is dropped here, which kills it.
                let _ = start.reply.send(start.command.spawn());
            }
        };
        std::thread::Builder::new().name("children".to_owned()).spawn(body).ok().map(|_| sender)
    };
    THREAD.get_or_init(start).as_ref()
}

/// A running child process. Dropping it kills the process.
#[derive(Debug)]
pub struct Child {
    inner: tokio_process::Child,
}

impl Child {
    /// None once its end has been seen by `wait` or `stop`.
    pub fn pid(&self) -> Option<u32> {
        self.inner.id()
    }

    /// Waits for the end; cancel-safe, and answers the same when asked again. Kills what it has left in its group.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        let group = self.process();
        let status = self.inner.wait().await?;
        if let Some(group) = group {
            // The number is not reused this soon, and usually nobody is left: then there is nothing to do.
            let _ = kill_process_group(group, Signal::KILL);
        }
        Ok(status)
    }

    /// Asks it to end (SIGTERM).
    pub fn terminate(&self) {
        if let Some(process) = self.process() {
            // It has ended and was not waited for: that is as good.
            let _ = kill_process(process, Signal::TERM);
        }
    }

    /// Ends it and its process group (SIGKILL).
    pub fn kill(&self) {
        if let Some(process) = self.process() {
            let _ = kill_process_group(process, Signal::KILL);
        }
    }

    /// SIGTERM, then SIGKILL when it has not ended within the grace.
    pub async fn stop(&mut self, grace: Duration) -> io::Result<ExitStatus> {
        self.terminate();
        if let Ok(status) = tokio::time::timeout(grace, self.wait()).await {
            return status;
        }
        self.kill();
        self.wait().await
    }

    fn process(&self) -> Option<Pid> {
        self.inner.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum RunChildError {
    #[error("run-child: expected <parent process id> -- <program> [arguments], as this program calls itself")]
    Usage,
    #[error("run-child: the process that wanted {program:?} has ended meanwhile")]
    ParentGone { program: OsString },
    #[error("run-child: ask for a signal at the parent's death")]
    DeathSignal(#[source] io::Error),
    #[error("run-child: execute {program:?}")]
    Execute { program: OsString, source: io::Error },
}

/// What a launcher does with the arguments after `run-child`: becomes the child. Returns only when that failed; the
/// caller prints the error and exits with `NOT_EXECUTED`.
pub fn run_child(arguments: impl IntoIterator<Item = OsString>) -> Result<Infallible, RunChildError> {
    let mut arguments = arguments.into_iter();
    let (parent, dashes, program) = (arguments.next(), arguments.next(), arguments.next());
    let parent: Option<u32> = parent.as_deref().and_then(OsStr::to_str).and_then(|text| text.parse().ok());
    let (Some(parent), Some(program), true) = (parent, program, dashes.is_some_and(|text| text == "--")) else {
        return Err(RunChildError::Usage);
    };
    die_with_parent().map_err(RunChildError::DeathSignal)?;
    // The parent may have ended before the signal was asked for; then nobody would ever send it.
    if std::os::unix::process::parent_id() != parent {
        return Err(RunChildError::ParentGone { program });
    }
    let source = std::process::Command::new(&program).args(arguments).exec();
    Err(RunChildError::Execute { program, source })
}

#[cfg(target_os = "linux")]
fn die_with_parent() -> io::Result<()> {
    Ok(rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?)
}

#[cfg(not(target_os = "linux"))]
fn die_with_parent() -> io::Result<()> {
    Ok(())
}

/// How long to wait before the next start of something that keeps ending: doubles from `min` to `max`.
#[derive(Clone, Debug)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    pub fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, next: min.min(max) }
    }

    pub fn next_delay(&mut self) -> Duration {
        let delay = self.next;
        self.next = delay.saturating_mul(2).min(self.max);
        delay
    }

    /// After it has run well for a while: the caller says what that means.
    pub fn reset(&mut self) {
        self.next = self.min.min(self.max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_up_to_its_maximum_and_starts_again() {
        let seconds = Duration::from_secs;
        let mut backoff = Backoff::new(seconds(1), seconds(5));
        let delays: Vec<_> = std::iter::repeat_with(|| backoff.next_delay()).take(4).collect();
        assert_eq!(delays, [seconds(1), seconds(2), seconds(4), seconds(5)]);
        backoff.reset();
        assert_eq!(backoff.next_delay(), seconds(1));
    }

    #[test]
    fn run_child_refuses_what_this_program_would_not_say() {
        let check = |text: &str, expected: &str| {
            let error = run_child(text.split_whitespace().map(OsString::from)).unwrap_err();
            assert!(format!("{error:?}").starts_with(expected), "{text}: {error:?}");
        };
        check("", "Usage");
        check("12 true", "Usage");
        check("twelve -- true", "Usage");
        check("12 --", "Usage");
    }

    #[tokio::test]
    async fn missing_program_is_named_before_anything_starts() {
        let error = Command::new("/no/such/program").spawn().await.unwrap_err();
        assert_eq!(error.to_string(), "\"/no/such/program\" is not an executable file on this machine");
    }
}
