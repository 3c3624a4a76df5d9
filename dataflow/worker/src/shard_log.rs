//! The log's side of one shard: take-over, reading, writing, commits (`spec/delivery.md` §3, §6). One task has it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use dataflow_core::{Checkpoint, Emission, EmissionId, Envelope, Headers, Incoming, Owner, REPEAT_WINDOW_MS, name};
use domain::{Shard, Time, TopicOf, Topics};
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::FuturesUnordered;
use topic_log::{Append, Appended, Commit, Error, Fetched, Header, Log, Reader, Record};
use tracing::{info, warn};

use crate::clock::now;

/// Progress is stored this often when there is any.
pub(crate) const COMMIT_EVERY: Duration = Duration::from_secs(1);

/// Read at once while a shard is taken over.
const SCAN_BYTES: usize = 4 << 20;

/// An append that the disk refuses is tried again after this long.
const RETRY_AFTER: Duration = Duration::from_millis(200);

type Committing = BoxFuture<'static, (Vec<Progress>, Result<(), Error>)>;

/// What happens to a shard at the log.
pub(crate) enum Happened {
    /// Records were read.
    Fetched(Fetched),
    /// The log has taken or refused an emission.
    Acked(EmissionId, Result<Appended, Error>),
    /// Progress is stored.
    Committed,
    /// It cannot be stored.
    NotCommitted(Vec<Checkpoint>),
    /// A topic that was read is gone; [`ShardLog::search_gone`] reads the next one of its name.
    Gone(Arc<str>),
    /// Nothing can be read at the moment.
    NotRead,
}

/// Progress in one of the topics that ever had the name.
struct Progress {
    checkpoint: Checkpoint,
    incarnation: u64,
}

/// A topic that is read.
struct Input {
    of: TopicOf,
    incarnation: u64,
}

type Ack = BoxFuture<'static, (EmissionId, Result<Appended, Error>)>;

/// One shard of one role, open at the log.
pub struct ShardLog {
    is_finishing: bool,
    log: Arc<dyn Log>,
    group: &'static str,
    shard: Shard,
    topics: Topics,
    reader: Box<dyn Reader>,
    acks: FuturesUnordered<Ack>,
    committing: Option<Committing>,
    inputs: BTreeMap<Arc<str>, Input>,
    /// To be read again as soon as there are topics of these names.
    gone: BTreeSet<TopicOf>,
    names: BTreeMap<TopicOf, Arc<str>>,
    /// By topic: which of its name, if that is known, and up to where.
    committed: BTreeMap<Arc<str>, (Option<u64>, u64)>,
}

/// What a shard is taken over with.
pub(crate) struct TakeOver {
    pub(crate) log: Arc<dyn Log>,
    /// The consumer group of the role.
    pub(crate) group: &'static str,
    pub(crate) shard: Shard,
    /// Names of topics.
    pub(crate) topics: Topics,
}

