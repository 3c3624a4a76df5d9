//! Which resources that are made on demand somebody asks for, over all streams.
//!
//! The owner is told when the first stream asks for a name and when the last one has stopped. What came and went before
//! it was told is not told, so what waits to be told is bounded by the limit, however fast clients change their minds.
//!
//! Not here: what is made of a name, and what a stream is told until then (the rule *awaited* of `session`).

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use crate::gate::{Feedback, StreamId};
use crate::resource::{Key, Kind, Name};
use crate::time::Time;

/// Resources that the owner makes when a client asks for them by name, and takes away when nobody does any more.
///
/// # Guarantees
/// A wildcard never asks for one. A client that asks is answered when the resource is in the table; if the owner does not
/// make it, after `lag_after`; beyond a limit, at once that there is none, and when it is made later.
///
/// # Assumptions
/// The owner hides them from wildcards ([`crate::Resource::named_only`]).
#[derive(Clone, Copy, Debug)]
pub struct OnDemand {
    /// Whether a name of a kind could be one. Called for each name that is asked for or dropped.
    pub is: fn(Kind, &str) -> bool,
    /// So many names of a kind are wanted at once at most, whatever clients ask for; what is beyond is not made until there is room.
    pub limit: usize,
    /// A stream that asks for so many of a kind adds none; it may ask for those that others ask for.
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

/// What one stream asks for.
#[derive(Debug, Default)]
struct Share {
    keys: BTreeSet<Key>,
    count: [usize; Kind::COUNT],
}

#[derive(Debug)]
pub struct Demand {
    limit: usize,
    limit_of_stream: usize,
    wanted: HashMap<Key, BTreeSet<StreamId>>,
    count: [usize; Kind::COUNT],
    /// The same from the other side.
    asked: HashMap<StreamId, Share>,
    /// What the owner takes to be wanted.
    told: BTreeSet<Key>,
    /// What the owner was not told yet: in one of `wanted` and `told` and not in the other.
    untold: BTreeSet<Key>,
}

impl Demand {
    #[must_use]
    pub fn new(limit: usize, limit_of_stream: usize) -> Self {
        Demand {
            limit,
            limit_of_stream,
            wanted: HashMap::new(),
            count: [0; Kind::COUNT],
            asked: HashMap::new(),
            told: BTreeSet::new(),
            untold: BTreeSet::new(),
        }
    }

    /// A stream asks for a name. False: it is beyond a limit.
    pub fn ask(&mut self, id: StreamId, key: &Key) -> bool {
        let slot = key.kind.index();
        if !self.wanted.contains_key(key) {
            let share = self.asked.get(&id).map_or(0, |share| share.count[slot]);
            if self.count[slot] >= self.limit || share >= self.limit_of_stream {
                return false;
            }
            self.count[slot] += 1;
        }
        self.wanted.entry(key.clone()).or_default().insert(id);
        let share = self.asked.entry(id).or_default();
        share.count[slot] += usize::from(share.keys.insert(key.clone()));
        self.note(key);
        true
    }

    /// A stream asks for a name no more.
    pub fn cease(&mut self, id: StreamId, key: &Key) {
        if let Some(share) = self.asked.get_mut(&id)
            && share.keys.remove(key)
        {
            share.count[key.kind.index()] -= 1;
            if share.keys.is_empty() {
                self.asked.remove(&id);
            }
            self.want_less(id, key);
        }
    }

    /// A stream is gone.
    pub fn leave(&mut self, id: StreamId) {
        for key in self.asked.remove(&id).unwrap_or_default().keys {
            self.want_less(id, &key);
        }
    }

