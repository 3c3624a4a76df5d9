//! REST through Envoy.

use bytes::Bytes;
use http::{StatusCode, Version};
use scheduler_core::RouteChange;

use crate::backend::Backend;
use crate::world::World;

pub async fn model_in_the_path_is_enough(world: &mut World) {
    let backend = Backend::start("b").await;
    world.model("iris", &[&backend]).await;
    for path in [
        "/v2/models/iris/infer",
        "/v2/models/iris",
        "/v2/models/iris?a=b",
        "/v2/models/iris/ready?x=/v2/models/other",
        "/v2/models/iris/versions/1/infer",
    ] {
        let answer = world.rest.get(path, &[]).await;
        assert_eq!((answer.status, answer.backend()), (StatusCode::OK, "b"), "{path}");
        let seen = backend.only();
        assert_eq!((seen.path.as_str(), seen.version), (path, Version::HTTP_2));
        assert_eq!(seen.header("seldon-internal-model").as_deref(), Some("iris_1"));
        assert_eq!(seen.header("seldon-model").as_deref(), Some("iris"));
    }
}

pub async fn header_beats_the_path(world: &mut World) {
    let (one, other) = (Backend::start("one").await, Backend::start("other").await);
    world.model("by-path", &[&one]).await;
    world.model("by-header", &[&other]).await;
    let get = async |header| world.rest.get("/v2/models/by-path/infer", &[("seldon-model", header)]).await;
    assert_eq!(get("by-header").await.backend(), "other");
    assert_eq!(other.only().header("seldon-internal-model").as_deref(), Some("by-header_1"));
    // An empty header says nothing.
    assert_eq!(get("").await.backend(), "one");
}

pub async fn internal_model_of_a_client_is_overwritten(world: &mut World) {
    let backend = Backend::start("b").await;
    world.model("honest", &[&backend]).await;
    world.rest.get("/v2/models/honest/infer", &[("seldon-internal-model", "secret_7")]).await;
    assert_eq!(backend.only().header("seldon-internal-model").as_deref(), Some("honest_1"));
}

pub async fn response_names_its_route(world: &mut World) {
    let backend = Backend::start("b").await;
    world.model("named", &[&backend]).await;
    let answer = world.rest.get("/v2/models/named/infer", &[]).await;
    assert_eq!(answer.header("x-seldon-route"), Some(":named_1:"));
    assert_eq!(answer.header("seldon-logging"), None);
    // Without candidates to choose from, a client's wish changes nothing.
    let answer = world.rest.get("/v2/models/named/infer", &[("x-seldon-route", ":gone_4:")]).await;
    assert_eq!((answer.status, answer.header("x-seldon-route")), (StatusCode::OK, Some(":named_1:")));
}

pub async fn request_id_is_the_clients_or_none(world: &mut World) {
    let backend = Backend::start("b").await;
    world.model("traced", &[&backend]).await;
    let answer = world.rest.get("/v2/models/traced/infer", &[]).await;
    assert_eq!((backend.only().header("x-request-id"), answer.header("x-request-id")), (None, None));
    world.rest.get("/v2/models/traced/infer", &[("x-request-id", "mine"), ("traceparent", "00-1-2-01")]).await;
    let seen = backend.only();
    assert_eq!(seen.header("x-request-id").as_deref(), Some("mine"));
    assert_eq!(seen.header("traceparent").as_deref(), Some("00-1-2-01"));
}

pub async fn unknown_model_is_404_with_json_that_names_it(world: &mut World) {
    let get = async |path, headers| {
        let answer = world.rest.get(path, headers).await;
        assert_eq!((answer.status, answer.header("content-type")), (StatusCode::NOT_FOUND, Some("application/json")));
        // Envoy makes this header of the route's name, and there is no route.
        assert_eq!(answer.header("x-seldon-route"), Some("::"), "{path}");
        serde_json::from_str::<serde_json::Value>(&answer.body).unwrap()["error"].as_str().unwrap().to_owned()
    };
    let unknown = "model nobody is not known here: nobody declared it, or only just now, or it is an experiment that does not run";
    assert_eq!(get("/v2/models/nobody/infer", &[]).await, unknown);
    assert_eq!(get("/v2/models/iris/infer", &[("seldon-model", "nobody")]).await, unknown);
    assert!(get("/v2/pipelines/p/infer", &[]).await.starts_with("model p.pipeline is not known"));
    let quoted = get("/", &[("seldon-model", "a\"b\\c")]).await;
    assert!(quoted.starts_with("model a\"b\\c is not known"), "{quoted}");
    let nameless = get("/v2/repository/index", &[]).await;
    assert!(nameless.starts_with("the request names no model: "), "{nameless}");
}

