//! How pipelines run, decided without a log, a clock or a socket: records and times in, records to write out.
//!
//! A declared pipeline is compiled to a [`Topology`]; an [`Engine`] runs all topologies over the records of one shard, a
//! [`Caller`] decides which records become calls of models. Both keep what they have begun in an [`Owner`], whose rules
//! (what is a repeat, what is complete, what may be committed) are `spec/delivery.md` §3–6.
//!
//! Invariant: whatever the order, the repeats and the owner, one emission has one slot.

mod batch;
mod caller;
mod engine;
mod envelope;
mod failure;
mod flow;
mod left;
mod owner;
mod parts;
mod plan;
mod slot;
mod topology;
mod window;

pub use batch::{BatchKey, merge, split};
pub use caller::{Call, CallId, Caller, Outcome};
pub use engine::{Counters, Emission, EmissionId, Engine, Incoming};
pub use envelope::{Envelope, Headers, name};
pub use failure::Failure;
pub use left::{Left, Request};
pub use owner::{Checkpoint, Owner, Place, REPEAT_WINDOW_MS, Stamp};
pub use parts::{Format, Malformed, Parts, Tensor};
pub use plan::{Change, Plan, Version};
pub use slot::{Branch, Root, Slot};
pub use topology::{Operator, OperatorKind, Side, Topology};
