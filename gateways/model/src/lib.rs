//! The model gateway: records of models' inputs become calls through Envoy, answers become records.
//!
//! It decides nothing about delivery: which record is a repeat, complete or late, `dataflow-core` says. Reading never
//! waits for one model: each has its own topic, which is paused alone.

mod batcher;
mod client;
mod models;
mod shard;

use std::sync::Arc;
use std::time::Duration;

use runtime::{Stop, TasksFailed};
use topic_log::Log;
use worker::{Counter, ShardCounters, WorkerConfig};

use crate::client::Client;
use crate::models::Models;
use crate::shard::Calling;

/// What the gateway counts, in the order of a record's way through it.
const COUNTERS: [Counter; 5] = [
    ("records", "Records read by the model gateway", |of| of.records),
    ("repeats_dropped", "Records that repeat another one", |of| of.repeats),
    ("expired", "Records that nobody waited for any more", |of| of.expired),
    ("failed", "Calls of models that ended with an error", |of| of.ended),
    ("answered", "Records written by the model gateway", |of| of.emitted),
];

/// How a model gateway is run.
#[derive(Clone, Debug)]
pub struct Config {
    /// As every worker is.
    pub worker: WorkerConfig,
    /// `host:port` of the Envoy that all calls go through.
    pub envoy: String,
    /// Longest time of a call (`MODELGATEWAY_WORKER_TIMEOUT_MS`, 120 s).
    pub call_limit: Duration,
}

/// Why it does not run, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address of Envoy is none.
    #[error("{envoy:?} is no address of an Envoy")]
    Envoy {
        /// What was given.
        envoy: String,
        /// What is wrong with it.
        #[source]
        cause: tonic::transport::Error,
    },
    /// A task of it failed.
    #[error(transparent)]
    Tasks(#[from] TasksFailed),
}

/// Runs until the stop.
///
/// # Errors
/// A bad address, or a task of it failed.
pub async fn run(config: Config, log: Arc<dyn Log>, stop: Stop) -> Result<(), Error> {
    let Config { worker, envoy, call_limit } = config;
    let client = Client::new(&envoy).map_err(|cause| Error::Envoy { envoy, cause })?;
    let models = Models::new(Arc::clone(&log), worker.topics.clone(), Calling::new(client, call_limit));
    Ok(worker::run(worker, models, log, stop).await?)
}

/// Appends what a gateway counted, in Prometheus' text format.
pub fn write_metrics(counters: &ShardCounters, text: &mut String) {
    counters.write(text, "switchyard_modelgateway", &COUNTERS);
}
