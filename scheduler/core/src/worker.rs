//! Workers of the data plane, what they own, and what they are told.

use std::collections::BTreeMap;
use std::sync::Arc;

use domain::{ModelName, PipelineName, Role, Shard, Time, WorkerName};

use crate::event::ConnectionId;

/// A worker that is there, or was a moment ago.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Worker {
    /// Its stream; none while it is away and its grace runs.
    pub(crate) connection: Option<ConnectionId>,
    /// Where Envoy reaches it, for pipeline gateways.
    pub(crate) address: Option<Address>,
    /// Everything up to this revision is in use by it or refused; 0: not even its snapshot.
    pub(crate) applied: u64,
    /// What it refused, and why.
    pub(crate) refused: BTreeMap<(PipelineName, u32), String>,
}

impl Worker {
    /// It is connected and works by what it was told.
    pub(crate) fn is_ready(&self) -> bool {
        self.connection.is_some() && self.applied > 0
    }
}

/// Where a pipeline gateway takes requests; one port for REST and gRPC.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// An IP address.
    pub host: String,
    /// Its port.
    pub port: u16,
}

/// Who owns a shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    /// The owner; none while there is nobody.
    pub owner: Option<WorkerName>,
    /// Counts the owners.
    pub epoch: u64,
    /// The owner was told to let go, because another one is to have it. Not kept on disk.
    pub leaving: bool,
    /// The owner came back without it, and is to get it anew. Not kept on disk.
    pub lapsed: bool,
}

/// What is kept on disk about the workers of one role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workforce {
    /// Which role.
    pub role: Role,
    /// Where pipeline gateways take requests.
    pub gateways: BTreeMap<WorkerName, Address>,
    /// Who owns what.
    pub shards: BTreeMap<u32, Holding>,
}

/// What a worker is told. Complete: a worker decides nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// All there should be; what is not in it is gone.
    Snapshot {
        /// The worker says when it works by this.
        revision: u64,
        /// Partitions of every topic.
        partitions: u32,
        /// Every pipeline.
        pipelines: Vec<PipelineOrder>,
        /// Every model, for model gateways.
        models: Vec<ModelOrder>,
    },
    /// What is different from before.
    Change {
        /// See above.
        revision: u64,
        /// These pipelines, whole.
        pipelines: Vec<PipelineOrder>,
        /// These models, for model gateways.
        models: Vec<ModelOrder>,
    },
    /// The shard is the worker's.
    Grant(Shard),
    /// The worker is to finish what it began and to let go.
    Revoke(Shard),
}

/// What there should be of a pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PipelineOrder {
    /// Which pipeline.
    pub name: PipelineName,
    /// Its versions, oldest first; none: it is gone.
    pub versions: Vec<VersionOrder>,
    /// With no version left: its topics go, too.
    pub clean_topics: bool,
    /// Partitions that requests enter by, best first.
    pub entries: Vec<u32>,
}

/// One version of a pipeline, for workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionOrder {
    /// Which version.
    pub number: u32,
    /// Its identity.
    pub uid: String,
    /// What it does.
    pub definition: Arc<domain::Pipeline>,
    /// Since when new entries may run under it; none: never yet.
    pub active_since: Option<Time>,
    /// New entries run under it.
    pub active: bool,
}

/// What there should be of a model, for model gateways.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelOrder {
    /// Which model.
    pub name: ModelName,
    /// It is gone.
    pub removed: bool,
    /// Its topics go, too.
    pub clean_topics: bool,
}
