//! What one stream has of one kind: where it reads the log, what is on its way, what waits and what was refused.
//!
//! Not here: the decisions (they look at several lanes and live in `session`).
//! Invariant: a wanted resource is applied on the stream when its change is at or before the cursor and its name is in
//! none of `pending`, `held`, `stuck`, `bisect` and `inflight`. So a wildcard costs a cursor, never a map of all names.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use crate::message::{Mode, Nonce};
use crate::resource::{Kind, Name, Resource, Revision, Version};
use crate::subscription::{Interest, MAX_NAMED_BYTES, TooManyNames, cost};
use crate::time::Time;

/// Scopes in one response after the first: Envoy applies a response in one go on every worker, and 10,000 scopes at
/// once were measured to hold requests up for 55-86 ms, 500-2,000 for 12-16 ms.
const SCOPES_PER_RESPONSE: usize = 1_000;

/// Refusals of one kind whose texts are kept, 4 kB each at most: a client may refuse everything.
const REASONS_MAX: usize = 100;

/// Removals of one kind that a client is not told because it refused something and goes on with what was before.
const KEPT_MAX: usize = 1_000;

/// Why a name is looked at again although the cursor passed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// The client asked for it just now: it gets an answer even if that is "there is none".
    Asked,
    /// The client has another version of it, or has something that is gone.
    Differs,
    /// Its cluster was sent, and Envoy waits for the endpoints again.
    Again,
}

/// What a response changed.
#[derive(Debug)]
pub(super) enum Items {
    /// `None` is a removal.
    Named(HashMap<Name, Option<Version>>),
    /// All there was. A map of it would be most of what a stream ever needs.
    Everything(Arc<[Arc<Resource>]>),
}

impl Items {
    pub fn len(&self) -> usize {
        match self {
            Items::Named(items) => items.len(),
            Items::Everything(resources) => resources.len(),
        }
    }

    /// Whether the response says something of a name.
    pub fn contains(&self, name: &Name) -> bool {
        match self {
            Items::Named(items) => items.contains_key(name),
            Items::Everything(_) => true,
        }
    }

    /// Whether it says this of a name, if it says anything.
    pub fn says(&self, name: &Name, version: Option<Version>) -> Option<bool> {
        match self {
            Items::Named(items) => items.get(name).map(|said| *said == version),
            Items::Everything(_) => Some(true),
        }
    }

    pub fn iter(&self) -> Box<dyn Iterator<Item = (&Name, Option<Version>)> + '_> {
        match self {
            Items::Named(items) => Box::new(items.iter().map(|(name, version)| (name, *version))),
            Items::Everything(resources) => {
                Box::new(resources.iter().map(|resource| (resource.name(), Some(resource.version()))))
            }
        }
    }
}

/// How far a stream is, as [`Lane`] says it, once a response is ACKed or there is nothing to say.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Settles {
    pub synced: Option<Revision>,
    pub settled: Option<Revision>,
}

#[derive(Debug)]
pub(super) struct Inflight {
    pub items: Items,
    pub settles: Settles,
    /// SotW kinds whose responses are the full state: that state.
    pub state: BTreeMap<Name, Arc<Resource>>,
    /// The first answer of a wildcard, with everything.
    pub is_first: bool,
    /// What the refusal of another one did not speak of.
    pub is_rest: bool,
}

/// A part of a refused response.
#[derive(Debug)]
pub(super) struct Part {
    pub names: BTreeSet<Name>,
    pub is_rest: bool,
}

/// A name that was asked for and that an answer waits for.
#[derive(Debug)]
pub(super) struct Awaited {
    pub until: Time,
    /// It is waited for although it is not in the table.
    pub is_made: bool,
}

#[derive(Debug)]
pub(super) struct Lane {
    pub kind: Kind,
    pub interest: Interest,
    pub cursor: Revision,
    pub pending: BTreeMap<Name, Why>,
    /// Bytes of names that came into `pending` because they were dropped, since it was empty.
    dropped_bytes: usize,
    /// What may not be sent yet, with the revision of the change.
    pub held: BTreeMap<Name, Revision>,
    /// What may not be sent before something changes that this client refused, with the revision of its own change.
    pub stuck: BTreeMap<Name, Revision>,
    /// What this client refused, `None` for a refused removal. Not sent again until it changes.
    pub quarantine: BTreeMap<Name, Option<Version>>,
    /// What it said about some of them, for people.
    pub reasons: BTreeMap<Name, Arc<str>>,
    /// The parts of refused responses, to be sent one after the other until the culprit is alone.
    pub bisect: VecDeque<Part>,
    pub inflight: Option<Inflight>,
    pub last_nonce: Option<Nonce>,
    /// A response is due even if there is nothing to say.
    pub answer_owed: bool,
    /// The next answer is the first of a wildcard and has everything; asked for at this time.
    pub whole_since: Option<Time>,
    /// The client has applied the table as it was at this revision, but for what it refused and what is stuck. `None`
    /// before the first sync.
    pub synced: Option<Revision>,
    /// All of it: it uses nothing older.
    pub settled: Option<Revision>,
    /// SotW, full state kinds: what the client has.
    pub state: BTreeMap<Name, Arc<Resource>>,
    /// What held names were last judged by, and when to judge them again all the same.
    pub judged: Option<(u64, Revision, Revision)>,
    /// What stuck names were last judged by.
    pub stuck_judged: Option<(u64, Option<Revision>)>,
    pub retry_at: Time,
    /// Names without which no answer is given.
    pub awaited: BTreeMap<Name, Awaited>,
    /// One of them that has not come.
    pub awaits_for: Option<Name>,
    /// Set while none is given because of them.
    pub awaits_until: Option<Time>,
}

