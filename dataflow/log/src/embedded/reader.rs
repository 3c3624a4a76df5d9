//! Reads many partitions as they get records: each rings a bell, and the reader looks only where it rang.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::Notify;

use super::partition::Partition;
use super::{Inner, TopicState, lock};
use crate::{Error, Fetched, Reader};

/// Read of one partition before the next one has its turn.
const TURN_BYTES: usize = 1 << 20;

/// Which of its partitions a reader should look at.
#[derive(Default)]
pub(super) struct Bell {
    rung: Mutex<Rung>,
    notify: Notify,
}

#[derive(Default)]
struct Rung {
    queue: VecDeque<u32>,
    is_queued: Vec<bool>,
}

impl Bell {
    pub(super) fn ring(&self, number: u32) {
        {
            let mut rung = lock(&self.rung);
            let at = number as usize;
            if rung.is_queued.len() <= at {
                rung.is_queued.resize(at + 1, false);
            }
            if std::mem::replace(&mut rung.is_queued[at], true) {
                return;
            }
            rung.queue.push_back(number);
        }
        self.notify.notify_one();
    }

    fn take(&self) -> Option<u32> {
        let mut rung = lock(&self.rung);
        let number = rung.queue.pop_front()?;
        if let Some(is_queued) = rung.is_queued.get_mut(number as usize) {
            *is_queued = false;
        }
        Some(number)
    }
}

struct Assignment {
    topic: Arc<TopicState>,
    partition: u32,
    next: u64,
    is_paused: bool,
}

pub(super) struct EmbeddedReader {
    inner: Arc<Inner>,
    bell: Arc<Bell>,
    assignments: BTreeMap<u32, Assignment>,
    numbers: BTreeMap<(Arc<str>, u32), u32>,
    free: Vec<u32>,
}

impl EmbeddedReader {
    pub(super) fn new(inner: Arc<Inner>) -> Self {
        Self { inner, bell: Arc::default(), assignments: BTreeMap::new(), numbers: BTreeMap::new(), free: Vec::new() }
    }

    fn set_paused(&mut self, topic: &str, partition: u32, paused: bool) {
        let Some(number) = self.numbers.get(&(Arc::from(topic), partition)).copied() else { return };
        if let Some(assignment) = self.assignments.get_mut(&number) {
            assignment.is_paused = paused;
        }
        if !paused {
            self.bell.ring(number);
        }
    }

    /// Records of the next partition that rang, if there are any.
    fn poll(&mut self) -> Option<Result<Fetched, Error>> {
        while let Some(number) = self.bell.take() {
            let Some(assignment) = self.assignments.get_mut(&number) else { continue };
            // Another topic of its name is another one.
            if assignment.topic.partition(assignment.partition).is_ok_and(Partition::is_closed) {
                let (topic, partition) = (Arc::clone(&assignment.topic.name), assignment.partition);
                self.unassign(&topic, partition);
                return Some(Err(Error::NoTopic(topic)));
            }
            if assignment.is_paused {
                continue;
            }
            match self.inner.fetch(&assignment.topic, assignment.partition, assignment.next, TURN_BYTES) {
                Ok(fetched) if fetched.records.is_empty() && fetched.lost == 0 => assignment.next = fetched.next,
                Ok(fetched) => {
                    assignment.next = fetched.next;
                    // There may be more; others go first.
                    self.bell.ring(number);
                    return Some(Ok(fetched));
                }
                Err(error) => {
                    self.bell.ring(number);
                    return Some(Err(error));
                }
            }
        }
        None
    }
}

impl Reader for EmbeddedReader {
    fn assign(&mut self, topic: &Arc<str>, partition: u32, from: u64) -> Result<(), Error> {
        self.unassign(topic, partition);
        let state = self.inner.topic(topic)?;
        let number = self.free.pop().unwrap_or_else(|| u32::try_from(self.assignments.len()).unwrap_or(u32::MAX));
        state.partition(partition)?.listen(&self.bell, number);
        self.numbers.insert((Arc::clone(topic), partition), number);
        self.assignments.insert(number, Assignment { topic: state, partition, next: from, is_paused: false });
        self.bell.ring(number);
        Ok(())
    }

    fn unassign(&mut self, topic: &str, partition: u32) {
        let Some(number) = self.numbers.remove(&(Arc::from(topic), partition)) else { return };
        if let Some(gone) = self.assignments.remove(&number) {
            if let Ok(partition) = gone.topic.partition(gone.partition) {
                partition.leave(&self.bell, number);
            }
            self.free.push(number);
        }
    }

    fn pause(&mut self, topic: &str, partition: u32) {
        self.set_paused(topic, partition, true);
    }

    fn resume(&mut self, topic: &str, partition: u32) {
        self.set_paused(topic, partition, false);
    }

    fn next(&mut self) -> BoxFuture<'_, Result<Fetched, Error>> {
        async move {
            loop {
                if let Some(fetched) = self.poll() {
                    return fetched;
                }
                // A bell that rang since is remembered.
                let bell = Arc::clone(&self.bell);
                bell.notify.notified().await;
            }
        }
        .boxed()
    }

    fn is_caught_up(&self) -> bool {
        lock(&self.bell.rung).queue.is_empty()
    }
}

impl Drop for EmbeddedReader {
    fn drop(&mut self) {
        for (number, assignment) in &self.assignments {
            if let Ok(partition) = assignment.topic.partition(assignment.partition) {
                partition.leave(&self.bell, *number);
            }
        }
    }
}
