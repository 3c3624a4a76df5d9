//! Where a replica answers, as Envoy is told.

use crate::ReplicaId;

/// One replica in a placement set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Which replica.
    pub replica: ReplicaId,
    /// IP address of its agent's proxy.
    pub host: String,
    /// Port for REST.
    pub http_port: u16,
    /// Port for gRPC.
    pub grpc_port: u16,
    /// Whether new requests may go there.
    pub health: Health,
}

/// Whether new requests may go to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    /// Yes.
    Healthy,
    /// It is leaving: requests in flight finish, new ones go elsewhere.
    Draining,
    /// Its agent is gone.
    Unhealthy,
}
