//! Clients that do not play along, over real sockets: each costs a bounded amount and nobody else anything.

use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use envoy_types::pb::google::rpc::Status as Refusal;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use xds::{Ads, Change, Config, Feedback, Key, Kind, StreamStatus};

use crate::peer::resource;
use crate::socket::{DEADLINE, client, delta, node, serve_as, until};

/// More than a socket and a stream hold between them.
const SCOPES: usize = 1_000;
const BODY_BYTES: usize = 20_000;
const CHANGES: usize = 200;
const LOOPS: usize = 300;

/// A stream of all scopes, and what it has been sent.
struct Subscriber {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Subscriber {
    async fn open(address: SocketAddr, id: &str) -> Subscriber {
        let (requests, outgoing) = mpsc::channel(8);
        requests.send(DeltaDiscoveryRequest { node: node(id), ..delta(Kind::ScopedRoute, "") }).await.unwrap();
        let mut client = client(address).await.max_decoding_message_size(usize::MAX);
        let responses = client.delta_aggregated_resources(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
        Subscriber { requests, responses }
    }

    async fn next(&mut self) -> DeltaDiscoveryResponse {
        tokio::time::timeout(DEADLINE, self.responses.message()).await.expect("in time").unwrap().expect("not the end")
    }

    async fn acknowledge(&mut self) -> DeltaDiscoveryResponse {
        let response = self.next().await;
        self.requests.send(delta(Kind::ScopedRoute, &response.nonce)).await.unwrap();
        response
    }
}

async fn world(lag_after: Duration) -> (Ads, mpsc::Receiver<Feedback>, SocketAddr) {
    let (ads, feedback, address) =
        serve_as(Config { lag_after, drain_grace: lag_after, first_answers: 1, ..Config::default() }).await;
    let body = "x".repeat(BODY_BYTES);
    let changes = (0..SCOPES).map(|i| Change::Put(resource(Kind::ScopedRoute, &format!("m{i}"), &body))).collect();
    ads.publish(changes, vec![]).unwrap();
    ads.open(false);
    (ads, feedback, address)
}

/// Changes one scope again and again; each time the subscriber has it and the owner is told so.
async fn everybody_else_is_served(ads: &Ads, feedback: &mut mpsc::Receiver<Feedback>, subscriber: &mut Subscriber) {
    let key = Key::new(Kind::ScopedRoute, "m0");
    for turn in 0..CHANGES {
        let change = Change::Put(resource(Kind::ScopedRoute, "m0", &format!("{turn}")));
        let revision = ads.publish(vec![change], vec![key.clone()]).unwrap();
        let response = subscriber.acknowledge().await;
        assert_eq!(response.resources.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(), ["m0"]);
        let applied = Feedback::Applied { key: key.clone(), revision };
        let heard = async { while feedback.recv().await.expect("open") != applied {} };
        tokio::time::timeout(DEADLINE, heard).await.expect("applied in time");
    }
}

fn named<'a>(streams: &'a [StreamStatus], id: &str) -> &'a StreamStatus {
    streams.iter().find(|stream| stream.node == id).expect("a stream of that node")
}

#[tokio::test]
async fn a_client_that_stops_reading_costs_a_bounded_amount_and_delays_nobody() {
    let (ads, mut feedback, address) = world(Duration::from_millis(300)).await;
    let deaf = Subscriber::open(address, "deaf").await;
    until(&ads, "it is told", |streams| streams.iter().any(|stream| stream.counters.responses == 1)).await;
    // The only place for a first answer is not its for longer than it may lag.
    let mut subscriber = Subscriber::open(address, "good").await;
    subscriber.acknowledge().await;
    until(&ads, "both are told", |streams| streams.iter().filter(|s| s.counters.responses == 1).count() == 2).await;
    everybody_else_is_served(&ads, &mut feedback, &mut subscriber).await;
    let streams = ads.streams();
    let status = named(&streams, "deaf");
    // One response under way, a cursor, and nothing that grows with what changed meanwhile.
    let kind = &status.kinds[0];
    assert_eq!((status.counters.responses, kind.in_flight, kind.pending, kind.held), (1, SCOPES, 0, 0));
    assert_eq!(named(&streams, "good").counters.acks, 1 + CHANGES as u64);
    // When it reads at last it is told the newest of what it missed, once.
    let mut deaf = deaf;
    deaf.acknowledge().await;
    let missed = deaf.acknowledge().await;
    assert_eq!(missed.resources.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(), ["m0"]);
    until(&ads, "it has all", |streams| named(streams, "deaf").synced && !named(streams, "deaf").lagging).await;
}

