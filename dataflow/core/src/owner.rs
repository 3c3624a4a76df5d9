//! Progress of one shard: which records are repeats, which are complete, what may be committed (`spec/delivery.md` §3–4).
//!
//! Invariants: `low` of a topic is the smallest offset that is not complete; a record is complete when nobody holds it any
//! more; a repeat is complete when the record that it repeats is; no slot is forgotten inside the repeat window.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use domain::Time;

use crate::slot::Slot;

/// For how long slots are remembered, in record time.
pub const REPEAT_WINDOW_MS: u64 = 120_000;

/// Slots are forgotten in groups of this much time.
const GROUP_MS: u64 = 10_000;

/// Most slots that are remembered before entries have to wait: at 32 bytes each, 128 MB.
const SLOTS_MAX: usize = 4_000_000;

/// Most records in hand before entries have to wait.
const HELD_MAX: usize = 100_000;

/// Where a record is, within the partition of the shard.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Which topic.
    pub topic: Arc<str>,
    /// Which of the topics that ever had the name.
    pub incarnation: u64,
    /// Which record.
    pub offset: u64,
}

/// A record in hand. It is complete when every hold on it is let go of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp(u64);

/// What to commit for one topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which topic.
    pub topic: Arc<str>,
    /// Everything below is complete.
    pub low: u64,
}

/// Slots are hashes already.
#[derive(Clone, Copy, Debug, Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 ^= u64::from_le_bytes(word);
        }
    }
    fn write_u128(&mut self, value: u128) {
        self.0 ^= u64::try_from(value & u128::from(u64::MAX)).unwrap_or(0);
    }
}

type Slots = HashSet<Slot, BuildHasherDefault<AsIs>>;

/// Records in hand, and what was accepted, of one shard.
#[derive(Debug, Default)]
pub struct Owner {
    topics: BTreeMap<Arc<str>, Progress>,
    held: BTreeMap<Stamp, Held>,
    next_stamp: u64,
    /// By slot, while in hand.
    in_hand: HashMap<Slot, Stamp, BuildHasherDefault<AsIs>>,
    /// Accepted slots by the time of their group, the oldest first.
    accepted: VecDeque<(u64, Slots)>,
    /// Found in the sinks at the take-over: they need not be written again.
    emitted: Slots,
    /// When the records in hand were first read.
    read_at: BTreeSet<(Time, Stamp)>,
    dirty: BTreeSet<Arc<str>>,
    /// Time up to which topics that are not read to their end have been read.
    behind: BTreeMap<Arc<str>, Time>,
    /// Records of owners before were first read then or later.
    inherited: Time,
    /// Topics of which such records are left: in hand, or not even read again.
    inheriting: BTreeSet<Arc<str>>,
    repeats: u64,
}

#[derive(Debug, Default)]
struct Progress {
    incarnation: u64,
    low: u64,
    complete: BTreeSet<u64>,
    /// Records below this one may have been read by an owner before.
    inherited_end: u64,
}

#[derive(Debug)]
struct Held {
    place: Place,
    slot: Slot,
    holds: u32,
    read_at: Time,
    repeats: Vec<Place>,
}

impl Owner {
    /// An owner that takes over: records in hand of the owner before were first read at `since`; `None`: nobody knows,
    /// as nobody has committed anything.
    #[must_use]
    pub fn new(since: Option<Time>) -> Self {
        Self { inherited: since.unwrap_or_default(), ..Self::default() }
    }

    /// Reads the topic from `low` on; what is below `end` may have been read before.
    pub fn start(&mut self, topic: &Arc<str>, incarnation: u64, low: u64, end: u64) {
        let progress = Progress { incarnation, low, complete: BTreeSet::new(), inherited_end: end };
        if low < end {
            self.inheriting.insert(Arc::clone(topic));
        } else {
            self.inheriting.remove(topic);
        }
        self.topics.insert(Arc::clone(topic), progress);
    }

    /// Reads the topic no longer; its records in hand are nobody's progress any more.
    pub fn stop(&mut self, topic: &str) {
        self.topics.remove(topic);
        self.dirty.remove(topic);
        self.behind.remove(topic);
        self.inheriting.remove(topic);
    }

    /// A slot that was accepted by the owner before, at that record time.
    pub fn remember(&mut self, slot: Slot, time: Time) {
        self.accept(slot, time);
    }

    /// A slot that was found in a sink.
    pub fn found(&mut self, slot: Slot) {
        self.emitted.insert(slot);
    }

    /// The emission is in its sink already.
    #[must_use]
    pub fn is_emitted(&self, slot: Slot) -> bool {
        self.emitted.contains(&slot)
    }

    fn accept(&mut self, slot: Slot, time: Time) {
        let group = time.0 / GROUP_MS;
        let at = self.accepted.partition_point(|(other, _)| *other < group);
        match self.accepted.get_mut(at) {
            Some((other, slots)) if *other == group => drop(slots.insert(slot)),
            _ => self.accepted.insert(at, (group, Slots::from_iter([slot]))),
        }
    }

