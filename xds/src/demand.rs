//! Which resources that are made on demand somebody asks for, over all streams.
//!
//! The owner is told when the first stream asks for a name and when the last one has stopped. What came and went before
//! it was told is not told, so what waits to be told is bounded by the limit, however fast clients change their minds.
//!
//! Not here: what is made of a name, and what a stream is told until then (the rule *awaited* of `session`).

use std::collections::{BTreeSet, HashMap};

use crate::gate::{Feedback, StreamId};
use crate::resource::{Key, Kind};

/// Longest name that the owner is asked for: names that people give are a quarter of it.
const NAME_MAX: usize = 1_024;

/// Resources that the owner makes when a client asks for them by name, and takes away when nobody does any more.
///
/// # Guarantees
/// A wildcard never asks for one. A client that asks is answered when the resource is in the table, or, if the owner does
/// not make it, after `lag_after`.
///
/// # Assumptions
/// The owner hides them from wildcards ([`crate::Resource::named_only`]).
#[derive(Clone, Copy, Debug)]
pub struct OnDemand {
    /// Whether a name of a kind could be one. Called once for each name that is asked for.
    pub is: fn(Kind, &str) -> bool,
    /// So many names are wanted at once at most, whatever clients ask for; what is beyond does not exist.
    pub limit: usize,
}

/// A client began or ceased to ask for a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    Asked(Key),
    Dropped(Key),
}

#[derive(Debug, Default)]
pub struct Demand {
    limit: usize,
    wanted: HashMap<Key, BTreeSet<StreamId>>,
    /// What the owner takes to be wanted.
    told: BTreeSet<Key>,
    /// What the owner was not told yet: in one of `wanted` and `told` and not in the other.
    untold: BTreeSet<Key>,
    /// Streams with names beyond the limit.
    turned_away: BTreeSet<StreamId>,
}

impl Demand {
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Demand { limit, ..Demand::default() }
    }

    /// A stream asks for a name. False: it is beyond the limit.
    pub fn ask(&mut self, id: StreamId, key: &Key) -> bool {
        if let Some(streams) = self.wanted.get_mut(key) {
            streams.insert(id);
            return true;
        }
        if key.name.as_str().len() > NAME_MAX {
            return false;
        }
        if self.wanted.len() >= self.limit {
            if self.turned_away.insert(id) {
                tracing::warn!(stream = id.0, %key, limit = self.limit, "too many names are asked for, this one does not exist");
            }
            return false;
        }
        self.wanted.insert(key.clone(), BTreeSet::from([id]));
        self.note(key);
        true
    }

    /// A stream asks for a name no more.
    pub fn cease(&mut self, id: StreamId, key: &Key) {
        let Some(streams) = self.wanted.get_mut(key) else { return };
        streams.remove(&id);
        if streams.is_empty() {
            self.wanted.remove(key);
            self.note(key);
        }
    }

    /// A stream is gone; these are the names it had.
    pub fn leave(&mut self, id: StreamId, keys: &[Key]) {
        for key in keys {
            self.cease(id, key);
        }
        self.turned_away.remove(&id);
    }

    /// Whether a stream that was turned away may ask for all of its names again. True once.
    pub fn readmits(&mut self, id: StreamId) -> bool {
        self.wanted.len() < self.limit && self.turned_away.remove(&id)
    }

    /// What the owner has to be told, once.
    pub fn poll(&mut self) -> Vec<Feedback> {
        let untold = std::mem::take(&mut self.untold);
        let told = untold.into_iter().map(|key| {
            if self.wanted.contains_key(&key) {
                self.told.insert(key.clone());
                Feedback::Wanted { key }
            } else {
                self.told.remove(&key);
                Feedback::Unwanted { key }
            }
        });
        told.collect()
    }

    fn note(&mut self, key: &Key) {
        if self.wanted.contains_key(key) == self.told.contains(key) {
            self.untold.remove(key);
        } else {
            self.untold.insert(key.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: StreamId = StreamId(1);
    const B: StreamId = StreamId(2);

    fn key(name: &str) -> Key {
        Key::new(Kind::Listener, name)
    }

    fn wanted(name: &str) -> Feedback {
        Feedback::Wanted { key: key(name) }
    }

    fn unwanted(name: &str) -> Feedback {
        Feedback::Unwanted { key: key(name) }
    }

    #[test]
    fn the_first_stream_and_the_last_one_count() {
        let mut demand = Demand::new(10);
        assert!(demand.ask(A, &key("iris")) && demand.ask(B, &key("iris")) && demand.ask(A, &key("iris")));
        assert_eq!(demand.poll(), [wanted("iris")]);
        demand.cease(A, &key("iris"));
        assert_eq!(demand.poll(), []);
        demand.leave(B, &[key("iris")]);
        assert_eq!(demand.poll(), [unwanted("iris")]);
    }

    #[test]
    fn what_came_and_went_before_it_was_told_is_not_told() {
        let mut demand = Demand::new(10);
        for name in ["a", "b", "c"] {
            demand.ask(A, &key(name));
            demand.cease(A, &key(name));
        }
        assert_eq!(demand.poll(), []);
        demand.ask(A, &key("iris"));
        assert_eq!(demand.poll(), [wanted("iris")]);
        demand.cease(A, &key("iris"));
        demand.ask(B, &key("iris"));
        assert_eq!(demand.poll(), []);
        demand.cease(A, &key("iris"));
        assert_eq!(demand.poll(), [], "a stream that does not have it drops nothing");
    }

    #[test]
    fn what_is_beyond_the_limit_comes_when_there_is_room() {
        let mut demand = Demand::new(1);
        assert!(demand.ask(A, &key("iris")));
        assert!(!demand.ask(B, &key("wine")) && demand.ask(B, &key("iris")));
        assert!(!demand.readmits(B));
        assert_eq!(demand.poll(), [wanted("iris")]);
        demand.leave(A, &[key("iris")]);
        assert!(!demand.readmits(B), "B still asks for iris");
        demand.cease(B, &key("iris"));
        assert!(demand.readmits(B) && !demand.readmits(B) && !demand.readmits(A));
        assert!(demand.ask(B, &key("wine")));
        assert_eq!(demand.poll(), [unwanted("iris"), wanted("wine")]);
        demand.leave(B, &[key("wine")]);
        assert_eq!(demand.poll(), [unwanted("wine")]);
    }

    #[test]
    fn a_name_that_nobody_gives_does_not_exist() {
        let mut demand = Demand::new(10);
        assert!(!demand.ask(A, &key(&"n".repeat(NAME_MAX + 1))));
        assert!(demand.ask(A, &key(&"n".repeat(NAME_MAX))));
    }
}
