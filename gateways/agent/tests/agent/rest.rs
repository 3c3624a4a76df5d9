//! REST through the proxy (`spec/data-plane.md`, acceptance 32-34, 36, 40, 41).

use std::convert::Infallible;

use agent::Inference;
use bytes::Bytes;
use http_body::Frame;
use http_body_util::StreamBody;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

use crate::server::{Server, full};
use crate::world::{World, any_port, client, read, until, within};

const IRIS: (&str, &str) = ("seldon-internal-model", "iris_2");

#[tokio::test]
async fn paths_get_the_internal_name_and_lose_their_version() {
    let mut world = World::start().await;
    let _stream = world.loaded(&["iris_2"]).await;
    let loads = world.server.seen().len();
    let cases = [
        ("POST", "/v2/models/iris/infer", "POST /v2/models/iris_2/infer"),
        ("POST", "/v2/models/iris/versions/1/infer", "POST /v2/models/iris_2/infer"),
        ("POST", "/v2/models/iris/infer_stream?a=b%20c", "POST /v2/models/iris_2/infer_stream?a=b%20c"),
        ("GET", "/v2/models/iris", "GET /v2/models/iris_2"),
        ("GET", "/v2/models/iris/ready", "GET /v2/models/iris_2/ready"),
        ("POST", "/v2/models/some.experiment/infer", "POST /v2/models/iris_2/infer"),
        ("GET", "/v2/health/live", "GET /v2/health/live"),
        ("GET", "/v2/health/ready", "GET /v2/health/ready"),
        ("GET", "/v2", "GET /v2"),
    ];
    for (method, path, _) in cases {
        let body = if method == "POST" { "{}" } else { "" };
        let answer = world.call(method, path, &[IRIS], body).await;
        assert_eq!((answer.status.as_u16(), &*answer.body), (200, body.as_bytes()), "{path}");
    }
    let expected: Vec<&str> = cases.iter().map(|case| case.2).collect();
    assert_eq!(world.server.seen().split_off(loads), expected);
}

#[tokio::test]
async fn without_the_internal_header_a_name_means_its_highest_version_here() {
    let mut world = World::start().await;
    let _stream = world.loaded(&["iris_9", "iris_10", "wine_1"]).await;
    let check = async |path: &str, headers: &[(&str, &str)], expected: &str| {
        assert_eq!(world.call("GET", path, headers, "").await.status, 200, "{path}");
        assert_eq!(world.server.seen().last().expect("seen"), expected);
    };
    check("/v2/models/iris", &[], "GET /v2/models/iris_10").await;
    check("/v2/models/iris", &[("seldon-internal-model", "iris_9")], "GET /v2/models/iris_9").await;
    check("/v2/models/nobody", &[("seldon-model", "wine")], "GET /v2/models/wine_1").await;
}

#[tokio::test]
async fn what_is_not_here_is_404_and_names_the_model_and_nothing_else_is_reached() {
    let mut world = World::start().await;
    let _stream = world.loaded(&["iris_2"]).await;
    let before = world.server.seen();
    let check = async |path: &str, headers: &[(&str, &str)], expected: &str| {
        let answer = world.call("POST", path, headers, "{}").await;
        assert_eq!(answer.status, 404, "{path}");
        assert!(answer.error().contains(expected), "{path}: {}", answer.error());
        assert_eq!(answer.header("x-request-id").len(), 20);
    };
    check("/v2/models/iris/infer", &[("seldon-internal-model", "iris_3")], "\"iris_3\" is not loaded on onnx/3").await;
    check("/v2/models/wine/infer", &[], "\"wine\" is not loaded").await;
    check("/v2/models/iris_2/infer", &[], "\"iris_2\" is not loaded").await;
    check("/v2/repository/index", &[IRIS], "is not served here").await;
    check("/v2/repository/models/iris_2/unload", &[IRIS], "is not served here").await;
    check("/v2/models/..%2f..%2frepository/infer", &[IRIS], "percent-encoded").await;
    check("/v2/models/iris/unload", &[IRIS], "is no operation on a model").await;
    check("/inference.GRPCInferenceService/RepositoryIndex", &[IRIS], "is not served here").await;
    assert_eq!(world.server.seen(), before);
}

