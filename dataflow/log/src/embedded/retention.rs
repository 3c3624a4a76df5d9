//! What goes, and when: whole segments, oldest first, never one that somebody still has to read.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use domain::Time;
use tracing::info;

use super::{Inner, TopicState, read_lock};
use crate::Error;

impl Inner {
    pub(super) fn retain(&self) -> Result<u64, Error> {
        let now = (self.settings.clock)();
        let milliseconds = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let mut gone = 0;
        while let Some(segment) = self.segments.oldest() {
            let age = now.since(Time(segment.newest.load(Ordering::Relaxed)));
            let is_old = age > milliseconds(self.settings.keep);
            let is_much = self.segments.bytes() > self.settings.keep_bytes;
            if age <= milliseconds(self.settings.keep_at_least) || !(is_old || is_much) {
                break;
            }
            let topics: Vec<Arc<TopicState>> = read_lock(&self.topics).values().cloned().collect();
            let lowest = self.catalog.lowest()?;
            let mut starts = Vec::new();
            let mut is_needed = false;
            for topic in &topics {
                for (number, partition) in (0_u32..).zip(&topic.partitions) {
                    let run = partition.with(|state| state.runs.front().copied().map(|run| (run, state.next)));
                    let Some((run, next)) = run.filter(|(run, _)| run.segment <= segment.id) else { continue };
                    starts.push((partition.number, next));
                    let low = lowest.get(&(Arc::clone(&topic.name), number));
                    is_needed = is_needed || low.is_some_and(|low| *low < run.end());
                }
            }
            if is_needed {
                break;
            }
            // First what the next offsets are, then the records that show it.
            self.catalog.store_starts(&starts)?;
            for partition in topics.iter().flat_map(|topic| &topic.partitions) {
                partition.with(|state| state.forget_before(segment.id + 1));
            }
            self.segments.remove_oldest()?;
            gone += segment.bytes.load(Ordering::Relaxed);
            info!(segment = segment.id, age_ms = age, "a segment of the log is old enough to go");
        }
        Ok(gone)
    }
}
