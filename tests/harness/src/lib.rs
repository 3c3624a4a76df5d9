//! What the end-to-end tests and benchmarks are made of: the parts of an installation as processes of their own, a
//! stack of them in a folder of its own, clients that are nobody's favourites, load, and a look into every log.
//!
//! Nothing here decides what is right; scenarios do. Invariants: whatever is started ends with the test process, also
//! when that is killed; ports and folders are shared with nobody; a scenario fails on a warning that it does not expect.

mod agent;
mod binary;
mod cached;
mod control;
mod envoy;
mod foreign;
pub mod go;
pub mod iris;
mod load;
mod logs;
pub mod onnx;
mod part;
mod ports;
mod proxyless;
pub mod python;
mod rest;
mod rpc;
mod samples;
mod scenario;
mod scheduler;
mod stack;
mod topics;
mod until;
mod up;

pub use agent::Agent;
pub use binary::{Said, run, switchyard};
pub use control::{Control, Model, State};
pub use envoy::Envoy;
pub use foreign::Foreign;
pub use load::{Answered, Load, Outcome, Protocol, Target, Traffic};
pub use logs::{Line, troubles};
pub use part::{Frozen, Part};
pub use ports::Ports;
pub use proxyless::{Calls, First, Proxyless};
pub use rest::{Answer, Rest};
pub use rpc::{Rpc, rpc, with_metadata};
pub use samples::{root, sample};
pub use scenario::scenario;
pub use scheduler::Scheduler;
pub use stack::{Shape, Stack};
pub use topics::{MINE, Topics, header_of};
pub use until::until;
pub use up::{Up, pipeline};

/// The built-in server.
pub const SERVER: &str = "onnx";
