//! Does on one machine what an operator does in a cluster: follows the status of a server and starts or drains
//! replicas until there are as many as the scheduler says there should be.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use api::agent::agent_service_client::AgentServiceClient;
use api::scheduler::scheduler_client::SchedulerClient;
use messages::agent::AgentDrainRequest;
use messages::scheduler::{ServerNotify, ServerNotifyRequest, ServerStatusRequest, ServerSubscriptionRequest};
use runtime::child::Backoff;
use runtime::health::Check;
use runtime::{OnError, Stop, Tasks};
use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint};
use tracing::{info, warn};

use super::ports;
use runtime::chain;

/// The built-in server.
pub(crate) const SERVER: &str = "onnx";

/// Name under which the launcher subscribes; it is in the scheduler's log.
const SUBSCRIBER: &str = "launcher";

/// How long the first replicas may take until they are connected; half a second is usual.
const CONNECTED_WITHIN: Duration = Duration::from_secs(60);

/// How long an agent gets to end once it is drained.
const AGENT_STOPS_WITHIN: Duration = Duration::from_secs(5);

/// A lost stream is opened again after this long, and after twice as long each time it is lost at once.
const RECONNECT_AFTER: Duration = Duration::from_millis(100);
const RECONNECT_AT_MOST_EVERY: Duration = Duration::from_secs(2);

/// What every replica of the server has in common.
#[derive(Clone, Debug)]
pub(crate) struct Replicas {
    /// This program, which is also the inference server.
    pub(crate) program: PathBuf,
    pub(crate) folder: PathBuf,
    pub(crate) memory_bytes: u64,
    pub(crate) runtime_library: PathBuf,
}

/// What the launcher knows of the process's health.
#[derive(Clone)]
pub(crate) struct Checks {
    /// The scheduler answers.
    pub(crate) scheduler: Check,
    /// As many replicas are available as there should be.
    pub(crate) server: Check,
}

/// The launcher of one server.
pub(crate) struct Launcher {
    pub(crate) checks: Checks,
    pub(crate) control: SocketAddr,
    pub(crate) agents: SocketAddr,
    pub(crate) replicas: Replicas,
    pub(crate) running: BTreeMap<u32, Running>,
}

/// A replica that runs.
pub(crate) struct Running {
    tasks: Tasks,
}