impl Lane {
    pub fn new(kind: Kind) -> Self {
        Lane {
            kind,
            interest: Interest::new(kind),
            cursor: Revision::ZERO,
            pending: BTreeMap::new(),
            dropped_bytes: 0,
            held: BTreeMap::new(),
            stuck: BTreeMap::new(),
            quarantine: BTreeMap::new(),
            reasons: BTreeMap::new(),
            bisect: VecDeque::new(),
            inflight: None,
            last_nonce: None,
            answer_owed: false,
            whole_since: None,
            synced: None,
            settled: None,
            state: BTreeMap::new(),
            judged: None,
            stuck_judged: None,
            retry_at: Time::NEVER,
            awaited: BTreeMap::new(),
            awaits_for: None,
            awaits_until: None,
        }
    }

    /// In SotW these responses replace all there was, so that absence is removal.
    pub fn is_full_state(&self, mode: Mode) -> bool {
        mode == Mode::Sotw && self.kind.is_root()
    }

    pub fn limit(&self, mode: Mode) -> usize {
        match self.kind {
            Kind::ScopedRoute if mode == Mode::Delta && self.whole_since.is_none() => SCOPES_PER_RESPONSE,
            Kind::ScopedRoute
            | Kind::Cluster
            | Kind::Endpoints
            | Kind::Listener
            | Kind::Route
            | Kind::Secret
            | Kind::Runtime => usize::MAX,
        }
    }

    /// Whether something about this name is still to be sent or ACKed, apart from what is after the cursor.
    pub fn is_outstanding(&self, name: &Name) -> bool {
        self.pending.contains_key(name)
            || self.held.contains_key(name)
            || self.inflight.as_ref().is_some_and(|inflight| inflight.items.contains(name))
            || self.bisect.iter().any(|part| part.names.contains(name))
    }

    /// A name that was dropped under a wildcard is answered; a client may drop more and more, and read nothing.
    pub fn answer_dropped(&mut self, name: &Name) -> Result<(), TooManyNames> {
        if self.pending.is_empty() {
            self.dropped_bytes = 0;
        }
        self.dropped_bytes += cost(name);
        if self.dropped_bytes > MAX_NAMED_BYTES {
            return Err(TooManyNames { kind: self.kind });
        }
        self.pending.insert(name.clone(), Why::Asked);
        Ok(())
    }

    /// The change from which on it is not sent, if there is one.
    pub fn held_since(&self, name: &Name) -> Option<Revision> {
        self.held.get(name).or_else(|| self.stuck.get(name)).copied()
    }

    /// Returns whether it was stuck.
    pub fn unhold(&mut self, name: &Name) -> bool {
        self.held.remove(name);
        self.stuck.remove(name).is_some()
    }

    /// Whether one more removal may wait for what was refused, or this one goes on to.
    pub fn may_keep(&self, name: &Name) -> bool {
        self.stuck.len() < KEPT_MAX || self.stuck.contains_key(name)
    }

    /// There is nothing left to say up to this revision, or nothing but what is stuck.
    pub fn settle(&mut self, settles: Settles) {
        self.synced = settles.synced.or(self.synced);
        self.settled = settles.settled.or(self.settled);
    }

    /// It is refused until it changes.
    pub fn refuse(&mut self, name: Name, version: Option<Version>, reason: &str) {
        if self.reasons.len() < REASONS_MAX {
            self.reasons.insert(name.clone(), reason.into());
        }
        self.quarantine.insert(name, version);
    }

    /// Forgets what was refused of what is not subscribed any more.
    pub fn forget_refused(&mut self) {
        let Lane { interest, quarantine, reasons, .. } = self;
        quarantine.retain(|name, _| interest.names().contains(name));
        reasons.retain(|name, _| interest.names().contains(name));
    }

    /// What was refused has changed. Returns whether it was.
    pub fn release(&mut self, name: &Name) -> bool {
        self.reasons.remove(name);
        self.quarantine.remove(name).is_some()
    }

    /// Forgets a name that is not subscribed any more. Returns whether something may have been stuck because of it.
    pub fn forget(&mut self, name: &Name) -> bool {
        self.pending.remove(name);
        self.awaited.remove(name);
        self.state.remove(name);
        self.unhold(name) | self.release(name)
    }
}
