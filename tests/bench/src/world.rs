//! N models and the placement sets they lead to, as the real publisher says it to Envoys, or in one of the naive shapes.
//!
//! Pure: changes in, publications out. [`World::whole`] is also what a restarted server would publish first.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use domain::{
    Backend, Endpoint, Generation, Health, ModelName, ModelVersionId, PlacementSet, ReplicaId, ReplicaIndex,
    RoutableName, Route, ServerName, Time, VersionNumber,
};
use scheduler::envoy::{Publication, Publisher, SET_GRACE_MS, Settings};
use scheduler_core::RouteChange;
use xds::{Change, Kind};

use crate::client::Question;
use crate::linear;

/// How an Envoy finds the replicas of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// As we do it: a scope for each model, a cluster for each placement set.
    Scopes,
    /// One list of routes that is searched from its beginning and sent whole.
    Linear,
    /// A scope and a cluster for each model.
    Clusters,
}

impl Shape {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Shape::Scopes => "Switchyard",
            Shape::Linear => "linear list",
            Shape::Clusters => "a cluster for each model",
        }
    }
}

/// A placement set of one replica.
#[derive(Debug)]
struct Set {
    set: PlacementSet,
    replica: ReplicaId,
    backend: SocketAddr,
    cluster: String,
}

/// Sets and models go by their numbers.
#[derive(Debug)]
pub(crate) struct World {
    shape: Shape,
    settings: Settings,
    publisher: Publisher,
    sets: Vec<Set>,
    leads: Vec<usize>,
    generation: u64,
}

/// The name of the model with that number.
pub(crate) fn model(number: usize) -> String {
    format!("model-{number:05}")
}

/// A question for a model, with the header that says which.
pub(crate) fn question(number: usize) -> Result<Question> {
    let name = model(number);
    Question::get(&format!("/v2/models/{name}")).header(domain::header::MODEL, &name)
}

/// What Envoys serve on, unless they say otherwise themselves.
pub(crate) fn settings(port: u16) -> Settings {
    Settings { address: Ipv4Addr::LOCALHOST.into(), port, access_log: None, ..Settings::default() }
}

