//! The log of records that pipelines run on: topics, partitions, keys, headers, time stamps, committed offsets.
//!
//! [`Log`] is what every implementation does, in Kafka's words; [`Embedded`] keeps it in segment files of this machine.
//! It knows nothing about pipelines or tensors. The conformance suite in `tests/` is the contract.
//!
//! Guarantees: offsets of a partition are dense and in the order of the appends; a record that a reader saw stays where
//! it is until retention takes it; an append that failed left nothing behind. What a committed offset means is the
//! business of who commits it (`spec/delivery.md` §3).

pub mod embedded;
mod error;
mod log;
mod record;

pub use embedded::Embedded;
pub use error::Error;
pub use log::{Bounds, Commit, Fetched, Log, NewTopic, Reader, Topic};
pub use record::{Append, Appended, Header, Record};
