//! Laws of the agent over real sockets: an inference server that remembers, a scheduler that only listens.

mod grpc;
mod link;
mod rest;
mod scheduler;
mod server;
mod supervise;
mod world;
