//! What one shard knows of one request in one pipeline: its open windows, and what will never come.
//!
//! Knows nothing of the log. A side can still come unless a record of this request excludes it, directly or on every way
//! that leads to it; absence proves nothing (`spec/delivery.md` §5).

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use domain::{JoinKind, Time};

use crate::envelope::{Envelope, Headers};
use crate::owner::Stamp;
use crate::topology::{Operator, Topology};
use crate::window::{Closed, Datum, Hope, Verdict, Window};

/// An operator, and how often the request has come back to it.
pub(crate) type At = (usize, u32);

/// What an error of the request has to say, if there is no record at hand.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    pub(crate) envelope: Envelope,
    pub(crate) key: Bytes,
    pub(crate) headers: Headers,
}

pub(crate) struct Flow {
    pub(crate) topology: Arc<Topology>,
    pub(crate) context: Context,
    pub(crate) expires: Time,
    windows: BTreeMap<At, Window>,
    closed: BTreeMap<At, Closed>,
    /// Sides that will never have a record, with the reason.
    missing: BTreeMap<(usize, usize, u32), String>,
    /// Data of sources outside of a cycle: they serve every return.
    shared: BTreeMap<(usize, usize), Datum>,
    /// Held until the flow is dropped, because they say what is missing or shared.
    evidence: Vec<Stamp>,
    /// The caller has its answer or its error.
    pub(crate) is_ended: bool,
}

/// What came of a change.
pub(crate) struct Settled {
    pub(crate) at: At,
    pub(crate) verdict: Verdict,
    /// Held by the window and not part of what it fires.
    pub(crate) triggers: Vec<Stamp>,
    /// To be let go of.
    pub(crate) released: Vec<Stamp>,
}

impl Flow {
    pub(crate) fn new(topology: Arc<Topology>, context: Context, expires: Time) -> Self {
        Self {
            topology,
            context,
            expires,
            windows: BTreeMap::new(),
            closed: BTreeMap::new(),
            missing: BTreeMap::new(),
            shared: BTreeMap::new(),
            evidence: Vec::new(),
            is_ended: false,
        }
    }

    /// Takes a record for a side. Gives the stamps that nobody needs.
    pub(crate) fn put(&mut self, (operator, count): At, side: usize, datum: Datum, opened: Time) -> Option<Stamp> {
        let topology = Arc::clone(&self.topology);
        let Some(compiled) = topology.operators.get(operator) else { return Some(datum.stamp) };
        let mut count = count;
        if compiled.is_external() {
            // One to one: the first pair that still lacks this side.
            while self.closed.contains_key(&(operator, count)) || self.window_has((operator, count), side) {
                count += 1;
            }
        }
        if self.closed.contains_key(&(operator, count)) {
            return Some(datum.stamp);
        }
        if self.is_shared(compiled, side) {
            self.evidence.push(datum.stamp);
            let counts: Vec<u32> =
                self.windows.range((operator, 1)..(operator + 1, 0)).map(|((_, count), _)| *count).collect();
            for count in counts {
                self.put_into((operator, count), compiled, side, datum.clone(), opened);
            }
            self.shared.insert((operator, side), datum.clone());
        }
        let stamp = datum.stamp;
        let is_taken = self.put_into((operator, count), compiled, side, datum, opened);
        (!is_taken).then_some(stamp)
    }

    fn put_into(&mut self, at: At, operator: &Operator, side: usize, datum: Datum, opened: Time) -> bool {
        let end = opened.after(operator.window_ms);
        let end = self.context.envelope.deadline.map_or(end, |deadline| end.min(deadline));
        let shared: Vec<(usize, Datum)> = if at.1 == 0 || self.windows.contains_key(&at) {
            Vec::new()
        } else {
            self.shared.range((at.0, 0)..(at.0 + 1, 0)).map(|((_, side), datum)| (*side, datum.clone())).collect()
        };
        let window = self.windows.entry(at).or_insert_with(|| Window::new(operator, end));
        for (side, datum) in shared {
            window.put(side, datum);
        }
        window.put(side, datum)
    }

    /// A source outside of the cycle serves every return, unless its arrival is an event of its own.
    fn is_shared(&self, operator: &Operator, side: usize) -> bool {
        let source = operator.sides.get(side).and_then(|side| side.source);
        let is_outside = source.is_none_or(|source| !self.topology.operators[source].is_cyclic);
        let is_event = side < operator.data && operator.join == JoinKind::Any && operator.data > 1;
        operator.is_cyclic && is_outside && !is_event && !operator.sides[side].is_back
    }

    fn window_has(&self, at: At, side: usize) -> bool {
        self.windows.get(&at).is_some_and(|window| window.has(side))
    }

    /// A side will never have a record.
    pub(crate) fn rule_out(&mut self, (operator, count): At, side: usize, reason: String) {
        self.missing.entry((operator, side, count)).or_insert(reason);
    }

    /// The record that says what is missing is needed until the flow is dropped.
    pub(crate) fn keep(&mut self, stamp: Stamp) {
        self.evidence.push(stamp);
    }

