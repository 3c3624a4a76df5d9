//! The stream to the scheduler: subscribes, hands commands to the operations, subscribes again when it is lost.
//!
//! Invariants: a stream exists only while the inference server serves; a lost stream stops nothing here.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use api::agent::agent_service_client::AgentServiceClient;
use domain::{Bytes, ModelName, ModelVersionId, ReplicaId, VersionNumber};
use messages::agent::model_operation_message::Operation;
use messages::agent::{AgentSubscribeRequest, ModelOperationMessage, ModelVersion, ReplicaConfig};
use runtime::Stop;
use runtime::child::Backoff;
use tokio::sync::watch;
use tonic::Status;
use tonic::transport::Endpoint;
use tracing::{debug, info, warn};

use crate::operations::{Action, Command, Operations};
use crate::reason::chain;
use crate::report::{Session, Subject};
use crate::residency::Residency;
use crate::serving::{Phase, wait_up};

const RECONNECT_MIN: Duration = Duration::from_millis(100);
const RECONNECT_MAX: Duration = Duration::from_secs(2);
/// Spreads the agents of a server that lose their scheduler together: this much for each replica, at most 16 times.
const RECONNECT_SPREAD: Duration = Duration::from_millis(10);
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// A scheduler whose machine is gone is noticed within the sum of the two.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_LIMIT: Duration = Duration::from_secs(5);

/// Who we are, as the scheduler is told.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) replica: ReplicaId,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) memory: Bytes,
    pub(crate) capabilities: BTreeSet<String>,
    pub(crate) over_commit_percentage: u32,
}

pub(crate) struct Link {
    pub(crate) identity: Identity,
    pub(crate) schedulers: Vec<String>,
    pub(crate) residency: Arc<Residency>,
    pub(crate) operations: Arc<Operations>,
    pub(crate) phase: watch::Receiver<Phase>,
    pub(crate) session: watch::Sender<Option<Session>>,
    /// When the first subscription began.
    pub(crate) told: Arc<OnceLock<Instant>>,
    pub(crate) stop: Stop,
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("connect")]
    Connect(#[source] tonic::transport::Error),
    #[error("subscribe: {code:?}: {reason}")]
    Refused { code: tonic::Code, reason: String },
    #[error("the scheduler ended the stream")]
    ByScheduler,
    #[error("the stream broke: {code:?}: {reason}")]
    Broken { code: tonic::Code, reason: String },
    #[error("the inference server is down")]
    ServerDown,
    #[error("stopping")]
    Stopping,
}

impl Link {
    pub(crate) async fn run(mut self) -> Result<(), Infallible> {
        let mut backoff = Backoff::new(RECONNECT_MIN, RECONNECT_MAX);
        let spread = RECONNECT_SPREAD * (self.identity.replica.index.0 % 16);
        let mut number = 0;
        let schedulers = self.schedulers.clone();
        for scheduler in schedulers.iter().cycle() {
            let running = tokio::select! {
                running = wait_up(&mut self.phase) => running,
                () = self.stop.requested() => None,
            };
            let Some(running) = running else { break };
            number += 1;
            let ended = self.subscription(scheduler, number, running.life, &mut backoff).await;
            self.session.send_replace(None);
            match ended {
                Ended::Stopping => break,
                Ended::ServerDown => {
                    warn!(replica = %self.identity.replica, scheduler, "left the scheduler: the inference server is down");
                    continue;
                }
                Ended::ByScheduler | Ended::Broken { .. } => {
                    info!(replica = %self.identity.replica, scheduler, reason = chain(&ended), "scheduler lost");
                }
                Ended::Connect(_) => {
                    debug!(replica = %self.identity.replica, scheduler, reason = chain(&ended), "no scheduler")
                }
                Ended::Refused { .. } => {
                    warn!(replica = %self.identity.replica, scheduler, reason = chain(&ended), "scheduler refuses");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.next_delay() + spread) => {}
                () = self.stop.requested() => break,
            }
        }
        Ok(())
    }

