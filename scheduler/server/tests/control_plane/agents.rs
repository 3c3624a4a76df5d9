//! Agents that come, go, come twice, drain and say odd things (rows 36, 47 to 56).

use messages::agent as wire;
use messages::agent::model_event_message::Event;
use messages::scheduler::model_replica_status::ModelReplicaState as Replica;
use messages::scheduler::model_status::ModelState;
use tonic::Code;

use crate::agent::Identity;
use crate::declare::Draft;
use crate::envoy::Envoy;
use crate::world::{World, refused, replicas};

#[tokio::test]
async fn foreign_agent_without_fences_is_understood() {
    let world = World::start().await;
    let agent = Identity::of("mlserver", 0).foreign().subscribe(&world).await;
    world.load(&Draft::of("iris")).await.unwrap();
    world.until_state("iris", 1, ModelState::ModelAvailable).await;
    world.load(&Draft::of("iris").uri("/models/other")).await.unwrap();
    world.until_state("iris", 2, ModelState::ModelAvailable).await;
    agent.told("unload iris 1").await;
    world.until_only("iris", 2).await;
    world.unload("iris", None).await.unwrap();
    world.until_state("iris", 2, ModelState::ModelTerminated).await;
    assert_eq!(agent.commands(), ["load iris 1", "load iris 2", "unload iris 1", "unload iris 2"]);
}

#[tokio::test]
async fn second_agent_of_the_same_identity_replaces_the_first() {
    let world = World::start().await;
    let older = Identity::of("onnx", 0).subscribe(&world).await;
    world.load(&Draft::of("before")).await.unwrap();
    world.until_state("before", 1, ModelState::ModelAvailable).await;
    let newer = Identity::of("onnx", 0).subscribe(&world).await;
    older.until("its stream ends", |seen| seen.ended.is_some()).await;
    // The newer one holds nothing, so it is told everything.
    newer.told("load before 1").await;
    world.load(&Draft::of("after")).await.unwrap();
    world.until_state("after", 1, ModelState::ModelAvailable).await;
    world.until_state("before", 1, ModelState::ModelAvailable).await;
    assert_eq!(older.commands(), ["load before 1"]);
    assert_eq!(newer.commands(), ["load before 1", "load after 1"]);
    // The end of the older stream, whenever it is noticed, says nothing about the newer one.
    drop(older.disconnect());
    world.load(&Draft::of("sentinel")).await.unwrap();
    world.until_state("sentinel", 1, ModelState::ModelAvailable).await;
    assert_eq!(world.server_statuses(Some("onnx")).await.unwrap()[0].available_replicas, 1);
}

#[tokio::test]
async fn model_that_only_the_agent_knows_is_taken_over() {
    let world = World::start().await;
    let agent = Identity::of("onnx", 0).holding(4, Draft::of("iris").wire()).subscribe(&world).await;
    let status = world.until_state("iris", 4, ModelState::ModelAvailable).await;
    assert_eq!(replicas(&status), [(0, Replica::Available)]);
    world.load(&Draft::of("sentinel")).await.unwrap();
    world.until_state("sentinel", 1, ModelState::ModelAvailable).await;
    assert_eq!(agent.commands(), ["load sentinel 1"]);
}

#[tokio::test]
async fn removed_model_that_an_agent_brings_back_is_unloaded() {
    let world = World::start().await;
    let agent = Identity::of("onnx", 0).scripted().subscribe(&world).await;
    world.load(&Draft::of("iris")).await.unwrap();
    agent.answer(&agent.told("load iris 1").await, Event::Loaded).await.unwrap();
    world.until_state("iris", 1, ModelState::ModelAvailable).await;
    let away = agent.disconnect();
    world.unload("iris", None).await.unwrap();
    let agent = away.subscribe(&world).await;
    let unload = agent.told("unload iris 1").await;
    agent.answer(&unload, Event::Unloaded).await.unwrap();
    world.until_state("iris", 1, ModelState::ModelTerminated).await;
}

#[tokio::test]
async fn agent_that_comes_back_with_its_models_is_told_nothing() {
    let world = World::start().await;
    let agent = Identity::of("onnx", 0).subscribe(&world).await;
    world.load(&Draft::of("iris")).await.unwrap();
    world.until_state("iris", 1, ModelState::ModelAvailable).await;
    let agent = agent.disconnect().subscribe(&world).await;
    world.load(&Draft::of("sentinel")).await.unwrap();
    world.until_state("sentinel", 1, ModelState::ModelAvailable).await;
    assert_eq!(agent.commands(), ["load sentinel 1"]);
    let agent = agent.disconnect().emptied().subscribe(&world).await;
    agent.told("load iris 1").await;
    agent.told("load sentinel 1").await;
    world.until_state("iris", 1, ModelState::ModelAvailable).await;
}

