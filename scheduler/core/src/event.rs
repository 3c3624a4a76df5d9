//! What can happen to the scheduler.

use domain::{
    Bytes, Clock, Experiment, ExperimentName, Generation, KubernetesMeta, ModelDefinition, ModelName, ModelVersionId,
    Pipeline, PipelineName, ReplicaConfig, ReplicaId, RoutableName, RuntimeInfo, ServerBounds, ServerName, Shard,
    Ticket, VersionNumber, WorkerId,
};

use crate::worker::Address;

/// Tells one connection of an agent from a later one of the same agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// Something happened. Events with a ticket get exactly one reply (I7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A user declared a model.
    ApplyModel {
        /// What was declared.
        definition: Box<ModelDefinition>,
        /// Waits for the reply.
        ticket: Ticket,
    },
    /// A user asked for a model's removal.
    RemoveModel {
        /// Which model.
        name: ModelName,
        /// Replaces the stored meta, so that later statuses carry the deleting generation.
        kubernetes: Option<KubernetesMeta>,
        /// Waits for the reply.
        ticket: Ticket,
    },
    /// A user declared an experiment.
    StartExperiment {
        /// What was declared.
        definition: Box<Experiment>,
        /// Waits for the reply.
        ticket: Ticket,
    },
    /// A user asked for an experiment's end.
    StopExperiment {
        /// Which experiment.
        name: ExperimentName,
        /// Waits for the reply.
        ticket: Ticket,
    },
    /// A user declared a pipeline.
    ApplyPipeline {
        /// What was declared.
        definition: Box<Pipeline>,
        /// Identity of the version, if the caller has one for it.
        uid: Option<String>,
        /// Waits for the reply.
        ticket: Ticket,
    },
    /// A user asked for a pipeline's removal.
    RemovePipeline {
        /// Which pipeline.
        name: PipelineName,
        /// Waits for the reply.
        ticket: Ticket,
    },
    /// The owner of servers said how large they should be.
    NotifyServers {
        /// Each server with its bounds and whether models without an explicit server may use it; the latter counts
        /// only when the server is not known yet.
        servers: Vec<(ServerName, ServerBounds, bool)>,
        /// These are all servers there are: the first word after the start.
        first_sync: bool,
        /// Waits for the reply.
        ticket: Ticket,
    },
    /// An agent subscribed.
    AgentConnected {
        /// Its replica.
        replica: ReplicaId,
        /// This connection.
        connection: ConnectionId,
        /// Models without an explicit server may run there.
        shared: bool,
        /// What the replica is.
        config: ReplicaConfig,
        /// Everything it holds.
        held: Vec<HeldModel>,
        /// Its free memory.
        available: Bytes,
    },
    /// An agent's stream ended.
    AgentDisconnected {
        /// Its replica.
        replica: ReplicaId,
        /// The connection that ended; an older one than the current is ignored.
        connection: ConnectionId,
    },
    /// An agent finished a command.
    Report {
        /// Its replica.
        replica: ReplicaId,
        /// The version the command was about.
        version: ModelVersionId,
        /// How it ended.
        outcome: Outcome,
        /// The clock of the command; foreign agents do not send it.
        fence: Option<Clock>,
        /// Free memory after the operation.
        available: Bytes,
        /// Waits for the reply.
        ticket: Ticket,
    },
    /// A replica wants to leave; the reply comes when its models have moved.
    DrainReplica {
        /// Which replica.
        replica: ReplicaId,
        /// Waits for the reply.
        ticket: Ticket,
    },
    /// A worker of the data plane said hello.
    WorkerConnected {
        /// Who it is.
        worker: WorkerId,
        /// This connection.
        connection: ConnectionId,
        /// Where Envoy reaches it, for pipeline gateways.
        address: Option<Address>,
        /// Shards that it still works on.
        held: Vec<Shard>,
    },
    /// A worker's stream ended.
    WorkerDisconnected {
        /// Who it was.
        worker: WorkerId,
        /// The connection that ended; an older one than the current is ignored.
        connection: ConnectionId,
    },
    /// A worker works by a revision.
    WorkerApplied {
        /// Who.
        worker: WorkerId,
        /// Its connection.
        connection: ConnectionId,
        /// Everything up to this one is in use, or refused.
        revision: u64,
        /// What is refused since the last word.
        refused: Vec<Refused>,
    },
    /// A worker has let go of a shard.
    WorkerReleased {
        /// Who.
        worker: WorkerId,
        /// Its connection.
        connection: ConnectionId,
        /// Which shard.
        shard: Shard,
    },
    /// Every gating Envoy acknowledged this generation of a route, or a later one.
    RouteApplied {
        /// Which route.
        name: RoutableName,
        /// Which generation.
        generation: Generation,
    },
    /// No Envoy uses an older generation of a route any more.
    RouteReleased {
        /// Which route.
        name: RoutableName,
        /// Which generation.
        generation: Generation,
    },
    /// An Envoy refused a route.
    RouteRejected {
        /// Which route.
        name: RoutableName,
        /// Which generation.
        generation: Generation,
        /// What Envoy said.
        message: String,
    },
    /// How many partitions a pipeline's requests enter by, where it says nothing itself; absent = all
    /// (`maxShardCountMultiplier`).
    PartitionFactor(Option<u32>),
    /// A timer that was asked for with [`crate::Effect::Wake`] is due.
    Timer(Timer),
}

/// A version of a pipeline that a worker cannot run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Which pipeline.
    pub pipeline: PipelineName,
    /// Which version of it.
    pub version: u32,
    /// Why, in words a person can act on.
    pub reason: String,
}

/// What an agent holds when it subscribes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldModel {
    /// The definition it was loaded with.
    pub definition: ModelDefinition,
    /// Its version.
    pub number: VersionNumber,
    /// What the inference server said about it.
    pub runtime: Option<RuntimeInfo>,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The version answers requests on the replica.
    Loaded(Option<RuntimeInfo>),
    /// It could not be loaded.
    LoadFailed(String),
    /// It is gone from the replica.
    Unloaded,
    /// It could not be unloaded.
    UnloadFailed(String),
}

/// Why the machine wanted to be woken.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// A lost agent has been away for the grace period.
    AgentGrace(ReplicaId),
    /// A drain has taken as long as it may.
    DrainLimit(ReplicaId),
    /// A removed model has been listed long enough.
    Forget(ModelName),
    /// A stopped experiment has been listed long enough.
    ForgetExperiment(ExperimentName),
    /// A lost worker has been away for the grace period.
    WorkerGrace(WorkerId),
    /// What entered by a version of a pipeline must be over.
    FinishVersion(PipelineName, u32),
    /// A version of a pipeline that everybody refused may be tried again.
    RetryPipeline(PipelineName, u32),
    /// A removed pipeline has been listed long enough.
    ForgetPipeline(PipelineName),
    /// The first word about servers, or their agents, have been waited for long enough.
    FirstSync,
}
