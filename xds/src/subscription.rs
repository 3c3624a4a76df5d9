//! What one stream wants of one kind: every rule about wildcards and names, for both variants of the protocol.
//!
//! Not here: what was sent. An interest only says which names came and went with a request.
//! The rules are those of the xDS protocol document; SotW says the whole set each time, delta says the difference.

use std::collections::BTreeSet;

use crate::resource::{Kind, Name, Visibility};

/// The name that stands for everything. `*` inside a longer name is an ordinary character.
const WILDCARD: &str = "*";

/// Explicit names of one kind on one stream, together: Envoy at 100,000 models sends 1 MB of them.
pub(crate) const MAX_NAMED_BYTES: usize = 64 << 20;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("resource_names of {kind:?} exceed {MAX_NAMED_BYTES} bytes on this stream")]
pub struct TooManyNames {
    pub kind: Kind,
}

/// What a request changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Moves {
    /// Asked for by this request, whether subscribed before or not: the client may have forgotten.
    pub asked: Vec<Name>,
    /// Were named and are not any more.
    pub dropped: Vec<Name>,
    pub wildcard_began: bool,
}

#[derive(Debug)]
pub struct Interest {
    kind: Kind,
    wildcard: bool,
    /// An empty list means everything only as long as no name was ever given.
    named_before: bool,
    requested_before: bool,
    names: BTreeSet<Name>,
    bytes: usize,
}

impl Interest {
    #[must_use]
    pub fn new(kind: Kind) -> Self {
        Interest {
            kind,
            wildcard: false,
            named_before: false,
            requested_before: false,
            names: BTreeSet::new(),
            bytes: 0,
        }
    }

    #[must_use]
    pub fn is_wildcard(&self) -> bool {
        self.wildcard
    }

    #[must_use]
    pub fn names(&self) -> &BTreeSet<Name> {
        &self.names
    }

    #[must_use]
    pub fn wants(&self, name: &Name, visibility: Visibility) -> bool {
        (self.wildcard && visibility == Visibility::Wildcard) || self.names.contains(name)
    }

    /// Delta: the request adds and takes away. A first request without names is the legacy wildcard; it stays when
    /// names are added later and ends only when `*` is unsubscribed.
    pub fn delta(&mut self, subscribe: Vec<Name>, unsubscribe: Vec<Name>) -> Result<Moves, TooManyNames> {
        let mut moves = Moves::default();
        let first = !std::mem::replace(&mut self.requested_before, true);
        for name in unsubscribe {
            if name.as_str() == WILDCARD {
                self.wildcard = false;
            } else if self.remove(&name) {
                moves.dropped.push(name);
            }
        }
        if first && subscribe.is_empty() && self.kind.is_root() {
            self.wildcard = true;
            moves.wildcard_began = true;
        }
        for name in subscribe {
            if name.as_str() == WILDCARD {
                moves.wildcard_began |= !std::mem::replace(&mut self.wildcard, true);
            } else {
                self.insert(&name)?;
                moves.asked.push(name);
            }
        }
        Ok(moves)
    }

    /// SotW: the request says the whole set. Empty is everything while no name was ever given, and nothing after.
    pub fn sotw(&mut self, names: Vec<Name>) -> Result<Moves, TooManyNames> {
        let mut moves = Moves::default();
        self.requested_before = true;
        let legacy = names.is_empty() && !self.named_before && self.kind.is_root();
        self.named_before |= !names.is_empty();
        let mut wanted: BTreeSet<Name> = names.into_iter().collect();
        let wildcard = wanted.remove(WILDCARD) || legacy;
        moves.wildcard_began = wildcard && !self.wildcard;
        self.wildcard = wildcard;
        moves.dropped = self.names.difference(&wanted).cloned().collect();
        moves.asked = wanted.difference(&self.names).cloned().collect();
        for name in &moves.dropped {
            self.remove(name);
        }
        for name in &moves.asked {
            self.insert(name)?;
        }
        Ok(moves)
    }

    fn insert(&mut self, name: &Name) -> Result<(), TooManyNames> {
        if self.names.insert(name.clone()) {
            self.bytes += cost(name);
        }
        if self.bytes > MAX_NAMED_BYTES {
            return Err(TooManyNames { kind: self.kind });
        }
        Ok(())
    }

