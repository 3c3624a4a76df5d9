//! The request to stop, handed to everything that runs: a tree of tokens, requested once, never taken back.
//! It is a request only: who waits for the end, and for how long, is `Tasks::finish`.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

/// Exit status after a second signal: 128 + SIGINT, what a shell reports for an interrupted program.
const INTERRUPTED: i32 = 130;

/// Says "stop" to everybody who holds a clone or a child of it.
#[derive(Clone, Debug, Default)]
pub struct Stop(CancellationToken);

impl Stop {
    pub fn new() -> Self {
        Self::default()
    }

    /// A stop that is requested with this one, and can be requested alone.
    pub fn child(&self) -> Self {
        Self(self.0.child_token())
    }

    pub fn request(&self) {
        self.0.cancel();
    }

    pub fn is_requested(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Resolves when the stop is requested; cancel-safe.
    pub async fn requested(&self) {
        self.0.cancelled().await;
    }
}

/// Requests the stop at the first SIGINT or SIGTERM and returns, also when it was requested otherwise. From then on
/// one more signal ends the process at once: somebody is tired of waiting for an orderly end.
pub async fn on_signals(stop: Stop) -> io::Result<()> {
    let mut signals =
        Signals { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? };
    tokio::select! {
        name = signals.next() => info!(signal = name, "stopping"),
        () = stop.requested() => {}
    }
    stop.request();
    // Detached on purpose: it must outlive every task that `Tasks::finish` waits for, and ends with the process.
    tokio::spawn(async move {
        signals.next().await;
        std::process::exit(INTERRUPTED);
    });
    Ok(())
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    async fn next(&mut self) -> &'static str {
        // `recv` is cancel-safe: a signal that is not taken here is seen by the next call.
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn child_stops_with_its_parent_and_not_the_other_way_round() {
        let parent = Stop::new();
        let (first, second) = (parent.child(), parent.child());
        first.request();
        assert!(first.is_requested() && !parent.is_requested() && !second.is_requested());
        parent.request();
        assert!(second.is_requested());
    }
}
