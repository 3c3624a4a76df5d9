//! CDS and EDS: one cluster for each placement set and protocol.
//!
//! A cluster's name is a hash of the protocol and the replicas of the set, so presence, health and drain of a replica
//! change its endpoints only, and connections survive. Its settings are the same for all.
//!
//! Not here: who uses a cluster and when it may go (`publisher`).

use std::collections::HashMap;
use std::time::Duration;

use domain::{Endpoint, Health, PlacementSet, header};
use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, CommonLbConfig, DiscoveryType, EdsClusterConfig, LbPolicy,
};
use envoy_types::pb::envoy::config::cluster::v3::{CircuitBreakers, Cluster, OutlierDetection};
use envoy_types::pb::envoy::config::core::v3::{
    Address, HealthStatus, Http1ProtocolOptions, Http2ProtocolOptions, HttpProtocolOptions as CommonOptions,
    KeepaliveSettings,
};
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint as WireEndpoint, LbEndpoint, LocalityLbEndpoints,
};
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::retry_policy::{RetryHostPredicate, retry_host_predicate};
use envoy_types::pb::envoy::config::route::v3::{HeaderMatcher, RetryPolicy};
use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    ExplicitHttpConfig, UpstreamProtocolOptions, explicit_http_config::ProtocolConfig,
};
use envoy_types::pb::envoy::r#type::v3::Percent;
use xds::{Key, Kind, Resource};
use xxhash_rust::xxh64::xxh64;

use super::address;
use super::proto::{ads, any, duration, encode, uint};
use super::settings::Settings;

/// Envoy's own limits (1,024) are meant for clusters of one service. Ours are shared by many models, and an inference
/// server has a limit of its own, so these only stop a runaway.
const MOST_AT_ONCE: u32 = 1_000_000;

/// Refused or broken connections in a row before a replica is left out for a while.
const FAILURES_IN_A_ROW: u32 = 3;

/// How long a replica that refuses connections is left out for the first time; its agent's state comes sooner.
const EJECTION: Duration = Duration::from_secs(5);

/// How long at most, however often it was left out.
const LONGEST_EJECTION: Duration = Duration::from_secs(30);

/// At most half of the replicas are left out, so a single one never is.
const MOST_EJECTED_PERCENT: u32 = 50;

/// How often another host is drawn for a retry before a host that was tried already is taken. Least-request balancing
/// draws the one of two replicas that refuses in up to three of four draws, because it is idle; after 30 draws that is
/// one retry in 5,000. A draw costs nanoseconds and happens for retries only.
const HOST_DRAWS: i64 = 30;

/// What is retried: only requests that no replica has begun to answer, whatever they ask for. Never on an answer of a model.
const RETRIED: &str = "connect-failure,refused-stream,reset-before-request";

/// And those that an agent of ours says it refused ([`header::REFUSED`]).
const RETRIED_FOR_AGENTS: &str = "retriable-headers";

/// How long Envoy waits for the endpoints of a new cluster before it takes what it has.
const ENDPOINTS_TIMEOUT: Duration = Duration::from_secs(15);

/// Seed of the names of clusters. Changing it renames every cluster.
const NAME_SEED: u64 = 0;

/// Which of its replicas' ports a cluster leads to, and what it speaks there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Door {
    /// One port for REST and gRPC, HTTP/2: what our agents announce.
    Shared,
    /// The port for REST, HTTP/1.1.
    Rest,
    /// The port for gRPC, HTTP/2.
    Grpc,
}

impl Door {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Door::Shared => "shared",
            Door::Rest => "rest",
            Door::Grpc => "grpc",
        }
    }

    pub(super) const fn port(self, endpoint: &Endpoint) -> u16 {
        match self {
            Door::Shared | Door::Rest => endpoint.http_port,
            Door::Grpc => endpoint.grpc_port,
        }
    }
}

