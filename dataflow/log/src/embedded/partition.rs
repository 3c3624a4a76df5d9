//! Where the records of one partition are. No I/O.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use super::lock;
use super::reader::Bell;
use crate::Bounds;

/// Positions of a partition's records in one segment that is not sealed yet.
#[derive(Clone, Debug)]
pub(super) struct Tail {
    pub(super) segment: u32,
    pub(super) first: u64,
    pub(super) positions: Vec<u32>,
}

impl Tail {
    pub(super) fn end(&self) -> u64 {
        self.first + self.positions.len() as u64
    }
}

/// The same in a sealed segment: `count` positions in its index file, from the byte `at` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) segment: u32,
    pub(super) count: u32,
    pub(super) first: u64,
    pub(super) at: u64,
}

impl Run {
    pub(super) fn end(&self) -> u64 {
        self.first + u64::from(self.count)
    }
}

pub(super) struct Partition {
    pub(super) number: u64,
    state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) next: u64,
    pub(super) runs: VecDeque<Run>,
    pub(super) tails: VecDeque<Tail>,
    bells: Vec<(Arc<Bell>, u32)>,
    closed: bool,
}

/// Where records are, from one offset on, all in one segment.
pub(super) enum Found {
    Tail { segment: u32, first: u64, positions: Vec<u32> },
    Run { run: Run, from: u64 },
}

impl Partition {
    pub(super) fn new(number: u64, next: u64) -> Self {
        Self { number, state: Mutex::new(State { next, ..State::default() }) }
    }

    pub(super) fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut lock(&self.state))
    }

    pub(super) fn bounds(&self) -> Bounds {
        let state = lock(&self.state);
        Bounds { start: state.start(), end: state.next }
    }

    /// Its topic is gone; whoever reads it is told so.
    pub(super) fn close(&self) {
        let before = std::mem::replace(&mut *lock(&self.state), State { closed: true, ..State::default() });
        before.ring();
    }

    pub(super) fn is_closed(&self) -> bool {
        lock(&self.state).closed
    }

    /// Rings the bell with that number whenever a record comes.
    pub(super) fn listen(&self, bell: &Arc<Bell>, number: u32) {
        lock(&self.state).bells.push((Arc::clone(bell), number));
    }

    pub(super) fn leave(&self, bell: &Arc<Bell>, number: u32) {
        lock(&self.state).bells.retain(|(other, at)| !(Arc::ptr_eq(other, bell) && *at == number));
    }

    /// At most `most` positions from the offset on, or from the first that is kept.
    pub(super) fn locate(&self, from: u64, most: usize) -> Option<Found> {
        let state = lock(&self.state);
        let at = state.runs.partition_point(|run| run.end() <= from);
        if let Some(run) = state.runs.get(at) {
            return Some(Found::Run { run: *run, from: from.max(run.first) });
        }
        let tail = state.tails.iter().find(|tail| tail.end() > from)?;
        let first = from.max(tail.first);
        let skip = usize::try_from(first - tail.first).unwrap_or(usize::MAX);
        let positions = tail.positions.iter().skip(skip).take(most).copied().collect();
        Some(Found::Tail { segment: tail.segment, first, positions })
    }
}

impl State {
    pub(super) fn start(&self) -> u64 {
        let run = self.runs.front().map(|run| run.first);
        run.or_else(|| self.tails.front().map(|tail| tail.first)).unwrap_or(self.next)
    }

    /// Takes a position for the next record; says whether it is the first of the partition in that segment.
    pub(super) fn push(&mut self, segment: u32, position: u32) -> bool {
        let first = self.tails.back().is_none_or(|tail| tail.segment != segment);
        if first {
            self.tails.push_back(Tail { segment, first: self.next, positions: Vec::new() });
        }
        if let Some(tail) = self.tails.back_mut() {
            tail.positions.push(position);
        }
        self.next += 1;
        first
    }

    pub(super) fn ring(&self) {
        self.bells.iter().for_each(|(bell, number)| bell.ring(*number));
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// The segment's index is written: its positions are there from now on.
    pub(super) fn seal(&mut self, run: Run) {
        self.tails.retain(|tail| tail.segment != run.segment);
        self.runs.push_back(run);
    }

    /// Forgets everything in segments before that one.
    pub(super) fn forget_before(&mut self, segment: u32) {
        while self.runs.front().is_some_and(|run| run.segment < segment) {
            self.runs.pop_front();
        }
        while self.tails.front().is_some_and(|tail| tail.segment < segment) {
            self.tails.pop_front();
        }
    }
}
