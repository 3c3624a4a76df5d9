//! Laws of the agent over real sockets: an inference server that remembers, a scheduler that only listens.
#![expect(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

mod grpc;
mod link;
mod rest;
mod scheduler;
mod server;
mod supervise;
mod world;
