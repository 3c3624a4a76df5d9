//! A small gateway out of a list: each line `name address [address …]` is a cluster, and requests for `/name` go to it.

use std::collections::HashSet;
use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig};
use envoy_types::pb::envoy::config::core::v3::address::Address as Addresses;
use envoy_types::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{
    Address, AggregatedConfigSource, ApiVersion, ConfigSource, SocketAddress,
};
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints};
use envoy_types::pb::envoy::config::listener::v3::filter::ConfigType as FilterConfig;
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener};
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::{Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost};
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_filter::ConfigType;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds,
};
use envoy_types::pb::google::protobuf::Any;
use prost::Message;
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use xds::{Ads, Change, Config, Key, Kind, Resource};

/// The one route configuration, and the one listener.
const ROUTES: &str = "routes";
const LISTENER: &str = "http";

/// One line of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub name: String,
    pub addresses: Vec<SocketAddr>,
}

/// The list; empty lines and those that begin with `#` say nothing.
pub fn parse(text: &str) -> Result<Vec<Target>, String> {
    let lines = text.lines().enumerate().map(|(number, line)| (number + 1, line.trim()));
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let target = |(number, line): (usize, &str)| {
        let mut words = line.split_whitespace();
        let name = words.next().unwrap_or_default().to_owned();
        if name.contains(['/', '?', '#']) {
            return Err(format!("line {number}: {name} is no single segment of a path"));
        }
        let address =
            |word: &str| word.parse().map_err(|_| format!("line {number}: {word:?} is no address like 127.0.0.1:80"));
        let addresses = words.map(address).collect::<Result<Vec<SocketAddr>, String>>()?;
        if addresses.is_empty() {
            return Err(format!("line {number}: {name} has no address"));
        }
        Ok(Target { name, addresses })
    };
    let targets = lines.map(target).collect::<Result<Vec<Target>, String>>()?;
    let mut names = HashSet::new();
    match targets.iter().find(|target| !names.insert(&target.name)) {
        Some(target) => Err(format!("{} is there twice", target.name)),
        None => Ok(targets),
    }
}

/// Everything that Envoy needs for the list.
fn resources(targets: &[Target], port: u16) -> Vec<Resource> {
    let mut resources: Vec<Resource> = targets.iter().flat_map(|target| [cluster(target), endpoints(target)]).collect();
    resources.push(routes(targets));
    resources.push(listener(port));
    resources
}

/// Puts what the list says and removes what it does not say any more; equal resources are no change.
pub fn publish(ads: &Ads, targets: &[Target], before: &[Target], port: u16) -> Result<(), xds::Dangling> {
    let mut changes: Vec<Change> = resources(targets, port).into_iter().map(Change::Put).collect();
    let gone = before.iter().filter(|old| !targets.iter().any(|target| target.name == old.name));
    changes.extend(gone.flat_map(|old| {
        [Kind::Cluster, Kind::Endpoints].map(|kind| Change::Remove(Key::new(kind, old.name.as_str())))
    }));
    ads.publish(changes, Vec::new()).map(drop)
}

/// Starts the server and says how Envoy finds it. Keep what is returned: the server ends with it.
pub async fn serve(address: SocketAddr) -> Result<Ads, Box<dyn Error>> {
    let config = Config { drain_grace: Duration::ZERO, ..Config::default() };
    let (ads, mut feedback) = Ads::new(config);
    let listener = TcpListener::bind(address).await?;
    println!("{}", bootstrap(listener.local_addr()?));
    let server = tonic::transport::Server::builder().add_routes(ads.routes());
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true))));
    tokio::spawn(async move {
        while let Some(told) = feedback.recv().await {
            eprintln!("{told:?}");
        }
    });
    Ok(ads)
}

/// What `envoy -c` takes, as YAML.
fn bootstrap(server: SocketAddr) -> String {
    let (host, port) = (server.ip(), server.port());
    format!(
        r"node: {{id: example, cluster: example}}
dynamic_resources:
  ads_config: {{api_type: DELTA_GRPC, transport_api_version: V3, grpc_services: [{{envoy_grpc: {{cluster_name: xds}}}}]}}
  cds_config: {{ads: {{}}, resource_api_version: V3}}
  lds_config: {{ads: {{}}, resource_api_version: V3}}
static_resources:
  clusters:
  - name: xds
    type: STATIC
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http2_protocol_options: {{}}}}
    load_assignment:
      cluster_name: xds
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: {host}, port_value: {port}}}}}}}}}]}}]
"
    )
}