    fn want_less(&mut self, id: StreamId, key: &Key) {
        let Some(streams) = self.wanted.get_mut(key) else { return };
        streams.remove(&id);
        if streams.is_empty() {
            self.wanted.remove(key);
            self.count[key.kind.index()] -= 1;
            self.note(key);
        }
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

/// What one stream asked for beyond a limit, and when it asks again.
#[derive(Debug)]
pub(crate) struct Refused {
    keys: BTreeSet<Key>,
    ask_again: Option<Time>,
    /// Not at once: others may come and go often.
    after: Duration,
    was_logged: bool,
}

impl Refused {
    pub fn new(after: Duration) -> Self {
        Refused { keys: BTreeSet::new(), ask_again: None, after, was_logged: false }
    }

    /// When to take in wishes although there are none.
    pub fn due(&self) -> Option<Time> {
        self.ask_again
    }

    pub fn is_due(&self, now: Time) -> bool {
        self.ask_again.is_some_and(|at| at <= now)
    }

    /// Passes wishes on, and those that were refused before when it is time. Returns what is refused now.
    pub fn take_in(&mut self, wishes: Vec<Wish>, id: StreamId, demand: &mut Demand, now: Time) -> Vec<Key> {
        if self.is_due(now) {
            self.keys.retain(|key| !demand.ask(id, key));
            self.ask_again = None;
        }
        let mut refused = Vec::new();
        for wish in wishes {
            match wish {
                Wish::Asked(key) if demand.ask(id, &key) => {}
                Wish::Asked(key) => {
                    // Who asks for ever more is not remembered with all of it.
                    if self.keys.len() < demand.limit_of_stream {
                        self.keys.insert(key.clone());
                    }
                    refused.push(key);
                }
                Wish::Dropped(key) => {
                    demand.cease(id, &key);
                    self.keys.remove(&key);
                }
            }
        }
        self.ask_again = (!self.keys.is_empty()).then(|| self.ask_again.unwrap_or(now.after(self.after)));
        if !refused.is_empty() && !std::mem::replace(&mut self.was_logged, true) {
            let (names, limit, of_stream) = (refused.len(), demand.limit, demand.limit_of_stream);
            tracing::warn!(stream = id.0, names, limit, of_stream, "too many names are asked for, these are not made");
        }
        refused
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
        demand.leave(B);
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
    fn what_is_beyond_the_limit_is_refused_until_there_is_room() {
        let mut demand = Demand::new(1, 1);
        assert!(demand.ask(A, &key("iris")));
        assert!(!demand.ask(B, &key("wine")) && demand.ask(B, &key("iris")));
        assert_eq!(demand.poll(), [wanted("iris")]);
        demand.leave(A);
        assert!(!demand.ask(A, &key("wine")), "B still asks for iris");
        demand.cease(B, &key("iris"));
        assert!(demand.ask(B, &key("wine")));
        assert_eq!(demand.poll(), [unwanted("iris"), wanted("wine")]);
        demand.leave(B);
        assert_eq!(demand.poll(), [unwanted("wine")]);
        assert!(demand.asked.is_empty() && demand.wanted.is_empty() && demand.count == [0; Kind::COUNT]);
    }

    #[test]
    fn one_stream_does_not_take_all() {
        let mut demand = Demand::new(4, 2);
        let names = |prefix: &str| (0..3).map(|number| key(&format!("{prefix}-{number}"))).collect::<Vec<_>>();
        let (of_a, of_b) = (names("a"), names("b"));
        let asked = |demand: &mut Demand, id, keys: &[Key]| keys.iter().filter(|key| demand.ask(id, key)).count();
        assert_eq!(asked(&mut demand, A, &of_a), 2);
        assert_eq!(asked(&mut demand, A, &of_a), 2, "what it has costs nothing more");
        assert_eq!(asked(&mut demand, B, &of_b), 2);
        assert!(demand.ask(A, &of_b[0]), "what others ask for anyway");
        assert!(demand.ask(A, &Key::new(Kind::Cluster, "a")), "each kind has limits of its own");
        demand.cease(A, &of_a[2]);
        demand.cease(A, &of_a[0]);
        assert!(!demand.ask(A, &of_a[2]), "it asks for two");
        demand.leave(B);
        assert!(demand.poll().contains(&wanted(of_b[0].name.as_str())), "A still asks for it");
        demand.cease(A, &of_b[0]);
        assert!(demand.ask(A, &of_a[2]));
    }

    #[test]
    fn who_was_refused_asks_again_after_a_while() {
        let mut demand = Demand::new(1, 1);
        let mut refused = Refused::new(Duration::from_millis(10));
        let asked = |name: &str| Wish::Asked(key(name));
        assert!(demand.ask(B, &key("iris")));
        assert_eq!(refused.take_in(vec![asked("a"), asked("b")], A, &mut demand, Time(1)), [key("a"), key("b")]);
        assert_eq!(refused.due(), Some(Time(11)));
        assert_eq!(refused.take_in(vec![asked("iris")], A, &mut demand, Time(5)), []);
        assert_eq!(refused.due(), Some(Time(11)), "what comes meanwhile does not put it off");
        demand.leave(B);
        demand.cease(A, &key("iris"));
        assert_eq!(refused.take_in(vec![], A, &mut demand, Time(11)), []);
        assert!(demand.wanted.contains_key(&key("a")), "the first that there is room for");
        assert_eq!(refused.due(), None, "more than its share is not remembered");
        assert_eq!(refused.take_in(vec![asked("b")], A, &mut demand, Time(12)), [key("b")]);
        assert_eq!(refused.take_in(vec![Wish::Dropped(key("b"))], A, &mut demand, Time(13)), []);
        assert_eq!(refused.due(), None, "it does not ask for it any more");
    }
}
