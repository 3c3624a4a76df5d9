//! Peers that send nonsense, do not read, or send too much: they are told, and nobody else is disturbed.

use messages::agent::model_event_message::Event;
use messages::scheduler as wire;
use messages::scheduler::model_status::ModelState;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;

use crate::agent::Identity;
use crate::declare::Draft;
use crate::world::{DEADLINE, World, channel, refused};

/// Bytes that are no message of any kind: a field whose length is far beyond the end.
const NO_MESSAGE: &[u8] = &[0x0a, 0xff, 0xff, 0xff, 0xff, 0x07, 1, 2, 3];

/// Calls a method with a body that is sent as it is.
async fn raw(at: std::net::SocketAddr, path: &'static str, body: &'static [u8]) -> tonic::Status {
    #[derive(Clone, Default)]
    struct AsIs;
    impl tonic::codec::Codec for AsIs {
        type Encode = &'static [u8];
        type Decode = ();
        type Encoder = AsIs;
        type Decoder = AsIs;
        fn encoder(&mut self) -> AsIs {
            AsIs
        }
        fn decoder(&mut self) -> AsIs {
            AsIs
        }
    }
    impl tonic::codec::Encoder for AsIs {
        type Item = &'static [u8];
        type Error = tonic::Status;
        fn encode(&mut self, item: Self::Item, to: &mut tonic::codec::EncodeBuf<'_>) -> Result<(), tonic::Status> {
            use bytes::BufMut;
            to.put_slice(item);
            Ok(())
        }
    }
    impl tonic::codec::Decoder for AsIs {
        type Item = ();
        type Error = tonic::Status;
        fn decode(&mut self, _: &mut tonic::codec::DecodeBuf<'_>) -> Result<Option<()>, tonic::Status> {
            Ok(Some(()))
        }
    }
    let mut client = tonic::client::Grpc::new(channel(at));
    client.ready().await.unwrap();
    let path = tonic::codegen::http::uri::PathAndQuery::from_static(path);
    client.unary(tonic::Request::new(body), path, AsIs).await.expect_err("it is refused")
}

async fn still_serves(world: &World, name: &str) {
    world.load(&Draft::of(name)).await.unwrap();
    world.until_state(name, 1, ModelState::ModelAvailable).await;
    assert!(world.is_healthy().await);
}

#[tokio::test]
async fn bytes_that_are_no_message_are_refused_and_nobody_is_disturbed() {
    let world = World::start().await;
    let agent = Identity::of("onnx", 0).subscribe(&world).await;
    for path in [
        "/seldon.mlops.scheduler.Scheduler/LoadModel",
        "/seldon.mlops.scheduler.Scheduler/ServerNotify",
        "/seldon.mlops.scheduler.Scheduler/SubscribeModelStatus",
    ] {
        let status = raw(world.control_at, path, NO_MESSAGE).await;
        assert_eq!(status.code(), Code::Internal, "{path}: {status:?}");
    }
    for path in ["/seldon.mlops.agent.AgentService/AgentEvent", "/seldon.mlops.agent.AgentService/Subscribe"] {
        let status = raw(world.agents, path, NO_MESSAGE).await;
        assert_eq!(status.code(), Code::Internal, "{path}: {status:?}");
    }
    let status = raw(world.control_at, "/seldon.mlops.scheduler.Scheduler/NoSuchCall", &[]).await;
    assert_eq!(status.code(), Code::Unimplemented);
    still_serves(&world, "iris").await;
    assert_eq!(agent.commands(), ["load iris 1"]);
}

#[tokio::test]
async fn bytes_that_are_no_protocol_end_their_connection_only() {
    let world = World::start().await;
    let _agent = Identity::of("onnx", 0).subscribe(&world).await;
    for at in [world.control_at, world.agents, world.xds] {
        let mut socket = TcpStream::connect(at).await.unwrap();
        socket.write_all(b"\x16\x03\x01 this is no HTTP/2 at all \r\n\r\n\0\0\0\0").await.unwrap();
        let mut rest = Vec::new();
        // How the connection ends is the transport's business; that it ends is ours.
        let _reset_or_closed = tokio::time::timeout(DEADLINE, socket.read_to_end(&mut rest)).await.expect("it ends");
    }
    still_serves(&world, "iris").await;
}

