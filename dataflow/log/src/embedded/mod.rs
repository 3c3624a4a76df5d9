//! The log in files of this machine: one sequence of segments for all partitions (DESIGN §5).
//!
//! A record is visible as soon as it is appended, and it survives the death of the process. With [`Durability::Disk`] an
//! append is acknowledged only when the disk has it, so that it survives a power cut, too; a cut loses a suffix of the
//! sequence, never something in the middle.
//!
//! Invariants: a partition's positions are in its runs (sealed segments) and tails (segments not sealed yet), dense and
//! in the order of their offsets; the writer's lock is taken before a partition's, never after.

mod catalog;
mod encode;
mod partition;
mod read;
mod reader;
mod retention;
mod segment;
mod sync;
mod write;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use domain::Time;
use futures_util::FutureExt;
use futures_util::future::{self, BoxFuture};

use crate::{Append, Appended, Bounds, Commit, Error, Fetched, Log, NewTopic, Reader, Topic};
use catalog::Catalog;
use partition::Partition;
use segment::Segments;
use sync::GroupSync;
use write::Writer;

/// When an append counts as safe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// When the system has it: it survives the death of the process.
    #[default]
    Process,
    /// When the disk has it: it survives a power cut.
    Disk,
}

/// How an embedded log is kept.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its folder.
    pub folder: PathBuf,
    /// When an append counts as safe.
    pub durability: Durability,
    /// A segment is closed when the next record would make it larger.
    pub segment_bytes: u64,
    /// Largest record that is taken, in bytes of key, value and headers.
    pub record_bytes: usize,
    /// Segments older than this go.
    pub keep: Duration,
    /// The oldest segments go while all together are larger than this.
    pub keep_bytes: u64,
    /// What is younger than this never goes: readers may have to look at it again (2·W, `spec/delivery.md` §6).
    pub keep_at_least: Duration,
    /// Tells the time in milliseconds since the epoch.
    pub clock: fn() -> Time,
}

impl Settings {
    /// The usual settings, in that folder.
    #[must_use]
    pub fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            durability: Durability::Process,
            segment_bytes: 64 << 20,
            record_bytes: 64 << 20,
            keep: Duration::from_secs(3_600),
            keep_bytes: 1 << 30,
            keep_at_least: Duration::from_secs(240),
            clock: now,
        }
    }
}

