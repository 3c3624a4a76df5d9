//! Both methods over a real socket, from publication to feedback.

use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};
use xds::{Ads, Change, Config, Feedback, Key, Kind, StreamStatus};

use crate::peer::resource;

pub const DEADLINE: Duration = Duration::from_secs(10);

pub async fn serve(drain_grace: Duration) -> (Ads, mpsc::Receiver<Feedback>, SocketAddr) {
    serve_as(Config { lag_after: 2 * DEADLINE, drain_grace, ..Config::default() }).await
}

pub async fn serve_as(config: Config) -> (Ads, mpsc::Receiver<Feedback>, SocketAddr) {
    let (ads, feedback) = Ads::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::builder()
        .add_routes(ads.routes())
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)));
    tokio::spawn(server);
    (ads, feedback, address)
}

pub async fn client(address: SocketAddr) -> AggregatedDiscoveryServiceClient<Channel> {
    AggregatedDiscoveryServiceClient::connect(format!("http://{address}")).await.unwrap()
}

pub fn node(id: &str) -> Option<Node> {
    Some(Node { id: id.into(), ..Node::default() })
}

pub fn delta(kind: Kind, nonce: &str) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: kind.type_url().into(),
        response_nonce: nonce.into(),
        ..DeltaDiscoveryRequest::default()
    }
}

fn nack(kind: Kind, nonce: &str) -> DeltaDiscoveryRequest {
    let error = envoy_types::pb::google::rpc::Status { message: "no such".into(), ..Default::default() };
    DeltaDiscoveryRequest { error_detail: Some(error), ..delta(kind, nonce) }
}

