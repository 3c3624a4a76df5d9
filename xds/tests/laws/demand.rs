//! Resources that are made when somebody asks for them: what a client is told meanwhile, and what the owner is told.

use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use proptest::prelude::*;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use xds::Kind::{Cluster, Endpoints, Listener};
use xds::{Ask, Change, Config, Feedback, Key, Kind, Mode, OnDemand, Request, Wish};

use crate::peer::{MADE, PATIENCE, Peer, names, resource};
use crate::socket::{client, node, serve_as, told};

const NOTHING: [&str; 0] = [];

fn put(kind: Kind, name: &str, body: &str) -> Change {
    Change::Put(resource(kind, name, body).named_only())
}

fn asked(kind: Kind, name: &str) -> Wish {
    Wish::Asked(Key::new(kind, name))
}

fn dropped(kind: Kind, name: &str) -> Wish {
    Wish::Dropped(Key::new(kind, name))
}

#[test]
fn a_name_that_is_made_on_demand_is_answered_when_it_is_made() {
    for mode in [Mode::Sotw, Mode::Delta] {
        let mut peer = Peer::on_demand(mode);
        assert_eq!(peer.ask(Listener, &["made"]), NOTHING);
        assert_eq!(peer.session.take_wishes(), [asked(Listener, "made")]);
        assert_eq!(peer.session.due(), Some(peer.now.after(PATIENCE)));
        assert_eq!(peer.apply(vec![put(Listener, "made", "1")]), ["Listener +made"]);
        assert_eq!(peer.ack(Listener), NOTHING);
        assert_eq!((peer.session.due(), peer.session.take_wishes()), (None, vec![]));
        assert_eq!(peer.apply(vec![put(Listener, "made", "2")]), ["Listener +made"]);
    }
}

#[test]
fn a_name_that_is_not_made_is_missing_after_patience_or_when_it_is_declined() {
    for (mode, missing) in [(Mode::Sotw, "Listener"), (Mode::Delta, "Listener -made")] {
        let mut peer = Peer::on_demand(mode);
        assert_eq!(peer.ask(Listener, &["made"]), NOTHING);
        peer.now = peer.now.after(PATIENCE);
        assert_eq!(peer.poll(), [missing]);
        assert_eq!(peer.session.due(), None);

        let mut peer = Peer::on_demand(mode);
        assert_eq!(peer.ask(Listener, &["made"]), NOTHING);
        peer.session.decline(&Key::new(Listener, "made"));
        assert_eq!(peer.poll(), [missing]);
        assert_eq!(peer.ack(Listener), NOTHING);
        assert_eq!(peer.apply(vec![put(Listener, "made", "1")]), ["Listener +made"], "it may be made later");
    }
}

/// In SotW a cluster that is not in an answer is gone: a client that comes back to a server that has just started has it
/// in use.
#[test]
fn what_a_client_has_in_use_is_never_said_to_be_gone_while_it_is_made() {
    let mut peer = Peer::on_demand(Mode::Sotw);
    peer.apply(vec![put(Listener, "made", "1"), put(Cluster, "made", "1"), put(Endpoints, "made", "1")]);
    peer.apply(vec![Change::Remove(Key::new(Cluster, "made"))]);
    peer.reconnect_on_demand();
    assert_eq!(peer.ask(Cluster, &["made", "other"]), NOTHING);
    assert_eq!(peer.ask(Endpoints, &["made"]), ["Endpoints +made"]);
    assert_eq!(peer.ask(Listener, &["made"]), ["Listener +made"]);
    // Taken away by an owner that did not hear in time that it is wanted again.
    assert_eq!(peer.ack(Listener), NOTHING);
    assert_eq!(peer.remove(Listener, "made"), NOTHING);
    assert_eq!(
        peer.apply(vec![put(Cluster, "made", "2"), put(Listener, "made", "1")]),
        ["Cluster +made", "Listener +made"]
    );
}

