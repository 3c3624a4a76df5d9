//! Fake Envoys: together they know every generation of a name since the last that all of them let go of.

use std::collections::BTreeMap;

use domain::{Generation, ModelVersionId, ReplicaId, Route, Target};
use scheduler_core::Event;

use super::{World, routable};

/// What the Envoys know of one name: every generation since the last that all of them let go of.
#[derive(Default)]
pub struct EnvoyRoute {
    pub applied: Generation,
    pub released: Generation,
    pub generations: BTreeMap<Generation, Option<Route>>,
}

impl World {
    /// I3: no Envoy may still send requests for the version to the replica.
    pub(super) fn assert_not_routed(&self, replica: &ReplicaId, version: &ModelVersionId, cause: &Event) {
        let key = (version.model.clone(), version.number);
        let answers = self.agents.get(replica).is_some_and(|agent| agent.held.contains_key(&key));
        if !answers {
            return;
        }
        for (name, envoy) in &self.routes {
            for (generation, route) in envoy.generations.range(envoy.released..) {
                let routed = route.iter().flat_map(|route| route.versions());
                let mut hits = routed.filter(|(other, set)| *other == version && set.contains(replica));
                assert!(
                    hits.next().is_none(),
                    "I3: {version} on {replica} unloaded while generation {generation} of {name} routes there, after {cause:?}"
                );
            }
        }
    }

    /// Envoys acknowledge the newest generation of a name.
    pub fn ack(&mut self, name: &str) {
        let name = routable(name);
        let Some(envoy) = self.routes.get_mut(&name) else { return };
        let Some(generation) = envoy.generations.keys().next_back().copied() else { return };
        envoy.applied = generation;
        self.handle(Event::RouteApplied { name, generation });
    }

    /// An Envoy's acknowledgement of an older generation comes late.
    pub fn ack_late(&mut self, name: &str) {
        let name = routable(name);
        let Some(envoy) = self.routes.get_mut(&name) else { return };
        let Some(generation) = envoy.generations.keys().next().copied() else { return };
        envoy.applied = envoy.applied.max(generation);
        self.handle(Event::RouteApplied { name, generation });
    }

    /// No Envoy uses anything older than the newest generation of a name.
    pub fn release(&mut self, name: &str) {
        let name = routable(name);
        let Some(envoy) = self.routes.get_mut(&name) else { return };
        let Some(generation) = envoy.generations.keys().next_back().copied() else { return };
        envoy.applied = generation;
        envoy.released = generation;
        envoy.generations.retain(|older, _| *older >= generation);
        self.handle(Event::RouteReleased { name, generation });
    }

    pub fn reject(&mut self, name: &str, message: &str) {
        let name = routable(name);
        let Some(generation) = self.routes.get(&name).and_then(|r| r.generations.keys().next_back().copied()) else {
            return;
        };
        let message = message.to_owned();
        self.handle(Event::RouteRejected { name, generation, message });
    }

    /// `version weight% replicas` of each backend of the newest route, or nothing.
    pub fn route(&self, name: &str) -> Vec<String> {
        let newest = self.routes.get(&routable(name)).and_then(|envoy| envoy.generations.values().next_back().cloned());
        let backends = newest.flatten().map(|route| route.backends).unwrap_or_default();
        let models = backends.iter().filter_map(|backend| Some((backend.target.model()?, backend.weight)));
        models.map(|((version, set), weight)| format!("{} {weight}% {set}", version.number)).collect()
    }

    /// `model@version weight` of each backend and `+model@version percent` of each mirror of the newest route.
    pub fn split(&self, name: &str) -> Vec<String> {
        let newest = self.routes.get(&routable(name)).and_then(|envoy| envoy.generations.values().next_back().cloned());
        let Some(route) = newest.flatten() else { return Vec::new() };
        let shown = |target: &Target| match target {
            Target::Model { version, .. } => version.to_string(),
            Target::Pipeline(name) => name.to_string(),
        };
        let mirrors = route.mirrors.iter().map(|mirror| format!("+{} {}", shown(&mirror.target), mirror.percent));
        route.backends.iter().map(|b| format!("{} {}", shown(&b.target), b.weight)).chain(mirrors).collect()
    }
}
