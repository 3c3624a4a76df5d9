//! What a client refuses: how the culprit is found, and what counts as refused with it.

use xds::Kind::{Cluster, Endpoints, Listener, ScopedRoute, Secret};
use xds::{Change, Key, Kind, Mode, Standing};

use crate::peer::{Peer, resource};
use crate::session::{NOTHING, cluster, gone, in_sync, scope, waiting_for_endpoints};

/// In sync, with a scope that leads to a new cluster of which the client refused this.
fn wine_stuck_on(refused: Kind) -> Peer {
    let mut peer = in_sync(Mode::Delta);
    let mut changes = vec![scope("wine", "b")];
    changes.extend(cluster("b"));
    assert_eq!(peer.apply(changes), ["Cluster +b"]);
    if refused == Endpoints {
        assert_eq!(peer.ack(Cluster), NOTHING);
        assert_eq!(peer.ask(Endpoints, &["b"]), ["Endpoints +b"]);
    }
    assert_eq!(peer.nack(refused), NOTHING);
    peer
}

#[test]
fn a_refused_response_is_bisected_until_the_culprit_is_alone() {
    let mut peer = in_sync(Mode::Delta);
    let bad = resource(ScopedRoute, "bad", "x");
    let version = bad.version();
    let mut changes: Vec<Change> = ["m1", "m2", "m3"].iter().map(|name| scope(name, "a")).collect();
    changes.push(Change::Put(bad));
    assert_eq!(peer.apply(changes), ["ScopedRoute +bad +m1 +m2 +m3"]);
    let key = Key::new(ScopedRoute, "m1");
    assert_eq!(peer.nack(ScopedRoute), ["ScopedRoute +bad +m1"]);
    assert_eq!(peer.session.standing(&key, &peer.table), Standing::Outstanding, "nothing refused counts as applied");
    assert_eq!(peer.nack(ScopedRoute), ["ScopedRoute +bad"]);
    assert_eq!(peer.session.take_rejections(), []);
    assert_eq!(peer.nack(ScopedRoute), ["ScopedRoute +m1"]);
    assert_eq!(peer.ack(ScopedRoute), ["ScopedRoute +m2 +m3"]);
    assert_eq!(peer.ack(ScopedRoute), NOTHING);
    let rejections = peer.session.take_rejections();
    assert_eq!(rejections.len(), 1);
    let key = Key::new(ScopedRoute, "bad");
    assert_eq!((&rejections[0].key, rejections[0].version, &*rejections[0].message), (&key, Some(version), "refused"));
    assert!(matches!(peer.session.standing(&key, &peer.table), Standing::Rejected(_)));
    // Not sent again unchanged, not even when something else is; sent again when it changed.
    assert_eq!(peer.apply(vec![scope("m4", "a")]), ["ScopedRoute +m4"]);
    assert_eq!(peer.ack(ScopedRoute), NOTHING);
    assert_eq!(peer.put(ScopedRoute, "bad", "good"), ["ScopedRoute +bad"]);
    assert_eq!(peer.ack(ScopedRoute), NOTHING);
    assert!(matches!(peer.session.standing(&key, &peer.table), Standing::Applied(_)));
}

#[test]
fn what_requires_a_refused_cluster_counts_as_refused_until_that_changes() {
    for mode in [Mode::Sotw, Mode::Delta] {
        let mut peer = in_sync(mode);
        let wine = Key::new(ScopedRoute, "wine");
        let mut changes = vec![scope("wine", "b"), scope("iris", "b")];
        changes.extend(cluster("b"));
        let all = if mode == Mode::Sotw { "Cluster +a +b" } else { "Cluster +b" };
        assert_eq!(peer.apply(changes), [all]);
        assert_eq!(peer.session.standing(&wine, &peer.table), Standing::Outstanding);
        assert_eq!(peer.nack(Cluster), NOTHING);
        assert!(matches!(peer.session.standing(&wine, &peer.table), Standing::Rejected(_)));
        let settled =
            |peer: &Peer| peer.session.status().iter().all(|kind| kind.settled == Some(peer.table.revision()));
        assert!(settled(&peer), "nothing else is waited for");
        // Others go on, and the client goes on with what it has.
        assert_eq!(peer.apply(vec![gone(Cluster, "a"), gone(Endpoints, "a")]), NOTHING, "iris still uses it there");
        assert_eq!(peer.apply(cluster("a").into()), ["Cluster +a", "Endpoints +a"]);
        peer.ack(Cluster);
        peer.ack(Endpoints);
        let more = if mode == Mode::Sotw { "ScopedRoute +iris +more" } else { "ScopedRoute +more" };
        assert_eq!(peer.apply(vec![scope("more", "a")]), [more]);
        assert_eq!(peer.ack(ScopedRoute), NOTHING);
        assert!(settled(&peer), "{:?}", peer.session.status());
        assert_eq!(peer.put(Cluster, "b", "better"), [all]);
        assert_eq!(peer.session.standing(&wine, &peer.table), Standing::Outstanding);
        assert_eq!(peer.ack(Cluster), NOTHING);
        let asked: &[&str] = if mode == Mode::Sotw { &["a", "b"] } else { &["b"] };
        assert_eq!(peer.ask(Endpoints, asked), ["Endpoints +b"]);
        let both = if mode == Mode::Sotw { "ScopedRoute +iris +more +wine" } else { "ScopedRoute +iris +wine" };
        assert_eq!(peer.ack(Endpoints), [both]);
        assert_eq!(peer.ack(ScopedRoute), NOTHING);
        assert!(matches!(peer.session.standing(&wine, &peer.table), Standing::Applied(_)));
    }
}

