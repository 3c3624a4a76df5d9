//! Requests whose callers have left: their calls are not made, and those under way are given up.
//!
//! Only saves work: whoever hears of it too late, or never, makes calls that nobody waits for, until their deadlines.

use std::collections::{HashMap, HashSet, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dataflow_core::{Headers, Left};
use domain::{TopicOf, Topics};
use futures_util::future::{AbortHandle, Abortable};
use runtime::Stop;
use tokio::time::MissedTickBehavior;
use topic_log::{Error, Log, Record};
use tracing::warn;

/// Most leavers that are remembered, the latest ones: a few megabytes.
const REMEMBERED_MAX: usize = 20_000;

/// The topic is looked for this often until it is there.
const SEARCH_EVERY: Duration = Duration::from_secs(1);

/// What cannot be read is tried again after this long.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// Who has left, and what is under way. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Leavers(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    left: HashSet<Left>,
    /// The same, the oldest first.
    order: VecDeque<Left>,
    calls: HashMap<Left, Vec<(u64, AbortHandle)>>,
    next: u64,
}

/// A call under way, until it is dropped.
struct Registered<'a> {
    leavers: &'a Leavers,
    of: &'a Left,
    number: u64,
}

impl Leavers {
    /// Waits for the call, unless the caller of its request has left or does so meanwhile.
    pub(crate) async fn unless_left<F: Future>(&self, of: &Left, call: F) -> Option<F::Output> {
        let (handle, registration) = AbortHandle::new_pair();
        let number = {
            let mut state = self.state();
            if state.left.contains(of) {
                return None;
            }
            state.next += 1;
            let number = state.next;
            state.calls.entry(of.clone()).or_default().push((number, handle));
            number
        };
        let _registered = Registered { leavers: self, of, number };
        Abortable::new(call, registration).await.ok()
    }

    /// The caller of its request has left.
    pub(crate) fn has_left(&self, of: &Left) -> bool {
        self.state().left.contains(of)
    }

    fn leaves(&self, left: Left) {
        let mut state = self.state();
        for (_, call) in state.calls.remove(&left).unwrap_or_default() {
            call.abort();
        }
        if state.left.insert(left.clone()) {
            state.order.push_back(left);
        }
        if state.order.len() > REMEMBERED_MAX
            && let Some(oldest) = state.order.pop_front()
        {
            state.left.remove(&oldest);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows the gateways' words from now on.
    pub(crate) async fn follow(self, log: Arc<dyn Log>, topics: Topics, stop: Stop) -> Result<(), Infallible> {
        let topic: Arc<str> = topics.name(&TopicOf::Left).into();
        let mut reader = log.reader();
        let (mut is_read, mut is_new) = (false, false);
        let mut search = tokio::time::interval(SEARCH_EVERY);
        search.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.requested() => return Ok(()),
                _ = search.tick(), if !is_read => {
                    let found = log.topics(&topic).await.unwrap_or_default().into_iter().find(|found| found.name == topic);
                    let partitions = found.map(|found| found.partitions).unwrap_or_default();
                    for (partition, bounds) in (0_u32..).zip(partitions) {
                        // One that was not there before is read from its start.
                        let from = if is_new { bounds.start } else { bounds.end };
                        is_read = reader.assign(&topic, partition, from).is_ok();
                    }
                    is_new = true;
                }
                fetched = reader.next() => match fetched {
                    Ok(fetched) => fetched.records.iter().filter_map(left).for_each(|left| self.leaves(left)),
                    Err(Error::NoTopic(_)) => is_read = false,
                    Err(error) => {
                        warn!(%error, "callers that leave are not heard of; it is tried again");
                        tokio::time::sleep(RETRY_AFTER).await;
                    }
                },
            }
        }
    }
}

fn left(record: &Record) -> Option<Left> {
    let headers: Headers = record.headers.iter().map(|header| (header.name.clone(), header.value.clone())).collect();
    Left::read(&headers)
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        let mut state = self.leavers.state();
        if let Some(calls) = state.calls.get_mut(self.of) {
            calls.retain(|(number, _)| *number != self.number);
            if calls.is_empty() {
                state.calls.remove(self.of);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use dataflow_core::{Left, Root};
    use domain::PipelineName;

    use super::{Leavers, REMEMBERED_MAX};

    fn of(root: u128, pipeline: &str) -> Left {
        Left { root: Root(root), pipeline: PipelineName::parse(pipeline).expect("a name") }
    }

    #[tokio::test]
    async fn calls_of_who_has_left_are_not_made_and_those_under_way_end() {
        let leavers = Leavers::default();
        assert_eq!(leavers.unless_left(&of(1, "p"), ready(7)).await, Some(7));
        assert!(leavers.state().calls.is_empty(), "what has ended is forgotten");
        let under_way = tokio::spawn({
            let leavers = leavers.clone();
            async move { leavers.unless_left(&of(1, "p"), pending::<()>()).await }
        });
        while leavers.state().calls.is_empty() {
            tokio::task::yield_now().await;
        }
        leavers.leaves(of(1, "other"));
        assert!(!under_way.is_finished());
        leavers.leaves(of(1, "p"));
        assert_eq!(under_way.await.expect("no panic"), None);
        assert_eq!(leavers.unless_left(&of(1, "p"), async { panic!("is not called") }).await, None::<()>);
        assert_eq!(leavers.unless_left(&of(2, "p"), ready(7)).await, Some(7));
        assert!(leavers.state().calls.is_empty());
    }

    #[test]
    fn the_latest_leavers_are_remembered() {
        let leavers = Leavers::default();
        (0..=REMEMBERED_MAX as u128).for_each(|root| leavers.leaves(of(root, "p")));
        assert!(!leavers.has_left(&of(0, "p")) && leavers.has_left(&of(1, "p")));
        assert_eq!(leavers.state().left.len(), REMEMBERED_MAX);
    }
}