/// Whether the replicas of a set answer REST and gRPC on one port each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Shape {
    /// All of them do.
    OnePort,
    /// At least one has two ports (a foreign agent).
    TwoPorts,
}

impl Shape {
    pub(super) fn of(endpoints: &[Endpoint]) -> Shape {
        if endpoints.iter().all(|endpoint| endpoint.http_port == endpoint.grpc_port) {
            Shape::OnePort
        } else {
            Shape::TwoPorts
        }
    }

    pub(super) const fn doors(self) -> &'static [Door] {
        match self {
            Shape::OnePort => &[Door::Shared],
            Shape::TwoPorts => &[Door::Rest, Door::Grpc],
        }
    }
}

/// The name of a set's cluster.
pub(super) fn name(set: &PlacementSet, door: Door) -> String {
    // No name of ours has a line break, so different sets never give the same text.
    let text = set.replicas().fold(door.word().to_owned(), |text, replica| format!("{text}\n{replica}"));
    format!("set-{:016x}", xxh64(text.as_bytes(), NAME_SEED))
}

pub(super) fn key(name: &str) -> Key {
    Key::new(Kind::Cluster, name)
}

pub(super) fn endpoints_key(name: &str) -> Key {
    Key::new(Kind::Endpoints, name)
}

/// The cluster of a set.
pub(super) fn resource(name: &str, door: Door, settings: &Settings) -> Resource {
    let retried = if door == Door::Shared { format!("{RETRIED},{RETRIED_FOR_AGENTS}") } else { RETRIED.to_owned() };
    retrying(name, door, settings, &retried)
}

/// A cluster whose requests are retried in these cases.
pub(super) fn retrying(name: &str, door: Door, settings: &Settings, retried: &str) -> Resource {
    let message = Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: Some(ads(Some(ENDPOINTS_TIMEOUT))),
            ..EdsClusterConfig::default()
        }),
        connect_timeout: duration(settings.connect_timeout),
        per_connection_buffer_limit_bytes: uint(settings.buffer_limit),
        lb_policy: LbPolicy::LeastRequest.into(),
        circuit_breakers: Some(CircuitBreakers { thresholds: vec![thresholds()], ..CircuitBreakers::default() }),
        typed_extension_protocol_options: protocol_options(door, settings, retried),
        outlier_detection: Some(outlier_detection()),
        common_lb_config: Some(CommonLbConfig {
            // By default Envoy sends to unwell hosts when many are unwell.
            healthy_panic_threshold: Some(Percent { value: 0.0 }),
            ..CommonLbConfig::default()
        }),
        ignore_health_on_host_removal: true,
        ..Cluster::default()
    };
    Resource::new(Kind::Cluster, name, encode(&message))
}

fn thresholds() -> Thresholds {
    Thresholds {
        max_connections: uint(MOST_AT_ONCE),
        max_pending_requests: uint(MOST_AT_ONCE),
        max_requests: uint(MOST_AT_ONCE),
        max_retries: uint(MOST_AT_ONCE),
        track_remaining: true,
        ..Thresholds::default()
    }
}

/// One bad model must not take a replica away from the others, so only the network's failures count.
fn outlier_detection() -> OutlierDetection {
    OutlierDetection {
        split_external_local_origin_errors: true,
        consecutive_local_origin_failure: uint(FAILURES_IN_A_ROW),
        enforcing_consecutive_local_origin_failure: uint(100),
        base_ejection_time: duration(EJECTION),
        max_ejection_time: duration(LONGEST_EJECTION),
        max_ejection_percent: uint(MOST_EJECTED_PERCENT),
        enforcing_consecutive_5xx: uint(0),
        enforcing_consecutive_gateway_failure: uint(0),
        enforcing_success_rate: uint(0),
        enforcing_local_origin_success_rate: uint(0),
        enforcing_failure_percentage: uint(0),
        enforcing_failure_percentage_local_origin: uint(0),
        ..OutlierDetection::default()
    }
}

