//! Names that are split over several models, and copies of their requests.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use domain::PlacementSet;
use scheduler_core::RouteChange;

use crate::backend::{Backend, Mood};
use crate::client::{infer, with_headers};
use crate::world::{World, closed_port};

/// Of a tally; half of them REST, half gRPC.
const REQUESTS: usize = 2_000;

/// Of a mirror's tally.
const COPIED: usize = 1_000;

/// Names in a table whose size must not matter.
const NAMES: u32 = 10_000;

/// An answer that waits for a mirror would take this long.
const HANGS: Duration = Duration::from_secs(5);

pub async fn experiment_is_split_by_weight_over_rest_and_grpc(world: &mut World) {
    let (first, second) = (Backend::start("first").await, Backend::start("second").await);
    let ((one, a), (two, b)) = (world.placed(&[&first]), world.placed(&[&second]));
    let split = world.split("weights", &[("left", 1, &one, 6), ("right", 7, &two, 2)], None);
    world.publish([a, b, split]).await;
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for number in 0..REQUESTS {
        let forged = ("seldon-internal-model", "right_7");
        let (backend, route) = if number % 2 == 0 {
            let answer = world.rest.get("/v2/models/weights.experiment/infer", &[forged]).await;
            (answer.backend().to_owned(), answer.header("x-seldon-route").unwrap().to_owned())
        } else {
            let answer = world.rpc.model_infer(with_headers(infer("weights.experiment"), &[forged])).await.unwrap();
            let route = answer.metadata().get("x-seldon-route").unwrap().to_str().unwrap().to_owned();
            (answer.into_inner().model_version, route)
        };
        assert_eq!(route, if backend == "first" { ":left_1:" } else { ":right_7:" });
        *counts.entry(backend).or_default() += 1;
    }
    // 500 expected, standard deviation 19.4: six of them.
    assert!(counts["second"].abs_diff(REQUESTS / 4) < 116, "{counts:?}");
    for (backend, version) in [(&first, "left_1"), (&second, "right_7")] {
        for seen in backend.take() {
            assert_eq!(seen.header("seldon-internal-model").as_deref(), Some(version), "the forged one is gone");
        }
    }
}

pub async fn client_stays_with_its_candidate_while_there_is_one(world: &mut World) {
    let (first, second) = (Backend::start("first").await, Backend::start("second").await);
    let ((one, a), (two, b)) = (world.placed(&[&first]), world.placed(&[&second]));
    let split = world.split("stays", &[("left", 1, &one, 1), ("right", 7, &two, 0)], None);
    world.publish([a, b, split]).await;
    let path = "/v2/models/stays.experiment/infer";
    for (route, name) in [(":left_1:", "first"), (":right_7:", "second")] {
        for _ in 0..20 {
            assert_eq!(world.rest.get(path, &[("x-seldon-route", route)]).await.backend(), name);
            let request = with_headers(infer("stays.experiment"), &[("x-seldon-route", route)]);
            assert_eq!(world.rpc.model_infer(request).await.unwrap().into_inner().model_version, name);
        }
    }
    // Nobody's token, a name that only begins or ends like one, everybody's, and more than anybody sends: the weights
    // decide, or the first that is there.
    let long = ":gone_1:".repeat(1_000);
    for route in [":gone_3:", "right_7", ":right_77:", ":bright_7:", ":", "", long.as_str(), ":right_7::left_1:"] {
        let answer = world.rest.get(path, &[("x-seldon-route", route)]).await;
        assert_eq!(answer.backend(), "first", "{route:.40}");
    }
    // The candidate it stays with is lost.
    let split = world.split("stays", &[("left", 1, &one, 1)], None);
    world.publish([split]).await;
    for _ in 0..20 {
        assert_eq!(world.rest.get(path, &[("x-seldon-route", ":right_7:")]).await.backend(), "first");
    }
}

