//! What a session says about itself: to the gate, to its owner, to people.

use crate::resource::{Key, Kind, Revision, Version};

/// A client refused a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub key: Key,
    /// `None`: its removal.
    pub version: Option<Version>,
    pub message: String,
}

/// How a stream stands with the latest change of a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Applied(Revision),
    Rejected(Revision),
    /// The stream does not want it.
    Foreign,
    Outstanding,
}

/// The stream did not read for so long that removals it needs are forgotten; it must reconnect and list what it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stream fell too far behind the changes of {kind:?}; reconnect with initial_resource_versions")]
pub struct Behind {
    pub kind: Kind,
}

/// What a stream did since it began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub responses: u64,
    pub resources: u64,
    pub acks: u64,
    pub nacks: u64,
    pub last_error: Option<String>,
}

/// Where a stream is with one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KindStatus {
    pub kind: Kind,
    pub wildcard: bool,
    pub names: usize,
    pub cursor: Revision,
    /// The table as of here is applied; `None` before the first sync.
    pub settled: Option<Revision>,
    pub in_flight: usize,
    pub pending: usize,
    pub held: usize,
    pub quarantined: usize,
}
