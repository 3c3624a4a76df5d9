//! One scheduler in this process, reached as everybody reaches it: over gRPC on ports of its own.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use api::agent::agent_service_client::AgentServiceClient;
use api::health::health_check_service_client::HealthCheckServiceClient;
use api::scheduler::scheduler_client::SchedulerClient;
use messages::scheduler as wire;
use messages::scheduler::model_replica_status::ModelReplicaState;
use messages::scheduler::model_status::ModelState;
use runtime::Stop;
use scheduler::{Config, Error, Listeners};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::declare::Draft;

/// Everything here takes milliseconds; the machine may be busy.
pub const DEADLINE: Duration = Duration::from_secs(20);

pub struct World {
    pub control: SchedulerClient<Channel>,
    pub told: watch::Receiver<Told>,
    pub agents: SocketAddr,
    pub xds: SocketAddr,
    pub control_at: SocketAddr,
    pub workers_at: SocketAddr,
    dir: Arc<TempDir>,
    stop: Stop,
    running: JoinHandle<Result<(), Error>>,
    listening: JoinHandle<()>,
}

/// Every status that a subscriber was told, oldest first.
#[derive(Clone, Default)]
pub struct Told(pub Vec<wire::ModelStatusResponse>);

impl World {
    pub async fn start() -> World {
        World::start_with(Arc::new(tempfile::tempdir().unwrap()), |_| {}).await
    }

    pub async fn start_with(dir: Arc<TempDir>, edit: impl FnOnce(&mut Config)) -> World {
        let (xds, control, agents, workers) = (bind().await, bind().await, bind().await, bind().await);
        let at = |listener: &TcpListener| listener.local_addr().unwrap();
        let (xds_at, control_at, agents_at, workers_at) = (at(&xds), at(&control), at(&agents), at(&workers));
        let mut config = Config::new(dir.path().to_owned());
        edit(&mut config);
        let stop = Stop::new();
        let running = tokio::spawn(scheduler::run(config, Listeners { xds, control, agents, workers }, stop.clone()));
        let mut control = SchedulerClient::new(channel(control_at));
        let (tell, told) = watch::channel(Told::default());
        let request = wire::ModelSubscriptionRequest { subscriber_name: "test".into(), ..Default::default() };
        let mut statuses = control.subscribe_model_status(request).await.unwrap().into_inner();
        let listening = tokio::spawn(async move {
            while let Ok(Some(status)) = statuses.message().await {
                tell.send_modify(|told| told.0.push(status));
            }
        });
        World { control, told, agents: agents_at, xds: xds_at, control_at, workers_at, dir, stop, running, listening }
    }

    /// Ends it in good order and gives its folder back.
    pub async fn stop(self) -> Arc<TempDir> {
        self.stop.request();
        tokio::time::timeout(DEADLINE, self.running).await.expect("it ends").unwrap().unwrap();
        self.listening.abort();
        self.dir
    }

    /// Ends it and starts another one in its folder.
    pub async fn restart(self) -> World {
        World::start_with(self.stop().await, |_| {}).await
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn agent_api(&self) -> AgentServiceClient<Channel> {
        AgentServiceClient::new(channel(self.agents))
    }

    pub async fn load(&self, draft: &Draft) -> Result<(), Status> {
        let request = wire::LoadModelRequest { model: Some(draft.wire()) };
        self.control.clone().load_model(request).await.map(|_| ())
    }

    pub async fn unload(&self, name: &str, generation: Option<i64>) -> Result<(), Status> {
        let model = Some(wire::ModelReference { name: name.into(), version: None });
        let meta = generation.map(|generation| wire::KubernetesMeta { namespace: "test".into(), generation });
        let request = wire::UnloadModelRequest { model, kubernetes_meta: meta };
        self.control.clone().unload_model(request).await.map(|_| ())
    }

    /// What `ModelStatus` answers: about one model or about all.
    pub async fn statuses(&self, name: Option<&str>, all_versions: bool) -> Result<Told, Status> {
        let model = name.map(|name| wire::ModelReference { name: name.into(), version: None });
        let request = wire::ModelStatusRequest { subscriber_name: "test".into(), model, all_versions };
        let mut answers = self.control.clone().model_status(request).await?.into_inner();
        let mut told = Told::default();
        while let Some(answer) = answers.message().await? {
            told.0.push(answer);
        }
        Ok(told)
    }

    /// The status of every kept version of a model.
    pub async fn versions(&self, name: &str) -> Vec<wire::ModelVersionStatus> {
        self.statuses(Some(name), true).await.unwrap().0.remove(0).versions
    }

    /// The status of a model's latest version.
    pub async fn latest(&self, name: &str) -> wire::ModelVersionStatus {
        self.statuses(Some(name), false).await.unwrap().0.remove(0).versions.remove(0)
    }

    pub async fn server_statuses(&self, name: Option<&str>) -> Result<Vec<wire::ServerStatusResponse>, Status> {
        let request = wire::ServerStatusRequest { subscriber_name: "test".into(), name: name.map(str::to_owned) };
        let mut answers = self.control.clone().server_status(request).await?.into_inner();
        let mut statuses = Vec::new();
        while let Some(answer) = answers.message().await? {
            statuses.push(answer);
        }
        Ok(statuses)
    }

    /// Waits until the last status of the model satisfies the condition, and gives it.
    pub async fn until_model(
        &self,
        name: &str,
        what: &str,
        holds: impl Fn(&wire::ModelVersionStatus) -> bool,
    ) -> wire::ModelVersionStatus {
        let told = until(&self.told, &format!("{name}: {what}"), |told| told.last(name).is_some_and(&holds)).await;
        told.last(name).unwrap().clone()
    }

    pub async fn until_state(&self, name: &str, version: u32, state: ModelState) -> wire::ModelVersionStatus {
        let what = format!("version {version} is {}", state.as_str_name());
        self.until_model(name, &what, |status| status.version == version && state_of(status) == state).await
    }

    pub async fn until_replica(&self, name: &str, index: i32, state: ModelReplicaState) -> wire::ModelVersionStatus {
        let what = format!("replica {index} is {}", state.as_str_name());
        self.until_model(name, &what, |status| replica(status, index) == Some(state)).await
    }

    /// Waits until no version of the model is left but the given one.
    pub async fn until_only(&self, name: &str, version: u32) {
        loop_until(&format!("only version {version} of {name} is left"), async || {
            let versions = self.versions(name).await;
            let is_over = |status: &ModelReplicaState| {
                matches!(status, ModelReplicaState::Unloaded | ModelReplicaState::LoadFailed)
            };
            let mut older = versions.iter().filter(|status| status.version != version);
            let gone = older.all(|status| replicas(status).iter().all(|(_, state)| is_over(state)));
            if gone { Ok(()) } else { Err(format!("{:?}", Told::of(name, versions))) }
        })
        .await;
    }

    /// Whether all gRPC ports of the scheduler say that they are well.
    pub async fn is_healthy(&self) -> bool {
        let mut all = true;
        for at in [self.control_at, self.agents, self.workers_at] {
            let mut client = HealthCheckServiceClient::new(channel(at));
            all &= client.health_check(messages::health::HealthCheckRequest {}).await.unwrap().into_inner().ok;
        }
        all
    }
}

impl Told {
    fn of(name: &str, versions: Vec<wire::ModelVersionStatus>) -> Told {
        Told(vec![wire::ModelStatusResponse { model_name: name.into(), versions, ..Default::default() }])
    }

