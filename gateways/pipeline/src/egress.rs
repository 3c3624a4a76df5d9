//! Reads the outputs of all pipelines as they come, and wakes whoever waits here.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use dataflow_core::Envelope;
use domain::{End, PipelineName, TopicOf, Topics};
use runtime::Stop;
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;
use topic_log::{Error, Log, NewTopic, Reader, Record};
use tracing::{info, warn};

use crate::pending::Pending;

/// Outputs whose topic is gone are looked for this often.
const SEARCH_EVERY: Duration = Duration::from_secs(1);

/// What cannot be read is tried again after this long.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// Outputs to be read from now on, or not any more; answered when it is so.
pub(crate) struct Change {
    pub(crate) start: Vec<PipelineName>,
    pub(crate) stop: Vec<PipelineName>,
    pub(crate) partitions: u32,
    pub(crate) done: oneshot::Sender<Result<(), Error>>,
}

pub(crate) struct Egress {
    log: Arc<dyn Log>,
    topics: Topics,
    pending: Pending,
    reader: Box<dyn Reader>,
    read: BTreeMap<PipelineName, (Arc<str>, usize)>,
    /// To be read again as soon as there is another topic of the name.
    gone: BTreeSet<PipelineName>,
}

/// From where a topic is read on.
#[derive(Clone, Copy)]
enum From {
    Start,
    End,
}

impl Egress {
    pub(crate) fn new(log: Arc<dyn Log>, topics: Topics, pending: Pending) -> Self {
        let reader = log.reader();
        Self { log, topics, pending, reader, read: BTreeMap::new(), gone: BTreeSet::new() }
    }

    pub(crate) async fn run(mut self, mut changes: mpsc::Receiver<Change>, stop: Stop) -> Result<(), Infallible> {
        let mut search = tokio::time::interval(SEARCH_EVERY);
        search.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.requested() => return Ok(()),
                _ = search.tick() => self.search_gone().await,
                change = changes.recv() => {
                    let Some(change) = change else { return Ok(()) };
                    let outcome = self.change(&change).await;
                    // Whoever asked may be gone.
                    let _gone = change.done.send(outcome);
                }
                fetched = self.reader.next() => match fetched {
                    Ok(fetched) => {
                        for record in fetched.records {
                            self.wake(&fetched.topic, fetched.partition, record);
                        }
                    }
                    Err(Error::NoTopic(topic)) => self.lost(&topic),
                    Err(error) => {
                        warn!(%error, "outputs of pipelines cannot be read; it is tried again");
                        tokio::time::sleep(RETRY_AFTER).await;
                    }
                },
            }
        }
    }

    fn wake(&self, topic: &str, partition: u32, record: Record) {
        let headers = record.headers.iter().map(|header| (header.name.clone(), header.value.clone())).collect();
        // Only what was written for this place is an answer; a copy of one is foreign and has another root.
        let envelope = Envelope::read(&headers, topic, 0, partition, record.offset);
        if self.pending.waits(envelope.root) {
            self.pending.wake(envelope.root, record);
        }
    }

    async fn change(&mut self, change: &Change) -> Result<(), Error> {
        for name in &change.stop {
            self.gone.remove(name);
            self.stop(name);
        }
        let name = |name: &PipelineName, end| self.topics.name(&TopicOf::Pipeline(name.clone(), end));
        let ends = change.start.iter().flat_map(|of| [End::Inputs, End::Outputs].map(|end| name(of, end)));
        let names = ends.chain([self.topics.name(&TopicOf::Left)]);
        let new = names.map(|name| NewTopic { name: name.into(), partitions: change.partitions });
        self.log.create(new.collect()).await?;
        for of in &change.start {
            if !self.read.contains_key(of) {
                self.start(of, From::End).await?;
            }
        }
        Ok(())
    }

    async fn start(&mut self, of: &PipelineName, from: From) -> Result<(), Error> {
        let topic: Arc<str> = self.topics.name(&TopicOf::Pipeline(of.clone(), End::Outputs)).into();
        let Some(known) = self.log.topics(&topic).await?.into_iter().find(|known| known.name == topic) else {
            return Err(Error::NoTopic(topic));
        };
        for (partition, bounds) in (0_u32..).zip(&known.partitions) {
            let from = match from {
                From::Start => bounds.start,
                From::End => bounds.end,
            };
            self.reader.assign(&topic, partition, from)?;
        }
        self.gone.remove(of);
        self.read.insert(of.clone(), (topic, known.partitions.len()));
        Ok(())
    }

    fn stop(&mut self, name: &PipelineName) {
        if let Some((topic, partitions)) = self.read.remove(name) {
            (0_u32..).take(partitions).for_each(|partition| self.reader.unassign(&topic, partition));
        }
    }

    /// Somebody deleted a topic that is read.
    fn lost(&mut self, topic: &str) {
        let name = self.read.iter().find(|(_, (known, _))| **known == *topic).map(|(name, _)| name.clone());
        // One of several partitions has said so before.
        let Some(name) = name else { return };
        info!(pipeline = %name, "the topic of a pipeline's outputs is gone");
        self.stop(&name);
        self.gone.insert(name);
    }

    /// Reads outputs whose topic was gone and is there again. What was answered meanwhile may be waited for.
    async fn search_gone(&mut self) {
        for name in self.gone.clone() {
            match self.start(&name, From::Start).await {
                Ok(()) | Err(Error::NoTopic(_)) => {}
                Err(error) => warn!(pipeline = %name, %error, "outputs cannot be read; it is tried again"),
            }
        }
    }
}
