//! The control plane as its peers see it: a scheduler in this process, and around it, over gRPC, everybody who calls
//! it: users, agents without inference servers, Envoys without traffic. Numbers in the names of modules' comments are
//! the rows of `docs/compatibility.md`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::panic, reason = "a test fails by panicking")]
#![expect(clippy::tests_outside_test_module, reason = "the whole binary is tests")]

mod agent;
mod agents;
mod declare;
mod envoy;
mod experiments;
mod health;
mod hostile;
mod many;
mod models;
mod pipelines;
mod placement;
mod replicas;
mod restart;
mod rollout;
mod scaling;
mod servers;
mod start;
mod store;
mod streams;
mod worker;
mod world;
mod xds_port;
