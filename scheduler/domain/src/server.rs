//! What is known of a server and of the replica behind an agent.

use std::collections::BTreeSet;

use crate::{Bytes, KubernetesMeta};

/// What the owner of a server said about it (`ServerNotify`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerBounds {
    /// Replicas there should be; 0 = it is being removed.
    pub expected: u32,
    /// Autoscaling never goes below.
    pub min: u32,
    /// Autoscaling never goes above; 0 = no autoscaling.
    pub max: u32,
    /// Present when the declaration came from Kubernetes.
    pub kubernetes: Option<KubernetesMeta>,
}

/// What an agent says about its replica when it subscribes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaConfig {
    /// Address of the agent's proxy: an IP (names are resolved before they get here).
    pub host: String,
    /// Port for REST.
    pub http_port: u16,
    /// Port for gRPC; the same one when the agent serves both on one port.
    pub grpc_port: u16,
    /// Capacity.
    pub memory: Bytes,
    /// What it can run.
    pub capabilities: BTreeSet<String>,
    /// How far the agent over-commits its memory; informational.
    pub over_commit_percentage: u32,
}
