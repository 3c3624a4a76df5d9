//! What pipeline gateways, model gateways and dataflow engines have in common: the stream to the scheduler, and the
//! log's side of a shard (take-over, reading, writing, commits; `spec/delivery.md` §3–6).
//!
//! It decides nothing: what is a repeat, what is complete and what is to be written, `dataflow-core` says.

mod clock;
mod link;
mod owned;
mod shard;

pub use clock::now;
pub use link::{Connected, Desired, Link, LinkConfig, ModelWish, PipelineWish, Refusal, Said, Told, VersionWish};
pub use owned::{Command, Lease, Owned};
pub use shard::{COMMIT_EVERY, Happened, ShardLog, TakeOver, incoming};
