//! The pipeline gateway: the synchronous front of pipelines. A request becomes a record, and the record that answers it
//! wakes the caller exactly once: with the answer, the error, or the end of its time (`spec/delivery.md` §8).
//!
//! It keeps nothing: any gateway may take any request. Not in here: what a pipeline does with the record.

mod admission;
mod egress;
mod failure;
mod gateway;
mod grpc;
mod metrics;
mod pending;
mod pipelines;
mod process;
mod rest;

pub use failure::ErrorStyle;
pub use metrics::Metrics;
pub use process::{Config, Error, run};