#[test]
fn what_requires_refused_endpoints_counts_as_refused_until_they_change() {
    let mut peer = wine_stuck_on(Endpoints);
    let wine = Key::new(ScopedRoute, "wine");
    assert!(matches!(peer.session.standing(&wine, &peer.table), Standing::Rejected(_)));
    assert_eq!(peer.put(Endpoints, "b", "better"), ["Endpoints +b"]);
    assert_eq!(peer.session.standing(&wine, &peer.table), Standing::Outstanding);
    assert_eq!(peer.ack(Endpoints), ["ScopedRoute +wine"]);
}

/// The client goes on with the cluster as it had it.
#[test]
fn what_requires_an_older_cluster_that_is_there_is_not_stuck_when_a_newer_one_is_refused() {
    let mut peer = in_sync(Mode::Delta);
    let mut changes = vec![scope("wine", "b")];
    changes.extend(cluster("b"));
    assert_eq!(peer.apply(changes), ["Cluster +b"]);
    assert_eq!(peer.ack(Cluster), NOTHING);
    assert_eq!(peer.ask(Endpoints, &["b"]), ["Endpoints +b"]);
    assert_eq!(peer.put(Cluster, "b", "worse"), ["Cluster +b"]);
    assert_eq!(peer.nack(Cluster), NOTHING);
    let wine = Key::new(ScopedRoute, "wine");
    assert_eq!(peer.session.standing(&wine, &peer.table), Standing::Outstanding, "its endpoints are on their way");
    assert_eq!(peer.ack(Endpoints), ["Endpoints +b"], "again, as after every cluster");
    assert_eq!(peer.ack(Endpoints), ["ScopedRoute +wine"]);
}

#[test]
fn what_requires_refused_endpoints_comes_when_there_are_to_be_none() {
    let mut peer = wine_stuck_on(Endpoints);
    assert_eq!(peer.remove(Endpoints, "b"), ["ScopedRoute +wine"]);
}

#[test]
fn what_a_client_asks_for_no_more_keeps_nothing_back_that_was_stuck() {
    let mut peer = wine_stuck_on(Cluster);
    assert!(peer.unsubscribe(Cluster, &["*"]).contains(&"ScopedRoute +wine".to_owned()));
}

/// A chain: what requires the scope is as far as the scope is.
#[test]
fn what_requires_something_stuck_is_stuck_too_and_a_first_answer_waits_for_neither() {
    let mut peer = Peer::new(Mode::Delta);
    let listener = resource(Listener, "http", "http").requires([Key::new(ScopedRoute, "iris")]);
    let mut changes =
        vec![scope("iris", "a"), Change::Put(listener), Change::Put(resource(Listener, "other", "other"))];
    changes.extend(cluster("a"));
    peer.apply(changes);
    assert_eq!(peer.ask(Cluster, &[]), ["Cluster +a"]);
    assert_eq!(peer.ask(ScopedRoute, &[]), NOTHING, "it waits for the cluster");
    assert_eq!(peer.ask(Listener, &[]), NOTHING, "and it for the scope");
    assert_eq!(peer.nack(Cluster), ["Listener +other", "ScopedRoute"]);
    peer.ack(ScopedRoute);
    peer.ack(Listener);
    for key in [Key::new(ScopedRoute, "iris"), Key::new(Listener, "http")] {
        assert!(matches!(peer.session.standing(&key, &peer.table), Standing::Rejected(_)), "{key}");
    }
}

