//! Workers of the data plane, and what they own.

use std::fmt;

use crate::WorkerName;

/// What a worker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Takes requests for pipelines, and answers them.
    PipelineGateway,
    /// Runs pipelines.
    Engine,
    /// Calls models.
    ModelGateway,
}

impl Role {
    /// Every role.
    pub const ALL: [Role; 3] = [Role::PipelineGateway, Role::Engine, Role::ModelGateway];

    /// Its workers own shards.
    #[must_use]
    pub const fn owns_shards(self) -> bool {
        !matches!(self, Role::PipelineGateway)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::PipelineGateway => "pipeline gateway",
            Role::Engine => "dataflow engine",
            Role::ModelGateway => "model gateway",
        })
    }
}

/// One worker.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId {
    /// What it does.
    pub role: Role,
    /// Its name.
    pub name: WorkerName,
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.role, self.name)
    }
}

/// The unit of ownership within a role: its owner reads this partition of every topic that the role reads, and writes
/// what it derives to this partition (`spec/delivery.md` §1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shard {
    /// Which partition.
    pub partition: u32,
    /// Larger with each owner.
    pub epoch: u64,
}