#[tokio::test]
async fn mistake_of_a_client_is_one_call_and_keeps_its_answer() {
    let mut world = World::start().await;
    let _stream = world.loaded(&["iris_2"]).await;
    let before = world.server.seen().len();
    let answer = world.call("POST", "/v2/models/iris/infer", &[IRIS], "fail").await;
    assert_eq!((answer.status.as_u16(), &*answer.body), (400, &b"fail"[..]));
    assert_eq!(world.server.seen().split_off(before), ["POST /v2/models/iris_2/infer"]);
}

#[tokio::test]
async fn request_id_is_the_servers_else_the_clients_else_a_new_one() {
    let mut world = World::start().await;
    let _stream = world.loaded(&["iris_2"]).await;
    let path = "/v2/models/iris/infer";
    let own = world.call("POST", path, &[IRIS, ("x-request-id", "mine")], "own id").await;
    assert_eq!(own.header("x-request-id"), "of-the-server");
    let mine = world.call("POST", path, &[IRIS, ("x-request-id", "mine"), ("traceparent", "00-1")], "{}").await;
    assert_eq!(mine.header("x-request-id"), "mine");
    let seen = world.server.memory.lock().unwrap().headers.clone();
    assert_eq!((&seen["x-request-id"], &seen["traceparent"]), (&"mine".parse().unwrap(), &"00-1".parse().unwrap()));
    let new = world.call("POST", path, &[IRIS], "{}").await;
    assert_eq!(new.header("x-request-id").len(), 20);
    assert_eq!(world.server.memory.lock().unwrap().headers["x-request-id"], new.header("x-request-id"));
}

#[tokio::test]
async fn large_bodies_pass_and_too_large_ones_are_413() {
    let mut world = World::with(|config| config.max_message_bytes = 9 << 20).await;
    let _stream = world.loaded(&["iris_2"]).await;
    let large: Vec<u8> = (0..8 << 20).map(|index| (index % 251) as u8).collect();
    let answer = world.call("POST", "/v2/models/iris/infer", &[IRIS], large.clone()).await;
    assert!(answer.status == 200 && answer.body == large);
    let before = world.server.seen().len();
    let answer = world.call("POST", "/v2/models/iris/infer", &[IRIS], vec![b' '; 10 << 20]).await;
    assert_eq!(answer.status, 413);
    assert!(answer.error().contains("at most") || answer.error().contains("more than 9437184"), "{}", answer.error());
    assert_eq!(world.server.seen().len(), before);
    // Without a length it turns out on the way.
    let chunks = (0..10).map(|_| Ok::<_, Infallible>(Frame::data(Bytes::from(vec![b' '; 1 << 20]))));
    let body = StreamBody::new(tokio_stream::iter(chunks));
    let client = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    let request = world.request("POST", "/v2/models/iris/infer", &[IRIS]).body(body).unwrap();
    let answer = within("an answer", async { read(client.request(request).await.unwrap()).await }).await;
    assert_eq!((answer.status.as_u16(), answer.error().as_str()), (413, "the body has more than 9437184 bytes"));
}

#[tokio::test]
async fn http1_clients_and_http1_servers_are_served_too() {
    let server = Server::default();
    let (http, grpc) = (server.listen(any_port()).await, server.listen(any_port()).await);
    let inference = Inference::Attached { http: http.address, grpc: grpc.address };
    let mut world = World::of(server, Some(grpc), inference, |_| ()).await;
    let _stream = world.loaded(&["iris_2"]).await;
    let headers = [IRIS, ("connection", "keep-alive, x-hop"), ("x-hop", "1"), ("expect", "100-continue")];
    let request = world.request("POST", "/v2/models/iris/infer", &headers).body(full("{}")).unwrap();
    let answer = within("an answer", async { read(client(false).request(request).await.unwrap()).await }).await;
    assert_eq!((answer.status.as_u16(), &*answer.body), (200, &b"{}"[..]));
    let seen = world.server.memory.lock().unwrap().headers.clone();
    assert!(!seen.contains_key("x-hop") && !seen.contains_key("expect"), "{seen:?}");
    assert_eq!(seen["host"], http.address.to_string());
}

#[tokio::test]
async fn client_that_goes_away_cancels_its_request_at_the_server() {
    let mut world = World::start().await;
    let _stream = world.loaded(&["iris_2"]).await;
    let request = world.request("POST", "/v2/models/iris/infer", &[IRIS]).body(full("hang")).unwrap();
    let client = client(true);
    let waiting = tokio::spawn(async move { client.request(request).await.map(|_| ()) });
    until("the request to hang", || world.server.hanging() == 1).await;
    waiting.abort();
    until("the request to be cancelled", || world.server.hanging() == 0).await;
}
