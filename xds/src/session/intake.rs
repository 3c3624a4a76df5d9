//! What a request changes: subscriptions, acknowledgements and refusals, and what the client says that it has.
//!
//! Not here: what is sent then.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::lane::{Awaited, Inflight, Lane, Part, Why};
use super::{Rejection, Session};
use crate::demand::Wish;
use crate::message::{Ask, Mode, Request};
use crate::resource::{Key, Kind, Name, Revision, Version, Visibility};
use crate::subscription::{Moves, TooManyNames};
use crate::table::Table;
use crate::time::Time;

impl Session {
    pub(super) fn take_in(
        &mut self,
        lane: &mut Lane,
        first: bool,
        request: Request,
        table: &Table,
        now: Time,
    ) -> Result<(), TooManyNames> {
        let answers_last = request.nonce.is_some() && request.nonce == lane.last_nonce;
        // SotW: a request that answers an older response is ignored with its names; the client will send another.
        if self.mode == Mode::Sotw && request.nonce.is_some() && lane.last_nonce.is_some() && !answers_last {
            return Ok(());
        }
        if answers_last && let Some(inflight) = lane.inflight.take() {
            match request.error {
                None => self.acked(lane, inflight, now),
                Some(message) => self.nacked(lane, inflight, message),
            }
        }
        let was_wildcard = lane.interest.is_wildcard();
        // Delta: a stale nonce says nothing about the subscriptions, they count all the same.
        let (moves, initial) = match request.ask {
            Ask::Sotw { names } => (lane.interest.sotw(names)?, Vec::new()),
            Ask::Delta { subscribe, unsubscribe, initial } => (lane.interest.delta(subscribe, unsubscribe)?, initial),
        };
        let initial = if first { initial } else { Vec::new() };
        if !initial.is_empty() {
            self.resumed_at.get_or_insert(now);
        }
        let mut is_less = was_wildcard && !lane.interest.is_wildcard();
        if is_less {
            lane.forget_refused();
        }
        for name in &moves.dropped {
            is_less |= lane.forget(name);
            if lane.interest.is_wildcard() {
                lane.answer_dropped(name)?;
            } else {
                is_less |= self.unuse(lane.kind, name);
            }
        }
        self.wish(lane, &moves, now);
        // What is not asked for any more keeps nothing back.
        self.pardons += u64::from(is_less);
        self.progress += u64::from(is_less || !moves.dropped.is_empty());
        self.asked += u64::from(moves.wildcard_began || !moves.asked.is_empty());
        if first {
            lane.cursor = table.revision();
        }
        if moves.wildcard_began && initial.is_empty() {
            lane.cursor = Revision::ZERO;
            // Everything comes again.
            lane.bisect.clear();
            lane.whole_since = Some(now);
            lane.answer_owed = true;
        }
        lane.answer_owed |= lane.is_full_state(self.mode) && !moves.asked.is_empty();
        // An Envoy that comes back has very much, and nearly always nothing has changed.
        let is_plain = !lane.kind.is_referred_to() && !self.has_its_own(lane.kind);
        if moves.wildcard_began && moves.asked.is_empty() && is_plain && table.is_all(lane.kind, &initial) {
            return Ok(());
        }
        let initial: HashMap<Name, Version> = initial.into_iter().collect();
        let differs = |session: &Self, name: &Name| match initial.get(name) {
            Some(listed) => session.current(lane.kind, name, table).map(|resource| resource.version()) != Some(*listed),
            None => true,
        };
        let mut equal = Vec::new();
        let mut unequal = Vec::new();
        for name in moves.asked {
            let why = if initial.contains_key(&name) { Why::Differs } else { Why::Asked };
            if differs(self, &name) { unequal.push((name, why)) } else { equal.push(name) }
        }
        if moves.wildcard_began && !initial.is_empty() {
            // Listed by the client or in our table, or both.
            let ours = table.iter(lane.kind).filter(|resource| resource.visibility() == Visibility::Wildcard);
            for resource in ours {
                let name = resource.name().clone();
                if differs(self, &name) { unequal.push((name, Why::Differs)) } else { equal.push(name) }
            }
            let gone = initial.keys().filter(|name| table.live(lane.kind, name).is_none());
            unequal.extend(gone.map(|name| (name.clone(), Why::Differs)));
        }
        for (name, why) in unequal {
            self.owed_no_more(lane.kind, &name);
            lane.pending.entry(name).or_insert(why);
        }
        for name in equal {
            if lane.kind == Kind::Cluster
                && let Some(version) = initial.get(&name)
            {
                self.told.insert(name.clone(), *version);
            }
            if lane.kind == Kind::Endpoints && self.owed_no_more(lane.kind, &name) {
                lane.pending.insert(name, Why::Again);
            } else if !lane.pending.contains_key(&name) {
                self.now_applied(lane.kind, name, now);
            }
        }
        Ok(())
    }