fn now() -> Time {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Time(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// A log in one folder. Clones share it; the last one that goes closes it.
#[derive(Clone)]
pub struct Embedded {
    inner: Arc<Inner>,
    _sealer: Arc<write::Sealer>,
}

struct Inner {
    settings: Settings,
    catalog: Catalog,
    topics: RwLock<BTreeMap<Arc<str>, Arc<TopicState>>>,
    segments: Segments,
    writer: Mutex<Writer>,
    sync: Arc<GroupSync>,
    /// Sends closed segments to the thread that writes their indexes.
    sealing: Mutex<Option<std::sync::mpsc::Sender<write::Closed>>>,
    _lock: File,
}

struct TopicState {
    name: Arc<str>,
    incarnation: u64,
    partitions: Box<[Partition]>,
}

impl Embedded {
    /// Opens the log, or makes it. Of a segment that was not written to its end the whole records are kept.
    pub fn open(settings: Settings) -> Result<Self, Error> {
        let folder = settings.folder.clone();
        std::fs::create_dir_all(&folder).map_err(Error::io(format!("make folder {}", folder.display())))?;
        let lock = lock_folder(&folder)?;
        let catalog = Catalog::open(&folder.join("catalog"))?;
        let topics = catalog.topics()?;
        let starts = catalog.starts()?;
        let topics: BTreeMap<Arc<str>, Arc<TopicState>> = topics
            .into_iter()
            .map(|topic| (Arc::clone(&topic.name), Arc::new(TopicState::new(&topic, &starts))))
            .collect();
        let by_number = ByNumber::new(&topics);
        let opened = segment::open(&folder, &by_number)?;
        let sync = Arc::new(GroupSync::start(settings.durability)?);
        let (sealing, closed) = std::sync::mpsc::channel();
        let inner = Arc::new(Inner {
            writer: Mutex::new(Writer::new(opened.active, opened.touched)),
            segments: opened.segments,
            settings,
            catalog,
            topics: RwLock::new(topics),
            sync,
            sealing: Mutex::new(Some(sealing)),
            _lock: lock,
        });
        let sealer = write::Sealer::start(&inner, closed)?;
        Ok(Self { inner, _sealer: Arc::new(sealer) })
    }

    /// Lets go of what is too old or too much. To be called now and then; gives how many bytes went.
    pub fn retain(&self) -> Result<u64, Error> {
        self.inner.retain()
    }

    /// Bytes of all segments.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.inner.segments.bytes()
    }
}

/// Topics by the numbers of their partitions, as segments name them.
struct ByNumber(BTreeMap<u64, Arc<TopicState>>);

impl ByNumber {
    fn new(topics: &BTreeMap<Arc<str>, Arc<TopicState>>) -> Self {
        Self(topics.values().map(|topic| (topic.incarnation, Arc::clone(topic))).collect())
    }

    /// The partition of that number, unless its topic is gone.
    fn get(&self, number: u64) -> Option<&Partition> {
        let (first, topic) = self.0.range(..=number).next_back()?;
        topic.partitions.get(usize::try_from(number - first).ok()?)
    }
}

impl TopicState {
    fn new(topic: &catalog::Entry, starts: &BTreeMap<u64, u64>) -> Self {
        let numbers = topic.first..topic.first + u64::from(topic.partitions);
        let partitions = numbers.map(|number| Partition::new(number, starts.get(&number).copied().unwrap_or(0)));
        Self { name: Arc::clone(&topic.name), incarnation: topic.first, partitions: partitions.collect() }
    }

    fn partition(&self, number: u32) -> Result<&Partition, Error> {
        self.partitions.get(number as usize).ok_or_else(|| Error::NoPartition {
            topic: Arc::clone(&self.name),
            partitions: u32::try_from(self.partitions.len()).unwrap_or(u32::MAX),
            partition: number,
        })
    }
}

impl Inner {
    fn topic(&self, name: &str) -> Result<Arc<TopicState>, Error> {
        read_lock(&self.topics).get(name).cloned().ok_or_else(|| Error::NoTopic(name.into()))
    }

    fn create(&self, topics: &[NewTopic]) -> Result<(), Error> {
        let missing: Vec<NewTopic> = {
            let known = read_lock(&self.topics);
            topics.iter().filter(|topic| !known.contains_key(&topic.name)).cloned().collect()
        };
        if missing.is_empty() {
            return Ok(());
        }
        let mut known = write_lock(&self.topics);
        let missing: Vec<NewTopic> = missing.into_iter().filter(|topic| !known.contains_key(&topic.name)).collect();
        for entry in self.catalog.create(&missing)? {
            known.insert(Arc::clone(&entry.name), Arc::new(TopicState::new(&entry, &BTreeMap::new())));
        }
        Ok(())
    }

    fn delete(&self, names: &[Arc<str>]) -> Result<(), Error> {
        let mut known = write_lock(&self.topics);
        let gone: Vec<Arc<TopicState>> = names.iter().filter_map(|name| known.get(name).cloned()).collect();
        if gone.is_empty() {
            return Ok(());
        }
        self.catalog.delete(gone.iter().map(|topic| (&topic.name, topic.incarnation, topic.partitions.len())))?;
        for topic in gone {
            known.remove(&topic.name);
            topic.partitions.iter().for_each(Partition::close);
        }
        Ok(())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.sync.close();
    }
}

impl Log for Embedded {
    fn create(&self, topics: Vec<NewTopic>) -> BoxFuture<'_, Result<(), Error>> {
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.create(&topics))
    }

    fn delete(&self, topics: Vec<Arc<str>>) -> BoxFuture<'_, Result<(), Error>> {
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.delete(&topics))
    }

    fn topics<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<Topic>, Error>> {
        let topics = read_lock(&self.inner.topics);
        let listed = topics.range(Arc::<str>::from(prefix)..).take_while(|(name, _)| name.starts_with(prefix));
        let listed = listed.map(|(name, topic)| Topic {
            name: Arc::clone(name),
            incarnation: topic.incarnation,
            partitions: topic.partitions.iter().map(Partition::bounds).collect(),
        });
        future::ready(Ok(listed.collect())).boxed()
    }

    fn append(&self, topic: &str, partition: u32, record: Append) -> BoxFuture<'static, Result<Appended, Error>> {
        match self.inner.append(topic, partition, &record) {
            Ok(appended) => {
                let synced = self.inner.sync.wait();
                async move { synced.await.map(|()| appended) }.boxed()
            }
            Err(error) => future::ready(Err(error)).boxed(),
        }
    }

    fn read(&self, topic: &str, partition: u32, from: u64, bytes: usize) -> BoxFuture<'static, Result<Fetched, Error>> {
        // From the page cache as a rule: cheaper than a change of threads.
        future::ready(self.inner.topic(topic).and_then(|topic| self.inner.fetch(&topic, partition, from, bytes)))
            .boxed()
    }

    fn find(&self, topic: &str, partition: u32, time: Time) -> BoxFuture<'static, Result<u64, Error>> {
        let topic = self.inner.topic(topic);
        future::ready(topic.and_then(|topic| self.inner.find(topic.partition(partition)?, time))).boxed()
    }

    fn bounds(&self, topic: &str, partition: u32) -> BoxFuture<'static, Result<Bounds, Error>> {
        let bounds = self.inner.topic(topic).and_then(|topic| Ok(topic.partition(partition)?.bounds()));
        future::ready(bounds).boxed()
    }

    fn reader(&self) -> Box<dyn Reader> {
        Box::new(reader::EmbeddedReader::new(Arc::clone(&self.inner)))
    }

    fn commit(&self, group: &str, commits: Vec<Commit>) -> BoxFuture<'static, Result<(), Error>> {
        let (inner, group) = (Arc::clone(&self.inner), group.to_owned());
        blocking(move || inner.catalog.commit(&group, &commits))
    }

    fn committed(&self, group: &str, partition: u32) -> BoxFuture<'static, Result<Vec<Commit>, Error>> {
        let (inner, group) = (Arc::clone(&self.inner), group.to_owned());
        blocking(move || inner.catalog.committed(&group, partition))
    }
}

/// Runs work that waits for the disk where it may.
fn blocking<'a, T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> BoxFuture<'a, Result<T, Error>> {
    let running = tokio::task::spawn_blocking(work);
    async move { running.await.unwrap_or(Err(Error::Closed)) }.boxed()
}

/// One process has the folder.
fn lock_folder(folder: &Path) -> Result<File, Error> {
    let path = folder.join("lock");
    let doing = || format!("lock {}; is it another process's?", path.display());
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(Error::io(doing()))?;
    let locked = rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive);
    locked.map_err(|errno| Error::io(doing())(errno.into()))?;
    Ok(file)
}

// Every change under these locks is a single step, so what a panicking thread leaves behind is whole.

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read_lock<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write_lock<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