/// One entry under one name, so its encoding is canonical.
fn protocol_options(
    door: Door,
    settings: &Settings,
    retried: &str,
) -> HashMap<String, envoy_types::pb::google::protobuf::Any> {
    let protocol = match door {
        Door::Rest => ProtocolConfig::HttpProtocolOptions(Http1ProtocolOptions::default()),
        Door::Shared | Door::Grpc => ProtocolConfig::Http2ProtocolOptions(Http2ProtocolOptions {
            connection_keepalive: Some(KeepaliveSettings {
                interval: duration(settings.upstream_keepalive),
                timeout: duration(settings.upstream_keepalive_timeout),
                ..KeepaliveSettings::default()
            }),
            ..Http2ProtocolOptions::default()
        }),
    };
    let options = HttpProtocolOptions {
        common_http_protocol_options: Some(CommonOptions {
            idle_timeout: duration(settings.idle_timeout),
            ..CommonOptions::default()
        }),
        retry_policy: Some(retry_policy(settings, retried)),
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(protocol),
        })),
        ..HttpProtocolOptions::default()
    };
    HashMap::from([("envoy.extensions.upstreams.http.v3.HttpProtocolOptions".to_owned(), any(&options))])
}

/// In the cluster and not in the routes: there are few clusters and very many routes.
fn retry_policy(settings: &Settings, retried: &str) -> RetryPolicy {
    RetryPolicy {
        retry_on: retried.to_owned(),
        num_retries: uint(settings.retries),
        retry_host_predicate: vec![RetryHostPredicate {
            name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
            config_type: Some(retry_host_predicate::ConfigType::TypedConfig(any(&PreviousHostsPredicate {}))),
        }],
        host_selection_retry_max_attempts: HOST_DRAWS,
        retriable_headers: retried.contains(RETRIED_FOR_AGENTS).then(refused).into_iter().collect(),
        ..RetryPolicy::default()
    }
}

fn refused() -> HeaderMatcher {
    HeaderMatcher {
        name: header::REFUSED.to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::PresentMatch(true)),
        ..HeaderMatcher::default()
    }
}

/// Where the cluster's replicas answer. Those that Envoy could not be told of are left out and logged: one of them
/// would make Envoy refuse all.
pub(super) fn endpoints(name: &str, door: Door, endpoints: &[Endpoint]) -> Resource {
    let mut sorted: Vec<&Endpoint> = endpoints.iter().collect();
    sorted.sort_by(|a, b| a.replica.cmp(&b.replica));
    let usable = sorted.into_iter().filter_map(|endpoint| match address::of(&endpoint.host, door.port(endpoint)) {
        Ok(address) => Some(located(address, endpoint.health)),
        Err(error) => {
            tracing::warn!(replica = %endpoint.replica, %error, "replica is left out");
            None
        }
    });
    assignment(name, usable.collect())
}

/// One place where a cluster answers.
pub(super) fn located(address: Address, at: Health) -> LbEndpoint {
    LbEndpoint {
        health_status: health(at).into(),
        host_identifier: Some(HostIdentifier::Endpoint(WireEndpoint {
            address: Some(address),
            ..WireEndpoint::default()
        })),
        ..LbEndpoint::default()
    }
}

/// All places where a cluster answers.
pub(super) fn assignment(name: &str, lb_endpoints: Vec<LbEndpoint>) -> Resource {
    let localities = if lb_endpoints.is_empty() {
        Vec::new()
    } else {
        vec![LocalityLbEndpoints { lb_endpoints, ..LocalityLbEndpoints::default() }]
    };
    let message = ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        endpoints: localities,
        ..ClusterLoadAssignment::default()
    };
    Resource::new(Kind::Endpoints, name, encode(&message))
}

fn health(health: Health) -> HealthStatus {
    match health {
        Health::Healthy => HealthStatus::Healthy,
        Health::Draining => HealthStatus::Draining,
        Health::Unhealthy => HealthStatus::Unhealthy,
    }
}
