//! Makes request ids: 20 characters, sortable by time, unique between processes as far as a clock and a process id
//! can make them. Not a secret and not random.

use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

const DIGITS: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";
const LENGTH: usize = 20;

/// The ids of one process.
#[derive(Debug)]
pub struct RequestIds {
    maker: [u8; 5],
    count: AtomicU32,
}

impl RequestIds {
    /// Ids of a maker of their own.
    #[must_use]
    pub fn new() -> Self {
        let nanos = since_epoch().subsec_nanos().to_be_bytes();
        let [_, a, b, c] = nanos;
        let [.., d, e] = process::id().to_be_bytes();
        Self { maker: [a, b, c, d, e], count: AtomicU32::new(0) }
    }

    /// The next id: seconds, maker, count.
    pub fn next(&self) -> String {
        let seconds = (since_epoch().as_secs() as u32).to_be_bytes();
        let [_, high, middle, low] = self.count.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let mut bits: u128 = 0;
        for byte in seconds.into_iter().chain(self.maker).chain([high, middle, low]) {
            bits = bits << 8 | u128::from(byte);
        }
        // 12 bytes are 96 bits, 20 digits are 100.
        bits <<= 4;
        (0..LENGTH).rev().map(|index| char::from(DIGITS[(bits >> (5 * index)) as usize & 31])).collect()
    }
}

impl Default for RequestIds {
    fn default() -> Self {
        Self::new()
    }
}

fn since_epoch() -> std::time::Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{LENGTH, RequestIds};

    #[test]
    fn ids_are_twenty_characters_and_all_different() {
        let ids = RequestIds::new();
        let made: std::collections::BTreeSet<String> = (0..1000).map(|_| ids.next()).collect();
        assert_eq!(made.len(), 1000);
        assert!(made.iter().all(|id| id.len() == LENGTH && id.bytes().all(|b| b.is_ascii_alphanumeric())));
    }
}
