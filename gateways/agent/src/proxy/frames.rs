//! Cuts a stream of bytes into gRPC messages. No sockets and no protobuf in here.
//!
//! Invariant: what is kept of an incomplete message never exceeds its announced length, and that never the limit; it
//! grows with what arrives, not with what is announced.

use bytes::{Buf, Bytes, BytesMut};

/// A flag and a length in front of each message.
pub(crate) const PREFIX: usize = 5;
/// An announced length is believed up to here; beyond it memory grows with what arrives.
const FIRST_CAPACITY: usize = 1 << 20;

/// Bytes that are no messages we pass on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    #[error("the message is compressed; this service offers no encodings (send grpc-encoding: identity)")]
    Compressed,
    #[error("the message has the flag {0}, which gRPC does not know")]
    Flag(u8),
    #[error("the message has {length} bytes, at most {limit} are accepted")]
    TooLarge { length: usize, limit: usize },
    #[error("the stream ends inside a message")]
    Truncated,
}

pub(crate) struct Frames {
    limit: usize,
    chunk: Bytes,
    /// A message of which not all is there, with its prefix.
    partial: BytesMut,
}

impl Frames {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, chunk: Bytes::new(), partial: BytesMut::new() }
    }

    /// Adds what has arrived. The chunk before must have been used up by `next`.
    pub(crate) fn push(&mut self, chunk: Bytes) {
        debug_assert!(self.chunk.is_empty(), "next() was not called until it said None");
        self.chunk = chunk;
    }

    /// The next message that is complete.
    pub(crate) fn next(&mut self) -> Result<Option<Bytes>, Error> {
        if self.partial.is_empty() {
            let Some(length) = self.length(&self.chunk)? else {
                self.keep(self.chunk.len());
                return Ok(None);
            };
            if self.chunk.len() >= PREFIX + length {
                // The usual case: nothing is copied.
                self.chunk.advance(PREFIX);
                return Ok(Some(self.chunk.split_to(length)));
            }
            self.partial.reserve(FIRST_CAPACITY.min(PREFIX + length));
        }
        if self.partial.len() < PREFIX {
            self.keep(PREFIX - self.partial.len());
        }
        let Some(length) = self.length(&self.partial)? else { return Ok(None) };
        self.keep(PREFIX + length - self.partial.len());
        if self.partial.len() < PREFIX + length {
            return Ok(None);
        }
        let mut message = std::mem::take(&mut self.partial).freeze();
        message.advance(PREFIX);
        Ok(Some(message))
    }

    /// Bytes that are kept of an incomplete message.
    pub(crate) fn kept(&self) -> usize {
        self.partial.len()
    }

    /// Whether there is nothing of a message that was not given out.
    pub(crate) fn is_empty(&self) -> bool {
        self.chunk.is_empty() && self.partial.is_empty()
    }

    /// Must be asked when the stream is over.
    pub(crate) fn end(&self) -> Result<(), Error> {
        if self.partial.is_empty() { Ok(()) } else { Err(Error::Truncated) }
    }

    fn keep(&mut self, most: usize) {
        let taken = self.chunk.split_to(most.min(self.chunk.len()));
        self.partial.extend_from_slice(&taken);
    }

    fn length(&self, bytes: &[u8]) -> Result<Option<usize>, Error> {
        let Some(&[flag, ref length @ ..]) = bytes.first_chunk::<PREFIX>() else { return Ok(None) };
        let length = u32::from_be_bytes(*length) as usize;
        match flag {
            0 if length <= self.limit => Ok(Some(length)),
            0 => Err(Error::TooLarge { length, limit: self.limit }),
            1 => Err(Error::Compressed),
            flag => Err(Error::Flag(flag)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(text: &[u8]) -> Vec<u8> {
        let mut frame = vec![0];
        frame.extend_from_slice(&(text.len() as u32).to_be_bytes());
        frame.extend_from_slice(text);
        frame
    }

    #[test]
    fn messages_are_found_however_the_bytes_are_cut() {
        let sent: [&[u8]; 4] = [b"one", b"", b"three and more", b"4"];
        let bytes: Vec<u8> = sent.iter().flat_map(|text| frame(text)).collect();
        for size in 1..=bytes.len() {
            let mut frames = Frames::new(100);
            let mut found = Vec::new();
            for chunk in bytes.chunks(size) {
                frames.push(Bytes::copy_from_slice(chunk));
                while let Some(message) = frames.next().expect("good messages") {
                    found.push(message);
                }
            }
            assert_eq!(found, sent, "chunks of {size}");
            assert_eq!(frames.end(), Ok(()));
        }
    }

    #[test]
    fn bad_prefixes_are_named_before_anything_is_kept() {
        let check = |bytes: &[u8], expected: Error| {
            let mut frames = Frames::new(10);
            frames.push(Bytes::copy_from_slice(bytes));
            assert_eq!(frames.next(), Err(expected));
            assert!(frames.kept() <= PREFIX);
        };
        check(&[0, 0, 0, 0, 11], Error::TooLarge { length: 11, limit: 10 });
        check(&[0, 0xff, 0xff, 0xff, 0xff, 1], Error::TooLarge { length: u32::MAX as usize, limit: 10 });
        check(&[1, 0, 0, 0, 1, 7], Error::Compressed);
        check(&[9, 0, 0, 0, 1, 7], Error::Flag(9));
        let mut frames = Frames::new(10);
        frames.push(Bytes::from_static(&[0, 0, 0, 0, 3, 1]));
        assert_eq!(frames.next(), Ok(None));
        assert_eq!(frames.end(), Err(Error::Truncated));
    }
}
