//! Children against the real kernel. This binary is its own launcher and its own victim, so it has a `main` of its
//! own instead of the test harness's: `run-child …` becomes a child, `parent FILE` starts one and waits to be killed.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ffi::OsString;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use runtime::child::{Command, NOT_EXECUTED, Output, RUN_CHILD, run_child};

/// For states that take milliseconds; generous because the machine may be busy.
const DEADLINE: Duration = Duration::from_secs(10);
/// What the module promises after the death of the parent.
const DIES_WITHIN: Duration = Duration::from_secs(1);

fn main() {
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next() {
        Some(verb) if verb == RUN_CHILD => {
            let error = run_child(arguments).unwrap_err();
            eprintln!("{error}");
            std::process::exit(NOT_EXECUTED);
        }
        Some(verb) if verb == "parent" => parent(&arguments.next().expect("file for the child's id")),
        _ => {
            child_dies_with_its_killed_parent();
            block_on(output_of_a_child_lands_in_its_file_and_its_status_is_told());
            block_on(child_that_ignores_the_request_is_killed_after_the_grace());
            block_on(dropped_child_is_killed());
        }
    }
}

fn block_on(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

/// The child outlives the task and the runtime's threads that asked for it: it hangs on the process alone.
fn parent(file: &OsString) {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(async {
        let mut child = Command::new("sleep").arg("1000").spawn().await.unwrap();
        let partial = Path::new(file).with_extension("partial");
        std::fs::write(&partial, child.pid().unwrap().to_string()).unwrap();
        std::fs::rename(partial, file).unwrap();
        child.wait().await.unwrap();
    });
}

fn child_dies_with_its_killed_parent() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pid");
    let mut parent = std::process::Command::new(std::env::current_exe().unwrap());
    let mut parent = parent.arg("parent").arg(&file).stdin(Stdio::null()).spawn().unwrap();
    until(DEADLINE, "the child's id", || file.exists());
    let pid: u32 = std::fs::read_to_string(&file).unwrap().parse().unwrap();
    until(DEADLINE, "the child to be sleep", || command_name(pid).as_deref() == Some("sleep"));
    parent.kill().unwrap();
    parent.wait().unwrap();
    until(DIES_WITHIN, "the child's death", || command_name(pid).as_deref() != Some("sleep"));
}

async fn output_of_a_child_lands_in_its_file_and_its_status_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let mut child = Command::new("sh")
        .args(["-c", "echo $WORD; echo problem >&2; exit 7"])
        .env("WORD", "hello")
        .stdout(Output::File(log.clone()))
        .stderr(Output::File(log.clone()))
        .spawn()
        .await
        .unwrap();
    assert_eq!(child.wait().await.unwrap().code(), Some(7));
    assert_eq!(child.wait().await.unwrap().code(), Some(7));
    assert_eq!(child.pid(), None);
    assert_eq!(std::fs::read_to_string(log).unwrap(), "hello\nproblem\n");
}

async fn child_that_ignores_the_request_is_killed_after_the_grace() {
    let folder = tempfile::tempdir().unwrap();
    let deaf = folder.path().join("deaf");
    let script = format!("trap '' TERM; touch {}; while :; do read _ < /dev/zero; done", deaf.display());
    let mut child = Command::new("sh").args(["-c", &script]).spawn().await.unwrap();
    until(DEADLINE, "the child to be deaf", || deaf.exists());
    let status = child.stop(Duration::from_millis(50)).await.unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
}

async fn dropped_child_is_killed() {
    let child = Command::new("sleep").arg("1000").spawn().await.unwrap();
    let pid = child.pid().unwrap();
    until(DEADLINE, "the child to be sleep", || command_name(pid).as_deref() == Some("sleep"));
    drop(child);
    until(DEADLINE, "the child's death", || command_name(pid).as_deref() != Some("sleep"));
}

/// The program a live process runs; nothing for one that has ended, waited for or not.
fn command_name(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
    (!rest.trim_start().starts_with(['Z', 'X'])).then(|| name.to_owned())
}

fn until(deadline: Duration, what: &str, mut reached: impl FnMut() -> bool) {
    let start = Instant::now();
    while !reached() {
        assert!(start.elapsed() < deadline, "waited {deadline:?} for {what}");
        std::thread::yield_now();
    }
}
