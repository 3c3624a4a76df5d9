//! Where the machine's effects go: agents, subscribers, the publisher of routes, the timers.
//!
//! Never blocks the driver. A peer that does not take what it is sent is cut off; it comes back and is told everything.

use std::collections::BTreeMap;

use domain::{ReplicaId, Time};
use messages::agent::{ModelOperationMessage, ModelVersion, model_operation_message::Operation};
use messages::scheduler::{ExperimentStatusResponse, ModelStatusResponse, ServerStatusResponse};
use scheduler_core::{Action, Command, ConnectionId, RouteChange, ScalingRequest, Status, Timer};
use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

use crate::driver::Rejected;

/// Commands that may wait for one agent: more than a replica's models, so that an agent that comes back empty can be
/// told all of them at once.
pub(crate) const AGENT_QUEUE: usize = 20_000;

/// Statuses that may wait for one subscriber. One that lags further behind is cut off, comes back and gets a snapshot.
pub(crate) const SUBSCRIBER_QUEUE: usize = 10_000;

/// Senders of everything that leaves.
pub(crate) struct Outbox {
    agents: BTreeMap<ReplicaId, (ConnectionId, mpsc::Sender<ModelOperationMessage>)>,
    models: Vec<mpsc::Sender<ModelStatusResponse>>,
    servers: Vec<mpsc::Sender<ServerStatusResponse>>,
    experiments: Vec<mpsc::Sender<ExperimentStatusResponse>>,
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
    ) -> Self {
        let (agents, models, servers, experiments) = (BTreeMap::new(), Vec::new(), Vec::new(), Vec::new());
        Self { agents, models, servers, experiments, routes, timers, changes: Vec::new() }
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
        if stream.try_send(message(command)).is_err() {
            warn!(replica = %replica, "agent does not take its commands, its stream ends");
            self.agents.remove(replica);
        }
    }

    pub(crate) fn subscribe_models(&mut self, stream: mpsc::Sender<ModelStatusResponse>) {
        self.models.push(stream);
    }

    pub(crate) fn subscribe_servers(&mut self, stream: mpsc::Sender<ServerStatusResponse>) {
        self.servers.push(stream);
    }

    pub(crate) fn subscribe_experiments(&mut self, stream: mpsc::Sender<ExperimentStatusResponse>) {
        self.experiments.push(stream);
    }

    pub(crate) fn notify(&mut self, status: &Status) {
        match status {
            Status::Model(name, status) => {
                let message = api::convert::status::model(name, std::slice::from_ref(status));
                self.models.retain(|stream| stream.try_send(message.clone()).is_ok());
            }
            Status::Server(status) => {
                let message = api::convert::status::server(status);
                self.servers.retain(|stream| stream.try_send(message.clone()).is_ok());
            }
            Status::Experiment(status) => {
                let message = api::convert::experiment::status(status);
                self.experiments.retain(|stream| stream.try_send(message.clone()).is_ok());
            }
            Status::Scaling(ScalingRequest { server, replicas, kubernetes }) => {
                let message = api::convert::status::scaling(server, *replicas, kubernetes.as_ref());
                self.servers.retain(|stream| stream.try_send(message.clone()).is_ok());
            }
            Status::Synchronised => {}
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
