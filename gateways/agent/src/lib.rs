//! The agent: stands beside one inference server, and nothing else knows that server.
//!
//! It tells the scheduler what its replica can do, carries out the scheduler's commands (fetch, load, unload), and
//! passes requests on to the server with the model's name put in its place. It decides nothing about placement.
//!
//! Invariant: a subscription means "I can serve": it exists only while the server lives and holds what was listed.

mod config;
mod fetch;
mod inference;
mod link;
mod operations;
mod process;
mod proxy;
mod reason;
mod report;
mod repository;
mod residency;
mod serving;
mod supervise;

pub use config::{Config, Inference, MAX_MESSAGE_BYTES, SpawnCommand};
pub use process::{Error, run};