/// The same client again, with all that it asks for: what it is told of listeners must not lack one that waits for its
/// cluster.
#[test]
fn in_sotw_a_held_name_is_not_left_out_of_an_answer() {
    for on_demand in [true, false] {
        let mut peer = if on_demand { Peer::on_demand(Mode::Sotw) } else { Peer::new(Mode::Sotw) };
        let listener = resource(Listener, "made", "1").named_only().requires([Key::new(Cluster, "made")]);
        peer.apply(vec![Change::Put(listener), put(Cluster, "made", "1"), put(Endpoints, "made", "1")]);
        assert_eq!(peer.ask(Cluster, &["made"]), ["Cluster +made"]);
        assert_eq!(peer.ask(Listener, &["made"]), NOTHING);
        assert_eq!(peer.session.due(), Some(peer.now.after(PATIENCE)));
        // Others ask for it, so it is there; that there is no room for one more to ask does not take it away.
        peer.session.decline(&Key::new(Listener, "made"));
        assert_eq!(peer.poll(), NOTHING);
        assert_eq!(peer.ask(Endpoints, &["made"]), ["Endpoints +made"]);
        assert_eq!(peer.ack(Cluster), NOTHING);
        assert_eq!(peer.ack(Endpoints), ["Listener +made"]);
        assert_eq!(peer.ack(Listener), NOTHING);
        assert_eq!(peer.session.due(), None);
    }
}

#[test]
fn wildcards_ask_for_nothing_and_see_nothing_of_it() {
    for mode in [Mode::Sotw, Mode::Delta] {
        let mut peer = Peer::on_demand(mode);
        let all = vec![put(Listener, "made", "1"), put(Cluster, "made", "1"), put(Endpoints, "made", "1")];
        peer.apply(all);
        assert_eq!(peer.ask(Cluster, &[]), ["Cluster"]);
        assert_eq!(peer.ask(Listener, &[]), ["Listener"]);
        assert_eq!((peer.ack(Cluster), peer.ack(Listener)), (vec![], vec![]));
        assert_eq!(peer.apply(vec![put(Cluster, "made", "2")]), NOTHING);
        assert_eq!(peer.remove(Listener, "made"), NOTHING, "a wildcard never knew it");
        assert_eq!(peer.session.take_wishes(), []);
        assert_eq!(peer.ask(Endpoints, &["other"]).len(), usize::from(mode == Mode::Delta));
        assert_eq!(peer.session.take_wishes(), [], "endpoints follow from clusters");
    }
}

#[test]
fn dropped_names_are_told_in_both_variants() {
    let mut peer = Peer::on_demand(Mode::Sotw);
    peer.ask(Listener, &["made-1", "other"]);
    peer.ask(Listener, &["made-2", "other"]);
    let moved = [asked(Listener, "made-1"), dropped(Listener, "made-1"), asked(Listener, "made-2")];
    assert_eq!(peer.session.take_wishes(), moved);

    let mut peer = Peer::on_demand(Mode::Delta);
    peer.ask(Cluster, &["made-1", "other"]);
    peer.unsubscribe(Cluster, &["made-1", "made-3"]);
    assert_eq!(peer.session.take_wishes(), [asked(Cluster, "made-1"), dropped(Cluster, "made-1")]);
}

#[test]
fn a_name_that_is_dropped_and_asked_for_at_once_is_awaited() {
    let mut peer = Peer::on_demand(Mode::Delta);
    assert_eq!(peer.ask(Listener, &["made"]), NOTHING);
    let name = || names(&["made"]);
    let ask = Ask::Delta { subscribe: name(), unsubscribe: name(), initial: vec![] };
    assert_eq!(peer.request(Request { kind: Listener, nonce: None, error: None, ask }), NOTHING);
    let wishes = [asked(Listener, "made"), dropped(Listener, "made"), asked(Listener, "made")];
    assert_eq!(peer.session.take_wishes(), wishes);
    assert_eq!(peer.session.due(), Some(peer.now.after(PATIENCE)));
}

#[test]
fn nothing_is_due_before_what_is_awaited() {
    let mut peer = Peer::on_demand(Mode::Delta);
    let listener = resource(Listener, "http", "http").requires([Key::new(Cluster, "a")]);
    peer.apply(vec![Change::Put(resource(Cluster, "a", "a")), Change::Put(listener)]);
    assert_eq!(peer.ask(Cluster, &["a"]), ["Cluster +a"]);
    assert_eq!(peer.ask(Listener, &["*"]), NOTHING, "its cluster is not acknowledged");
    let whole_until = peer.now.after(PATIENCE);
    peer.now = peer.now.after(PATIENCE / 2);
    assert_eq!(peer.ask(Listener, &["made"]), NOTHING);
    let awaited_until = peer.now.after(PATIENCE);
    peer.now = whole_until;
    assert_eq!(peer.poll(), NOTHING);
    assert_eq!(peer.session.due(), Some(awaited_until), "not at once, again and again");
    peer.now = awaited_until;
    assert_eq!(peer.poll(), ["Listener -made"], "http still waits for its cluster");
}

