//! A record as it lies in a segment: a head of fixed size, then the body. All numbers are little-endian.
//!
//! Head: length of the body u32, CRC-32C u32 (over the body, then the rest of the head), partition u64, offset u64, time
//! u64. Body: length of the key u32, count of headers u16, each header as u16 and u32 lengths with name and value, key, value.

use bytes::{Bytes, BytesMut};
use domain::Time;

use crate::{Append, Header, Record};

pub(super) const HEAD: usize = 32;

/// Most headers of one record.
pub(super) const HEADERS_MAX: usize = u16::MAX as usize;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) body: u32,
    crc: u32,
    pub(super) partition: u64,
    pub(super) offset: u64,
    pub(super) time: Time,
}

impl Head {
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            body: u32_at(bytes, 0)?,
            crc: u32_at(bytes, 4)?,
            partition: u64_at(bytes, 8)?,
            offset: u64_at(bytes, 16)?,
            time: Time(u64_at(bytes, 24)?),
        })
    }

    /// Head and body belong together.
    pub(super) fn is_of(&self, head: &[u8], body: &[u8]) -> bool {
        head.len() == HEAD && body.len() == self.body as usize && self.crc == checksum(head, crc32c::crc32c(body))
    }

    /// Bytes of the whole record.
    pub(super) fn len(&self) -> u64 {
        HEAD as u64 + u64::from(self.body)
    }
}

fn checksum(head: &[u8], body: u32) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(body, &head[8..HEAD]), &head[..4])
}

/// Puts the body behind room for a head; gives the checksum of the body.
pub(super) fn body(record: &Append, buffer: &mut Vec<u8>) -> u32 {
    buffer.clear();
    buffer.resize(HEAD, 0);
    // Lengths fit: the caller has checked the size of the record.
    let length = |length: usize| u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
    buffer.extend_from_slice(&length(record.key.len()));
    buffer.extend_from_slice(&u16::try_from(record.headers.len()).unwrap_or(u16::MAX).to_le_bytes());
    for header in &record.headers {
        buffer.extend_from_slice(&u16::try_from(header.name.len()).unwrap_or(u16::MAX).to_le_bytes());
        buffer.extend_from_slice(&length(header.value.len()));
        buffer.extend_from_slice(header.name.as_bytes());
        buffer.extend_from_slice(&header.value);
    }
    buffer.extend_from_slice(&record.key);
    buffer.extend_from_slice(&record.value);
    crc32c::crc32c(&buffer[HEAD..])
}

/// Completes a record that [`body`] began.
pub(super) fn head(buffer: &mut [u8], body_checksum: u32, partition: u64, offset: u64, time: Time) {
    let body = u32::try_from(buffer.len() - HEAD).unwrap_or(u32::MAX);
    buffer[..4].copy_from_slice(&body.to_le_bytes());
    buffer[8..16].copy_from_slice(&partition.to_le_bytes());
    buffer[16..24].copy_from_slice(&offset.to_le_bytes());
    buffer[24..32].copy_from_slice(&time.0.to_le_bytes());
    let crc = checksum(&buffer[..HEAD], body_checksum);
    buffer[4..8].copy_from_slice(&crc.to_le_bytes());
}

/// The record of a body; `None` if the body is none. Its parts share the memory of the body.
pub(super) fn record(offset: u64, time: Time, mut body: Bytes) -> Option<Record> {
    let key = u32_at(&body, 0)? as usize;
    let count = u16_at(&body, 4)?;
    let mut rest = body.split_off(6);
    let mut headers = Vec::with_capacity(count.into());
    for _ in 0..count {
        let (name, value) = (usize::from(u16_at(&rest, 0)?), u32_at(&rest, 2)? as usize);
        if rest.len() < 6 + name + value {
            return None;
        }
        let mut header = rest.split_to(6 + name + value).split_off(6);
        let value = header.split_off(name);
        headers.push(Header { name: String::from_utf8_lossy(&header).into_owned(), value });
    }
    if rest.len() < key {
        return None;
    }
    let value = rest.split_off(key);
    Some(Record { offset, time, key: rest, value, headers })
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|chunk| u32::from_le_bytes(*chunk))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|chunk| u64::from_le_bytes(*chunk))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|chunk| u16::from_le_bytes(*chunk))
}

/// A buffer of that many bytes.
pub(super) fn zeroed(length: usize) -> BytesMut {
    BytesMut::zeroed(length)
}
