//! Topics, committed offsets and the first offsets that are kept, in LMDB. Knows nothing of segments.
//!
//! Partitions have numbers that no other partition ever had: a topic that is deleted and made again gets new ones, so
//! its old records are nobody's.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use heed::types::{Bytes, Str};
use heed::{Database, Env, EnvOpenOptions};

use crate::{Commit, Error, NewTopic};

/// Address space for the file; it grows as it fills. A commit takes about 150 bytes, so this is good for some millions.
const MAP_BYTES: usize = 4 << 30;

/// Key of the next number of a partition.
const NEXT: &str = "next";

/// Longest metadata of a commit that is kept.
const METADATA_LONGEST: usize = 1_000;

pub(super) struct Catalog {
    env: Env,
    /// Name → first number, count of partitions.
    topics: Database<Str, Bytes>,
    /// Group, partition, topic → offset, metadata.
    offsets: Database<Bytes, Bytes>,
    /// Number → next offset, for partitions whose records may all be gone.
    starts: Database<Bytes, Bytes>,
    counters: Database<Str, Bytes>,
}

/// A topic as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: Arc<str>,
    pub(super) first: u64,
    pub(super) partitions: u32,
}

impl Catalog {
    pub(super) fn open(folder: &Path) -> Result<Self, Error> {
        std::fs::create_dir_all(folder).map_err(Error::io(format!("make folder {}", folder.display())))?;
        let mut options = EnvOpenOptions::new();
        options.map_size(MAP_BYTES).max_dbs(8);
        // SAFETY: LMDB maps the file into memory, so nobody else may change it meanwhile. The caller holds the lock of
        // the log's folder, which keeps every other process of ours out, and this process opens it once.
        #[expect(unsafe_code, reason = "LMDB cannot be opened without it; see the SAFETY note")]
        let env = unsafe { options.open(folder) }.map_err(Error::catalog("open"))?;
        let open = || -> Result<Self, heed::Error> {
            let mut writer = env.write_txn()?;
            let catalog = Self {
                topics: env.create_database(&mut writer, Some("topics"))?,
                offsets: env.create_database(&mut writer, Some("offsets"))?,
                starts: env.create_database(&mut writer, Some("starts"))?,
                counters: env.create_database(&mut writer, Some("counters"))?,
                env: env.clone(),
            };
            writer.commit()?;
            Ok(catalog)
        };
        open().map_err(Error::catalog("open"))
    }

    pub(super) fn topics(&self) -> Result<Vec<Entry>, Error> {
        let read = || -> Result<Vec<Entry>, heed::Error> {
            let reader = self.env.read_txn()?;
            let mut entries = Vec::new();
            for entry in self.topics.iter(&reader)? {
                let (name, value) = entry?;
                entries.extend(entry_of(name, value));
            }
            Ok(entries)
        };
        read().map_err(Error::catalog("read topics"))
    }

    /// Stores topics that nobody has; gives them with their numbers.
    pub(super) fn create(&self, topics: &[NewTopic]) -> Result<Vec<Entry>, Error> {
        let write = || -> Result<Vec<Entry>, heed::Error> {
            let mut writer = self.env.write_txn()?;
            let mut next = self.counters.get(&writer, NEXT)?.and_then(number).unwrap_or(0);
            let mut entries = Vec::new();
            for topic in topics {
                let entry = Entry { name: Arc::clone(&topic.name), first: next, partitions: topic.partitions.max(1) };
                let value = [entry.first.to_be_bytes().as_slice(), &entry.partitions.to_be_bytes()].concat();
                self.topics.put(&mut writer, &entry.name, &value)?;
                next += u64::from(entry.partitions);
                entries.push(entry);
            }
            self.counters.put(&mut writer, NEXT, &next.to_be_bytes())?;
            writer.commit()?;
            Ok(entries)
        };
        write().map_err(Error::catalog("store topics"))
    }

