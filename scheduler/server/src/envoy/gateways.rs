//! The cluster of the pipeline gateways: every pipeline is reached through it, so its name never changes and pipelines
//! cost one scope each.

use domain::Health;
use envoy_types::pb::envoy::config::endpoint::v3::LbEndpoint;
use scheduler_core::Address;
use xds::Change;

use super::address;
use super::cluster::{self, Door};
use super::settings::Settings;

/// Its name.
pub(super) const CLUSTER: &str = "pipeline-gateways";

/// What is retried: only what no gateway has seen. One that has may have entered the request (DESIGN §9).
const RETRIED: &str = "connect-failure,refused-stream";

/// Before any gateway is known: every call is answered with 503 / UNAVAILABLE.
pub(super) fn start(settings: &Settings) -> Vec<Change> {
    vec![Change::Put(cluster::retrying(CLUSTER, Door::Shared, settings, RETRIED)), change(&[])]
}

/// All gateways there are now.
pub(super) fn change(addresses: &[Address]) -> Change {
    Change::Put(cluster::assignment(CLUSTER, usable(addresses)))
}

/// Those that a client can be told of.
pub(super) fn usable(addresses: &[Address]) -> Vec<LbEndpoint> {
    let mut addresses = addresses.to_vec();
    addresses.sort();
    let usable = addresses.iter().filter_map(|at| match address::of(&at.host, at.port) {
        Ok(address) => Some(cluster::located(address, Health::Healthy)),
        Err(error) => {
            tracing::warn!(host = %at.host, %error, "pipeline gateway is left out");
            None
        }
    });
    usable.collect()
}
