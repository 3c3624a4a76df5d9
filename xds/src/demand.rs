//! Which resources that are made on demand somebody asks for, over all streams.
//!
//! The owner is told when the first stream asks for a name and when the last one has stopped. What came and went before
//! it was told is not told, so what waits to be told is bounded by the limit, however fast clients change their minds.
//! Who was turned away asks again when it steps next, which is soon (`service`).
//!
//! Not here: what is made of a name, and what a stream is told until then (the rule *awaited* of `session`).

use std::collections::{BTreeSet, HashMap};

use crate::gate::{Feedback, StreamId};
use crate::resource::{Key, Kind, Name};

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
    /// So many names are wanted at once at most, whatever clients ask for; what is beyond does not exist, until there is room.
    pub limit: usize,
    /// So many of them by one stream, so that no client takes all.
    pub limit_of_stream: usize,
}

impl OnDemand {
    /// Longest name that the owner is asked for: names that people give are a quarter of it.
    pub const NAME_BYTES_MAX: usize = 1_024;

    pub(crate) fn makes(&self, kind: Kind, name: &Name) -> bool {
        name.as_str().len() <= Self::NAME_BYTES_MAX && (self.is)(kind, name.as_str())
    }
}

/// A client began or ceased to ask for a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    Asked(Key),
    Dropped(Key),
}

#[derive(Debug)]
pub struct Demand {
    limit: usize,
    limit_of_stream: usize,
    wanted: HashMap<Key, BTreeSet<StreamId>>,
    /// How many of them each stream asks for.
    shares: HashMap<StreamId, usize>,
    /// What the owner takes to be wanted.
    told: BTreeSet<Key>,
    /// What the owner was not told yet: in one of `wanted` and `told` and not in the other.
    untold: BTreeSet<Key>,
    /// Streams with names beyond a limit.
    turned_away: BTreeSet<StreamId>,
}

impl Demand {
    #[must_use]
    pub fn new(limit: usize, limit_of_stream: usize) -> Self {
        Demand {
            limit,
            limit_of_stream,
            wanted: HashMap::new(),
            shares: HashMap::new(),
            told: BTreeSet::new(),
            untold: BTreeSet::new(),
            turned_away: BTreeSet::new(),
        }
    }

    /// A stream asks for a name. False: it is beyond a limit.
    pub fn ask(&mut self, id: StreamId, key: &Key) -> bool {
        let is_wanted = match self.wanted.get(key) {
            Some(streams) if streams.contains(&id) => return true,
            Some(_) => true,
            None => false,
        };
        if !self.has_share(id) || !(is_wanted || self.has_room()) {
            if self.turned_away.insert(id) {
                let (limit, of_stream) = (self.limit, self.limit_of_stream);
                tracing::warn!(stream = id.0, %key, limit, of_stream, "too many names are asked for, this one does not exist");
            }
            return false;
        }
        self.wanted.entry(key.clone()).or_default().insert(id);
        *self.shares.entry(id).or_default() += 1;
        self.note(key);
        true
    }

    /// A stream asks for a name no more.
    pub fn cease(&mut self, id: StreamId, key: &Key) {
        let Some(streams) = self.wanted.get_mut(key) else { return };
        if !streams.remove(&id) {
            return;
        }
        if streams.is_empty() {
            self.wanted.remove(key);
            self.note(key);
        }
        if let Some(share) = self.shares.get_mut(&id) {
            *share -= 1;
            if *share == 0 {
                self.shares.remove(&id);
            }
        }
    }

    /// A stream is gone; these are the names it had.
    pub fn leave(&mut self, id: StreamId, keys: impl Iterator<Item = Key>) {
        for key in keys {
            self.cease(id, &key);
        }
        self.turned_away.remove(&id);
    }

    /// Whether a stream was turned away and has not been readmitted.
    #[must_use]
    pub fn is_turned_away(&self, id: StreamId) -> bool {
        self.turned_away.contains(&id)
    }

    /// Whether a stream that was turned away may ask for its names again. True once.
    pub fn readmits(&mut self, id: StreamId) -> bool {
        self.has_room() && self.has_share(id) && self.turned_away.remove(&id)
    }

    fn has_room(&self) -> bool {
        self.wanted.len() < self.limit
    }

    fn has_share(&self, id: StreamId) -> bool {
        self.shares.get(&id).copied().unwrap_or(0) < self.limit_of_stream
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
        let mut demand = Demand::new(10, 10);
        assert!(demand.ask(A, &key("iris")) && demand.ask(B, &key("iris")) && demand.ask(A, &key("iris")));
        assert_eq!(demand.poll(), [wanted("iris")]);
        demand.cease(A, &key("iris"));
        assert_eq!(demand.poll(), []);
        demand.leave(B, [key("iris")].into_iter());
        assert_eq!(demand.poll(), [unwanted("iris")]);
    }

    #[test]
    fn what_came_and_went_before_it_was_told_is_not_told() {
        let mut demand = Demand::new(10, 10);
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
        let mut demand = Demand::new(1, 1);
        assert!(demand.ask(A, &key("iris")));
        assert!(!demand.ask(B, &key("wine")) && demand.ask(B, &key("iris")));
        assert!(!demand.readmits(B));
        assert_eq!(demand.poll(), [wanted("iris")]);
        demand.leave(A, [key("iris")].into_iter());
        assert!(!demand.readmits(B), "B still asks for iris");
        demand.cease(B, &key("iris"));
        assert!(demand.readmits(B) && !demand.readmits(B) && !demand.readmits(A));
        assert!(demand.ask(B, &key("wine")));
        assert_eq!(demand.poll(), [unwanted("iris"), wanted("wine")]);
        demand.leave(B, [key("wine")].into_iter());
        assert_eq!(demand.poll(), [unwanted("wine")]);
    }

    #[test]
    fn one_stream_does_not_take_all() {
        let mut demand = Demand::new(4, 2);
        let names = |prefix: &str| (0..3).map(|number| key(&format!("{prefix}-{number}"))).collect::<Vec<_>>();
        let (of_a, of_b) = (names("a"), names("b"));
        let asked = |demand: &mut Demand, id, keys: &[Key]| keys.iter().filter(|key| demand.ask(id, key)).count();
        assert_eq!(asked(&mut demand, A, &of_a), 2);
        assert_eq!(asked(&mut demand, A, &of_a), 2, "what it has costs nothing more");
        assert!(demand.is_turned_away(A) && !demand.readmits(A), "there is room, but not for it");
        assert_eq!(asked(&mut demand, B, &of_b), 2);
        demand.cease(A, &of_a[2]);
        assert!(!demand.readmits(A), "that it did not have");
        demand.cease(A, &of_a[0]);
        assert!(demand.readmits(A) && !demand.is_turned_away(A));
        assert!(demand.ask(A, &of_b[0]), "what others ask for counts, too");
        assert!(!demand.ask(A, &of_a[2]));
        demand.leave(A, of_a.into_iter().chain(of_b));
        assert!(demand.shares.len() == 1 && !demand.is_turned_away(A));
    }
}
