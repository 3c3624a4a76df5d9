//! SRDS: one scope for each routable name, with its route configuration inside.
//!
//! A name with one backend has ONE route without headers of its own: the route's name is `<model>_<version>`, and the
//! listener's filter makes both headers of it. That is what keeps 100,000 names small. A name with several backends
//! sets the headers for each of them, which that filter respects; routes that keep a client at its backend come first.
//! A mirror is a policy of each of the routes, with the header for its version on the copy alone.
//! (The filter cannot be turned off by a route: Envoy looks for that before a script has found out the model.)
//!
//! Not here: where a set's replicas are (`cluster`), and the listener that reads the scopes (`listener`, `filters`).

use std::time::Duration;

use domain::{Backend, MirrorBackend, PlacementSet, RoutableName, Route as DomainRoute, Target, header};
use envoy_types::pb::envoy::config::common::mutation_rules::v3::{HeaderMutation, header_mutation};
use envoy_types::pb::envoy::config::core::v3::{HeaderValueOption, RuntimeFractionalPercent};
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::{ClusterSpecifier, RequestMirrorPolicy};
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::scoped_route_configuration::key::fragment;
use envoy_types::pb::envoy::config::route::v3::scoped_route_configuration::{Key as ScopeKey, key::Fragment};
use envoy_types::pb::envoy::config::route::v3::weighted_cluster::ClusterWeight;
use envoy_types::pb::envoy::config::route::v3::{
    DirectResponseAction, HeaderMatcher, Route, RouteAction, RouteConfiguration, RouteMatch, ScopedRouteConfiguration,
    VirtualHost, WeightedCluster,
};
use envoy_types::pb::envoy::r#type::matcher::v3::StringMatcher;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::v3::{FractionalPercent, fractional_percent::DenominatorType};
use xds::{Key, Kind, Resource};

use super::cluster::{self, Door, Shape};
use super::gateways;
use super::proto::{append, duration, encode, flag, overwrite, text, uint};

/// The scope of the server-wide calls. No model can be called so.
pub const MESH: &str = ".mesh";

/// The scope that answers as soon as an Envoy has routes, for load balancers.
pub const READY: &str = ".ready";

const OK: u32 = 200;
const UNAVAILABLE: u32 = 503;

/// What the canary answers.
const READY_BODY: &str = "ready\n";

/// All gRPC methods of the inference protocol.
const GRPC_PREFIX: &str = "/inference.GRPCInferenceService/";

/// Says in a response that payloads are logged.
const LOGGING: &str = "Seldon-Logging";

/// The one virtual host of a scope. Short, because there are very many.
const HOST: &str = "h";

/// Envoy takes a drawn number up to and including the numerator, so it is given in the finest unit.
const MILLIONTHS_OF_A_PERCENT: u32 = 10_000;

/// No limit: an inference takes as long as it takes.
const NO_TIMEOUT: Duration = Duration::ZERO;

/// The key of a name's scope in the table.
pub(super) fn key(name: &str) -> Key {
    Key::new(Kind::ScopedRoute, name)
}

/// The scope of a routable name. `shape` says how many ports the replicas of a set have.
pub(super) fn resource(name: &RoutableName, route: &DomainRoute, shape: impl Fn(&PlacementSet) -> Shape) -> Resource {
    let name = name.to_string();
    let shape = |target: &Target| target.model().map_or(Shape::OnePort, |(_, set)| shape(set));
    let backends: Vec<(&Backend, Shape)> =
        route.backends.iter().map(|backend| (backend, shape(&backend.target))).collect();
    let copied = route.mirrors.iter().filter(|mirror| mirror.percent > 0);
    let mirrors: Vec<(&MirrorBackend, Shape)> = copied.map(|mirror| (mirror, shape(&mirror.target))).collect();
    let widest = |shapes: &mut dyn Iterator<Item = Shape>| {
        shapes.chain(mirrors.iter().map(|(_, shape)| *shape)).max().unwrap_or(Shape::OnePort)
    };
    let mut routes: Vec<Route> = match backends.as_slice() {
        [(only, shape)] => {
            let version = only.target.internal_name();
            let to = |door: &Door| {
                let mut route = to_cluster(&version, *door, target(&only.target, *shape, *door));
                if only.target.model().is_none() {
                    // The answer names the routes of its steps already; this one comes after them.
                    route.response_headers_to_add.push(route_header(&version));
                }
                route
            };
            doors(widest(&mut [*shape].into_iter())).iter().map(to).collect()
        }
        several => {
            let sticky = several.iter().flat_map(|(backend, shape)| {
                let doors = doors(widest(&mut [*shape].into_iter()));
                doors.iter().map(|door| sticky(backend, *door, target(&backend.target, *shape, *door)))
            });
            let widest = widest(&mut several.iter().map(|(_, shape)| *shape));
            let weighted = doors(widest).iter().map(|door| weighted(&name, *door, several));
            sticky.chain(weighted).collect()
        }
    };
    if !mirrors.is_empty() {
        routes.iter_mut().for_each(|route| copy(route, &mirrors));
    }
    let leads = backends.iter().map(|(backend, shape)| (&backend.target, *shape));
    let leads: Vec<(&Target, Shape)> =
        leads.chain(mirrors.iter().map(|(mirror, shape)| (&mirror.target, *shape))).collect();
    let targets =
        leads.iter().flat_map(|(to, shape)| doors(*shape).iter().map(|door| cluster::key(&target(to, *shape, *door))));
    let mut host = host(routes);
    if route.log_payloads {
        host.response_headers_to_add.push(overwrite(LOGGING, "true"));
    }
    scope(&name, host).requires(targets)
}

