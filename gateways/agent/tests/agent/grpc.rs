//! gRPC through the proxy (`spec/data-plane.md`, acceptance 35, 36, 42, 43).

use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body_util::BodyExt;
use messages::inference as wire;
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

use crate::server::{BREAKS_OFF, full};
use crate::world::{World, client, until, within};

fn infer(model: &str, id: &str) -> wire::ModelInferRequest {
    wire::ModelInferRequest {
        model_name: model.to_owned(),
        model_version: "1".to_owned(),
        id: id.to_owned(),
        raw_input_contents: vec![Bytes::copy_from_slice(id.as_bytes())],
        ..Default::default()
    }
}

fn with<T>(message: T, headers: &[(&'static str, &str)]) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    for (name, value) in headers {
        request.metadata_mut().insert(*name, value.parse().expect("text"));
    }
    request
}

const IRIS: (&str, &str) = ("seldon-internal-model", "iris_2");

/// A call by hand: what went over the wire, whatever a client library would make of it.
struct Raw {
    headers: HeaderMap,
    trailers: Option<HeaderMap>,
}

impl Raw {
    fn status(&self) -> (Code, String) {
        let (headers, trailers) = (Some(&self.headers), self.trailers.as_ref());
        let status = [headers, trailers].into_iter().flatten().find_map(Status::from_header_map).expect("a status");
        (status.code(), status.message().to_owned())
    }
}

async fn raw(world: &World, method: &str, headers: &[(&str, &str)], body: Bytes) -> Raw {
    let path = format!("/inference.GRPCInferenceService/{method}");
    let request =
        world.request("POST", &path, headers).header("content-type", "application/grpc").header("te", "trailers");
    let request: Request<_> = request.method(Method::POST).body(full(body)).unwrap();
    let response = within("an answer", client(true).request(request)).await.expect("an answer");
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "application/grpc");
    let (parts, body) = response.into_parts();
    let body = within("the end", body.collect()).await.expect("an end");
    Raw { headers: parts.headers, trailers: body.trailers().cloned() }
}

fn frame(message: &[u8]) -> Bytes {
    let mut frame = vec![0];
    frame.extend_from_slice(&(message.len() as u32).to_be_bytes());
    frame.extend_from_slice(message);
    frame.into()
}

#[tokio::test]
async fn calls_get_the_internal_name_and_no_version() {
    let mut world = World::start().await;
    let _stream = world.loaded(&["iris_2"]).await;
    let mut client = world.grpc().await;
    let answer = client.model_infer(with(infer("iris", "a"), &[IRIS])).await.expect("an answer");
    assert_eq!(answer.metadata().get("x-server-header").expect("forwarded"), "h");
    let answer = answer.into_inner();
    assert_eq!((answer.model_name.as_str(), answer.raw_output_contents), ("iris_2", vec![Bytes::from_static(b"a")]));
    let ready = wire::ModelReadyRequest { name: "other".to_owned(), version: "7".to_owned() };
    assert!(client.model_ready(with(ready, &[IRIS])).await.expect("an answer").into_inner().ready);
    let metadata = wire::ModelMetadataRequest { name: "iris".to_owned(), version: String::new() };
    let answer = client.model_metadata(with(metadata, &[IRIS])).await.expect("an answer");
    assert_eq!(answer.into_inner().name, "iris_2");
    assert!(client.server_live(wire::ServerLiveRequest {}).await.expect("an answer").into_inner().live);
    assert!(client.server_ready(wire::ServerReadyRequest {}).await.expect("an answer").into_inner().ready);
    let answer = client.server_metadata(wire::ServerMetadataRequest {}).await.expect("an answer");
    assert_eq!(answer.into_inner().name, "fake");
}

