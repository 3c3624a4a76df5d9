//! One stream: every rule as a short conversation.

use xds::Kind::{Cluster, Endpoints, Listener, Route, Runtime, ScopedRoute, Secret};
use xds::{Change, Key, Kind, Mode, Nonce, Request, Standing, Time, Version, Visibility};

use crate::peer::{PATIENCE, Peer, names, resource};

pub const NOTHING: [&str; 0] = [];

pub fn scope(name: &str, cluster: &str) -> Change {
    Change::Put(resource(ScopedRoute, name, cluster).requires([Key::new(Cluster, cluster)]))
}

pub fn cluster(name: &str) -> [Change; 2] {
    [Change::Put(resource(Cluster, name, name)), Change::Put(resource(Endpoints, name, name))]
}

pub fn gone(kind: Kind, name: &str) -> Change {
    Change::Remove(Key::new(kind, name))
}

/// A client in sync with: cluster `a` with endpoints, listener `http`, scope `iris` to `a`.
pub fn in_sync(mode: Mode) -> Peer {
    let mut peer = Peer::new(mode);
    let mut changes = vec![scope("iris", "a"), Change::Put(resource(Listener, "http", "http"))];
    changes.extend(cluster("a"));
    peer.apply(changes);
    assert_eq!(peer.ask(Cluster, &[]), ["Cluster +a"]);
    assert_eq!(peer.ack(Cluster), NOTHING);
    assert_eq!(peer.ask(Endpoints, &["a"]), ["Endpoints +a"]);
    assert_eq!(peer.ack(Endpoints), NOTHING);
    assert_eq!(peer.ask(Listener, &[]), ["Listener +http"]);
    assert_eq!(peer.ack(Listener), NOTHING);
    assert_eq!(peer.ask(ScopedRoute, &[]), ["ScopedRoute +iris"]);
    assert_eq!(peer.ack(ScopedRoute), NOTHING);
    peer
}

#[test]
fn the_first_request_of_every_root_kind_is_answered_even_with_nothing() {
    for mode in [Mode::Sotw, Mode::Delta] {
        let mut peer = Peer::new(mode);
        for kind in [Cluster, Listener, ScopedRoute] {
            assert_eq!(peer.ask(kind, &[]), [format!("{kind:?}")]);
            assert_eq!(peer.ack(kind), NOTHING);
        }
        for kind in [Endpoints, Route, Secret, Runtime] {
            assert_eq!(peer.ask(kind, &[]), NOTHING);
        }
    }
}

#[test]
fn any_runtime_asked_for_is_an_empty_one() {
    for mode in [Mode::Sotw, Mode::Delta] {
        let mut peer = Peer::new(mode);
        assert_eq!(peer.ask(Runtime, &["rtds_layer"]), ["Runtime +rtds_layer"]);
        assert_eq!(peer.ack(Runtime), NOTHING);
    }
}

#[test]
fn an_ack_is_never_answered_and_an_equal_put_sends_nothing() {
    for mode in [Mode::Sotw, Mode::Delta] {
        let mut peer = in_sync(mode);
        assert_eq!(peer.put(Listener, "http", "http"), NOTHING);
        assert_eq!(peer.put(Listener, "http", "other"), ["Listener +http"]);
        assert_eq!(peer.ack(Listener), NOTHING);
    }
}

#[test]
fn one_response_of_a_kind_is_in_flight_and_changes_meanwhile_are_merged() {
    let mut peer = in_sync(Mode::Delta);
    assert_eq!(peer.apply(vec![scope("one", "a")]), ["ScopedRoute +one"]);
    assert_eq!(peer.apply(vec![scope("two", "a")]), NOTHING);
    assert_eq!(peer.apply(vec![scope("three", "a"), gone(ScopedRoute, "iris")]), NOTHING);
    assert_eq!(peer.apply(vec![gone(ScopedRoute, "two")]), NOTHING);
    assert_eq!(peer.ack(ScopedRoute), ["ScopedRoute +three -iris -two"]);
    assert_eq!(peer.ack(ScopedRoute), NOTHING);
}