/// More than may be in their first answers at a time, and none of them acknowledges it.
#[tokio::test]
async fn clients_that_never_acknowledge_do_not_keep_others_from_their_first_answers() {
    let config = Config { lag_after: 10 * DEADLINE, ..Config::default() };
    let deaf = 3 * config.first_answers;
    let (ads, _feedback, address) = serve_as(config).await;
    ads.publish(vec![Change::Put(resource(Kind::ScopedRoute, "iris", "1"))], vec![]).unwrap();
    ads.open(false);
    let mut all = Vec::new();
    for number in 0..deaf {
        all.push(Subscriber::open(address, &format!("deaf-{number}")).await);
    }
    until(&ads, "they are there", |streams| streams.len() == deaf).await;
    Subscriber::open(address, "good").await.acknowledge().await;
}

#[tokio::test]
async fn a_client_that_refuses_everything_is_sent_each_thing_a_few_times_and_then_nothing() {
    let (ads, mut feedback, address) = world(DEADLINE).await;
    let mut subscriber = Subscriber::open(address, "good").await;
    subscriber.acknowledge().await;
    let mut refuses = Subscriber::open(address, "no").await;
    let refusing = tokio::spawn(async move {
        while let Ok(Some(response)) = refuses.responses.message().await {
            let error_detail = Some(Refusal { message: "n".repeat(100_000), ..Refusal::default() });
            let nack = DeltaDiscoveryRequest { error_detail, ..delta(Kind::ScopedRoute, &response.nonce) };
            refuses.requests.send(nack).await.unwrap();
        }
    });
    // Halved until each is alone: a tree with as many leaves has less than twice as many nodes.
    until(&ads, "all is refused", |streams| {
        streams.iter().any(|stream| stream.node == "no" && stream.kinds.iter().any(|kind| kind.quarantined == SCOPES))
    })
    .await;
    let before = named(&ads.streams(), "no").counters.responses;
    assert!(before <= 2 * SCOPES as u64, "{before} responses for {SCOPES} resources");
    let mut rejected = 0;
    while let Ok(heard) = feedback.try_recv() {
        rejected += usize::from(matches!(heard, Feedback::Rejected { .. }));
    }
    assert!(rejected <= SCOPES, "{rejected} refusals were told of {SCOPES} resources");
    everybody_else_is_served(&ads, &mut feedback, &mut subscriber).await;
    // What changed is tried again, once for each time that it was seen to have changed.
    let tried = named(&ads.streams(), "no").counters.responses - before;
    assert!(tried <= CHANGES as u64, "{tried} responses for {CHANGES} changes of one resource");
    refusing.abort();
}

#[tokio::test]
async fn a_client_that_reconnects_in_a_loop_leaves_nothing_behind() {
    let (ads, mut feedback, address) = world(Duration::from_millis(300)).await;
    let mut subscriber = Subscriber::open(address, "good").await;
    subscriber.acknowledge().await;
    let looping = tokio::spawn(async move {
        for turn in 0..LOOPS {
            let mut one = Subscriber::open(address, "again").await;
            // Before, during and after its first answer.
            match turn % 3 {
                0 => {}
                1 => drop(one.next().await),
                _ => drop(one.acknowledge().await),
            }
        }
    });
    everybody_else_is_served(&ads, &mut feedback, &mut subscriber).await;
    looping.await.unwrap();
    until(&ads, "only the good one is there", |streams| streams.len() == 1 && streams[0].node == "good").await;
    // Nobody is waited for longer than the grace.
    let key = Key::new(Kind::ScopedRoute, "m0");
    let revision = ads.publish(vec![Change::Remove(key.clone())], vec![key.clone()]).unwrap();
    assert_eq!(subscriber.acknowledge().await.removed_resources, ["m0"]);
    let released = Feedback::Released { key, revision };
    let heard = async { while feedback.recv().await.expect("open") != released {} };
    tokio::time::timeout(DEADLINE, heard).await.expect("released in time");
}

#[tokio::test]
async fn a_request_of_very_many_empty_names_is_refused_before_it_costs_memory() {
    let (_ads, _feedback, address) = world(DEADLINE).await;
    let resource_names_subscribe = vec![String::new(); 1_000_001];
    let first = DeltaDiscoveryRequest { node: node("many"), resource_names_subscribe, ..delta(Kind::Route, "") };
    let (requests, outgoing) = mpsc::channel(1);
    requests.send(first).await.unwrap();
    let mut client = client(address).await;
    let mut responses = client.delta_aggregated_resources(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
    let ended = tokio::time::timeout(DEADLINE, responses.message()).await.expect("in time");
    let status = ended.expect_err("the end");
    assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{status}");
    assert!(status.message().contains("1000000"), "{status}");
}