fn any<M: Message + prost::Name>(message: &M) -> Any {
    Any { type_url: format!("type.googleapis.com/{}", M::full_name()), value: message.encode_to_vec() }
}

fn ads() -> Option<ConfigSource> {
    Some(ConfigSource {
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource::default())),
        resource_api_version: ApiVersion::V3.into(),
        ..ConfigSource::default()
    })
}

fn socket(address: SocketAddr) -> Option<Address> {
    let socket = SocketAddress {
        address: address.ip().to_string(),
        port_specifier: Some(PortSpecifier::PortValue(address.port().into())),
        ..SocketAddress::default()
    };
    Some(Address { address: Some(Addresses::SocketAddress(socket)) })
}

fn cluster(target: &Target) -> Resource {
    let cluster = Cluster {
        name: target.name.clone(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        eds_cluster_config: Some(EdsClusterConfig { eds_config: ads(), ..EdsClusterConfig::default() }),
        ..Cluster::default()
    };
    Resource::new(Kind::Cluster, target.name.as_str(), cluster.encode_to_vec().into())
}

fn endpoints(target: &Target) -> Resource {
    let endpoint = |address: &SocketAddr| LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint { address: socket(*address), ..Endpoint::default() })),
        ..LbEndpoint::default()
    };
    let assignment = ClusterLoadAssignment {
        cluster_name: target.name.clone(),
        endpoints: vec![LocalityLbEndpoints {
            lb_endpoints: target.addresses.iter().map(endpoint).collect(),
            ..LocalityLbEndpoints::default()
        }],
        ..ClusterLoadAssignment::default()
    };
    Resource::new(Kind::Endpoints, target.name.as_str(), assignment.encode_to_vec().into())
}

/// Sent to an Envoy only when it can use every cluster that is named.
fn routes(targets: &[Target]) -> Resource {
    let route = |target: &Target| Route {
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::PathSeparatedPrefix(format!("/{}", target.name))),
            ..RouteMatch::default()
        }),
        action: Some(Action::Route(RouteAction {
            cluster_specifier: Some(ClusterSpecifier::Cluster(target.name.clone())),
            ..RouteAction::default()
        })),
        ..Route::default()
    };
    let host = VirtualHost {
        name: "all".into(),
        domains: vec!["*".into()],
        routes: targets.iter().map(route).collect(),
        ..VirtualHost::default()
    };
    let configuration =
        RouteConfiguration { name: ROUTES.into(), virtual_hosts: vec![host], ..RouteConfiguration::default() };
    let clusters = targets.iter().map(|target| Key::new(Kind::Cluster, target.name.as_str()));
    Resource::new(Kind::Route, ROUTES, configuration.encode_to_vec().into()).requires(clusters)
}

fn listener(port: u16) -> Resource {
    let router = HttpFilter {
        name: "envoy.filters.http.router".into(),
        config_type: Some(ConfigType::TypedConfig(any(&Router::default()))),
        ..HttpFilter::default()
    };
    let manager = HttpConnectionManager {
        stat_prefix: LISTENER.into(),
        http_filters: vec![router],
        route_specifier: Some(RouteSpecifier::Rds(Rds { config_source: ads(), route_config_name: ROUTES.into() })),
        ..HttpConnectionManager::default()
    };
    let filter = Filter {
        name: "envoy.filters.network.http_connection_manager".into(),
        config_type: Some(FilterConfig::TypedConfig(any(&manager))),
    };
    let listener = Listener {
        name: LISTENER.into(),
        address: socket(([127, 0, 0, 1], port).into()),
        filter_chains: vec![FilterChain { filters: vec![filter], ..FilterChain::default() }],
        ..Listener::default()
    };
    Resource::new(Kind::Listener, LISTENER, listener.encode_to_vec().into())
}
