//! One Envoy with N models, fed in this process by the real publisher and discovery server, or by them with a linear
//! list of routes.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use domain::{
    Backend, Endpoint, Generation, Health, ModelName, ModelVersionId, PlacementSet, ReplicaId, ReplicaIndex,
    RoutableName, Route, ServerName, Time, VersionNumber,
};
use envoy::{Admin, Bootstrap, Envoy, FirstConfiguration};
use harness::Ports;
use http::StatusCode;
use scheduler::envoy::{Publication, Publisher, Settings};
use scheduler_core::RouteChange;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use xds::{Ads, Change, Config, Kind};

use crate::client::{Connection, Question};
use crate::{linear, program};

/// Envoy loads 10,000 models in half a second on a free machine.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// How an Envoy finds a model's route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Routing {
    /// As we do it: a scope for each model.
    Scopes,
    /// The naive way.
    Linear,
}

impl Routing {
    pub(crate) const BOTH: [Routing; 2] = [Routing::Scopes, Routing::Linear];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Routing::Scopes => "Switchyard",
            Routing::Linear => "linear list",
        }
    }
}

/// A placement set of one backend.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    set: PlacementSet,
    replica: ReplicaId,
    cluster: String,
}

pub(crate) struct Mesh {
    pub(crate) routing: Routing,
    pub(crate) address: SocketAddr,
    envoy: Envoy,
    ads: Ads,
    publisher: Publisher,
    /// The cluster of each model; only the linear list is made of it.
    clusters: Vec<String>,
    names: Vec<String>,
    generation: u64,
    servers: u32,
    _folder: TempDir,
    _ports: Ports,
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

impl Mesh {
    /// All `models` lead to `backend`; Envoy uses that when this returns.
    pub(crate) async fn start(routing: Routing, models: usize, backend: SocketAddr) -> Result<(Mesh, Target)> {
        let binary = envoy::find(&|progress| eprintln!("{progress}")).context("find Envoy")?;
        let folder = tempfile::Builder::new().prefix("switchyard-bench-").tempdir()?;
        let mut ports = Ports::block()?;
        let data_port = ports.free()?;
        let settings =
            Settings { address: Ipv4Addr::LOCALHOST.into(), port: data_port, access_log: None, ..Settings::default() };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("open a port for discovery")?;
        let xds = listener.local_addr()?;
        let grace = Duration::from_secs(1);
        let (ads, mut feedback) = Ads::new(Config { lag_after: READY_WITHIN, drain_grace: grace, ..Config::default() });
        tokio::spawn(async move { while feedback.recv().await.is_some() {} });
        let server = tonic::transport::Server::builder().tcp_nodelay(true).add_routes(ads.routes());
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));

