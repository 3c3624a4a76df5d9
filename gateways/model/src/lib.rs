//! The model gateway: records of models' inputs become calls through Envoy, answers become records.
//!
//! It decides nothing about delivery: which record is a repeat, complete or late, `dataflow-core` says. Reading never
//! waits for one model: each has its own topic, which is paused alone.

mod batcher;
mod client;
mod metrics;
mod models;
mod process;
mod shard;

pub use metrics::Metrics;
pub use process::{Config, run};

/// Consumer group of all model gateways.
pub const GROUP: &str = "seldon-modelgateway";
