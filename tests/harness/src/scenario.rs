//! How a scenario runs: a stack is started, something happens to it, it is stopped, and all logs are read.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Result, anyhow, ensure};

use crate::stack::{Shape, Stack};

/// Scenarios at the same time. Each keeps a core busy with its load, and is about times.
const AT_ONCE: usize = 2;

/// What the parts say when they are stopped one after the other.
const ORDERLY_END: &[&str] =
    &["caught ENVOY_SIGTERM", "gRPC config stream to management closed", "no envoy is connected"];

static RUNNING: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());

/// A turn; it ends when this is dropped.
struct Turn;

impl Turn {
    fn take() -> Turn {
        let (running, changed) = &RUNNING;
        let running = running.lock().unwrap_or_else(PoisonError::into_inner);
        let full = |running: &mut usize| *running >= AT_ONCE;
        let mut running = changed.wait_while(running, full).unwrap_or_else(PoisonError::into_inner);
        *running += 1;
        Turn
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let (running, changed) = &RUNNING;
        *running.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        changed.notify_one();
    }
}

/// Runs a scenario when it is its turn.
///
/// # Panics
/// When it fails, with the reason; the ends of all logs are printed before, and its folder is left behind.
pub fn scenario(name: &str, shape: Shape, body: impl AsyncFnOnce(&mut Stack) -> Result<()>) {
    let _turn = Turn::take();
    let started = Instant::now();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("threads for a scenario");
    let mut stack = Stack::build(&shape).unwrap_or_else(|error| fail(name, &error));
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(Box::pin(async {
            stack.start().await?;
            println!("{name}: the stack is up after {} ms", started.elapsed().as_millis());
            body(&mut stack).await?;
            nothing_odd(&stack)?;
            stack.expect_log(ORDERLY_END);
            stack.stop().await?;
            nothing_odd(&stack)
        }))
    }));
    let outcome = outcome.unwrap_or_else(|_| Err(anyhow!("a panic, see above")));
    if let Err(error) = outcome {
        stack.keep_folder();
        println!("{}", stack.tails());
        println!("the folder of this scenario is left behind: {}", stack.folder().display());
        let _inside = runtime.enter(); // what still runs is killed by being dropped
        drop(stack);
        fail(name, &error);
    }
    println!("{name}: {} ms in all", started.elapsed().as_millis());
    let _inside = runtime.enter();
    drop(stack);
}

fn nothing_odd(stack: &Stack) -> Result<()> {
    let troubles = stack.troubles();
    ensure!(troubles.is_empty(), "warnings that nobody expects:\n{}", troubles.join("\n"));
    Ok(())
}

#[expect(clippy::panic, reason = "a test fails by panicking")]
fn fail(name: &str, error: &anyhow::Error) -> ! {
    panic!("{name}: {error:#}")
}
