//! What the machine wants done. Nothing here may leave the process before the writes of its batch are durable.

use domain::{
    BadExperiment, Clock, Endpoint, ExperimentName, ExperimentStatus, Generation, KubernetesMeta, ModelDefinition,
    ModelName, ModelVersionId, ModelVersionStatus, PipelineName, PipelineVersionStatus, PlacementSet, ReplicaId,
    RoutableName, Route, RuntimeInfo, ServerName, ServerStatus, Subject, Ticket, Time, WorkerId,
};

use crate::event::{ConnectionId, Timer};
use crate::experiment::Experiment;
use crate::model::Model;
use crate::pipeline::Pipeline;
use crate::server::Server;
use crate::worker::{Address, Order, Workforce};

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Keep this on disk.
    Write(Record),
    /// Tell an agent.
    Send {
        /// Its replica.
        replica: ReplicaId,
        /// The connection it is for; if that is gone the command is lost, and the loss is told as an event.
        connection: ConnectionId,
        /// What to do.
        command: Box<Command>,
    },
    /// Tell a worker of the data plane.
    Work {
        /// Which worker.
        worker: WorkerId,
        /// The connection it is for; if that is gone the order is lost, and the next connection begins with all of it.
        connection: ConnectionId,
        /// What there should be.
        order: Box<Order>,
    },
    /// Tell the Envoys. Order matters: a set comes before the route that uses it.
    Publish(RouteChange),
    /// Tell subscribers of statuses.
    Notify(Status),
    /// Answer a request.
    Reply(Ticket, Result<(), Refusal>),
    /// Call back with the timer at that time or later.
    Wake(Time, Timer),
}

/// One record of the store, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A model.
    Model(Box<Model>),
    /// A model that is no longer kept.
    NoModel(ModelName),
    /// A server.
    Server(Box<Server>),
    /// An experiment.
    Experiment(Box<Experiment>),
    /// An experiment that is no longer kept.
    NoExperiment(ExperimentName),
    /// A pipeline.
    Pipeline(Box<Pipeline>),
    /// A pipeline that is no longer kept.
    NoPipeline(PipelineName),
    /// The workers of one role.
    Workforce(Box<Workforce>),
}

/// What an agent is told. Complete: the agent decides nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Fence; the report carries it back.
    pub clock: Clock,
    /// What it is about.
    pub version: ModelVersionId,
    /// The whole definition of the model.
    pub definition: ModelDefinition,
    /// What a server has said about it before.
    pub runtime: Option<RuntimeInfo>,
    /// What to do with it.
    pub action: Action,
}

/// What to do with a version on a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Fetch and load it.
    Load,
    /// Unload and delete it.
    Unload,
}

/// A change of what Envoys are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteChange {
    /// The replicas of a placement set, or `None` when no route uses it any more.
    Set {
        /// Which set.
        set: PlacementSet,
        /// Where its replicas answer.
        endpoints: Option<Vec<Endpoint>>,
    },
    /// Where a name leads, or `None` when it leads nowhere.
    Route {
        /// Which name.
        name: RoutableName,
        /// Number of this change of the name; told back when Envoys have applied it.
        generation: Generation,
        /// The whole route.
        route: Option<Route>,
    },
    /// Somebody declared a name, or it was removed: whether it leads anywhere is another matter. Comes before its routes.
    Declared {
        /// Which name; never an experiment's.
        name: RoutableName,
        /// It is there.
        is: bool,
    },
    /// All agents there are: they answer the server-wide calls.
    Mesh(Vec<Endpoint>),
    /// The pipeline gateways that take requests.
    Gateways(Vec<Address>),
}

/// The effect that says so.
pub(crate) fn declared(name: RoutableName, is: bool) -> Effect {
    Effect::Publish(RouteChange::Declared { name, is })
}

/// News for subscribers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// The latest version of a model.
    Model(ModelName, Box<ModelVersionStatus>),
    /// A server.
    Server(Box<ServerStatus>),
    /// An experiment.
    Experiment(Box<ExperimentStatus>),
    /// The latest version of a pipeline.
    Pipeline(Box<PipelineVersionStatus>),
    /// The owner of a server should give it so many replicas.
    Scaling(ScalingRequest),
    /// The start is over: what there is may be placed, and told of.
    Synchronised,
}

/// A wish about the size of a server, for its owner (`spec/control-plane.md` §2.11).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScalingRequest {
    /// Which server.
    pub server: ServerName,
    /// How many replicas it should have.
    pub replicas: u32,
    /// Present when the server's declaration came from Kubernetes.
    pub kubernetes: Option<KubernetesMeta>,
}

/// Why a request was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nobody knows the model.
    #[error("model {0} is not known")]
    UnknownModel(ModelName),
    /// Nobody knows the server.
    #[error("server {0} is not known")]
    UnknownServer(ServerName),
    /// Nobody knows the experiment.
    #[error("experiment {0} is not known")]
    UnknownExperiment(ExperimentName),
    /// The experiment was stopped before.
    #[error("experiment {0} is stopped already")]
    StoppedExperiment(ExperimentName),
    /// Nobody knows the pipeline.
    #[error("pipeline {0} is not known")]
    UnknownPipeline(PipelineName),
    /// The pipeline is still being removed.
    #[error("pipeline {0} is still being removed; ask again when it is gone")]
    PipelineStillTerminating(PipelineName),
    /// The pipeline cannot be.
    #[error("pipeline: {0}")]
    BadPipeline(String),
    /// The experiment cannot be.
    #[error("experiment.{0}")]
    BadExperiment(#[from] BadExperiment),
    /// The default is one of another experiment.
    #[error("experiment.default: {default} is the default of experiment {by} already; stop that one or choose another")]
    DefaultTaken {
        /// Which model or pipeline.
        default: Subject,
        /// Whose default it is.
        by: ExperimentName,
    },
    /// The model is still being removed.
    #[error("model {0} is still being removed: {1} replicas have not let go of it yet; declare it again after that")]
    StillTerminating(ModelName, usize),
    /// The report is about a command that is not the current one.
    #[error("report about {version} on {replica} is stale: {why}")]
    StaleReport {
        /// What it was about.
        version: ModelVersionId,
        /// Where.
        replica: ReplicaId,
        /// What was expected.
        why: String,
    },
}
