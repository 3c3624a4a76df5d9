//! What a public name leads to, and the table of what has been published.
//!
//! [`route`] is pure, per name; the table holds the last published answer and is changed name by name, never as a
//! whole (I9: the table equals `route` for every name). Nothing of Envoy is known here.

use std::collections::{BTreeMap, BTreeSet};

use domain::{Backend, Endpoint, Generation, Health, ModelName, PlacementSet, ReplicaId, RoutableName, Route};

use crate::effect::RouteChange;
use crate::model::{Model, Version};
use crate::server::Server;

/// Weights of a route sum to this.
const WHOLE: u32 = 100;

/// Where requests for the model go now.
///
/// The latest version alone once it can take over or nothing else serves; the newest older version that serves
/// until then, sharing by the number of serving replicas with what the latest has (`spec/control-plane.md` §2.9).
#[must_use]
pub fn route(model: &Model) -> Option<Route> {
    if model.deleted {
        return None;
    }
    let (latest_number, latest) = model.versions.iter().next_back()?;
    let log_payloads = latest.definition.deployment.log_payloads;
    let backend = |number, version: &Version, weight| {
        let set = PlacementSet::new(version.serving())?;
        Some(Backend { version: model.version_id(number), set, weight })
    };
    let new = backend(*latest_number, latest, WHOLE);
    let old = match &new {
        Some(_) if latest.can_take_over() => None,
        Some(_) | None => stable(model).and_then(|(number, version)| backend(number, version, WHOLE)),
    };
    let backends = match (old, new) {
        (None, None) => return None,
        (Some(only), None) | (None, Some(only)) => vec![only],
        (Some(mut old), Some(mut new)) => {
            let (old_size, new_size) = (old.set.size(), new.set.size());
            let share = WHOLE as usize * old_size / (old_size + new_size);
            old.weight = u32::try_from(share).unwrap_or(WHOLE);
            new.weight = WHOLE - old.weight;
            vec![old, new]
        }
    };
    Some(Route { backends, mirrors: Vec::new(), log_payloads })
}

/// The older version that carries the traffic of a roll-out: the newest that has been available and still serves,
/// else the newest that serves.
fn stable(model: &Model) -> Option<(domain::VersionNumber, &Version)> {
    let older = || model.versions.iter().rev().skip(1).filter(|(_, version)| !version.serving().is_empty());
    let proven = older().find(|(_, version)| version.was_available);
    proven.or_else(|| older().next()).map(|(number, version)| (*number, version))
}

/// Endpoints of a set. Where no replica is well, those that are least unwell are shown as healthy: a last replica
/// keeps its traffic until another is up or it refuses connections (DESIGN §9).
#[must_use]
pub fn endpoints<'a>(
    replicas: impl Iterator<Item = &'a ReplicaId>,
    servers: &BTreeMap<domain::ServerName, Server>,
) -> Vec<Endpoint> {
    let known = replicas.filter_map(|id| {
        let replica = servers.get(&id.server)?.replicas.get(&id.index)?;
        Some(replica.endpoint(id.clone()))
    });
    let mut endpoints: Vec<Endpoint> = known.collect();
    let best = endpoints.iter().map(|endpoint| endpoint.health).min();
    for endpoint in &mut endpoints {
        if Some(endpoint.health) == best {
            endpoint.health = Health::Healthy;
        }
    }
    endpoints
}

/// What has been published, by name, with what Envoys have applied of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Table {
    names: BTreeMap<ModelName, Published>,
    users: BTreeMap<PlacementSet, u32>,
    sets: BTreeMap<ReplicaId, BTreeSet<PlacementSet>>,
}

/// One name of the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Published {
    pub(crate) route: Option<Route>,
    pub(crate) generation: Generation,
    pub(crate) applied: Generation,
    pub(crate) released: Generation,
    pub(crate) rejected: Option<(Generation, String)>,
}

impl Table {
    pub(crate) fn get(&self, name: &ModelName) -> Option<&Published> {
        self.names.get(name)
    }

    pub(crate) fn get_mut(&mut self, name: &ModelName) -> Option<&mut Published> {
        self.names.get_mut(name)
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = (&ModelName, &Published)> {
        self.names.iter()
    }

    /// The sets in use that the replica is in.
    pub(crate) fn sets_of(&self, replica: &ReplicaId) -> impl Iterator<Item = &PlacementSet> {
        self.sets.get(replica).into_iter().flatten()
    }

    /// Publishes the route of a name if it differs from what was published; says whether it did.
    pub(crate) fn publish(
        &mut self,
        name: &ModelName,
        route: Option<Route>,
        servers: &BTreeMap<domain::ServerName, Server>,
        mut out: impl FnMut(RouteChange),
    ) -> bool {
        let current = self.names.get(name);
        if current.map(|published| &published.route) == Some(&route) || (current.is_none() && route.is_none()) {
            return false;
        }
        let used = |route: &Option<Route>| -> BTreeSet<PlacementSet> {
            route.iter().flat_map(|route| route.backends.iter().map(|backend| backend.set.clone())).collect()
        };
        let before = current.map(|published| used(&published.route)).unwrap_or_default();
        let after = used(&route);
        for set in after.difference(&before) {
            if self.take(set) {
                out(RouteChange::Set { set: set.clone(), endpoints: Some(endpoints(set.replicas(), servers)) });
            }
        }
        let published = self.names.entry(name.clone()).or_default();
        published.generation = published.generation.next();
        published.route.clone_from(&route);
        let generation = published.generation;
        out(RouteChange::Route { name: RoutableName::Model(name.clone()), generation, route });
        for set in before.difference(&after) {
            if self.give_back(set) {
                out(RouteChange::Set { set: set.clone(), endpoints: None });
            }
        }
        true
    }

    /// Publishes that a name leads nowhere although nothing was published for it yet: an Envoy may remember it from
    /// before a restart, and what it leads to there must not be unloaded before the Envoy has let go.
    pub(crate) fn publish_absence(&mut self, name: &ModelName, mut out: impl FnMut(RouteChange)) {
        let published = self.names.entry(name.clone()).or_default();
        if published.generation == Generation(0) {
            published.generation = Generation(1);
            let (name, generation) = (RoutableName::Model(name.clone()), published.generation);
            out(RouteChange::Route { name, generation, route: None });
        }
    }

    /// Forgets a name that leads nowhere.
    pub(crate) fn forget(&mut self, name: &ModelName) {
        if self.names.get(name).is_some_and(|published| published.route.is_none()) {
            self.names.remove(name);
        }
    }

    /// Counts one more user of a set; true when it is the first.
    fn take(&mut self, set: &PlacementSet) -> bool {
        let users = self.users.entry(set.clone()).or_insert(0);
        *users += 1;
        let first = *users == 1;
        if first {
            for replica in set.replicas() {
                self.sets.entry(replica.clone()).or_default().insert(set.clone());
            }
        }
        first
    }

    /// Counts one user less; true when it was the last.
    fn give_back(&mut self, set: &PlacementSet) -> bool {
        let Some(users) = self.users.get_mut(set) else { return false };
        *users -= 1;
        if *users > 0 {
            return false;
        }
        self.users.remove(set);
        for replica in set.replicas() {
            if let Some(sets) = self.sets.get_mut(replica) {
                sets.remove(set);
                if sets.is_empty() {
                    self.sets.remove(replica);
                }
            }
        }
        true
    }

    /// Number of users of each set, for the check against the computed number.
    pub(crate) fn users(&self) -> &BTreeMap<PlacementSet, u32> {
        &self.users
    }
}
