//! An Envoy without traffic: a delta ADS client that subscribes, acknowledges and reconnects in the order that Envoy
//! 1.40 does, keeps what it applied, and can be told to hold its acknowledgements of routes back or to refuse them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::config::route::v3::ScopedRouteConfiguration;
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};
use envoy_types::pb::google::rpc::Status as ErrorDetail;
use prost::Message;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;

use crate::world::{World, channel, until};

const CLUSTERS: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const ENDPOINTS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
const LISTENERS: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
const SCOPES: &str = "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration";

/// What Envoy answers for names that are declared and not served.
const UNAVAILABLE: u32 = 503;

/// Requests that may wait for the socket; every response has at most three.
const REQUESTS: usize = 1_000;

/// Resources of one type by name: version and bytes.
type Resources = BTreeMap<String, (String, Vec<u8>)>;

/// Who serves a name: versions and their shares.
pub type Shares = Vec<(String, u32)>;

/// A connected Envoy.
pub struct Envoy {
    seen: watch::Receiver<Seen>,
    orders: mpsc::UnboundedSender<Order>,
    running: JoinHandle<()>,
    node: String,
}

/// What an Envoy has seen since it connected.
#[derive(Clone, Default)]
pub struct Seen {
    applied: BTreeMap<&'static str, Resources>,
    /// Routes that came and are held back or were refused: the last shares of each name.
    offered: BTreeMap<String, Option<Shares>>,
    /// Everything that was applied to a name, oldest first.
    history: Vec<(String, Option<Shares>)>,
    /// It has applied a first answer about routes.
    pub synced: bool,
    /// Resources and removals that came, by the last word of their type.
    pub received: Vec<String>,
    ended: bool,
}

enum Order {
    HoldRoutes,
    Release,
    Refuse(String),
    RefuseEndpoints(Option<&'static str>),
}

struct Client {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    tell: watch::Sender<Seen>,
    asked: BTreeSet<&'static str>,
    holds: bool,
    held: Vec<DeltaDiscoveryResponse>,
    refuses: Option<String>,
    refuses_endpoints: Option<&'static str>,
}

impl Envoy {
    /// A new Envoy; waits until it has its first routes.
    pub async fn start(world: &World, node: &str) -> Envoy {
        let envoy = Envoy::connect(world, node, BTreeMap::new()).await;
        envoy.until("it has routes", |seen| seen.synced).await;
        envoy
    }

    /// A new Envoy that may have to wait for its first routes.
    pub async fn open(world: &World, node: &str) -> Envoy {
        Envoy::connect(world, node, BTreeMap::new()).await
    }

    /// Comes back with everything it has.
    pub async fn reconnect(self, world: &World) -> Envoy {
        self.running.abort();
        let applied = self.seen.borrow().applied.clone();
        Envoy::connect(world, &self.node, applied).await
    }

    async fn connect(world: &World, node: &str, applied: BTreeMap<&'static str, Resources>) -> Envoy {
        let (requests, outgoing) = mpsc::channel(REQUESTS);
        let (tell, seen) = watch::channel(Seen { applied, ..Seen::default() });
        let (orders, mut inbox) = mpsc::unbounded_channel();
        let asked = BTreeSet::new();
        let mut client =
            Client { requests, tell, asked, holds: false, held: Vec::new(), refuses: None, refuses_endpoints: None };
        client.begin(node).await;
        let mut service = AggregatedDiscoveryServiceClient::new(channel(world.xds)).max_decoding_message_size(1 << 30);
        let responses = service.delta_aggregated_resources(ReceiverStream::new(outgoing)).await;
        let mut responses = responses.unwrap().into_inner();
        let running = tokio::spawn(async move {
            loop {
                tokio::select! {
                    response = responses.message() => match response {
                        Ok(Some(response)) => client.take(response).await,
                        Ok(None) | Err(_) => break,
                    },
                    order = inbox.recv() => match order {
                        Some(order) => client.obey(order).await,
                        None => break,
                    },
                }
            }
            client.tell.send_modify(|seen| seen.ended = true);
        });
        Envoy { seen, orders, running, node: node.to_owned() }
    }