#[test]
fn sotw_bisects_too_and_always_says_the_full_state() {
    let mut peer = in_sync(Mode::Sotw);
    assert_eq!(peer.apply(vec![scope("bad", "a"), scope("good", "a")]), ["ScopedRoute +bad +good +iris"]);
    assert_eq!(peer.nack(ScopedRoute), ["ScopedRoute +bad +iris"]);
    assert_eq!(peer.nack(ScopedRoute), ["ScopedRoute +good +iris"]);
    assert_eq!(peer.ack(ScopedRoute), NOTHING);
    assert_eq!(peer.apply(vec![scope("more", "a")]), ["ScopedRoute +good +iris +more"]);
}

/// As real clients say it; what they do not speak of need not wait for them to be asked about each half.
#[test]
fn what_a_refusal_speaks_of_is_a_part_by_itself() {
    let texts = [
        "Error adding/updating cluster(s) m3: malformed",
        "scope key conflict found, first scope is 'iris', second scope is 'm3'",
        "m3.",
        "m1x m3",
    ];
    for text in texts {
        let mut peer = in_sync(Mode::Delta);
        let changes = ["m1", "m2", "m3", "m4"].map(|name| scope(name, "a"));
        assert_eq!(peer.apply(changes.into()), ["ScopedRoute +m1 +m2 +m3 +m4"]);
        assert_eq!(peer.nack_saying(ScopedRoute, text), ["ScopedRoute +m1 +m2 +m4"], "{text}");
        assert_eq!(peer.ack(ScopedRoute), ["ScopedRoute +m3"]);
        assert_eq!(peer.nack_saying(ScopedRoute, text), NOTHING);
        assert_eq!(peer.session.take_rejections().len(), 1);
    }
    // All of them, or none that was sent: halves.
    for text in ["m1, m2", "'m3'", ""] {
        let mut peer = in_sync(Mode::Delta);
        peer.apply(["m1", "m2"].map(|name| scope(name, "a")).into());
        assert_eq!(peer.nack_saying(ScopedRoute, text), ["ScopedRoute +m1"], "{text}");
        assert_eq!(peer.nack_saying(ScopedRoute, text), ["ScopedRoute +m2"], "{text}");
    }
}

/// Each refusal names one, as of a client that stops at the first error. Without halves each of the 51 would cost a response
/// with nearly everything, 25,000 resources in all.
#[test]
fn many_culprits_named_one_by_one_are_found_by_halves() {
    const SCOPES: usize = 512;
    let mut peer = in_sync(Mode::Delta);
    let name = |number: usize| format!("m{number:03}");
    let is_bad = |name: &str| name.ends_with('7');
    let changes: Vec<Change> = (0..SCOPES).map(|number| scope(&name(number), "a")).collect();
    let mut said = peer.apply(changes);
    let mut sent = 0;
    while let Some(response) = said.pop() {
        let names: Vec<&str> = response.split_whitespace().skip(1).map(|name| name.trim_start_matches('+')).collect();
        sent += names.len();
        said = match names.iter().find(|name| is_bad(name)) {
            Some(bad) => peer.nack_saying(ScopedRoute, &format!("scope {bad}: refused")),
            None => peer.ack(ScopedRoute),
        };
    }
    let mut refused: Vec<String> =
        peer.session.take_rejections().into_iter().map(|rejection| rejection.key.name.to_string()).collect();
    refused.sort();
    assert_eq!(refused, (0..SCOPES).map(name).filter(|name| is_bad(name)).collect::<Vec<_>>());
    assert!(sent <= 2 * SCOPES * SCOPES.ilog2() as usize, "{sent} resources for {SCOPES}");
}

/// A client that comes back has all of them in use, and what is not in an answer is gone.
#[test]
fn sotw_leaves_only_out_what_was_refused() {
    let mut peer = Peer::new(Mode::Sotw);
    for name in ["a", "b", "c", "d"] {
        peer.put(Cluster, name, "1");
    }
    assert_eq!(peer.ask(Cluster, &["a", "b", "c", "d"]), ["Cluster +a +b +c +d"]);
    assert_eq!(peer.nack_saying(Cluster, "[b: no such type]"), ["Cluster +a +c +d"]);
    assert_eq!(peer.ack(Cluster), ["Cluster +a +b +c +d"]);
    assert_eq!(peer.nack_saying(Cluster, "[b: no such type]"), NOTHING);
    assert_eq!(peer.put(Cluster, "a", "2"), ["Cluster +a +c +d"]);
}

