//! A checksum before each stored record, so that damage inside one is seen. It covers the key, too: a record that
//! turns up under another name is damaged.

use xxhash_rust::xxh64::Xxh64;

/// Bytes of the checksum.
const CHECKSUM: usize = 8;

/// Any number; changing it makes every store unreadable.
const SEED: u64 = 0;

fn checksum(key: &str, record: &[u8]) -> [u8; CHECKSUM] {
    let mut hash = Xxh64::new(SEED);
    hash.update(&(key.len() as u64).to_le_bytes());
    hash.update(key.as_bytes());
    hash.update(record);
    hash.digest().to_le_bytes()
}

/// The record as it is stored.
pub(super) fn seal(key: &str, record: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(CHECKSUM + record.len());
    sealed.extend_from_slice(&checksum(key, record));
    sealed.extend_from_slice(record);
    sealed
}

/// The record in what was stored; nothing if it is damaged.
pub(super) fn open<'a>(key: &str, sealed: &'a [u8]) -> Option<&'a [u8]> {
    let (sum, record) = sealed.split_at_checked(CHECKSUM)?;
    (sum == checksum(key, record)).then_some(record)
}

#[cfg(test)]
mod tests {
    use super::{open, seal};

    #[test]
    fn any_flipped_bit_and_another_key_are_seen() {
        let sealed = seal("iris", b"a record");
        assert_eq!(open("iris", &sealed), Some(b"a record".as_slice()));
        assert_eq!(open("rose", &sealed), None);
        for bit in 0..sealed.len() * 8 {
            let mut damaged = sealed.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open("iris", &damaged), None, "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert_eq!(open("iris", &sealed[..length]), None);
        }
    }
}
