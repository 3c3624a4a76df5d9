//! A client of the protocol without an opinion: it sends what it is told and shows what comes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use envoy_types::pb::google::rpc::Status as WireStatus;
use http::uri::PathAndQuery;
use prost::Message;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;
use tonic_prost::ProstCodec;
use xds::Kind;

const DEADLINE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    Sotw,
    Delta,
}

/// What all types have in common, and a version that the server does not see.
#[derive(Clone, PartialEq, Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "1000")]
    version: String,
}

/// An encoded resource.
pub fn body(name: &str, version: &str) -> Vec<u8> {
    Named { name: name.to_owned(), version: version.to_owned() }.encode_to_vec()
}

pub fn kind(short: &str) -> Kind {
    match short {
        "CDS" => Kind::Cluster,
        "EDS" => Kind::Endpoints,
        "LDS" => Kind::Listener,
        "SRDS" => Kind::ScopedRoute,
        "RDS" => Kind::Route,
        "SDS" => Kind::Secret,
        "RTDS" => Kind::Runtime,
        _ => panic!("{short} is no type"),
    }
}

/// The method of a type, or of ADS.
fn path(mode: Mode, of: Option<&str>) -> PathAndQuery {
    let (service, what) = match of {
        None => ("discovery.v3.AggregatedDiscoveryService", "AggregatedResources"),
        Some("CDS") => ("cluster.v3.ClusterDiscoveryService", "Clusters"),
        Some("EDS") => ("endpoint.v3.EndpointDiscoveryService", "Endpoints"),
        Some("LDS") => ("listener.v3.ListenerDiscoveryService", "Listeners"),
        Some("SRDS") => ("route.v3.ScopedRoutesDiscoveryService", "ScopedRoutes"),
        Some("RDS") => ("route.v3.RouteDiscoveryService", "Routes"),
        Some("SDS") => ("secret.v3.SecretDiscoveryService", "Secrets"),
        Some("RTDS") => ("runtime.v3.RuntimeDiscoveryService", "Runtime"),
        Some(other) => panic!("{other} is no type"),
    };
    let variant = match mode {
        Mode::Sotw => "Stream",
        Mode::Delta => "Delta",
    };
    format!("/envoy.service.{service}/{variant}{what}").parse().expect("a path")
}

/// A response of either variant.
#[derive(Clone, Debug)]
pub struct Answer {
    pub type_url: String,
    pub version: String,
    pub nonce: String,
    /// Names and versions; each once.
    pub resources: BTreeMap<String, String>,
    pub removed: BTreeSet<String>,
}

pub struct Client {
    channel: Channel,
}

pub struct Stream {
    is_aggregated: bool,
    wire: Wire,
    is_first: bool,
    nonces: BTreeMap<&'static str, String>,
}

enum Wire {
    Sotw(mpsc::Sender<DiscoveryRequest>, Streaming<DiscoveryResponse>),
    Delta(mpsc::Sender<DeltaDiscoveryRequest>, Streaming<DeltaDiscoveryResponse>),
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        let endpoint = Channel::from_shared(format!("http://{address}")).expect("an address").tcp_nodelay(true);
        Client { channel: endpoint.connect().await.expect("connect") }
    }

    /// A stream of ADS, or of one type.
    pub async fn open(&self, mode: Mode, of: Option<&str>) -> Stream {
        let mut grpc = tonic::client::Grpc::new(self.channel.clone());
        grpc.ready().await.expect("connected");
        let path = path(mode, of);
        let wire = match mode {
            Mode::Sotw => {
                let (sender, requests) = mpsc::channel(64);
                let request = tonic::Request::new(ReceiverStream::new(requests));
                let answer = grpc.streaming(request, path, ProstCodec::default()).await.expect("a stream");
                Wire::Sotw(sender, answer.into_inner())
            }
            Mode::Delta => {
                let (sender, requests) = mpsc::channel(64);
                let request = tonic::Request::new(ReceiverStream::new(requests));
                let answer = grpc.streaming(request, path, ProstCodec::default()).await.expect("a stream");
                Wire::Delta(sender, answer.into_inner())
            }
        };
        Stream { is_aggregated: of.is_none(), wire, is_first: true, nonces: BTreeMap::new() }
    }
}

impl Stream {
    fn node(&mut self) -> Option<Node> {
        // Only the first request of a stream says it, and every client says the same.
        std::mem::take(&mut self.is_first).then(|| Node { id: "test-id".into(), ..Node::default() })
    }

