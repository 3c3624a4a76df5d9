//! Which changes have been applied by every stream that counts, and when nobody can be using what was before.
//!
//! - *Applied*: every gating stream applied the change. Gating is who is connected, past the first sync of the kind and
//!   not lagging, at the time of the change; who comes later has the change from the start.
//! - *Released*: besides, every other stream that may use the old state applied it or expired: streams in their first
//!   sync, lagging ones and lost ones, each for at most `drain_grace` after it lagged or was lost.
//! - A resource that a stream refused, or that requires what it refused, does not gate there; if all that counted refused
//!   it, it is neither applied nor released before a stream applies it: one that comes later, or one that lagged.
//!
//! Not here: sessions and sockets. Pure: the time is an argument. A newer change of a key supersedes the older one.

mod feedback;
mod waiting;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::resource::{Key, Kind, Revision};
use crate::session::{Rejection, Standing};
use crate::time::Time;
pub use feedback::Feedback;
use waiting::Waiting;

/// Lost streams that are told apart. Beyond, one waits for all of them, so a client that reconnects in a loop costs
/// nothing more.
const MAX_LOST: usize = 1_000;

/// Refusals that wait to be told. The owner reads them in microseconds; a client that refuses everything in a loop
/// fills this and no more.
const MAX_REJECTIONS: usize = 10_000;

/// What is handed out together.
const TOLD_AT_ONCE: usize = 1_024;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// Stands for streams of which nothing is known but that they may exist: those of an earlier run of this server.
const UNKNOWN: StreamId = StreamId(0);

/// How far a stream is with each kind: `None` is not asked for, `Some(None)` is in its first sync.
pub type Progress = [Option<Option<Revision>>; Kind::COUNT];

#[derive(Debug)]
struct Stream {
    node: String,
    progress: Progress,
    /// Set while it lags: it catches up when it has this revision, and holds nothing up after the time.
    lagging: Option<(Revision, Time)>,
    waits: BTreeSet<Key>,
}

#[derive(Debug)]
struct Lost {
    node: String,
    asked: [bool; Kind::COUNT],
    until: Time,
    /// The newest stream when it was lost: only a later one can be its client coming back.
    newest: StreamId,
    waits: BTreeSet<Key>,
}

#[derive(Debug)]
pub struct Gate {
    lag_after: Duration,
    drain_grace: Duration,
    streams: BTreeMap<StreamId, Stream>,
    lost: BTreeMap<StreamId, Lost>,
    waiting: BTreeMap<Key, Box<Waiting>>,
    /// Those of them that whoever counted refused. Streams that come are asked about them.
    refused: BTreeSet<Key>,
    /// In order of time, because `lag_after` is the same for all; with the serial of the watch.
    bounds: VecDeque<(Time, Key, u64)>,
    watches: u64,
    /// Streams were asked about what they may have taken long ago, so nothing else makes them answer.
    asks: bool,
    newest: Revision,
    newest_stream: StreamId,
    outbox: VecDeque<Feedback>,
    rejections: usize,
    muted: bool,
}

impl Gate {
    /// Until [`Gate::open`] nothing is released.
    #[must_use]
    pub fn new(lag_after: Duration, drain_grace: Duration) -> Self {
        let mut gate = Gate {
            lag_after,
            drain_grace,
            streams: BTreeMap::new(),
            lost: BTreeMap::new(),
            waiting: BTreeMap::new(),
            refused: BTreeSet::new(),
            bounds: VecDeque::new(),
            watches: 0,
            asks: false,
            newest: Revision::ZERO,
            newest_stream: UNKNOWN,
            outbox: VecDeque::new(),
            rejections: 0,
            muted: false,
        };
        gate.lose_unknown([true; Kind::COUNT], Time::NEVER);
        gate
    }

    /// `earlier_streams`: streams of an earlier run may be using what it told them.
    pub fn open(&mut self, earlier_streams: bool, now: Time) {
        if earlier_streams {
            if let Some(unknown) = self.lost.get_mut(&UNKNOWN) {
                unknown.until = now.after(self.drain_grace);
            }
        } else {
            self.expire(UNKNOWN);
        }
    }

    pub fn connect(&mut self, id: StreamId, node: String) {
        let stream = Stream { node, progress: [None; Kind::COUNT], lagging: None, waits: BTreeSet::new() };
        self.streams.insert(id, stream);
        self.newest_stream = self.newest_stream.max(id);
        self.tell_connected();
    }

