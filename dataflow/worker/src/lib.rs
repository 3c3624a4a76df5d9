//! What pipeline gateways, model gateways and dataflow engines have in common: the stream to the scheduler, and for those
//! that own shards the loop of one, with the log's side of it (take-over, reading, writing, commits;
//! `spec/delivery.md` §3–6).
//!
//! It decides nothing: what is a repeat, what is complete and what is to be written, `dataflow-core` says.

mod clock;
mod counters;
mod link;
mod owned;
mod process;
mod shard;
mod shard_log;

pub use clock::now;
pub use counters::{Counter, ShardCounters};
pub use link::{Connected, Desired, Link, LinkConfig, ModelWish, PipelineWish, Refusal, Said, Told, VersionWish};
pub use process::{Duty, WorkerConfig, run};
pub use shard::ShardWork;
pub use shard_log::ShardLog;
