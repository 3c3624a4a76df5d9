//! `seldon.mlops.agent.AgentService`: the streams of agents and what they report.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api::agent::agent_service_server::AgentService;
use api::convert::agent as convert;
use domain::ReplicaId;
use messages::agent as wire;
use messages::agent::model_event_message::Event as Kind;
use runtime::{OnError, Stop, Tasks};
use scheduler_core::{ConnectionId, Event, HeldModel, Outcome};
use tokio::sync::{OwnedMutexGuard, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, info};

use super::{invalid, rejected};
use crate::handle::Scheduler;
use crate::outbox::AGENT_QUEUE;

/// Messages between the queue of an agent and its socket: the socket's own buffers do the rest.
const IN_FLIGHT: usize = 16;

pub(crate) struct Agents {
    scheduler: Scheduler,
    tasks: Tasks,
    stop: Stop,
    connections: AtomicU64,
    turns: Turns,
}

/// One stream at a time speaks for a replica: a second one of the same identity waits until the first has ended.
#[derive(Clone, Default)]
struct Turns(Arc<Mutex<BTreeMap<ReplicaId, Arc<tokio::sync::Mutex<()>>>>>);

impl Turns {
    async fn take(&self, replica: &ReplicaId) -> OwnedMutexGuard<()> {
        let turn = self.lock().entry(replica.clone()).or_default().clone();
        turn.lock_owned().await
    }

    /// Forgets a replica that nobody speaks or waits for.
    fn give_back(&self, replica: &ReplicaId, turn: OwnedMutexGuard<()>) {
        let mut turns = self.lock();
        drop(turn);
        if turns.get(replica).is_some_and(|turn| Arc::strong_count(turn) == 1) {
            turns.remove(replica);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ReplicaId, Arc<tokio::sync::Mutex<()>>>> {
        // Each change under the lock is a single step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A task of this module ends with its peer and cannot fail.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Never {}

impl Agents {
    pub(crate) fn new(scheduler: Scheduler, tasks: Tasks, stop: Stop) -> Self {
        Self { scheduler, tasks, stop, connections: AtomicU64::new(0), turns: Turns::default() }
    }
}

#[tonic::async_trait]
impl AgentService for Agents {
    type SubscribeStream = ReceiverStream<Result<wire::ModelOperationMessage, Status>>;

    async fn subscribe(
        &self,
        request: Request<wire::AgentSubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let peer = request.remote_addr();
        let mut subscription = convert::subscription(request.into_inner()).map_err(|error| invalid(&error))?;
        subscription.config.host = resolve(&subscription.config.host, peer.map(|address| address.ip())).await?;
        let replica = subscription.replica.clone();
        let connection = ConnectionId(self.connections.fetch_add(1, Ordering::Relaxed) + 1);
        let (commands, mut queue) = mpsc::channel(AGENT_QUEUE);
        let (outgoing, stream) = mpsc::channel(IN_FLIGHT);
        info!(%replica, connection = connection.0, models = subscription.held.len(), "agent subscribed");
        let held = subscription.held.into_iter();
        let connected = Event::AgentConnected {
            replica: replica.clone(),
            connection,
            shared: subscription.shared,
            config: subscription.config,
            held: held.map(|(definition, number, runtime)| HeldModel { definition, number, runtime }).collect(),
            available: subscription.available,
        };
        let (scheduler, stop, turns) = (self.scheduler.clone(), self.stop.clone(), self.turns.clone());
        self.tasks.spawn("agent-stream", OnError::Log, async move {
            let turn = tokio::select! {
                // All three arms are cancel-safe: a turn that was not taken is nobody's.
                turn = turns.take(&replica) => turn,
                () = outgoing.closed() => return Ok(()),
                () = stop.requested() => return Ok(()),
            };
            scheduler.attach(commands, replica.clone(), connected).await;
            loop {
                tokio::select! {
                    // All three arms are cancel-safe.
                    () = outgoing.closed() => break,
                    () = stop.requested() => break,
                    command = queue.recv() => match command {
                        Some(command) => if outgoing.send(Ok(command)).await.is_err() { break },
                        None => break, // cut off
                    },
                }
            }
            drop(outgoing);
            info!(%replica, connection = connection.0, "agent stream ended");
            scheduler.detach(replica.clone(), connection).await;
            turns.give_back(&replica, turn);
            Ok::<(), Never>(())
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn agent_event(
        &self,
        request: Request<wire::ModelEventMessage>,
    ) -> Result<Response<wire::ModelEventResponse>, Status> {
        let report = convert::report(request.into_inner()).map_err(|error| invalid(&error))?;
        let outcome = match report.event {
            Kind::Loaded => Outcome::Loaded(report.runtime),
            Kind::LoadFailed | Kind::LoadFailMemory => Outcome::LoadFailed(report.message),
            Kind::Unloaded => Outcome::Unloaded,
            Kind::UnloadFailed => Outcome::UnloadFailed(report.message),
            Kind::UnknownEvent | Kind::Removed | Kind::RemoveFailed | Kind::Rsync => {
                return Err(Status::internal(format!("event {} changes no state", report.event.as_str_name())));
            }
        };
        debug!(replica = %report.replica, version = %report.version, ?outcome, "report");
        let (replica, version, fence, available) = (report.replica, report.version, report.fence, report.available);
        let asked =
            self.scheduler.ask(move |ticket| Event::Report { replica, version, outcome, fence, available, ticket });
        asked.await.map_err(|error| rejected(&error))?;
        Ok(Response::new(wire::ModelEventResponse {}))
    }

    async fn model_scaling_trigger(
        &self,
        _: Request<Streaming<wire::ModelScalingTriggerMessage>>,
    ) -> Result<Response<wire::ModelScalingTriggerResponse>, Status> {
        Err(Status::unimplemented("model autoscaling is off"))
    }

    async fn agent_drain(
        &self,
        request: Request<wire::AgentDrainRequest>,
    ) -> Result<Response<wire::AgentDrainResponse>, Status> {
        let request = request.into_inner();
        let replica = convert::replica(&request.server_name, request.replica_idx).map_err(|error| invalid(&error))?;
        info!(%replica, "drain");
        match self.scheduler.drain_replica(replica).await {
            // What nobody knows holds nothing (`spec/control-plane.md` §2.10).
            Ok(()) | Err(crate::driver::Rejected::Refused(_)) => {
                Ok(Response::new(wire::AgentDrainResponse { success: true }))
            }
            Err(error) => Err(rejected(&error)),
        }
    }
}

/// The IP address behind the host an agent announced: Envoy takes nothing else in an endpoint. An agent that
/// announces the unspecified address is reached where it calls from.
async fn resolve(host: &str, peer: Option<IpAddr>) -> Result<String, Status> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return match peer {
            Some(peer) if address.is_unspecified() => Ok(peer.to_string()),
            Some(_) | None => Ok(address.to_string()),
        };
    }
    let unresolved = |why: String| Status::unavailable(format!("replicaConfig.inferenceSvc: resolve {host:?}: {why}"));
    let mut addresses = tokio::net::lookup_host((host, 0)).await.map_err(|error| unresolved(error.to_string()))?;
    let address = addresses.next().ok_or_else(|| unresolved("it has no address".to_owned()))?;
    Ok(address.ip().to_string())
}
