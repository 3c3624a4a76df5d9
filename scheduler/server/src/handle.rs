//! The one way to the machine for everything around it.

use std::sync::Arc;

use domain::{
    Experiment, ExperimentName, KubernetesMeta, ModelDefinition, ModelName, Pipeline, PipelineName, ReplicaId,
    ServerBounds, ServerName, Ticket, WorkerId,
};
use messages::agent::ModelOperationMessage;
use messages::scheduler::{
    ExperimentStatusResponse, ModelStatusResponse, PipelineStatusResponse, ServerStatusResponse,
};
use scheduler_core::{ConnectionId, Event, Machine, Order, ScalingRequest};
use tokio::sync::{mpsc, oneshot};

use crate::driver::{Message, Rejected};
use crate::feed::Feed;
use crate::outbox::{AboutServer, Outbox};

/// Asks, tells and looks at the machine. Cheap to clone.
#[derive(Clone)]
pub struct Scheduler {
    inbox: mpsc::Sender<Message>,
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

    /// Declares a pipeline. Returns when the declaration is durable, before any worker has it.
    pub async fn apply_pipeline(&self, definition: Pipeline, uid: Option<String>) -> Result<(), Rejected> {
        let definition = Box::new(definition);
        self.ask(|ticket| Event::ApplyPipeline { definition, uid, ticket }).await
    }

    /// Asks for a pipeline's removal.
    pub async fn remove_pipeline(&self, name: PipelineName) -> Result<(), Rejected> {
        self.ask(|ticket| Event::RemovePipeline { name, ticket }).await
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

    /// A worker's stream is there: it takes orders before the machine hears of it, so that none is lost.
    pub(crate) async fn attach_worker(&self, stream: mpsc::Sender<Order>, connected: Event) {
        let Event::WorkerConnected { worker, connection, .. } = &connected else { return };
        let (worker, connection) = (worker.clone(), *connection);
        self.look(move |_, outbox| outbox.attach_worker(worker, connection, stream)).await;
        self.tell(connected).await;
    }

    /// A worker's stream is gone.
    pub(crate) async fn detach_worker(&self, worker: WorkerId, connection: ConnectionId) {
        let id = worker.clone();
        self.look(move |_, outbox| outbox.detach_worker(&id, connection)).await;
        self.tell(Event::WorkerDisconnected { worker, connection }).await;
    }

    async fn look(&self, look: impl FnOnce(&Machine, &mut Outbox) + Send + 'static) {
        let _driver_has_ended = self.inbox.send(Message::Look(Box::new(look))).await;
    }

    /// What `read` makes of the machine, at the end of a batch.
    pub async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Machine) -> T + Send + 'static,
    ) -> Result<T, Rejected> {
        let (reply, answer) = oneshot::channel();
        let read = Box::new(move |machine: &Machine| {
            let _caller_is_gone = reply.send(read(machine));
        });
        let _driver_has_ended = self.inbox.send(Message::Read(read)).await;
        answer.await.map_err(|_| Rejected::Stopping)
    }

    async fn subscribe<F: Send + 'static>(
        &self,
        subscribe: impl FnOnce(&Machine, &mut Outbox) -> F + Send + 'static,
    ) -> Result<F, Rejected> {
        let (reply, answer) = oneshot::channel();
        self.look(move |machine, outbox| {
            let _caller_is_gone = reply.send(subscribe(machine, outbox));
        })
        .await;
        answer.await.map_err(|_| Rejected::Stopping)
    }

    /// Statuses of the latest versions of all models, and every change.
    pub(crate) async fn subscribe_models(&self) -> Result<Arc<Feed<ModelName, ModelStatusResponse>>, Rejected> {
        self.subscribe(|machine, outbox| outbox.subscribe_models(machine.models().map(|model| model.name.clone())))
            .await
    }

    /// Statuses of these models, of those that are still known.
    pub(crate) async fn models(&self, names: Vec<ModelName>) -> Result<Vec<ModelStatusResponse>, Rejected> {
        self.read(move |machine| {
            let status = |name| Some(api::convert::status::model(name, &[machine.model_status(name)?]));
            names.iter().filter_map(status).collect()
        })
        .await
    }

    /// Statuses of all servers, the wishes about them that stand, and every change.
    pub(crate) async fn subscribe_servers(&self) -> Result<Arc<Feed<AboutServer, ServerStatusResponse>>, Rejected> {
        self.subscribe(|machine, outbox| {
            let names = || machine.servers().map(|server| server.name.clone());
            let wishes = names().filter(|name| machine.scaling_request(name).is_some()).map(AboutServer::Wish);
            outbox.subscribe_servers(names().map(AboutServer::Status).chain(wishes))
        })
        .await
    }

    /// What there is to say about these servers.
    pub(crate) async fn servers(&self, about: Vec<AboutServer>) -> Result<Vec<ServerStatusResponse>, Rejected> {
        self.read(move |machine| {
            let message = |about: &AboutServer| match about {
                AboutServer::Status(name) => Some(api::convert::status::server(&machine.server_status(name)?)),
                AboutServer::Wish(name) => {
                    let ScalingRequest { server, replicas, kubernetes } = machine.scaling_request(name)?;
                    Some(api::convert::status::scaling(&server, replicas, kubernetes.as_ref()))
                }
            };
            about.iter().filter_map(message).collect()
        })
        .await
    }

    /// Statuses of all experiments, and every change.
    pub(crate) async fn subscribe_experiments(
        &self,
    ) -> Result<Arc<Feed<ExperimentName, ExperimentStatusResponse>>, Rejected> {
        self.subscribe(|machine, outbox| {
            outbox.subscribe_experiments(machine.experiments().map(|experiment| experiment.definition.name.clone()))
        })
        .await
    }

    /// Statuses of these experiments, of those that are still known.
    pub(crate) async fn experiments(
        &self,
        names: Vec<ExperimentName>,
    ) -> Result<Vec<ExperimentStatusResponse>, Rejected> {
        self.read(move |machine| {
            let status = |name| Some(api::convert::experiment::status(&machine.experiment_status(name)?));
            names.iter().filter_map(status).collect()
        })
        .await
    }

    /// Statuses of the latest versions of all pipelines, and every change.
    pub(crate) async fn subscribe_pipelines(
        &self,
    ) -> Result<Arc<Feed<PipelineName, PipelineStatusResponse>>, Rejected> {
        self.subscribe(|machine, outbox| {
            outbox.subscribe_pipelines(machine.pipelines().map(|pipeline| pipeline.name.clone()))
        })
        .await
    }

    /// Statuses of these pipelines, of those that are still known.
    pub(crate) async fn pipelines(&self, names: Vec<PipelineName>) -> Result<Vec<PipelineStatusResponse>, Rejected> {
        self.read(move |machine| {
            let status = |name| Some(api::convert::pipeline::statuses(name, &[machine.pipeline_status(name)?]));
            names.iter().filter_map(status).collect()
        })
        .await
    }
}
