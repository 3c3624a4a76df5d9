//! Where the machine's effects go: agents, subscribers, the publisher of routes, the timers.
//!
//! Never blocks the driver. An agent that does not take its commands is cut off, it comes back and is told everything; a
//! subscriber of statuses has a feed, which holds the newest of each resource.

use std::collections::BTreeMap;
use std::hash::Hash;
use std::sync::{Arc, Weak};

use domain::{ExperimentName, ModelName, PipelineName, ReplicaId, ServerName, Time, WorkerId};
use messages::agent::{ModelOperationMessage, ModelVersion, model_operation_message::Operation};
use messages::scheduler::{
    ExperimentStatusResponse, ModelStatusResponse, PipelineStatusResponse, ServerStatusResponse,
};
use scheduler_core::{Action, Command, ConnectionId, Order, RouteChange, ScalingRequest, Status, Timer};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{debug, info, warn};

use crate::driver::Rejected;
use crate::feed::Feed;

/// Commands that may wait for one agent: more than a replica's models, so that an agent that comes back empty can be
/// told all of them at once.
pub(crate) const AGENT_QUEUE: usize = 20_000;

/// Those who hear of changes of one kind. A feed is forgotten when its stream is gone.
type Subscribers<K, M> = Vec<Weak<Feed<K, M>>>;

/// What a server's subscribers are told of apart: how it is, and how large it should be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum AboutServer {
    Status(ServerName),
    Wish(ServerName),
}

/// Senders of everything that leaves.
pub(crate) struct Outbox {
    agents: BTreeMap<ReplicaId, (ConnectionId, mpsc::Sender<ModelOperationMessage>)>,
    models: Subscribers<ModelName, ModelStatusResponse>,
    servers: Subscribers<AboutServer, ServerStatusResponse>,
    experiments: Subscribers<ExperimentName, ExperimentStatusResponse>,
    pipelines: Subscribers<PipelineName, PipelineStatusResponse>,
    workers: BTreeMap<WorkerId, (ConnectionId, mpsc::Sender<Order>)>,
    synchronised: watch::Sender<bool>,
    // Unbounded, because the driver may not wait; a change is published once for each decision, and the publisher
    // takes everything that is there at once.
    routes: mpsc::UnboundedSender<Vec<RouteChange>>,
    timers: mpsc::UnboundedSender<(Time, Timer)>,
    changes: Vec<RouteChange>,
}

impl Outbox {
    pub(crate) fn new(
        routes: mpsc::UnboundedSender<Vec<RouteChange>>,
        timers: mpsc::UnboundedSender<(Time, Timer)>,
        synchronised: watch::Sender<bool>,
    ) -> Self {
        Self {
            agents: BTreeMap::new(),
            models: Vec::new(),
            servers: Vec::new(),
            experiments: Vec::new(),
            pipelines: Vec::new(),
            workers: BTreeMap::new(),
            synchronised,
            routes,
            timers,
            changes: Vec::new(),
        }
    }

    /// The agent's stream takes commands from now on; an older stream of the same replica ends.
    pub(crate) fn attach(
        &mut self,
        replica: ReplicaId,
        connection: ConnectionId,
        stream: mpsc::Sender<ModelOperationMessage>,
    ) {
        if let Some((older, _)) = self.agents.insert(replica.clone(), (connection, stream)) {
            info!(replica = %replica, older = older.0, newer = connection.0, "agent connected again, its older stream ends");
        }
    }

    /// The agent's stream is gone.
    pub(crate) fn detach(&mut self, replica: &ReplicaId, connection: ConnectionId) {
        if self.agents.get(replica).is_some_and(|(current, _)| *current == connection) {
            self.agents.remove(replica);
        }
    }

    pub(crate) fn send(&mut self, replica: &ReplicaId, connection: ConnectionId, command: &Command) {
        let Some((current, stream)) = self.agents.get(replica) else { return };
        if *current != connection {
            return;
        }
        match stream.try_send(message(command)) {
            Ok(()) => return,
            Err(TrySendError::Full(_)) => {
                warn!(replica = %replica, "agent does not take its commands, its stream ends");
            }
            // It has ended; the machine hears of it in a moment.
            Err(TrySendError::Closed(_)) => debug!(replica = %replica, "a command for an agent that has just gone"),
        }
        self.agents.remove(replica);
    }

    /// The worker's stream takes orders from now on; an older stream of the same worker ends.
    pub(crate) fn attach_worker(&mut self, worker: WorkerId, connection: ConnectionId, stream: mpsc::Sender<Order>) {
        if let Some((older, _)) = self.workers.insert(worker.clone(), (connection, stream)) {
            info!(%worker, older = older.0, newer = connection.0, "worker connected again, its older stream ends");
        }
    }

    /// The worker's stream is gone.
    pub(crate) fn detach_worker(&mut self, worker: &WorkerId, connection: ConnectionId) {
        if self.workers.get(worker).is_some_and(|(current, _)| *current == connection) {
            self.workers.remove(worker);
        }
    }