    /// Forgets topics (name, first number, partitions), and what was committed for them.
    pub(super) fn delete<'a>(&self, topics: impl Iterator<Item = (&'a Arc<str>, u64, usize)>) -> Result<(), Error> {
        let write = || -> Result<(), heed::Error> {
            let mut writer = self.env.write_txn()?;
            let mut names = std::collections::BTreeSet::new();
            for (name, first, partitions) in topics {
                self.topics.delete(&mut writer, name)?;
                for number in first..first + partitions as u64 {
                    self.starts.delete(&mut writer, &number.to_be_bytes())?;
                }
                names.insert(Arc::clone(name));
            }
            let mut void = Vec::new();
            for entry in self.offsets.iter(&writer)? {
                let (key, _) = entry?;
                if split(key).is_some_and(|(_, _, topic)| names.contains(topic)) {
                    void.push(key.to_vec());
                }
            }
            for key in void {
                self.offsets.delete(&mut writer, &key)?;
            }
            writer.commit()
        };
        write().map_err(Error::catalog("delete topics"))
    }

    pub(super) fn commit(&self, group: &str, commits: &[Commit]) -> Result<(), Error> {
        let write = || -> Result<(), heed::Error> {
            let mut writer = self.env.write_txn()?;
            for commit in commits {
                // A topic that was deleted meanwhile has no progress.
                if self.topics.get(&writer, &commit.topic)?.is_none() {
                    continue;
                }
                let metadata = commit.metadata.get(..METADATA_LONGEST).unwrap_or(&commit.metadata);
                let value = [commit.offset.to_be_bytes().as_slice(), metadata.as_bytes()].concat();
                self.offsets.put(&mut writer, &key(group, commit.partition, &commit.topic), &value)?;
            }
            writer.commit()
        };
        write().map_err(Error::catalog("store offsets"))
    }

    pub(super) fn committed(&self, group: &str, partition: u32) -> Result<Vec<Commit>, Error> {
        self.read_offsets(&key(group, partition, ""), |_, _, topic, offset, metadata| Commit {
            topic: topic.into(),
            partition,
            offset,
            metadata: metadata.to_owned(),
        })
    }

    /// The smallest offset that any group has committed, by topic and partition.
    pub(super) fn lowest(&self) -> Result<BTreeMap<(Arc<str>, u32), u64>, Error> {
        let all = self.read_offsets(&[], |_, partition, topic, offset, _| ((Arc::from(topic), partition), offset))?;
        let mut lowest = BTreeMap::new();
        for (at, offset) in all {
            let low = lowest.entry(at).or_insert(offset);
            *low = offset.min(*low);
        }
        Ok(lowest)
    }

    fn read_offsets<T>(&self, prefix: &[u8], make: impl Fn(&str, u32, &str, u64, &str) -> T) -> Result<Vec<T>, Error> {
        let read = || -> Result<Vec<T>, heed::Error> {
            let reader = self.env.read_txn()?;
            let mut found = Vec::new();
            // LMDB takes no empty prefix.
            let from = if prefix.is_empty() { Bound::Unbounded } else { Bound::Included(prefix) };
            for entry in self.offsets.range(&reader, &(from, Bound::Unbounded))? {
                let (key, value) = entry?;
                if !key.starts_with(prefix) {
                    break;
                }
                let Some(((group, partition, topic), offset)) = split(key).zip(number(value)) else { continue };
                let metadata = std::str::from_utf8(value.get(8..).unwrap_or_default()).unwrap_or_default();
                found.push(make(group, partition, topic, offset, metadata));
            }
            Ok(found)
        };
        read().map_err(Error::catalog("read offsets"))
    }

    /// Next offsets of partitions, by number.
    pub(super) fn starts(&self) -> Result<BTreeMap<u64, u64>, Error> {
        let read = || -> Result<BTreeMap<u64, u64>, heed::Error> {
            let reader = self.env.read_txn()?;
            let mut starts = BTreeMap::new();
            for entry in self.starts.iter(&reader)? {
                let (key, value) = entry?;
                starts.extend(number(key).zip(number(value)));
            }
            Ok(starts)
        };
        read().map_err(Error::catalog("read starts"))
    }

    /// Stores next offsets, before the records that show them go.
    pub(super) fn store_starts(&self, starts: &[(u64, u64)]) -> Result<(), Error> {
        let write = || -> Result<(), heed::Error> {
            let mut writer = self.env.write_txn()?;
            for (number, next) in starts {
                self.starts.put(&mut writer, &number.to_be_bytes(), &next.to_be_bytes())?;
            }
            writer.commit()
        };
        write().map_err(Error::catalog("store starts"))
    }
}

fn number(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk().map(|chunk| u64::from_be_bytes(*chunk))
}

fn entry_of(name: &str, value: &[u8]) -> Option<Entry> {
    let partitions = value.get(8..)?.first_chunk().map(|chunk| u32::from_be_bytes(*chunk))?;
    Some(Entry { name: name.into(), first: number(value)?, partitions })
}

/// `<group> 0 <partition> <topic>`; with an empty topic, what all keys of the group and partition begin with.
fn key(group: &str, partition: u32, topic: &str) -> Vec<u8> {
    [group.as_bytes(), &[0], &partition.to_be_bytes(), topic.as_bytes()].concat()
}

fn split(key: &[u8]) -> Option<(&str, u32, &str)> {
    let end = key.iter().position(|byte| *byte == 0)?;
    let (group, rest) = (key.get(..end)?, key.get(end + 1..)?);
    let partition = u32::from_be_bytes(*rest.first_chunk()?);
    Some((std::str::from_utf8(group).ok()?, partition, std::str::from_utf8(rest.get(4..)?).ok()?))
}