    /// Looks at one window again, if it is open.
    pub(crate) fn look(&mut self, at: At, now: Time) -> Option<Settled> {
        let topology = Arc::clone(&self.topology);
        let operator = topology.operators.get(at.0)?;
        let hopes: Vec<Hope> = (0..operator.sides.len())
            .map(|side| if self.side_is_possible(at, side, &mut BTreeMap::new()) { Hope::Open } else { Hope::Lost })
            .collect();
        let window = self.windows.get_mut(&at)?;
        let triggers: Vec<Stamp> = window.trigger_stamps().collect();
        let is_over = window.end <= now;
        let verdict = window.judge(operator, |side| hopes.get(side).copied().unwrap_or(Hope::Lost), is_over);
        let mut released = Vec::new();
        if let Some(closed) = verdict.closed {
            if is_over && closed == Closed::Dead {
                let waited = operator.window_ms;
                for side in (0..operator.sides.len()).filter(|side| !window.has(*side)) {
                    let reason = || {
                        let name = operator.sides[side].shown(&topology.pipeline);
                        format!("{name} did not come within {waited} ms")
                    };
                    self.missing.entry((at.0, side, at.1)).or_insert_with(reason);
                }
            }
            if let Some(window) = self.windows.remove(&at) {
                released.extend(window.stamps());
            }
            self.closed.insert(at, closed);
        }
        // Shared data are held as evidence, once.
        released.retain(|stamp| !self.evidence.contains(stamp));
        Some(Settled { at, verdict, triggers, released })
    }

    /// Windows that are open.
    pub(crate) fn open(&self) -> Vec<At> {
        self.windows.keys().copied().collect()
    }

    /// When the next window ends, or the flow.
    pub(crate) fn next_timer(&self) -> Time {
        self.windows.values().map(|window| window.end).min().map_or(self.expires, |end| end.min(self.expires))
    }

    /// Nothing will happen in it any more that it would have to be remembered for.
    pub(crate) fn is_done(&self) -> bool {
        if !self.windows.is_empty() {
            return false;
        }
        let operators = self.topology.operators.iter().enumerate();
        // A record that still comes would open its window again, which would then wait for what was ruled out.
        let may_open = |at: usize, operator: &Operator| {
            (0..operator.sides.len()).any(|side| self.side_is_possible((at, 0), side, &mut BTreeMap::new()))
        };
        let is_external = self.closed.keys().any(|(at, _)| self.topology.operators[*at].is_external());
        if is_external {
            return true;
        }
        let mut joins = operators.filter(|(_, operator)| !operator.is_simple() && !operator.is_external());
        self.topology.is_single
            && joins.all(|(at, operator)| self.closed.contains_key(&(at, 0)) || !may_open(at, operator))
    }

    /// Everything that is held.
    pub(crate) fn stamps(&self) -> Vec<Stamp> {
        let held = self.windows.values().flat_map(Window::stamps).filter(|stamp| !self.evidence.contains(stamp));
        held.chain(self.evidence.iter().copied()).collect()
    }

    /// The first reason why there is no answer, if there can be none.
    pub(crate) fn hopeless(&self) -> Option<(String, String)> {
        let output = self.topology.output?;
        let most = if self.topology.operators[output].is_cyclic { self.topology.revisits_max } else { 0 };
        let mut known = BTreeMap::new();
        if (0..=most).any(|count| self.is_possible((output, count), &mut known)) {
            return None;
        }
        let ((operator, _, _), reason) = self.missing.iter().next()?;
        let operator = self.topology.operators.get(*operator)?;
        Some((operator.name().to_owned(), format!("{} did not run: {reason}", operator.shown())))
    }

    /// The operator has fired or may fire.
    fn is_possible(&self, at: At, known: &mut BTreeMap<At, bool>) -> bool {
        if let Some(closed) = self.closed.get(&at) {
            return *closed == Closed::Fired;
        }
        if let Some(known) = known.get(&at) {
            return *known;
        }
        // Ways back end, because their count falls; until this is known it may.
        known.insert(at, true);
        let operator = &self.topology.operators[at.0];
        let mut side = |side: usize| self.window_has(at, side) || self.side_is_possible(at, side, known);
        let join = |kind: JoinKind, sides: Vec<bool>| match kind {
            JoinKind::Inner => sides.into_iter().all(|possible| possible),
            JoinKind::Outer | JoinKind::Any => sides.into_iter().any(|possible| possible),
        };
        let data: Vec<bool> = (0..operator.data).map(&mut side).collect();
        let triggers: Vec<bool> = (operator.data..operator.sides.len()).map(&mut side).collect();
        let possible = join(if operator.data > 1 { operator.join } else { JoinKind::Inner }, data)
            && (triggers.is_empty() || join(operator.trigger_join, triggers));
        known.insert(at, possible);
        possible
    }

    fn side_is_possible(&self, (operator, count): At, side: usize, known: &mut BTreeMap<At, bool>) -> bool {
        let compiled = &self.topology.operators[operator];
        let Some(of) = compiled.sides.get(side) else { return false };
        let is_outside = of.source.is_none_or(|source| !self.topology.operators[source].is_cyclic) && !of.is_back;
        if is_outside && compiled.is_cyclic {
            // It comes once: to the first visit, and to the later ones if it is shared.
            let is_missing = self.missing.contains_key(&(operator, side, 0));
            if is_missing || (count > 0 && !self.is_shared(compiled, side)) {
                return false;
            }
        } else if self.missing.contains_key(&(operator, side, count)) {
            return false;
        }
        let Some(source) = of.source else { return true };
        let source_count = if !self.topology.operators[source].is_cyclic {
            0
        } else if of.is_back {
            match count.checked_sub(1) {
                Some(count) => count,
                None => return false,
            }
        } else {
            count
        };
        self.is_possible((source, source_count), known)
    }
}