    pub(crate) fn order(&mut self, worker: &WorkerId, connection: ConnectionId, order: Order) {
        let Some((current, stream)) = self.workers.get(worker) else { return };
        if *current != connection {
            return;
        }
        match stream.try_send(order) {
            Ok(()) => return,
            Err(TrySendError::Full(_)) => warn!(%worker, "worker does not take its orders, its stream ends"),
            Err(TrySendError::Closed(_)) => debug!(%worker, "an order for a worker that has just gone"),
        }
        self.workers.remove(worker);
    }

    /// A feed of model statuses that begins with these.
    pub(crate) fn subscribe_models(
        &mut self,
        known: impl Iterator<Item = ModelName>,
    ) -> Arc<Feed<ModelName, ModelStatusResponse>> {
        subscribe(&mut self.models, known)
    }

    /// A feed of server statuses that begins with these.
    pub(crate) fn subscribe_servers(
        &mut self,
        known: impl Iterator<Item = AboutServer>,
    ) -> Arc<Feed<AboutServer, ServerStatusResponse>> {
        subscribe(&mut self.servers, known)
    }

    /// A feed of experiment statuses that begins with these.
    pub(crate) fn subscribe_experiments(
        &mut self,
        known: impl Iterator<Item = ExperimentName>,
    ) -> Arc<Feed<ExperimentName, ExperimentStatusResponse>> {
        subscribe(&mut self.experiments, known)
    }

    /// A feed of pipeline statuses that begins with these.
    pub(crate) fn subscribe_pipelines(
        &mut self,
        known: impl Iterator<Item = PipelineName>,
    ) -> Arc<Feed<PipelineName, PipelineStatusResponse>> {
        subscribe(&mut self.pipelines, known)
    }

    pub(crate) fn notify(&mut self, status: &Status) {
        match status {
            Status::Model(name, status) => tell(&mut self.models, name, false, || {
                Some(api::convert::status::model(name, std::slice::from_ref(status)))
            }),
            // Many come at once, and only the last counts: it is looked up when it is sent.
            Status::Server(status) => {
                tell(&mut self.servers, &AboutServer::Status(status.name.clone()), false, || None);
            }
            Status::Experiment(status) => {
                tell(&mut self.experiments, &status.name, false, || Some(api::convert::experiment::status(status)));
            }
            Status::Pipeline(status) => tell(&mut self.pipelines, &status.name, false, || {
                Some(api::convert::pipeline::statuses(&status.name, std::slice::from_ref(status)))
            }),
            Status::Scaling(ScalingRequest { server, replicas, kubernetes }) => {
                tell(&mut self.servers, &AboutServer::Wish(server.clone()), true, || {
                    Some(api::convert::status::scaling(server, *replicas, kubernetes.as_ref()))
                });
            }
            Status::Synchronised => {
                self.synchronised.send_replace(true);
            }
        }
    }

    pub(crate) fn publish(&mut self, change: RouteChange) {
        self.changes.push(change);
    }

    pub(crate) fn wake(&mut self, at: Time, timer: Timer) {
        // The receiver ends only with the process.
        let _ends_with_the_process = self.timers.send((at, timer));
    }

    pub(crate) fn answer(&mut self, reply: oneshot::Sender<Result<(), Rejected>>, outcome: Result<(), Rejected>) {
        // A caller that has gone away needs no answer.
        let _caller_is_gone = reply.send(outcome);
    }

    /// Hands over the route changes of a batch in one piece.
    pub(crate) fn flush(&mut self) {
        if !self.changes.is_empty() {
            let _ends_with_the_process = self.routes.send(std::mem::take(&mut self.changes));
        }
    }
}

fn subscribe<K: Clone + Eq + Hash, M>(
    subscribers: &mut Subscribers<K, M>,
    known: impl Iterator<Item = K>,
) -> Arc<Feed<K, M>> {
    let feed = Feed::new();
    known.for_each(|key| feed.put(key, None, true));
    subscribers.retain(|other| other.strong_count() > 0);
    subscribers.push(Arc::downgrade(&feed));
    feed
}

/// Tells everybody; the message is made once, and only if there is anybody.
fn tell<K: Clone + Eq + Hash, M>(
    subscribers: &mut Subscribers<K, M>,
    key: &K,
    urgent: bool,
    make: impl FnOnce() -> Option<M>,
) {
    subscribers.retain(|feed| feed.strong_count() > 0);
    if subscribers.is_empty() {
        return;
    }
    let message = make().map(Arc::new);
    for feed in subscribers.iter().filter_map(Weak::upgrade) {
        feed.put(key.clone(), message.clone(), urgent);
    }
}

fn message(command: &Command) -> ModelOperationMessage {
    let operation = match command.action {
        Action::Load => Operation::LoadModel,
        Action::Unload => Operation::UnloadModel,
    };
    ModelOperationMessage {
        operation: operation.into(),
        model_version: Some(ModelVersion {
            model: Some(api::convert::model::wire(&command.definition, command.runtime)),
            version: command.version.number.0,
        }),
        autoscaling_enabled: false,
        fence: Some(command.clock.0),
    }
}
