//! One Envoy, one server of its configuration, and the publisher between: what the tests act on.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener as BlockingListener};
use std::path::PathBuf;
use std::time::Duration;

use api::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use domain::{
    Backend, Endpoint, ExperimentName, Generation, Health, MirrorBackend, ModelName, ModelVersionId, PlacementSet,
    ReplicaId, ReplicaIndex, RoutableName, Route, ServerName, Target, Time, VersionNumber,
};
use envoy::{Admin, Bootstrap, Envoy, FirstConfiguration};
use http::StatusCode;
use scheduler::envoy::{AccessLog, News, Publisher, Settings, tailor};
use scheduler_core::RouteChange;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tonic::transport::Channel;
use tonic::transport::server::TcpIncoming;
use xds::{Ads, Config, Feedback};

use crate::backend;
use crate::client::{self, RestClient};

/// Envoy starts in a fifth of a second and applies a change in milliseconds; the machine may be busy.
const DEADLINE: Duration = Duration::from_secs(20);

pub struct World {
    pub rest: RestClient,
    pub rpc: GrpcInferenceServiceClient<Channel>,
    pub now: Time,
    statistics: RestClient,
    address: SocketAddr,
    publisher: Publisher,
    ads: Ads,
    feedback: mpsc::Receiver<Feedback>,
    refused: Vec<News>,
    generation: u64,
    envoy: Envoy,
    folder: TempDir,
    servers: u32,
}

