//! The shards of a worker: grants begin tasks, revocations end them, and the scheduler hears when they have ended.

use std::collections::{BTreeMap, BTreeSet};

use domain::{Shard, TopicOf};
use tokio::sync::{mpsc, oneshot};

use crate::link::{Connected, Said};

/// Commands that wait for a shard.
const COMMANDS: usize = 64;

/// What the task of a shard is told.
pub(crate) enum Command {
    /// Read these topics, and those no longer; answered when it is so.
    Topics {
        /// To be read.
        start: Vec<TopicOf>,
        /// Not to be read any more.
        stop: Vec<TopicOf>,
        /// Answers.
        done: oneshot::Sender<()>,
    },
    /// Finish what was begun.
    Finish,
}

/// Why the task of a shard ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The shard is finished with.
    Finished,
    /// Everything in hand was dropped, as if another owner had had it.
    StoodStill,
}

/// What a task needs to be one of a shard.
pub(crate) struct Lease {
    /// Which shard.
    pub(crate) shard: Shard,
    /// What it is told.
    pub(crate) commands: mpsc::Receiver<Command>,
    ended: mpsc::Sender<(Shard, End)>,
}

impl Lease {
    /// The task ends.
    pub(crate) async fn end(&self, end: End) {
        // Nobody listens when the process ends.
        let _ending = self.ended.send((self.shard, end)).await;
    }
}

/// All shards that this worker owns.
pub(crate) struct Owned {
    shards: BTreeMap<u32, Entry>,
    ended: mpsc::Sender<(Shard, End)>,
}

struct Entry {
    shard: Shard,
    commands: mpsc::Sender<Command>,
    stream: u64,
    is_leaving: bool,
}

impl Owned {
    /// None yet, and what is heard from their tasks.
    pub(crate) fn new() -> (Self, mpsc::Receiver<(Shard, End)>) {
        let (ended, done) = mpsc::channel(COMMANDS);
        (Self { shards: BTreeMap::new(), ended }, done)
    }

    /// A shard is this worker's from now on. An older task of it ends with its commands.
    pub(crate) fn grant(&mut self, stream: u64, shard: Shard, connected: &Connected) -> Lease {
        let (commands, receiver) = mpsc::channel(COMMANDS);
        self.shards.insert(shard.partition, Entry { shard, commands, stream, is_leaving: false });
        self.tell(connected);
        Lease { shard, commands: receiver, ended: self.ended.clone() }
    }

    /// A shard is to be finished with.
    pub(crate) async fn revoke(&mut self, stream: u64, shard: Shard, connected: &Connected) {
        match self.shards.get_mut(&shard.partition).filter(|entry| entry.shard == shard) {
            Some(entry) => {
                (entry.is_leaving, entry.stream) = (true, stream);
                // One that has ended is heard of.
                let _ended = entry.commands.send(Command::Finish).await;
            }
            None => connected.say(stream, Said::Released(shard)),
        }
    }

    /// A task has ended; gives the lease for another one if the shard is still this worker's.
    pub(crate) fn ended(&mut self, (shard, end): (Shard, End), connected: &Connected) -> Option<Lease> {
        let entry = self.shards.get_mut(&shard.partition).filter(|entry| entry.shard == shard);
        if let Some(entry) = entry.filter(|entry| end == End::StoodStill && !entry.is_leaving) {
            let (commands, receiver) = mpsc::channel(COMMANDS);
            entry.commands = commands;
            return Some(Lease { shard, commands: receiver, ended: self.ended.clone() });
        }
        if self.shards.get(&shard.partition).is_some_and(|entry| entry.shard == shard)
            && let Some(entry) = self.shards.remove(&shard.partition)
        {
            self.tell(connected);
            connected.say(entry.stream, Said::Released(shard));
        }
        None
    }

    /// Tells all tasks what to read, and waits until they do.
    pub(crate) async fn read(&self, start: &BTreeSet<TopicOf>, stop: &BTreeSet<TopicOf>) {
        if start.is_empty() && stop.is_empty() {
            return;
        }
        let mut waits = Vec::new();
        for entry in self.shards.values().filter(|entry| !entry.is_leaving) {
            let (done, wait) = oneshot::channel();
            let (start, stop) = (start.iter().cloned().collect(), stop.iter().cloned().collect());
            if entry.commands.send(Command::Topics { start, stop, done }).await.is_ok() {
                waits.push(wait);
            }
        }
        for wait in waits {
            // A shard that ended reads nothing.
            let _ended = wait.await;
        }
    }

    fn tell(&self, connected: &Connected) {
        connected.set_held(self.shards.values().map(|entry| entry.shard).collect());
    }
}