#[tokio::test]
async fn drain_returns_when_the_models_have_moved() {
    let world = World::start().await;
    let leaving = Identity::of("onnx", 0).memory(1_000).subscribe(&world).await;
    let envoy = Envoy::start(&world, "first").await;
    let names: Vec<String> = (0..5).map(|index| format!("model-{index}")).collect();
    for name in &names {
        world.load(&Draft::of(name)).await.unwrap();
        world.until_state(name, 1, ModelState::ModelAvailable).await;
    }
    let staying = Identity::of("onnx", 1).subscribe(&world).await;
    assert!(leaving.drain().await.unwrap());
    for name in &names {
        let status = world.until_state(name, 1, ModelState::ModelAvailable).await;
        let there = replicas(&status);
        assert!(there.contains(&(1, Replica::Available)), "{name} has not moved: {there:?}");
        let command = format!("load {name} 1");
        assert!(staying.commands().contains(&command), "{command}");
        // Never without a route on the way.
        assert!(!envoy.now().history(name).contains(&None), "{:?}", envoy.now().history(name));
    }
    // What drains gets nothing new, although it has the most memory.
    world.load(&Draft::of("late")).await.unwrap();
    assert_eq!(replicas(&world.until_state("late", 1, ModelState::ModelAvailable).await)[0].0, 1);
    let status = world.server_statuses(Some("onnx")).await.unwrap().remove(0);
    let listed: Vec<u32> = status.resources.iter().map(|replica| replica.replica_idx).collect();
    assert_eq!((status.available_replicas, listed), (1, vec![1]));
}

#[tokio::test]
async fn drain_returns_when_nothing_can_move() {
    let world = World::start().await;
    let agents = [Identity::of("onnx", 0).subscribe(&world).await, Identity::of("onnx", 1).subscribe(&world).await];
    world.load(&Draft::of("iris").replicas(2)).await.unwrap();
    world.until_state("iris", 1, ModelState::ModelAvailable).await;
    let (first, second) = tokio::join!(agents[0].drain(), agents[1].drain());
    assert!(first.unwrap() && second.unwrap());
    // Nobody knows it, so it holds nothing.
    let request = wire::AgentDrainRequest { server_name: "nobody".into(), replica_idx: 7 };
    assert!(world.agent_api().agent_drain(request).await.unwrap().into_inner().success);
}

#[tokio::test]
async fn report_about_what_is_not_there_is_internal() {
    let world = World::start().await;
    let agent = Identity::of("onnx", 0).subscribe(&world).await;
    world.load(&Draft::of("iris")).await.unwrap();
    world.until_state("iris", 1, ModelState::ModelAvailable).await;
    let load = agent.told("load iris 1").await;
    let report = |edit: fn(&mut wire::ModelEventMessage)| {
        let mut message = wire::ModelEventMessage {
            server_name: "onnx".into(),
            model_name: "iris".into(),
            model_version: load.version,
            event: Event::Unloaded.into(),
            ..Default::default()
        };
        edit(&mut message);
        let mut client = world.agent_api();
        async move { client.agent_event(message).await }
    };
    for edit in [
        (|message| message.model_name = "nobody".into()) as fn(&mut wire::ModelEventMessage),
        |message| message.model_version = 9,
        |message| message.server_name = "elsewhere".into(),
        |message| message.replica_idx = 5,
        |message| message.fence = Some(99),
        |message| message.event = 77,
    ] {
        refused(report(edit).await, Code::Internal);
    }
    refused(report(|message| message.model_name = "Bad.Name".into()).await, Code::FailedPrecondition);
    refused(report(|message| message.replica_idx = u32::MAX).await, Code::FailedPrecondition);
    world.load(&Draft::of("sentinel")).await.unwrap();
    world.until_state("sentinel", 1, ModelState::ModelAvailable).await;
    assert_eq!(replicas(&world.latest("iris").await), [(0, Replica::Available)]);
}

#[tokio::test]
async fn scaling_trigger_is_unimplemented() {
    let world = World::start().await;
    let messages = tokio_stream::iter([wire::ModelScalingTriggerMessage::default()]);
    refused(world.agent_api().model_scaling_trigger(messages).await, Code::Unimplemented);
}
