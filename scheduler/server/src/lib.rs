//! The scheduler process: a thread that drives the machine of `scheduler-core`, its store, its gRPC services, and the
//! translation of its routes for Envoy.
//!
//! Decides nothing about models; that is `scheduler-core`. The path of an event: `grpc` → `handle` → `driver` →
//! machine → `store` (commit) → `outbox` → agents, subscribers, `publishing` → `xds` → Envoy → acknowledgement →
//! `publishing` → `driver`.

mod config;
mod counters;
mod driver;
pub mod envoy;
mod feed;
mod greeted;
mod grpc;
mod handle;
mod outbox;
mod probe;
mod process;
mod publishing;
mod scaling_file;
pub mod store;
mod stream_metrics;
mod timers;

pub use config::{Config, DRAIN_GRACE, ENVOY_DRAIN, LAG_AFTER, STORE_BYTES, SUBSCRIBER_LIMIT};
pub use counters::Counters;
pub use driver::Rejected;
pub use handle::Scheduler;
pub use probe::{Port, Target, probe};
pub use process::{Error, Listeners, run};
pub use scheduler_core::{PARTITIONS, Settings};
pub use store::{CommitError, OpenError, SCHEMA};