#[test]
fn of_many_names_each_is_awaited() {
    let mut peer = Peer::on_demand(Mode::Delta);
    let all = ["made-1", "made-2", "made-3"];
    assert_eq!(peer.ask(Listener, &all), NOTHING);
    for name in ["made-2", "made-1"] {
        assert_eq!(peer.apply(vec![put(Listener, name, "1")]), NOTHING);
    }
    // It was there, and the owner did not hear in time that it is wanted again.
    assert_eq!(peer.remove(Listener, "made-1"), NOTHING);
    assert_eq!(peer.apply(vec![put(Listener, "made-3", "1")]), NOTHING);
    assert_eq!(peer.apply(vec![put(Listener, "made-1", "1")]), ["Listener +made-1 +made-2 +made-3"]);
}

#[test]
fn a_name_that_nobody_gives_is_not_made() {
    let mut peer = Peer::on_demand(Mode::Delta);
    let name = |bytes: usize| format!("made{}", "x".repeat(bytes - "made".len()));
    assert_eq!(peer.ask(Listener, &[&name(OnDemand::NAME_BYTES_MAX + 1)]).len(), 1, "there is none, and it is said");
    assert_eq!(peer.ack(Listener), NOTHING);
    assert_eq!(peer.ask(Listener, &[&name(OnDemand::NAME_BYTES_MAX)]), NOTHING);
    assert_eq!(peer.session.take_wishes().len(), 1);
}

#[derive(Clone, Debug)]
enum Step {
    Ask(BTreeNames),
    Make(u8),
    Remove(u8),
    Ack,
    Pass,
}

type BTreeNames = std::collections::BTreeSet<u8>;

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => proptest::collection::btree_set(0..4_u8, 1..4).prop_map(Step::Ask),
        4 => (0..4_u8).prop_map(Step::Make),
        1 => (0..4_u8).prop_map(Step::Remove),
        6 => Just(Step::Ack),
        1 => Just(Step::Pass),
    ]
}

proptest! {
    /// Whatever is asked for, made and taken away: the wishes add up to what is subscribed, and when all is said the
    /// client has exactly what there is of what it asks for.
    #[test]
    fn wishes_add_up_and_the_client_ends_with_what_there_is(steps in proptest::collection::vec(step(), 1..60)) {
        let mut peer = Peer::on_demand(Mode::Sotw);
        let name = |number: &u8| format!("made-{number}");
        let (mut wished, mut asks) = (std::collections::BTreeSet::new(), BTreeNames::new());
        let mut last = Vec::new();
        let mut unanswered = false;
        let mut hear = |said: Vec<String>, unanswered: &mut bool| {
            if let Some(response) = said.into_iter().next() {
                *unanswered = true;
                last = response.split_whitespace().skip(1).map(|word| word.trim_start_matches('+').to_owned()).collect();
            }
            last.clone()
        };
        for step in steps {
            let said = match step {
                Step::Ask(numbers) => {
                    asks = numbers;
                    let names: Vec<String> = asks.iter().map(name).collect();
                    // A SotW request answers the latest response if there is one.
                    unanswered = false;
                    peer.ask(Listener, &names.iter().map(String::as_str).collect::<Vec<_>>())
                }
                Step::Make(number) => peer.apply(vec![put(Listener, &name(&number), "1")]),
                Step::Remove(number) => peer.remove(Listener, &name(&number)),
                Step::Ack if unanswered => {
                    unanswered = false;
                    peer.ack(Listener)
                }
                Step::Ack => Vec::new(),
                Step::Pass => {
                    peer.now = peer.now.after(PATIENCE);
                    peer.poll()
                }
            };
            hear(said, &mut unanswered);
            for wish in peer.session.take_wishes() {
                match wish {
                    Wish::Asked(key) => prop_assert!(wished.insert(key)),
                    Wish::Dropped(key) => prop_assert!(wished.remove(&key)),
                }
            }
            let wanted: Vec<Key> = asks.iter().map(|number| Key::new(Listener, name(number))).collect();
            prop_assert_eq!(wished.iter().cloned().collect::<Vec<_>>(), wanted);
        }
        peer.now = peer.now.after(PATIENCE);
        let said = peer.poll();
        let mut has = hear(said, &mut unanswered);
        while unanswered {
            unanswered = false;
            let said = peer.ack(Listener);
            has = hear(said, &mut unanswered);
        }
        let live = asks.iter().map(name).filter(|name| peer.table.live(Listener, &name.as_str().into()).is_some());
        let live: Vec<String> = live.collect();
        has.retain(|name| asks.iter().any(|number| *name == self::name_of(*number)));
        prop_assert_eq!(has, live);
    }
}