/// Found by `fuzz`: the half with what is gone has nothing to say, and the other half waited for something to happen.
#[test]
fn sotw_sends_the_other_half_though_what_is_gone_cannot_be_said() {
    let mut peer = Peer::new(Mode::Sotw);
    peer.put(Secret, "a", "1");
    peer.put(Secret, "b", "1");
    assert_eq!(peer.ask(Secret, &["a", "b"]), ["Secret +a +b"]);
    assert_eq!(peer.remove(Secret, "a"), NOTHING);
    assert_eq!(peer.nack(Kind::Secret), ["Secret +b"]);
}

/// It goes on with the version that it has, of the scope that it refused or that leads to a refused cluster.
#[test]
fn what_a_client_may_go_on_with_is_kept_until_it_took_what_replaces_that() {
    for is_stuck in [true, false] {
        let mut peer = in_sync(Mode::Delta);
        assert_eq!(peer.apply(cluster("b").into()), ["Cluster +b"]);
        if is_stuck {
            assert_eq!(peer.nack(Cluster), NOTHING);
            assert_eq!(peer.apply(vec![scope("iris", "b")]), NOTHING);
        } else {
            assert_eq!(peer.ack(Cluster), NOTHING);
            assert_eq!(peer.ask(Endpoints, &["b"]), ["Endpoints +b"]);
            assert_eq!(peer.ack(Endpoints), NOTHING);
            assert_eq!(peer.apply(vec![scope("iris", "b")]), ["ScopedRoute +iris"]);
            assert_eq!(peer.nack(ScopedRoute), NOTHING);
        }
        assert_eq!(peer.apply(vec![gone(Cluster, "a"), gone(Endpoints, "a")]), NOTHING, "iris leads there");
        assert_eq!(peer.apply(vec![scope("other", "b")]).len(), usize::from(!is_stuck), "others come");
        if is_stuck {
            assert_eq!(peer.put(Cluster, "b", "better"), ["Cluster +b"]);
            assert_eq!(peer.ack(Cluster), NOTHING);
            assert_eq!(peer.ask(Endpoints, &["b"]), ["Endpoints +b"]);
            assert_eq!(peer.ack(Endpoints), ["ScopedRoute +iris +other"]);
        } else {
            assert_eq!(peer.ack(ScopedRoute), NOTHING);
            let better = resource(ScopedRoute, "iris", "better").requires([Key::new(Cluster, "b")]);
            assert_eq!(peer.apply(vec![Change::Put(better)]), ["ScopedRoute +iris"]);
        }
        // On its way is not there yet.
        assert_eq!(peer.ack(ScopedRoute), ["Endpoints -a", "Cluster -a"], "is_stuck: {is_stuck}");
        assert_eq!(peer.ack(Cluster), NOTHING);
        assert_eq!(peer.ack(Endpoints), NOTHING);
        assert!(peer.session.status().iter().all(|kind| kind.held == 0), "{:?}", peer.session.status());
    }
}

/// One route that it can never take must not keep for ever all that is removed after it.
#[test]
fn what_is_kept_for_a_client_that_refuses_is_bounded() {
    const OTHERS: usize = 1_500;
    let mut peer = in_sync(Mode::Delta);
    assert_eq!(peer.apply(vec![scope("wine", "a")]), ["ScopedRoute +wine"]);
    assert_eq!(peer.nack(ScopedRoute), NOTHING);
    let mut come = |from: usize, to: usize| {
        let names: Vec<String> = (from..to).map(|number| format!("o{number:04}")).collect();
        peer.apply(names.iter().flat_map(|name| cluster(name)).collect());
        assert_eq!(peer.ack(Cluster), NOTHING);
        assert_eq!(peer.ask(Endpoints, &names.iter().map(String::as_str).collect::<Vec<_>>()).len(), 1);
        assert_eq!(peer.ack(Endpoints), NOTHING);
        let both = |name: &String| [gone(Cluster, name), gone(Endpoints, name)];
        let said = peer.apply(names.iter().flat_map(both).collect());
        let removed = said.iter().flat_map(|response| response.split_whitespace().filter(|word| word.starts_with('-')));
        let count = removed.count();
        for kind in [Cluster, Endpoints] {
            peer.ack(kind);
        }
        let held = peer.session.status().into_iter().filter(|status| matches!(status.kind, Cluster | Endpoints));
        (count, held.map(|status| status.held).collect::<Vec<_>>())
    };
    assert_eq!(come(0, 600), (0, vec![600, 600]));
    assert_eq!(come(600, OTHERS), (2 * (OTHERS - 1_000), vec![1_000, 1_000]), "the first stay, the others go");
    assert_eq!(come(OTHERS, OTHERS + 10), (20, vec![1_000, 1_000]));
    assert_eq!(peer.apply(vec![gone(ScopedRoute, "wine")]), ["ScopedRoute -wine"]);
    let said = peer.ack(ScopedRoute);
    assert_eq!(said.iter().map(|response| response.split_whitespace().count() - 1).sum::<usize>(), 2_000);
}

