//! Replicas that fail, leave or change; and the access log.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use domain::{Health, PlacementSet};
use http::StatusCode;
use scheduler_core::RouteChange;

use crate::backend::{Backend, Mood};
use crate::client::infer;
use crate::world::{World, closed_port};

/// Least-request balancing takes either of two replicas about every other time.
const REQUESTS: usize = 20;

/// One request and two retries.
const ATTEMPTS: usize = 3;

/// Moves of a route, at least, and requests meanwhile.
const MOVES: u32 = 20;
const MOVED_REQUESTS: u32 = 500;

pub async fn refused_connection_is_retried_elsewhere(world: &mut World) {
    let backend = Backend::start("alive").await;
    let port = backend.address.port();
    let dead = closed_port();
    let (set, endpoints) = world.server(&[(dead, dead), (port, port)]);
    let route = world.route("half-dead", &[(1, &set, 100)], false);
    world.publish([RouteChange::Set { set, endpoints: Some(endpoints) }, route]).await;
    for _ in 0..REQUESTS {
        assert_eq!(world.rest.post("/v2/models/half-dead/infer", &[], "{}".into()).await.backend(), "alive");
        assert_eq!(world.rpc.model_infer(infer("half-dead")).await.unwrap().into_inner().model_version, "alive");
    }
}

/// What an agent does whose inference server is dead.
pub async fn refused_stream_is_retried_elsewhere(world: &mut World) {
    let (refusing, well) = (Backend::start("refusing").await, Backend::start("well").await);
    refusing.is(Mood::Refuses);
    world.model("half-refused", &[&refusing, &well]).await;
    for _ in 0..REQUESTS {
        assert_eq!(world.rest.post("/v2/models/half-refused/infer", &[], "{}".into()).await.backend(), "well");
        assert_eq!(world.rpc.model_infer(infer("half-refused")).await.unwrap().into_inner().model_version, "well");
    }
    assert!(!refusing.take().is_empty(), "the balancer never tried the other one");
    // A body is held for the retry as long as it is below the buffer limit.
    let body = Bytes::from(vec![b'x'; 3 << 20]);
    for _ in 0..REQUESTS {
        assert_eq!(world.rest.post("/v2/models/half-refused/infer", &[], body.clone()).await.backend(), "well");
    }
    assert!(!refusing.take().is_empty(), "the balancer never tried the other one");
    well.take();
    well.is(Mood::Refuses);
    let answer = world.rest.post("/v2/models/half-refused/infer", &[], "{}".into()).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{}", answer.body);
    assert!(serde_json::from_str::<serde_json::Value>(&answer.body).unwrap()["error"].is_string());
    assert_eq!(refusing.take().len() + well.take().len(), ATTEMPTS);
}

/// What an agent does that is new and does not have the model.
pub async fn model_that_is_not_there_yet_is_asked_for_elsewhere_and_costs_its_replica_nothing(world: &mut World) {
    let (new, old) = (Backend::start("new").await, Backend::start("old").await);
    new.is(Mood::Lacks);
    world.model("half-there", &[&new, &old]).await;
    let ejections = world.ejections().await;
    // At once: failures in a row would leave the replica out for its other models.
    let rest = (0..REQUESTS).map(|_| world.rest.post("/v2/models/half-there/infer", &[], "{}".into()));
    for answer in futures_util::future::join_all(rest).await {
        assert_eq!((answer.status, answer.backend()), (StatusCode::OK, "old"));
    }
    let rpc = (0..REQUESTS).map(|_| {
        let mut client = world.rpc.clone();
        async move { client.model_infer(infer("half-there")).await }
    });
    for answer in futures_util::future::join_all(rpc).await {
        assert_eq!(answer.unwrap().into_inner().model_version, "old");
    }
    // A large body is still on its way when the answer comes.
    let body = Bytes::from(vec![b'x'; 3 << 20]);
    for _ in 0..REQUESTS {
        assert_eq!(world.rest.post("/v2/models/half-there/infer", &[], body.clone()).await.backend(), "old");
    }
    assert!(!new.take().is_empty(), "the balancer never tried the new one");
    assert_eq!(world.ejections().await, ejections);
    new.is(Mood::Well);
    old.is(Mood::Lacks);
    for _ in 0..REQUESTS {
        assert_eq!(world.rest.post("/v2/models/half-there/infer", &[], "{}".into()).await.backend(), "new");
    }
    // Whoever is left with nobody is told why.
    new.is(Mood::Lacks);
    new.take();
    old.take();
    let answer = world.rest.post("/v2/models/half-there/infer", &[], "{}".into()).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(["new", "old"].contains(&answer.body.as_str()), "it is the answer of one of them: {}", answer.body);
    assert_eq!(new.take().len() + old.take().len(), ATTEMPTS);
    assert!(!answer.headers.contains_key(domain::header::REFUSED), "what it is for has happened");
}

