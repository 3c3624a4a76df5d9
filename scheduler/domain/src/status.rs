//! What we tell users about models and servers.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::{
    Bytes, Lifecycle, ModelDefinition, Pipeline, PipelineName, ReplicaIndex, RuntimeInfo, ServerBounds, ServerName,
    Time, VersionNumber,
};

/// State of one version of a model, summed over its replicas. Wire numbers: `spec/control-plane.md` §1.1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ModelState {
    /// Not placed yet.
    Unknown,
    /// On its way.
    Progressing,
    /// Answers requests.
    Available,
    /// A replica failed to load or to be routed.
    Failed,
    /// Being unloaded.
    Terminating,
    /// Gone.
    Terminated,
    /// A replica failed to unload.
    TerminateFailed,
    /// No placement, or not for all wished replicas.
    ScheduleFailed,
    /// Wanted with no replicas.
    ScaledDown,
    /// Gateway side: to be created.
    Create,
    /// Gateway side: to be removed.
    Terminate,
}

/// One version of a model, as shown to users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelVersionStatus {
    /// Which version.
    pub number: VersionNumber,
    /// The whole model is being removed.
    pub deleted: bool,
    /// What was declared.
    pub definition: ModelDefinition,
    /// What a server said about it, once loaded.
    pub runtime: Option<RuntimeInfo>,
    /// Where it is placed.
    pub server: Option<ServerName>,
    /// Sum over the replicas.
    pub state: ModelState,
    /// Why, in words a person can act on; empty when there is nothing to say.
    pub reason: String,
    /// Replicas that take requests.
    pub available: u32,
    /// Replicas that are loading or failed.
    pub unavailable: u32,
    /// When something last changed.
    pub changed_at: Time,
    /// Each replica.
    pub assignments: BTreeMap<ReplicaIndex, AssignmentStatus>,
    /// The model gateways' side of the model.
    pub gateway_state: ModelState,
    /// Why.
    pub gateway_reason: &'static str,
}

/// One replica of a version, as shown to users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssignmentStatus {
    /// How far it is.
    pub lifecycle: Lifecycle,
    /// Why, when it failed.
    pub reason: String,
    /// When it got there.
    pub changed_at: Time,
}

/// A server, as shown to users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerStatus {
    /// Which server.
    pub name: ServerName,
    /// What its owner said, if anybody said anything.
    pub bounds: Option<ServerBounds>,
    /// Connected and not draining.
    pub available: u32,
    /// Connected replicas that are not draining.
    pub replicas: BTreeMap<ReplicaIndex, ReplicaResources>,
}

/// What one replica has and holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaResources {
    /// Capacity.
    pub total: Bytes,
    /// Free, as the agent last said.
    pub available: Bytes,
    /// Distinct models loaded.
    pub models: u32,
    /// How far the agent over-commits.
    pub over_commit_percentage: u32,
}

/// State of one side of a pipeline's version. Wire numbers: `spec/control-plane.md` §1.1.4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PipelineState {
    /// Nobody is there to take it.
    Create,
    /// On its way.
    Creating,
    /// In use.
    Ready,
    /// Nobody who is there could take it.
    Failed,
    /// Being removed.
    Terminating,
    /// Gone.
    Terminated,
}

/// One version of a pipeline, as shown to users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PipelineVersionStatus {
    /// Of which pipeline.
    pub name: PipelineName,
    /// Which version, from 1.
    pub number: u32,
    /// Identity of the version among all versions of all pipelines.
    pub uid: String,
    /// What was declared.
    pub definition: Arc<Pipeline>,
    /// The dataflow engines' side.
    pub state: PipelineState,
    /// Why, in words a person can act on; empty when there is nothing to say.
    pub reason: String,
    /// The pipeline gateways' and the Envoys' side.
    pub gateway_state: PipelineState,
    /// Why.
    pub gateway_reason: String,
    /// Every step's model is available, and model gateways know it.
    pub models_ready: bool,
    /// When it was declared or last changed its state by a decision.
    pub changed_at: Time,
}