impl TakeOver {
    /// Takes the shard over: progress, slots that were accepted within the repeat window, slots that are in the sinks.
    pub(crate) async fn run(
        self,
        inputs: impl Iterator<Item = TopicOf>,
        sinks: impl Iterator<Item = TopicOf>,
    ) -> Result<(ShardLog, Owner), Error> {
        let Self { log, group, shard, topics } = self;
        let committed = log.committed(group, shard.partition).await?;
        let since = committed.iter().filter_map(|commit| value_of(&commit.metadata, SINCE)).max().map(Time);
        let mut owner = Owner::new(since);
        let offset = |commit: Commit| (commit.topic, (value_of(&commit.metadata, OF), commit.offset));
        let mut open = ShardLog {
            is_finishing: false,
            reader: log.reader(),
            log,
            group,
            shard,
            topics,
            acks: FuturesUnordered::new(),
            committing: None,
            inputs: BTreeMap::new(),
            gone: BTreeSet::new(),
            names: BTreeMap::new(),
            committed: committed.into_iter().map(offset).collect(),
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
    /// Reads this topic, too, from where the last owner stopped, unless it is read already. One that is not there is read
    /// when it is.
    pub(crate) async fn start(&mut self, of: &TopicOf, owner: &mut Owner) -> Result<(), Error> {
        let topic = self.name(of);
        if self.inputs.contains_key(&topic) {
            return Ok(());
        }
        let Some(known) = self.log.topics(&topic).await?.into_iter().find(|known| known.name == topic) else {
            self.gone.insert(of.clone());
            return Ok(());
        };
        let bounds = self.log.bounds(&topic, self.shard.partition).await?;
        let committed = self.committed.get(&topic);
        // What somebody else committed, as tools of the log do, says of no incarnation; it is meant.
        let committed = committed.filter(|(of, _)| of.is_none_or(|of| of == known.incarnation));
        let committed = committed.map_or(0, |(_, offset)| *offset);
        let low = committed.clamp(bounds.start, bounds.end);
        if committed < bounds.start && committed > 0 {
            warn!(%topic, partition = self.shard.partition, lost = bounds.start - committed, "records are gone before they were processed");
        }
        owner.start(&topic, known.incarnation, low, bounds.end);
        if low > bounds.start {
            self.refill(&topic, known.incarnation, low, owner).await?;
        }
        if low < bounds.end {
            // Record time stands there until it is read: what it may repeat is not forgotten.
            let first = self.log.read(&topic, self.shard.partition, low, 1).await?;
            owner.read_up_to(&topic, first.records.first().map(|record| record.time));
        }
        self.reader.assign(&topic, self.shard.partition, low)?;
        self.gone.remove(of);
        self.inputs.insert(topic, Input { of: of.clone(), incarnation: known.incarnation });
        Ok(())
    }

    /// Reads it no longer.
    pub(crate) fn stop(&mut self, of: &TopicOf, owner: &mut Owner) {
        let topic = self.name(of);
        self.reader.unassign(&topic, self.shard.partition);
        self.inputs.remove(&topic);
        self.gone.remove(of);
        owner.stop(&topic);
        self.names.remove(of);
    }

    /// A topic is gone: somebody deleted it. Its next one is read from its start, when there is one.
    pub(crate) fn lost(&mut self, topic: &str, owner: &mut Owner) {
        owner.stop(topic);
        if let Some(input) = self.inputs.remove(topic) {
            self.gone.insert(input.of);
        }
    }

    /// Reads the topics that were gone and are there again.
    pub(crate) async fn search_gone(&mut self, owner: &mut Owner) {
        for of in self.gone.clone() {
            if let Err(error) = self.start(&of, owner).await {
                warn!(topic = %of, %error, "a topic cannot be read; it is tried again");
            }
        }
    }

    /// The slots of the records before `low` that are young enough to be repeated.
    async fn refill(&mut self, topic: &Arc<str>, incarnation: u64, low: u64, owner: &mut Owner) -> Result<(), Error> {
        let partition = self.shard.partition;
        let last = self.log.read(topic, partition, low - 1, 1).await?;
        let Some(at) = last.records.first().map(|record| record.time) else { return Ok(()) };
        let mut next = self.log.find(topic, partition, at.before(REPEAT_WINDOW_MS)).await?;
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
                let headers = headers(record.headers);
                if headers.iter().any(|(header, _)| header == name::SLOT) {
                    owner.found(Envelope::read(&headers, &topic, 0, partition, record.offset).slot);
                }
            }
            next = fetched.next;
        }
        Ok(())
    }

    /// What a topic that is read is for, and which of its name it is.
    pub(crate) fn input(&self, topic: &str) -> Option<(&TopicOf, u64)> {
        self.inputs.get(topic).map(|input| (&input.of, input.incarnation))
    }

    /// Topics that are read.
    pub fn inputs(&self) -> impl Iterator<Item = (&Arc<str>, &TopicOf)> {
        self.inputs.iter().map(|(topic, input)| (topic, &input.of))
    }

    fn name(&mut self, of: &TopicOf) -> Arc<str> {
        if let Some(name) = self.names.get(of) {
            return Arc::clone(name);
        }
        let name: Arc<str> = self.topics.name(of).into();
        self.names.insert(of.clone(), Arc::clone(&name));
        name
    }