    pub fn last(&self, name: &str) -> Option<&wire::ModelVersionStatus> {
        self.0.iter().rev().find(|status| status.model_name == name).and_then(|status| status.versions.first())
    }

    /// Every version number that was told of a model, in order, each once in a row.
    pub fn versions(&self, name: &str) -> Vec<u32> {
        let mine = self.0.iter().filter(|status| status.model_name == name);
        let mut all: Vec<u32> = mine.flat_map(|status| status.versions.iter().map(|version| version.version)).collect();
        all.dedup();
        all
    }

    /// The states that a replica of a version went through.
    pub fn path(&self, name: &str, version: u32, index: i32) -> Vec<ModelReplicaState> {
        let mine = self.0.iter().filter(|status| status.model_name == name).flat_map(|status| &status.versions);
        let mut all: Vec<_> =
            mine.filter(|status| status.version == version).filter_map(|status| replica(status, index)).collect();
        all.dedup();
        all
    }
}

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for status in &self.0 {
            for version in &status.versions {
                let reason = version.state.as_ref().map(|state| state.reason.as_str()).unwrap_or_default();
                let (name, number, server) = (&status.model_name, version.version, &version.server_name);
                let (state, replicas) = (state_of(version), replicas(version));
                writeln!(f, "{name} version {number} on {server:?}: {state:?} {replicas:?} {reason}")?;
            }
        }
        Ok(())
    }
}

pub fn state_of(status: &wire::ModelVersionStatus) -> ModelState {
    status.state.as_ref().map(wire::ModelStatus::state).unwrap_or_default()
}

pub fn reason_of(status: &wire::ModelVersionStatus) -> &str {
    status.state.as_ref().map(|state| state.reason.as_str()).unwrap_or_default()
}

pub fn replica(status: &wire::ModelVersionStatus, index: i32) -> Option<ModelReplicaState> {
    status.model_replica_state.get(&index).map(wire::ModelReplicaStatus::state)
}

pub fn replicas(status: &wire::ModelVersionStatus) -> Vec<(i32, ModelReplicaState)> {
    let mut all: Vec<_> = status.model_replica_state.iter().map(|(index, replica)| (*index, replica.state())).collect();
    all.sort();
    all
}

/// Asserts what a call was refused with, and gives the text.
pub fn refused<T: fmt::Debug>(outcome: Result<T, Status>, code: Code) -> String {
    let status = outcome.expect_err("it is refused");
    assert_eq!(status.code(), code, "{status:?}");
    status.message().to_owned()
}

pub fn channel(at: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{at}")).unwrap().connect_lazy()
}

async fn bind() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap()
}

/// Waits until what is seen satisfies the condition; says what was seen last when it does not in time.
pub async fn until<T: Clone + fmt::Debug>(seen: &watch::Receiver<T>, what: &str, holds: impl Fn(&T) -> bool) -> T {
    let mut waiting = seen.clone();
    let outcome =
        tokio::time::timeout(DEADLINE, waiting.wait_for(holds)).await.map(|seen| seen.map(|seen| seen.clone()));
    match outcome {
        Ok(Ok(seen)) => seen,
        Ok(Err(_)) => panic!("nothing more will come: {what}\nlast seen: {:#?}", *seen.borrow()),
        Err(_) => panic!("not within {DEADLINE:?}: {what}\nlast seen: {:#?}", *seen.borrow()),
    }
}

/// Asks again and again until the answer is right; says what the last one was when it is not in time.
pub async fn loop_until<T>(what: &str, ask: impl AsyncFn() -> Result<T, String>) -> T {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(last) => assert!(tokio::time::Instant::now() < deadline, "not in time: {what}\nlast seen: {last}"),
        }
        tokio::task::yield_now().await;
    }
}