pub async fn answer_is_never_retried(world: &mut World) {
    let (one, other) = (Backend::start("one").await, Backend::start("other").await);
    one.is(Mood::Overloaded);
    other.is(Mood::Overloaded);
    world.model("overloaded", &[&one, &other]).await;
    for _ in 0..REQUESTS {
        let answer = world.rest.post("/v2/models/overloaded/infer", &[], "{}".into()).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(one.take().len() + other.take().len(), 1);
    }
    // Not even if the client asks Envoy to.
    let wishes = [
        ("x-envoy-retry-on", "5xx,retriable-status-codes,retriable-headers"),
        ("x-envoy-retry-grpc-on", "unavailable"),
        ("x-envoy-max-retries", "10"),
        ("x-envoy-retriable-status-codes", "503,200"),
        ("x-envoy-retriable-header-names", "content-type,backend"),
        ("x-forwarded-for", "10.0.0.1"),
    ];
    for _ in 0..REQUESTS {
        world.rest.post("/v2/models/overloaded/infer", &wishes, "{}".into()).await;
        assert_eq!(one.take().len() + other.take().len(), 1);
    }
    // Nor is a replica left out for it.
    one.is(Mood::Well);
    other.is(Mood::Well);
    for _ in 0..REQUESTS {
        world.rest.get("/v2/models/overloaded/infer", &[]).await.backend();
    }
    assert!(!one.take().is_empty() && !other.take().is_empty());
}

pub async fn single_replica_is_never_left_out(world: &mut World) {
    let port = closed_port();
    let (set, endpoints) = world.server(&[(port, port)]);
    let route = world.route("lonely", &[(1, &set, 100)], false);
    world.publish([RouteChange::Set { set, endpoints: Some(endpoints) }, route]).await;
    for _ in 0..REQUESTS {
        let answer = world.rest.get("/v2/models/lonely/infer", &[]).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(!answer.body.contains("no healthy upstream"), "{}", answer.body);
    }
}

fn with_health(set: &PlacementSet, ports: &[(u16, Health)]) -> RouteChange {
    let endpoints = set.replicas().zip(ports).map(|(replica, (port, health))| domain::Endpoint {
        replica: replica.clone(),
        host: "127.0.0.1".to_owned(),
        http_port: *port,
        grpc_port: *port,
        health: *health,
    });
    RouteChange::Set { set: set.clone(), endpoints: Some(endpoints.collect()) }
}

pub async fn draining_replica_gets_nothing_new_and_finishes(world: &mut World) {
    let (leaving, staying) = (Backend::start("leaving").await, Backend::start("staying").await);
    let (first, second) = (leaving.address.port(), staying.address.port());
    let set = world.model("drained", &[&leaving, &staying]).await;
    let path = "/v2/models/drained/infer";
    // A request that the leaving replica works on.
    world.publish([with_health(&set, &[(first, Health::Healthy), (second, Health::Draining)])]).await;
    world.until("the other drains", async |world| only(world, path, "leaving").await).await;
    let client = crate::client::RestClient::new(world.address());
    let held = tokio::spawn(async move { client.get("/v2/models/drained/held", &[]).await.backend().to_owned() });
    leaving.holds().await;
    world.publish([with_health(&set, &[(first, Health::Draining), (second, Health::Healthy)])]).await;
    world.until("it drains", async |world| only(world, path, "staying").await).await;
    leaving.take();
    assert!(only(world, path, "staying").await);
    world.publish([with_health(&set, &[(first, Health::Draining), (second, Health::Healthy)][1..])]).await;
    assert!(leaving.take().is_empty());
    // It is not even in the set any more, and still finishes.
    leaving.release();
    assert_eq!(held.await.unwrap(), "leaving");
}

/// Whether a run of requests is answered by one backend alone.
async fn only(world: &World, path: &str, name: &str) -> bool {
    for _ in 0..REQUESTS {
        if world.rest.get(path, &[]).await.backend() != name {
            return false;
        }
    }
    true
}

pub async fn unwell_replica_gets_nothing_even_when_it_is_the_only_one(world: &mut World) {
    let (one, other) = (Backend::start("one").await, Backend::start("other").await);
    let (first, second) = (one.address.port(), other.address.port());
    let set = world.model("unwell", &[&one, &other]).await;
    let path = "/v2/models/unwell/infer";
    world.publish([with_health(&set, &[(first, Health::Unhealthy), (second, Health::Healthy)])]).await;
    world.until("one is unwell", async |world| only(world, path, "other").await).await;
    assert!(only(world, path, "other").await);
    world.publish([with_health(&set, &[(first, Health::Unhealthy), (second, Health::Unhealthy)])]).await;
    world
        .until("nobody is well", async |world| {
            let answer = world.rest.get(path, &[]).await;
            answer.status == StatusCode::SERVICE_UNAVAILABLE && answer.body.contains("no healthy upstream")
        })
        .await;
    let status = world.rpc.model_infer(infer("unwell")).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (tonic::Code::Unavailable, "no healthy upstream"));
}

