//! The gateway as a whole: follows the scheduler, gives shards their tasks.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use domain::{Role, Shard, Topics, WorkerName};
use runtime::{OnError, Stop, Tasks, TasksFailed};
use tokio::sync::mpsc;
use topic_log::Log;
use tracing::warn;
use worker::{Connected, Desired, Link, LinkConfig, Owned, Said, Told};

use crate::batcher::Batcher;
use crate::client::Client;
use crate::metrics::Metrics;
use crate::models::Models;
use crate::shard::Task;

/// How long the tasks get to end.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// How a model gateway is run.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its name, unique among model gateways.
    pub name: WorkerName,
    /// `host:port` of each scheduler's port for workers.
    pub schedulers: Vec<String>,
    /// `host:port` of the Envoy that all calls go through.
    pub envoy: String,
    /// Names of topics.
    pub topics: Topics,
    /// Longest time of a call (`MODELGATEWAY_WORKER_TIMEOUT_MS`, 120 s).
    pub call_limit: Duration,
    /// Where it counts.
    pub metrics: Metrics,
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
    let client = Client::new(&config.envoy).map_err(|cause| Error::Envoy { envoy: config.envoy.clone(), cause })?;
    let tasks = Tasks::new(stop.clone());
    let link = LinkConfig {
        role: Role::ModelGateway,
        name: config.name.clone(),
        schedulers: config.schedulers.clone(),
        address: None,
    };
    let (link, connected) = Link::new(link, stop.clone());
    tasks.spawn("model-gateway-link", OnError::StopProcess, link.run());
    let (owned, done) = Owned::new();
    let models = Models::new(Arc::clone(&log), config.topics.clone());
    let batcher = Batcher::default();
    let process = Process { config, log, models, client, batcher, connected, tasks: tasks.clone(), owned };
    tasks.spawn("model-gateway", OnError::StopProcess, process.follow(done, stop.clone()));
    stop.requested().await;
    Ok(tasks.finish(STOP_WITHIN).await?)
}

struct Process {
    config: Config,
    log: Arc<dyn Log>,
    models: Models,
    client: Client,
    batcher: Batcher,
    connected: Connected,
    tasks: Tasks,
    owned: Owned,
}

impl Process {
    async fn follow(mut self, mut done: mpsc::Receiver<Shard>, stop: Stop) -> Result<(), Infallible> {
        loop {
            tokio::select! {
                () = stop.requested() => return Ok(()),
                told = self.connected.told.recv() => match told {
                    Some((stream, Told::Desired(desired))) => self.apply(stream, desired).await,
                    Some((stream, Told::Grant(shard))) => self.grant(stream, shard),
                    Some((stream, Told::Revoke(shard))) => self.owned.revoke(stream, shard, &self.connected).await,
                    None => return Ok(()),
                },
                Some(shard) = done.recv() => self.owned.released(shard, &self.connected),
            }
        }
    }

    async fn apply(&mut self, stream: u64, desired: Desired) {
        let revision = desired.revision;
        match self.models.apply(desired).await {
            Ok(change) => {
                self.owned.read(&change.start, &change.stop).await;
                self.connected.say(stream, Said::Applied(revision, Vec::new()));
            }
            Err(error) => {
                // Not said to be applied: whoever waits for a model sees it. A new stream begins with everything.
                warn!(revision, %error, "what the scheduler wants cannot be done");
                self.connected.again(stream);
            }
        }
    }

    fn grant(&mut self, stream: u64, shard: Shard) {
        let task = Task {
            lease: self.owned.grant(stream, shard, &self.connected),
            log: Arc::clone(&self.log),
            topics: self.config.topics.clone(),
            inputs: self.models.inputs(),
            sinks: self.models.sinks(),
            client: self.client.clone(),
            batcher: self.batcher.clone(),
            limit: self.config.call_limit,
            metrics: self.config.metrics.clone(),
            stop: self.tasks.stop().clone(),
        };
        self.tasks.spawn("model-gateway-shard", OnError::StopProcess, task.run());
    }
}
