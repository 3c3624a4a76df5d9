//! A scheduler that comes back: everything is there at once, nothing is sent again, nothing is unloaded too early
//! (row 70, and our own promises).

use messages::agent::model_event_message::Event;
use messages::scheduler::model_replica_status::ModelReplicaState as Replica;
use messages::scheduler::model_status::ModelState;

use crate::agent::Identity;
use crate::declare::Draft;
use crate::envoy::Envoy;
use crate::world::{World, replicas};

#[tokio::test]
async fn filled_store_is_served_whole_at_once_and_an_envoy_that_has_it_is_sent_nothing() {
    let world = World::start().await;
    let agents = [Identity::of("onnx", 0).subscribe(&world).await, Identity::of("onnx", 1).subscribe(&world).await];
    let envoy = Envoy::start(&world, "first").await;
    for index in 0..20 {
        world.load(&Draft::of(&format!("model-{index}")).memory(1).replicas(1 + index % 2)).await.unwrap();
    }
    for index in 0..20 {
        world.until_state(&format!("model-{index}"), 1, ModelState::ModelAvailable).await;
    }
    let before = envoy.until("all models", |seen| seen.models() == 20).await;
    let listed = world.statuses(None, true).await.unwrap();

    let world = world.restart().await;
    // No agent is back yet; what is listed and what is routed is what it was.
    assert_eq!(world.statuses(None, true).await.unwrap().0, listed.0);
    let newcomer = Envoy::start(&world, "newcomer").await;
    assert_eq!(newcomer.now().all(), before.all(), "the first answer is complete");
    let envoy = envoy.reconnect(&world).await;
    // Sentinel: the one thing that is new.
    let agents = agents.map(crate::agent::Agent::disconnect);
    let mut back = Vec::new();
    for agent in agents {
        back.push(agent.subscribe(&world).await);
    }
    world.load(&Draft::of("sentinel").memory(1)).await.unwrap();
    let seen = envoy.until_shares("sentinel", &[("sentinel_1", 100)]).await;
    // More than once, if it is not served within a second.
    assert!(seen.received.iter().all(|name| name == "ScopedRouteConfiguration sentinel"), "{:?}", seen.received);
    let commands: Vec<String> = back.iter().flat_map(crate::agent::Agent::commands).collect();
    assert_eq!(commands, ["load sentinel 1"]);
}

#[tokio::test]
async fn declared_model_that_nobody_serves_is_known_to_envoys_also_after_a_restart() {
    let world = World::start().await;
    let envoy = Envoy::start(&world, "first").await;
    for name in ["iris", "removed"] {
        world.load(&Draft::of(name)).await.unwrap();
        envoy.until("it is unserved", |seen| seen.is_unserved(name)).await;
    }
    world.unload("removed", None).await.unwrap();
    envoy.until("the other has gone", |seen| seen.is_unknown("removed") && seen.is_unserved("iris")).await;
    let world = world.restart().await;
    // The first answer of a scheduler is complete.
    let newcomer = Envoy::start(&world, "newcomer").await.now();
    assert!(newcomer.is_unserved("iris") && newcomer.is_unknown("removed"), "{newcomer:?}");
    let envoy = envoy.reconnect(&world).await;
    let agent = Identity::of("onnx", 0).subscribe(&world).await;
    envoy.until_shares("iris", &[("iris_1", 100)]).await;
    world.unload("iris", None).await.unwrap();
    envoy.until("it has gone", |seen| seen.is_unknown("iris")).await;
    drop(agent);
}

#[tokio::test]
async fn envoy_of_an_empty_scheduler_is_told_of_the_first_model_after_a_restart() {
    let world = World::start().await;
    let envoy = Envoy::start(&world, "first").await;
    assert_eq!(envoy.now().models(), 0);
    let world = world.restart().await;
    let envoy = envoy.reconnect(&world).await;
    let _agent = Identity::of("onnx", 0).subscribe(&world).await;
    world.load(&Draft::of("iris")).await.unwrap();
    envoy.until_shares("iris", &[("iris_1", 100)]).await;
    world.until_state("iris", 1, ModelState::ModelAvailable).await;
}

#[tokio::test]
async fn what_an_envoy_may_still_use_after_a_restart_is_kept_until_it_is_back() {
    let world = World::start().await;
    let agent = Identity::of("onnx", 0).scripted().subscribe(&world).await;
    let envoy = Envoy::start(&world, "first").await;
    world.load(&Draft::of("iris")).await.unwrap();
    agent.answer(&agent.told("load iris 1").await, Event::Loaded).await.unwrap();
    envoy.until_shares("iris", &[("iris_1", 100)]).await;
    world.until_state("iris", 1, ModelState::ModelAvailable).await;
    envoy.hold_routes();
    world.unload("iris", None).await.unwrap();
    envoy.until_removal_offered("iris").await;

    // A new process knows no Envoy; the one that has not let go of the model is about to return.
    let world = World::start_with(world.stop().await, |config| {
        config.drain_grace = std::time::Duration::from_secs(3_600);
    })
    .await;
    assert_eq!(replicas(&world.latest("iris").await), [(0, Replica::UnloadEnvoyRequested)]);
    let agent = agent.disconnect().subscribe(&world).await;
    world.load(&Draft::of("sentinel")).await.unwrap();
    agent.told("load sentinel 1").await;
    assert_eq!(agent.commands(), ["load sentinel 1"]);
    assert_eq!(replicas(&world.latest("iris").await), [(0, Replica::UnloadEnvoyRequested)]);
    drop(envoy);
}

#[tokio::test]
async fn model_being_removed_over_a_restart_is_unloaded_after_the_grace() {
    let world = World::start().await;
    let agent = Identity::of("onnx", 0).scripted().subscribe(&world).await;
    let envoy = Envoy::start(&world, "first").await;
    world.load(&Draft::of("iris")).await.unwrap();
    agent.answer(&agent.told("load iris 1").await, Event::Loaded).await.unwrap();
    world.until_state("iris", 1, ModelState::ModelAvailable).await;
    envoy.hold_routes();
    world.unload("iris", None).await.unwrap();
    envoy.until_removal_offered("iris").await;
    let world = World::start_with(world.stop().await, |config| {
        config.drain_grace = std::time::Duration::from_millis(50);
    })
    .await;
    let agent = agent.disconnect().subscribe(&world).await;
    agent.answer(&agent.told("unload iris 1").await, Event::Unloaded).await.unwrap();
    world.until_state("iris", 1, ModelState::ModelTerminated).await;
}

#[tokio::test]
async fn load_that_was_under_way_is_asked_for_again() {
    let world = World::start().await;
    let agent = Identity::of("onnx", 0).scripted().subscribe(&world).await;
    world.load(&Draft::of("iris")).await.unwrap();
    agent.told("load iris 1").await;
    let world = world.restart().await;
    let agent = agent.disconnect().subscribe(&world).await;
    agent.answer(&agent.told("load iris 1").await, Event::Loaded).await.unwrap();
    world.until_state("iris", 1, ModelState::ModelAvailable).await;
}

#[tokio::test]
async fn stop_ends_with_everybody_still_connected() {
    let world = World::start().await;
    let agent = Identity::of("onnx", 0).subscribe(&world).await;
    let envoy = Envoy::start(&world, "first").await;
    assert!(world.is_healthy().await);
    let _dir = world.stop().await;
    agent.until("its stream ends", |seen| seen.ended.is_some()).await;
    drop(envoy);
}
