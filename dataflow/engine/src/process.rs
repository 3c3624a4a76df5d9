//! The engine as a whole: follows the scheduler, gives shards their tasks.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use domain::{Role, Shard, Topics, WorkerName};
use runtime::{OnError, Stop, Tasks, TasksFailed};
use tokio::sync::mpsc;
use topic_log::Log;
use tracing::warn;
use worker::{Connected, Desired, Link, LinkConfig, Owned, Said, Told};

use crate::metrics::Metrics;
use crate::pipelines::Pipelines;
use crate::shard::Task;

/// How long the tasks get to end.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// How an engine is run.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its name, unique among engines.
    pub name: WorkerName,
    /// `host:port` of each scheduler's port for workers.
    pub schedulers: Vec<String>,
    /// Names of topics.
    pub topics: Topics,
    /// Where it counts.
    pub metrics: Metrics,
}

/// Runs until the stop.
///
/// # Errors
/// A task of it failed.
pub async fn run(config: Config, log: Arc<dyn Log>, stop: Stop) -> Result<(), TasksFailed> {
    let tasks = Tasks::new(stop.clone());
    let link = LinkConfig {
        role: Role::Engine,
        name: config.name.clone(),
        schedulers: config.schedulers.clone(),
        address: None,
    };
    let (link, connected) = Link::new(link, stop.clone());
    tasks.spawn("engine-link", OnError::StopProcess, link.run());
    let (owned, done) = Owned::new();
    let pipelines = Pipelines::new(Arc::clone(&log), config.topics.clone());
    let process = Process { config, log, pipelines, connected, tasks: tasks.clone(), owned };
    tasks.spawn("engine", OnError::StopProcess, process.follow(done, stop.clone()));
    stop.requested().await;
    tasks.finish(STOP_WITHIN).await
}

struct Process {
    config: Config,
    log: Arc<dyn Log>,
    pipelines: Pipelines,
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
        match self.pipelines.apply(desired).await {
            Ok(change) => {
                self.owned.read(&change.start, &change.stop).await;
                self.connected.say(stream, Said::Applied(revision, Vec::new()));
            }
            Err(error) => {
                // Not said to be applied: whoever waits for a pipeline sees that it is not ready. A new stream begins
                // with everything.
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
            plan: Arc::clone(&self.pipelines.plan),
            inputs: self.pipelines.inputs(),
            sinks: self.pipelines.sinks(),
            metrics: self.config.metrics.clone(),
            stop: self.tasks.stop().clone(),
        };
        self.tasks.spawn("engine-shard", OnError::StopProcess, task.run());
    }
}