#[test]
fn reconnecting_with_equal_versions_sends_nothing_and_counts_as_ack() {
    let mut peer = in_sync(Mode::Delta);
    peer.reconnect();
    assert_eq!(peer.resume(Cluster, &[], &[("a", "a")]), NOTHING);
    assert_eq!(peer.resume(Endpoints, &["a"], &[("a", "a@a")]), NOTHING);
    assert_eq!(peer.resume(Listener, &[], &[("http", "http")]), NOTHING);
    assert_eq!(peer.resume(ScopedRoute, &[], &[("iris", "a")]), NOTHING);
    for key in [Key::new(Cluster, "a"), Key::new(ScopedRoute, "iris")] {
        assert!(matches!(peer.session.standing(&key, &peer.table), Standing::Applied(_)), "{key}");
    }
    assert!(peer.session.status().iter().all(|kind| kind.settled == Some(peer.table.revision())));
    assert_eq!(peer.apply(vec![scope("wine", "a")]), ["ScopedRoute +wine"], "the cluster is usable");
}

#[test]
fn reconnecting_with_other_versions_sends_what_differs_and_what_is_gone() {
    let mut peer = in_sync(Mode::Delta);
    peer.apply(vec![scope("wine", "a")]);
    peer.reconnect();
    peer.resume(Cluster, &[], &[("a", "a")]);
    peer.resume(Endpoints, &["a"], &[("a", "a@a")]);
    let has = [("iris", "another"), ("wine", "a"), ("old", "a")];
    assert_eq!(peer.resume(ScopedRoute, &[], &has), ["ScopedRoute +iris -old"]);
}

#[test]
fn after_a_reconnect_a_gone_cluster_goes_only_after_the_routes_were_brought_up_to_date() {
    let mut peer = in_sync(Mode::Delta);
    let mut changes = vec![scope("iris", "b"), gone(Cluster, "a"), gone(Endpoints, "a")];
    changes.extend(cluster("b"));
    peer.reconnect();
    peer.apply(changes);
    assert_eq!(peer.resume(Cluster, &[], &[("a", "a")]), ["Cluster +b"]);
    assert_eq!(peer.ack(Cluster), NOTHING);
    assert_eq!(peer.resume(Endpoints, &["a"], &[("a", "a@a")]), NOTHING);
    assert_eq!(peer.ask(Endpoints, &["b"]), ["Endpoints +b"]);
    assert_eq!(peer.resume(Listener, &[], &[("http", "http")]), NOTHING);
    assert_eq!(peer.ack(Endpoints), NOTHING);
    assert_eq!(peer.resume(ScopedRoute, &[], &[("iris", "a")]), ["ScopedRoute +iris"]);
    assert_eq!(peer.ack(ScopedRoute), ["Endpoints -a", "Cluster -a"]);
}

#[test]
fn a_client_that_comes_back_without_routes_loses_gone_clusters_after_patience() {
    let mut peer = Peer::new(Mode::Delta);
    assert_eq!(peer.resume(Cluster, &[], &[("a", "a")]), NOTHING);
    assert_eq!(peer.session.due(), Some(Time(1).after(PATIENCE)));
    peer.now = Time(1).after(PATIENCE);
    assert_eq!(peer.poll(), ["Cluster -a"]);
}

#[test]
fn scopes_come_in_chunks_except_the_first_answer() {
    let mut peer = Peer::new(Mode::Delta);
    let scopes =
        |body: &str| (0..2_500).map(|i| Change::Put(resource(ScopedRoute, &format!("m{i:04}"), body))).collect();
    peer.apply(scopes("1"));
    peer.session.on_request(wildcard(ScopedRoute), &peer.table, peer.now).unwrap();
    let first = peer.session.poll(&peer.table, peer.now).unwrap();
    assert_eq!(first.iter().map(|r| r.resources.len()).collect::<Vec<_>>(), [2_500]);
    peer.table.apply(scopes("2")).unwrap();
    let mut sizes = Vec::new();
    let mut last = first;
    while let Some(response) = last.first() {
        sizes.push(response.resources.len());
        let ack = Request { nonce: Some(response.nonce), ..wildcard(ScopedRoute) };
        peer.session.on_request(ack, &peer.table, peer.now).unwrap();
        last = peer.session.poll(&peer.table, peer.now).unwrap();
    }
    assert_eq!(sizes, [2_500, 1_000, 1_000, 500]);
    assert_eq!(peer.session.status()[0].settled, Some(peer.table.revision()));
}

