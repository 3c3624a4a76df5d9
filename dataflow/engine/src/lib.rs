//! The dataflow engine: runs all pipelines over the log, in one process, one task for each shard that it owns.
//!
//! It decides nothing: what a record leads to, `dataflow-core` says; which shards are its own, the scheduler says.

mod metrics;
mod pipelines;
mod process;
mod shard;

pub use metrics::Metrics;
pub use process::{Config, run};

/// Consumer group of all engines.
pub const GROUP: &str = "seldon-dataflow";