    /// Notes what is awaited of what came, and what is made on demand of what came and went.
    fn wish(&mut self, lane: &mut Lane, moves: &Moves, now: Time) {
        let kind = lane.kind;
        let is_full_state = lane.is_full_state(self.mode);
        for name in &moves.dropped {
            if self.is_made(kind, name) {
                self.wishes.push(Wish::Dropped(Key { kind, name: name.clone() }));
            }
        }
        for name in &moves.asked {
            let is_made = self.is_made(kind, name);
            if is_made || is_full_state {
                lane.awaited.insert(name.clone(), Awaited { until: now.after(self.patience), is_made });
            }
            if is_made {
                self.wishes.push(Wish::Asked(Key { kind, name: name.clone() }));
            }
        }
    }

    fn acked(&mut self, lane: &mut Lane, inflight: Inflight, now: Time) {
        self.counters.acks += 1;
        self.counters.acked_at = Some(now);
        for (name, version) in inflight.items.iter() {
            let current = version.is_some() && !lane.pending.contains_key(name);
            if current && lane.interest.wants(name, Visibility::Wildcard) {
                self.now_applied(lane.kind, name.clone(), now);
            }
        }
        if lane.kind != Kind::ScopedRoute {
            self.progress += 1;
        }
        lane.settle(inflight.settles);
        lane.state = inflight.state;
        lane.state.retain(|name, resource| lane.interest.wants(name, resource.visibility()));
    }

    fn nacked(&mut self, lane: &mut Lane, inflight: Inflight, message: String) {
        self.counters.nacks += 1;
        self.counters.last_error = Some(message.clone());
        if inflight.items.len() > 1 {
            let names = inflight.items.iter().map(|(name, _)| name.clone()).collect();
            // What is left of a response when the refusals name one after the other is divided faster by halves.
            let parts = if inflight.is_rest { halves(names) } else { by_name(names, &message).unwrap_or_else(halves) };
            parts.into_iter().rev().for_each(|part| lane.bisect.push_front(part));
            return;
        }
        for (name, version) in inflight.items.iter() {
            let key = Key { kind: lane.kind, name: name.clone() };
            // It may have dropped the name meanwhile.
            if lane.interest.wants(name, Visibility::Wildcard) {
                lane.refuse(name.clone(), version, &message);
            }
            self.rejections.push(Rejection { key, version, message: message.clone() });
        }
        // What requires it is judged anew.
        self.progress += 1;
    }

    fn now_applied(&mut self, kind: Kind, name: Name, now: Time) {
        match kind {
            Kind::Cluster => {
                self.clusters.entry(name).or_insert(now);
            }
            Kind::Endpoints => {
                self.endpoints.insert(name);
            }
            Kind::Listener | Kind::ScopedRoute | Kind::Route | Kind::Secret | Kind::Runtime => return,
        }
        self.progress += 1;
    }

    /// Returns whether it was usable, or on its way to be.
    pub(super) fn unuse(&mut self, kind: Kind, name: &Name) -> bool {
        match kind {
            Kind::Cluster => {
                self.clusters.remove(name);
                self.endpoints.remove(name);
                self.owed.remove(name);
                self.told.remove(name).is_some()
            }
            Kind::Endpoints => self.endpoints.remove(name),
            Kind::Listener | Kind::ScopedRoute | Kind::Route | Kind::Secret | Kind::Runtime => false,
        }
    }

    fn owed_no_more(&mut self, kind: Kind, name: &Name) -> bool {
        kind == Kind::Endpoints && self.owed.remove(name)
    }
}

/// What a refusal does not speak of, and what it does. The names themselves if one of the two is nothing.
fn by_name(names: BTreeSet<Name>, message: &str) -> Result<[Part; 2], BTreeSet<Name>> {
    let is_around = |letter: char| letter.is_whitespace() || "'\"`()[]{}<>,;".contains(letter);
    let words: HashSet<&str> = message.split(is_around).map(|word| word.trim_matches(['.', ':'])).collect();
    let spoken_of = names.iter().filter(|name| words.contains(name.as_str())).count();
    if spoken_of == 0 || spoken_of == names.len() {
        return Err(names);
    }
    let (named, rest) = names.into_iter().partition(|name| words.contains(name.as_str()));
    Ok([Part { names: rest, is_rest: true }, Part { names: named, is_rest: false }])
}

fn halves(mut names: BTreeSet<Name>) -> [Part; 2] {
    let middle = names.iter().nth(names.len() / 2).cloned();
    let second = middle.map_or(BTreeSet::new(), |middle| names.split_off(&middle));
    [names, second].map(|names| Part { names, is_rest: false })
}
