//! The port for Envoys as a whole: whether it is well, how it is left, who is let go, and what `/metrics` says of it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use scheduler::Counters;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::world::{World, channel, loop_until};

const CLUSTERS: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";

/// What the documentation says: a silent peer is asked after 5 s and has 3 s for its answer.
const LET_GO_WITHIN: Duration = Duration::from_secs(9);

/// A second, and room for a busy machine: less than the scheduler gives its parts before it cuts them off.
const ENDS_WITHIN: Duration = Duration::from_secs(4);

pub async fn world(counters: &Arc<Counters>, first_sync_ms: Option<u64>) -> World {
    let counters = Arc::clone(counters);
    World::start_with(Arc::new(tempfile::tempdir().unwrap()), move |config| {
        config.counters = counters;
        config.decisions.first_sync_ms = first_sync_ms;
    })
    .await
}

async fn health(at: SocketAddr, service: &str) -> Result<ServingStatus, Code> {
    let request = HealthCheckRequest { service: service.to_owned() };
    let answer = HealthClient::new(channel(at)).check(request).await;
    answer.map(|answer| answer.get_ref().status()).map_err(|status| status.code())
}

/// Both directions of a stream.
type Requested = (mpsc::Sender<DeltaDiscoveryRequest>, Streaming<DeltaDiscoveryResponse>);

/// A client that asks for all clusters and acknowledges the first answer.
async fn stream(at: SocketAddr) -> Requested {
    let (requests, outgoing) = mpsc::channel(8);
    let node = Some(Node { id: "one\"of many".to_owned(), ..Node::default() });
    let first = DeltaDiscoveryRequest { node, type_url: CLUSTERS.to_owned(), ..DeltaDiscoveryRequest::default() };
    requests.send(first).await.unwrap();
    let mut client = AggregatedDiscoveryServiceClient::new(channel(at));
    let mut answers = client.delta_aggregated_resources(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap();
    let ack = DeltaDiscoveryRequest {
        type_url: CLUSTERS.to_owned(),
        response_nonce: answer.nonce,
        ..DeltaDiscoveryRequest::default()
    };
    requests.send(ack).await.unwrap();
    (requests, answers)
}

pub fn has(counters: &Counters, line: &str) -> Result<(), String> {
    let mut text = String::new();
    counters.write(&mut text);
    if text.lines().any(|found| found == line) { Ok(()) } else { Err(text) }
}

#[tokio::test]
async fn every_port_answers_standard_health_checks() {
    let counters = Arc::default();
    let world = world(&counters, None).await;
    let ports = [
        (world.control_at, "seldon.mlops.scheduler.Scheduler"),
        (world.agents, "seldon.mlops.agent.AgentService"),
        (world.workers_at, "switchyard.worker.v1.Workers"),
        (world.xds, "envoy.service.discovery.v3.AggregatedDiscoveryService"),
    ];
    // Envoys are answered a moment after the ports are there.
    loop_until("Envoys are answered", async || match health(world.xds, "").await {
        Ok(ServingStatus::Serving) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    for (at, service) in ports {
        assert_eq!(health(at, "").await, Ok(ServingStatus::Serving), "{service}");
        assert_eq!(health(at, service).await, Ok(ServingStatus::Serving), "{service}");
        assert_eq!(health(at, "nobody").await, Err(Code::NotFound), "{service}");
    }
    let watch = HealthCheckRequest::default();
    let mut told = HealthClient::new(channel(world.control_at)).watch(watch).await.unwrap().into_inner();
    assert_eq!(told.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    drop(world.stop().await);
    assert_eq!(told.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
}

#[tokio::test]
async fn envoys_are_not_served_while_it_is_not_known_what_there_is() {
    let counters = Arc::default();
    let world = world(&counters, Some(600_000)).await;
    assert_eq!(health(world.xds, "").await, Ok(ServingStatus::NotServing));
    assert_eq!(health(world.control_at, "").await, Ok(ServingStatus::Serving), "the operator can be heard");
}

#[tokio::test]
async fn envoys_of_a_scheduler_that_stops_are_told_to_come_back() {
    let counters = Arc::default();
    let world = world(&counters, None).await;
    let (_requests, mut answers) = stream(world.xds).await;
    let labels = "{node=\"one\\\"of many\",stream=\"1\",type=\"Cluster\"}";
    loop_until("it is shown, with nothing on its way", async || {
        has(&counters, &format!("switchyard_xds_stream_in_flight{labels} 0"))
    })
    .await;
    let began = std::time::Instant::now();
    drop(world.stop().await);
    println!("stopped after {:?}", began.elapsed());
    let status = answers.message().await.expect_err("an end");
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "the server is stopping; connect again"));
}

/// Forwards one connection until it is told to stand still; then each side believes that the other one is there.
async fn standing_proxy(to: SocketAddr, stand: oneshot::Receiver<()>) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut inner, _) = listener.accept().await.unwrap();
        let mut outer = TcpStream::connect(to).await.unwrap();
        let is_over = tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut inner, &mut outer) => true,
            _ = stand => false,
        };
        if !is_over {
            // Held and not read.
            std::future::pending::<()>().await;
        }
    });
    at
}

/// A scheduler and a client that was served and says nothing more.
async fn with_one_that_stands_still(counters: &Arc<Counters>) -> (World, Requested) {
    let world = world(counters, None).await;
    let (stand, stands) = oneshot::channel();
    let stream = stream(standing_proxy(world.xds, stands).await).await;
    loop_until("it is there", async || has(counters, "switchyard_xds_synced_streams 1")).await;
    stand.send(()).unwrap();
    (world, stream)
}

#[tokio::test]
async fn a_client_that_stands_still_does_not_keep_a_scheduler_from_its_end() {
    let counters = Arc::default();
    let (world, _stream) = with_one_that_stands_still(&counters).await;
    let began = std::time::Instant::now();
    drop(world.stop().await);
    let took = began.elapsed();
    assert!(took < ENDS_WITHIN, "{took:?}");
}

#[tokio::test]
async fn an_envoy_that_vanished_without_a_word_is_let_go() {
    let counters = Arc::default();
    let (_world, _stream) = with_one_that_stands_still(&counters).await;
    // The seconds of production pass without being waited for.
    tokio::time::pause();
    let began = tokio::time::Instant::now();
    loop_until("it is let go", async || {
        tokio::time::advance(Duration::from_millis(100)).await;
        has(&counters, "switchyard_xds_streams 0")
    })
    .await;
    let took = began.elapsed();
    tokio::time::resume();
    println!("let go after {took:?}");
    assert!(took <= LET_GO_WITHIN, "let go after {took:?}");
}
