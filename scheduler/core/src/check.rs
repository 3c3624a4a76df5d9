//! The invariants of the machine, as a function over its state. Numbers are those of ARCHITECTURE.md.
//!
//! Others speak about histories, and the simulation in `tests/` checks them: that no replica is asked to hold more
//! than its memory (the other half of I1), that nothing is unloaded that an Envoy still routes to (I3), that the same
//! events give the same effects (I4), that stale reports change nothing (I6), one reply for each ticket (I7).

use std::collections::BTreeMap;

use domain::{ModelName, PlacementSet, ReplicaId, Time};

use crate::effect::Effect;
use crate::machine::{Machine, Residents};
use crate::routing;

/// An invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which one: `I1`, `I2`, ...
    pub invariant: &'static str,
    /// What is wrong.
    pub what: String,
}

impl Machine {
    /// Every invariant that does not hold. Costs as much as the whole state; for tests.
    #[must_use]
    pub fn check(&self) -> Vec<Violation> {
        let mut violations = Vec::new();
        let mut broken = |invariant, what| violations.push(Violation { invariant, what });
        let computed = self.computed_residents();
        if computed != self.residents {
            broken("I1", format!("kept per replica {:?}, computed {computed:?}", self.residents));
        }
        for (name, published) in self.table.names() {
            for backend in published.route.iter().flat_map(|route| &route.backends) {
                let version = self.models.get(name).and_then(|model| model.versions.get(&backend.version.number));
                let serving = version.map(|version| version.serving()).unwrap_or_default();
                if !backend.set.replicas().all(|id| serving.contains(id)) {
                    broken("I2", format!("{} is routed to {}, served by {serving:?}", backend.version, backend.set));
                }
            }
        }
        for (name, model) in &self.models {
            let published = self.table.get(name).and_then(|published| published.route.clone());
            if published != routing::route(model) {
                broken("I9", format!("{name}: published {published:?}, computed {:?}", routing::route(model)));
            }
        }
        let users = self.computed_users();
        if users != *self.table.users() {
            broken("I9", format!("users of sets {:?}, computed {users:?}", self.table.users()));
        }
        violations
    }

    /// Models that settling once more would move, send for or route anew: none (I5). The words of a shortfall may
    /// lag behind the other models' doings.
    #[must_use]
    pub fn restless(&self, now: Time) -> Vec<ModelName> {
        let mut machine = self.clone();
        let mut names: Vec<ModelName> = machine.models.keys().cloned().collect();
        let mut moves = |name: &ModelName| {
            let mut out = Vec::new();
            machine.settle(name, now, &mut out);
            let acts = out.iter().any(|effect| matches!(effect, Effect::Send { .. } | Effect::Publish(_)));
            let places = |machine: &Machine| {
                let versions = machine.models.get(name).map(|model| model.versions.clone()).unwrap_or_default();
                let places = versions.into_iter().map(|(number, v)| (number, v.server, v.assignments));
                places.collect::<Vec<_>>()
            };
            acts || places(&machine) != places(self)
        };
        names.retain(|name| moves(name));
        names
    }

    fn computed_residents(&self) -> BTreeMap<ReplicaId, Residents> {
        let mut fresh = Machine { models: self.models.clone(), ..Machine::default() };
        let names: Vec<ModelName> = fresh.models.keys().cloned().collect();
        for name in names {
            fresh.index(&name);
        }
        fresh.residents.retain(|_, residents| !residents.versions.is_empty());
        fresh.residents
    }

    fn computed_users(&self) -> BTreeMap<PlacementSet, u32> {
        let mut users = BTreeMap::new();
        for (_, published) in self.table.names() {
            let sets: std::collections::BTreeSet<&PlacementSet> =
                published.route.iter().flat_map(|route| route.backends.iter().map(|backend| &backend.set)).collect();
            for set in sets {
                *users.entry(set.clone()).or_insert(0) += 1;
            }
        }
        users
    }
}