    /// From now on it neither applies nor acknowledges routes.
    pub fn hold_routes(&self) {
        self.orders.send(Order::HoldRoutes).expect("it is connected");
    }

    /// Applies and acknowledges what was held, and all that comes.
    pub fn release(&self) {
        self.orders.send(Order::Release).expect("it is connected");
    }

    /// Refuses the routes of a name.
    pub fn refuse(&self, name: &str) {
        self.orders.send(Order::Refuse(name.to_owned())).expect("it is connected");
    }

    /// Refuses all endpoints, or does no more.
    pub fn refuse_endpoints(&self, saying: Option<&'static str>) {
        self.orders.send(Order::RefuseEndpoints(saying)).expect("it is connected");
    }

    pub async fn until(&self, what: &str, holds: impl Fn(&Seen) -> bool) -> Seen {
        until(&self.seen, &format!("envoy {}: {what}", self.node), holds).await
    }

    /// Waits until it routes the name so.
    pub async fn until_shares(&self, name: &str, shares: &[(&str, u32)]) -> Seen {
        self.until(&format!("{name} is {shares:?}"), |seen| equal(seen.shares(name).as_ref(), shares)).await
    }

    /// Waits until it was sent such a route and holds it back.
    pub async fn until_offered(&self, name: &str, shares: &[(&str, u32)]) -> Seen {
        let is = |seen: &Seen| equal(seen.offered.get(name).and_then(Option::as_ref), shares);
        self.until(&format!("{name} is offered as {shares:?}"), is).await
    }

    /// Waits until it was sent the removal of a route and holds it back.
    pub async fn until_removal_offered(&self, name: &str) {
        let is = |seen: &Seen| seen.offered.get(name) == Some(&None);
        self.until(&format!("the removal of {name} is offered"), is).await;
    }

    pub fn now(&self) -> Seen {
        self.seen.borrow().clone()
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl Seen {
    /// Who serves the name, as applied.
    pub fn shares(&self, name: &str) -> Option<Shares> {
        self.applied.get(SCOPES)?.get(name).and_then(|(_, bytes)| shares(bytes))
    }

    /// It answers for the name that nobody serves it.
    pub fn is_unserved(&self, name: &str) -> bool {
        self.applied.get(SCOPES).is_some_and(|scopes| scopes.contains_key(name)) && self.shares(name).is_none()
    }

    /// It has nothing for the name.
    pub fn is_unknown(&self, name: &str) -> bool {
        !self.applied.get(SCOPES).is_some_and(|scopes| scopes.contains_key(name))
    }

    /// Everything that was applied to the name.
    pub fn history(&self, name: &str) -> Vec<Option<Shares>> {
        self.history.iter().filter(|(other, _)| other == name).map(|(_, shares)| shares.clone()).collect()
    }

    /// How many scopes of models it has.
    pub fn models(&self) -> usize {
        let scopes = self.applied.get(SCOPES).into_iter().flatten();
        scopes.filter(|(name, _)| !name.starts_with('.')).count()
    }

    /// The response is about names that nobody serves, before and after.
    fn leaves_all_unserved(&self, response: &DeltaDiscoveryResponse) -> bool {
        let body = |resource: &Resource| resource.resource.as_ref().and_then(|any| shares(&any.value));
        let before = |name: &str| self.shares(name).is_some();
        let mut names = response.resources.iter().map(|resource| &resource.name).chain(&response.removed_resources);
        response.resources.iter().all(|resource| body(resource).is_none()) && !names.any(|name| before(name))
    }

    /// Everything it has, to be compared.
    pub fn all(&self) -> &BTreeMap<&'static str, Resources> {
        &self.applied
    }
}

impl fmt::Debug for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.applied.values().flat_map(Resources::keys).collect();
        f.debug_struct("Seen")
            .field("applied", &names)
            .field("offered", &self.offered)
            .field("history", &self.history)
            .field("received", &self.received)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

impl Client {
    async fn begin(&mut self, node: &str) {
        let known: Vec<&'static str> = self.tell.borrow().applied.keys().copied().collect();
        let node = Node { id: node.to_owned(), cluster: "switchyard".to_owned(), ..Node::default() };
        self.ask(CLUSTERS, Some(node)).await;
        // One that comes back asks for all it had at once.
        for kind in [ENDPOINTS, LISTENERS, SCOPES].into_iter().filter(|kind| known.contains(kind)) {
            self.ask(kind, None).await;
        }
    }