/// It says no to what it has dropped meanwhile, or what was refused is not for it any more.
#[test]
fn what_is_of_no_interest_any_more_keeps_nothing_though_it_was_refused() {
    for is_dropped in [true, false] {
        let mut peer = in_sync(Mode::Delta);
        if is_dropped {
            assert_eq!(peer.put(Kind::Route, "r", "bad"), NOTHING);
            assert_eq!(peer.ask(Kind::Route, &["r"]), ["Route +r"]);
            assert_eq!(peer.unsubscribe(Kind::Route, &["r"]), NOTHING);
            assert_eq!(peer.nack(Kind::Route), NOTHING);
        } else {
            let bad = resource(Listener, "l", "bad");
            assert_eq!(peer.apply(vec![Change::Put(bad.clone())]), ["Listener +l"]);
            assert_eq!(peer.nack(Listener), NOTHING);
            assert_eq!(peer.apply(vec![Change::Put(bad.named_only())]), NOTHING);
        }
        assert_eq!(peer.remove(ScopedRoute, "iris"), ["ScopedRoute -iris"]);
        assert_eq!(peer.apply(vec![gone(Cluster, "a"), gone(Endpoints, "a")]), NOTHING);
        assert_eq!(peer.ack(ScopedRoute), ["Endpoints -a", "Cluster -a"], "is_dropped: {is_dropped}");
    }
}

/// The stream has nothing more to say at that moment but the rest of it.
#[test]
fn a_stream_is_not_in_sync_while_more_comes_than_fits_in_a_response() {
    const STUCK: usize = 2_500;
    let mut peer = in_sync(Mode::Delta);
    let mut changes: Vec<Change> = (0..STUCK).map(|number| scope(&format!("m{number:04}"), "b")).collect();
    changes.extend(cluster("b"));
    assert_eq!(peer.apply(changes), ["Cluster +b"]);
    assert_eq!(peer.nack(Cluster), NOTHING);
    let settled = |peer: &Peer| {
        let scopes = peer.session.status().into_iter().find(|status| status.kind == ScopedRoute).unwrap();
        scopes.settled == Some(peer.table.revision())
    };
    assert!(settled(&peer));
    // In flight while the cluster is mended, so that nobody looks at what is stuck.
    assert_eq!(peer.apply(vec![scope("other", "a")]), ["ScopedRoute +other"]);
    assert_eq!(peer.put(Cluster, "b", "better"), ["Cluster +b"]);
    assert_eq!(peer.ack(Cluster), NOTHING);
    assert_eq!(peer.ask(Endpoints, &["b"]), ["Endpoints +b"]);
    assert_eq!(peer.ack(Endpoints), NOTHING);
    for _ in 0..STUCK.div_ceil(1_000) {
        assert_eq!(peer.ack(ScopedRoute).len(), 1);
        assert!(!settled(&peer));
    }
    assert_eq!(peer.ack(ScopedRoute), NOTHING);
    assert!(settled(&peer));
}

/// A client of names: it has the cluster, and what it refused of the endpoints counts no more.
#[test]
fn what_a_client_drops_by_name_keeps_nothing_back_that_was_stuck() {
    let mut peer = Peer::new(Mode::Delta);
    let listener = |name: &str| Change::Put(resource(Listener, name, "x").requires([Key::new(Cluster, "b")]));
    let mut changes = vec![listener("l")];
    changes.extend(cluster("b"));
    peer.apply(changes);
    assert_eq!(peer.ask(Cluster, &["b"]), ["Cluster +b"]);
    assert_eq!(peer.ack(Cluster), NOTHING);
    assert_eq!(peer.ask(Endpoints, &["b"]), ["Endpoints +b"]);
    assert_eq!(peer.nack(Endpoints), NOTHING);
    assert_eq!(peer.ask(Listener, &["l"]), NOTHING);
    assert!(matches!(peer.session.standing(&Key::new(Listener, "l"), &peer.table), Standing::Rejected(_)));
    assert_eq!(peer.unsubscribe(Cluster, &["b"]), ["Listener +l"]);
}