#[tokio::test]
async fn empty_messages_are_refused_with_the_missing_field() {
    let world = World::start().await;
    let text =
        refused(world.control.clone().load_model(wire::LoadModelRequest::default()).await, Code::FailedPrecondition);
    assert!(text.contains("model.meta"), "{text}");
    refused(world.control.clone().unload_model(wire::UnloadModelRequest::default()).await, Code::FailedPrecondition);
    let request = messages::agent::AgentSubscribeRequest { server_name: "onnx".into(), ..Default::default() };
    let text = refused(world.agent_api().subscribe(request).await, Code::FailedPrecondition);
    assert!(text.contains("replicaConfig"), "{text}");
    let mut request = Identity::of("onnx", 0).request();
    let config = request.replica_config.as_mut().unwrap();
    (config.inference_http_port, config.inference_svc) = (70_000, String::new());
    let text = refused(world.agent_api().subscribe(request).await, Code::FailedPrecondition);
    assert!(text.contains("inferenceHttpPort") && text.contains("inferenceSvc"), "{text}");
    assert_eq!(world.server_statuses(None).await.unwrap(), []);
}

#[tokio::test]
async fn endless_texts_are_refused_or_cut() {
    let world = World::start().await;
    let long = || "x".repeat(1_000_000);
    let meta = Some(wire::KubernetesMeta { namespace: long(), generation: 1 });
    world.load(&Draft::of("iris")).await.unwrap();
    let model = Some(wire::ModelReference { name: "iris".into(), version: None });
    let request = wire::UnloadModelRequest { model, kubernetes_meta: meta.clone() };
    let text = refused(world.control.clone().unload_model(request).await, Code::FailedPrecondition);
    assert!(text.contains("kubernetesMeta.namespace"), "{text}");
    let server = wire::ServerNotify { name: "onnx".into(), kubernetes_meta: meta, ..Default::default() };
    let request = wire::ServerNotifyRequest { servers: vec![server], is_first_sync: false };
    let text = refused(world.control.clone().server_notify(request).await, Code::FailedPrecondition);
    assert!(text.contains("servers[0].kubernetesMeta.namespace"), "{text}");
    let refusal = world.agent_api().subscribe(Identity::of("onnx", 0).offers(&[&long()]).request()).await;
    assert!(refused(refusal, Code::FailedPrecondition).contains("replicaConfig"));

    let agent = Identity::of("onnx", 0).scripted().subscribe(&world).await;
    let load = agent.told("load iris 1").await;
    agent.fail(&load, Event::LoadFailed, &"é".repeat(1_000_000)).await.unwrap();
    let status = world.until_state("iris", 1, ModelState::ModelFailed).await;
    let reason = crate::world::reason_of(&status);
    assert!(reason.len() <= 4_096 && reason.starts_with("ééé"), "{} bytes", reason.len());
}

/// Ten seconds, which others run beside.
#[tokio::test]
async fn a_peer_that_opens_a_connection_and_says_nothing_is_left_on_every_port() {
    let world = World::start().await;
    let ports = [world.control_at, world.agents, world.workers_at, world.xds];
    let silent = ports.map(|at| async move {
        let mut stream = TcpStream::connect(at).await.expect("it listens");
        let mut heard = Vec::new();
        // HTTP/2 servers may speak first.
        tokio::time::timeout(2 * DEADLINE, stream.read_to_end(&mut heard)).await
    });
    for (at, left) in ports.into_iter().zip(futures_util::future::join_all(silent).await) {
        let _end_or_reset = left.unwrap_or_else(|_| panic!("{at} still waits"));
    }
    assert!(world.is_healthy().await);
}