    /// On a stream of one type its name is implied.
    fn type_url(&self, of: &str) -> String {
        if self.is_aggregated { kind(of).type_url().to_owned() } else { String::new() }
    }

    /// In SotW the names are all that are wanted.
    pub async fn subscribe(
        &mut self,
        of: &str,
        names: &[String],
        dropped: &[String],
        initial: BTreeMap<String, String>,
        foreign_nonce: bool,
    ) {
        let last = self.nonces.get(kind(of).type_url()).cloned().unwrap_or_default();
        let nonce = if foreign_nonce { "foreign".to_owned() } else { last };
        let (node, type_url) = (self.node(), self.type_url(of));
        match &self.wire {
            Wire::Sotw(sender, _) => {
                let resource_names = names.to_vec();
                let request =
                    DiscoveryRequest { node, type_url, resource_names, response_nonce: nonce, ..Default::default() };
                sender.send(request).await.expect("the stream is open");
            }
            Wire::Delta(sender, _) => {
                let request = DeltaDiscoveryRequest {
                    node,
                    type_url,
                    resource_names_subscribe: names.to_vec(),
                    resource_names_unsubscribe: dropped.to_vec(),
                    initial_resource_versions: initial.into_iter().collect(),
                    // A request of its own accord answers nothing.
                    response_nonce: if foreign_nonce { nonce } else { String::new() },
                    ..Default::default()
                };
                sender.send(request).await.expect("the stream is open");
            }
        }
    }

    /// ACKs or NACKs; SotW says its names again.
    pub async fn answer(&mut self, of: &str, nonce: &str, names: &[String], refuses: bool) {
        let (node, type_url, response_nonce) = (self.node(), self.type_url(of), nonce.to_owned());
        let error_detail = refuses.then(|| WireStatus { code: 3, message: "refused".into(), details: vec![] });
        match &self.wire {
            Wire::Sotw(sender, _) => {
                let resource_names = names.to_vec();
                let request = DiscoveryRequest {
                    node,
                    type_url,
                    resource_names,
                    response_nonce,
                    error_detail,
                    ..Default::default()
                };
                sender.send(request).await.expect("the stream is open");
            }
            Wire::Delta(sender, _) => {
                let request =
                    DeltaDiscoveryRequest { node, type_url, response_nonce, error_detail, ..Default::default() };
                sender.send(request).await.expect("the stream is open");
            }
        }
    }

    pub async fn next(&mut self) -> Answer {
        let named = |bytes: &[u8]| {
            let named = Named::decode(bytes).expect("a named resource");
            (named.name, named.version)
        };
        let answer = match &mut self.wire {
            Wire::Sotw(_, responses) => {
                let next = tokio::time::timeout(DEADLINE, responses.message()).await.expect("a response in time");
                let response = next.expect("no error").expect("the stream is open");
                let resources: Vec<_> = response.resources.iter().map(|any| named(&any.value)).collect();
                let (type_url, version, nonce) = (response.type_url, response.version_info, response.nonce);
                Answer { type_url, version, nonce, resources: once(resources), removed: BTreeSet::new() }
            }
            Wire::Delta(_, responses) => {
                let next = tokio::time::timeout(DEADLINE, responses.message()).await.expect("a response in time");
                let response = next.expect("no error").expect("the stream is open");
                let resource = |resource: envoy_types::pb::envoy::service::discovery::v3::Resource| {
                    let (name, version) = named(&resource.resource.expect("a body").value);
                    assert_eq!(name, resource.name);
                    assert!(
                        version.is_empty() || version == resource.version,
                        "{name}: {version} {}",
                        resource.version
                    );
                    (name, version)
                };
                let resources: Vec<_> = response.resources.into_iter().map(resource).collect();
                let removed = response.removed_resources.into_iter().collect();
                let (type_url, version, nonce) = (response.type_url, response.system_version_info, response.nonce);
                Answer { type_url, version, nonce, resources: once(resources), removed }
            }
        };
        let known = Kind::ALL.into_iter().find(|kind| kind.type_url() == answer.type_url).expect("a known type");
        self.nonces.insert(known.type_url(), answer.nonce.clone());
        answer
    }
}

/// A name that comes twice in one response is an error of the protocol.
fn once(resources: Vec<(String, String)>) -> BTreeMap<String, String> {
    let count = resources.len();
    let map: BTreeMap<String, String> = resources.into_iter().collect();
    assert_eq!(map.len(), count, "a name came twice");
    map
}
