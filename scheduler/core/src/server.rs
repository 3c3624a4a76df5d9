//! A server and its replicas: what was declared, what the agents reported, and whether they are there.

use std::collections::BTreeMap;

use domain::{Bytes, Endpoint, Health, ReplicaConfig, ReplicaId, ReplicaIndex, ServerBounds, ServerName};

use crate::event::ConnectionId;

/// A server. It is remembered when its last agent leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Identity.
    pub name: ServerName,
    /// Models without an explicit server may run here.
    pub shared: bool,
    /// What its owner said; absent = nobody said anything.
    pub bounds: Option<ServerBounds>,
    /// Its replicas by index.
    pub replicas: BTreeMap<ReplicaIndex, Replica>,
}

/// One replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// What its agent said it is.
    pub config: ReplicaConfig,
    /// Free memory, as last reported.
    pub available: Bytes,
    /// It is leaving.
    pub draining: bool,
    /// Its agent came back without models that Envoys may still send requests for. Not kept on disk.
    pub catching_up: bool,
    /// Whether its agent is there. Not kept on disk.
    pub link: Link,
}

/// Whether an agent is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// It is.
    Connected(ConnectionId),
    /// It was before the scheduler restarted and is believed to be there until the grace period ends.
    Unseen,
    /// Its stream broke a short while ago.
    Lost,
    /// It has been away for longer than the grace period.
    Gone,
}

impl Server {
    /// Its owner wants it to have no replicas.
    #[must_use]
    pub fn is_scaled_to_zero(&self) -> bool {
        self.bounds.as_ref().is_some_and(|bounds| bounds.expected == 0)
    }
}

impl Replica {
    /// New models may be placed here.
    #[must_use]
    pub fn takes_models(&self) -> bool {
        !self.draining && matches!(self.link, Link::Connected(_))
    }

    /// Models that are here may stay.
    #[must_use]
    pub fn keeps_models(&self) -> bool {
        !self.draining && self.link != Link::Gone
    }

    /// Whether new requests may go here, before looking at its neighbours.
    #[must_use]
    pub fn health(&self) -> Health {
        match self.link {
            Link::Lost | Link::Gone => Health::Unhealthy,
            Link::Connected(_) if self.catching_up => Health::Unhealthy,
            Link::Connected(_) | Link::Unseen if self.draining => Health::Draining,
            Link::Connected(_) | Link::Unseen => Health::Healthy,
        }
    }

    /// Where it answers.
    #[must_use]
    pub fn endpoint(&self, id: ReplicaId) -> Endpoint {
        Endpoint {
            replica: id,
            host: self.config.host.clone(),
            http_port: self.config.http_port,
            grpc_port: self.config.grpc_port,
            health: self.health(),
        }
    }
}