    async fn subscription(&mut self, scheduler: &str, number: u64, life: u64, backoff: &mut Backoff) -> Ended {
        let (mut phase, stop) = (self.phase.clone(), self.stop.clone());
        let stream = self.stream(scheduler, number, backoff);
        tokio::select! {
            // A stream may be dropped at any point: the next one starts from what is true then. The reasons of our
            // own go first, or they would be blamed on the scheduler.
            biased;
            () = stop.requested() => Ended::Stopping,
            _ = phase.wait_for(|phase| !phase.is_life(life)) => Ended::ServerDown,
            ended = stream => ended,
        }
    }

    async fn stream(&self, scheduler: &str, number: u64, backoff: &mut Backoff) -> Ended {
        let endpoint = match Endpoint::from_shared(format!("http://{scheduler}")) {
            Ok(endpoint) => endpoint,
            Err(error) => return Ended::Connect(error),
        };
        let endpoint = endpoint
            .connect_timeout(CONNECT_LIMIT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_LIMIT);
        let mut client = match endpoint.connect().await {
            Ok(channel) => AgentServiceClient::new(channel).max_encoding_message_size(usize::MAX),
            Err(error) => return Ended::Connect(error),
        };
        let request = self.request();
        let models = request.loaded_models.len();
        let mut commands = match client.subscribe(request).await {
            Ok(commands) => commands.into_inner(),
            Err(status) => return refused(&status),
        };
        backoff.reset();
        self.told.get_or_init(Instant::now);
        info!(replica = %self.identity.replica, scheduler, models, "subscribed");
        self.session.send_replace(Some(Session { number, client }));
        loop {
            match commands.message().await {
                Ok(Some(message)) => self.take(message, number).await,
                Ok(None) => return Ended::ByScheduler,
                Err(status) => return broken(&status),
            }
        }
    }

    async fn take(&self, message: ModelOperationMessage, session: u64) {
        let fence = message.fence;
        let operation = message.operation();
        let ModelVersion { model, version } = message.model_version.unwrap_or_default();
        let model = model.unwrap_or_default();
        let name = model.meta.as_ref().map_or("", |meta| meta.name.as_str());
        let id = match ModelName::parse(name) {
            Ok(model) => ModelVersionId { model, number: VersionNumber(version) },
            Err(error) => {
                // Without a name there is nothing to report about.
                warn!(replica = %self.identity.replica, %error, "command without a model");
                return;
            }
        };
        let action = match operation {
            Operation::LoadModel => Action::Load(Box::new(model)),
            Operation::UnloadModel => Action::Unload,
            Operation::UnknownEvent => {
                warn!(model = %id, replica = %self.identity.replica, "command of a kind this agent does not know");
                return;
            }
        };
        debug!(model = %id, replica = %self.identity.replica, ?operation, ?fence, "command");
        self.operations.submit(Command { subject: Subject { id, session, fence }, action }).await;
    }

    fn request(&self) -> AgentSubscribeRequest {
        let identity = &self.identity;
        let loaded = self.residency.listed();
        let loaded =
            loaded.iter().map(|held| ModelVersion { model: Some(held.model.clone()), version: held.id.number.0 });
        AgentSubscribeRequest {
            server_name: identity.replica.server.to_string(),
            shared: true,
            replica_idx: identity.replica.index.0,
            replica_config: Some(ReplicaConfig {
                inference_svc: identity.host.clone(),
                inference_http_port: identity.port.into(),
                inference_grpc_port: identity.port.into(),
                memory_bytes: identity.memory.0,
                capabilities: identity.capabilities.iter().cloned().collect(),
                over_commit_percentage: identity.over_commit_percentage,
            }),
            loaded_models: loaded.collect(),
            available_memory_bytes: self.operations.available().0,
        }
    }
}

fn refused(status: &Status) -> Ended {
    Ended::Refused { code: status.code(), reason: status.message().to_owned() }
}

fn broken(status: &Status) -> Ended {
    Ended::Broken { code: status.code(), reason: status.message().to_owned() }
}
