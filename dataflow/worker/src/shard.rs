//! The log's side of one shard: take-over, reading, writing, commits (`spec/delivery.md` §3, §6). One task has it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dataflow_core::{Checkpoint, Emission, EmissionId, Envelope, Headers, Incoming, Owner, REPEAT_WINDOW_MS, name};
use domain::{Shard, Time, TopicOf, Topics};
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::FuturesUnordered;
use topic_log::{Append, Appended, Commit, Error, Fetched, Header, Log, Reader, Record};
use tracing::warn;

use crate::clock::now;

/// Progress is stored this often when there is any.
pub const COMMIT_EVERY: Duration = Duration::from_secs(1);

/// Read at once while a shard is taken over.
const SCAN_BYTES: usize = 4 << 20;

/// An append that the disk refuses is tried again after this long.
const RETRY_AFTER: Duration = Duration::from_millis(200);

type Committing = BoxFuture<'static, (Vec<Checkpoint>, Result<(), Error>)>;

/// What happens to a shard at the log.
pub enum Happened {
    /// Records were read.
    Fetched(Fetched),
    /// The log has taken or refused an emission.
    Acked(EmissionId, Result<Appended, Error>),
    /// Progress is stored, or is not.
    Committed,
    /// Nothing can be read at the moment.
    NotRead(Error),
}

type Ack = BoxFuture<'static, (EmissionId, Result<Appended, Error>)>;

/// One shard of one role, open at the log.
pub struct ShardLog {
    log: Arc<dyn Log>,
    group: &'static str,
    shard: Shard,
    topics: Topics,
    reader: Box<dyn Reader>,
    acks: FuturesUnordered<Ack>,
    committing: Option<Committing>,
    inputs: BTreeMap<Arc<str>, (TopicOf, u64)>,
    names: BTreeMap<TopicOf, Arc<str>>,
    committed: BTreeMap<Arc<str>, u64>,
}

/// What a shard is taken over with.
pub struct TakeOver {
    /// The log.
    pub log: Arc<dyn Log>,
    /// The consumer group of the role.
    pub group: &'static str,
    /// Which shard.
    pub shard: Shard,
    /// Names of topics.
    pub topics: Topics,
}

impl TakeOver {
    /// Takes the shard over: progress, slots that were accepted within the repeat window, slots that are in the sinks.
    pub async fn run(
        self,
        inputs: impl Iterator<Item = TopicOf>,
        sinks: impl Iterator<Item = TopicOf>,
    ) -> Result<(ShardLog, Owner), Error> {
        let Self { log, group, shard, topics } = self;
        let committed = log.committed(group, shard.partition).await?;
        let since = committed.iter().filter_map(|commit| since_of(&commit.metadata)).max();
        let mut owner = Owner::new(since);
        let mut open = ShardLog {
            reader: log.reader(),
            log,
            group,
            shard,
            topics,
            acks: FuturesUnordered::new(),
            committing: None,
            inputs: BTreeMap::new(),
            names: BTreeMap::new(),
            committed: committed.into_iter().map(|commit| (commit.topic, commit.offset)).collect(),
        };
        for of in sinks {
            open.scan_sink(&of, since.unwrap_or_default(), &mut owner).await?;
        }
        for of in inputs {
            open.start(&of, &mut owner).await?;
        }
        Ok((open, owner))
    }
}

impl ShardLog {
    /// Reads this topic, too, from where the last owner stopped.
    pub async fn start(&mut self, of: &TopicOf, owner: &mut Owner) -> Result<(), Error> {
        let topic = self.name(of);
        let Some(known) = self.log.topics(&topic).await?.into_iter().find(|known| known.name == topic) else {
            return Err(Error::NoTopic(topic));
        };
        let bounds = self.log.bounds(&topic, self.shard.partition).await?;
        let committed = self.committed.get(&topic).copied().unwrap_or(0);
        let low = committed.clamp(bounds.start, bounds.end);
        if committed < bounds.start && committed > 0 {
            warn!(%topic, partition = self.shard.partition, lost = bounds.start - committed, "records are gone before they were processed");
        }
        owner.start(&topic, low, bounds.end);
        if low > bounds.start {
            self.refill(&topic, low, owner).await?;
        }
        self.reader.assign(&topic, self.shard.partition, low)?;
        self.inputs.insert(topic, (of.clone(), known.incarnation));
        Ok(())
    }

