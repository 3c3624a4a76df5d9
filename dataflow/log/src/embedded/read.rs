//! Reading by offset and by time.

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::BytesMut;
use domain::Time;
use tracing::error;

use super::encode::{self, HEAD, Head, zeroed};
use super::partition::{Found, Partition};
use super::segment::Segment;
use super::{Inner, TopicState};
use crate::{Error, Fetched, Record};

/// Most records of one call.
const RECORDS_MAX: usize = 1_000;

/// Read at once for one record: most are smaller.
const GUESS: usize = 4_096;

/// A segment, an offset, and places in the segment of the records from that offset on.
type Places = (Arc<Segment>, u64, Vec<u32>);

impl Inner {
    pub(super) fn fetch(
        &self,
        topic: &Arc<TopicState>,
        partition: u32,
        from: u64,
        bytes: usize,
    ) -> Result<Fetched, Error> {
        let mut fetched =
            Fetched { topic: Arc::clone(&topic.name), partition, records: Vec::new(), next: from, lost: 0, end: 0 };
        let (partition, mut taken) = (topic.partition(partition)?, 0);
        let end = partition.bounds().end;
        fetched.end = end;
        // More than there is was committed: the end of the log was lost.
        fetched.next = from.min(end);
        while fetched.next < end && taken < bytes && fetched.records.len() < RECORDS_MAX {
            let Some((segment, first, positions)) = self.positions(partition, fetched.next)? else {
                // Retention was faster.
                let start = partition.bounds().start;
                if start <= fetched.next {
                    break;
                }
                fetched.lost += start - fetched.next;
                fetched.next = start;
                continue;
            };
            fetched.lost += first - fetched.next;
            fetched.next = first;
            for position in positions {
                if taken >= bytes || fetched.records.len() >= RECORDS_MAX {
                    break;
                }
                match read_record(&segment, position, partition.number, fetched.next)? {
                    Some(record) => {
                        taken += record.value.len() + HEAD;
                        fetched.records.push(record);
                    }
                    None => {
                        error!(topic = %fetched.topic, offset = fetched.next, segment = segment.id, "a record of the log is damaged");
                        fetched.lost += 1;
                    }
                }
                fetched.next += 1;
            }
        }
        Ok(fetched)
    }

    /// Where the records from an offset on are.
    fn positions(&self, partition: &Partition, from: u64) -> Result<Option<Places>, Error> {
        match partition.locate(from, RECORDS_MAX) {
            None => Ok(None),
            Some(Found::Tail { segment, first, positions }) => {
                Ok(self.segments.get(segment).map(|segment| (segment, first, positions)))
            }
            Some(Found::Run { run, from }) => {
                let Some(segment) = self.segments.get(run.segment) else {
                    // The segment is gone, its runs go now.
                    let oldest = self.segments.oldest().map_or(run.segment + 1, |oldest| oldest.id);
                    partition.with(|state| state.forget_before(oldest.max(run.segment + 1)));
                    return Ok(None);
                };
                let positions = segment.positions(&run, from, RECORDS_MAX)?;
                Ok(Some((segment, from, positions)))
            }
        }
    }

    pub(super) fn find(&self, partition: &Partition, time: Time) -> Result<u64, Error> {
        // Times never go back, so the first segment that is new enough has it.
        let (mut low, mut high) = partition.with(|state| {
            let is_older = |segment: u32| {
                let segment = self.segments.get(segment);
                segment.is_none_or(|segment| segment.newest.load(Ordering::Relaxed) < time.0)
            };
            let at = state.runs.partition_point(|run| is_older(run.segment));
            let run = state.runs.get(at).map(|run| (run.first, run.end()));
            let tail = || state.tails.iter().find(|tail| !is_older(tail.segment)).map(|tail| (tail.first, tail.end()));
            run.or_else(tail).unwrap_or((state.next, state.next))
        });
        while low < high {
            let middle = low + (high - low) / 2;
            match self.time_at(partition, middle)? {
                Some(at) if at < time => low = middle + 1,
                _ => high = middle,
            }
        }
        Ok(low)
    }

    fn time_at(&self, partition: &Partition, offset: u64) -> Result<Option<Time>, Error> {
        let Some((segment, first, positions)) = self.positions(partition, offset)? else { return Ok(None) };
        let Some(position) = positions.first().filter(|_| first == offset) else { return Ok(None) };
        let mut head = [0; HEAD];
        let read = segment.file.read_exact_at(&mut head, u64::from(*position));
        read.map_err(Error::io(format!("read segment {}", segment.id)))?;
        Ok(Head::decode(&head).map(|head| head.time))
    }
}

/// The record at a place; `None` if what is there is another one or damaged.
fn read_record(segment: &Segment, position: u32, partition: u64, offset: u64) -> Result<Option<Record>, Error> {
    let position = u64::from(position);
    let written = segment.bytes.load(Ordering::Acquire).saturating_sub(position);
    let guess = usize::try_from(written).unwrap_or(usize::MAX).min(GUESS);
    let Some(mut bytes) = read_at(segment, position, guess)? else { return Ok(None) };
    let Some(head) = Head::decode(&bytes) else { return Ok(None) };
    if head.partition != partition || head.offset != offset || head.len() > written {
        return Ok(None);
    }
    let length = usize::try_from(head.len()).unwrap_or(usize::MAX);
    if length > bytes.len() {
        let Some(whole) = read_at(segment, position, length)? else { return Ok(None) };
        bytes = whole;
    }
    bytes.truncate(length);
    let body = bytes.split_off(HEAD);
    if !head.is_of(&bytes, &body) {
        return Ok(None);
    }
    Ok(encode::record(offset, head.time, body.freeze()))
}

/// Bytes of the file; `None` if it is shorter.
fn read_at(segment: &Segment, position: u64, length: usize) -> Result<Option<BytesMut>, Error> {
    let mut bytes = zeroed(length);
    match segment.file.read_exact_at(&mut bytes, position) {
        Ok(()) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(Error::io(format!("read segment {}", segment.id))(error)),
    }
}
