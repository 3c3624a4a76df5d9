//! The naive way to the same data plane: one route configuration with a route for each model, matched by header, one
//! after another. Listener, filters, clusters and order of updates are ours, so that only the look-up differs.

use anyhow::{Context, Result};
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::listener::v3::filter::ConfigType;
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::{
    HeaderMatcher, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{HttpConnectionManager, Rds};
use envoy_types::pb::envoy::r#type::matcher::v3::StringMatcher;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::google::protobuf::{BoolValue, Duration};
use prost::Message;
use xds::{Key, Kind, Resource};

/// The one route configuration.
const NAME: &str = "linear";

/// Our listener, with routes from the list.
pub(crate) fn listener(ours: &Resource) -> Result<Resource> {
    let mut listener = Listener::decode(ours.body().clone()).context("decode the listener")?;
    let filter = listener.filter_chains.first_mut().and_then(|chain| chain.filters.first_mut());
    let Some(ConfigType::TypedConfig(config)) = filter.and_then(|filter| filter.config_type.as_mut()) else {
        anyhow::bail!("the listener has no filter");
    };
    let mut connections = HttpConnectionManager::decode(config.value.as_slice()).context("decode its filter")?;
    let Some(RouteSpecifier::ScopedRoutes(scopes)) = connections.route_specifier.take() else {
        anyhow::bail!("the listener has no scoped routes");
    };
    connections.route_specifier =
        Some(RouteSpecifier::Rds(Rds { config_source: scopes.rds_config_source, route_config_name: NAME.to_owned() }));
    config.value = connections.encode_to_vec();
    Ok(ours.with_body(listener.encode_to_vec().into()))
}

/// The list. `routes` are models with their clusters.
pub(crate) fn routes<'a>(routes: impl Iterator<Item = (&'a str, &'a str)>) -> Resource {
    let mut clusters = Vec::<&str>::new();
    let routes: Vec<Route> = routes
        .map(|(model, cluster)| {
            if clusters.last() != Some(&cluster) {
                clusters.push(cluster);
            }
            route(model, cluster)
        })
        .collect();
    let host = VirtualHost { name: "h".to_owned(), domains: vec!["*".to_owned()], routes, ..VirtualHost::default() };
    let message = RouteConfiguration {
        name: NAME.to_owned(),
        virtual_hosts: vec![host],
        validate_clusters: Some(BoolValue { value: false }),
        ..RouteConfiguration::default()
    };
    let required = clusters.into_iter().map(|cluster| Key::new(Kind::Cluster, cluster));
    Resource::new(Kind::Route, NAME, message.encode_to_vec().into()).requires(required)
}

fn route(model: &str, cluster: &str) -> Route {
    let exact = StringMatcher { match_pattern: Some(MatchPattern::Exact(model.to_owned())), ..Default::default() };
    let header = HeaderMatcher {
        name: domain::header::MODEL.to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(exact)),
        ..HeaderMatcher::default()
    };
    Route {
        name: format!("{model}_1"),
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix("/".to_owned())),
            headers: vec![header],
            ..RouteMatch::default()
        }),
        action: Some(Action::Route(RouteAction {
            timeout: Some(Duration::default()),
            cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.to_owned())),
            ..RouteAction::default()
        })),
        ..Route::default()
    }
}