    /// Writes emissions; [`Happened::Acked`] says what became of them. What the disk refuses is tried again.
    pub(crate) fn write(&mut self, emissions: Vec<Emission>) {
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
    pub(crate) async fn next(&mut self) -> Happened {
        tokio::select! {
            Some((id, outcome)) = self.acks.next(), if !self.acks.is_empty() => Happened::Acked(id, outcome),
            (stored, outcome) = wait(&mut self.committing) => {
                self.committing = None;
                let Err(error) = outcome else {
                    let lows = stored.into_iter().map(|progress| {
                        (progress.checkpoint.topic, (Some(progress.incarnation), progress.checkpoint.low))
                    });
                    self.committed.extend(lows);
                    return Happened::Committed;
                };
                let (group, partition) = (self.group, self.shard.partition);
                warn!(group, partition, %error, "progress cannot be stored; it is tried again");
                Happened::NotCommitted(stored.into_iter().map(|progress| progress.checkpoint).collect())
            }
            fetched = self.reader.next() => match fetched {
                Ok(fetched) => Happened::Fetched(fetched),
                Err(Error::NoTopic(topic)) => {
                    let (group, partition) = (self.group, self.shard.partition);
                    info!(group, partition, %topic, "a topic that was read is gone");
                    Happened::Gone(topic)
                }
                Err(error) => {
                    let (group, partition) = (self.group, self.shard.partition);
                    warn!(group, partition, %error, "the log cannot be read; it is tried again");
                    tokio::time::sleep(RETRY_AFTER).await;
                    Happened::NotRead
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
        if !self.is_finishing {
            let topic = self.name(of);
            self.reader.resume(&topic, self.shard.partition);
        }
    }

    /// Reads nothing any more: what comes is the next owner's.
    pub(crate) fn finish(&mut self) {
        self.is_finishing = true;
        for topic in self.inputs.keys() {
            self.reader.pause(topic, self.shard.partition);
        }
    }

    /// Nothing is being written and nothing stored.
    pub(crate) fn is_quiet(&self) -> bool {
        self.acks.is_empty() && self.committing.is_none()
    }

    /// Acknowledgements that are here already.
    pub(crate) fn acks_at_hand(&mut self) -> Vec<(EmissionId, Result<Appended, Error>)> {
        std::iter::from_fn(|| self.acks.next().now_or_never().flatten()).collect()
    }

    /// Begins to store progress, if there is any and none is being stored.
    pub(crate) fn commit(&mut self, owner: &mut Owner) {
        if self.committing.is_some() {
            return;
        }
        let checkpoints = owner.checkpoints().into_iter();
        let progress: Vec<Progress> = checkpoints
            .filter_map(|checkpoint| {
                let incarnation = self.inputs.get(&checkpoint.topic)?.incarnation;
                Some(Progress { checkpoint, incarnation })
            })
            .collect();
        if progress.is_empty() {
            return;
        }
        let (epoch, since) = (self.shard.epoch, owner.since(now()).0);
        let commits = progress.iter().map(|Progress { checkpoint, incarnation }| Commit {
            topic: Arc::clone(&checkpoint.topic),
            partition: self.shard.partition,
            offset: checkpoint.low,
            metadata: format!("epoch={epoch} {SINCE}{since} {OF}{incarnation}"),
        });
        let stored = self.log.commit(self.group, commits.collect());
        self.committing = Some(async move { (progress, stored.await) }.boxed());
    }

    /// Tells the owner what was read of a topic, and what cannot be.
    pub(crate) fn account(&self, owner: &mut Owner, fetched: &Fetched) {
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
async fn wait(committing: &mut Option<Committing>) -> (Vec<Progress>, Result<(), Error>) {
    match committing {
        Some(committing) => committing.await,
        None => std::future::pending().await,
    }
}

/// A record as the core takes it.
pub(crate) fn incoming<'a>(topic: &'a Arc<str>, of: &'a TopicOf, incarnation: u64, record: Record) -> Incoming<'a> {
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

/// In the metadata of a commit: when the oldest record in hand was first read.
const SINCE: &str = "since=";

/// The same: which of the topics that ever had the name.
const OF: &str = "of=";

fn value_of(metadata: &str, name: &str) -> Option<u64> {
    metadata.split(' ').find_map(|word| word.strip_prefix(name))?.parse().ok()
}