    fn remove(&mut self, name: &Name) -> bool {
        let removed = self.names.remove(name);
        if removed {
            self.bytes -= cost(name);
        }
        removed
    }
}

/// A name's bytes and what the set adds to them.
pub(crate) fn cost(name: &Name) -> usize {
    const OVERHEAD: usize = 48;
    name.as_str().len() + OVERHEAD
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<Name> {
        list.iter().map(|name| Name::from(*name)).collect()
    }

    /// One request of a case and what it must lead to: `*` and the names wanted afterwards, then what was asked.
    type Step<'a> = (&'a [&'a str], &'a [&'a str], &'a [&'a str], &'a [&'a str]);

    fn state(interest: &Interest) -> Vec<Name> {
        interest.wildcard.then(|| Name::from("*")).into_iter().chain(interest.names.iter().cloned()).collect()
    }

    fn check_delta(kind: Kind, steps: &[Step<'_>]) {
        let mut interest = Interest::new(kind);
        for (subscribe, unsubscribe, wanted, asked) in steps {
            let moves = interest.delta(names(subscribe), names(unsubscribe)).unwrap();
            assert_eq!(state(&interest), names(wanted), "{steps:?}");
            assert_eq!(moves.asked, names(asked), "{steps:?}");
        }
    }

    fn check_sotw(kind: Kind, steps: &[(&[&str], &[&str])]) {
        let mut interest = Interest::new(kind);
        for (request, wanted) in steps {
            interest.sotw(names(request)).unwrap();
            assert_eq!(state(&interest), names(wanted), "{steps:?}");
        }
    }

    #[test]
    fn delta_wildcard_rules() {
        // Legacy wildcard stays when names come and go, and ends with `*`.
        let legacy: [Step<'_>; 4] = [
            (&[], &[], &["*"], &[]),
            (&["a"], &[], &["*", "a"], &["a"]),
            (&[], &["a"], &["*"], &[]),
            (&[], &["*"], &[], &[]),
        ];
        for kind in [Kind::Cluster, Kind::Listener, Kind::ScopedRoute] {
            check_delta(kind, &legacy);
        }
        // Explicit wildcard, for any kind.
        check_delta(Kind::Route, &[(&["*", "a"], &[], &["*", "a"], &["a"]), (&[], &["*"], &["a"], &[])]);
        // Names first: empty requests later never mean everything.
        check_delta(Kind::Cluster, &[(&["a"], &[], &["a"], &["a"]), (&[], &["a"], &[], &[]), (&[], &[], &[], &[])]);
        // A kind that is only ever named: an empty first request is nothing.
        check_delta(Kind::Endpoints, &[(&[], &[], &[], &[])]);
        // A repeated subscription is asked again; a superfluous unsubscription is nothing; a star inside is a letter.
        check_delta(
            Kind::Route,
            &[(&["a", "b*"], &["x"], &["a", "b*"], &["a", "b*"]), (&["a"], &[], &["a", "b*"], &["a"])],
        );
    }

    #[test]
    fn sotw_wildcard_rules() {
        check_sotw(Kind::Listener, &[(&[], &["*"]), (&[], &["*"]), (&["a"], &["a"]), (&[], &[]), (&["*"], &["*"])]);
        check_sotw(Kind::Listener, &[(&["*", "a"], &["*", "a"]), (&["a"], &["a"])]);
        check_sotw(Kind::Listener, &[(&["*"], &["*"]), (&[], &[])]);
        check_sotw(Kind::Endpoints, &[(&[], &[]), (&["a"], &["a"]), (&[""], &[""])]);
    }

    #[test]
    fn a_wildcard_does_not_see_what_is_named_only() {
        let mut interest = Interest::new(Kind::Listener);
        interest.delta(vec![], vec![]).unwrap();
        let name = Name::from("iris");
        assert!(interest.wants(&name, Visibility::Wildcard));
        assert!(!interest.wants(&name, Visibility::NamedOnly));
        interest.delta(vec![name.clone()], vec![]).unwrap();
        assert!(interest.wants(&name, Visibility::NamedOnly));
    }

    #[test]
    fn names_without_end_are_refused() {
        let mut interest = Interest::new(Kind::Route);
        let long = "n".repeat(1 << 20);
        let refused = (0..100).find_map(|i| interest.delta(vec![Name::from(format!("{long}{i}"))], vec![]).err());
        assert_eq!(refused, Some(TooManyNames { kind: Kind::Route }));
    }
}
