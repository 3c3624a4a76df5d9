//! Supervised tasks: each has a name and says what its failure does to the process. Nothing is detached; a panic is
//! an error of the task it happened in. Not a scheduler and not a restarter: a task that should try again does so
//! itself.
//!
//! Invariant: `running` holds exactly the tasks whose future has not been dropped.

use std::any::Any;
use std::collections::BTreeMap;
use std::error::Error;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::task::AbortHandle;
use tokio_util::task::TaskTracker;
use tracing::error;

use crate::Stop;

/// How long aborted tasks get to drop what they hold, after the time the caller gave them is over. They do so at
/// their next await; one that never awaits is not waited for.
const ABORT_GRACE: Duration = Duration::from_millis(500);

/// What the failure of a task does, besides being logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// Nothing: the process lives without this task.
    Log,
    /// Requests the stop of the process; `finish` reports the first such failure.
    StopProcess,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TasksFailed {
    #[error("task {task} failed: {reason}")]
    Failed { task: &'static str, reason: String },
    #[error("tasks did not end within {within:?}: {}", tasks.join(", "))]
    NotEnded { tasks: Vec<&'static str>, within: Duration },
}

/// The tasks of a process, or of a part of it. Clones share the tasks.
#[derive(Clone, Debug)]
pub struct Tasks {
    stop: Stop,
    tracker: TaskTracker,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    running: BTreeMap<u64, (&'static str, AbortHandle)>,
    failed: Option<TasksFailed>,
}

impl Tasks {
    pub fn new(stop: Stop) -> Self {
        Self { stop, tracker: TaskTracker::new(), state: Arc::default() }
    }

    /// The stop that `finish` and a task with `OnError::StopProcess` request.
    pub fn stop(&self) -> &Stop {
        &self.stop
    }

    /// Must be called inside a tokio runtime.
    pub fn spawn<E>(
        &self,
        name: &'static str,
        on_error: OnError,
        future: impl Future<Output = Result<(), E>> + Send + 'static,
    ) where
        E: Error + Send + Sync + 'static,
    {
        // Held over the spawn: the task takes itself out of `running`, which must not happen before it is in there.
        let mut state = lock(&self.state);
        let id = state.next;
        state.next += 1;
        let entry = Entry { id, state: Arc::clone(&self.state) };
        let stop = self.stop.clone();
        let handle = self.tracker.spawn(async move {
            let reason = match AssertUnwindSafe(future).catch_unwind().await {
                Ok(Ok(())) => return drop(entry),
                Ok(Err(error)) => chain(&error),
                Err(payload) => format!("panicked: {}", panic_message(&*payload)),
            };
            error!(task = name, error = reason, "task failed");
            if on_error == OnError::StopProcess {
                lock(&entry.state).failed.get_or_insert(TasksFailed::Failed { task: name, reason });
                stop.request();
            }
            drop(entry);
        });
        state.running.insert(id, (name, handle.abort_handle()));
    }

    /// Requests the stop and waits for the tasks; those that have not ended `within` are aborted and named.
    pub async fn finish(self, within: Duration) -> Result<(), TasksFailed> {
        self.stop.request();
        self.tracker.close();
        let ended = tokio::time::timeout(within, self.tracker.wait()).await.is_ok();
        if ended {
            return lock(&self.state).failed.take().map_or(Ok(()), Err);
        }
        let tasks = {
            let state = lock(&self.state);
            state.running.values().for_each(|(_, handle)| handle.abort());
            state.running.values().map(|(name, _)| *name).collect()
        };
        // A task that ignores the abort was named above already.
        let _ = tokio::time::timeout(ABORT_GRACE, self.tracker.wait()).await;
        let failed = lock(&self.state).failed.take();
        Err(failed.unwrap_or(TasksFailed::NotEnded { tasks, within }))
    }
}

/// Takes its task out of `running` when the task's future is dropped, also by an abort.
struct Entry {
    id: u64,
    state: Arc<Mutex<State>>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        lock(&self.state).running.remove(&self.id);
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // Every change under the lock is a single step, so what a panicking thread leaves behind is whole.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An error and its causes in one line, such as `load model: read file: permission denied`; a cause that is told already is
/// left out.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

fn panic_message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&'static str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn tasks() -> Tasks {
        Tasks::new(Stop::new())
    }

    fn broken() -> Result<(), io::Error> {
        Err(io::Error::other("disk on fire"))
    }

    #[tokio::test(start_paused = true)]
    async fn tasks_that_heed_the_stop_finish_without_an_error() {
        let tasks = tasks();
        let stop = tasks.stop().clone();
        tasks.spawn("polite", OnError::StopProcess, async move {
            stop.requested().await;
            Ok::<(), io::Error>(())
        });
        assert_eq!(tasks.finish(LONG).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn failed_task_stops_the_process_and_is_named() {
        let tasks = tasks();
        tasks.spawn("store", OnError::StopProcess, async { broken() });
        tasks.stop().requested().await;
        let failed = TasksFailed::Failed { task: "store", reason: "disk on fire".to_owned() };
        assert_eq!(tasks.finish(LONG).await, Err(failed));
    }

    #[tokio::test(start_paused = true)]
    async fn failure_that_is_only_logged_stops_nothing() {
        let tasks = tasks();
        tasks.spawn("hobby", OnError::Log, async { broken() });
        tasks.tracker.close();
        tasks.tracker.wait().await;
        assert!(!tasks.stop().is_requested());
        assert_eq!(tasks.finish(LONG).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn panic_is_an_error_of_its_task() {
        let tasks = tasks();
        tasks.spawn("parser", OnError::StopProcess, async {
            assert!(std::hint::black_box(false), "who wrote this");
            Ok::<(), io::Error>(())
        });
        tasks.stop().requested().await;
        let failed = TasksFailed::Failed { task: "parser", reason: "panicked: who wrote this".to_owned() };
        assert_eq!(tasks.finish(LONG).await, Err(failed));
    }

    #[tokio::test(start_paused = true)]
    async fn tasks_that_do_not_end_are_named_and_dropped() {
        let tasks = tasks();
        let held = Arc::new(());
        let holder = Arc::clone(&held);
        tasks.spawn("deaf", OnError::Log, async move {
            std::future::pending::<()>().await;
            drop(holder);
            Ok::<(), io::Error>(())
        });
        tasks.spawn("polite", OnError::Log, async { Ok::<(), io::Error>(()) });
        let within = Duration::from_secs(1);
        assert_eq!(tasks.finish(within).await, Err(TasksFailed::NotEnded { tasks: vec!["deaf"], within }));
        assert_eq!(Arc::strong_count(&held), 1);
    }

    #[test]
    fn sources_of_an_error_are_told_once_and_in_order() {
        #[derive(Debug, thiserror::Error)]
        #[error("read manifest")]
        struct Outer(#[source] io::Error);
        assert_eq!(chain(&Outer(io::Error::other("no such file"))), "read manifest: no such file");
    }
}
