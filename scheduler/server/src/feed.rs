//! What one subscriber is still to be told: for each resource its newest message, in the order of first change.
//!
//! The driver puts, the subscriber's stream takes; neither waits for the other. A message replaces an older one about
//! the same resource, so a subscriber that is slow, or does not read at all, costs one entry for each resource and
//! nobody any time. A resource may be noted without a message: whoever takes it looks up the state of that moment.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// One resource that a subscriber is to be told of.
pub(crate) struct Item<K, M> {
    pub(crate) key: K,
    /// Shared among all subscribers; absent: to be looked up.
    pub(crate) message: Option<Arc<M>>,
}

/// See the module's documentation. The stream holds it, the driver only as long as the stream does.
pub(crate) struct Feed<K, M> {
    state: Mutex<State<K, M>>,
    changed: Notify,
}

struct State<K, M> {
    next: u64,
    /// By the order of first change.
    items: BTreeMap<u64, Item<K, M>>,
    places: HashMap<K, u64>,
    /// Something in it should not wait.
    urgent: bool,
}

impl<K: Clone + Eq + Hash, M> Feed<K, M> {
    pub(crate) fn new() -> Arc<Self> {
        let state = State { next: 0, items: BTreeMap::new(), places: HashMap::new(), urgent: false };
        Arc::new(Self { state: Mutex::new(state), changed: Notify::new() })
    }

    /// Notes a message about a resource, or that there is news of it.
    pub(crate) fn put(&self, key: K, message: Option<Arc<M>>, urgent: bool) {
        let mut state = self.lock();
        state.urgent |= urgent;
        let place = match state.places.get(&key) {
            Some(place) => *place,
            None => {
                let place = state.next;
                state.next += 1;
                state.places.insert(key.clone(), place);
                place
            }
        };
        state.items.insert(place, Item { key, message });
        drop(state);
        self.changed.notify_one();
    }

    /// Takes the oldest, at most so many.
    pub(crate) fn take(&self, most: usize) -> Vec<Item<K, M>> {
        let mut state = self.lock();
        let mut taken = Vec::new();
        while taken.len() < most
            && let Some((_, item)) = state.items.pop_first()
        {
            state.places.remove(&item.key);
            taken.push(item);
        }
        if state.items.is_empty() {
            state.urgent = false;
        }
        taken
    }

    /// Waits until there is something. Cancel-safe. For one reader.
    pub(crate) async fn filled(&self) {
        self.until(|state| !state.items.is_empty()).await;
    }

    /// Waits until there is something that should not wait. Cancel-safe. For one reader.
    pub(crate) async fn urgent(&self) {
        self.until(|state| state.urgent).await;
    }

    async fn until(&self, holds: impl Fn(&State<K, M>) -> bool) {
        loop {
            // A change after the look leaves a permit behind.
            if holds(&self.lock()) {
                return;
            }
            self.changed.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<K, M>> {
        // Each change under the lock leaves it whole, also if the thread dies in it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        let state = self.lock();
        assert_eq!(state.items.len(), state.places.len());
        state.items.len()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::Feed;

    fn taken(feed: &Feed<&'static str, u32>, most: usize) -> Vec<(&'static str, Option<u32>)> {
        feed.take(most).into_iter().map(|item| (item.key, item.message.as_deref().copied())).collect()
    }

    #[test]
    fn the_newest_message_of_each_resource_is_kept_in_the_order_of_first_change() {
        let feed = Feed::new();
        for (key, message) in [("a", 1), ("b", 2), ("a", 3), ("c", 4)] {
            feed.put(key, Some(Arc::new(message)), false);
        }
        assert_eq!(taken(&feed, 2), [("a", Some(3)), ("b", Some(2))]);
        feed.put("a", None, false);
        feed.put("c", None, false);
        assert_eq!(taken(&feed, 9), [("c", None), ("a", None)]);
        assert_eq!(taken(&feed, 9), []);
    }

    #[test]
    fn a_subscriber_that_reads_nothing_costs_one_entry_for_each_resource() {
        let feed = Feed::new();
        for change in 0..100_000 {
            feed.put(change % 100, Some(Arc::new(change)), false);
        }
        assert_eq!(feed.len(), 100);
    }

    #[test]
    fn a_hundred_of_them_share_one_message_for_each_resource() {
        let feeds: Vec<_> = (0..100).map(|_| Feed::new()).collect();
        let newest: Vec<Arc<u32>> = (0..10).map(Arc::new).collect();
        for round in 0..50 {
            for (key, last) in newest.iter().enumerate() {
                let message = if round == 49 { last.clone() } else { Arc::new(0) };
                feeds.iter().for_each(|feed| feed.put(key, Some(message.clone()), false));
            }
        }
        for message in &newest {
            assert_eq!(Arc::strong_count(message), 101);
        }
    }

    #[tokio::test]
    async fn waiting_ends_with_what_is_waited_for() {
        let feed: Arc<Feed<u32, u32>> = Feed::new();
        let reader = tokio::spawn({
            let feed = feed.clone();
            async move {
                feed.filled().await;
                feed.urgent().await;
                feed.take(9).len()
            }
        });
        feed.put(1, None, false);
        feed.put(2, None, true);
        assert_eq!(reader.await.expect("it ends"), 2);
    }
}
