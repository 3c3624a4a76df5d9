//! The join of one operator for one request (`spec/delivery.md` §2, §5): takes each side's first record, and says what
//! comes of it. Knows nothing of the log; whether a missing side can still come, it is told.
//!
//! Invariant: it fires at most once, an `any` join of data once for each side.

use domain::{JoinKind, Time};

use crate::envelope::{Envelope, Headers};
use crate::owner::Stamp;
use crate::parts::Parts;
use crate::topology::Operator;

/// Data of one side.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Datum {
    pub(crate) envelope: Envelope,
    pub(crate) key: bytes::Bytes,
    pub(crate) headers: Headers,
    pub(crate) parts: Parts,
    pub(crate) stamp: Stamp,
}

/// What a side is known to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hope {
    /// Its record is there.
    There,
    /// Its record may come.
    Open,
    /// It will never come.
    Lost,
}

#[derive(Clone, Debug)]
pub(crate) struct Window {
    /// When nothing is waited for any more.
    pub(crate) end: Time,
    data: Vec<Option<Datum>>,
    triggers: Vec<Option<Stamp>>,
    /// Sides of an `any` join that have fired.
    fired: Vec<bool>,
}

/// What is to be done about a window now.
#[derive(Debug)]
pub(crate) struct Verdict {
    /// Data to go on with, and for an `any` join the side that it came by. More than one at once only if a trigger came late.
    pub(crate) fire: Vec<(Vec<Datum>, Option<u16>)>,
    /// It has done what it can.
    pub(crate) closed: Option<Closed>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    /// It has fired, as often as it can.
    Fired,
    /// It never fired, and never will.
    Dead,
}

impl Window {
    pub(crate) fn new(operator: &Operator, end: Time) -> Self {
        Self {
            end,
            data: vec![None; operator.data],
            triggers: vec![None; operator.sides.len() - operator.data],
            fired: vec![false; operator.data],
        }
    }

    /// Puts a record in its place; false if there is one.
    pub(crate) fn put(&mut self, side: usize, datum: Datum) -> bool {
        if let Some(place) = self.data.get_mut(side) {
            let is_free = place.is_none() && !self.fired[side];
            if is_free {
                *place = Some(datum);
            }
            return is_free;
        }
        let Some(place) = self.triggers.get_mut(side - self.data.len()) else { return false };
        let is_free = place.is_none();
        if is_free {
            *place = Some(datum.stamp);
        }
        is_free
    }

    pub(crate) fn has(&self, side: usize) -> bool {
        match self.data.get(side) {
            Some(datum) => datum.is_some() || self.fired[side],
            None => self.triggers.get(side - self.data.len()).is_some_and(Option::is_some),
        }
    }

    /// Stamps of everything that is still held here.
    pub(crate) fn stamps(&self) -> impl Iterator<Item = Stamp> {
        self.data.iter().flatten().map(|datum| datum.stamp).chain(self.triggers.iter().flatten().copied())
    }

    pub(crate) fn trigger_stamps(&self) -> impl Iterator<Item = Stamp> {
        self.triggers.iter().flatten().copied()
    }

    /// What to do, if the sides are as `hope` says, and the window `is_over` or not.
    pub(crate) fn judge(&mut self, operator: &Operator, hope: impl Fn(usize) -> Hope, is_over: bool) -> Verdict {
        let hope = |side: usize| match (self.has(side), hope(side)) {
            (true, _) => Hope::There,
            (false, Hope::Open) if !is_over => Hope::Open,
            (false, _) => Hope::Lost,
        };
        let data: Vec<Hope> = (0..operator.data).map(&hope).collect();
        let triggers: Vec<Hope> = (operator.data..operator.sides.len()).map(&hope).collect();
        let gate = if triggers.is_empty() { Hope::There } else { combined(operator.trigger_join, &triggers) };
        let join = if operator.data > 1 { operator.join } else { JoinKind::Inner };
        if gate == Hope::Lost {
            return Verdict { fire: Vec::new(), closed: Some(self.outcome()) };
        }
        if gate == Hope::Open {
            let is_hopeless = combined(join, &data) == Hope::Lost;
            return Verdict { fire: Vec::new(), closed: is_hopeless.then_some(self.outcome()) };
        }
        if join == JoinKind::Any {
            let mut fire = Vec::new();
            for (side, place) in self.data.iter_mut().enumerate() {
                if let Some(datum) = place.take() {
                    self.fired[side] = true;
                    fire.push((vec![datum], Some(u16::try_from(side).unwrap_or(u16::MAX))));
                }
            }
            let is_done = !data.contains(&Hope::Open);
            return Verdict { fire, closed: is_done.then_some(self.outcome()) };
        }
        match combined(join, &data) {
            Hope::There => {
                let present: Vec<Datum> = self.data.iter_mut().filter_map(Option::take).collect();
                self.fired.fill(true);
                Verdict { fire: vec![(present, None)], closed: Some(Closed::Fired) }
            }
            Hope::Open => Verdict { fire: Vec::new(), closed: None },
            Hope::Lost => Verdict { fire: Vec::new(), closed: Some(Closed::Dead) },
        }
    }

    fn outcome(&self) -> Closed {
        if self.fired.contains(&true) { Closed::Fired } else { Closed::Dead }
    }
}

/// What becomes of sides that are joined so. `There`: it can be used as it is; an outer join waits for all that may come.
fn combined(join: JoinKind, sides: &[Hope]) -> Hope {
    let (some, open, lost) = (sides.contains(&Hope::There), sides.contains(&Hope::Open), sides.contains(&Hope::Lost));
    match join {
        JoinKind::Inner if lost => Hope::Lost,
        JoinKind::Inner if open => Hope::Open,
        JoinKind::Inner => Hope::There,
        JoinKind::Any if some => Hope::There,
        JoinKind::Outer if open => Hope::Open,
        JoinKind::Outer if some => Hope::There,
        JoinKind::Any if open => Hope::Open,
        JoinKind::Outer | JoinKind::Any => Hope::Lost,
    }
}
