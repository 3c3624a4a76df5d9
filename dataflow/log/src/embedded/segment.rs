//! Files of the sequence: `<id>.log` with records, `<id>.idx` with the positions in a sealed one.
//!
//! Index: for each partition its positions as u32, then a directory of 28 bytes for each partition (number u64, count
//! u32, first offset u64, place of its positions u64), then a footer (place of the directory u64, entries u32, CRC-32C
//! of the directory u32, newest time u64). An index that is missing or wrong is made again from the records.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, RwLock};

use tracing::warn;

use super::encode::{HEAD, Head, u32_at, u64_at, zeroed};
use super::partition::Run;
use super::{ByNumber, read_lock, write_lock};
use crate::Error;

const ENTRY: usize = 28;
const FOOTER: usize = 24;

/// A segment is read in pieces of this size when its records are counted.
const SCAN_BYTES: u64 = 1 << 20;

/// Positions are 32 bits wide.
pub(super) const SEGMENT_LARGEST: u64 = u32::MAX as u64;

pub(super) struct Segment {
    pub(super) id: u32,
    pub(super) file: File,
    pub(super) index: OnceLock<File>,
    pub(super) newest: AtomicU64,
    pub(super) bytes: AtomicU64,
}

impl Segment {
    pub(super) fn open(folder: &Path, id: u32) -> Result<Arc<Self>, Error> {
        let path = path(folder, id, "log");
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(Error::io(format!("open {}", path.display())))?;
        Ok(Arc::new(Self { id, file, index: OnceLock::new(), newest: AtomicU64::new(0), bytes: AtomicU64::new(0) }))
    }

    /// Positions of a run, from an offset on.
    pub(super) fn positions(&self, run: &Run, from: u64, most: usize) -> Result<Vec<u32>, Error> {
        let doing = || format!("read the index of segment {}", self.id);
        let left = usize::try_from(run.end().saturating_sub(from)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; left.min(most) * 4];
        let index = self.index.get().ok_or_else(|| Error::io(doing())(std::io::ErrorKind::NotFound.into()))?;
        index.read_exact_at(&mut bytes, run.at + (from - run.first) * 4).map_err(Error::io(doing()))?;
        Ok(bytes.chunks_exact(4).filter_map(|chunk| u32_at(chunk, 0)).collect())
    }
}

/// All segments, oldest first; the last one is written to.
pub(super) struct Segments {
    folder: PathBuf,
    list: RwLock<VecDeque<Arc<Segment>>>,
}

impl Segments {
    pub(super) fn get(&self, id: u32) -> Option<Arc<Segment>> {
        let list = read_lock(&self.list);
        let first = list.front()?.id;
        list.get(usize::try_from(id.checked_sub(first)?).ok()?).cloned()
    }

