//! What gRPC clients are told that are their own Envoy (`xds:///iris`): for each name that one of them asks for a listener
//! of that name, and a cluster with endpoints. Nobody else sees them.
//!
//! A client matches and balances but cannot rewrite a request, so the agent finds the version by the message's
//! `model_name`: the newest that its replica holds. Which versions a route has therefore does not matter here, only on
//! which replicas they are; so a name keeps its one cluster for ever, and roll-outs and losses change its endpoints alone,
//! which clients take over between two calls.
//!
//! Not here: who asks for what, and since when (`demand`).

use std::collections::BTreeMap;

use domain::{Endpoint, ReplicaId};
use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig};
use envoy_types::pb::envoy::config::cluster::v3::load_balancing_policy::Policy;
use envoy_types::pb::envoy::config::cluster::v3::{CircuitBreakers, Cluster, LoadBalancingPolicy};
use envoy_types::pb::envoy::config::core::v3::{Locality, TypedExtensionConfig};
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, LbEndpoint, LocalityLbEndpoints};
use envoy_types::pb::envoy::config::listener::v3::{ApiListener, Listener};
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::{
    RetryPolicy, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost,
};
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::fault_abort::ErrorType;
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::{FaultAbort, HttpFault};
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_filter::ConfigType;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter,
};
use envoy_types::pb::envoy::extensions::load_balancing_policies::least_request::v3::LeastRequest;
use envoy_types::pb::envoy::extensions::load_balancing_policies::round_robin::v3::RoundRobin;
use envoy_types::pb::envoy::r#type::v3::{FractionalPercent, fractional_percent::DenominatorType};
use prost::{Message, Name as WireName};
use xds::{Key, Kind, Resource};

use super::cluster::{self, Door};
use super::proto::{ads, any, encode, extension, uint};
use super::settings::Settings;
use super::{address, listener};

/// What the names of these clusters begin with; none of Envoy's does.
const PREFIX: &str = "proxyless/";

/// gRPC's own limit (1,024) is for each client and cluster.
const MOST_AT_ONCE: u32 = 1_000_000;

/// What is called again: gRPC names statuses and not what happened. A call that its replica has not begun is sent again by
/// gRPC itself; this is for those that were on a replica when it died.
const RETRIED: &str = "unavailable";

/// gRPC makes so many attempts and no more.
const RETRIES_MAX: u32 = 4;

/// A client must be told a locality, with a weight.
const LOCALITY: &str = "local";

/// What a name leads to.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Lead {
    /// Calls go to these; without any they are UNAVAILABLE.
    To(Vec<LbEndpoint>, Repeat),
    /// Calls are answered by the client itself.
    Refused(Refusal),
}

/// Whether a call is sent again that may have been on a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeat {
    /// It is: a model keeps nothing of it.
    Unavailable,
    /// It is not: a pipeline may have entered it in its topics.
    Never,
}

/// Why there is nobody to call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Nobody declared the name: NOT_FOUND.
    Unknown,
    /// An experiment, whose candidates are told apart by a header that these clients cannot send: UNIMPLEMENTED.
    Experiment,
}

impl Refusal {
    const fn code(self) -> u32 {
        match self {
            Refusal::Unknown => 5,
            Refusal::Experiment => 12,
        }
    }
}

/// Whether a resource of that name would be one of these.
pub(crate) fn is_one(kind: Kind, name: &str) -> bool {
    match kind {
        Kind::Listener => name != listener::NAME,
        Kind::Cluster => name.starts_with(PREFIX),
        Kind::Endpoints | Kind::ScopedRoute | Kind::Route | Kind::Secret | Kind::Runtime => false,
    }
}

/// The name that a resource is about, if it is one of these.
pub(super) fn name_of(key: &Key) -> Option<&str> {
    match key.kind {
        Kind::Listener => Some(key.name.as_str()).filter(|name| is_one(key.kind, name)),
        Kind::Cluster | Kind::Endpoints => key.name.as_str().strip_prefix(PREFIX),
        Kind::ScopedRoute | Kind::Route | Kind::Secret | Kind::Runtime => None,
    }
}

/// The keys of a name, in the order in which they may be removed.
pub(super) fn keys(name: &str) -> [Key; 3] {
    let cluster = cluster_name(name);
    [Key::new(Kind::Listener, name), cluster::key(&cluster), cluster::endpoints_key(&cluster)]
}

/// Its endpoints' key.
pub(super) fn endpoints_key(name: &str) -> Key {
    cluster::endpoints_key(&cluster_name(name))
}

/// All of a name. Where calls are refused there is an empty cluster, because a client looks at it first.
pub(super) fn resources(name: &str, lead: Lead, settings: &Settings) -> [Resource; 3] {
    let cluster = cluster_name(name);
    let (endpoints, repeat, refusal) = match lead {
        Lead::To(endpoints, repeat) => (endpoints, repeat, None),
        Lead::Refused(refusal) => (Vec::new(), Repeat::Never, Some(refusal)),
    };
    [
        the_cluster(&cluster).named_only(),
        assignment(&cluster, endpoints).named_only(),
        the_listener(name, &cluster, repeat, refusal, settings).named_only().requires([cluster::key(&cluster)]),
    ]
}