/// Why the launcher gave up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("connect to the scheduler at {0}")]
    Connect(SocketAddr, #[source] tonic::transport::Error),
    #[error("ask the scheduler for server {SERVER}")]
    Scheduler(#[from] tonic::Status),
    #[error(transparent)]
    Port(#[from] ports::Error),
    #[error(transparent)]
    Name(#[from] domain::BadName),
    #[error("make folder {0}")]
    Folder(PathBuf, #[source] std::io::Error),
}

impl Launcher {
    /// Declares the server with `initial` replicas, unless the scheduler remembers it, and starts what there should be.
    pub(crate) async fn start(&mut self, initial: u32) -> Result<(), Error> {
        let mut scheduler = SchedulerClient::new(self.channel(self.control).await?);
        let wanted = match expected(&mut scheduler).await? {
            Some(remembered) => remembered,
            None => {
                let server = ServerNotify {
                    name: SERVER.into(),
                    expected_replicas: initial,
                    shared: true,
                    ..Default::default()
                };
                scheduler.server_notify(ServerNotifyRequest { servers: vec![server], is_first_sync: true }).await?;
                initial
            }
        };
        self.scale(wanted).await?;
        // Until they are there a model that wants all of them would say that some are missing.
        let subscribed =
            scheduler.subscribe_server_status(ServerSubscriptionRequest { subscriber_name: SUBSCRIBER.into() });
        let mut statuses = subscribed.await?.into_inner();
        let there = async {
            while let Some(status) = statuses.message().await? {
                if status.server_name == SERVER && u32::try_from(status.available_replicas).is_ok_and(|n| n >= wanted) {
                    return Ok(());
                }
            }
            Ok::<(), Error>(())
        };
        match tokio::time::timeout(CONNECTED_WITHIN, there).await {
            Ok(outcome) => outcome,
            Err(_) => {
                warn!(wanted, "not all replicas of server {SERVER} are connected yet; going on without them");
                Ok(())
            }
        }
    }

    /// Follows the server's status until the stop, then ends what runs.
    pub(crate) async fn follow(mut self, stop: Stop) -> Result<(), Error> {
        let (wishes, mut wish) = watch::channel(None);
        let watching = Tasks::new(stop.child());
        watching.spawn(
            "server-status",
            OnError::Log,
            watch_status(self.control, self.checks.clone(), wishes, stop.child()),
        );
        loop {
            tokio::select! {
                // Both arms are cancel-safe.
                () = stop.requested() => break,
                changed = wish.changed() => {
                    if changed.is_err() { break }
                }
            }
            let wanted = *wish.borrow_and_update();
            if let Some(wanted) = wanted
                && let Err(error) = self.scale(wanted).await
            {
                warn!(%error, wanted, "server {SERVER} cannot be scaled");
            }
        }
        for (index, running) in std::mem::take(&mut self.running) {
            end(index, running).await;
        }
        Ok(())
    }

    /// Starts replicas from the lowest free index, or drains and ends those with the highest.
    async fn scale(&mut self, wanted: u32) -> Result<(), Error> {
        for index in 0..wanted {
            if !self.running.contains_key(&index) {
                let running = self.start_replica(index).await?;
                self.running.insert(index, running);
            }
        }
        while let Some((&index, _)) = self.running.last_key_value().filter(|(index, _)| **index >= wanted) {
            info!(server = SERVER, replica = index, "draining a replica");
            let request = AgentDrainRequest { server_name: SERVER.into(), replica_idx: index };
            match self.channel(self.agents).await {
                Ok(channel) => {
                    if let Err(error) = AgentServiceClient::new(channel).agent_drain(request).await {
                        warn!(replica = index, %error, "the replica ends without a drain");
                    }
                }
                Err(error) => warn!(replica = index, %error, "the replica ends without a drain"),
            }
            if let Some(running) = self.running.remove(&index) {
                end(index, running).await;
            }
        }
        Ok(())
    }

    async fn start_replica(&self, index: u32) -> Result<Running, Error> {
        let folder = self.replicas.folder.join(format!("{SERVER}-{index}"));
        std::fs::create_dir_all(&folder).map_err(|cause| Error::Folder(folder.clone(), cause))?;
        let config = super::replica::config(index, &folder, self.agents, &self.replicas)?;
        let tasks = Tasks::new(Stop::new());
        tasks.spawn("agent", OnError::Log, keep_agent(index, config, tasks.stop().clone()));
        info!(server = SERVER, replica = index, folder = %folder.display(), "replica started");
        Ok(Running { tasks })
    }

    async fn channel(&self, address: SocketAddr) -> Result<Channel, Error> {
        connect(address).await
    }
}

/// Runs the agent, and again when it fails, until the stop.
async fn keep_agent(index: u32, config: agent::Config, stop: Stop) -> Result<(), Error> {
    let mut backoff = Backoff::new(RECONNECT_AFTER, RECONNECT_AT_MOST_EVERY);
    loop {
        let listener = ports::free("an agent").await?;
        match agent::run(config.clone(), listener, stop.clone()).await {
            Ok(()) => return Ok(()),
            Err(error) => warn!(replica = index, error = %chain(&error), "the agent failed and is started again"),
        }
        tokio::select! {
            () = stop.requested() => return Ok(()),
            () = tokio::time::sleep(backoff.next_delay()) => {}
        }
    }
}

async fn end(index: u32, running: Running) {
    if let Err(error) = running.tasks.finish(AGENT_STOPS_WITHIN).await {
        warn!(replica = index, %error, "a replica did not end in good order");
    }
    info!(server = SERVER, replica = index, "replica ended");
}

async fn connect(address: SocketAddr) -> Result<Channel, Error> {
    let endpoint =
        Endpoint::from_shared(format!("http://{address}")).map_err(|cause| Error::Connect(address, cause))?;
    endpoint.connect().await.map_err(|cause| Error::Connect(address, cause))
}

/// How many replicas the scheduler expects, if it has been told.
async fn expected(scheduler: &mut SchedulerClient<Channel>) -> Result<Option<u32>, tonic::Status> {
    let request = ServerStatusRequest { subscriber_name: SUBSCRIBER.into(), name: Some(SERVER.into()) };
    match scheduler.server_status(request).await {
        Ok(answers) => {
            let status = answers.into_inner().message().await?;
            Ok(status.and_then(|status| u32::try_from(status.expected_replicas).ok()))
        }
        Err(status) if status.code() == tonic::Code::FailedPrecondition => Ok(None),
        Err(status) => Err(status),
    }
}

/// Tells how many replicas are expected, each time it changes, until the stop.
async fn watch_status(
    control: SocketAddr,
    checks: Checks,
    wishes: watch::Sender<Option<u32>>,
    stop: Stop,
) -> Result<(), Error> {
    let mut backoff = Backoff::new(RECONNECT_AFTER, RECONNECT_AT_MOST_EVERY);
    loop {
        let attempt = async {
            let mut scheduler = SchedulerClient::new(connect(control).await?);
            let request = ServerSubscriptionRequest { subscriber_name: SUBSCRIBER.into() };
            let mut statuses = scheduler.subscribe_server_status(request).await?.into_inner();
            checks.scheduler.set_ready();
            while let Some(status) = statuses.message().await? {
                if status.server_name != SERVER {
                    continue;
                }
                match (status.available_replicas, status.expected_replicas) {
                    (available, expected) if available >= expected => checks.server.set_ready(),
                    (available, expected) => {
                        checks.server.set_unready(format!("{available} of {expected} replicas are available"));
                    }
                }
                if let Ok(expected) = u32::try_from(status.expected_replicas) {
                    wishes.send_if_modified(|wish| wish.replace(expected) != Some(expected));
                }
            }
            Ok::<(), Error>(())
        };
        tokio::select! {
            () = stop.requested() => return Ok(()),
            outcome = attempt => if let Err(error) = outcome {
                warn!(%error, "the status of server {SERVER} is not known for a moment");
            },
        }
        checks.scheduler.set_unready("its stream of statuses ended");
        tokio::select! {
            () = stop.requested() => return Ok(()),
            () = tokio::time::sleep(backoff.next_delay()) => {}
        }
    }
}