pub async fn mirror_gets_a_copy_of_every_request_and_nobody_sees_its_answer(world: &mut World) {
    let (first, second) = (Backend::start("first").await, Backend::start("second").await);
    let shadow = Backend::start("shadow").await;
    let ((one, a), (two, b), (three, c)) =
        (world.placed(&[&first]), world.placed(&[&second]), world.placed(&[&shadow]));
    let single = world.split("single", &[("left", 1, &one, 1)], Some(("copy", 4, &three, 100)));
    let several =
        world.split("several", &[("left", 1, &one, 1), ("right", 7, &two, 1)], Some(("copy", 4, &three, 100)));
    world.publish([a, b, c, single, several]).await;
    for name in ["single.experiment", "several.experiment"] {
        for headers in [&[][..], &[("x-seldon-route", ":left_1:")][..]] {
            let body = Bytes::from_static(br#"{"inputs":[]}"#);
            let answer = world.rest.post(&format!("/v2/models/{name}/infer"), headers, body).await;
            assert_ne!(answer.backend(), "shadow");
            assert!(!answer.header("x-seldon-route").unwrap().contains("copy"));
            let seen = until_seen(&shadow, 1).await.remove(0);
            assert_eq!(seen.header("seldon-internal-model").as_deref(), Some("copy_4"));
            assert_eq!(seen.body_bytes, 13);

            let answer = world.rpc.model_infer(with_headers(infer(name), headers)).await.unwrap();
            assert_ne!(answer.into_inner().model_version, "shadow");
            let seen = until_seen(&shadow, 1).await.remove(0);
            assert_eq!(seen.header("seldon-internal-model").as_deref(), Some("copy_4"));
        }
    }
    for seen in first.take().into_iter().chain(second.take()) {
        assert_ne!(seen.header("seldon-internal-model").as_deref(), Some("copy_4"), "only the copy says so");
    }
}

pub async fn mirror_gets_its_share(world: &mut World) {
    let (first, shadow) = (Backend::start("first").await, Backend::start("shadow").await);
    let ((one, a), (two, b)) = (world.placed(&[&first]), world.placed(&[&shadow]));
    let fifth = world.split("fifth", &[("left", 1, &one, 1)], Some(("copy", 4, &two, 20)));
    let none = world.split("none", &[("left", 1, &one, 1)], Some(("copy", 5, &two, 0)));
    world.publish([a, b, fifth, none]).await;
    for _ in 0..COPIED {
        world.rest.get("/v2/models/none.experiment/infer", &[]).await.backend();
        world.rest.get("/v2/models/fifth.experiment/infer", &[]).await.backend();
    }
    // A last one that is certainly copied: what was copied before has arrived or arrives with it.
    let all = world.split("fifth", &[("left", 1, &one, 1)], Some(("copy", 6, &two, 100)));
    world.publish([all]).await;
    world.rest.get("/v2/models/fifth.experiment/infer", &[]).await.backend();
    let mut seen = Vec::new();
    let has_last = |seen: &[String]| seen.iter().any(|version| version == "copy_6");
    let began = Instant::now();
    while !has_last(&seen) {
        seen.extend(shadow.take().iter().filter_map(|seen| seen.header("seldon-internal-model")));
        assert!(began.elapsed() < HANGS, "the last copy does not come");
        tokio::task::yield_now().await;
    }
    assert!(!seen.iter().any(|version| version == "copy_5"), "0 % is nothing");
    let copies = seen.iter().filter(|version| *version == "copy_4").count();
    // 200 expected, standard deviation 12.6: six of them.
    assert!(copies.abs_diff(COPIED / 5) < 76, "{copies} of {COPIED}");
}

pub async fn mirror_that_fails_hangs_or_is_dead_harms_nobody(world: &mut World) {
    let (first, shadow) = (Backend::start("first").await, Backend::start("shadow").await);
    let (one, a) = world.placed(&[&first]);
    let (two, b) = world.placed(&[&shadow]);
    let dead = closed_port();
    let (three, endpoints) = world.server(&[(dead, dead)]);
    let gone = RouteChange::Set { set: three.clone(), endpoints: Some(endpoints) };
    let (four, _) = world.server(&[(dead, dead)]);
    let empty = RouteChange::Set { set: four.clone(), endpoints: Some(Vec::new()) };
    let names: [(&str, &PlacementSet); 3] = [("to-shadow", &two), ("to-dead", &three), ("to-nobody", &four)];
    let splits: Vec<RouteChange> = names
        .iter()
        .map(|(name, set)| world.split(name, &[("left", 1, &one, 1)], Some(("copy", 4, set, 100))))
        .collect();
    world.publish([a, b, gone, empty].into_iter().chain(splits)).await;
    for mood in [Mood::Overloaded, Mood::Refuses, Mood::Hangs] {
        shadow.is(mood);
        for (name, _) in names {
            let began = Instant::now();
            let answer = world.rest.post(&format!("/v2/models/{name}.experiment/infer"), &[], "{}".into()).await;
            assert_eq!((answer.status.as_u16(), answer.backend()), (200, "first"), "{mood:?} {name}");
            let answer = world.rpc.model_infer(infer(&format!("{name}.experiment"))).await.unwrap();
            assert_eq!(answer.into_inner().model_version, "first");
            assert!(began.elapsed() < HANGS, "{mood:?} {name}: the client waited for the mirror");
        }
    }
}

/// A foreign agent as mirror: REST goes to its one port, gRPC to the other.
pub async fn mirror_with_two_ports_gets_each_protocol_at_its_own(world: &mut World) {
    let (first, rest, rpc) = (Backend::start("first").await, Backend::start("rest").await, Backend::start("rpc").await);
    let (one, a) = world.placed(&[&first]);
    let (two, endpoints) = world.server(&[(rest.address.port(), rpc.address.port())]);
    let b = RouteChange::Set { set: two.clone(), endpoints: Some(endpoints) };
    let split = world.split("ports", &[("left", 1, &one, 1)], Some(("copy", 4, &two, 100)));
    world.publish([a, b, split]).await;
    assert_eq!(world.rest.get("/v2/models/ports.experiment/infer", &[]).await.backend(), "first");
    assert_eq!(until_seen(&rest, 1).await[0].version, http::Version::HTTP_11);
    let answer = world.rpc.model_infer(infer("ports.experiment")).await.unwrap();
    assert_eq!(answer.into_inner().model_version, "first");
    assert_eq!(until_seen(&rpc, 1).await[0].version, http::Version::HTTP_2);
    assert!(rest.take().is_empty(), "gRPC is not copied to the port for REST");
}

pub async fn change_of_one_name_among_ten_thousand_sends_one(world: &mut World) {
    let (first, second) = (Backend::start("first").await, Backend::start("second").await);
    let ((one, a), (two, b)) = (world.placed(&[&first]), world.placed(&[&second]));
    let mut changes = vec![a, b];
    for index in 0..NAMES {
        changes.push(if index % 10 == 0 {
            world.split(&format!("e{index}"), &[("left", 1, &one, 1), ("right", 1, &two, 0)], None)
        } else {
            world.route(&format!("m{index}"), &[(1, &one, 100)], false)
        });
    }
    world.publish(changes).await;
    let sent = |world: &World| world.streams().iter().map(|stream| stream.counters.resources).sum::<u64>();
    let before = sent(world);
    let last = format!("m{}", NAMES - 1);
    let route = world.route(&last, &[(1, &two, 100)], false);
    world.publish([route]).await;
    assert_eq!(sent(world) - before, 1, "one scope, and nothing else");
    assert_eq!(world.rest.get(&format!("/v2/models/{last}/infer"), &[]).await.backend(), "second");
    let split = world.split("e0", &[("left", 1, &one, 0), ("right", 1, &two, 1)], None);
    world.publish([split]).await;
    assert_eq!(sent(world) - before, 2);
    assert_eq!(world.rest.get("/v2/models/e0.experiment/infer", &[]).await.backend(), "second");
}

/// Waits until the backend has been asked so often, and gives what it was asked.
async fn until_seen(backend: &Backend, count: usize) -> Vec<crate::backend::Seen> {
    let began = Instant::now();
    let mut seen = Vec::new();
    while seen.len() < count {
        seen.extend(backend.take());
        assert!(began.elapsed() < HANGS, "{} of {count} requests came", seen.len());
        tokio::task::yield_now().await;
    }
    seen
}