fn wildcard(kind: Kind) -> Request {
    let ask = xds::Ask::Delta { subscribe: vec![], unsubscribe: vec![], initial: Default::default() };
    Request { kind, nonce: None, error: None, ask }
}

#[test]
fn a_scope_is_held_until_its_cluster_and_its_endpoints_are_acked_and_blocks_nothing_behind_it() {
    let mut peer = in_sync(Mode::Delta);
    let mut changes = vec![scope("wine", "b")];
    changes.extend(cluster("b"));
    assert_eq!(peer.apply(changes), ["Cluster +b"]);
    assert_eq!(peer.apply(vec![scope("behind", "a")]), ["ScopedRoute +behind"]);
    assert_eq!(peer.ack(ScopedRoute), NOTHING);
    assert_eq!(peer.ack(Cluster), NOTHING, "CDS alone is not readiness");
    assert_eq!(peer.ask(Endpoints, &["b"]), ["Endpoints +b"]);
    assert_eq!(peer.ack(Endpoints), ["ScopedRoute +wine"]);
    assert_eq!(peer.ack(ScopedRoute), NOTHING);
}

#[test]
fn a_cluster_goes_only_after_the_scope_that_left_it_was_acked() {
    let mut peer = in_sync(Mode::Delta);
    let mut changes = vec![scope("iris", "b"), gone(Cluster, "a"), gone(Endpoints, "a")];
    changes.extend(cluster("b"));
    assert_eq!(peer.apply(changes), ["Cluster +b"]);
    assert_eq!(peer.ack(Cluster), NOTHING);
    assert_eq!(peer.ask(Endpoints, &["b"]), ["Endpoints +b"]);
    assert_eq!(peer.ack(Endpoints), ["ScopedRoute +iris"]);
    assert_eq!(peer.ack(ScopedRoute), ["Endpoints -a", "Cluster -a"]);
    assert_eq!(peer.ack(Cluster), NOTHING);
    assert_eq!(peer.ack(Endpoints), NOTHING);
}

/// Found by the random histories: only the latest removal says which routes must have been applied.
#[test]
fn a_cluster_that_came_back_and_went_again_waits_for_the_routes_of_its_second_life() {
    let mut peer = in_sync(Mode::Delta);
    peer.apply(cluster("b").into());
    assert_eq!(peer.ack(Cluster), NOTHING);
    assert_eq!(peer.ask(Endpoints, &["b"]), ["Endpoints +b"]);
    assert_eq!(peer.ack(Endpoints), NOTHING);
    assert_eq!(peer.apply(vec![scope("other", "a")]), ["ScopedRoute +other"]);
    assert_eq!(peer.apply(vec![gone(Cluster, "b"), gone(Endpoints, "b")]), NOTHING, "held: scopes are in flight");
    assert_eq!(peer.put(Cluster, "a", "other"), ["Cluster +a", "Endpoints +a"]);
    let mut changes = vec![scope("iris", "b")];
    changes.extend(cluster("b"));
    assert_eq!(peer.apply(changes), NOTHING, "everything is in flight");
    assert_eq!(peer.ack(ScopedRoute), ["ScopedRoute +iris"], "points at `b`, which never went");
    assert_eq!(peer.apply(vec![scope("iris", "a"), gone(Cluster, "b"), gone(Endpoints, "b")]), NOTHING);
    assert_eq!(peer.ack(ScopedRoute), ["ScopedRoute +iris"]);
    assert_eq!(peer.ack(Cluster), NOTHING);
    assert_eq!(peer.ack(Endpoints), NOTHING);
    assert_eq!(peer.ack(ScopedRoute), ["Endpoints -b", "Cluster -b"]);
}

