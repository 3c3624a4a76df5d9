//! What a log does, whoever does it. Calls are in Kafka's words, so that Kafka can do it, too.

use std::sync::Arc;

use domain::Time;
use futures_util::future::BoxFuture;

use crate::{Append, Appended, Error, Record};

/// A topic that there should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTopic {
    /// At most [`domain::TOPIC_LONGEST`] bytes.
    pub name: Arc<str>,
    /// How many it gets; one that exists keeps its own.
    pub partitions: u32,
}

/// First offset that is kept, and the one that the next record gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// First that is kept.
    pub start: u64,
    /// One after the last.
    pub end: u64,
}

/// A topic that there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: Arc<str>,
    /// Another one for each topic that ever had the name.
    pub incarnation: u64,
    /// By number.
    pub partitions: Vec<Bounds>,
}

/// Progress of a group in one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Which topic.
    pub topic: Arc<str>,
    /// Which partition of it.
    pub partition: u32,
    /// Everything below is done.
    pub offset: u64,
    /// What the group wants to know again.
    pub metadata: String,
}

/// Some records of one partition, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Which topic.
    pub topic: Arc<str>,
    /// Which partition of it.
    pub partition: u32,
    /// One or more, unless some were lost.
    pub records: Vec<Record>,
    /// Offset of the next record to read.
    pub next: u64,
    /// Records that are not there any more or cannot be read, among those below `next`.
    pub lost: u64,
    /// Where the partition ended when it was read.
    pub end: u64,
}

/// Topics with partitions. All calls may be made from any task at any time.
pub trait Log: Send + Sync + 'static {
    /// Makes the topics that do not exist. All of them are there when it returns without an error.
    fn create(&self, topics: Vec<NewTopic>) -> BoxFuture<'_, Result<(), Error>>;

    /// Deletes topics with everything in them and every offset committed for them. Unknown ones are fine.
    fn delete(&self, topics: Vec<Arc<str>>) -> BoxFuture<'_, Result<(), Error>>;

    /// Topics whose names begin with the prefix, in order of their names.
    fn topics<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<Topic>, Error>>;

    /// Appends one record. It is in the log, or will be, in the order of the calls for one partition; the future says
    /// when it is as safe as the log promises. Dropping the future takes nothing back.
    fn append(&self, topic: &str, partition: u32, record: Append) -> BoxFuture<'static, Result<Appended, Error>>;

    /// Reads records from an offset on, at least one unless there is none, at most about so many bytes.
    fn read(&self, topic: &str, partition: u32, from: u64, bytes: usize) -> BoxFuture<'static, Result<Fetched, Error>>;

    /// First offset whose record is not older than that; the end if there is none.
    fn find(&self, topic: &str, partition: u32, time: Time) -> BoxFuture<'static, Result<u64, Error>>;

    /// What is kept of a partition.
    fn bounds(&self, topic: &str, partition: u32) -> BoxFuture<'static, Result<Bounds, Error>>;

    /// A reader of many partitions, with none assigned.
    fn reader(&self) -> Box<dyn Reader>;

    /// Stores progress of a group, all or nothing.
    fn commit(&self, group: &str, commits: Vec<Commit>) -> BoxFuture<'static, Result<(), Error>>;

    /// All progress of a group in the partitions of that number.
    fn committed(&self, group: &str, partition: u32) -> BoxFuture<'static, Result<Vec<Commit>, Error>>;
}

/// Reads many partitions as their records come, fairly.
pub trait Reader: Send {
    /// Reads this partition, too, from the offset on; from its start if that is gone.
    fn assign(&mut self, topic: &Arc<str>, partition: u32, from: u64) -> Result<(), Error>;

    /// Reads it no longer.
    fn unassign(&mut self, topic: &str, partition: u32);

    /// Gives nothing of this partition until [`Reader::resume`]. What is not assigned cannot be paused.
    fn pause(&mut self, topic: &str, partition: u32);

    /// Goes on where it was paused.
    fn resume(&mut self, topic: &str, partition: u32);

    /// The next records of some partition, when there are any. Cancel-safe: a dropped future loses no record.
    ///
    /// # Errors
    /// [`Error::NoTopic`]: a topic that is read was deleted; its partition is assigned no more, even if there is another
    /// topic of that name by now. Anything else: a partition cannot be read at the moment; the next call tries again.
    fn next(&mut self) -> BoxFuture<'_, Result<Fetched, Error>>;

    /// Nothing can be read right now; of paused partitions nothing is known.
    fn is_caught_up(&self) -> bool;
}