    /// Takes a record in hand, unless it is a repeat: then it is complete with the record that it repeats.
    pub fn admit(&mut self, place: Place, slot: Slot, time: Time, now: Time) -> Option<Stamp> {
        if self.accepted.iter().any(|(_, slots)| slots.contains(&slot)) {
            self.repeats += 1;
            match self.in_hand.get(&slot).and_then(|stamp| self.held.get_mut(stamp)) {
                Some(held) => held.repeats.push(place),
                None => self.complete(&place),
            }
            return None;
        }
        self.accept(slot, time);
        let is_inherited = self.topics.get(&place.topic).is_some_and(|topic| place.offset < topic.inherited_end);
        // Nobody read it before it was there.
        let read_at = if is_inherited { self.inherited.max(time).min(now) } else { now };
        let stamp = Stamp(self.next_stamp);
        self.next_stamp += 1;
        self.held.insert(stamp, Held { place, slot, holds: 1, read_at, repeats: Vec::new() });
        self.in_hand.insert(slot, stamp);
        self.read_at.insert((read_at, stamp));
        Some(stamp)
    }

    /// Somebody else holds the record, too.
    pub fn hold(&mut self, stamp: Stamp) {
        if let Some(held) = self.held.get_mut(&stamp) {
            held.holds += 1;
        }
    }

    /// One hold less; with the last one it is complete.
    pub fn release(&mut self, stamp: Stamp) {
        let Some(held) = self.held.get_mut(&stamp) else { return };
        held.holds -= 1;
        if held.holds > 0 {
            return;
        }
        if let Some(held) = self.held.remove(&stamp) {
            self.in_hand.remove(&held.slot);
            self.read_at.remove(&(held.read_at, stamp));
            self.complete(&held.place);
            held.repeats.iter().for_each(|place| self.complete(place));
        }
    }

    /// A record that needs nothing.
    pub fn complete(&mut self, place: &Place) {
        let progress = self.topics.get_mut(&place.topic);
        // A record of a topic that is gone is nobody's progress, least of all the next topic's of its name.
        let Some(progress) = progress.filter(|of| of.incarnation == place.incarnation) else { return };
        progress.complete.insert(place.offset);
        let before = progress.low;
        while progress.complete.remove(&progress.low) {
            progress.low += 1;
        }
        if progress.low != before {
            self.moved(&place.topic);
        }
    }

    /// There is progress in the topic.
    fn moved(&mut self, topic: &Arc<str>) {
        self.dirty.insert(Arc::clone(topic));
        let is_past = |progress: &Progress| progress.low >= progress.inherited_end;
        if !self.inheriting.is_empty() && self.topics.get(topic).is_some_and(is_past) {
            self.inheriting.remove(topic);
        }
    }

    /// Records that cannot be read: everything from `from` up to `to`.
    pub fn skip(&mut self, topic: &Arc<str>, from: u64, to: u64) {
        let Some(progress) = self.topics.get_mut(topic) else { return };
        if progress.low >= from && progress.low < to {
            progress.low = to;
            progress.complete = progress.complete.split_off(&to);
            while progress.complete.remove(&progress.low) {
                progress.low += 1;
            }
            self.moved(topic);
        } else {
            let incarnation = progress.incarnation;
            (from..to).for_each(|offset| self.complete(&Place { topic: Arc::clone(topic), incarnation, offset }));
        }
    }

    /// The topic is read up to a record of that time; `None`: to its end.
    pub fn read_up_to(&mut self, topic: &Arc<str>, time: Option<Time>) {
        match time {
            Some(time) => drop(self.behind.insert(Arc::clone(topic), time)),
            None => drop(self.behind.remove(topic)),
        }
    }

    /// Up to when everything has been read: the owner's clock, unless a topic has more to read.
    #[must_use]
    pub fn read_time(&self, now: Time) -> Time {
        self.behind.values().copied().min().map_or(now, |behind| behind.min(now))
    }

    /// Forgets what is older than the repeat window.
    pub fn forget(&mut self, now: Time) {
        let oldest = self.read_time(now).before(REPEAT_WINDOW_MS).0 / GROUP_MS;
        while self.accepted.front().is_some_and(|(group, _)| *group < oldest) {
            self.accepted.pop_front();
        }
        // However old it is: what it was made from may still have to be read.
        if !self.emitted.is_empty() && self.inheriting.is_empty() {
            self.emitted = HashSet::default();
        }
    }

    /// What changed since the last call.
    pub fn checkpoints(&mut self) -> Vec<Checkpoint> {
        let dirty = std::mem::take(&mut self.dirty);
        let low = |topic: Arc<str>| self.topics.get(&topic).map(|progress| (topic, progress.low));
        dirty.into_iter().filter_map(low).map(|(topic, low)| Checkpoint { topic, low }).collect()
    }

    /// These could not be committed.
    pub fn not_committed(&mut self, checkpoints: Vec<Checkpoint>) {
        self.dirty.extend(checkpoints.into_iter().map(|checkpoint| checkpoint.topic));
    }

    /// When the oldest record that is not complete was first read by any owner; the present, if there is none.
    #[must_use]
    pub fn since(&self, now: Time) -> Time {
        let oldest = self.read_at.first().map_or(now, |(at, _)| *at);
        if self.inheriting.is_empty() { oldest } else { self.inherited.min(oldest) }
    }

    /// Records in hand.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Entries have to wait until there is room.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.held.len() >= HELD_MAX || self.slots() >= SLOTS_MAX
    }

    /// Slots that are remembered.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.accepted.iter().map(|(_, slots)| slots.len()).sum()
    }

    /// Repeats that were dropped.
    #[must_use]
    pub fn repeats(&self) -> u64 {
        self.repeats
    }
}
