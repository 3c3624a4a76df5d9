//! Signals to a real process. This binary is also the process that gets them (`patient FILE`), so it has a `main` of
//! its own instead of the test harness's.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use runtime::{Stop, on_signals};
use rustix::process::{Pid, Signal, kill_process};

/// For states that take milliseconds; generous because the machine may be busy.
const DEADLINE: Duration = Duration::from_secs(10);

fn main() {
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next() {
        Some(verb) if verb == "patient" => patient(Path::new(&arguments.next().expect("folder for its states"))),
        _ => {
            first_signal_requests_the_stop_and_the_second_ends_the_process(Signal::TERM);
            first_signal_requests_the_stop_and_the_second_ends_the_process(Signal::INT);
        }
    }
}

/// Says in a folder how far it has come, and never ends by itself.
fn patient(states: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let stop = Stop::new();
        let mut watching = std::pin::pin!(on_signals(stop.clone()));
        // The first poll installs the handlers.
        assert!(watching.as_mut().now_or_never().is_none());
        std::fs::write(states.join("watching"), "").unwrap();
        watching.await.unwrap();
        assert!(stop.is_requested());
        std::fs::write(states.join("stopping"), "").unwrap();
        std::future::pending::<()>().await;
    });
}

fn first_signal_requests_the_stop_and_the_second_ends_the_process(signal: Signal) {
    let states = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    let mut process = command.arg("patient").arg(states.path()).stdin(Stdio::null()).spawn().unwrap();
    let pid = Pid::from_child(&process);
    for state in ["watching", "stopping"] {
        wait_for(&mut process, state, |process| {
            assert_eq!(process.try_wait().unwrap(), None, "ended before {state}");
            states.path().join(state).exists().then_some(())
        });
        kill_process(pid, signal).unwrap();
    }
    let status: ExitStatus = wait_for(&mut process, "its end", |process| process.try_wait().unwrap());
    assert_eq!((status.code(), status.signal()), (Some(130), None));
}

fn wait_for<T>(process: &mut Child, what: &str, reached: impl Fn(&mut Child) -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = reached(process) {
            return found;
        }
        if start.elapsed() >= DEADLINE {
            process.kill().unwrap();
        }
        assert!(start.elapsed() < DEADLINE, "waited {DEADLINE:?} for {what}");
        std::thread::yield_now();
    }
}
