//! What has been published, name by name, and what Envoys have applied of it.
//!
//! Decides nothing: `routing` says what a name leads to. Invariants: the sets in use are counted (a set is announced
//! before the first route that leads to it and withdrawn after the last); the models that a name *may* lead to, until
//! every Envoy has let go of older answers, are found from the name and from the model.

use std::collections::{BTreeMap, BTreeSet};

use domain::{Endpoint, Generation, ModelName, PlacementSet, ReplicaId, RoutableName, Route};

use crate::effect::RouteChange;

/// What has been published, by name, with what Envoys have applied of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Table {
    /// Boxed, because a B-tree has room for twice what is in it.
    names: BTreeMap<RoutableName, Box<Published>>,
    users: BTreeMap<PlacementSet, u32>,
    sets: BTreeMap<ReplicaId, BTreeSet<PlacementSet>>,
    /// Names of experiments and of other models that may lead to a model.
    leading: BTreeMap<ModelName, BTreeSet<RoutableName>>,
}

/// One name of the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Published {
    pub(crate) route: Option<Route>,
    pub(crate) generation: Generation,
    pub(crate) applied: Generation,
    pub(crate) released: Generation,
    pub(crate) rejected: Option<Box<(Generation, String)>>,
    /// Models, beside the one of this name, that this or an older answer leads to that an Envoy may still use.
    others: BTreeSet<ModelName>,
}

impl Published {
    /// Every Envoy that counts uses the present answer.
    pub(crate) fn is_applied(&self) -> bool {
        self.applied >= self.generation
    }

    /// No Envoy uses an older answer.
    pub(crate) fn is_released(&self) -> bool {
        self.released >= self.generation
    }

    /// Why an Envoy refused the present answer.
    pub(crate) fn rejection(&self) -> Option<&str> {
        let (generation, message) = self.rejected.as_deref()?;
        (*generation == self.generation).then_some(message)
    }
}

impl Table {
    pub(crate) fn get(&self, name: &RoutableName) -> Option<&Published> {
        self.names.get(name).map(Box::as_ref)
    }

    pub(crate) fn get_mut(&mut self, name: &RoutableName) -> Option<&mut Published> {
        self.names.get_mut(name).map(Box::as_mut)
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = (&RoutableName, &Published)> {
        self.names.iter().map(|(name, published)| (name, published.as_ref()))
    }

    /// The sets in use that the replica is in.
    pub(crate) fn sets_of(&self, replica: &ReplicaId) -> impl Iterator<Item = &PlacementSet> {
        self.sets.get(replica).into_iter().flatten()
    }

    /// What is published of the names by which an Envoy may reach the model.
    pub(crate) fn reaching(&self, model: &ModelName) -> impl Iterator<Item = (&RoutableName, &Published)> {
        let own = self.names.get_key_value(&RoutableName::Model(model.clone()));
        let others = self.leading.get(model).into_iter().flatten();
        let those = own.into_iter().chain(others.filter_map(|name| self.names.get_key_value(name)));
        those.map(|(name, published)| (name, published.as_ref()))
    }

    /// Models, beside the one of the name, that an Envoy may reach by the name.
    pub(crate) fn others(&self, name: &RoutableName) -> Vec<ModelName> {
        self.names.get(name).into_iter().flat_map(|published| published.others.iter().cloned()).collect()
    }

    /// Publishes the route of a name if it differs from what was published; says whether it did.
    pub(crate) fn publish(
        &mut self,
        name: &RoutableName,
        route: Option<Route>,
        endpoints: impl Fn(&PlacementSet) -> Vec<Endpoint>,
        mut out: impl FnMut(RouteChange),
    ) -> bool {
        let current = self.names.get(name);
        if current.map(|published| &published.route) == Some(&route) || (current.is_none() && route.is_none()) {
            return false;
        }
        let used = |route: &Option<Route>| -> BTreeSet<PlacementSet> {
            route.iter().flat_map(|route| route.sets().cloned()).collect()
        };
        let before = current.map(|published| used(&published.route)).unwrap_or_default();
        let after = used(&route);
        for set in after.difference(&before) {
            if self.take(set) {
                out(RouteChange::Set { set: set.clone(), endpoints: Some(endpoints(set)) });
            }
        }
        let route = route.map(|route| self.shared(route));
        self.may_lead_to(name, others(name, route.as_ref()));
        let published = self.names.entry(name.clone()).or_default();
        published.generation = published.generation.next();
        published.route.clone_from(&route);
        let generation = published.generation;
        out(RouteChange::Route { name: name.clone(), generation, route });
        for set in before.difference(&after) {
            if self.give_back(set) {
                out(RouteChange::Set { set: set.clone(), endpoints: None });
            }
        }
        true
    }

    /// Publishes that a name leads nowhere although nothing was published for it yet: an Envoy may remember it from
    /// before a restart, and what it leads to there must not be unloaded before the Envoy has let go.
    pub(crate) fn publish_absence(&mut self, name: &RoutableName, mut out: impl FnMut(RouteChange)) {
        let published = self.names.entry(name.clone()).or_default();
        if published.generation == Generation(0) {
            published.generation = Generation(1);
            let generation = published.generation;
            out(RouteChange::Route { name: name.clone(), generation, route: None });
        }
    }

    /// Notes that an Envoy may lead the name to these models.
    pub(crate) fn may_lead_to(&mut self, name: &RoutableName, models: impl IntoIterator<Item = ModelName>) {
        for model in models {
            if matches!(name, RoutableName::Model(own) if *own == model) {
                continue;
            }
            self.leading.entry(model.clone()).or_default().insert(name.clone());
            self.names.entry(name.clone()).or_default().others.insert(model);
        }
    }

    /// No Envoy uses anything older than the generation any more.
    pub(crate) fn release(&mut self, name: &RoutableName, generation: Generation) {
        let Some(published) = self.names.get_mut(name) else { return };
        published.released = generation;
        published.applied = published.applied.max(generation);
        if !published.is_released() {
            return;
        }
        let now: BTreeSet<ModelName> = others(name, published.route.as_ref()).collect();
        let before = std::mem::replace(&mut published.others, now.clone());
        for model in before.difference(&now) {
            if let Some(names) = self.leading.get_mut(model) {
                names.remove(name);
                if names.is_empty() {
                    self.leading.remove(model);
                }
            }
        }
    }

    /// Forgets a name that leads nowhere.
    pub(crate) fn forget(&mut self, name: &RoutableName) {
        if self.names.get(name).is_some_and(|published| published.route.is_none() && published.others.is_empty()) {
            self.names.remove(name);
        }
    }

    /// The route with the sets that are in use already, so that there is one copy of each however many routes lead there.
    fn shared(&self, mut route: Route) -> Route {
        let backends = route.backends.iter_mut().map(|backend| &mut backend.target);
        let targets = backends.chain(route.mirrors.iter_mut().map(|mirror| &mut mirror.target));
        for set in targets.filter_map(domain::Target::set_mut) {
            if let Some((known, _)) = self.users.get_key_value(set) {
                set.clone_from(known);
            }
        }
        route
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

/// Models that a route leads to beside the one of its name.
fn others<'a>(name: &'a RoutableName, route: Option<&'a Route>) -> impl Iterator<Item = ModelName> + 'a {
    let models = route.into_iter().flat_map(|route| route.versions().map(|(version, _)| &version.model));
    models.filter(move |model| !matches!(name, RoutableName::Model(own) if own == *model)).cloned()
}
