//! The dataflow engine: runs all pipelines over the log, in one process, one task for each shard that it owns.
//!
//! It decides nothing: what a record leads to, `dataflow-core` says; which shards are its own, the scheduler says.

mod pipelines;
mod shard;

use std::sync::Arc;

use runtime::{Stop, TasksFailed};
use topic_log::Log;
use worker::{Counter, ShardCounters, WorkerConfig};

use crate::pipelines::Pipelines;

/// What the engine counts, in the order of a record's way through it.
const COUNTERS: [Counter; 7] = [
    ("records", "Records read by the dataflow engine", |of| of.records),
    ("repeats_dropped", "Records that repeat another one", |of| of.repeats),
    ("expired", "Records that nobody waited for any more", |of| of.expired),
    ("ignored", "Records that concern no pipeline", |of| of.ignored),
    ("malformed", "Records that are no message of the Open Inference Protocol", |of| of.malformed),
    ("ended", "Requests ended with an error because nothing could come of them", |of| of.ended),
    ("emitted", "Records written by the dataflow engine", |of| of.emitted),
];

/// Runs until the stop.
///
/// # Errors
/// A task of it failed.
pub async fn run(config: WorkerConfig, log: Arc<dyn Log>, stop: Stop) -> Result<(), TasksFailed> {
    let pipelines = Pipelines::new(Arc::clone(&log), config.topics.clone());
    worker::run(config, pipelines, log, stop).await
}

/// Appends what an engine counted, in Prometheus' text format.
pub fn write_metrics(counters: &ShardCounters, text: &mut String) {
    counters.write(text, "switchyard_dataflow", &COUNTERS);
}
