//! Appending: one writer at a time, one sequence of bytes.
//!
//! A write that fails leaves the writer where it was: the next record overwrites what it left.

use std::cell::RefCell;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

use domain::Time;
use tracing::error;

use super::segment::{self, SEGMENT_LARGEST, Segment};
use super::{ByNumber, Inner, encode, lock, read_lock};
use crate::{Append, Appended, Error};

pub(super) struct Writer {
    active: Arc<Segment>,
    position: u64,
    touched: Vec<u64>,
    /// Time of the newest record: stamps never go back.
    newest: u64,
}

/// A segment that gets no more records, and whose records are in it.
pub(super) struct Closed {
    segment: Arc<Segment>,
    touched: Vec<u64>,
}

impl Writer {
    pub(super) fn new(active: Arc<Segment>, touched: Vec<u64>) -> Self {
        let position = active.bytes.load(Ordering::Relaxed);
        let newest = active.newest.load(Ordering::Relaxed);
        Self { active, position, touched, newest }
    }
}

impl Inner {
    pub(super) fn append(&self, topic: &str, partition: u32, record: &Append) -> Result<Appended, Error> {
        thread_local!(static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) });
        let bytes = record.bytes();
        if bytes > self.settings.record_bytes || record.headers.len() > encode::HEADERS_MAX {
            return Err(Error::TooLarge { bytes, limit: self.settings.record_bytes });
        }
        let topic = self.topic(topic)?;
        let partition = topic.partition(partition)?;
        BUFFER.with_borrow_mut(|buffer| {
            let checksum = encode::body(record, buffer);
            let appended = {
                let mut writer = lock(&self.writer);
                let length = buffer.len() as u64;
                let limit = self.settings.segment_bytes.min(SEGMENT_LARGEST - length);
                if writer.position > 0 && writer.position + length > limit {
                    self.roll(&mut writer)?;
                }
                let time = Time((self.settings.clock)().0.max(writer.newest));
                partition.with(|state| {
                    if state.is_closed() {
                        return Err(Error::NoTopic(Arc::clone(&topic.name)));
                    }
                    let offset = state.next;
                    encode::head(buffer, checksum, partition.number, offset, time);
                    let written = writer.active.file.write_all_at(buffer, writer.position);
                    written.map_err(Error::io(format!("write segment {}", writer.active.id)))?;
                    // Below the limit of a segment, see above.
                    let place = u32::try_from(writer.position).unwrap_or(u32::MAX);
                    if state.push(writer.active.id, place) {
                        writer.touched.push(partition.number);
                    }
                    writer.position += length;
                    writer.newest = time.0;
                    writer.active.bytes.store(writer.position, Ordering::Release);
                    writer.active.newest.store(time.0, Ordering::Relaxed);
                    state.ring();
                    Ok(Appended { offset, time })
                })?
            };
            // One large record does not hold its memory for ever.
            if buffer.capacity() > 1 << 20 {
                buffer.shrink_to(1 << 16);
            }
            Ok(appended)
        })
    }

    /// Goes on in a new segment; a thread writes the index of the old one.
    fn roll(&self, writer: &mut Writer) -> Result<(), Error> {
        let next = Segment::open(self.segments.folder(), writer.active.id + 1)?;
        self.segments.push(Arc::clone(&next));
        let touched = std::mem::take(&mut writer.touched);
        let segment = std::mem::replace(&mut writer.active, Arc::clone(&next));
        writer.position = 0;
        self.sync.rolled(next);
        // Without the thread the index is written when the log is opened again.
        if let Some(sealing) = &*lock(&self.sealing) {
            let _thread_is_gone = sealing.send(Closed { segment, touched });
        }
        Ok(())
    }

    /// The segment that is written to.
    pub(super) fn active(&self) -> Arc<Segment> {
        Arc::clone(&lock(&self.writer).active)
    }
}

/// The thread that writes indexes, away from the writer's lock. Dropped, it has finished.
pub(super) struct Sealer {
    log: Weak<Inner>,
    thread: Option<JoinHandle<()>>,
}

impl Sealer {
    pub(super) fn start(inner: &Arc<Inner>, closed: Receiver<Closed>) -> Result<Self, Error> {
        let log = Arc::downgrade(inner);
        inner.sync.follow(inner.active());
        let seal = {
            let log = log.clone();
            move || seal_all(&log, closed)
        };
        let thread = std::thread::Builder::new().name("log-sealer".into()).spawn(seal);
        let thread = thread.map_err(Error::io("start the thread that writes indexes"))?;
        Ok(Self { log, thread: Some(thread) })
    }
}

impl Drop for Sealer {
    fn drop(&mut self) {
        if let Some(inner) = self.log.upgrade() {
            lock(&inner.sealing).take();
        }
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed; the indexes are made again when the log is opened.
            let _panicked = thread.join();
        }
    }
}

fn seal_all(log: &Weak<Inner>, closed: Receiver<Closed>) {
    for Closed { segment, touched } in closed {
        let Some(inner) = log.upgrade() else { return };
        let partitions = ByNumber::new(&read_lock(&inner.topics));
        if let Err(error) = segment::write_index(inner.segments.folder(), &segment, &touched, &partitions) {
            // Its positions stay in memory; it is tried again when the log is opened.
            error!(segment = segment.id, %error, "the index of a segment cannot be written");
        }
    }
}