pub async fn declared_name_that_nobody_serves_is_503_with_json_that_says_so(world: &mut World) {
    world.declare("coming", true).await;
    world.until("it is known", async |world| world.infer("coming").await == StatusCode::SERVICE_UNAVAILABLE).await;
    let answer = world.rest.get("/v2/models/coming/infer", &[]).await;
    assert_eq!(
        (answer.header("content-type"), answer.header("x-seldon-route")),
        (Some("application/json"), Some("::"))
    );
    assert_eq!(answer.body.trim(), r#"{"error":"model coming is declared, but no replica has it loaded now"}"#);
    let backend = Backend::start("b").await;
    world.model("coming", &[&backend]).await;
    assert_eq!(world.infer("coming").await, StatusCode::OK);
    let route = world.leads("coming", None);
    world.publish([route]).await;
    assert_eq!(world.infer("coming").await, StatusCode::SERVICE_UNAVAILABLE);
    world.declare("coming", false).await;
    world.until("it is gone", async |world| world.infer("coming").await == StatusCode::NOT_FOUND).await;
}

pub async fn server_wide_calls_go_to_any_agent(world: &mut World) {
    let get = async |world: &World, path| world.rest.get(path, &[("seldon-internal-model", "iris_1")]).await;
    world.publish([RouteChange::Mesh(Vec::new())]).await;
    let nobody = get(world, "/v2/health/ready").await;
    assert_eq!(
        (nobody.status, nobody.body.as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, "{\"error\":\"no healthy upstream\"}\n")
    );
    let backend = Backend::start("agent").await;
    let port = backend.address.port();
    let (_, endpoints) = world.server(&[(port, port)]);
    world.publish([RouteChange::Mesh(endpoints)]).await;
    world.until("agents are known", async |world| get(world, "/v2/health/ready").await.status == StatusCode::OK).await;
    backend.take();
    for path in ["/v2/health/ready", "/v2/health/live", "/v2", "/v2/", "/v2/health/live?x"] {
        let answer = get(world, path).await;
        assert_eq!(
            (answer.status, answer.backend(), answer.header("x-seldon-route")),
            (StatusCode::OK, "agent", Some(":.mesh:"))
        );
        let seen = backend.only();
        assert_eq!((seen.path.as_str(), seen.header("seldon-internal-model")), (path, None));
    }
    assert_eq!(get(world, "/v2/health/other").await.status, StatusCode::NOT_FOUND);
    let stolen = world.rest.get("/v2/models/iris/infer", &[("seldon-model", ".mesh")]).await;
    assert_eq!(stolen.status, StatusCode::NOT_FOUND);
    // Foreign agents have two ports.
    let rest = Backend::start("rest").await;
    let (_, foreign) = world.server(&[(rest.address.port(), port)]);
    world.publish([RouteChange::Mesh(foreign)]).await;
    world
        .until("agents have two ports", async |world| {
            let answer = get(world, "/v2/health/ready").await;
            assert_eq!(answer.status, StatusCode::OK);
            answer.backend() == "rest"
        })
        .await;
}

pub async fn canary_answers_when_routes_have_arrived(world: &mut World) {
    for (path, headers) in [("/ready", &[][..]), ("/any", &[("seldon-model", ".ready")][..])] {
        let answer = world.rest.get(path, headers).await;
        assert_eq!(
            (answer.status, answer.body.as_str(), answer.header("x-seldon-route")),
            (StatusCode::OK, "ready\n", Some(":.ready:"))
        );
    }
}

pub async fn logged_payloads_are_announced(world: &mut World) {
    let backend = Backend::start("b").await;
    let (set, change) = world.placed(&[&backend]);
    let route = world.route("logged", &[(1, &set, 100)], true);
    world.publish([change, route]).await;
    let answer = world.rest.get("/v2/models/logged/infer", &[]).await;
    assert_eq!((answer.header("seldon-logging"), answer.header("x-seldon-route")), (Some("true"), Some(":logged_1:")));
}

pub async fn fifty_megabytes_pass(world: &mut World) {
    let backend = Backend::start("b").await;
    world.model("large", &[&backend]).await;
    let body = Bytes::from(vec![b'x'; 50 << 20]);
    for headers in [&[][..], &[("seldon-model", "large")][..]] {
        let answer = world.rest.post("/v2/models/large/infer", headers, body.clone()).await;
        assert_eq!(answer.backend(), "b");
        assert_eq!(backend.only().body_bytes, body.len());
    }
}