/// It would make Envoy refuse all endpoints of the set.
pub async fn name_instead_of_an_address_reaches_no_envoy(world: &mut World) {
    let backend = Backend::start("b").await;
    let port = backend.address.port();
    let (set, mut endpoints) = world.server(&[(port, port), (port, port)]);
    endpoints[0].host = "localhost".to_owned();
    let route = world.route("by-name", &[(1, &set, 100)], false);
    world.publish([RouteChange::Set { set, endpoints: Some(endpoints) }, route]).await;
    for _ in 0..REQUESTS {
        assert_eq!(world.rest.get("/v2/models/by-name/infer", &[]).await.backend(), "b");
    }
}

pub async fn removed_route_is_404_and_its_cluster_goes_after_the_grace(world: &mut World) {
    let backend = Backend::start("b").await;
    let before = world.clusters().await;
    let set = world.model("gone", &[&backend]).await;
    let cluster = world.clusters().await.difference(&before).next().cloned().unwrap();
    let route = world.leads("gone", None);
    world.publish([route, RouteChange::Set { set: set.clone(), endpoints: None }]).await;
    assert_eq!(world.rest.get("/v2/models/gone/infer", &[]).await.status, StatusCode::NOT_FOUND);
    world.pass(scheduler::envoy::SET_GRACE_MS - 1);
    // It comes back in time.
    let port = backend.address.port();
    let route = world.route("gone", &[(2, &set, 100)], false);
    world.publish([with_health(&set, &[(port, Health::Healthy)]), route]).await;
    world.pass(scheduler::envoy::SET_GRACE_MS);
    assert_eq!(world.rest.get("/v2/models/gone/infer", &[]).await.header("x-seldon-route"), Some(":gone_2:"));
    assert!(world.clusters().await.contains(&cluster));
    let route = world.leads("gone", None);
    world.publish([route, RouteChange::Set { set, endpoints: None }]).await;
    world.pass(scheduler::envoy::SET_GRACE_MS);
    world.until("the cluster is gone", async |world| !world.clusters().await.contains(&cluster)).await;
}

/// A route moves between sets while requests go on; each is answered.
pub async fn move_to_another_set_loses_nothing(world: &mut World) {
    let (one, other) = (Backend::start("one").await, Backend::start("other").await);
    let first = world.model("moved", &[&one]).await;
    let (second, announced) = world.placed(&[&other]);
    world.publish([announced]).await;
    let client = crate::client::RestClient::new(world.address());
    let answered = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&answered);
    let load = tokio::spawn(async move {
        while counter.load(Ordering::Relaxed) < MOVED_REQUESTS {
            client.get("/v2/models/moved/infer", &[]).await.backend();
            counter.fetch_add(1, Ordering::Relaxed);
        }
    });
    let mut turn = 0;
    while turn < MOVES || !load.is_finished() {
        let (from, to, backend) = if turn % 2 == 0 { (&first, &second, &other) } else { (&second, &first, &one) };
        let announced = with_health(to, &[(backend.address.port(), Health::Healthy)]);
        turn += 1;
        let route = world.route("moved", &[(turn, to, 100)], false);
        let from = RouteChange::Set { set: from.clone(), endpoints: None };
        world.publish([announced, route, from]).await;
        world.pass(scheduler::envoy::SET_GRACE_MS);
    }
    load.await.unwrap();
}

pub fn access_log_has_failures_only(log: &[String]) {
    assert!(!log.is_empty());
    let field = |line: &str, index: usize| -> u32 {
        line.split("\" ").nth(1).unwrap().split(' ').nth(index).unwrap().parse().unwrap_or(0)
    };
    for line in log {
        let (status, grpc) = (field(line, 0), field(line, 1));
        assert!(status >= 400 || grpc > 0, "{line}");
    }
    assert!(log.iter().any(|line| line.contains("GET /v2/models/nobody/infer") && field(line, 0) == 404), "{log:#?}");
    assert!(log.iter().any(|line| line.contains("/ModelInfer") && field(line, 1) == 12), "{log:#?}");
}

pub async fn access_log_has_everything_when_asked() {
    let mut world = World::start(true).await;
    let backend = Backend::start("b").await;
    world.model("iris", &[&backend]).await;
    world.rest.get("/v2/models/iris/infer", &[("x-request-id", "my id")]).await.backend();
    world.rpc.model_infer(infer("iris")).await.unwrap();
    let log = world.stop().await;
    assert!(
        log.iter().any(|line| line.contains("\"GET /v2/models/iris/infer HTTP/1.1\" 200") && line.contains("my id"))
    );
    assert!(log.iter().any(|line| line.contains("/ModelInfer HTTP/2\" 200 0 ")), "{log:#?}");
}
