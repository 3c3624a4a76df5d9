//! When a server is well, how it stops, how its streams grow old, and that one whose client vanished is not kept.

use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Status, Streaming};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use xds::{Ads, Change, Config, Feedback, Kind};

use crate::peer::resource;
use crate::socket::{DEADLINE, client, delta, node, until};

/// The names that are known beside the empty one.
const SERVICES: [&str; 9] = [
    "envoy.service.discovery.v3.AggregatedDiscoveryService",
    "envoy.service.cluster.v3.ClusterDiscoveryService",
    "envoy.service.endpoint.v3.EndpointDiscoveryService",
    "envoy.service.listener.v3.ListenerDiscoveryService",
    "envoy.service.route.v3.ScopedRoutesDiscoveryService",
    "envoy.service.route.v3.RouteDiscoveryService",
    "envoy.service.secret.v3.SecretDiscoveryService",
    "envoy.service.runtime.v3.RuntimeDiscoveryService",
    "envoy.service.status.v3.ClientStatusDiscoveryService",
];

/// How soon a vanished peer is noticed here; production has seconds.
const PING_EVERY: Duration = Duration::from_millis(100);

struct World {
    ads: Ads,
    _feedback: mpsc::Receiver<Feedback>,
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<Result<(), tonic::transport::Error>>,
}

async fn world(config: Config) -> World {
    let (ads, feedback) = Ads::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let ended = async { drop(stopped.await) };
    let serving =
        tokio::spawn(Server::builder().add_routes(ads.routes()).serve_with_incoming_shutdown(incoming, ended));
    World { ads, _feedback: feedback, address, stop, serving }
}

type Answers = Streaming<DeltaDiscoveryResponse>;

/// A stream that has asked for the routes of names.
async fn routes(address: SocketAddr, id: &str) -> Result<(mpsc::Sender<DeltaDiscoveryRequest>, Answers), Status> {
    let (requests, outgoing) = mpsc::channel(8);
    let subscribe = vec!["r".into()];
    let first = DeltaDiscoveryRequest { node: node(id), resource_names_subscribe: subscribe, ..delta(Kind::Route, "") };
    requests.send(first).await.unwrap();
    let answers = client(address).await.delta_aggregated_resources(ReceiverStream::new(outgoing)).await?.into_inner();
    Ok((requests, answers))
}

/// The next response, acknowledged.
async fn next((requests, answers): &mut (mpsc::Sender<DeltaDiscoveryRequest>, Answers)) -> Result<(), Status> {
    let answer = tokio::time::timeout(DEADLINE, answers.message()).await.expect("in time")?.expect("not the end");
    // It may have ended meanwhile.
    let _ended = requests.send(delta(Kind::Route, &answer.nonce)).await;
    Ok(())
}

/// How a stream ends, whatever is said before.
async fn end(mut stream: (mpsc::Sender<DeltaDiscoveryRequest>, Answers)) -> Status {
    loop {
        if let Err(status) = next(&mut stream).await {
            return status;
        }
    }
}

async fn health(address: SocketAddr) -> HealthClient<Channel> {
    HealthClient::new(Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap())
}

fn about(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.into() }
}

async fn word(words: &mut Streaming<HealthCheckResponse>) -> Result<ServingStatus, Status> {
    let word = tokio::time::timeout(DEADLINE, words.message()).await.expect("in time")?.expect("not the end");
    Ok(word.status())
}

#[tokio::test]
async fn health_is_serving_only_while_streams_are_answered() {
    let world = world(Config::default()).await;
    let mut health = health(world.address).await;
    let mut watched = health.watch(about("")).await.unwrap().into_inner();
    let mut unknown = health.watch(about("nobody")).await.unwrap().into_inner();
    assert_eq!(word(&mut unknown).await.unwrap(), ServingStatus::ServiceUnknown);
    let is = async |wanted: ServingStatus| {
        let mut health = health.clone();
        for service in SERVICES.iter().copied().chain([""]) {
            assert_eq!(health.check(about(service)).await.unwrap().get_ref().status(), wanted, "{service}");
        }
        assert_eq!(health.check(about("nobody")).await.unwrap_err().code(), Code::NotFound);
    };
    assert_eq!(word(&mut watched).await.unwrap(), ServingStatus::NotServing);
    is(ServingStatus::NotServing).await;
    world.ads.open(false);
    assert_eq!(word(&mut watched).await.unwrap(), ServingStatus::Serving);
    is(ServingStatus::Serving).await;
    world.ads.drain(DEADLINE).await;
    assert_eq!(word(&mut watched).await.unwrap(), ServingStatus::NotServing);
    assert_eq!(word(&mut watched).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(word(&mut unknown).await.unwrap_err().code(), Code::Unavailable);
    is(ServingStatus::NotServing).await;
    world.ads.open(false);
    is(ServingStatus::NotServing).await;
}

#[tokio::test]
async fn a_drained_server_ends_its_streams_and_its_connections_and_takes_no_new_ones() {
    const STREAMS: usize = 50;
    let world = world(Config::default()).await;
    world.ads.publish(vec![Change::Put(resource(Kind::Route, "r", "1"))], vec![]).unwrap();
    world.ads.open(false);
    let mut streams = Vec::new();
    for index in 0..STREAMS {
        let mut stream = routes(world.address, &format!("envoy-{index}")).await.unwrap();
        next(&mut stream).await.unwrap();
        streams.push(stream);
    }
    // Clients that are connected, and not told yet to come back by another connection.
    let mut idle = client(world.address).await;
    let mut health = health(world.address).await;
    let mut words = health.watch(about("")).await.unwrap().into_inner();
    assert_eq!(word(&mut words).await.unwrap(), ServingStatus::Serving);

    let began = tokio::time::Instant::now();
    let draining = tokio::spawn({
        let ads = world.ads.clone();
        async move { ads.drain(DEADLINE).await }
    });
    assert_eq!(word(&mut words).await.unwrap(), ServingStatus::NotServing);
    let first = DeltaDiscoveryRequest { node: node("late"), ..delta(Kind::Cluster, "") };
    let refused = idle.delta_aggregated_resources(tokio_stream::once(first)).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::Unavailable, "the server is stopping; connect again"));
    world.stop.send(()).unwrap();
    let mut last = Duration::ZERO;
    for stream in streams {
        let ended = end(stream).await;
        assert_eq!((ended.code(), ended.message()), (Code::Unavailable, "the server is stopping; connect again"));
        last = last.max(began.elapsed());
    }
    draining.await.unwrap();
    assert_eq!(world.ads.streams(), []);
    // Every client still holds its connection; the server has closed them.
    tokio::time::timeout(DEADLINE, world.serving).await.expect("it ends").unwrap().unwrap();
    println!("{STREAMS} streams ended within {last:?}, all connections after {:?}", began.elapsed());
}