#[test]
fn endpoints_follow_every_send_of_their_cluster_unchanged_or_not() {
    for mode in [Mode::Sotw, Mode::Delta] {
        let mut peer = in_sync(mode);
        assert_eq!(peer.put(Cluster, "a", "other"), ["Cluster +a", "Endpoints +a"]);
        assert_eq!(peer.ack(Cluster), NOTHING);
        assert_eq!(peer.ack(Endpoints), NOTHING);
    }
    // Also when the client, reconnecting, lists the endpoints as equal.
    let mut peer = in_sync(Mode::Delta);
    peer.put(Cluster, "a", "other");
    peer.reconnect();
    assert_eq!(peer.resume(Cluster, &[], &[("a", "a")]), ["Cluster +a"]);
    assert_eq!(peer.resume(Endpoints, &["a"], &[("a", "a@a")]), ["Endpoints +a"]);
}

/// A client that has the clusters of two scopes, and is sent their endpoints.
pub fn waiting_for_endpoints() -> Peer {
    let mut peer = Peer::new(Mode::Delta);
    let mut changes = vec![scope("iris", "a"), scope("wine", "b")];
    changes.extend(cluster("a").into_iter().chain(cluster("b")));
    peer.apply(changes);
    assert_eq!(peer.ask(Cluster, &[]), ["Cluster +a +b"]);
    assert_eq!(peer.ask(Endpoints, &["a", "b"]), ["Endpoints +a +b"]);
    assert_eq!(peer.ask(ScopedRoute, &[]), NOTHING);
    assert_eq!(peer.ack(Cluster), NOTHING);
    peer
}

#[test]
fn the_first_answer_of_scopes_waits_for_their_clusters_but_not_for_ever() {
    let mut peer = waiting_for_endpoints();
    let waiting_since = peer.now;
    assert_eq!(peer.session.due(), Some(waiting_since.after(PATIENCE)));
    // The endpoints of `b` are not answered: `iris` must not be away because of `wine`.
    assert_eq!(peer.nack(Endpoints), ["Endpoints +a"]);
    assert_eq!(peer.ack(Endpoints), ["Endpoints +b"]);
    peer.now = waiting_since.after(PATIENCE);
    assert_eq!(peer.poll(), ["ScopedRoute +iris"]);
    assert_eq!(peer.ack(Endpoints), NOTHING);
    assert_eq!(peer.ack(ScopedRoute), ["ScopedRoute +wine"]);
}

#[test]
fn a_requirement_that_the_client_never_asked_for_counts_as_met() {
    for mode in [Mode::Sotw, Mode::Delta] {
        let mut peer = Peer::new(mode);
        let mut changes = vec![scope("iris", "a")];
        changes.extend(cluster("a"));
        peer.apply(changes);
        assert_eq!(peer.ask(ScopedRoute, &[]), ["ScopedRoute +iris"]);
    }
    // A client that asks for a route before it knows its cluster.
    let mut peer = Peer::new(Mode::Sotw);
    let mut changes = vec![Change::Put(resource(Route, "r", "a").named_only().requires([Key::new(Cluster, "a")]))];
    changes.extend(cluster("a"));
    peer.apply(changes);
    assert_eq!(peer.ask(Cluster, &["x"]), ["Cluster"]);
    assert_eq!(peer.ask(Route, &["r"]), ["Route +r"]);
}

#[test]
fn a_client_that_does_not_ask_for_endpoints_within_patience_is_taken_not_to_use_them() {
    let mut peer = Peer::new(Mode::Delta);
    let mut changes = vec![scope("iris", "a")];
    changes.extend(cluster("a"));
    peer.apply(changes);
    assert_eq!(peer.ask(Cluster, &[]), ["Cluster +a"]);
    assert_eq!(peer.ack(Cluster), NOTHING);
    assert_eq!(peer.ask(ScopedRoute, &[]), NOTHING);
    peer.now = peer.session.due().expect("it waits");
    assert_eq!(peer.poll(), ["ScopedRoute +iris"]);
    assert_eq!(peer.ack(ScopedRoute), NOTHING);
    let mut changes = vec![scope("wine", "b")];
    changes.extend(cluster("b"));
    assert_eq!(peer.apply(changes), ["Cluster +b"]);
    assert_eq!(peer.ack(Cluster), NOTHING);
    peer.now = peer.session.due().expect("it waits");
    assert_eq!(peer.poll(), ["ScopedRoute +wine"]);
}