    /// Reads it no longer.
    pub fn stop(&mut self, of: &TopicOf, owner: &mut Owner) {
        let topic = self.name(of);
        self.reader.unassign(&topic, self.shard.partition);
        self.inputs.remove(&topic);
        owner.stop(&topic);
        self.names.remove(of);
    }

    /// The slots of the records before `low` that are young enough to be repeated.
    async fn refill(&mut self, topic: &Arc<str>, low: u64, owner: &mut Owner) -> Result<(), Error> {
        let partition = self.shard.partition;
        let last = self.log.read(topic, partition, low - 1, 1).await?;
        let Some(at) = last.records.first().map(|record| record.time) else { return Ok(()) };
        let mut next = self.log.find(topic, partition, at.before(REPEAT_WINDOW_MS)).await?;
        let incarnation = self.log.topics(topic).await?.first().map_or(0, |known| known.incarnation);
        while next < low {
            let fetched = self.log.read(topic, partition, next, SCAN_BYTES).await?;
            if fetched.next == next {
                break;
            }
            for record in fetched.records.into_iter().filter(|record| record.offset < low) {
                let headers = headers(record.headers);
                let envelope = Envelope::read(&headers, topic, incarnation, partition, record.offset);
                owner.remember(envelope.slot, record.time);
            }
            next = fetched.next;
        }
        Ok(())
    }

    /// The slots that are in a sink since then.
    async fn scan_sink(&mut self, of: &TopicOf, since: Time, owner: &mut Owner) -> Result<(), Error> {
        let (topic, partition) = (self.name(of), self.shard.partition);
        let end = match self.log.bounds(&topic, partition).await {
            Ok(bounds) => bounds.end,
            Err(Error::NoTopic(_)) => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut next = self.log.find(&topic, partition, since.before(1_000)).await?;
        while next < end {
            let fetched = self.log.read(&topic, partition, next, SCAN_BYTES).await?;
            if fetched.next == next {
                break;
            }
            for record in fetched.records {
                let (time, offset) = (record.time, record.offset);
                let headers = headers(record.headers);
                if headers.iter().any(|(header, _)| header == name::SLOT) {
                    owner.found(Envelope::read(&headers, &topic, 0, partition, offset).slot, time);
                }
            }
            next = fetched.next;
        }
        Ok(())
    }

    /// What a topic that is read is for, and which of its name it is.
    #[must_use]
    pub fn input(&self, topic: &str) -> Option<(&TopicOf, u64)> {
        self.inputs.get(topic).map(|(of, incarnation)| (of, *incarnation))
    }

    /// Topics that are read.
    pub fn inputs(&self) -> impl Iterator<Item = (&Arc<str>, &TopicOf)> {
        self.inputs.iter().map(|(topic, (of, _))| (topic, of))
    }

    /// Which shard it is.
    #[must_use]
    pub fn shard(&self) -> Shard {
        self.shard
    }

    fn name(&mut self, of: &TopicOf) -> Arc<str> {
        if let Some(name) = self.names.get(of) {
            return Arc::clone(name);
        }
        let name: Arc<str> = self.topics.name(of).into();
        self.names.insert(of.clone(), Arc::clone(&name));
        name
    }

    /// Writes emissions; [`ShardLog::ack`] says what became of them. What the disk refuses is tried again.
    pub fn write(&mut self, emissions: Vec<Emission>) {
        for emission in emissions {
            let topic = self.name(&emission.topic);
            let headers = emission.headers.into_iter().map(|(name, value)| Header { name, value }).collect();
            let record = Append { key: emission.key, value: emission.value, headers };
            let (log, partition, id) = (Arc::clone(&self.log), self.shard.partition, emission.id);
            // The first try is made now, so that records keep their order.
            let first = log.append(&topic, partition, record.clone());
            let ack = async move {
                let mut outcome = first.await;
                while let Err(error) = &outcome
                    && error.is_transient()
                {
                    warn!(%topic, partition, %error, "the log does not take a record; it is tried again");
                    tokio::time::sleep(RETRY_AFTER).await;
                    outcome = log.append(&topic, partition, record.clone()).await;
                }
                (id, outcome)
            };
            self.acks.push(ack.boxed());
        }
    }

    /// The next thing that happens. Cancel-safe.
    pub async fn next(&mut self, owner: &mut Owner) -> Happened {
        tokio::select! {
            Some((id, outcome)) = self.acks.next(), if !self.acks.is_empty() => Happened::Acked(id, outcome),
            (checkpoints, outcome) = wait(&mut self.committing) => {
                self.committing = None;
                match outcome {
                    Ok(()) => {
                        let lows = checkpoints.into_iter().map(|checkpoint| (checkpoint.topic, checkpoint.low));
                        self.committed.extend(lows);
                    }
                    Err(error) => {
                        let (group, partition) = (self.group, self.shard.partition);
                        warn!(group, partition, %error, "progress cannot be stored; it is tried again");
                        owner.not_committed(checkpoints);
                    }
                }
                Happened::Committed
            }
            fetched = self.reader.next() => match fetched {
                Ok(fetched) => Happened::Fetched(fetched),
                Err(error) => {
                    let (group, partition) = (self.group, self.shard.partition);
                    warn!(group, partition, %error, "the log cannot be read; it is tried again");
                    tokio::time::sleep(RETRY_AFTER).await;
                    Happened::NotRead(error)
                }
            },
        }
    }

    /// Gives nothing of these topics for a while.
    pub fn pause(&mut self, of: &TopicOf) {
        let topic = self.name(of);
        self.reader.pause(&topic, self.shard.partition);
    }

    /// Goes on with them.
    pub fn resume(&mut self, of: &TopicOf) {
        let topic = self.name(of);
        self.reader.resume(&topic, self.shard.partition);
    }

    /// Nothing more can be read right now, nothing is being written and nothing stored.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.acks.is_empty() && self.committing.is_none()
    }

