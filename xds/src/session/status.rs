//! What a session says about itself: to the gate, to its owner, to people.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Session;
use super::lane::Lane;
use crate::resource::{Key, Kind, Name, Resource, Revision, Version, Visibility};
use crate::table::Table;
use crate::time::Time;

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
    /// The client refused it, or something that it requires.
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
    /// When the latest ACK came.
    pub acked_at: Option<Time>,
}

/// Where a stream is with one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KindStatus {
    pub kind: Kind,
    pub wildcard: bool,
    pub names: usize,
    pub cursor: Revision,
    /// The table as of here is applied, but for what the client refused and what is stuck because of that; `None` before
    /// the first sync.
    pub settled: Option<Revision>,
    pub in_flight: usize,
    pub pending: usize,
    pub held: usize,
    pub quarantined: usize,
}

/// Where a resource is on its way to one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Not sent as it is now: it waits for what it requires, or for the answer to an earlier response.
    Waiting,
    /// Sent, and not answered yet.
    Sent,
    /// The client has it.
    Applied,
    /// The client refused it, with these words if they were kept.
    Refused(Option<Arc<str>>),
}

/// One resource that a client asked for.
#[derive(Clone, Debug)]
pub struct ResourceStatus {
    pub key: Key,
    /// As it is now for this client; none: it is gone, or was never there.
    pub resource: Option<Arc<Resource>>,
    pub delivery: Delivery,
}

impl Session {
    /// Everything that the client asked for. Work for people: it looks at every resource.
    #[must_use]
    pub fn resources(&self, table: &Table) -> Vec<ResourceStatus> {
        self.lanes.iter().flatten().flat_map(|lane| self.resources_of(lane, table)).collect()
    }

    fn resources_of(&self, lane: &Lane, table: &Table) -> Vec<ResourceStatus> {
        let everything = table.iter(lane.kind).filter(|resource| resource.visibility() == Visibility::Wildcard);
        let everything = everything.filter(|_| lane.interest.is_wildcard()).map(|resource| resource.name().clone());
        // What is gone and not said yet is asked for, too.
        let leaving = lane.pending.keys().chain(lane.held.keys()).chain(lane.stuck.keys());
        let in_flight = lane.inflight.iter().flat_map(|inflight| inflight.items.iter()).map(|(name, _)| name);
        let unsaid = leaving.chain(in_flight).chain(lane.quarantine.keys()).cloned();
        let names: BTreeSet<Name> = everything.chain(lane.interest.names().iter().cloned()).chain(unsaid).collect();
        let status = |name: Name| ResourceStatus {
            resource: self.current(lane.kind, &name, table),
            delivery: self.delivery(lane, &name, table),
            key: Key { kind: lane.kind, name },
        };
        names.into_iter().map(status).collect()
    }

    fn delivery(&self, lane: &Lane, name: &Name, table: &Table) -> Delivery {
        let version = self.current(lane.kind, name, table).map(|resource| resource.version());
        if lane.quarantine.get(name) == Some(&version) {
            return Delivery::Refused(lane.reasons.get(name).cloned());
        }
        let sent = lane.inflight.as_ref().and_then(|inflight| inflight.items.says(name, version));
        let is_behind = table.entry(lane.kind, name).is_some_and(|entry| entry.revision > lane.cursor);
        match sent {
            _ if is_behind || lane.pending.contains_key(name) || lane.held_since(name).is_some() => Delivery::Waiting,
            Some(true) => Delivery::Sent,
            Some(false) => Delivery::Waiting,
            None if lane.is_outstanding(name) => Delivery::Waiting,
            None => Delivery::Applied,
        }
    }
}
