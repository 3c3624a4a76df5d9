//! What Envoy is told: routes, placement sets and agents in our own words become Envoy's resources.
//!
//! Pure: no socket, no clock, no task. Each resource is built by a function of its noun (`listener`, `scope`,
//! `cluster`, `mesh`, `proxyless`); [`Publisher`] knows what has been published and turns changes into changes of the table.
//!
//! Invariants: the same input gives the same bytes (no map with more than one entry is ever encoded in one piece);
//! only IP addresses reach Envoy; work for a change does not depend on the number of models.

mod address;
mod cluster;
mod demand;
mod filters;
mod gateways;
mod listener;
mod log;
mod mesh;
mod proto;
mod proxyless;
mod publisher;
mod reply;
mod scope;
mod settings;

pub(crate) use demand::ON_DEMAND;
pub use listener::tailor;
pub use publisher::{News, Publication, Publisher, SET_GRACE_MS, UNSERVED_AFTER_MS};
pub use scope::{MESH, READY};
pub use settings::{AccessLog, Settings};