#[tokio::test]
async fn who_waits_for_a_table_that_never_came_is_answered_nothing_but_the_end() {
    let world = world(Config::default()).await;
    world.ads.publish(vec![Change::Put(resource(Kind::Route, "r", "1"))], vec![]).unwrap();
    let (_requests, mut answers) = routes(world.address, "envoy-0").await.unwrap();
    world.ads.drain(DEADLINE).await;
    let ended = answers.message().await.unwrap_err();
    assert_eq!((ended.code(), ended.message()), (Code::Unavailable, "the server is stopping; connect again"));
}

/// Streams that end one after the other show that the time is over; there is nothing to look at otherwise.
#[tokio::test]
async fn a_stream_of_age_ends_when_its_client_has_acknowledged_what_it_was_sent() {
    let age = Duration::from_millis(100);
    let config = Config { lag_after: 10 * DEADLINE, max_stream_age: Some(age), ..Config::default() };
    let world = world(config).await;
    world.ads.publish(vec![Change::Put(resource(Kind::Route, "r", "1"))], vec![]).unwrap();
    world.ads.open(false);
    let (requests, mut answers) = routes(world.address, "late").await.unwrap();
    let sent = answers.message().await.unwrap().unwrap();
    let began = tokio::time::Instant::now();
    for _ in 0..2 {
        let ended = end(routes(world.address, "prompt").await.unwrap()).await;
        let told = (ended.code(), ended.message());
        assert_eq!(told, (Code::Unavailable, "the stream has reached its age; connect again"));
    }
    assert!(began.elapsed() >= 2 * age, "streams live as long as they may: {:?}", began.elapsed());
    let streams = world.ads.streams();
    assert!(streams.iter().any(|stream| stream.node == "late"), "what is not acknowledged is waited for: {streams:?}");
    world.ads.publish(vec![Change::Put(resource(Kind::Route, "r", "2"))], vec![]).unwrap();
    requests.send(delta(Kind::Route, &sent.nonce)).await.unwrap();
    let ended = answers.message().await.expect_err("nothing more is sent");
    assert_eq!(ended.message(), "the stream has reached its age; connect again");
}

/// Forwards until it is told to stand still; then both sides believe that the other one is there.
async fn standing_proxy(to: SocketAddr, stands: watch::Receiver<bool>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut inner, _)) = listener.accept().await {
            let mut stands = stands.clone();
            tokio::spawn(async move {
                let mut outer = TcpStream::connect(to).await.unwrap();
                let told = async { stands.wait_for(|stands| *stands).await.is_ok() };
                let stands = tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut inner, &mut outer) => false,
                    stands = told => stands,
                };
                if stands {
                    // Held and not read, until the test is over.
                    std::future::pending::<()>().await;
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn the_stream_of_a_client_that_vanished_without_a_word_is_freed() {
    let (ads, _feedback) = Ads::new(Config::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut server =
        Server::builder().http2_keepalive_interval(Some(PING_EVERY)).http2_keepalive_timeout(Some(5 * PING_EVERY));
    tokio::spawn(
        server.add_routes(ads.routes()).serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true))),
    );
    ads.publish(vec![Change::Put(resource(Kind::Route, "r", "1"))], vec![]).unwrap();
    ads.open(false);
    let (stand, stands) = watch::channel(false);
    let proxy = standing_proxy(address, stands).await;
    let mut well = routes(address, "well").await.unwrap();
    let mut vanishes = routes(proxy, "vanishes").await.unwrap();
    next(&mut well).await.unwrap();
    next(&mut vanishes).await.unwrap();
    until(&ads, "both acknowledged", |streams| streams.len() == 2 && streams.iter().all(|one| one.counters.acks == 1))
        .await;
    stand.send(true).unwrap();
    let left = until(&ads, "one is gone", |streams| streams.len() < 2).await;
    assert_eq!(left.iter().map(|stream| stream.node.as_str()).collect::<Vec<_>>(), ["well"]);
    ads.publish(vec![Change::Put(resource(Kind::Route, "r", "2"))], vec![]).unwrap();
    next(&mut well).await.expect("the other one is served");
    // What it counts: the second answer, too.
    let streams = until(&ads, "acknowledged", |streams| streams.iter().all(|stream| stream.counters.acks == 2)).await;
    assert!(streams[0].bytes > 100 && streams[0].quiet_since <= ads.now(), "{streams:?}");
}