/// A stream that has acknowledged the first answer.
async fn begin(
    address: SocketAddr,
    request: DeltaDiscoveryRequest,
) -> (mpsc::Sender<DeltaDiscoveryRequest>, Streaming<DeltaDiscoveryResponse>) {
    let (requests, outgoing) = mpsc::channel(8);
    requests.send(request).await.unwrap();
    let mut client = client(address).await;
    let mut responses = client.delta_aggregated_resources(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
    let first = responses.message().await.unwrap().unwrap();
    let ack = DeltaDiscoveryRequest { type_url: first.type_url, response_nonce: first.nonce, ..Default::default() };
    requests.send(ack).await.unwrap();
    (requests, responses)
}

/// The next feedback that is not about connections.
pub async fn told(feedback: &mut mpsc::Receiver<Feedback>) -> Feedback {
    loop {
        let next =
            tokio::time::timeout(DEADLINE, feedback.recv()).await.expect("feedback in time").expect("still open");
        if !matches!(next, Feedback::Connected { .. }) {
            return next;
        }
    }
}

async fn connected(feedback: &mut mpsc::Receiver<Feedback>, wanted: usize) {
    let wait = async {
        while let Some(next) = feedback.recv().await {
            if next == (Feedback::Connected { streams: wanted }) {
                return;
            }
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.expect("connected in time");
}

pub async fn until(ads: &Ads, what: &str, is: impl Fn(&[StreamStatus]) -> bool) -> Vec<StreamStatus> {
    let began = tokio::time::Instant::now();
    loop {
        let streams = ads.streams();
        if is(&streams) {
            return streams;
        }
        assert!(began.elapsed() < DEADLINE, "not in time: {what}; {streams:?}");
        tokio::task::yield_now().await;
    }
}

/// The table forgets a removal when every stream was sent it; its acknowledgement still counts.
#[tokio::test]
async fn removal_is_released_by_its_acknowledgement_whatever_was_published_meanwhile() {
    let (ads, mut feedback, address) = serve(Duration::ZERO).await;
    let scope = Key::new(Kind::ScopedRoute, "iris");
    ads.publish(vec![Change::Put(resource(Kind::ScopedRoute, "iris", "1"))], vec![]).unwrap();
    let (requests, outgoing) = mpsc::channel(8);
    requests.send(DeltaDiscoveryRequest { node: node("envoy-0"), ..delta(Kind::ScopedRoute, "") }).await.unwrap();
    let mut client = client(address).await;
    let mut responses = client.delta_aggregated_resources(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
    ads.open(false);
    let first = responses.message().await.unwrap().unwrap();
    requests.send(delta(Kind::ScopedRoute, &first.nonce)).await.unwrap();
    until(&ads, "synced", |streams| streams.iter().any(|stream| stream.synced)).await;

    let revision = ads.publish(vec![Change::Remove(scope.clone())], vec![scope.clone()]).unwrap();
    let removal = responses.message().await.unwrap().unwrap();
    assert_eq!(removal.removed_resources, ["iris"]);
    let passed = |stream: &StreamStatus| stream.kinds.iter().all(|status| status.cursor >= revision);
    until(&ads, "the removal was sent", |streams| streams.iter().all(passed)).await;
    ads.publish(vec![Change::Put(resource(Kind::ScopedRoute, "other", "1"))], vec![]).unwrap();
    requests.send(delta(Kind::ScopedRoute, &removal.nonce)).await.unwrap();
    assert_eq!(told(&mut feedback).await, Feedback::Applied { key: scope.clone(), revision });
    assert_eq!(told(&mut feedback).await, Feedback::Released { key: scope, revision });
}

/// It has answered before anybody asks it, and says nothing more by itself.
#[tokio::test]
async fn what_one_refused_is_applied_by_one_that_came_meanwhile_and_took_it() {
    let (ads, mut feedback, address) = serve(Duration::ZERO).await;
    ads.open(false);
    let scope = Key::new(Kind::ScopedRoute, "iris");
    let wildcard = |name: &str| DeltaDiscoveryRequest { node: node(name), ..delta(Kind::ScopedRoute, "") };
    let (requests, mut responses) = begin(address, wildcard("envoy-0")).await;
    until(&ads, "synced", |streams| streams.iter().any(|stream| stream.synced)).await;
    let changes = vec![Change::Put(resource(Kind::ScopedRoute, "iris", "1"))];
    let revision = ads.publish(changes, vec![scope.clone()]).unwrap();
    let second = responses.message().await.unwrap().unwrap();
    let _other = begin(address, wildcard("envoy-1")).await;
    until(&ads, "both are synced", |streams| streams.iter().filter(|stream| stream.synced).count() == 2).await;
    requests.send(nack(Kind::ScopedRoute, &second.nonce)).await.unwrap();
    assert!(matches!(told(&mut feedback).await, Feedback::Rejected { .. }));
    assert_eq!(told(&mut feedback).await, Feedback::Refused { key: scope.clone(), revision });
    assert_eq!(told(&mut feedback).await, Feedback::Applied { key: scope.clone(), revision });
    assert_eq!(told(&mut feedback).await, Feedback::Released { key: scope, revision });
}

/// As gRPC clients do, which add names to the stream that they have.
#[tokio::test]
async fn what_one_refused_is_applied_by_one_that_asks_for_it_later() {
    let (ads, mut feedback, address) = serve(Duration::ZERO).await;
    ads.open(false);
    let names = ["a", "b"].map(|name| Key::new(Kind::Endpoints, name));
    ads.publish(
        names.iter().map(|key| Change::Put(resource(Kind::Endpoints, key.name.as_str(), "1"))).collect(),
        vec![],
    )
    .unwrap();
    let ask = |name: &str| DeltaDiscoveryRequest {
        node: node("client"),
        resource_names_subscribe: vec![name.to_owned()],
        ..delta(Kind::Endpoints, "")
    };
    let (one, mut to_one) = begin(address, ask("b")).await;
    let (other, mut to_other) = begin(address, ask("a")).await;
    until(&ads, "both are synced", |streams| streams.iter().filter(|stream| stream.synced).count() == 2).await;
    let key = names[1].clone();
    let changes = vec![Change::Put(resource(Kind::Endpoints, "b", "2"))];
    let revision = ads.publish(changes, vec![key.clone()]).unwrap();
    let second = to_one.message().await.unwrap().unwrap();
    one.send(nack(Kind::Endpoints, &second.nonce)).await.unwrap();
    assert!(matches!(told(&mut feedback).await, Feedback::Rejected { .. }));
    assert_eq!(told(&mut feedback).await, Feedback::Refused { key: key.clone(), revision });
    other.send(ask("b")).await.unwrap();
    let late = to_other.message().await.unwrap().unwrap();
    other.send(delta(Kind::Endpoints, &late.nonce)).await.unwrap();
    assert_eq!(told(&mut feedback).await, Feedback::Applied { key: key.clone(), revision });
    assert_eq!(told(&mut feedback).await, Feedback::Released { key, revision });
}

#[tokio::test]
async fn delta_from_publication_to_release() {
    let (ads, mut feedback, address) = serve(Duration::ZERO).await;
    let scope = Key::new(Kind::ScopedRoute, "iris");
    ads.publish(vec![Change::Put(resource(Kind::ScopedRoute, "iris", "1"))], vec![]).unwrap();

    let (requests, outgoing) = mpsc::channel(8);
    requests.send(DeltaDiscoveryRequest { node: node("envoy-0"), ..delta(Kind::ScopedRoute, "") }).await.unwrap();
    let mut client = client(address).await;
    let mut responses = client.delta_aggregated_resources(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
    ads.open(false);
    let first = responses.message().await.unwrap().unwrap();
    assert_eq!(first.type_url, Kind::ScopedRoute.type_url());
    assert_eq!(first.resources.len(), 1);
    let sent = &first.resources[0];
    assert_eq!((&*sent.name, &*sent.resource.as_ref().unwrap().value), ("iris", b"1".as_slice()));
    // A type nobody knows changes nothing.
    let unknown =
        DeltaDiscoveryRequest { type_url: "type.googleapis.com/x.Y".into(), ..DeltaDiscoveryRequest::default() };
    requests.send(unknown).await.unwrap();
    requests.send(delta(Kind::ScopedRoute, &first.nonce)).await.unwrap();
    until(&ads, "synced", |streams| streams.iter().any(|stream| stream.synced)).await;

    let changes = vec![Change::Put(resource(Kind::ScopedRoute, "iris", "2"))];
    let revision = ads.publish(changes, vec![scope.clone()]).unwrap();
    let second = responses.message().await.unwrap().unwrap();
    requests.send(delta(Kind::ScopedRoute, &second.nonce)).await.unwrap();
    assert_eq!(told(&mut feedback).await, Feedback::Applied { key: scope.clone(), revision });
    assert_eq!(told(&mut feedback).await, Feedback::Released { key: scope.clone(), revision });

    let bad = resource(Kind::ScopedRoute, "iris", "bad");
    let version = Some(bad.version());
    let revision = ads.publish(vec![Change::Put(bad)], vec![scope.clone()]).unwrap();
    let third = responses.message().await.unwrap().unwrap();
    requests.send(nack(Kind::ScopedRoute, &third.nonce)).await.unwrap();
    let rejected =
        Feedback::Rejected { key: scope.clone(), version, node: "envoy-0".into(), message: "no such".into() };
    assert_eq!(told(&mut feedback).await, rejected);
    assert_eq!(told(&mut feedback).await, Feedback::Refused { key: scope.clone(), revision });

    let revision = ads.publish(vec![Change::Remove(scope.clone())], vec![scope.clone()]).unwrap();
    let fourth = responses.message().await.unwrap().unwrap();
    assert_eq!(fourth.removed_resources, ["iris"]);
    requests.send(delta(Kind::ScopedRoute, &fourth.nonce)).await.unwrap();
    assert_eq!(told(&mut feedback).await, Feedback::Applied { key: scope.clone(), revision });
    assert_eq!(told(&mut feedback).await, Feedback::Released { key: scope.clone(), revision });
    let streams = ads.streams();
    let counters = &streams[0].counters;
    assert_eq!((counters.responses, counters.resources, counters.acks, counters.nacks), (4, 3, 3, 1));
    assert_eq!(counters.last_error.as_deref(), Some("no such"));

    drop((requests, responses, client));
    connected(&mut feedback, 0).await;
    until(&ads, "gone", <[StreamStatus]>::is_empty).await;
}

#[tokio::test]
async fn sotw_over_the_socket_and_nothing_before_it_is_open() {
    let (ads, mut feedback, address) = serve(Duration::ZERO).await;
    let (requests, outgoing) = mpsc::channel(8);
    let first = DiscoveryRequest {
        node: node("grpc-client"),
        type_url: Kind::Listener.type_url().into(),
        ..DiscoveryRequest::default()
    };
    requests.send(first.clone()).await.unwrap();
    let mut client = client(address).await;
    let mut responses = client.stream_aggregated_resources(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
    ads.publish(vec![Change::Put(resource(Kind::Listener, "http", "1"))], vec![]).unwrap();
    assert_eq!(ads.streams(), []);
    ads.open(false);
    let response = responses.message().await.unwrap().unwrap();
    assert_eq!(response.resources.len(), 1);
    let ack = DiscoveryRequest {
        node: None,
        version_info: response.version_info,
        response_nonce: response.nonce,
        ..first.clone()
    };
    requests.send(ack).await.unwrap();
    until(&ads, "synced", |streams| streams.iter().any(|stream| stream.synced)).await;
    let key = Key::new(Kind::Listener, "http");
    let revision = ads.publish(vec![Change::Remove(key.clone())], vec![key.clone()]).unwrap();
    let response = responses.message().await.unwrap().unwrap();
    assert_eq!(response.resources.len(), 0);
    let ack = DiscoveryRequest { node: None, response_nonce: response.nonce, ..first };
    requests.send(ack).await.unwrap();
    assert_eq!(told(&mut feedback).await, Feedback::Applied { key, revision });
}

#[tokio::test]
async fn a_first_request_without_node_id_or_type_is_refused_by_name() {
    let (ads, mut feedback, address) = serve(Duration::ZERO).await;
    ads.open(false);
    let anonymous = delta(Kind::Cluster, "");
    let untyped = DeltaDiscoveryRequest { node: node("envoy-0"), ..DeltaDiscoveryRequest::default() };
    for (request, field) in [(anonymous, "node.id"), (untyped, "type_url")] {
        let requests = tokio_stream::once(request);
        let mut responses = client(address).await.delta_aggregated_resources(requests).await.unwrap().into_inner();
        let refused = responses.message().await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
        assert!(refused.message().contains(field), "{refused}");
    }
    connected(&mut feedback, 0).await;
    let key = Key::new(Kind::Cluster, "c");
    let revision = ads.publish(vec![], vec![key.clone()]).unwrap();
    assert_eq!(told(&mut feedback).await, Feedback::Applied { key: key.clone(), revision });
    assert_eq!(told(&mut feedback).await, Feedback::Released { key, revision });
}

#[tokio::test]
async fn a_lost_stream_is_waited_for_only_as_long_as_the_grace() {
    let (ads, mut feedback, address) = serve(Duration::from_millis(200)).await;
    ads.open(false);
    let key = Key::new(Kind::Cluster, "c");
    let (requests, outgoing) = mpsc::channel(8);
    requests.send(DeltaDiscoveryRequest { node: node("envoy-0"), ..delta(Kind::Cluster, "") }).await.unwrap();
    let mut client = client(address).await;
    let mut responses = client.delta_aggregated_resources(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
    let first = responses.message().await.unwrap().unwrap();
    assert_eq!(first.resources.len(), 0, "answered although there is nothing");
    drop((requests, responses, client));
    connected(&mut feedback, 0).await;
    let began = tokio::time::Instant::now();
    let revision = ads.publish(vec![Change::Put(resource(Kind::Cluster, "c", "1"))], vec![key.clone()]).unwrap();
    assert_eq!(told(&mut feedback).await, Feedback::Applied { key: key.clone(), revision });
    assert!(began.elapsed() < Duration::from_millis(150));
    assert_eq!(told(&mut feedback).await, Feedback::Released { key, revision });
}

/// First answers are few at a time; who does not acknowledge one holds the others up for a while, and no longer.
#[tokio::test]
async fn first_answers_are_given_to_few_at_a_time() {
    for acknowledges in [true, false] {
        let lag_after = if acknowledges { 2 * DEADLINE } else { Duration::from_millis(300) };
        let (ads, mut feedback, address) =
            serve_as(Config { first_answers: 1, first_answer_within: lag_after, lag_after, ..Config::default() }).await;
        ads.publish(vec![Change::Put(resource(Kind::ScopedRoute, "iris", "1"))], vec![]).unwrap();
        ads.open(false);
        let mut streams = Vec::new();
        for index in 0..2 {
            let (requests, outgoing) = mpsc::channel(8);
            let first = DeltaDiscoveryRequest { node: node(&format!("envoy-{index}")), ..delta(Kind::ScopedRoute, "") };
            requests.send(first).await.unwrap();
            let mut client = client(address).await;
            let responses = client.delta_aggregated_resources(ReceiverStream::new(outgoing)).await.unwrap();
            streams.push((requests, responses.into_inner()));
            connected(&mut feedback, index + 1).await;
        }
        let [(first_requests, first), (second_requests, second)] = &mut streams[..] else { panic!("two streams") };
        let response = first.message().await.unwrap().unwrap();
        assert_eq!(response.resources.len(), 1);
        // The other one is served by name meanwhile, as only what is large waits.
        let named = DeltaDiscoveryRequest { resource_names_subscribe: vec!["r".into()], ..delta(Kind::Route, "") };
        second_requests.send(named).await.unwrap();
        let answer = second.message().await.unwrap().unwrap();
        assert_eq!(answer.type_url, Kind::Route.type_url(), "the first answer came although another one is not over");
        if acknowledges {
            first_requests.send(delta(Kind::ScopedRoute, &response.nonce)).await.unwrap();
        }
        let answer = tokio::time::timeout(DEADLINE, second.message()).await.expect("in time").unwrap().unwrap();
        assert_eq!(answer.resources.len(), 1);
    }
}