    /// Subscribes to a type for the first time on this stream.
    async fn ask(&mut self, kind: &'static str, node: Option<Node>) {
        if !self.asked.insert(kind) {
            return;
        }
        let (versions, names) = {
            let seen = self.tell.borrow();
            let have = seen.applied.get(kind).into_iter().flatten();
            let versions = have.map(|(name, (version, _))| (name.clone(), version.clone())).collect();
            let clusters = seen.applied.get(CLUSTERS).into_iter().flatten().map(|(name, _)| name.clone());
            (versions, if kind == ENDPOINTS { clusters.collect() } else { Vec::new() })
        };
        let request = DeltaDiscoveryRequest {
            node,
            type_url: kind.to_owned(),
            resource_names_subscribe: names,
            initial_resource_versions: versions,
            ..DeltaDiscoveryRequest::default()
        };
        self.send(request).await;
    }

    async fn send(&self, request: DeltaDiscoveryRequest) {
        // The stream may have ended; then the reader says so.
        let _ended = self.requests.send(request).await;
    }

    async fn obey(&mut self, order: Order) {
        match order {
            Order::HoldRoutes => self.holds = true,
            Order::Refuse(name) => self.refuses = Some(name),
            Order::RefuseEndpoints(saying) => self.refuses_endpoints = saying,
            Order::Release => {
                self.holds = false;
                for response in std::mem::take(&mut self.held) {
                    self.apply(response).await;
                }
            }
        }
    }

    async fn take(&mut self, response: DeltaDiscoveryResponse) {
        let is_scopes = response.type_url == SCOPES;
        self.tell.send_modify(|seen| {
            let kind = response.type_url.rsplit('.').next().unwrap_or_default();
            let names = response.resources.iter().map(|resource| &resource.name).chain(&response.removed_resources);
            seen.received.extend(names.map(|name| format!("{kind} {name}")));
        });
        let is_refused = |name: &String| self.refuses.as_ref() == Some(name);
        let refuses_scopes = is_scopes && response.resources.iter().any(|resource| is_refused(&resource.name));
        let of_endpoints = self.refuses_endpoints.filter(|_| response.type_url == ENDPOINTS);
        let refused = of_endpoints.or(refuses_scopes.then_some("no such thing"));
        let is_held = is_scopes && self.holds && !self.tell.borrow().leaves_all_unserved(&response);
        if is_scopes && (is_held || refused.is_some()) {
            self.tell.send_modify(|seen| {
                for resource in &response.resources {
                    let body = resource.resource.as_ref().map(|any| any.value.as_slice()).unwrap_or_default();
                    seen.offered.insert(resource.name.clone(), shares(body));
                }
                seen.offered.extend(response.removed_resources.iter().map(|name| (name.clone(), None)));
            });
        }
        if let Some(message) = refused {
            let why = ErrorDetail { code: 3, message: message.to_owned(), ..ErrorDetail::default() };
            let (type_url, response_nonce) = (response.type_url, response.nonce);
            let request = DeltaDiscoveryRequest {
                type_url,
                response_nonce,
                error_detail: Some(why),
                ..DeltaDiscoveryRequest::default()
            };
            self.send(request).await;
        } else if is_held {
            self.held.push(response);
        } else {
            self.apply(response).await;
        }
    }