    /// Acknowledgements that are here already.
    pub fn acks_at_hand(&mut self) -> Vec<(EmissionId, Result<Appended, Error>)> {
        std::iter::from_fn(|| self.acks.next().now_or_never().flatten()).collect()
    }

    /// Begins to store progress, if there is any and none is being stored.
    pub fn commit(&mut self, owner: &mut Owner) {
        if self.committing.is_some() {
            return;
        }
        let checkpoints = owner.checkpoints();
        if checkpoints.is_empty() {
            return;
        }
        let metadata = format!("epoch={} since={}", self.shard.epoch, owner.since(now()).0);
        let commits = checkpoints.iter().map(|checkpoint| Commit {
            topic: Arc::clone(&checkpoint.topic),
            partition: self.shard.partition,
            offset: checkpoint.low,
            metadata: metadata.clone(),
        });
        let stored = self.log.commit(self.group, commits.collect());
        self.committing = Some(async move { (checkpoints, stored.await) }.boxed());
    }

    /// Tells the owner what was read of a topic, and what cannot be.
    pub fn account(&self, owner: &mut Owner, fetched: &Fetched) {
        if fetched.lost > 0 {
            warn!(topic = %fetched.topic, partition = fetched.partition, lost = fetched.lost, "records of the log are lost");
            let mut next = fetched.next - fetched.lost - fetched.records.len() as u64;
            for record in &fetched.records {
                if record.offset > next {
                    owner.skip(&fetched.topic, next, record.offset);
                }
                next = record.offset + 1;
            }
            if fetched.next > next {
                owner.skip(&fetched.topic, next, fetched.next);
            }
        }
        let is_behind = fetched.next < fetched.end;
        let last = fetched.records.last().map(|record| record.time);
        owner.read_up_to(&fetched.topic, last.filter(|_| is_behind));
    }
}

/// The commit that is under way; pending while there is none.
async fn wait(committing: &mut Option<Committing>) -> (Vec<Checkpoint>, Result<(), Error>) {
    match committing {
        Some(committing) => committing.await,
        None => std::future::pending().await,
    }
}

/// A record as the core takes it.
pub fn incoming<'a>(topic: &'a Arc<str>, of: &'a TopicOf, incarnation: u64, record: Record) -> Incoming<'a> {
    Incoming {
        topic,
        of,
        incarnation,
        offset: record.offset,
        time: record.time,
        key: record.key,
        headers: headers(record.headers),
        value: record.value,
    }
}

fn headers(headers: Vec<Header>) -> Headers {
    headers.into_iter().map(|header| (header.name, header.value)).collect()
}

/// `since` in the metadata of a commit.
fn since_of(metadata: &str) -> Option<Time> {
    let since = metadata.split(' ').find_map(|word| word.strip_prefix("since="))?;
    since.parse().ok().map(Time)
}
