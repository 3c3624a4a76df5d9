//! The nouns of Switchyard and their laws: names, numbers, models, servers, lifecycles, routes.
//!
//! Pure: no I/O, no clock, no randomness, no wire format. Whoever holds a value of a type here may rely on its
//! law; values are checked where they are made.

mod endpoint;
mod experiment;
pub mod header;
mod id;
mod lifecycle;
mod model;
mod name;
mod pipeline;
mod quantity;
mod reference;
mod route;
mod server;
mod status;
mod topic;
mod worker;

pub use endpoint::{Endpoint, Health};
pub use experiment::{BadExperiment, CANDIDATES_MAX, Candidate, Experiment, ExperimentStatus, Mirror, WEIGHTS_MAX};
pub use id::{Clock, Generation, ModelVersionId, ReplicaId, ReplicaIndex, Ticket, VersionNumber};
pub use lifecycle::{Input, Lifecycle};
pub use model::{
    Deployment, Explainer, KubernetesMeta, Llm, ModelDefinition, ModelSpec, Parameter, RuntimeInfo, StorageConfig,
    StreamTopics,
};
pub use name::{BadName, ExperimentName, ModelName, PipelineName, RoutableName, ServerName, Subject, WorkerName};
pub use pipeline::{
    BadPipeline, Batch, Combination, JoinKind, Pipeline, PipelineInput, PipelineOutput, REQUEST_LONGEST_MS, STEPS_MAX,
    Step, TensorMap, WINDOW_LONGEST_MS,
};
pub use quantity::{Bytes, Time};
pub use reference::{BadReference, End, Origin, Reference};
pub use route::{Backend, MirrorBackend, PlacementSet, Route, Target};
pub use server::{ReplicaConfig, ServerBounds};
pub use status::{
    AssignmentStatus, ModelState, ModelVersionStatus, PipelineState, PipelineVersionStatus, ReplicaResources,
    ServerStatus,
};
pub use topic::{BadTopicPart, TOPIC_LONGEST, TOPIC_PREFIX, TopicOf, Topics};
pub use worker::{Role, Shard, WorkerId};
