//! One change that the gate waits for, and the streams it waits for.

use super::StreamId;
use crate::resource::Revision;

/// In their order. There may be a hundred thousand of these with one stream each.
#[derive(Debug, Default)]
pub(super) struct Streams(Vec<StreamId>);

impl Streams {
    pub fn insert(&mut self, id: StreamId) {
        if let Err(at) = self.0.binary_search(&id) {
            self.0.insert(at, id);
        }
    }

    /// Returns whether it was there.
    pub fn remove(&mut self, id: StreamId) -> bool {
        let at = self.0.binary_search(&id);
        at.map(|at| self.0.remove(at)).is_ok()
    }

    pub fn iter(&self) -> impl Iterator<Item = StreamId> {
        self.0.iter().copied()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A change that is waited for.
#[derive(Debug)]
pub(super) struct Waiting {
    /// Tells it from what was waited for of the key before.
    pub serial: u64,
    /// The change of the key itself; `revision` is what the owner knows it by.
    pub at: Revision,
    pub revision: Revision,
    pub applied_by: Streams,
    pub released_by: Streams,
    /// Streams that are asked because all that counted refused it. They hold nothing up.
    pub asked: Streams,
    pub acks: usize,
    pub refusals: usize,
    pub told_applied: bool,
    pub told_refused: bool,
    /// It was refused before, as it is, so that nobody to wait for is not enough to be applied.
    pub was_refused: bool,
}

impl Waiting {
    /// Nobody is waited for yet.
    pub fn new(serial: u64, at: Revision, revision: Revision, was_refused: bool) -> Self {
        Waiting {
            serial,
            at,
            revision,
            applied_by: Streams::default(),
            released_by: Streams::default(),
            asked: Streams::default(),
            acks: 0,
            refusals: 0,
            told_applied: false,
            told_refused: false,
            was_refused,
        }
    }

    /// Whether it is this change. A removal that all have passed is forgotten: it has none.
    pub fn is_of(&self, at: Revision) -> bool {
        at == self.at || at == Revision::ZERO
    }

    /// Nobody has taken it, and whoever counted refused it.
    pub fn is_refused(&self) -> bool {
        !self.told_applied && (self.told_refused || self.was_refused)
    }

    /// It waits for this stream no more.
    pub fn forget(&mut self, id: StreamId) {
        self.applied_by.remove(id);
        self.released_by.remove(id);
        self.asked.remove(id);
    }
}