impl World {
    pub async fn start(include_successful: bool) -> World {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings {
            address: Ipv4Addr::LOCALHOST.into(),
            access_log: Some(AccessLog { path: folder.path().join("access.log"), include_successful }),
            ..Settings::default()
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let xds = listener.local_addr().unwrap();
        let config = Config {
            lag_after: DEADLINE,
            drain_grace: Duration::from_secs(1),
            tailor: Some(tailor(&settings)),
            ..Config::default()
        };
        let (ads, feedback) = Ads::new(config);
        let server = tonic::transport::Server::builder().add_routes(ads.routes());
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true))));
        let mut publisher = Publisher::new(settings);
        let first = publisher.apply([], Time(0));
        publisher.published(ads.publish(first.changes, first.gated).unwrap());
        ads.open(false);
        let held = [(); 2].map(|()| BlockingListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        let [data_port, stats_port] = held.each_ref().map(|listener| listener.local_addr().unwrap().port());
        drop(held);
        let bootstrap = Bootstrap {
            node_id: "test".to_owned(),
            node_cluster: "tests".to_owned(),
            listen_address: Ipv4Addr::LOCALHOST.into(),
            data_port,
            stats_port,
            admin: Admin::UnixSocket(folder.path().join("admin.sock")),
            xds: vec![xds.into()],
            first_configuration: FirstConfiguration::Required,
            concurrency: Some(2),
        };
        let binary = envoy::find(&|progress| eprintln!("{progress}")).unwrap();
        let mut envoy = Envoy::start(&binary, &bootstrap, folder.path(), None).await.unwrap();
        if let Err(error) = envoy.ready(DEADLINE).await {
            panic!("{error}\n{:#?}\n{}", ads.streams(), std::fs::read_to_string(envoy.log()).unwrap());
        }
        // The settings' port is another one: Envoy asked for this in its metadata.
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, data_port));
        World {
            rest: RestClient::new(address),
            rpc: client::rpc(address).await,
            now: Time(0),
            statistics: RestClient::new(SocketAddr::from((Ipv4Addr::LOCALHOST, stats_port))),
            address,
            publisher,
            ads,
            feedback,
            refused: Vec::new(),
            generation: 0,
            envoy,
            folder,
            servers: 0,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A server nobody has used, with replicas at these addresses (REST and gRPC).
    pub fn server(&mut self, ports: &[(u16, u16)]) -> (PlacementSet, Vec<Endpoint>) {
        self.servers += 1;
        let server = ServerName::parse(&format!("server-{}", self.servers)).unwrap();
        let endpoint = |(index, (http_port, grpc_port)): (usize, &(u16, u16))| Endpoint {
            replica: ReplicaId { server: server.clone(), index: ReplicaIndex(u32::try_from(index).unwrap()) },
            host: "127.0.0.1".to_owned(),
            http_port: *http_port,
            grpc_port: *grpc_port,
            health: Health::Healthy,
        };
        let endpoints: Vec<Endpoint> = ports.iter().enumerate().map(endpoint).collect();
        let replicas: BTreeSet<ReplicaId> = endpoints.iter().map(|endpoint| endpoint.replica.clone()).collect();
        (PlacementSet::new(replicas).unwrap(), endpoints)
    }

    /// Announces a set of such backends.
    pub fn placed(&mut self, backends: &[&backend::Backend]) -> (PlacementSet, RouteChange) {
        let ports: Vec<(u16, u16)> = backends.iter().map(|b| (b.address.port(), b.address.port())).collect();
        let (set, endpoints) = self.server(&ports);
        (set.clone(), RouteChange::Set { set, endpoints: Some(endpoints) })
    }

    /// A model with one version on these backends.
    pub async fn model(&mut self, name: &str, backends: &[&backend::Backend]) -> PlacementSet {
        let (set, change) = self.placed(backends);
        let route = self.route(name, &[(1, &set, 100)], false);
        self.publish([change, route]).await;
        set
    }

    pub fn route(&mut self, name: &str, backends: &[(u32, &PlacementSet, u32)], log_payloads: bool) -> RouteChange {
        let model = ModelName::parse(name).unwrap();
        let backend = |(number, set, weight): &(u32, &PlacementSet, u32)| Backend {
            target: Target::Model {
                version: ModelVersionId { model: model.clone(), number: VersionNumber(*number) },
                set: (*set).clone(),
            },
            weight: *weight,
        };
        self.leads(
            name,
            Some(Route { backends: backends.iter().map(backend).collect(), mirrors: Vec::new(), log_payloads }),
        )
    }

    pub fn leads(&mut self, name: &str, route: Option<Route>) -> RouteChange {
        self.generation += 1;
        let name = RoutableName::Model(ModelName::parse(name).unwrap());
        RouteChange::Route { name, generation: Generation(self.generation), route }
    }

    /// An experiment: models with version, set and weight, and a mirror with percent.
    pub fn split(
        &mut self,
        name: &str,
        candidates: &[(&str, u32, &PlacementSet, u32)],
        mirror: Option<(&str, u32, &PlacementSet, u32)>,
    ) -> RouteChange {
        let version = |model: &str, number: u32| ModelVersionId {
            model: ModelName::parse(model).unwrap(),
            number: VersionNumber(number),
        };
        let backends = candidates.iter().map(|(model, number, set, weight)| Backend {
            target: Target::Model { version: version(model, *number), set: (*set).clone() },
            weight: *weight,
        });
        let mirrors = mirror.iter().map(|(model, number, set, percent)| MirrorBackend {
            target: Target::Model { version: version(model, *number), set: (*set).clone() },
            percent: *percent,
        });
        self.generation += 1;
        let route = Route { backends: backends.collect(), mirrors: mirrors.collect(), log_payloads: false };
        let name = RoutableName::Experiment(ExperimentName::parse(name).unwrap());
        RouteChange::Route { name, generation: Generation(self.generation), route: Some(route) }
    }

    /// The connected Envoys and what they were sent.
    pub fn streams(&self) -> Vec<xds::StreamStatus> {
        self.ads.streams()
    }

    /// Publishes, and waits until Envoy uses every route among the changes.
    pub async fn publish(&mut self, changes: impl IntoIterator<Item = RouteChange>) {
        let changes: Vec<RouteChange> = changes.into_iter().collect();
        let waits: Vec<(RoutableName, Generation)> = changes
            .iter()
            .filter_map(|change| match change {
                RouteChange::Route { name, generation, .. } => Some((name.clone(), *generation)),
                RouteChange::Set { .. }
                | RouteChange::Mesh(_)
                | RouteChange::Gateways(_)
                | RouteChange::Declared { .. } => None,
            })
            .collect();
        let publication = self.publisher.apply(changes, self.now);
        self.hand_out(publication);
        self.until_applied(waits).await;
    }

    /// A model is declared, or removed; whoever asks sees it soon.
    pub async fn declare(&mut self, model: &str, is: bool) {
        let name = RoutableName::Model(ModelName::parse(model).unwrap());
        self.publish([RouteChange::Declared { name, is }]).await;
        self.pass(scheduler::envoy::UNSERVED_AFTER_MS);
    }

    /// What a request for a model is answered with.
    pub async fn infer(&self, model: &str) -> StatusCode {
        self.rest.get(&format!("/v2/models/{model}/infer"), &[]).await.status
    }

    /// Lets time pass for the publisher.
    pub fn pass(&mut self, milliseconds: u64) {
        self.now = self.now.after(milliseconds);
        let publication = self.publisher.tick(self.now);
        self.hand_out(publication);
    }

    fn hand_out(&mut self, publication: scheduler::envoy::Publication) {
        self.publisher.published(self.ads.publish(publication.changes, publication.gated).unwrap());
    }

    async fn until_applied(&mut self, mut waits: Vec<(RoutableName, Generation)>) {
        while !waits.is_empty() {
            let Ok(told) = tokio::time::timeout(DEADLINE, self.feedback.recv()).await else {
                panic!("not applied: {waits:?}\nrefused: {:#?}\nstreams: {:#?}", self.refused, self.ads.streams());
            };
            match self.publisher.hear(told.unwrap(), Time(0)) {
                Some(News::Applied { name, generation }) => waits.retain(|wait| *wait != (name.clone(), generation)),
                Some(refused @ (News::Rejected { .. } | News::Refused { .. })) => {
                    panic!("{refused:#?}");
                }
                Some(News::Released { .. } | News::Connected { .. }) | None => {}
            }
        }
    }

    /// Waits until the condition holds.
    pub async fn until(&self, what: &str, holds: impl AsyncFn(&World) -> bool) {
        let deadline = tokio::time::Instant::now() + DEADLINE;
        while !holds(self).await {
            assert!(tokio::time::Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
            tokio::task::yield_now().await;
        }
    }

    /// The clusters Envoy has, as its statistics show them.
    pub async fn clusters(&self) -> BTreeSet<String> {
        let answer = self.statistics.get("/stats?filter=^cluster\\..*\\.membership_total$", &[]).await;
        answer.body.lines().filter_map(|line| line.split('.').nth(1)).map(str::to_owned).collect()
    }

    /// How often Envoy left a replica out so far.
    pub async fn ejections(&self) -> u64 {
        let answer = self.statistics.get("/stats?filter=outlier_detection.ejections_enforced_total$", &[]).await;
        let numbers = answer.body.lines().filter_map(|line| line.rsplit_once(": ")?.1.parse::<u64>().ok());
        let numbers: Vec<u64> = numbers.collect();
        assert!(!numbers.is_empty(), "Envoy has no such statistics: {}", answer.body);
        numbers.iter().sum()
    }

    /// Neither in feedback nor in Envoy's own log.
    pub fn nothing_was_refused(&mut self) {
        while let Ok(told) = self.feedback.try_recv() {
            if let Some(refused @ (News::Rejected { .. } | News::Refused { .. })) = self.publisher.hear(told, Time(0)) {
                panic!("{refused:#?}");
            }
        }
        let log = std::fs::read_to_string(self.envoy.log()).unwrap();
        let complaints: Vec<&str> = log
            .lines()
            .filter(|line| ["[warning]", "[error]", "[critical]"].iter().any(|l| line.contains(l)))
            .collect();
        assert_eq!(complaints, Vec::<&str>::new());
    }

    /// Ends Envoy; its access log is complete then.
    pub async fn stop(mut self) -> Vec<String> {
        self.envoy.stop().await.unwrap();
        let path: PathBuf = self.folder.path().join("access.log");
        std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
    }
}

/// Not used by anybody at the moment of the call.
pub fn closed_port() -> u16 {
    BlockingListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}