/// The scope of a name that somebody declared and nobody can answer for now: 503, so that clients come back, where a
/// name that nobody declared has no scope and is 404.
pub(super) fn unserved(name: &RoutableName) -> Resource {
    let text = match name {
        RoutableName::Model(model) => format!("model {model} is declared, but no replica has it loaded now"),
        RoutableName::Pipeline(pipeline) => format!("pipeline {pipeline} is declared, but takes no requests now"),
        RoutableName::Experiment(experiment) => format!("experiment {experiment} takes no requests now"),
    };
    // Without a name, because the response would say that it comes from there.
    scope(&name.to_string(), host(vec![answer("", UNAVAILABLE, text)]))
}

/// The scope of the server-wide calls, which the agents answer for the whole mesh.
pub(super) fn mesh(shape: Shape, cluster: impl Fn(Door) -> String) -> Resource {
    let rest = cluster(if shape == Shape::OnePort { Door::Shared } else { Door::Rest });
    let grpc = cluster(if shape == Shape::OnePort { Door::Shared } else { Door::Grpc });
    let exact = |path: &str| {
        let mut route = to_cluster(MESH, Door::Rest, rest.clone());
        route.r#match = Some(matching(PathSpecifier::Path(path.to_owned())));
        route
    };
    let mut routes: Vec<Route> = ["/v2/health/live", "/v2/health/ready", "/v2", "/v2/"].map(exact).into();
    routes.push(to_cluster(MESH, Door::Grpc, grpc));
    let mut host = host(routes);
    // A client's own value would make the agent look for a model.
    host.request_headers_to_remove.push(header::INTERNAL_MODEL.to_owned());
    scope(MESH, host).requires(shape.doors().iter().map(|door| cluster::key(&cluster(*door))))
}

/// The scope that answers 200 by itself: whoever sees that knows that this Envoy has routes.
pub(super) fn ready() -> Resource {
    scope(READY, host(vec![answer(READY, OK, READY_BODY)]))
}

/// Whatever is asked, Envoy says this by itself.
fn answer(name: &str, status: u32, body: impl Into<String>) -> Route {
    Route {
        name: name.to_owned(),
        r#match: Some(matching(PathSpecifier::Prefix("/".to_owned()))),
        action: Some(Action::DirectResponse(DirectResponseAction {
            status,
            body: Some(text(body)),
            ..DirectResponseAction::default()
        })),
        ..Route::default()
    }
}

/// The doors that routes are needed for. REST's matches everything and so comes last.
const fn doors(shape: Shape) -> &'static [Door] {
    match shape {
        Shape::OnePort => &[Door::Shared],
        Shape::TwoPorts => &[Door::Grpc, Door::Rest],
    }
}

/// The cluster a target is reached by. A set with one port is reached by it, whatever other sets of the route have; all
/// pipelines are reached through the same gateways.
fn target(to: &Target, shape: Shape, door: Door) -> String {
    let door = match shape {
        Shape::OnePort => Door::Shared,
        Shape::TwoPorts => door,
    };
    match to {
        Target::Model { set, .. } => cluster::name(set, door),
        Target::Pipeline(_) => gateways::CLUSTER.to_owned(),
    }
}

fn to_cluster(name: &str, door: Door, cluster: String) -> Route {
    Route {
        name: name.to_owned(),
        r#match: Some(matching(path(door))),
        action: Some(Action::Route(action(ClusterSpecifier::Cluster(cluster)))),
        ..Route::default()
    }
}