    pub(super) fn push(&self, segment: Arc<Segment>) {
        write_lock(&self.list).push_back(segment);
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn bytes(&self) -> u64 {
        read_lock(&self.list).iter().map(|segment| segment.bytes.load(Ordering::Relaxed)).sum()
    }

    /// The oldest, unless it is written to or not sealed yet.
    pub(super) fn oldest(&self) -> Option<Arc<Segment>> {
        let list = read_lock(&self.list);
        list.front().filter(|segment| list.len() > 1 && segment.index.get().is_some()).cloned()
    }

    pub(super) fn remove_oldest(&self) -> Result<(), Error> {
        let Some(gone) = write_lock(&self.list).pop_front() else { return Ok(()) };
        for extension in ["idx", "log"] {
            let path = path(&self.folder, gone.id, extension);
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io(format!("remove {}", path.display()))(error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn path(folder: &Path, id: u32, extension: &str) -> PathBuf {
    folder.join(format!("{id:010}.{extension}"))
}

pub(super) struct Opened {
    pub(super) segments: Segments,
    pub(super) active: Arc<Segment>,
    /// Numbers of partitions with records in the active segment.
    pub(super) touched: Vec<u64>,
}

/// Opens all segments and tells the partitions where their records are.
pub(super) fn open(folder: &Path, partitions: &ByNumber) -> Result<Opened, Error> {
    let doing = || format!("list {}", folder.display());
    let mut ids = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io(doing()))? {
        let name = entry.map_err(Error::io(doing()))?.file_name();
        let id = name.to_str().and_then(|name| name.strip_suffix(".log")).and_then(|id| id.parse::<u32>().ok());
        ids.extend(id);
    }
    ids.sort_unstable();
    // The sequence has no holes; whoever took a file away has to decide what that means.
    let first = ids.first().copied().unwrap_or(0);
    let whole = ids.iter().zip(first..).take_while(|(id, expected)| *id == expected).count();
    if let Some(stray) = ids.get(whole) {
        return Err(Error::io(format!("open {}: segment {} is missing", folder.display(), stray - 1))(
            std::io::ErrorKind::NotFound.into(),
        ));
    }
    if ids.is_empty() {
        ids.push(0);
    }
    let last = ids.last().copied().unwrap_or(0);
    let mut list = VecDeque::new();
    let mut touched = Vec::new();
    for id in ids {
        let segment = Segment::open(folder, id)?;
        let length = segment.file.metadata().map_err(Error::io(doing()))?.len();
        segment.bytes.store(length, Ordering::Relaxed);
        let indexed = id != last && load_index(folder, &segment, partitions).is_some();
        if !indexed {
            let (numbers, whole) = scan(&segment, length, partitions)?;
            if whole < length && id == last {
                warn!(
                    segment = id,
                    kept = whole,
                    cut = length - whole,
                    "the last segment ends in a torn record; it is cut off"
                );
                segment.file.set_len(whole).map_err(Error::io(format!("cut segment {id}")))?;
                segment.bytes.store(whole, Ordering::Relaxed);
            } else if whole < length {
                warn!(
                    segment = id,
                    at = whole,
                    lost = length - whole,
                    "a segment is damaged; what comes after is lost"
                );
            }
            if id == last {
                touched = numbers;
            } else {
                write_index(folder, &segment, &numbers, partitions)?;
            }
        }
        list.push_back(segment);
    }
    let active = list.back().cloned().ok_or(Error::Closed)?;
    Ok(Opened { segments: Segments { folder: folder.to_owned(), list: RwLock::new(list) }, active, touched })
}

fn load_index(folder: &Path, segment: &Segment, partitions: &ByNumber) -> Option<()> {
    let file = File::open(path(folder, segment.id, "idx")).ok()?;
    let length = file.metadata().ok()?.len();
    let mut footer = [0; FOOTER];
    file.read_exact_at(&mut footer, length.checked_sub(FOOTER as u64)?).ok()?;
    let (at, entries) = (u64_at(&footer, 0)?, u32_at(&footer, 8)?);
    if at.checked_add(u64::from(entries) * ENTRY as u64)?.checked_add(FOOTER as u64)? != length {
        return None;
    }
    let mut directory = vec![0; entries as usize * ENTRY];
    file.read_exact_at(&mut directory, at).ok()?;
    if crc32c::crc32c(&directory) != u32_at(&footer, 12)? {
        return None;
    }
    for entry in directory.chunks_exact(ENTRY) {
        let (number, count) = (u64_at(entry, 0)?, u32_at(entry, 8)?);
        let run = Run { segment: segment.id, count, first: u64_at(entry, 12)?, at: u64_at(entry, 20)? };
        if let Some(partition) = partitions.get(number) {
            partition.with(|state| {
                state.next = run.end().max(state.next);
                state.runs.push_back(run);
            });
        }
    }
    segment.newest.store(u64_at(&footer, 16)?, Ordering::Relaxed);
    segment.index.set(file).ok()
}

/// Reads records until the first that is not whole; gives whom they belong to and how many bytes are whole.
fn scan(segment: &Segment, length: u64, partitions: &ByNumber) -> Result<(Vec<u64>, u64), Error> {
    let doing = || format!("read segment {}", segment.id);
    let mut touched = Vec::new();
    let (mut position, mut buffer, mut start) = (0_u64, zeroed(0), 0_u64);
    // Gives the file's bytes [position, position + need), if there are so many.
    let mut slice = |position: u64, need: u64| -> Result<Option<Vec<u8>>, Error> {
        if position + need > length {
            return Ok(None);
        }
        if position < start || position + need > start + buffer.len() as u64 {
            let take = need.max(SCAN_BYTES).min(length - position);
            buffer = zeroed(usize::try_from(take).unwrap_or(usize::MAX));
            segment.file.read_exact_at(&mut buffer, position).map_err(Error::io(doing()))?;
            start = position;
        }
        let at = usize::try_from(position - start).unwrap_or(usize::MAX);
        let need = usize::try_from(need).unwrap_or(usize::MAX);
        Ok(buffer.get(at..at + need).map(<[u8]>::to_vec))
    };
    while let Some(head_bytes) = slice(position, HEAD as u64)? {
        let Some(head) = Head::decode(&head_bytes) else { break };
        let Some(body) = slice(position + HEAD as u64, head.body.into())? else { break };
        if !head.is_of(&head_bytes, &body) {
            break;
        }
        let Ok(place) = u32::try_from(position) else { break };
        if let Some(partition) = partitions.get(head.partition) {
            let first = partition.with(|state| {
                // Records that were cut off an earlier segment leave a gap; the next offset is what the record says.
                state.next = head.offset;
                state.push(segment.id, place)
            });
            if first {
                touched.push(head.partition);
            }
        }
        segment.newest.fetch_max(head.time.0, Ordering::Relaxed);
        position += head.len();
    }
    Ok((touched, position))
}

/// Writes the index of a segment that gets no more records, and moves its positions there.
pub(super) fn write_index(
    folder: &Path,
    segment: &Segment,
    touched: &[u64],
    partitions: &ByNumber,
) -> Result<(), Error> {
    let doing = || format!("write the index of segment {}", segment.id);
    let (mut bytes, mut directory, mut runs) = (Vec::new(), Vec::new(), Vec::new());
    for number in touched {
        let Some(partition) = partitions.get(*number) else { continue };
        let tail = partition.with(|state| state.tails.iter().find(|tail| tail.segment == segment.id).cloned());
        let Some(tail) = tail else { continue };
        let count = u32::try_from(tail.positions.len()).unwrap_or(u32::MAX);
        let run = Run { segment: segment.id, count, first: tail.first, at: bytes.len() as u64 };
        tail.positions.iter().for_each(|position| bytes.extend_from_slice(&position.to_le_bytes()));
        directory.extend_from_slice(&number.to_le_bytes());
        directory.extend_from_slice(&count.to_le_bytes());
        directory.extend_from_slice(&run.first.to_le_bytes());
        directory.extend_from_slice(&run.at.to_le_bytes());
        runs.push((*number, run));
    }
    let at = bytes.len() as u64;
    bytes.extend_from_slice(&directory);
    bytes.extend_from_slice(&at.to_le_bytes());
    bytes.extend_from_slice(&u32::try_from(runs.len()).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(&directory).to_le_bytes());
    bytes.extend_from_slice(&segment.newest.load(Ordering::Relaxed).to_le_bytes());
    let (draft, final_path) = (path(folder, segment.id, "idx.draft"), path(folder, segment.id, "idx"));
    std::fs::write(&draft, &bytes).map_err(Error::io(doing()))?;
    std::fs::rename(&draft, &final_path).map_err(Error::io(doing()))?;
    let file = File::open(&final_path).map_err(Error::io(doing()))?;
    let _set_once = segment.index.set(file);
    for (number, run) in runs {
        if let Some(partition) = partitions.get(number) {
            partition.with(|state| state.seal(run));
        }
    }
    Ok(())
}
