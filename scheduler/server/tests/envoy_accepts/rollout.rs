//! Routes with two backends.

use std::collections::BTreeMap;

use scheduler_core::RouteChange;

use crate::backend::Backend;
use crate::client::{infer, with_headers};
use crate::world::World;

/// Enough that a third is far from a half.
const REQUESTS: usize = 600;

pub async fn two_versions_share_by_weight(world: &mut World) {
    let (old, new) = (Backend::start("old").await, Backend::start("new").await);
    let ((first, one), (second, two)) = (world.placed(&[&old]), world.placed(&[&new]));
    let route = world.route("shared", &[(1, &first, 66), (2, &second, 34)], false);
    world.publish([one, two, route]).await;
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..REQUESTS {
        let answer = world.rest.get("/v2/models/shared/infer", &[("seldon-internal-model", "x_9")]).await;
        let route = answer.header("x-seldon-route").unwrap();
        assert_eq!(route, if answer.backend() == "old" { ":shared_1:" } else { ":shared_2:" });
        *counts.entry(answer.backend().to_owned()).or_default() += 1;
    }
    // 396 expected, standard deviation 11.6.
    assert!((340..452).contains(&counts["old"]), "{counts:?}");
    for (backend, version) in [(&old, "shared_1"), (&new, "shared_2")] {
        for seen in backend.take() {
            assert_eq!(seen.header("seldon-internal-model").as_deref(), Some(version));
        }
    }
    // The same replicas may be both.
    let route = world.route("shared", &[(1, &first, 50), (2, &first, 50)], false);
    world.publish([route]).await;
    let mut versions: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..40 {
        world.rest.get("/v2/models/shared/infer", &[]).await;
        *versions.entry(old.only().header("seldon-internal-model").unwrap()).or_default() += 1;
    }
    assert_eq!(versions.keys().collect::<Vec<_>>(), ["shared_1", "shared_2"]);
}

pub async fn client_stays_where_its_route_says(world: &mut World) {
    let (old, new) = (Backend::start("old").await, Backend::start("new").await);
    let ((first, one), (second, two)) = (world.placed(&[&old]), world.placed(&[&new]));
    let route = world.route("sticky", &[(1, &first, 50), (2, &second, 50)], false);
    world.publish([one, two, route]).await;
    for (token, name, version) in [(":sticky_1:", "old", "sticky_1"), (":other_3: :sticky_2:", "new", "sticky_2")] {
        for _ in 0..20 {
            let headers = [("x-seldon-route", token), ("seldon-internal-model", "x_1")];
            let answer = world.rest.get("/v2/models/sticky/infer", &headers).await;
            assert_eq!(answer.backend(), name);
            assert_eq!(answer.header("x-seldon-route"), Some(format!(":{version}:").as_str()));
            let request = with_headers(infer("sticky"), &[("x-seldon-route", token)]);
            let answer = world.rpc.model_infer(request).await.unwrap();
            assert_eq!(answer.metadata().get("x-seldon-route").unwrap(), format!(":{version}:").as_str());
            assert_eq!(answer.into_inner().model_version, name);
        }
        let backend = if name == "old" { &old } else { &new };
        for seen in backend.take() {
            assert_eq!(seen.header("seldon-internal-model").as_deref(), Some(version));
        }
    }
    // A version that is gone is no reason to fail.
    let answer = world.rest.get("/v2/models/sticky/infer", &[("x-seldon-route", ":sticky_9:")]).await;
    assert!(["old", "new"].contains(&answer.backend()));
}

pub async fn logged_payloads_are_announced_in_a_roll_out(world: &mut World) {
    let backend = Backend::start("b").await;
    let (set, change) = world.placed(&[&backend]);
    let route = world.route("logged-both", &[(1, &set, 50), (2, &set, 50)], true);
    world.publish([change, route]).await;
    for headers in [&[][..], &[("x-seldon-route", ":logged-both_2:")][..]] {
        let answer = world.rest.get("/v2/models/logged-both/infer", headers).await;
        assert_eq!(answer.header("seldon-logging"), Some("true"));
        assert!(answer.header("x-seldon-route").unwrap().starts_with(":logged-both_"));
    }
}

/// A foreign agent: REST here, gRPC there.
pub async fn two_ports_are_told_apart(world: &mut World) {
    let (rest, rpc) = (Backend::start("rest").await, Backend::start("rpc").await);
    let (set, endpoints) = world.server(&[(rest.address.port(), rpc.address.port())]);
    let route = world.route("foreign", &[(3, &set, 100)], false);
    world.publish([RouteChange::Set { set: set.clone(), endpoints: Some(endpoints) }, route]).await;
    assert_eq!(world.rest.get("/v2/models/foreign/infer", &[]).await.backend(), "rest");
    let seen = rest.only();
    assert_eq!(
        (seen.version, seen.header("seldon-internal-model").as_deref()),
        (http::Version::HTTP_11, Some("foreign_3"))
    );
    let answer = world.rpc.model_infer(infer("foreign")).await.unwrap();
    assert_eq!(answer.metadata().get("x-seldon-route").unwrap(), ":foreign_3:");
    assert_eq!(answer.into_inner().model_version, "rpc");
    assert_eq!(rpc.only().header("seldon-internal-model").as_deref(), Some("foreign_3"));

    // Our own agent takes its place: the same set has one port now, and no request is lost on the way.
    let ours = Backend::start("ours").await;
    let port = ours.address.port();
    let mut endpoints = world.server(&[(port, port)]).1;
    endpoints[0].replica = set.replicas().next().unwrap().clone();
    world.publish([RouteChange::Set { set, endpoints: Some(endpoints) }]).await;
    let mut rpc = world.rpc.clone();
    world
        .until("one port", async |world| world.rest.get("/v2/models/foreign/infer", &[]).await.backend() == "ours")
        .await;
    assert_eq!(rpc.model_infer(infer("foreign")).await.unwrap().into_inner().model_version, "ours");
}

pub async fn one_and_two_ports_share_a_roll_out(world: &mut World) {
    let (ours, rest, rpc) = (Backend::start("ours").await, Backend::start("rest").await, Backend::start("rpc").await);
    let (first, one) = world.placed(&[&ours]);
    let (second, endpoints) = world.server(&[(rest.address.port(), rpc.address.port())]);
    let two = RouteChange::Set { set: second.clone(), endpoints: Some(endpoints) };
    let route = world.route("mixed", &[(1, &first, 50), (2, &second, 50)], false);
    world.publish([one, two, route]).await;
    for (token, by_rest, by_rpc) in [(":mixed_1:", "ours", "ours"), (":mixed_2:", "rest", "rpc")] {
        let answer = world.rest.get("/v2/models/mixed/infer", &[("x-seldon-route", token)]).await;
        assert_eq!(answer.backend(), by_rest);
        let request = with_headers(infer("mixed"), &[("x-seldon-route", token)]);
        assert_eq!(world.rpc.model_infer(request).await.unwrap().into_inner().model_version, by_rpc);
    }
    let mut seen = BTreeMap::new();
    for _ in 0..40 {
        let answer = world.rpc.model_infer(infer("mixed")).await.unwrap().into_inner();
        *seen.entry(answer.model_version).or_insert(0) += 1;
        let answer = world.rest.get("/v2/models/mixed/infer", &[]).await;
        *seen.entry(answer.backend().to_owned()).or_insert(0) += 1;
    }
    assert_eq!(seen.keys().collect::<Vec<_>>(), ["ours", "rest", "rpc"]);
}
