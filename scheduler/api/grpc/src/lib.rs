//! The gRPC services over `messages`, and the border between wire types and `domain`.
//!
//! Wire types are converted here, once: `TryFrom` on the way in (all violations at once), `From` on the way out.
//! Decides nothing.

/// Open Inference Protocol: client and server of `inference.GRPCInferenceService`.
pub mod inference {
    include!("gen/inference.rs");
}
/// Client and server of `seldon.mlops.agent.AgentService`.
pub mod agent {
    include!("gen/seldon.mlops.agent.rs");
}
/// Client and server of `seldon.mlops.health.HealthCheckService`.
pub mod health {
    include!("gen/seldon.mlops.health.rs");
}
/// Client and server of `seldon.mlops.scheduler.Scheduler`.
pub mod scheduler {
    include!("gen/seldon.mlops.scheduler.rs");
}

pub mod convert;
