//! A worker that owns shards, as a whole: follows the scheduler, gives shards their tasks.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use dataflow_core::{Change, Owner};
use domain::{Role, Shard, TopicOf, Topics, WorkerName};
use runtime::health::Check;
use runtime::{OnError, Stop, Tasks, TasksFailed};
use tokio::sync::mpsc;
use topic_log::{Error, Log};
use tracing::warn;

use crate::counters::ShardCounters;
use crate::link::{Connected, Desired, Link, LinkConfig, Said, Told};
use crate::owned::{End, Lease, Owned};
use crate::shard::{ShardWork, Task};

/// How long the tasks get to end.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// How a worker is run.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// Its name, unique among workers of its role.
    pub name: WorkerName,
    /// `host:port` of each scheduler's port for workers.
    pub schedulers: Vec<String>,
    /// Names of topics.
    pub topics: Topics,
    /// Where its shards count.
    pub counters: ShardCounters,
    /// As that of its stream to the scheduler.
    pub check: Check,
}

/// What a role does with what the scheduler wants, and with shards.
pub trait Duty: Send + 'static {
    /// The role.
    const ROLE: Role;
    /// The consumer group of all its workers.
    const GROUP: &'static str;
    /// Names of its tasks: the stream, the whole, a shard.
    const TASKS: [&'static str; 3];

    /// What it does with the records of one shard.
    type Work: ShardWork;

    /// Makes what is desired so; gives the topics that shards have to read now, and those that they need no longer.
    fn apply(&mut self, desired: Desired) -> impl Future<Output = Result<Change, Error>> + Send;

    /// Everything that a shard has to read.
    fn inputs(&self) -> Vec<TopicOf>;

    /// Everything that a shard may have written.
    fn sinks(&self) -> Vec<TopicOf>;

    /// Makes the work of a shard from its partition and what is known of it.
    fn work(&self) -> impl Fn(u32, Owner) -> Self::Work + Send + 'static;
}

/// Runs until the stop.
///
/// # Errors
/// A task of it failed.
pub async fn run<D: Duty>(config: WorkerConfig, duty: D, log: Arc<dyn Log>, stop: Stop) -> Result<(), TasksFailed> {
    let tasks = Tasks::new(stop.clone());
    let (name, schedulers, check) = (config.name.clone(), config.schedulers.clone(), config.check.clone());
    let link = LinkConfig { role: D::ROLE, name, schedulers, address: None, check };
    let (link, connected) = Link::new(link, stop.clone());
    let [of_link, of_process, _] = D::TASKS;
    tasks.spawn(of_link, OnError::StopProcess, link.run());
    let (owned, done) = Owned::new();
    let process = Process { config, duty, log, connected, tasks: tasks.clone(), owned };
    tasks.spawn(of_process, OnError::StopProcess, process.follow(done, stop.clone()));
    stop.requested().await;
    tasks.finish(STOP_WITHIN).await
}

struct Process<D> {
    config: WorkerConfig,
    duty: D,
    log: Arc<dyn Log>,
    connected: Connected,
    tasks: Tasks,
    owned: Owned,
}

impl<D: Duty> Process<D> {
    async fn follow(mut self, mut done: mpsc::Receiver<(Shard, End)>, stop: Stop) -> Result<(), Infallible> {
        loop {
            tokio::select! {
                () = stop.requested() => return Ok(()),
                told = self.connected.told.recv() => match told {
                    Some((stream, Told::Desired(desired))) => self.apply(stream, desired).await,
                    Some((stream, Told::Grant(shard))) => {
                        let lease = self.owned.grant(stream, shard, &self.connected);
                        self.work(lease);
                    }
                    Some((stream, Told::Revoke(shard))) => self.owned.revoke(stream, shard, &self.connected).await,
                    None => return Ok(()),
                },
                Some(ended) = done.recv() => if let Some(lease) = self.owned.ended(ended, &self.connected) {
                    self.work(lease);
                },
            }
        }
    }

    async fn apply(&mut self, stream: u64, desired: Desired) {
        let revision = desired.revision;
        match self.duty.apply(desired).await {
            Ok(change) => {
                self.owned.read(&change.start, &change.stop).await;
                self.connected.say(stream, Said::Applied(revision, Vec::new()));
            }
            Err(error) => {
                // Not said to be applied: whoever waits for a pipeline sees that it is not ready. A new stream begins
                // with everything.
                warn!(role = %D::GROUP, revision, %error, "what the scheduler wants cannot be done");
                self.connected.again(stream);
            }
        }
    }

    fn work(&self, lease: Lease) {
        let task = Task {
            lease,
            log: Arc::clone(&self.log),
            worker: self.config.name.clone(),
            group: D::GROUP,
            topics: self.config.topics.clone(),
            inputs: self.duty.inputs(),
            sinks: self.duty.sinks(),
            work: self.duty.work(),
            counters: self.config.counters.clone(),
            stop: self.tasks.stop().clone(),
        };
        let [_, _, of_shard] = D::TASKS;
        self.tasks.spawn(of_shard, OnError::StopProcess, task.run());
    }
}
