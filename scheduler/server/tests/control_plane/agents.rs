//! Agents that come, go, come twice, drain and say odd things (rows 36, 47 to 56).

use std::sync::Arc;

use messages::agent as wire;
use messages::agent::model_event_message::Event;
use messages::scheduler::model_replica_status::ModelReplicaState as Replica;
use messages::scheduler::model_status::ModelState;
use tonic::Code;

use crate::agent::Identity;
use crate::declare::Draft;
use crate::envoy::Envoy;
use crate::world::{World, refused, replica, replicas};

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
async fn second_stream_of_the_same_replica_gets_nothing_until_the_first_has_ended() {
    let world = World::start().await;
    let older = Identity::of("onnx", 0).subscribe(&world).await;
    world.load(&Draft::of("before")).await.unwrap();
    world.until_state("before", 1, ModelState::ModelAvailable).await;
    let newer = Identity::of("onnx", 0).open(&world).await;
    world.load(&Draft::of("meanwhile")).await.unwrap();
    world.until_state("meanwhile", 1, ModelState::ModelAvailable).await;
    assert_eq!(older.commands(), ["load before 1", "load meanwhile 1"]);
    assert_eq!(newer.commands(), Vec::<String>::new());
    // One that waited and went away leaves nothing behind.
    drop(Identity::of("onnx", 0).open(&world).await.disconnect());
    drop(older.disconnect());
    // The newer one holds nothing, so it is told everything.
    for command in ["load before 1", "load meanwhile 1"] {
        newer.told(command).await;
    }
    world.load(&Draft::of("after")).await.unwrap();
    world.until_state("after", 1, ModelState::ModelAvailable).await;
    assert_eq!(world.server_statuses(Some("onnx")).await.unwrap()[0].available_replicas, 1);
}

#[tokio::test]
async fn lost_stream_moves_its_models_at_once_without_grace() {
    let world = without_grace().await;
    let goes = Identity::of("onnx", 0).subscribe(&world).await;
    world.load(&Draft::of("iris")).await.unwrap();
    world.until_replica("iris", 0, Replica::Available).await;
    let stays = Identity::of("onnx", 1).subscribe(&world).await;
    drop(goes.disconnect());
    stays.told("load iris 1").await;
    world.until_replica("iris", 1, Replica::Available).await;
    world.until_state("iris", 1, ModelState::ModelAvailable).await;
}

#[tokio::test]
async fn stream_lost_while_a_removed_model_unloads_lets_it_be_terminated() {
    let world = without_grace().await;
    let agent = Identity::of("onnx", 0).scripted().subscribe(&world).await;
    world.load(&Draft::of("iris")).await.unwrap();
    agent.answer(&agent.told("load iris 1").await, Event::Loaded).await.unwrap();
    world.until_state("iris", 1, ModelState::ModelAvailable).await;
    world.unload("iris", None).await.unwrap();
    agent.told("unload iris 1").await;
    world.until_state("iris", 1, ModelState::ModelTerminating).await;
    drop(agent.disconnect());
    world.until_state("iris", 1, ModelState::ModelTerminated).await;
}

#[tokio::test]
async fn stream_lost_while_a_model_loads_leaves_it_to_another_replica() {
    let world = without_grace().await;
    let goes = Identity::of("onnx", 0).scripted().subscribe(&world).await;
    world.load(&Draft::of("iris")).await.unwrap();
    goes.told("load iris 1").await;
    let _stays = Identity::of("onnx", 1).subscribe(&world).await;
    world.until_state("iris", 1, ModelState::ModelProgressing).await;
    drop(goes.disconnect());
    let status = world.until_state("iris", 1, ModelState::ModelAvailable).await;
    assert_eq!(replica(&status, 1), Some(Replica::Available));
}

#[tokio::test]
async fn draining_all_replicas_at_once_ends() {
    let world = World::start().await;
    let (first, second) =
        (Identity::of("onnx", 0).subscribe(&world).await, Identity::of("onnx", 1).subscribe(&world).await);
    for name in ["a", "b", "c"] {
        world.load(&Draft::of(name).replicas(2)).await.unwrap();
        world.until_state(name, 1, ModelState::ModelAvailable).await;
    }
    let (one, other, again) = tokio::join!(first.drain(), second.drain(), first.drain());
    assert!(one.unwrap() && other.unwrap() && again.unwrap());
}

#[tokio::test]
async fn drain_that_takes_too_long_ends_at_its_limit() {
    let world = World::start_with(Arc::new(tempfile::tempdir().unwrap()), |config| {
        config.decisions.drain_limit_ms = 100;
    })
    .await;
    let leaving = Identity::of("onnx", 0).subscribe(&world).await;
    world.load(&Draft::of("iris")).await.unwrap();
    world.until_state("iris", 1, ModelState::ModelAvailable).await;
    // It never finishes its load, so the model can always still move there.
    let slow = Identity::of("onnx", 1).scripted().subscribe(&world).await;
    let (drained, ()) = tokio::join!(leaving.drain(), async {
        slow.told("load iris 1").await;
    });
    assert!(drained.unwrap());
    assert_eq!(replica(&world.latest("iris").await, 0), Some(Replica::Draining), "it serves until it is replaced");
}

async fn without_grace() -> World {
    World::start_with(Arc::new(tempfile::tempdir().unwrap()), |config| config.decisions.agent_grace_ms = 0).await
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