        let publisher = Publisher::new(settings);
        let bootstrap = Bootstrap {
            node_id: format!("bench-{}", routing.name()),
            node_cluster: "bench".to_owned(),
            listen_address: Ipv4Addr::LOCALHOST.into(),
            data_port,
            stats_port: ports.free()?,
            admin: Admin::UnixSocket(folder.path().join("admin.sock")),
            xds: vec![xds.into()],
            first_configuration: FirstConfiguration::Required,
            concurrency: Some(1),
        };
        let launcher = program::path()?;
        let envoy = Envoy::start(&binary, &bootstrap, folder.path(), Some(&launcher)).await.context("start Envoy")?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, data_port));
        let names = (0..models).map(model).collect();
        let mut mesh = Mesh {
            routing,
            address,
            envoy,
            ads,
            publisher,
            clusters: Vec::new(),
            names,
            generation: 0,
            servers: 0,
            _folder: folder,
            _ports: ports,
        };
        let target = mesh.fill(backend)?;
        mesh.envoy.ready(READY_WITHIN).await.context("wait for Envoy")?;
        let (status, _) = Connection::open(address).await?.ask(&question(models.saturating_sub(1))?).await?;
        ensure!(status == StatusCode::OK, "the last model is answered {status}");
        Ok((mesh, target))
    }

    /// The first publication, which is complete.
    fn fill(&mut self, backend: SocketAddr) -> Result<Target> {
        let (target, set) = self.new_set(backend)?;
        let mut changes = vec![set];
        if self.routing == Routing::Scopes {
            for number in 0..self.names.len() {
                changes.push(self.route(number, &target)?);
            }
        }
        let mut publication = self.publisher.apply(changes, Time(0));
        let target = named(target, &publication)?;
        if self.routing == Routing::Linear {
            self.clusters = vec![target.cluster.clone(); self.names.len()];
            for change in &mut publication.changes {
                if let Change::Put(resource) = change
                    && resource.kind() == Kind::Listener
                {
                    *resource = linear::listener(resource)?;
                }
            }
            publication.changes.push(self.list());
        }
        self.publish(publication)?;
        self.ads.open(false);
        Ok(target)
    }

    /// Announces a set that nothing leads to yet.
    pub(crate) fn target(&mut self, backend: SocketAddr) -> Result<Target> {
        let (target, set) = self.new_set(backend)?;
        let publication = self.publisher.apply([set], Time(0));
        let target = named(target, &publication)?;
        self.publish(publication)?;
        Ok(target)
    }

    /// Lets a model lead to a target.
    pub(crate) fn lead(&mut self, number: usize, target: &Target) -> Result<()> {
        match self.routing {
            Routing::Scopes => {
                let route = self.route(number, target)?;
                let publication = self.publisher.apply([route], Time(0));
                self.publish(publication)
            }
            Routing::Linear => {
                *self.clusters.get_mut(number).context("a model that exists")? = target.cluster.clone();
                let publication = Publication { changes: vec![self.list()], gated: Vec::new() };
                self.publish(publication)
            }
        }
    }

    /// Announces a set of this backend and lets a model lead there, at once.
    pub(crate) fn lead_to_new(&mut self, number: usize, backend: SocketAddr) -> Result<()> {
        let (target, set) = self.new_set(backend)?;
        let mut changes = vec![set];
        if self.routing == Routing::Scopes {
            changes.push(self.route(number, &target)?);
        }
        let mut publication = self.publisher.apply(changes, Time(0));
        if self.routing == Routing::Linear {
            let target = named(target, &publication)?;
            *self.clusters.get_mut(number).context("a model that exists")? = target.cluster;
            publication.changes.push(self.list());
        }
        self.publish(publication)
    }

    /// Moves the replica of a target to another backend: endpoints change, nothing else.
    pub(crate) fn move_replica(&mut self, target: &Target, backend: SocketAddr) -> Result<()> {
        let endpoints = Some(vec![endpoint(target.replica.clone(), backend)]);
        let publication = self.publisher.apply([RouteChange::Set { set: target.set.clone(), endpoints }], Time(0));
        self.publish(publication)
    }

    pub(crate) fn envoy_pid(&self) -> Result<u32> {
        self.envoy.pid().context("Envoy has ended")
    }

    pub(crate) async fn stop(mut self) -> Result<()> {
        self.envoy.stop().await.context("stop Envoy").map(|_| ())
    }

    fn list(&self) -> Change {
        let routes = self.names.iter().zip(&self.clusters);
        Change::Put(linear::routes(routes.map(|(name, cluster)| (name.as_str(), cluster.as_str()))))
    }

    fn publish(&mut self, publication: Publication) -> Result<()> {
        let revision = self.ads.publish(publication.changes, publication.gated).context("publish")?;
        self.publisher.published(revision);
        Ok(())
    }

    /// A set that nobody has used; its cluster's name is not known yet.
    fn new_set(&mut self, backend: SocketAddr) -> Result<(Target, RouteChange)> {
        self.servers += 1;
        let server = ServerName::parse(&format!("server-{}", self.servers))?;
        let replica = ReplicaId { server, index: ReplicaIndex(0) };
        let set = PlacementSet::new(BTreeSet::from([replica.clone()])).context("a set is not empty")?;
        let endpoints = Some(vec![endpoint(replica.clone(), backend)]);
        let change = RouteChange::Set { set: set.clone(), endpoints };
        Ok((Target { set, replica, cluster: String::new() }, change))
    }

    fn route(&mut self, number: usize, target: &Target) -> Result<RouteChange> {
        let model = ModelName::parse(self.names.get(number).context("a model that exists")?)?;
        self.generation += 1;
        let version = ModelVersionId { model: model.clone(), number: VersionNumber(1) };
        let backend = Backend { target: domain::Target::Model { version, set: target.set.clone() }, weight: 100 };
        Ok(RouteChange::Route {
            name: RoutableName::Model(model),
            generation: Generation(self.generation),
            route: Some(Route { backends: vec![backend], mirrors: Vec::new(), log_payloads: false }),
        })
    }
}

fn endpoint(replica: ReplicaId, backend: SocketAddr) -> Endpoint {
    let (host, port) = (backend.ip().to_string(), backend.port());
    Endpoint { replica, host, http_port: port, grpc_port: port, health: Health::Healthy }
}

/// The target with the name of its cluster, the only new one of a publication.
fn named(target: Target, publication: &Publication) -> Result<Target> {
    let clusters = publication.changes.iter().filter_map(|change| match change {
        Change::Put(resource) if resource.kind() == Kind::Cluster => Some(resource.name().to_string()),
        Change::Put(_) | Change::Remove(_) => None,
    });
    let cluster = clusters.last().context("a new set has a cluster")?;
    Ok(Target { cluster, ..target })
}