impl World {
    /// As many sets of this backend, among which the models are dealt out.
    pub(crate) fn new(
        shape: Shape,
        settings: Settings,
        models: usize,
        sets: usize,
        backend: SocketAddr,
    ) -> Result<World> {
        let sets = if shape == Shape::Clusters { models } else { sets };
        let mut world = World {
            shape,
            publisher: Publisher::new(settings.clone()),
            settings,
            sets: Vec::new(),
            leads: (0..models).map(|number| number % sets).collect(),
            generation: 0,
        };
        for _ in 0..sets {
            world.new_set(backend)?;
        }
        Ok(world)
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(crate) fn models(&self) -> usize {
        self.leads.len()
    }

    /// Everything, as a new publisher says it.
    pub(crate) fn whole(&mut self) -> Result<Publication> {
        self.publisher = Publisher::new(self.settings.clone());
        let mut publication = self.sets()?;
        let routes = self.routes(0..self.leads.len())?;
        publication.changes.extend(routes.changes);
        publication.gated.extend(routes.gated);
        Ok(publication)
    }

    /// The first part of it: all but the routes.
    pub(crate) fn sets(&mut self) -> Result<Publication> {
        let sets: Vec<RouteChange> = self.sets.iter().map(Set::change).collect();
        let mut publication = self.publisher.apply(sets, Time(0));
        if self.shape == Shape::Linear {
            for change in &mut publication.changes {
                if let Change::Put(resource) = change
                    && resource.kind() == Kind::Listener
                {
                    *resource = linear::listener(resource)?;
                }
            }
            // They come in the order of the sets, after what every Envoy gets.
            let clusters = new_clusters(&publication);
            let first = clusters.len().checked_sub(self.sets.len()).context("a cluster for each set")?;
            for (set, cluster) in self.sets.iter_mut().zip(clusters.into_iter().skip(first)) {
                set.cluster = cluster;
            }
        }
        Ok(publication)
    }

    /// Where these models lead.
    pub(crate) fn routes(&mut self, models: impl IntoIterator<Item = usize>) -> Result<Publication> {
        if self.shape == Shape::Linear {
            return Ok(Publication { changes: vec![self.list()?], gated: Vec::new() });
        }
        let routes = models.into_iter().map(|number| self.route(number)).collect::<Result<Vec<_>>>()?;
        Ok(self.publisher.apply(routes, Time(0)))
    }

    /// A new set, announced; nothing leads to it yet.
    pub(crate) fn announce(&mut self, backend: SocketAddr) -> Result<(usize, Publication)> {
        let number = self.new_set(backend)?;
        let publication = self.tell(number)?;
        Ok((number, publication))
    }

    /// Models that lead to a set from now on.
    pub(crate) fn lead(&mut self, models: impl IntoIterator<Item = usize>, set: usize) -> Result<Publication> {
        let models: Vec<usize> = models.into_iter().collect();
        for number in &models {
            *self.leads.get_mut(*number).context("a model that exists")? = set;
        }
        self.routes(models)
    }

    /// A new set of this backend and a model that leads there, at once.
    pub(crate) fn lead_to_new(&mut self, model: usize, backend: SocketAddr) -> Result<Publication> {
        let (set, mut publication) = self.announce(backend)?;
        let moved = self.lead([model], set)?;
        publication.changes.extend(moved.changes);
        publication.gated.extend(moved.gated);
        Ok(publication)
    }

    /// The set that a model leads to.
    pub(crate) fn led_by(&self, model: usize) -> Result<usize> {
        self.leads.get(model).copied().context("a model that exists")
    }

    /// A set that no model leads to goes, without the grace that is left to it otherwise.
    pub(crate) fn retire(&mut self, set: usize) -> Result<Publication> {
        let set = self.sets.get(set).context("a set that exists")?.set.clone();
        let mut publication = self.publisher.apply([RouteChange::Set { set, endpoints: None }], Time(0));
        publication.changes.extend(self.publisher.tick(Time(SET_GRACE_MS)).changes);
        Ok(publication)
    }

    /// The replica of a set moves to another backend: endpoints change, nothing else.
    pub(crate) fn move_replica(&mut self, set: usize, backend: SocketAddr) -> Result<Publication> {
        self.sets.get_mut(set).context("a set that exists")?.backend = backend;
        self.tell(set)
    }

    /// Says that what was handed out is in the table.
    pub(crate) fn published(&mut self, revision: xds::Revision) {
        self.publisher.published(revision);
    }

    fn new_set(&mut self, backend: SocketAddr) -> Result<usize> {
        let number = self.sets.len();
        let replica = ReplicaId { server: ServerName::parse(&format!("server-{number}"))?, index: ReplicaIndex(0) };
        let set = PlacementSet::new(BTreeSet::from([replica.clone()])).context("a set is not empty")?;
        self.sets.push(Set { set, replica, backend, cluster: String::new() });
        Ok(number)
    }

    /// What is to be said of a set that is new or has changed.
    fn tell(&mut self, number: usize) -> Result<Publication> {
        let set = self.sets.get_mut(number).context("a set that exists")?;
        let publication = self.publisher.apply([set.change()], Time(0));
        if let Some(cluster) = new_clusters(&publication).pop() {
            set.cluster = cluster;
        }
        Ok(publication)
    }

    fn route(&mut self, number: usize) -> Result<RouteChange> {
        let lead = *self.leads.get(number).context("a model that exists")?;
        let set = self.sets.get(lead).context("a set that exists")?.set.clone();
        let model = ModelName::parse(&model(number))?;
        self.generation += 1;
        let version = ModelVersionId { model: model.clone(), number: VersionNumber(1) };
        let backend = Backend { target: domain::Target::Model { version, set }, weight: 100 };
        Ok(RouteChange::Route {
            name: RoutableName::Model(model),
            generation: Generation(self.generation),
            route: Some(Route { backends: vec![backend], mirrors: Vec::new(), log_payloads: false }),
        })
    }

    fn list(&self) -> Result<Change> {
        let mut routes = Vec::with_capacity(self.leads.len());
        for (number, lead) in self.leads.iter().enumerate() {
            routes.push((model(number), self.sets.get(*lead).context("a set that exists")?.cluster.as_str()));
        }
        Ok(Change::Put(linear::routes(routes.iter().map(|(name, cluster)| (name.as_str(), *cluster)))))
    }
}

impl Set {
    fn change(&self) -> RouteChange {
        let (host, port) = (self.backend.ip().to_string(), self.backend.port());
        let replica = self.replica.clone();
        let endpoint = Endpoint { replica, host, http_port: port, grpc_port: port, health: Health::Healthy };
        RouteChange::Set { set: self.set.clone(), endpoints: Some(vec![endpoint]) }
    }
}

/// The names of the clusters of a publication, in its order.
fn new_clusters(publication: &Publication) -> Vec<String> {
    let clusters = publication.changes.iter().filter_map(|change| match change {
        Change::Put(resource) if resource.kind() == Kind::Cluster => Some(resource.name().to_string()),
        Change::Put(_) | Change::Remove(_) => None,
    });
    clusters.collect()
}