#[test]
fn a_cluster_without_endpoints_of_its_own_is_usable_when_acked() {
    let mut peer = in_sync(Mode::Delta);
    assert_eq!(
        peer.apply(vec![Change::Put(resource(Cluster, "static", "s")), scope("wine", "static")]),
        ["Cluster +static"]
    );
    assert_eq!(peer.ack(Cluster), ["ScopedRoute +wine"]);
}

/// Each dropped name is answered under a wildcard; who drops ever more and reads nothing is cut off.
#[test]
fn names_dropped_under_a_wildcard_are_bounded() {
    let mut peer = Peer::new(Mode::Delta);
    assert_eq!(peer.ask(Cluster, &["*"]), ["Cluster"]);
    let long = "n".repeat(1 << 20);
    let refused = (0..100).find(|number| {
        let name = || names(&[&format!("{long}{number}")]);
        let ask = |subscribe, unsubscribe| Request {
            kind: Cluster,
            nonce: None,
            error: None,
            ask: xds::Ask::Delta { subscribe, unsubscribe, initial: vec![] },
        };
        let table = &peer.table;
        peer.session.on_request(ask(name(), vec![]), table, peer.now).unwrap();
        peer.session.on_request(ask(vec![], name()), table, peer.now).is_err()
    });
    assert_eq!(refused, Some(63), "64 MiB, and what is kept of each name");
    // Who reads what it is told may go on without end.
    let mut peer = Peer::new(Mode::Delta);
    assert_eq!(peer.ask(Cluster, &["*"]), ["Cluster"]);
    assert_eq!(peer.ack(Cluster), NOTHING);
    for _ in 0..100 {
        assert_eq!(peer.ask(Cluster, &[&long]), [format!("Cluster -{long}")]);
        assert_eq!(peer.unsubscribe(Cluster, &[&long]), NOTHING);
        assert_eq!(peer.ack(Cluster), [format!("Cluster -{long}")]);
        assert_eq!(peer.ack(Cluster), NOTHING);
    }
}

#[test]
fn sotw_full_state_keeps_what_may_not_go_yet() {
    let mut peer = in_sync(Mode::Sotw);
    let mut changes = vec![scope("iris", "b"), scope("wine", "b"), gone(Cluster, "a"), gone(Endpoints, "a")];
    changes.extend(cluster("b"));
    assert_eq!(peer.apply(changes), ["Cluster +a +b"]);
    assert_eq!(peer.ack(Cluster), NOTHING);
    assert_eq!(peer.ask(Endpoints, &["a", "b"]), ["Endpoints +b"], "of endpoints only what is new");
    assert_eq!(peer.ack(Endpoints), ["ScopedRoute +iris +wine"]);
    assert_eq!(peer.ack(ScopedRoute), ["Cluster +b"]);
    assert_eq!(peer.ack(Cluster), NOTHING);
    assert_eq!(peer.remove(ScopedRoute, "wine"), ["ScopedRoute +iris"]);
    assert_eq!(peer.ack(ScopedRoute), NOTHING);
    assert_eq!(peer.remove(ScopedRoute, "iris"), ["ScopedRoute"], "empty removes all");
}

#[test]
fn sotw_ignores_a_request_with_a_stale_nonce_and_its_names() {
    let mut peer = in_sync(Mode::Sotw);
    let request = |nonce| Request {
        kind: Listener,
        nonce: Some(nonce),
        error: None,
        ask: xds::Ask::Sotw { names: names(&["other"]) },
    };
    assert_eq!(peer.request(request(Nonce::FOREIGN)), NOTHING);
    assert_eq!(peer.put(Listener, "http", "changed"), ["Listener +http"]);
    let of_another_kind = Nonce::parse("1").unwrap();
    assert_eq!(peer.request(request(of_another_kind)), NOTHING);
    assert_eq!(peer.put(Listener, "http", "again"), NOTHING, "still un-ACKed");
}