fn name_of(number: u8) -> String {
    format!("made-{number}")
}

fn request(names: &[&str], nonce: &str) -> DiscoveryRequest {
    DiscoveryRequest {
        node: node("client-0"),
        type_url: Listener.type_url().into(),
        resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
        response_nonce: nonce.into(),
        ..DiscoveryRequest::default()
    }
}

fn one_name() -> Config {
    let on_demand = Some(OnDemand { limit: 1, ..MADE });
    Config { on_demand, lag_after: Duration::from_secs(2), ..Config::default() }
}

#[tokio::test]
async fn the_owner_hears_who_wants_what_and_answers() {
    let (ads, mut feedback, address) = serve_as(one_name()).await;
    ads.open(false);
    let key = |name: &str| Key::new(Listener, name);
    let (requests, outgoing) = mpsc::channel(8);
    requests.send(request(&["made-1", "made-2"], "")).await.unwrap();
    let mut client = client(address).await;
    let mut responses = client.stream_aggregated_resources(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
    assert_eq!(told(&mut feedback).await, Feedback::Wanted { key: key("made-1") });
    ads.publish(vec![put(Listener, "made-1", "1")], vec![]).unwrap();
    let first = responses.message().await.unwrap().unwrap();
    assert_eq!(first.resources.len(), 1, "the second is beyond the limit, for now");
    requests.send(request(&["made-2"], &first.nonce)).await.unwrap();
    assert_eq!(told(&mut feedback).await, Feedback::Unwanted { key: key("made-1") });
    assert_eq!(told(&mut feedback).await, Feedback::Wanted { key: key("made-2") });
    ads.publish(vec![put(Listener, "made-2", "1")], vec![]).unwrap();
    let second = responses.message().await.unwrap().unwrap();
    assert_eq!(second.resources.len(), 1);
    drop((requests, responses, client));
    assert_eq!(told(&mut feedback).await, Feedback::Unwanted { key: key("made-2") });
}

#[tokio::test]
async fn who_was_turned_away_is_let_in_when_another_leaves() {
    let (ads, mut feedback, address) = serve_as(one_name()).await;
    ads.open(false);
    let key = |name: &str| Key::new(Listener, name);
    let (first, outgoing) = mpsc::channel(8);
    first.send(request(&["made-1"], "")).await.unwrap();
    let mut one = client(address).await;
    let stream = one.stream_aggregated_resources(ReceiverStream::new(outgoing)).await.unwrap();
    assert_eq!(told(&mut feedback).await, Feedback::Wanted { key: key("made-1") });
    let (second, outgoing) = mpsc::channel(8);
    second.send(request(&["made-2"], "")).await.unwrap();
    let mut other = client(address).await;
    let mut responses = other.stream_aggregated_resources(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
    assert_eq!(responses.message().await.unwrap().unwrap().resources.len(), 0, "there is no room for it");
    drop((first, stream, one));
    assert_eq!(told(&mut feedback).await, Feedback::Unwanted { key: key("made-1") });
    // Nothing else happens.
    assert_eq!(told(&mut feedback).await, Feedback::Wanted { key: key("made-2") });
    drop(second);
}

#[tokio::test]
async fn a_stream_that_ends_by_its_own_fault_wants_nothing_more() {
    let (ads, mut feedback, address) = serve_as(one_name()).await;
    ads.open(false);
    let long = |letter: &str| letter.repeat(40 << 20);
    let ask = |subscribe: [String; 2], unsubscribe: &[&str]| DeltaDiscoveryRequest {
        node: node("client-0"),
        type_url: Listener.type_url().into(),
        resource_names_subscribe: subscribe.into(),
        resource_names_unsubscribe: unsubscribe.iter().map(|name| (*name).to_owned()).collect(),
        ..DeltaDiscoveryRequest::default()
    };
    let key = Key::new(Listener, "made-1");
    let (requests, outgoing) = mpsc::channel(8);
    requests.send(ask(["made-1".into(), long("a")], &[])).await.unwrap();
    let mut client = client(address).await;
    let mut responses = client.delta_aggregated_resources(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
    assert_eq!(told(&mut feedback).await, Feedback::Wanted { key: key.clone() });
    requests.send(ask(["made-2".into(), long("b")], &["made-1"])).await.unwrap();
    let ended = loop {
        match responses.message().await {
            Ok(response) => assert!(response.is_some(), "it ends with an error"),
            Err(status) => break status.code(),
        }
    };
    assert_eq!(ended, Code::ResourceExhausted);
    assert_eq!(told(&mut feedback).await, Feedback::Unwanted { key });
}
