//! gRPC through Envoy.

use futures_util::StreamExt;
use messages::inference as pb;
use scheduler_core::RouteChange;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::backend::Backend;
use crate::client::{infer, with_headers};
use crate::world::World;

const INFER: &str = "/inference.GRPCInferenceService/ModelInfer";

pub async fn model_name_in_the_message_is_enough(world: &mut World) {
    let backend = Backend::start("b").await;
    world.model("iris-rpc", &[&backend]).await;
    let check = |path: &str| {
        let seen = backend.only();
        assert_eq!(seen.path, format!("/inference.GRPCInferenceService/{path}"));
        assert_eq!(seen.header("seldon-internal-model").as_deref(), Some("iris-rpc_1"));
        assert_eq!(seen.header("seldon-model").as_deref(), Some("iris-rpc"));
    };
    let answer = world.rpc.model_infer(with_headers(infer("iris-rpc"), &[("seldon-internal-model", "x_1")])).await;
    let answer = answer.unwrap();
    assert_eq!(answer.metadata().get("x-seldon-route").unwrap(), ":iris-rpc_1:");
    assert_eq!((answer.get_ref().model_name.as_str(), answer.get_ref().model_version.as_str()), ("iris-rpc", "b"));
    check("ModelInfer");
    let name = || "iris-rpc".to_owned();
    let ready = pb::ModelReadyRequest { name: name(), ..Default::default() };
    assert!(world.rpc.model_ready(ready).await.unwrap().into_inner().ready);
    check("ModelReady");
    let metadata = pb::ModelMetadataRequest { name: name(), ..Default::default() };
    assert_eq!(world.rpc.model_metadata(metadata).await.unwrap().into_inner().name, name());
    check("ModelMetadata");
}

pub async fn header_beats_the_message(world: &mut World) {
    let (one, other) = (Backend::start("one").await, Backend::start("other").await);
    world.model("in-message", &[&one]).await;
    world.model("in-header", &[&other]).await;
    let request = with_headers(infer("in-message"), &[("seldon-model", "in-header")]);
    assert_eq!(world.rpc.model_infer(request).await.unwrap().into_inner().model_version, "other");
    assert_eq!(other.only().header("seldon-internal-model").as_deref(), Some("in-header_1"));
}

pub async fn stream_is_routed_by_its_first_message(world: &mut World) {
    let backend = Backend::start("b").await;
    world.model("streamed", &[&backend]).await;
    let named: &[(&'static str, &str)] = &[("seldon-model", "streamed")];
    for headers in [&[][..], named] {
        let (send, requests) = mpsc::channel(1);
        send.send(numbered(0)).await.unwrap();
        let request = with_headers(ReceiverStream::new(requests), headers);
        let mut answers = world.rpc.model_stream_infer(request).await.unwrap().into_inner();
        // Each answer is here before the next request is made: nothing waits for the end of the stream.
        for turn in 0..5 {
            let answer = answers.next().await.unwrap().unwrap();
            assert_eq!((answer.id, answer.model_version.as_str()), (turn.to_string(), "b"));
            if turn < 4 {
                send.send(numbered(turn + 1)).await.unwrap();
            }
        }
        drop(send);
        assert!(answers.next().await.is_none());
        assert_eq!(backend.only().header("seldon-internal-model").as_deref(), Some("streamed_1"));
    }
}

fn numbered(turn: u32) -> pb::ModelInferRequest {
    pb::ModelInferRequest {
        id: turn.to_string(),
        raw_input_contents: vec![vec![7; 3 << 20].into()],
        ..infer("streamed")
    }
}

pub async fn unknown_model_is_unimplemented_and_named(world: &mut World) {
    let status = world.rpc.model_infer(infer("nobody")).await.unwrap_err();
    let unknown = "model nobody is not known here: nobody declared it, or only just now, or it is an experiment that does not run";
    assert_eq!((status.code(), status.message()), (Code::Unimplemented, unknown));
    let status = world.rpc.model_infer(with_headers(infer("iris"), &[("seldon-model", "nobody")])).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unimplemented, unknown));
    let status = world.rpc.model_infer(infer("")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    assert!(status.message().starts_with("the request names no model: "), "{status:?}");
    let status = world.rpc.repository_index(pb::RepositoryIndexRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
}

pub async fn declared_name_that_nobody_serves_is_unavailable_and_named(world: &mut World) {
    world.declare("promised", true).await;
    // Each of Envoy's workers has it by itself.
    let call = async |world: &World| world.rpc.clone().model_infer(infer("promised")).await.unwrap_err();
    world.until("it is known", async |world| call(world).await.code() == Code::Unavailable).await;
    assert_eq!(call(world).await.message(), "model promised is declared, but no replica has it loaded now");
}

/// A message may hold any text, a header may not.
pub async fn name_that_can_be_none_becomes_no_header(world: &mut World) {
    for name in ["a\r\nseldon-internal-model: x", "a b", "ü", &"x".repeat(301), "a\0b"] {
        let status = world.rpc.model_infer(infer(name)).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{name:?}");
        assert!(status.message().starts_with("the request names no model: "), "{status:?}");
    }
}

pub async fn server_wide_calls_go_to_any_agent(world: &mut World) {
    let rest = Backend::start("rest").await;
    for two_ports in [false, true] {
        let name = format!("agent with two ports: {two_ports}");
        let backend = Backend::start(&name).await;
        let port = backend.address.port();
        let (_, endpoints) = world.server(&[(if two_ports { rest.address.port() } else { port }, port)]);
        world.publish([RouteChange::Mesh(endpoints)]).await;
        let rpc = world.rpc.clone();
        world
            .until("the agent is known", async |_| {
                let metadata = rpc.clone().server_metadata(pb::ServerMetadataRequest {}).await;
                metadata.is_ok_and(|metadata| metadata.into_inner().name == name)
            })
            .await;
        backend.take();
        assert!(world.rpc.server_live(pb::ServerLiveRequest {}).await.unwrap().into_inner().live);
        assert!(world.rpc.server_ready(pb::ServerReadyRequest {}).await.unwrap().into_inner().ready);
        for seen in backend.take() {
            assert_eq!(seen.header("seldon-internal-model"), None);
        }
    }
}

pub async fn fifty_megabytes_pass(world: &mut World) {
    let backend = Backend::start("b").await;
    world.model("large-rpc", &[&backend]).await;
    let named: &[(&'static str, &str)] = &[("seldon-model", "large-rpc")];
    for headers in [&[][..], named] {
        let mut message = infer("large-rpc");
        message.raw_input_contents = vec![vec![1; 50 << 20].into()];
        let answer = world.rpc.model_infer(with_headers(message, headers)).await.unwrap();
        assert_eq!(answer.into_inner().model_version, "b");
        assert_eq!(backend.only().path, INFER);
    }
}
