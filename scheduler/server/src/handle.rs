//! The one way to the machine for everything around it.

use domain::{
    Experiment, ExperimentName, KubernetesMeta, ModelDefinition, ModelName, ReplicaId, ServerBounds, ServerName, Ticket,
};
use messages::agent::ModelOperationMessage;
use messages::scheduler::{ExperimentStatusResponse, ModelStatusResponse, ServerStatusResponse};
use scheduler_core::{ConnectionId, Event, Machine};
use tokio::sync::{mpsc, oneshot};

use crate::driver::{Message, Rejected};
use crate::outbox::{Outbox, SUBSCRIBER_QUEUE};

/// Asks, tells and looks at the machine. Cheap to clone.
#[derive(Clone)]
pub struct Scheduler {
    inbox: mpsc::Sender<Message>,
}

/// What there is now, and then every change.
pub struct Subscription<T> {
    /// The state at the moment of the subscription.
    pub snapshot: Vec<T>,
    /// What comes after it; ends when the subscriber lags too far behind.
    pub changes: mpsc::Receiver<T>,
}

impl Scheduler {
    pub(crate) fn new(inbox: mpsc::Sender<Message>) -> Self {
        Self { inbox }
    }

    /// Declares a model. Returns when the declaration is durable, before anything is placed.
    pub async fn apply_model(&self, definition: ModelDefinition) -> Result<(), Rejected> {
        let definition = Box::new(definition);
        self.ask(|ticket| Event::ApplyModel { definition, ticket }).await
    }

    /// Asks for a model's removal.
    pub async fn remove_model(&self, name: ModelName, kubernetes: Option<KubernetesMeta>) -> Result<(), Rejected> {
        self.ask(|ticket| Event::RemoveModel { name, kubernetes, ticket }).await
    }

    /// Starts an experiment, or replaces it.
    pub async fn start_experiment(&self, definition: Experiment) -> Result<(), Rejected> {
        let definition = Box::new(definition);
        self.ask(|ticket| Event::StartExperiment { definition, ticket }).await
    }

    /// Stops an experiment.
    pub async fn stop_experiment(&self, name: ExperimentName) -> Result<(), Rejected> {
        self.ask(|ticket| Event::StopExperiment { name, ticket }).await
    }

    /// Says how large servers should be; `first_sync` = these are all there are.
    pub async fn notify_servers(
        &self,
        servers: Vec<(ServerName, ServerBounds, bool)>,
        first_sync: bool,
    ) -> Result<(), Rejected> {
        self.ask(move |ticket| Event::NotifyServers { servers, first_sync, ticket }).await
    }

    /// Empties a replica; returns when its models have moved, cannot move, or the limit is reached.
    pub async fn drain_replica(&self, replica: ReplicaId) -> Result<(), Rejected> {
        self.ask(|ticket| Event::DrainReplica { replica, ticket }).await
    }

    /// Ends the driver when it has dealt with what came before.
    pub(crate) async fn end(&self) {
        let _driver_has_ended = self.inbox.send(Message::End).await;
    }

    /// Asks the machine and waits for its reply.
    pub(crate) async fn ask(&self, event: impl FnOnce(Ticket) -> Event + Send + 'static) -> Result<(), Rejected> {
        let (reply, answer) = oneshot::channel();
        let asked = self.inbox.send(Message::Ask(Box::new(event), reply)).await;
        asked.map_err(|_| Rejected::Stopping)?;
        answer.await.map_err(|_| Rejected::Stopping)?
    }

    /// Tells the machine something.
    pub(crate) async fn tell(&self, event: Event) {
        // After the driver has ended nobody is interested any more.
        let _driver_has_ended = self.inbox.send(Message::Tell(event)).await;
    }

    /// An agent's stream is there: it takes commands before the machine hears of it, so that none is lost.
    pub(crate) async fn attach(
        &self,
        stream: mpsc::Sender<ModelOperationMessage>,
        replica: ReplicaId,
        connected: Event,
    ) {
        let Event::AgentConnected { connection, .. } = connected else { return };
        self.look(move |_, outbox| outbox.attach(replica, connection, stream)).await;
        self.tell(connected).await;
    }

    /// An agent's stream is gone.
    pub(crate) async fn detach(&self, replica: ReplicaId, connection: ConnectionId) {
        let id = replica.clone();
        self.look(move |_, outbox| outbox.detach(&id, connection)).await;
        self.tell(Event::AgentDisconnected { replica, connection }).await;
    }

    async fn look(&self, look: impl FnOnce(&Machine, &mut Outbox) + Send + 'static) {
        let _driver_has_ended = self.inbox.send(Message::Look(Box::new(look))).await;
    }

    /// What `read` makes of the machine.
    pub async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Machine) -> T + Send + 'static,
    ) -> Result<T, Rejected> {
        let (reply, answer) = oneshot::channel();
        self.look(move |machine, _| {
            let _caller_is_gone = reply.send(read(machine));
        })
        .await;
        answer.await.map_err(|_| Rejected::Stopping)
    }

    /// Statuses of the latest versions of all models.
    pub async fn subscribe_models(&self) -> Result<Subscription<ModelStatusResponse>, Rejected> {
        let (reply, answer) = oneshot::channel();
        self.look(move |machine, outbox| {
            let (stream, changes) = mpsc::channel(SUBSCRIBER_QUEUE);
            let models = machine.models().filter_map(|model| {
                let status = machine.model_status(&model.name)?;
                Some(api::convert::status::model(&model.name, &[status]))
            });
            let snapshot = models.collect();
            outbox.subscribe_models(stream);
            let _caller_is_gone = reply.send(Subscription { snapshot, changes });
        })
        .await;
        answer.await.map_err(|_| Rejected::Stopping)
    }

    /// Statuses of all servers.
    pub async fn subscribe_servers(&self) -> Result<Subscription<ServerStatusResponse>, Rejected> {
        let (reply, answer) = oneshot::channel();
        self.look(move |machine, outbox| {
            let (stream, changes) = mpsc::channel(SUBSCRIBER_QUEUE);
            let servers = machine.servers().filter_map(|server| machine.server_status(&server.name));
            let snapshot = servers.map(|status| api::convert::status::server(&status)).collect();
            outbox.subscribe_servers(stream);
            let _caller_is_gone = reply.send(Subscription { snapshot, changes });
        })
        .await;
        answer.await.map_err(|_| Rejected::Stopping)
    }

    /// Statuses of all experiments.
    pub async fn subscribe_experiments(&self) -> Result<Subscription<ExperimentStatusResponse>, Rejected> {
        let (reply, answer) = oneshot::channel();
        self.look(move |machine, outbox| {
            let (stream, changes) = mpsc::channel(SUBSCRIBER_QUEUE);
            let experiments = machine.experiments().filter_map(|e| machine.experiment_status(&e.definition.name));
            let snapshot = experiments.map(|status| api::convert::experiment::status(&status)).collect();
            outbox.subscribe_experiments(stream);
            let _caller_is_gone = reply.send(Subscription { snapshot, changes });
        })
        .await;
        answer.await.map_err(|_| Rejected::Stopping)
    }
}
