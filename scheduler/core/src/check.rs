//! The invariants of the machine, as a function over its state. Numbers are those of ARCHITECTURE.md.
//!
//! Others speak about histories, and the simulation in `tests/` checks them: that no replica is asked to hold more
//! than its memory (the other half of I1), that nothing is unloaded that an Envoy still routes to (I3), that the same
//! events give the same effects (I4), that stale reports change nothing (I6), one reply for each ticket (I7).

use std::collections::BTreeMap;

use domain::{ModelName, PlacementSet, RoutableName, Time};

use crate::effect::Effect;
use crate::machine::Machine;

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
        let mut computed = self.indexed_anew().residents;
        computed.retain(|_, residents| !residents.versions.is_empty());
        if computed != self.residents {
            broken("I1", format!("kept per replica {:?}, computed {computed:?}", self.residents));
        }
        for (name, published) in self.table.names() {
            for (id, set) in published.route.iter().flat_map(|route| route.versions()) {
                let version = self.models.get(&id.model).and_then(|model| model.versions.get(&id.number));
                let serving = version.map(|version| version.serving()).unwrap_or_default();
                if !set.replicas().all(|replica| serving.contains(replica)) {
                    broken("I2", format!("{name} leads {id} to {set}, served by {serving:?}"));
                }
            }
        }
        let models = self.models.keys().cloned().map(RoutableName::Model);
        let experiments = self.experiments.keys().cloned().map(RoutableName::Experiment);
        let pipelines = self.pipelines.keys().cloned().map(RoutableName::Pipeline);
        for pipeline in self.pipelines.values() {
            let active = pipeline.versions.values().filter(|version| version.active).count();
            let newer = pipeline.active().zip(pipeline.versions.iter().rev().find(|(_, v)| v.active_since.is_some()));
            let is_newest = newer.is_none_or(|((active, _), (newest, _))| active == *newest);
            if active > 1 || !is_newest || (pipeline.removed && active > 0) {
                broken("I8", format!("{active} versions of {} take entries: {:?}", pipeline.name, pipeline.versions));
            }
        }
        for name in models.chain(experiments).chain(pipelines) {
            let published = self.table.get(&name).and_then(|published| published.route.clone());
            let computed = self.route(&name, None);
            if published != computed {
                broken("I9", format!("{name}: published {published:?}, computed {computed:?}"));
            }
        }
        let (hunger, wishes) = (&self.hunger, &self.wishes);
        let fresh = self.indexed_anew();
        if fresh.hunger != *hunger || fresh.wishes != *wishes {
            broken(
                "I1",
                format!("hungry {hunger:?}, wishes {wishes:?}, computed {:?}, {:?}", fresh.hunger, fresh.wishes),
            );
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

    /// The same models with everything that is kept about them computed from nothing.
    fn indexed_anew(&self) -> Machine {
        let mut fresh = Machine { models: self.models.clone(), ..Machine::default() };
        let names: Vec<ModelName> = fresh.models.keys().cloned().collect();
        for name in names {
            fresh.index(&name);
        }
        fresh
    }

    fn computed_users(&self) -> BTreeMap<PlacementSet, u32> {
        let mut users = BTreeMap::new();
        for (_, published) in self.table.names() {
            let sets: std::collections::BTreeSet<&PlacementSet> =
                published.route.iter().flat_map(|route| route.sets()).collect();
            for set in sets {
                *users.entry(set.clone()).or_insert(0) += 1;
            }
        }
        users
    }
}