    async fn apply(&mut self, response: DeltaDiscoveryResponse) {
        let kinds = [CLUSTERS, ENDPOINTS, LISTENERS, SCOPES];
        let kind = kinds.into_iter().find(|kind| response.type_url == *kind).expect("a type that was asked for");
        let added: Vec<String> = response.resources.iter().map(|resource| resource.name.clone()).collect();
        let removed = response.removed_resources.clone();
        self.tell.send_modify(|seen| {
            let mut history = Vec::new();
            let have = seen.applied.entry(kind).or_default();
            for resource in response.resources {
                let body = resource.resource.map(|any| any.value).unwrap_or_default();
                if kind == SCOPES {
                    history.push((resource.name.clone(), shares(&body)));
                }
                have.insert(resource.name, (resource.version, body));
            }
            for name in response.removed_resources {
                have.remove(&name);
                if kind == SCOPES {
                    history.push((name, None));
                }
            }
            // Whether a name that nobody serves is declared changes nothing here.
            history.retain(|(name, shares)| shares.is_some() || seen.history(name).last().is_some_and(Option::is_some));
            seen.history.extend(history);
            seen.synced |= kind == SCOPES;
        });
        let has_endpoints = self.asked.contains(ENDPOINTS);
        // Endpoints are asked for before the clusters are acknowledged, the rest when all of it is there.
        if kind == CLUSTERS && has_endpoints && !(added.is_empty() && removed.is_empty()) {
            let request = DeltaDiscoveryRequest {
                type_url: ENDPOINTS.to_owned(),
                resource_names_subscribe: added,
                resource_names_unsubscribe: removed,
                ..DeltaDiscoveryRequest::default()
            };
            self.send(request).await;
        } else if kind == CLUSTERS {
            self.ask(ENDPOINTS, None).await;
        }
        let (type_url, response_nonce) = (kind.to_owned(), response.nonce);
        self.send(DeltaDiscoveryRequest { type_url, response_nonce, ..DeltaDiscoveryRequest::default() }).await;
        match kind {
            ENDPOINTS => self.ask(LISTENERS, None).await,
            LISTENERS => self.ask(SCOPES, None).await,
            _ => {}
        }
    }
}

/// Who serves, by the last route of a scope: the ones before it keep clients where they are. Nobody, where Envoy itself
/// says that it is so.
fn shares(scope: &[u8]) -> Option<Shares> {
    let scope = ScopedRouteConfiguration::decode(scope).expect("a scope");
    let hosts = scope.route_configuration.expect("inline routes").virtual_hosts;
    let route = hosts.into_iter().flat_map(|host| host.routes).last()?;
    let action = match route.action? {
        Action::Route(action) => action,
        Action::DirectResponse(answer) if answer.status == UNAVAILABLE => return None,
        _ => return Some(vec![(route.name, 100)]),
    };
    let Some(ClusterSpecifier::WeightedClusters(clusters)) = action.cluster_specifier else {
        return Some(vec![(route.name, 100)]);
    };
    let share = |cluster: envoy_types::pb::envoy::config::route::v3::weighted_cluster::ClusterWeight| {
        let header = cluster.request_headers_to_add.into_iter().next().and_then(|option| option.header);
        (header.expect("a header that names the version").value, cluster.weight.expect("a weight").value)
    };
    Some(clusters.clusters.into_iter().map(share).collect())
}

fn equal(seen: Option<&Shares>, wanted: &[(&str, u32)]) -> bool {
    let wanted: Shares = wanted.iter().map(|(version, share)| ((*version).to_owned(), *share)).collect();
    if wanted.is_empty() { seen.is_none() } else { seen == Some(&wanted) }
}
