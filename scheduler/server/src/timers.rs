//! Calls the machine back at the times it asked for.

use std::collections::BTreeSet;
use std::time::Duration;

use domain::Time;
use runtime::Stop;
use scheduler_core::{Event, Timer};
use tokio::sync::mpsc;

use crate::driver::now;
use crate::grpc::agents::Never;
use crate::handle::Scheduler;

/// How long the clock may jump before a due timer is noticed.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Runs until the process stops.
pub(crate) async fn run(
    scheduler: Scheduler,
    mut wishes: mpsc::UnboundedReceiver<(Time, Timer)>,
    stop: Stop,
) -> Result<(), Never> {
    let mut timers: BTreeSet<(Time, Timer)> = BTreeSet::new();
    loop {
        while let Some((_, timer)) = timers.first().filter(|(at, _)| *at <= now()).cloned() {
            timers.pop_first();
            scheduler.tell(Event::Timer(timer)).await;
        }
        let wait = timers.first().map_or(LONGEST_WAIT, |(at, _)| Duration::from_millis(at.0.saturating_sub(now().0)));
        tokio::select! {
            // All three arms are cancel-safe.
            () = stop.requested() => return Ok(()),
            wish = wishes.recv() => match wish {
                Some(wish) => { timers.insert(wish); }
                None => return Ok(()),
            },
            () = tokio::time::sleep(wait.min(LONGEST_WAIT)) => {}
        }
    }
}
