//! Waiting for a state, never for an amount of time.

use std::time::Duration;

use anyhow::{Result, anyhow};
use tokio::time::{Instant, sleep, timeout_at};

/// Between two looks: small beside what is waited for, and long enough not to be the load of the machine.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Looks until the state is there. An error says what the state is instead; the last one is told at the deadline.
pub async fn until<T>(within: Duration, what: &str, mut look: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + within;
    let mut last = anyhow!("nothing was seen");
    loop {
        match timeout_at(deadline, look()).await {
            Ok(Ok(seen)) => return Ok(seen),
            Ok(Err(state)) => last = state,
            Err(_) => last = last.context("no answer to the last look; before"),
        }
        if Instant::now() >= deadline {
            return Err(last.context(format!("{what}: not within {within:?}; the last state")));
        }
        sleep(LOOK_EVERY).await;
    }
}