/// Where these replicas answer gRPC. A replica that is in several sets is the best that any says of it.
pub(super) fn replicas<'a>(endpoints: impl Iterator<Item = &'a Endpoint>) -> Vec<LbEndpoint> {
    let mut best: BTreeMap<&ReplicaId, &Endpoint> = BTreeMap::new();
    for endpoint in endpoints {
        let known = best.entry(&endpoint.replica).or_insert(endpoint);
        if endpoint.health < known.health {
            *known = endpoint;
        }
    }
    let usable = best.values().filter_map(|endpoint| {
        let address = address::of(&endpoint.host, Door::Grpc.port(endpoint)).ok()?;
        Some(cluster::located(address, endpoint.health))
    });
    usable.collect()
}

fn cluster_name(name: &str) -> String {
    format!("{PREFIX}{name}")
}

fn the_cluster(name: &str) -> Resource {
    let message = Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        eds_cluster_config: Some(EdsClusterConfig { eds_config: Some(ads(None)), ..EdsClusterConfig::default() }),
        // The first one that a client knows: C++, Python and Ruby have no least request, and refuse it by its older name.
        load_balancing_policy: Some(LoadBalancingPolicy {
            policies: vec![
                policy("envoy.load_balancing_policies.least_request", &LeastRequest::default()),
                policy("envoy.load_balancing_policies.round_robin", &RoundRobin::default()),
            ],
        }),
        circuit_breakers: Some(CircuitBreakers {
            thresholds: vec![Thresholds { max_requests: uint(MOST_AT_ONCE), ..Thresholds::default() }],
            ..CircuitBreakers::default()
        }),
        ..Cluster::default()
    };
    Resource::new(Kind::Cluster, name, encode(&message))
}

fn policy<M: Message + WireName>(name: &str, message: &M) -> Policy {
    Policy { typed_extension_config: Some(extension(name, message)) }
}

fn assignment(name: &str, lb_endpoints: Vec<LbEndpoint>) -> Resource {
    let locality = LocalityLbEndpoints {
        locality: Some(Locality { region: LOCALITY.to_owned(), ..Locality::default() }),
        load_balancing_weight: uint(1),
        lb_endpoints,
        ..LocalityLbEndpoints::default()
    };
    let message = ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        endpoints: if locality.lb_endpoints.is_empty() { Vec::new() } else { vec![locality] },
        ..ClusterLoadAssignment::default()
    };
    Resource::new(Kind::Endpoints, name, encode(&message))
}

fn the_listener(name: &str, cluster: &str, repeat: Repeat, refusal: Option<Refusal>, settings: &Settings) -> Resource {
    let host = VirtualHost {
        name: name.to_owned(),
        domains: vec!["*".to_owned()],
        routes: vec![route(cluster, repeat, settings.retries)],
        ..VirtualHost::default()
    };
    let routes =
        RouteConfiguration { name: name.to_owned(), virtual_hosts: vec![host], ..RouteConfiguration::default() };
    let router = extension("envoy.filters.http.router", &Router::default());
    let connections = HttpConnectionManager {
        route_specifier: Some(RouteSpecifier::RouteConfig(routes)),
        http_filters: refusal.map(abort).into_iter().chain([router]).map(filter).collect(),
        ..HttpConnectionManager::default()
    };
    let message = Listener {
        name: name.to_owned(),
        api_listener: Some(ApiListener { api_listener: Some(any(&connections)) }),
        ..Listener::default()
    };
    Resource::new(Kind::Listener, name, encode(&message))
}

fn route(cluster: &str, repeat: Repeat, retries: u32) -> Route {
    let policy = RetryPolicy {
        retry_on: RETRIED.to_owned(),
        num_retries: uint(retries.min(RETRIES_MAX)),
        ..RetryPolicy::default()
    };
    Route {
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix(String::new())),
            ..RouteMatch::default()
        }),
        action: Some(Action::Route(RouteAction {
            cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.to_owned())),
            retry_policy: Some(policy).filter(|_| repeat == Repeat::Unavailable && retries > 0),
            ..RouteAction::default()
        })),
        ..Route::default()
    }
}

/// The only way to have a client answer at once: for a listener that does not exist it waits for 15 s.
fn abort(refusal: Refusal) -> TypedExtensionConfig {
    let everything = FractionalPercent { numerator: 100, denominator: DenominatorType::Hundred.into() };
    let error_type = Some(ErrorType::GrpcStatus(refusal.code()));
    let abort = FaultAbort { percentage: Some(everything), error_type, ..FaultAbort::default() };
    extension("envoy.filters.http.fault", &HttpFault { abort: Some(abort), ..HttpFault::default() })
}

fn filter(config: TypedExtensionConfig) -> HttpFilter {
    HttpFilter {
        name: config.name,
        config_type: config.typed_config.map(ConfigType::TypedConfig),
        ..HttpFilter::default()
    }
}