#[test]
fn sotw_names_subscribed_again_are_sent_again_and_unsubscribed_ones_are_not() {
    let mut peer = Peer::new(Mode::Sotw);
    peer.put(Endpoints, "a", "1");
    peer.put(Endpoints, "b", "1");
    assert_eq!(peer.ask(Endpoints, &["a"]), ["Endpoints +a"]);
    assert_eq!(peer.ack(Endpoints), NOTHING);
    assert_eq!(peer.ask(Endpoints, &["a", "b"]), ["Endpoints +b"]);
    assert_eq!(peer.ack(Endpoints), NOTHING);
    assert_eq!(peer.ask(Endpoints, &["b"]), NOTHING);
    assert_eq!(peer.put(Endpoints, "a", "2"), NOTHING);
    assert_eq!(peer.ask(Endpoints, &["a", "b"]), ["Endpoints +a"]);
    assert_eq!(peer.ack(Endpoints), NOTHING);
    assert_eq!(peer.ask(Endpoints, &[""]), NOTHING, "an ordinary unknown name");
    assert_eq!(peer.put(Endpoints, "a", "3"), NOTHING);
}

#[test]
fn sotw_a_subset_of_a_full_state_kind_comes_whole() {
    let mut peer = Peer::new(Mode::Sotw);
    for name in ["a", "b", "c"] {
        peer.put(Listener, name, "1");
    }
    assert_eq!(peer.ask(Listener, &["a", "b", "x"]), ["Listener +a +b"]);
    assert_eq!(peer.ack(Listener), NOTHING);
    assert_eq!(peer.put(Listener, "a", "2"), ["Listener +a +b"]);
    assert_eq!(peer.ack(Listener), NOTHING);
    assert_eq!(peer.put(Listener, "c", "2"), NOTHING);
    assert_eq!(peer.put(Listener, "x", "1"), ["Listener +a +b +x"], "unknown names are remembered");
    assert_eq!(peer.ack(Listener), NOTHING);
    assert_eq!(peer.ask(Listener, &[]), NOTHING);
    assert_eq!(peer.put(Listener, "a", "3"), NOTHING);
}

#[test]
fn delta_subscribing_again_sends_again() {
    let mut peer = Peer::new(Mode::Delta);
    peer.put(Route, "r", "1");
    assert_eq!(peer.ask(Route, &["r"]), ["Route +r"]);
    assert_eq!(peer.ack(Route), NOTHING);
    assert_eq!(peer.ask(Route, &["r"]), ["Route +r"]);
}

#[test]
fn delta_unknown_names_are_answered_at_once_and_remembered() {
    let mut peer = Peer::new(Mode::Delta);
    assert_eq!(peer.ask(Endpoints, &["a"]), ["Endpoints -a"]);
    assert_eq!(peer.ack(Endpoints), NOTHING);
    assert_eq!(peer.put(Endpoints, "a", "1"), ["Endpoints +a"]);
    assert_eq!(peer.ack(Endpoints), NOTHING);
    assert_eq!(peer.remove(Endpoints, "a"), ["Endpoints -a"]);
    assert_eq!(peer.ack(Endpoints), NOTHING);
    assert_eq!(peer.put(Endpoints, "a", "2"), ["Endpoints +a"], "the subscription outlives the resource");
}

#[test]
fn delta_unsubscribing_is_answered_only_when_a_wildcard_goes_on() {
    let mut peer = Peer::new(Mode::Delta);
    peer.put(Cluster, "a", "1");
    assert_eq!(peer.ask(Cluster, &["a", "x"]), ["Cluster +a -x"]);
    assert_eq!(peer.ack(Cluster), NOTHING);
    assert_eq!(peer.unsubscribe(Cluster, &["x", "never"]), NOTHING);
    assert_eq!(peer.ask(Cluster, &["*"]), ["Cluster +a"]);
    assert_eq!(peer.ack(Cluster), NOTHING);
    assert_eq!(peer.unsubscribe(Cluster, &["a"]), ["Cluster +a"]);
    assert_eq!(peer.ack(Cluster), NOTHING);
    assert_eq!(peer.unsubscribe(Cluster, &["*"]), NOTHING);
    assert_eq!(peer.put(Cluster, "a", "2"), NOTHING);
}

