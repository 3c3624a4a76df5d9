//! Envoy as a child process: where its binary comes from, the bootstrap it starts with, its start, readiness, drain
//! and end. What it serves is not decided here: routes and clusters come to it from the scheduler over ADS.

mod admin;
mod binary;
mod bootstrap;
mod process;

pub use admin::AdminError;
pub use binary::{BINARY_VARIABLE, Binary, ENVOY, FindError, Origin, Version, find};
pub use bootstrap::{Admin, Bootstrap, BootstrapError, Endpoint, EndpointError, FirstConfiguration};
pub use process::{Drained, Envoy, ReadyError, StartError};
