//! Requests whose callers have left, or have an answer while a cycle goes on: calls that nobody waits for are not made, and
//! those under way are given up.
//!
//! Only saves work: whoever hears of it too late, or never, makes calls that nobody waits for, until their deadlines.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dataflow_core::{Headers, Left, Request};
use domain::{TopicOf, Topics};
use futures_util::future::{AbortHandle, Abortable};
use runtime::Stop;
use tokio::sync::Notify;
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
pub(crate) struct Leavers {
    state: Arc<Mutex<State>>,
    search: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    /// The first return of a cycle that is not needed.
    left: HashMap<Request, u32>,
    /// Their requests, the oldest first.
    order: VecDeque<Request>,
    calls: HashMap<Request, Vec<Call>>,
    next: u64,
}

#[derive(Debug)]
struct Call {
    number: u64,
    returns: u32,
    handle: AbortHandle,
}

impl State {
    fn has_left(&self, request: &Request, returns: u32) -> bool {
        self.left.get(request).is_some_and(|from| returns >= *from)
    }
}

/// A call under way, until it is dropped.
struct Registered<'a> {
    leavers: &'a Leavers,
    request: &'a Request,
    number: u64,
}

impl Leavers {
    /// Waits for the call, unless nobody waits for its request or that comes to be so meanwhile.
    pub(crate) async fn unless_left<F: Future>(&self, request: &Request, returns: u32, call: F) -> Option<F::Output> {
        let (handle, registration) = AbortHandle::new_pair();
        let number = {
            let mut state = self.state();
            if state.has_left(request, returns) {
                return None;
            }
            state.next += 1;
            let number = state.next;
            state.calls.entry(request.clone()).or_default().push(Call { number, returns, handle });
            number
        };
        let _registered = Registered { leavers: self, request, number };
        Abortable::new(call, registration).await.ok()
    }

    /// Nobody waits for the request after so many returns.
    pub(crate) fn has_left(&self, request: &Request, returns: u32) -> bool {
        self.state().has_left(request, returns)
    }

    fn leaves(&self, Left { request, from }: Left) {
        let mut state = self.state();
        let calls = state.calls.get(&request).map(Vec::as_slice).unwrap_or_default();
        calls.iter().filter(|call| call.returns >= from).for_each(|call| call.handle.abort());
        match state.left.get_mut(&request) {
            Some(known) => *known = from.min(*known),
            None => {
                state.order.push_back(request.clone());
                state.left.insert(request, from);
            }
        }
        if state.order.len() > REMEMBERED_MAX
            && let Some(oldest) = state.order.pop_front()
        {
            state.left.remove(&oldest);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The topic may be there now.
    pub(crate) fn look(&self) {
        self.search.notify_one();
    }

    /// Follows the gateways' words from now on.
    pub(crate) async fn follow(self, log: Arc<dyn Log>, topics: Topics, stop: Stop) -> Result<(), Infallible> {
        let topic: Arc<str> = topics.name(&TopicOf::Left).into();
        let mut reader = log.reader();
        let (mut is_read, mut is_new) = (false, false);
        loop {
            tokio::select! {
                () = stop.requested() => return Ok(()),
                _ = tokio::time::timeout(SEARCH_EVERY, self.search.notified()), if !is_read => {
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
        if let Some(calls) = state.calls.get_mut(self.request) {
            calls.retain(|call| call.number != self.number);
            if calls.is_empty() {
                state.calls.remove(self.request);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use dataflow_core::{Left, Request, Root};
    use domain::PipelineName;

    use super::{Leavers, REMEMBERED_MAX};

    fn of(root: u128, pipeline: &str) -> Request {
        Request { root: Root(root), pipeline: PipelineName::parse(pipeline).expect("a name") }
    }

    #[tokio::test]
    async fn calls_that_nobody_waits_for_are_not_made_and_those_under_way_end() {
        let leavers = Leavers::default();
        assert_eq!(leavers.unless_left(&of(1, "p"), 0, ready(7)).await, Some(7));
        assert!(leavers.state().calls.is_empty(), "what has ended is forgotten");
        let [early, late] = [2, 3].map(|returns| {
            let leavers = leavers.clone();
            tokio::spawn(async move { leavers.unless_left(&of(1, "p"), returns, pending::<()>()).await })
        });
        while leavers.state().calls.get(&of(1, "p")).is_none_or(|calls| calls.len() < 2) {
            tokio::task::yield_now().await;
        }
        leavers.leaves(Left { request: of(1, "other"), from: 0 });
        leavers.leaves(Left { request: of(1, "p"), from: 3 });
        assert_eq!(late.await.expect("no panic"), None);
        assert!(!early.is_finished());
        leavers.leaves(Left { request: of(1, "p"), from: 0 });
        assert_eq!(early.await.expect("no panic"), None);
        assert_eq!(leavers.unless_left(&of(1, "p"), 0, async { panic!("is not called") }).await, None::<()>);
        assert_eq!(leavers.unless_left(&of(2, "p"), 0, ready(7)).await, Some(7));
        assert!(leavers.state().calls.is_empty());
    }

    #[test]
    fn the_latest_leavers_are_remembered() {
        let leavers = Leavers::default();
        (0..=REMEMBERED_MAX as u128).for_each(|root| leavers.leaves(Left { request: of(root, "p"), from: 1 }));
        assert!(!leavers.has_left(&of(0, "p"), 1));
        assert!(!leavers.has_left(&of(1, "p"), 0) && leavers.has_left(&of(1, "p"), 1));
        assert_eq!(leavers.state().left.len(), REMEMBERED_MAX);
    }
}