#[test]
fn delta_subscriptions_count_even_with_a_stale_nonce() {
    let mut peer = Peer::new(Mode::Delta);
    peer.put(Route, "r", "1");
    let request = Request { nonce: Some(Nonce::FOREIGN), ..wildcard(Route) };
    let ask = xds::Ask::Delta { subscribe: names(&["r"]), unsubscribe: vec![], initial: Default::default() };
    assert_eq!(peer.request(Request { ask, ..request }), ["Route +r"]);
    let stale_nack = Request { nonce: Some(Nonce::FOREIGN), error: Some("old".into()), ..wildcard(Route) };
    assert_eq!(peer.request(stale_nack), NOTHING);
    assert_eq!(peer.session.counters().nacks, 0);
}

#[test]
fn what_is_named_only_is_seen_by_name_only() {
    for mode in [Mode::Sotw, Mode::Delta] {
        let mut peer = Peer::new(mode);
        let hidden = resource(Listener, "iris", "1").named_only();
        assert_eq!(hidden.visibility(), Visibility::NamedOnly);
        peer.apply(vec![Change::Put(hidden)]);
        assert_eq!(peer.ask(Listener, &[]), ["Listener"]);
        assert_eq!(peer.ack(Listener), NOTHING);
        assert_eq!(peer.ask(Listener, &["iris"]), ["Listener +iris"]);
    }
}

#[test]
fn a_tailored_resource_has_the_version_of_its_own_body() {
    let rewrite = |node: &xds::Node, resource: &xds::Resource| {
        Some(resource.with_body(bytes::Bytes::from(format!("{} for {}", resource.name(), node.id))))
    };
    let tailor = xds::Tailor { kinds: vec![Listener], rewrite: std::sync::Arc::new(rewrite) };
    let node = xds::Node { id: "envoy-7".into(), ..xds::Node::default() };
    let mut peer = Peer::new(Mode::Delta);
    peer.put(Listener, "http", "any");
    peer.session = xds::Session::new(Mode::Delta, node.clone(), PATIENCE, Some(tailor.clone()));
    peer.session.on_request(wildcard(Listener), &peer.table, peer.now).unwrap();
    let responses = peer.session.poll(&peer.table, peer.now).unwrap();
    let sent = &responses[0].resources[0];
    assert_eq!(sent.body().as_ref(), b"http for envoy-7");
    assert_eq!(sent.version(), Version::of(b"http for envoy-7"));
    peer.session = xds::Session::new(Mode::Delta, node, PATIENCE, Some(tailor));
    assert_eq!(peer.resume(Listener, &[], &[("http", "http for envoy-7")]), NOTHING);
}

#[test]
fn a_stuck_wildcard_costs_a_cursor_and_not_a_map() {
    let mut peer = in_sync(Mode::Delta);
    peer.apply(vec![scope("one", "a")]);
    for i in 0..100 {
        assert_eq!(peer.apply(vec![scope(&format!("m{i}"), "a")]), NOTHING);
    }
    let status = peer.session.status().into_iter().find(|status| status.kind == ScopedRoute).unwrap();
    assert_eq!((status.pending, status.held, status.names, status.in_flight), (0, 0, 0, 1));
}

#[test]
fn first_answers_of_several_streams_are_one_list() {
    let mut peer = Peer::new(Mode::Delta);
    peer.apply((0..100).map(|i| Change::Put(resource(ScopedRoute, &format!("m{i}"), "any"))).collect());
    let mut first_answer = || {
        peer.reconnect();
        peer.session.on_request(wildcard(ScopedRoute), &peer.table, peer.now).unwrap();
        peer.session.poll(&peer.table, peer.now).unwrap().remove(0).resources
    };
    let (one, other) = (first_answer(), first_answer());
    assert!(std::sync::Arc::ptr_eq(&one, &other));
    peer.put(ScopedRoute, "m0", "another");
    peer.reconnect();
    peer.session.on_request(wildcard(ScopedRoute), &peer.table, peer.now).unwrap();
    let changed = peer.session.poll(&peer.table, peer.now).unwrap().remove(0).resources;
    assert_eq!((changed.len(), std::sync::Arc::ptr_eq(&one, &changed)), (100, false));
}

