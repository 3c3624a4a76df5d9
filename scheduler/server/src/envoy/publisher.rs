//! What has been published, and which change of the table each change of a route is.
//!
//! No I/O: route changes in their order go in, changes of the table come out, and what the table's server says of its
//! clients is translated back to names and generations.
//!
//! Invariants: a route's clusters are in the table as long as the route is; the first publication has the listener, the
//! server-wide scopes and everything it was given; work for a change does not depend on the number of names.

mod clients;
mod refusals;
mod sets;

use std::collections::{BTreeMap, BTreeSet};

use domain::{Generation, PlacementSet, RoutableName, Route, Time};
use scheduler_core::{Address, RouteChange};
use xds::{Change, Feedback, Key, Kind, Name, Revision, Version};

use super::cluster::{Door, Shape};
use super::demand::Demand;
use super::mesh::Mesh;
use super::settings::Settings;
use super::{gateways, listener, scope};
use refusals::Refusals;
pub use sets::SET_GRACE_MS;
use sets::Set;

/// How long a new name may take to be served before Envoys are told that it is not: most are served sooner, and their
/// routes need not wait for an answer to that.
pub const UNSERVED_AFTER_MS: u64 = 1_000;

/// So many of them are told of at a time, so that what is ready meanwhile need not wait for all.
const UNSERVED_AT_ONCE: usize = 1_000;

/// Generations of a name whose feedback may still come. A newer one supersedes the older, so only a name that changes
/// faster than feedback is read has several; what is forgotten is told by the newer.
const MAX_REMEMBERED: usize = 16;

/// Changes of the table that belong together, and the keys whose feedback is wanted. Publish it, then call
/// [`Publisher::published`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Publication {
    /// The changes.
    pub changes: Vec<Change>,
    /// The scopes of the routes among them.
    pub gated: Vec<Key>,
}

impl Publication {
    /// Whether there is nothing to publish.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.gated.is_empty()
    }

    /// Adds one that was handed out later.
    pub fn extend(&mut self, later: Publication) {
        self.changes.extend(later.changes);
        self.gated.extend(later.gated);
    }
}

/// What Envoys did with a publication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// Every Envoy that counts uses this generation of the route.
    Applied {
        /// Which route.
        name: RoutableName,
        /// Which of its generations.
        generation: Generation,
    },
    /// No Envoy uses an older generation any more.
    Released {
        /// Which route.
        name: RoutableName,
        /// Which of its generations.
        generation: Generation,
    },
    /// No Envoy uses this generation, and some refused it.
    Rejected {
        /// Which route.
        name: RoutableName,
        /// Which of its generations.
        generation: Generation,
        /// Who refused it last, and what it said.
        message: String,
    },
    /// An Envoy refused something. Others may have taken it.
    Refused {
        /// What.
        key: Key,
        /// Which Envoy.
        node: String,
        /// What it said.
        message: String,
    },
    /// So many Envoys are connected now.
    Connected {
        /// How many.
        streams: usize,
    },
}

/// A routable name and what is known of its scope.
#[derive(Debug)]
struct Published {
    name: RoutableName,
    route: Option<Route>,
    generation: Generation,
    /// Oldest first; nearly always one.
    sent: Vec<Sent>,
}

/// One generation as it was published. The revision comes when it was.
#[derive(Debug)]
struct Sent {
    generation: Generation,
    version: Option<Version>,
    revision: Option<Revision>,
}

/// Owns what the table says of routes.
#[derive(Debug)]
pub struct Publisher {
    settings: Settings,
    sets: BTreeMap<PlacementSet, Set>,
    /// Boxed, because a B-tree has room for twice what is in it.
    names: BTreeMap<Name, Box<Published>>,
    /// Clusters to remove, by when.
    unused: BTreeSet<(Time, PlacementSet, Door)>,
    mesh: Mesh,
    /// What every Envoy gets, until it is published.
    first: Option<Vec<Change>>,
    /// Names that were handed out and not confirmed as published yet.
    unconfirmed: BTreeSet<Name>,
    refusals: Refusals,
    /// Models and pipelines that somebody declared.
    declared: BTreeSet<Name>,
    /// Names that were declared or removed, whose scopes are not made of a route.
    redeclared: BTreeMap<Name, RoutableName>,
    /// Names that are new, by when Envoys are told of them if nobody serves them.
    coming: BTreeMap<(Time, Name), RoutableName>,
    gateways: Vec<Address>,
    demand: Demand,
    /// Names whose gRPC clients are to be told anew; true: because their routes have changed.
    stale: BTreeMap<Name, bool>,
    news: Vec<News>,
}

