//! The engine as a whole: follows the scheduler, gives shards their tasks.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use domain::{Role, Shard, Topics, WorkerName};
use runtime::{OnError, Stop, Tasks, TasksFailed};
use tokio::sync::{mpsc, oneshot};
use topic_log::Log;
use tracing::warn;
use worker::{Connected, Desired, Link, LinkConfig, Said, Told};

use crate::metrics::Metrics;
use crate::pipelines::Pipelines;
use crate::shard::{Command, Task};

/// Commands that wait for a shard.
const COMMANDS: usize = 64;

/// What the log refuses is tried again after this long.
const RETRY_AFTER: Duration = Duration::from_secs(1);

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
    let (finished, done) = mpsc::channel(COMMANDS);
    let pipelines = Pipelines::new(Arc::clone(&log), config.topics.clone());
    let process = Process { config, log, pipelines, connected, tasks: tasks.clone(), shards: BTreeMap::new(), finished };
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
    /// By partition, with the stream to which a release is to be told.
    shards: BTreeMap<u32, Owned>,
    finished: mpsc::Sender<Shard>,
}

struct Owned {
    shard: Shard,
    commands: mpsc::Sender<Command>,
    stream: u64,
    is_leaving: bool,
}

impl Process {
    async fn follow(mut self, mut done: mpsc::Receiver<Shard>, stop: Stop) -> Result<(), Infallible> {
        loop {
            tokio::select! {
                () = stop.requested() => return Ok(()),
                told = self.connected.told.recv() => match told {
                    Some((stream, Told::Desired(desired))) => self.apply(stream, desired).await,
                    Some((stream, Told::Grant(shard))) => self.grant(stream, shard),
                    Some((stream, Told::Revoke(shard))) => self.revoke(stream, shard).await,
                    None => return Ok(()),
                },
                Some(shard) = done.recv() => self.released(shard),
            }
        }
    }

    async fn apply(&mut self, stream: u64, desired: Desired) {
        let revision = desired.revision;
        let change = match self.pipelines.apply(desired).await {
            Ok(change) => change,
            Err(error) => {
                // Not said to be applied: whoever waits for a pipeline sees that it is not ready.
                warn!(revision, %error, "what the scheduler wants cannot be done yet");
                tokio::time::sleep(RETRY_AFTER).await;
                return;
            }
        };
        let mut waits = Vec::new();
        for owned in self.shards.values().filter(|owned| !owned.is_leaving) {
            let (done, wait) = oneshot::channel();
            let (start, stop) = (change.start.iter().cloned().collect(), change.stop.iter().cloned().collect());
            if owned.commands.send(Command::Topics { start, stop, done }).await.is_ok() {
                waits.push(wait);
            }
        }
        for wait in waits {
            // A shard that ended reads nothing.
            let _ended = wait.await;
        }
        self.connected.say(stream, Said::Applied(revision, Vec::new()));
    }

    fn grant(&mut self, stream: u64, shard: Shard) {
        let (commands, receiver) = mpsc::channel(COMMANDS);
        let task = Task {
            shard,
            log: Arc::clone(&self.log),
            topics: self.config.topics.clone(),
            plan: Arc::clone(&self.pipelines.plan),
            inputs: self.pipelines.inputs(),
            sinks: self.pipelines.sinks(),
            commands: receiver,
            metrics: self.config.metrics.clone(),
            stop: self.tasks.stop().clone(),
            finished: self.finished.clone(),
        };
        // An older grant of it ends with its commands.
        self.shards.insert(shard.partition, Owned { shard, commands, stream, is_leaving: false });
        self.tasks.spawn("engine-shard", OnError::StopProcess, task.run());
        self.tell_held();
    }

    async fn revoke(&mut self, stream: u64, shard: Shard) {
        let owned = self.shards.get_mut(&shard.partition).filter(|owned| owned.shard == shard);
        match owned {
            Some(owned) => {
                (owned.is_leaving, owned.stream) = (true, stream);
                let _ended = owned.commands.send(Command::Finish).await;
            }
            None => self.connected.say(stream, Said::Released(shard)),
        }
    }

    fn released(&mut self, shard: Shard) {
        let is_current = self.shards.get(&shard.partition).is_some_and(|owned| owned.shard == shard);
        if is_current && let Some(owned) = self.shards.remove(&shard.partition) {
            self.tell_held();
            self.connected.say(owned.stream, Said::Released(shard));
        }
    }

    fn tell_held(&self) {
        let held: BTreeSet<Shard> = self.shards.values().map(|owned| owned.shard).collect();
        self.connected.set_held(held);
    }
}