#[test]
fn a_first_answer_that_is_not_all_of_anothers_is_its_own() {
    let mut peer = Peer::new(Mode::Delta);
    let mut changes = vec![scope("first", "a"), scope("held", "b"), scope("last", "a")];
    changes.extend(cluster("a").into_iter().chain(cluster("b")));
    peer.apply(changes);
    // Without clusters it has all scopes; while it has not acknowledged them, others may have the same list.
    peer.session.on_request(wildcard(ScopedRoute), &peer.table, peer.now).unwrap();
    let everything = peer.session.poll(&peer.table, peer.now).unwrap().remove(0).resources;
    assert_eq!(everything.len(), 3);
    peer.reconnect();
    assert_eq!(peer.ask(Cluster, &[]), ["Cluster +a +b"]);
    assert_eq!(peer.ask(Endpoints, &["a"]), ["Endpoints +a"]);
    assert_eq!(peer.ack(Cluster), NOTHING);
    assert_eq!(peer.ack(Endpoints), NOTHING);
    assert_eq!(peer.ask(Endpoints, &["b"]), ["Endpoints +b"]);
    assert_eq!(peer.ask(ScopedRoute, &[]), NOTHING);
    assert_eq!(peer.nack(Endpoints), ["ScopedRoute +first +last"]);
    drop(everything);
}

/// A client that asked by name before it asks for everything has something, and is told that it is gone.
#[test]
fn what_goes_before_a_wildcard_begins_is_said_with_it() {
    for kind in [Listener, Cluster, ScopedRoute] {
        let mut peer = Peer::new(Mode::Delta);
        peer.put(kind, "x", "1");
        peer.put(kind, "y", "1");
        assert_eq!(peer.ask(kind, &["x"]), [format!("{kind:?} +x")]);
        assert_eq!(peer.remove(kind, "x"), NOTHING);
        assert_eq!(peer.ack_and_ask(kind, &["*"]), [format!("{kind:?} +y -x")]);
        // The same when a wildcard comes back.
        assert_eq!(peer.ack(kind), NOTHING);
        assert_eq!(peer.put(kind, "x", "2"), [format!("{kind:?} +x")]);
        peer.unsubscribe(kind, &["*"]);
        peer.remove(kind, "x");
        assert_eq!(peer.ack_and_ask(kind, &["*"]), [format!("{kind:?} +y -x")]);
    }
    for kind in [Listener, Cluster] {
        let mut peer = Peer::new(Mode::Sotw);
        peer.put(kind, "x", "1");
        peer.put(kind, "y", "1");
        assert_eq!(peer.ask(kind, &["x"]), [format!("{kind:?} +x")]);
        assert_eq!(peer.remove(kind, "x"), NOTHING);
        assert_eq!(peer.ask(kind, &["x", "*"]), [format!("{kind:?} +y")]);
        assert_eq!(peer.ack(kind), NOTHING);
        assert_eq!(peer.put(kind, "z", "1"), [format!("{kind:?} +y +z")]);
    }
}

/// They were on their way, so that they count as asked for and not there.
#[test]
fn what_waits_for_endpoints_that_are_dropped_on_their_way_comes() {
    let mut peer = in_sync(Mode::Delta);
    assert_eq!(peer.apply([cluster("c"), cluster("d")].concat()), ["Cluster +c +d"]);
    assert_eq!(peer.ack(Cluster), NOTHING);
    peer.now = peer.now.after(PATIENCE);
    assert_eq!(peer.ask(Endpoints, &["c", "d"]), ["Endpoints +c +d"]);
    assert_eq!(peer.apply(vec![scope("wine", "c")]), NOTHING);
    assert_eq!(peer.unsubscribe(Endpoints, &["c", "d"]), ["ScopedRoute +wine"]);
}