impl Publisher {
    /// Nothing is published yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let (mesh, mut first) = Mesh::start(&settings);
        first.extend(gateways::start(&settings));
        first.push(Change::Put(scope::ready()));
        first.push(Change::Put(listener::resource(&settings, settings.port)));
        Publisher {
            settings,
            sets: BTreeMap::new(),
            names: BTreeMap::new(),
            unused: BTreeSet::new(),
            mesh,
            first: Some(first),
            unconfirmed: BTreeSet::new(),
            refusals: Refusals::default(),
            declared: BTreeSet::new(),
            redeclared: BTreeMap::new(),
            coming: BTreeMap::new(),
            gateways: Vec::new(),
            demand: Demand::default(),
            stale: BTreeMap::new(),
            news: Vec::new(),
        }
    }

    /// Translates changes, in their order. The first call also gives what every Envoy gets, and what it is given must
    /// be complete: publish it before the table is opened.
    #[must_use]
    pub fn apply(&mut self, changes: impl IntoIterator<Item = RouteChange>, now: Time) -> Publication {
        let first = self.first.take();
        let is_first = first.is_some();
        let mut out = Publication { changes: first.unwrap_or_default(), gated: Vec::new() };
        for change in changes {
            match change {
                RouteChange::Set { set, endpoints: Some(endpoints) } => self.set(set, endpoints, now, &mut out),
                RouteChange::Set { set, endpoints: None } => self.drop_set(&set, now),
                RouteChange::Route { name, generation, route } => self.route(name, generation, route, &mut out),
                RouteChange::Gateways(addresses) => {
                    out.changes.push(gateways::change(&addresses));
                    self.refusals.changed(gateways::CLUSTER);
                    self.regate(addresses);
                }
                RouteChange::Declared { name, is } => self.declare(&name, is),
                RouteChange::Mesh(endpoints) => out.changes.extend(self.mesh.change(&endpoints, &self.settings)),
            }
        }
        self.redeclare(is_first, now, &mut out);
        self.publish_again(&mut out);
        self.refresh(now, &mut out);
        out
    }

    /// Removes clusters that have been unused for the grace, and tells of names that nobody has served in time.
    #[must_use]
    pub fn tick(&mut self, now: Time) -> Publication {
        let mut out = Publication::default();
        self.remove_unused(now, &mut out);
        for _ in 0..UNSERVED_AT_ONCE {
            let Some(entry) = self.coming.first_entry().filter(|entry| entry.key().0 <= now) else { break };
            let ((_, key), name) = entry.remove_entry();
            if self.declared.contains(&key) && !self.names.contains_key(&key) {
                out.changes.push(Change::Put(scope::unserved(&name).sharing(&key)));
            }
        }
        self.publish_again(&mut out);
        let (gone, released) = self.demand.due(now);
        for name in gone {
            self.end(&name, &mut out);
        }
        self.news.extend(released.into_iter().map(|(name, generation)| News::Released { name, generation }));
        out
    }

    /// What came of the last [`Publisher::tick`] or [`Publisher::unwant`].
    pub fn take_news(&mut self) -> Vec<News> {
        std::mem::take(&mut self.news)
    }

    /// When to call [`Publisher::tick`] next.
    #[must_use]
    pub fn due(&self) -> Option<Time> {
        let coming = self.coming.first_key_value().map(|((due, _), _)| *due);
        let unused = self.unused.first().map(|(due, ..)| *due);
        [unused, coming, self.demand.next()].into_iter().flatten().min()
    }

    /// Says that everything handed out so far is in the table, at this revision.
    pub fn published(&mut self, revision: Revision) {
        self.refusals.published(revision);
        self.demand.published(revision);
        for name in std::mem::take(&mut self.unconfirmed) {
            let Some(published) = self.names.get_mut(&name) else { continue };
            // What is published anew unchanged is told of as the newer.
            published.sent.retain(|sent| sent.revision != Some(revision));
            for sent in published.sent.iter_mut().filter(|sent| sent.revision.is_none()) {
                sent.revision = Some(revision);
            }
        }
    }

    /// Translates what the table's server says of its clients. `None`: it is about a change that a newer one replaced.
    pub fn hear(&mut self, feedback: Feedback, now: Time) -> Option<News> {
        match feedback {
            Feedback::Applied { key, revision } => {
                let (name, generation) = self.at(&key, revision)?;
                self.refusals.unstick(&key.name);
                Some(News::Applied { name, generation })
            }
            Feedback::Released { key, revision } => {
                let Some(released) = self.at(&key, revision) else {
                    self.demand.acknowledge(&key, revision, now);
                    return None;
                };
                self.forget(&key.name, revision);
                let (name, generation) = self.demand.release(&key.name, released)?;
                Some(News::Released { name, generation })
            }
            Feedback::Rejected { key, version, node, message } => {
                self.refused(&key, version, &node, &message);
                Some(News::Refused { key, node, message })
            }
            Feedback::Refused { key, revision } => {
                let (name, generation) = self.at(&key, revision)?;
                let message = self.why_refused(&key.name, generation, revision);
                Some(News::Rejected { name, generation, message })
            }
            Feedback::Connected { streams } => Some(News::Connected { streams }),
            Feedback::Wanted { .. } | Feedback::Unwanted { .. } => None,
        }
    }

    fn route(&mut self, name: RoutableName, generation: Generation, route: Option<Route>, out: &mut Publication) {
        let key = routed(&name);
        self.reroute(&key);
        self.redeclared.remove(&key);
        self.refusals.unstick(&key);
        let published = self
            .names
            .entry(key.clone())
            .or_insert_with(|| Box::new(Published { name, route: None, generation, sent: Vec::new() }));
        published.generation = generation;
        let before = std::mem::replace(&mut published.route, route);
        let after: Vec<PlacementSet> = sets(published.route.as_ref()).cloned().collect();
        for set in sets(before.as_ref()).filter(|set| !after.contains(set)) {
            if let Some(state) = self.sets.get_mut(set) {
                state.users.remove(&key);
            }
        }
        for set in after {
            if !self.sets.contains_key(&set) {
                tracing::error!(name = %key, %set, "route leads to a set that was not announced; it has no replicas");
                self.set(set.clone(), Vec::new(), Time(0), out);
            }
            if let Some(state) = self.sets.get_mut(&set) {
                state.users.insert(key.clone());
            }
        }
        self.translate(&key, out);
    }

    /// Publishes the scopes of names that lead nowhere, which depend on whether somebody declared them. The first
    /// publication has them all, because Envoys have nothing without it.
    fn redeclare(&mut self, is_first: bool, now: Time, out: &mut Publication) {
        for (key, name) in std::mem::take(&mut self.redeclared) {
            if let Some(published) = self.names.get(&key) {
                if published.leads().is_none() {
                    self.translate(&key, out);
                }
                continue;
            }
            if !self.declared.contains(&key) {
                out.changes.push(Change::Remove(scope::key(key.as_str())));
            } else if is_first {
                out.changes.push(Change::Put(scope::unserved(&name).sharing(&key)));
            } else {
                self.coming.insert((now.after(UNSERVED_AFTER_MS), key), name);
            }
        }
    }

    /// Publishes the scope of a name as it is now.
    fn translate(&mut self, key: &Name, out: &mut Publication) {
        let Some(published) = self.names.get_mut(key) else { return };
        let sets = &self.sets;
        let shape = |set: &PlacementSet| sets.get(set).map_or(Shape::OnePort, |state| state.shape);
        let change = match published.leads() {
            Some(route) => Change::Put(scope::resource(&published.name, route, shape).sharing(key)),
            None if self.declared.contains(key) => Change::Put(scope::unserved(&published.name).sharing(key)),
            None => Change::Remove(scope::key(key.as_str())),
        };
        let version = match &change {
            Change::Put(resource) => Some(resource.version()),
            Change::Remove(_) => None,
        };
        // What was not published yet is replaced, what was may still be told of.
        published.sent.retain(|sent| sent.revision.is_some());
        if published.sent.len() >= MAX_REMEMBERED {
            published.sent.remove(0);
        }
        published.sent.reserve_exact(1);
        published.sent.push(Sent { generation: published.generation, version, revision: None });
        out.gated.push(change.key());
        out.changes.push(change);
        self.unconfirmed.insert(key.clone());
    }

    /// The name and generation that were published at a revision.
    fn at(&self, key: &Key, revision: Revision) -> Option<(RoutableName, Generation)> {
        self.find(key, |sent| sent.revision == Some(revision))
    }

    fn with_version(&self, key: &Key, version: Option<Version>) -> Option<(RoutableName, Generation)> {
        self.find(key, |sent| sent.version == version)
    }

    fn find(&self, key: &Key, is: impl Fn(&Sent) -> bool) -> Option<(RoutableName, Generation)> {
        let published = self.names.get(&key.name).filter(|_| key.kind == Kind::ScopedRoute)?;
        let sent = published.sent.iter().rev().find(|sent| is(sent))?;
        Some((published.name.clone(), sent.generation))
    }

    /// Forgets what no feedback can come of any more: what is older than a released change, and a name that is gone.
    fn forget(&mut self, key: &Name, released: Revision) {
        self.refusals.forget(&scope::key(key.as_str()));
        let Some(published) = self.names.get_mut(key) else { return };
        published.sent.retain(|sent| sent.revision.is_none_or(|revision| revision >= released));
        let last = published.sent.iter().all(|sent| sent.revision == Some(released));
        if last && published.route.is_none() {
            self.names.remove(key);
        }
    }
}

impl Published {
    /// Its route, if that goes anywhere.
    fn leads(&self) -> Option<&Route> {
        self.route.as_ref().filter(|route| !route.backends.is_empty())
    }
}

fn routed(name: &RoutableName) -> Name {
    match name {
        RoutableName::Model(model) => Name::from(model.shared()),
        RoutableName::Pipeline(_) | RoutableName::Experiment(_) => Name::from(name.to_string()),
    }
}

fn sets(route: Option<&Route>) -> impl Iterator<Item = &PlacementSet> {
    route.into_iter().flat_map(Route::sets)
}