/// Keeps a client at the backend that its last response named.
fn sticky(backend: &Backend, door: Door, cluster: String) -> Route {
    let version = backend.target.internal_name();
    let mut route = to_cluster(&version, door, cluster);
    if let Some(matching) = &mut route.r#match {
        matching.headers.push(HeaderMatcher {
            name: header::ROUTE.to_owned(),
            header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(StringMatcher {
                match_pattern: Some(MatchPattern::Contains(token(&version))),
                ..StringMatcher::default()
            })),
            ..HeaderMatcher::default()
        });
    }
    route.request_headers_to_add.push(internal_model(&version));
    route.response_headers_to_add.push(route_header(&version));
    route
}

/// Sends copies of a route's requests. Only the copy says that it is for the mirror's version; nobody waits for its
/// answer.
fn copy(route: &mut Route, mirrors: &[(&MirrorBackend, Shape)]) {
    let is_grpc = |path: &PathSpecifier| matches!(path, PathSpecifier::Prefix(prefix) if prefix == GRPC_PREFIX);
    let path = route.r#match.as_ref().and_then(|matching| matching.path_specifier.as_ref());
    let door = if path.is_some_and(is_grpc) { Door::Grpc } else { Door::Rest };
    let Some(Action::Route(action)) = &mut route.action else { return };
    action.request_mirror_policies = mirrors
        .iter()
        .map(|(mirror, shape)| RequestMirrorPolicy {
            cluster: target(&mirror.target, *shape, door),
            runtime_fraction: Some(RuntimeFractionalPercent {
                default_value: Some(FractionalPercent {
                    numerator: mirror.percent.saturating_mul(MILLIONTHS_OF_A_PERCENT),
                    denominator: DenominatorType::Million.into(),
                }),
                ..RuntimeFractionalPercent::default()
            }),
            disable_shadow_host_suffix_append: true,
            request_headers_mutations: vec![HeaderMutation {
                action: Some(header_mutation::Action::Append(internal_model(&mirror.target.internal_name()))),
            }],
            ..RequestMirrorPolicy::default()
        })
        .collect();
}

/// Shares the traffic by weight.
fn weighted(name: &str, door: Door, backends: &[(&Backend, Shape)]) -> Route {
    // Envoy refuses a sum of 0.
    let least = u32::from(backends.iter().all(|(backend, _)| backend.weight == 0));
    let clusters = backends.iter().map(|(backend, shape)| {
        let version = backend.target.internal_name();
        ClusterWeight {
            name: target(&backend.target, *shape, door),
            weight: uint(backend.weight.max(least)),
            request_headers_to_add: vec![internal_model(&version)],
            response_headers_to_add: vec![route_header(&version)],
            ..ClusterWeight::default()
        }
    });
    let clusters = WeightedCluster { clusters: clusters.collect(), ..WeightedCluster::default() };
    Route {
        name: name.to_owned(),
        r#match: Some(matching(path(door))),
        action: Some(Action::Route(action(ClusterSpecifier::WeightedClusters(clusters)))),
        ..Route::default()
    }
}

fn action(cluster: ClusterSpecifier) -> RouteAction {
    RouteAction { timeout: duration(NO_TIMEOUT), cluster_specifier: Some(cluster), ..RouteAction::default() }
}

fn path(door: Door) -> PathSpecifier {
    PathSpecifier::Prefix(match door {
        Door::Shared | Door::Rest => "/".to_owned(),
        Door::Grpc => GRPC_PREFIX.to_owned(),
    })
}

fn matching(path: PathSpecifier) -> RouteMatch {
    RouteMatch { path_specifier: Some(path), ..RouteMatch::default() }
}

fn internal_model(version: &str) -> HeaderValueOption {
    overwrite(header::INTERNAL_MODEL, version)
}

fn route_header(version: &str) -> HeaderValueOption {
    append(header::ROUTE, token(version))
}

fn token(version: &str) -> String {
    format!(":{version}:")
}

fn host(routes: Vec<Route>) -> VirtualHost {
    VirtualHost { name: HOST.to_owned(), domains: vec!["*".to_owned()], routes, ..VirtualHost::default() }
}

fn scope(name: &str, host: VirtualHost) -> Resource {
    let message = ScopedRouteConfiguration {
        name: name.to_owned(),
        // Without a name of its own: the scope has one, and there are very many of them.
        route_configuration: Some(RouteConfiguration {
            virtual_hosts: vec![host],
            // Order keeps a scope from naming a cluster that is not there; Envoy's own check would refuse all scopes
            // of a response for one.
            validate_clusters: flag(false),
            ..RouteConfiguration::default()
        }),
        key: Some(ScopeKey { fragments: vec![Fragment { r#type: Some(fragment::Type::StringKey(name.to_owned())) }] }),
        ..ScopedRouteConfiguration::default()
    };
    Resource::new(Kind::ScopedRoute, name, encode(&message))
}