    /// `served`: it was sent something, so it may be using it.
    pub fn disconnect(&mut self, id: StreamId, served: bool, now: Time) {
        let Some(stream) = self.streams.remove(&id) else { return };
        self.tell_connected();
        let until = now.after(self.drain_grace);
        for key in &stream.waits {
            if let Some(waiting) = self.waiting.get_mut(key) {
                waiting.applied_by.remove(id);
                waiting.asked.remove(id);
                if !served {
                    waiting.released_by.remove(id);
                } else if self.lost.len() >= MAX_LOST && waiting.released_by.remove(id) {
                    waiting.released_by.insert(UNKNOWN);
                }
            }
        }
        if served && self.lost.len() >= MAX_LOST {
            self.lose_unknown(stream.progress.map(|kind| kind.is_some()), until);
            if let Some(unknown) = self.lost.get_mut(&UNKNOWN) {
                unknown.waits.extend(stream.waits.iter().cloned());
            }
        } else if served {
            let asked = stream.progress.map(|kind| kind.is_some());
            self.lost.insert(
                id,
                Lost { node: stream.node, asked, until, newest: self.newest_stream, waits: stream.waits.clone() },
            );
        }
        for key in stream.waits {
            self.conclude(&key);
        }
    }

    /// A stream is asking for a kind: from now on what changes of it waits for that stream, too.
    pub fn asks(&mut self, id: StreamId, kind: Kind) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.progress[kind.index()].is_none() {
            stream.progress[kind.index()] = Some(None);
            // It is about to answer.
            let _is_asked = self.ask_about_refused(id);
        }
    }

    /// A stream may take what it refused, or did not want, before.
    pub fn ask_again(&mut self, id: StreamId) {
        self.asks |= self.ask_about_refused(id);
    }

    /// Listens to what a stream makes of what all others refused. Returns whether there is something.
    fn ask_about_refused(&mut self, id: StreamId) -> bool {
        let Some(stream) = self.streams.get_mut(&id) else { return false };
        let mut is_asked = false;
        for key in self.refused.iter().filter(|key| stream.progress[key.kind.index()].is_some()) {
            if let Some(waiting) = self.waiting.get_mut(key)
                && stream.waits.insert(key.clone())
            {
                waiting.asked.insert(id);
                is_asked = true;
            }
        }
        is_asked
    }

    /// Begins to wait for a change: `at` is the change of the key, `revision` what the owner knows it by.
    pub fn watch(&mut self, key: Key, at: Revision, revision: Revision, now: Time) {
        let was_refused = self.unwatch(&key).is_some_and(|before| before.is_of(at) && before.is_refused());
        self.newest = self.newest.max(at);
        let slot = key.kind.index();
        self.watches += 1;
        let serial = self.watches;
        let mut waiting = Waiting::new(serial, at, revision, was_refused);
        for (id, stream) in &mut self.streams {
            let Some(synced) = stream.progress[slot] else { continue };
            match stream.lagging {
                Some((_, until)) if until <= now => continue,
                Some(_) => {}
                None if synced.is_some() => {
                    waiting.applied_by.insert(*id);
                }
                None => {}
            }
            waiting.released_by.insert(*id);
            stream.waits.insert(key.clone());
        }
        for (id, lost) in self.lost.iter_mut().filter(|(_, lost)| lost.asked[slot] && lost.until > now) {
            waiting.released_by.insert(*id);
            lost.waits.insert(key.clone());
        }
        if !waiting.released_by.is_empty() {
            self.bounds.push_back((now.after(self.lag_after), key.clone(), serial));
        }
        self.waiting.insert(key.clone(), Box::new(waiting));
        self.conclude(&key);
    }

    /// The keys whose standing on a stream the gate waits to hear.
    #[must_use]
    pub fn outstanding(&self, id: StreamId) -> Vec<Key> {
        self.streams.get(&id).map_or(Vec::new(), |stream| stream.waits.iter().cloned().collect())
    }

    /// `judged_at`: the revision of the table that the standings are of.
    pub fn report(&mut self, id: StreamId, progress: Progress, standings: Vec<(Key, Standing)>, judged_at: Revision) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.progress = progress;
        if let Some((mark, _)) = stream.lagging
            && progress.iter().flatten().all(|settled| settled.is_some_and(|settled| settled >= mark))
        {
            stream.lagging = None;
            self.ask_again(id);
        }
        for (key, standing) in standings {
            let Some(waiting) = self.waiting.get_mut(&key) else { continue };
            // What is watched again unchanged may be taken now, because what it requires has changed.
            if judged_at < waiting.revision {
                continue;
            }
            match standing {
                Standing::Applied(revision) if revision >= waiting.at => waiting.acks += 1,
                Standing::Rejected(revision) if revision >= waiting.at => waiting.refusals += 1,
                Standing::Foreign => {}
                Standing::Applied(_) | Standing::Rejected(_) | Standing::Outstanding => continue,
            }
            waiting.forget(id);
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.waits.remove(&key);
            }
            self.conclude(&key);
        }
        self.welcome_back(id);
    }

    pub fn reject(&mut self, node: &str, rejection: Rejection) {
        if self.rejections >= MAX_REJECTIONS {
            tracing::warn!(key = %rejection.key, node, "refusals are not read, one was dropped");
            return;
        }
        if self.muted {
            return;
        }
        self.rejections += 1;
        let Rejection { key, version, message } = rejection;
        self.tell(Feedback::Rejected { key, version, node: node.to_owned(), message });
    }

    #[must_use]
    pub fn is_lagging(&self, id: StreamId) -> bool {
        self.streams.get(&id).is_some_and(|stream| stream.lagging.is_some())
    }

    /// Lets pass what is due and hands out what there is to tell, or a part of it.
    pub fn poll(&mut self, now: Time) -> Vec<Feedback> {
        while let Some((due, key, serial)) = self.bounds.front().cloned() {
            let live = self.waiting.get(&key).filter(|waiting| waiting.serial == serial);
            if due > now && live.is_some() {
                break;
            }
            self.bounds.pop_front();
            if let Some(waiting) = live {
                let late = waiting.released_by.iter().collect::<Vec<_>>();
                for id in late {
                    self.lag(id, now);
                }
            }
        }
        let expired: Vec<StreamId> =
            self.lost.iter().filter(|(_, lost)| lost.until <= now).map(|(id, _)| *id).collect();
        for id in expired {
            self.expire(id);
        }
        let expired = self.streams.iter().filter(|(_, stream)| stream.lagging.is_some_and(|(_, until)| until <= now));
        let expired: Vec<StreamId> = expired.map(|(id, _)| *id).collect();
        for id in expired {
            let waits = self.streams.get_mut(&id).map(|stream| std::mem::take(&mut stream.waits));
            self.release(id, waits.unwrap_or_default());
        }
        let told: Vec<Feedback> = self.outbox.drain(..self.outbox.len().min(TOLD_AT_ONCE)).collect();
        self.rejections -= told.iter().filter(|told| matches!(told, Feedback::Rejected { .. })).count();
        // After a start everything is told at once, and never again so much. What is left is moved each time.
        let kept = self.outbox.len().max(TOLD_AT_ONCE);
        if self.outbox.capacity() / 4 > kept {
            self.outbox.shrink_to(kept);
        }
        told
    }

    /// When to poll again although nothing happened.
    #[must_use]
    pub fn due(&self) -> Option<Time> {
        let bound = self.bounds.front().map(|(due, _, _)| *due);
        let lost = self.lost.values().map(|lost| lost.until);
        let lagging = self.streams.values().filter(|stream| !stream.waits.is_empty());
        let lagging = lagging.filter_map(|stream| stream.lagging.map(|(_, until)| until));
        bound.into_iter().chain(lost).chain(lagging).filter(|at| *at != Time::NEVER).min()
    }

    /// Nobody listens any more: feedback is not kept.
    pub fn mute(&mut self) {
        self.muted = true;
        self.rejections = 0;
        self.outbox.clear();
    }

    /// Whether there is something to tell, or streams to make answer, before anything is due.
    #[must_use]
    pub fn has_news(&self) -> bool {
        !self.outbox.is_empty() || self.asks
    }

    /// Whether there is something that all refused.
    #[must_use]
    pub fn has_refused(&self) -> bool {
        !self.refused.is_empty()
    }

    /// Whether streams are to be made to answer for what they wait for, since the last call.
    pub fn take_asks(&mut self) -> bool {
        std::mem::take(&mut self.asks)
    }

    /// The change of a key that nobody waits for was made at this revision: what all refused of it before is over.
    pub fn changed(&mut self, key: &Key, at: Revision) {
        if self.refused.contains(key) && self.waiting.get(key).is_some_and(|waiting| !waiting.is_of(at)) {
            self.unwatch(key);
        }
    }

    fn tell(&mut self, feedback: Feedback) {
        if !self.muted {
            self.outbox.push_back(feedback);
        }
    }

    fn tell_connected(&mut self) {
        let told = Feedback::Connected { streams: self.streams.len() };
        match self.outbox.back_mut() {
            Some(last @ Feedback::Connected { .. }) => *last = told,
            Some(
                Feedback::Applied { .. }
                | Feedback::Released { .. }
                | Feedback::Rejected { .. }
                | Feedback::Refused { .. }
                | Feedback::Wanted { .. }
                | Feedback::Unwanted { .. },
            )
            | None => self.tell(told),
        }
    }

    /// Those that are not told apart asked for all that any of them did.
    fn lose_unknown(&mut self, asked: [bool; Kind::COUNT], until: Time) {
        let lost = Lost { node: String::new(), asked, until, newest: self.newest_stream, waits: BTreeSet::new() };
        let unknown = self.lost.entry(UNKNOWN).or_insert(lost);
        unknown.until = unknown.until.max(until);
        for (before, now) in unknown.asked.iter_mut().zip(asked) {
            *before |= now;
        }
    }

    /// A stream that missed the bound gates nothing from now on, and after the grace holds nothing up.
    fn lag(&mut self, id: StreamId, now: Time) {
        let until = now.after(self.drain_grace);
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.lagging.is_none()) else { return };
        tracing::warn!(stream = id.0, node = %stream.node, "stream does not keep up and gates nothing until it does");
        stream.lagging = Some((self.newest, until));
        for key in stream.waits.clone() {
            if let Some(waiting) = self.waiting.get_mut(&key) {
                waiting.applied_by.remove(id);
            }
            self.conclude(&key);
        }
    }

    /// A client that came back and is in sync ends the wait for its lost stream, if it is clear which one that was:
    /// one lost and one live stream of that node id. Node ids are not unique everywhere.
    fn welcome_back(&mut self, id: StreamId) {
        if self.lost.is_empty() {
            return;
        }
        let Some(stream) = self.streams.get(&id) else { return };
        if !stream.progress.iter().flatten().all(Option::is_some) {
            return;
        }
        let same_node = |(lost_id, lost): &(&StreamId, &Lost)| **lost_id != UNKNOWN && lost.node == stream.node;
        let mut lost = self.lost.iter().filter(same_node);
        let (Some((lost_id, only)), None) = (lost.next(), lost.next()) else { return };
        let asks_all = only.asked.iter().zip(&stream.progress).all(|(before, after)| !before || after.is_some());
        let twins = self.streams.values().filter(|other| other.node == stream.node).count();
        if asks_all && twins == 1 && id > only.newest {
            let lost_id = *lost_id;
            self.expire(lost_id);
        }
    }

    fn expire(&mut self, id: StreamId) {
        if let Some(lost) = self.lost.remove(&id) {
            self.release(id, lost.waits);
        }
    }

    fn release(&mut self, id: StreamId, keys: BTreeSet<Key>) {
        for key in keys {
            if let Some(waiting) = self.waiting.get_mut(&key) {
                waiting.forget(id);
                self.conclude(&key);
            }
        }
    }

    fn unwatch(&mut self, key: &Key) -> Option<Box<Waiting>> {
        let waiting = self.waiting.remove(key)?;
        self.refused.remove(key);
        for id in waiting.released_by.iter().chain(waiting.asked.iter()) {
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.waits.remove(key);
            }
            if let Some(lost) = self.lost.get_mut(&id) {
                lost.waits.remove(key);
            }
        }
        Some(waiting)
    }

    fn conclude(&mut self, key: &Key) {
        let Some(waiting) = self.waiting.get_mut(key) else { return };
        if !waiting.applied_by.is_empty() {
            return;
        }
        let revision = waiting.revision;
        let told_before = waiting.told_applied;
        if !told_before && waiting.acks == 0 && (waiting.refusals > 0 || waiting.was_refused) {
            let is_news = !std::mem::replace(&mut waiting.told_refused, true);
            if self.refused.insert(key.clone()) {
                // Some came since it was changed. Who refused it says so again.
                for (id, stream) in &mut self.streams {
                    if stream.progress[key.kind.index()].is_some() && stream.waits.insert(key.clone()) {
                        waiting.asked.insert(*id);
                        self.asks = true;
                    }
                }
            }
            if is_news {
                self.tell(Feedback::Refused { key: key.clone(), revision });
            }
            return;
        }
        waiting.told_applied = true;
        for id in std::mem::take(&mut waiting.asked).iter() {
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.waits.remove(key);
            }
        }
        let is_released = waiting.released_by.is_empty();
        if !told_before {
            self.refused.remove(key);
            self.tell(Feedback::Applied { key: key.clone(), revision });
        }
        if is_released {
            self.tell(Feedback::Released { key: key.clone(), revision });
            self.waiting.remove(key);
        }
    }
}