#[tokio::test]
async fn without_the_internal_header_the_name_in_the_message_means_its_highest_version() {
    let mut world = World::start().await;
    let _stream = world.loaded(&["iris_1", "iris_2", "wine_5"]).await;
    let mut client = world.grpc().await;
    let mut check = async |model: &str, headers: &[(&'static str, &str)], expected: &str| {
        let answer = client.model_infer(with(infer(model, "a"), headers)).await.expect("an answer");
        assert_eq!(answer.into_inner().model_name, expected);
    };
    check("iris", &[], "iris_2").await;
    check("iris", &[("seldon-model", "wine")], "iris_2").await;
    check("", &[("seldon-model", "wine")], "wine_5").await;
    check("wine", &[("seldon-internal-model", "iris_1")], "iris_1").await;
}

#[tokio::test]
async fn calls_that_cannot_be_passed_on_say_why() {
    let mut world = World::with(|config| config.max_message_bytes = 1000).await;
    let _stream = world.loaded(&["iris_2"]).await;
    let before = world.server.seen();
    let message = |model: &str| frame(&infer(model, "a").encode_to_vec());
    let check = async |method: &str, headers: &[(&str, &str)], body: Bytes, code: Code, text: &str| {
        let raw = raw(&world, method, headers, body).await;
        let status = raw.status();
        assert!(status.0 == code && status.1.contains(text), "{method} {text}: {status:?}");
        assert_eq!(raw.headers["x-request-id"].len(), 20);
        assert!(raw.trailers.is_none(), "an answer of ours is headers alone");
    };
    let internal = |value| [("seldon-internal-model", value)];
    check("ModelInfer", &[], message(""), Code::FailedPrecondition, "model_name is empty").await;
    check("ModelStreamInfer", &[], Bytes::new(), Code::FailedPrecondition, "model_name is empty").await;
    check("ModelInfer", &[], message("wine"), Code::NotFound, "\"wine\" is not loaded on onnx/3").await;
    check("ModelInfer", &internal("iris_3"), message("iris"), Code::NotFound, "\"iris_3\"").await;
    check("ModelInfer", &[IRIS], frame(b"\xff\xff"), Code::InvalidArgument, "no protobuf message").await;
    check("ModelInfer", &[], frame(b"\xff\xff"), Code::InvalidArgument, "no protobuf message").await;
    check("ModelInfer", &[IRIS], Bytes::new(), Code::InvalidArgument, "has no message").await;
    check("ModelInfer", &[IRIS], Bytes::from_static(&[0, 0, 0, 0, 9, 1]), Code::InvalidArgument, "ends inside").await;
    check("ModelInfer", &[IRIS], Bytes::from_static(&[1, 0, 0, 0, 0]), Code::Unimplemented, "compressed").await;
    check("ModelInfer", &[IRIS], frame(&[0; 1001]), Code::ResourceExhausted, "at most 1000").await;
    check("RepositoryIndex", &[IRIS], frame(b""), Code::Unimplemented, "RepositoryIndex").await;
    check("RepositoryModelUnload", &[IRIS], frame(b"x"), Code::Unimplemented, "RepositoryModelUnload").await;
    check("model%49nfer", &[IRIS], frame(b""), Code::Unimplemented, "not served here").await;
    assert_eq!(world.server.seen(), before);
}

#[tokio::test]
async fn request_id_is_in_headers_and_trailers_and_the_servers_trailers_are_kept() {
    let mut world = World::start().await;
    let _stream = world.loaded(&["iris_2"]).await;
    let message = frame(&infer("iris", "a").encode_to_vec());
    let answer = raw(&world, "ModelInfer", &[IRIS, ("x-request-id", "mine")], message.clone()).await;
    let trailers = answer.trailers.as_ref().expect("trailers");
    assert_eq!(answer.status().0, Code::Ok);
    assert_eq!(
        (&answer.headers["x-request-id"], &trailers["x-request-id"]),
        (&"mine".parse().unwrap(), &"mine".parse().unwrap())
    );
    assert_eq!(trailers["x-server-trailer"], "t");
    let answer = raw(&world, "ModelInfer", &[IRIS], message).await;
    let trailers = answer.trailers.as_ref().expect("trailers");
    assert_eq!((trailers["x-request-id"].len(), &trailers["x-request-id"]), (20, &answer.headers["x-request-id"]));
    let failing = raw(&world, "ModelInfer", &[IRIS], frame(&infer("iris", "fail").encode_to_vec())).await;
    assert_eq!(failing.status(), (Code::InvalidArgument, "as you wish".to_owned()));
}

#[tokio::test]
async fn answer_that_breaks_off_is_headers_alone_so_that_a_client_may_try_again() {
    let mut world = World::start().await;
    let _stream = world.loaded(&["iris_2"]).await;
    let message = || frame(&infer("iris", "a").encode_to_vec());
    let broken = async |method: &str| {
        let breaks = async {
            until("it has begun", || world.server.hanging() == 1).await;
            // The other answer comes after it over the same connection.
            assert_eq!(raw(&world, "ModelInfer", &[IRIS], message()).await.status().0, Code::Ok);
            world.server.over.notify_one();
        };
        let headers = [IRIS, (BREAKS_OFF, "")];
        let (answer, ()) = tokio::join!(raw(&world, method, &headers, message()), breaks);
        let (code, text) = answer.status();
        assert!(code == Code::Unavailable && text.contains("onnx/3 broke off its response"), "{code}: {text}");
        answer
    };
    let answer = broken("ModelInfer").await;
    assert!(answer.trailers.is_none() && answer.headers["x-request-id"].len() == 20);
    // Of a stream the client has what came before.
    assert!(broken("ModelStreamInfer").await.trailers.is_some());
}

#[tokio::test]
async fn stream_is_passed_both_ways_as_it_comes_and_every_message_is_rewritten() {
    let mut world = World::start().await;
    let _stream = world.loaded(&["iris_2"]).await;
    let mut client = world.grpc().await;
    let (requests, receiver) = mpsc::channel(1);
    let open = client.model_stream_infer(with(ReceiverStream::new(receiver), &[IRIS]));
    // Opened before any message is there.
    let mut answers = within("the stream to open", open).await.expect("a stream").into_inner();
    for (model, id) in [("iris", "1"), ("", "2"), ("somebody-else", "3")] {
        requests.send(infer(model, id)).await.expect("a listener");
        let answer = within("an answer", answers.next()).await.expect("an answer").expect("a good one");
        assert_eq!((answer.model_name.as_str(), answer.id.as_str()), ("iris_2", id));
    }
    drop(requests);
    assert!(within("the end", answers.next()).await.is_none());
    let seen = world.server.seen();
    assert_eq!(seen[seen.len() - 3..], ["stream iris_2", "stream iris_2", "stream iris_2"]);
    let trailers: MetadataMap = answers.trailers().await.expect("trailers").expect("trailers");
    assert_eq!(trailers.get("x-server-trailer").expect("forwarded"), "t");
}

#[tokio::test]
async fn garbage_inside_a_stream_ends_it_with_the_reason() {
    let mut world = World::start().await;
    let _stream = world.loaded(&["iris_2"]).await;
    let mut body = frame(&infer("iris", "1").encode_to_vec()).to_vec();
    body.extend_from_slice(&frame(b"\xff\xff"));
    let answer = raw(&world, "ModelStreamInfer", &[IRIS], body.clone().into()).await;
    let (code, reason) = answer.status();
    assert!(code == Code::InvalidArgument && reason.contains("no protobuf message"), "{code:?} {reason}");
    // Without the header the first message decides, and the stream goes on from there.
    let answer = raw(&world, "ModelStreamInfer", &[], frame(&infer("iris", "1").encode_to_vec())).await;
    assert_eq!(answer.status().0, Code::Ok);
}

#[tokio::test]
async fn large_messages_pass_and_too_large_ones_are_resource_exhausted() {
    let mut world = World::with(|config| config.max_message_bytes = 9 << 20).await;
    let _stream = world.loaded(&["iris_2"]).await;
    let mut client = world.grpc().await;
    let mut request = infer("iris", "a");
    request.raw_input_contents = vec![(0..8 << 20).map(|index| (index % 251) as u8).collect::<Vec<u8>>().into()];
    let answer = client.model_infer(with(request.clone(), &[IRIS])).await.expect("an answer").into_inner();
    assert!(answer.raw_output_contents == request.raw_input_contents);
    request.raw_input_contents.push(vec![0; 2 << 20].into());
    let refused = client.model_infer(with(request, &[IRIS])).await.expect_err("too large");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
}

#[tokio::test]
async fn two_versions_are_served_at_once() {
    let mut world = World::start().await;
    let _stream = world.loaded(&["iris_1", "iris_2"]).await;
    let client = world.grpc().await;
    let calls = (0..100).map(|index| {
        let mut client = client.clone();
        async move {
            let name = format!("iris_{}", 1 + index % 2);
            let id = index.to_string();
            let request = with(infer("iris", &id), &[("seldon-internal-model", &name)]);
            let answer = client.model_infer(request).await.expect("an answer").into_inner();
            assert_eq!((answer.model_name, answer.id), (name, id));
        }
    });
    within("all answers", futures_util::future::join_all(calls)).await;
}

#[tokio::test]
async fn client_that_goes_away_cancels_its_call_at_the_server() {
    let mut world = World::start().await;
    let _stream = world.loaded(&["iris_2"]).await;
    let mut client = world.grpc().await;
    let waiting =
        tokio::spawn(async move { client.model_infer(with(infer("iris", "hang"), &[IRIS])).await.map(|_| ()) });
    until("the call to hang", || world.server.hanging() == 1).await;
    waiting.abort();
    until("the call to be cancelled", || world.server.hanging() == 0).await;
}
