//! Status streams: snapshots, gathering, and subscribers that do not read (rows 57, 59, 104, 105).

use std::sync::Arc;
use std::time::Duration;

use messages::scheduler as wire;
use messages::scheduler::model_status::ModelState;
use messages::scheduler::server_status_response::Type;
use tonic::{Code, Streaming};

use crate::agent::Identity;
use crate::declare::Draft;
use crate::world::{DEADLINE, World, loop_until};

async fn watch_servers(world: &World) -> Streaming<wire::ServerStatusResponse> {
    let request = wire::ServerSubscriptionRequest { subscriber_name: "test".into() };
    world.control.clone().subscribe_server_status(request).await.unwrap().into_inner()
}

async fn watch_models(world: &World) -> Streaming<wire::ModelStatusResponse> {
    let request = wire::ModelSubscriptionRequest { subscriber_name: "test".into(), is_model_gateway: false };
    world.control.clone().subscribe_model_status(request).await.unwrap().into_inner()
}

async fn next<T>(stream: &mut Streaming<T>) -> T {
    tokio::time::timeout(DEADLINE, stream.message()).await.expect("in time").unwrap().expect("it goes on")
}

#[tokio::test]
async fn many_events_of_one_server_within_its_pace_are_one_update() {
    let world = World::start().await;
    let _agent = Identity::of("onnx", 0).memory(1_000).subscribe(&world).await;
    let mut servers = watch_servers(&world).await;
    assert_eq!(next(&mut servers).await.num_loaded_model_replicas, 0, "the snapshot comes at once");
    let began = std::time::Instant::now();
    for index in 0..10 {
        world.load(&Draft::of(&format!("m{index}"))).await.unwrap();
    }
    world.until_state("m9", 1, ModelState::ModelAvailable).await;
    // Ten loads are more than thirty changes; they come as often as the pace allows.
    let mut updates = 0;
    while next(&mut servers).await.num_loaded_model_replicas < 10 {
        updates += 1;
    }
    let paces = began.elapsed().as_millis() / 250 + 1;
    assert!(updates <= paces, "{updates} updates in {paces} times the pace");
}

#[tokio::test]
async fn every_resource_is_told_once_as_it_is_now_to_whoever_comes() {
    let world = World::start().await;
    let _agent = Identity::of("onnx", 0).memory(1_000).subscribe(&world).await;
    for name in ["a", "b", "c"] {
        world.load(&Draft::of(name)).await.unwrap();
        world.load(&Draft::of(name).uri("/models/second")).await.unwrap();
        world.until_state(name, 2, ModelState::ModelAvailable).await;
    }
    let mut models = watch_models(&world).await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        let status = next(&mut models).await;
        seen.push((status.model_name, status.versions[0].version));
        assert_eq!(status.versions.len(), 1);
    }
    assert_eq!(seen, [("a".to_owned(), 2), ("b".to_owned(), 2), ("c".to_owned(), 2)]);
    let mut servers = watch_servers(&world).await;
    let status = next(&mut servers).await;
    assert_eq!((status.server_name.as_str(), status.r#type()), ("onnx", Type::StatusUpdate));
}

#[tokio::test]
async fn subscriber_that_does_not_read_is_cut_off_and_others_go_on() {
    let limit = Duration::from_millis(300);
    let mut counters = Arc::default();
    let world = World::start_with(Arc::new(tempfile::tempdir().unwrap()), |config| {
        config.subscriber_limit = limit;
        counters = config.counters.clone();
    })
    .await;
    let _agent = Identity::of("onnx", 0).memory(1 << 40).subscribe(&world).await;
    let mut deaf = watch_models(&world).await;
    // More than sockets and HTTP/2 hold for somebody who does not read.
    let long = "x".repeat(16 << 10);
    for index in 0..200 {
        let draft = Draft::of(&format!("m{index}")).spec(|spec| {
            spec.parameters = vec![wire::ParameterSpec { name: "text".into(), value: long.clone() }; 4];
        });
        world.load(&draft).await.unwrap();
    }
    world.until_state("m199", 1, ModelState::ModelAvailable).await;
    loop_until("one is cut off", async || {
        let mut text = String::new();
        counters.write(&mut text);
        if text.contains("cut_off_total 1\n") { Ok(()) } else { Err(text) }
    })
    .await;
    // The one that reads is told what comes after that.
    world.load(&Draft::of("later")).await.unwrap();
    world.until_state("later", 1, ModelState::ModelAvailable).await;
    let mut read = 0;
    let code = loop {
        match tokio::time::timeout(DEADLINE, deaf.message()).await.expect("in time") {
            Ok(Some(status)) => {
                assert_ne!(status.model_name, "later", "it was forgotten before");
                read += 1;
            }
            Ok(None) => break Code::Ok,
            Err(status) => break status.code(),
        }
    };
    assert_eq!(code, Code::DeadlineExceeded);
    assert!(read < 200, "{read} messages were held for it");
}

#[tokio::test]
async fn model_gateway_of_another_system_is_told_that_it_is_not_supported() {
    let world = World::start().await;
    let request = wire::ModelSubscriptionRequest { subscriber_name: "gateway".into(), is_model_gateway: true };
    let refused = world.control.clone().subscribe_model_status(request).await.expect_err("refused");
    assert_eq!(refused.code(), Code::Unimplemented);
}