#[test]
fn the_first_answer_of_scopes_does_not_wait_for_what_is_refused() {
    let mut peer = waiting_for_endpoints();
    assert_eq!(peer.nack_saying(Endpoints, "b: no such address"), ["Endpoints +a"]);
    assert_eq!(peer.ack(Endpoints), ["Endpoints +b"]);
    assert_eq!(peer.nack(Endpoints), ["ScopedRoute +iris"]);
}

/// What is stuck is looked at when it may have changed, and all of it: there may be more of it than fits in a response.
#[test]
fn very_many_stuck_scopes_hold_up_no_other_and_all_come_when_their_cluster_does() {
    const STUCK: usize = 2_500;
    let name = |number: usize| format!("m{number:04}");
    let mut peer = in_sync(Mode::Delta);
    let mut changes: Vec<Change> = (0..STUCK).map(|number| scope(&name(number), "b")).collect();
    changes.extend(cluster("b"));
    assert_eq!(peer.apply(changes), ["Cluster +b"]);
    assert_eq!(peer.nack(Cluster), NOTHING);
    let standings = |peer: &Peer, is: fn(Standing) -> bool| {
        let keys = (0..STUCK).map(|number| Key::new(ScopedRoute, name(number)));
        keys.filter(|key| is(peer.session.standing(key, &peer.table))).count()
    };
    assert_eq!(standings(&peer, |standing| matches!(standing, Standing::Rejected(_))), STUCK);
    let scopes = peer.session.status().into_iter().find(|status| status.kind == ScopedRoute).unwrap();
    assert_eq!((scopes.settled, scopes.held), (Some(peer.table.revision()), STUCK));
    // The last by name, which has to wait for a cluster itself.
    let mut changes = vec![scope("z", "c")];
    changes.extend(cluster("c"));
    assert_eq!(peer.apply(changes), ["Cluster +c"]);
    assert_eq!(peer.ack(Cluster), NOTHING);
    assert_eq!(peer.ask(Endpoints, &["c"]), ["Endpoints +c"]);
    assert_eq!(peer.ack(Endpoints), ["ScopedRoute +z"]);
    assert_eq!(peer.ack(ScopedRoute), NOTHING);
    assert_eq!(peer.put(Cluster, "b", "better"), ["Cluster +b"]);
    assert_eq!(peer.ack(Cluster), NOTHING);
    let mut said = peer.ask(Endpoints, &["b"]);
    assert_eq!(said, ["Endpoints +b"]);
    said = peer.ack(Endpoints);
    let mut come = 0;
    while let Some(response) = said.pop() {
        come += response.split_whitespace().skip(1).count();
        said = peer.ack(ScopedRoute);
    }
    assert_eq!(come, STUCK);
    assert_eq!(standings(&peer, |standing| matches!(standing, Standing::Applied(_))), STUCK);
}

/// The owner waits for it anew as soon as the culprit changes, when the stream may be in the middle of something else.
#[test]
fn what_is_not_stuck_any_more_is_not_refused_though_it_was_not_judged_anew_yet() {
    let mut peer = wine_stuck_on(Cluster);
    let wine = Key::new(ScopedRoute, "wine");
    assert_eq!(peer.apply(vec![scope("other", "a")]), ["ScopedRoute +other"]);
    assert!(matches!(peer.session.standing(&wine, &peer.table), Standing::Rejected(_)));
    assert_eq!(peer.put(Cluster, "b", "better"), ["Cluster +b"]);
    assert_eq!(peer.session.standing(&wine, &peer.table), Standing::Outstanding);
    assert_eq!(peer.ack(Cluster), NOTHING);
    assert_eq!(peer.ask(Endpoints, &["b"]), ["Endpoints +b"]);
    assert_eq!(peer.ack(Endpoints), NOTHING);
    assert_eq!(peer.session.standing(&wine, &peer.table), Standing::Outstanding);
    assert_eq!(peer.ack(ScopedRoute), ["ScopedRoute +wine"]);
    assert_eq!(peer.ack(ScopedRoute), NOTHING);
    assert!(matches!(peer.session.standing(&wine, &peer.table), Standing::Applied(_)));
}
