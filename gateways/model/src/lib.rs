//! The model gateway: records of models' inputs become calls through Envoy, answers become records.
//!
//! It decides nothing about delivery: which record is a repeat, complete or late, `dataflow-core` says. Reading never
//! waits for one model: each has its own topic, which is paused alone.

mod batcher;
mod client;
mod leavers;
mod models;
mod shard;

use std::sync::Arc;
use std::time::Duration;

use runtime::{OnError, Stop, Tasks, TasksFailed};
use topic_log::Log;
use worker::{Counter, ShardCounters, WorkerConfig};

use crate::client::Client;
use crate::leavers::Leavers;
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

/// How long it gets to end.
const STOP_WITHIN: Duration = Duration::from_secs(5);

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
    let leavers = Leavers::default();
    let models =
        Models::new(Arc::clone(&log), worker.topics.clone(), Calling::new(client, leavers.clone(), call_limit));
    let tasks = Tasks::new(stop.clone());
    let follow = leavers.follow(Arc::clone(&log), worker.topics.clone(), stop.clone());
    tasks.spawn("model-gateway-leavers", OnError::StopProcess, follow);
    worker::run(worker, models, log, stop).await?;
    Ok(tasks.finish(STOP_WITHIN).await?)
}

/// Appends what a gateway counted, in Prometheus' text format.
pub fn write_metrics(counters: &ShardCounters, text: &mut String) {
    counters.write(text, "switchyard_modelgateway", &COUNTERS);
}
