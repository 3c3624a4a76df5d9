//! From one version to the next (rows 42 to 46).

use messages::agent::model_event_message::Event;
use messages::scheduler::model_replica_status::ModelReplicaState as Replica;
use messages::scheduler::model_status::ModelState;

use crate::agent::Identity;
use crate::declare::Draft;
use crate::envoy::Envoy;
use crate::world::{World, reason_of, replicas};

const OTHER: &str = "/models/other";

#[tokio::test]
async fn old_version_has_all_traffic_while_the_new_one_loads() {
    let world = World::start().await;
    let agent = Identity::of("onnx", 0).scripted().subscribe(&world).await;
    let envoy = Envoy::start(&world, "first").await;
    world.load(&Draft::of("iris")).await.unwrap();
    agent.answer(&agent.told("load iris 1").await, Event::Loaded).await.unwrap();
    world.until_state("iris", 1, ModelState::ModelAvailable).await;

    world.load(&Draft::of("iris").uri(OTHER)).await.unwrap();
    let load = agent.told("load iris 2").await;
    world.until_state("iris", 2, ModelState::ModelProgressing).await;
    // Sentinel: a route that was decided later.
    world.load(&Draft::of("sentinel")).await.unwrap();
    agent.answer(&agent.told("load sentinel 1").await, Event::Loaded).await.unwrap();
    let seen = envoy.until_shares("sentinel", &[("sentinel_1", 100)]).await;
    assert_eq!(seen.history("iris"), [Some(vec![("iris_1".to_owned(), 100)])]);

    agent.answer(&load, Event::Loaded).await.unwrap();
    envoy.until_shares("iris", &[("iris_2", 100)]).await;
}

#[tokio::test]
async fn loaded_replicas_share_until_the_new_version_is_available() {
    let world = World::start().await;
    let first = Identity::of("onnx", 0).scripted().subscribe(&world).await;
    let second = Identity::of("onnx", 1).scripted().subscribe(&world).await;
    let envoy = Envoy::start(&world, "first").await;
    world.load(&Draft::of("iris").replicas(2)).await.unwrap();
    for agent in [&first, &second] {
        agent.answer(&agent.told("load iris 1").await, Event::Loaded).await.unwrap();
    }
    world.until_state("iris", 1, ModelState::ModelAvailable).await;

    envoy.hold_routes();
    world.load(&Draft::of("iris").uri(OTHER).replicas(2)).await.unwrap();
    let load = second.told("load iris 2").await;
    first.answer(&first.told("load iris 2").await, Event::Loaded).await.unwrap();
    envoy.until_offered("iris", &[("iris_1", 66), ("iris_2", 34)]).await;
    let status = world.until_replica("iris", 0, Replica::Loaded).await;
    assert_eq!(replicas(&status), [(0, Replica::Loaded), (1, Replica::Loading)]);

    envoy.release();
    let seen = envoy.until_shares("iris", &[("iris_2", 100)]).await;
    let shares = |shares: &[(&str, u32)]| {
        Some(shares.iter().map(|(version, share)| ((*version).to_owned(), *share)).collect::<Vec<_>>())
    };
    let history = seen.history("iris");
    let tail = [shares(&[("iris_1", 100)]), shares(&[("iris_1", 66), ("iris_2", 34)]), shares(&[("iris_2", 100)])];
    assert_eq!(history[history.len() - 3..], tail, "{history:?}");
    second.answer(&load, Event::Loaded).await.unwrap();
    world.until_state("iris", 2, ModelState::ModelAvailable).await;
}

#[tokio::test]
async fn first_available_replica_makes_the_new_version_available_and_the_old_one_goes() {
    let world = World::start().await;
    let first = Identity::of("onnx", 0).scripted().subscribe(&world).await;
    let second = Identity::of("onnx", 1).scripted().subscribe(&world).await;
    let envoy = Envoy::start(&world, "first").await;
    world.load(&Draft::of("iris").replicas(2)).await.unwrap();
    for agent in [&first, &second] {
        agent.answer(&agent.told("load iris 1").await, Event::Loaded).await.unwrap();
    }
    world.until_state("iris", 1, ModelState::ModelAvailable).await;
    world.load(&Draft::of("iris").uri(OTHER).replicas(2)).await.unwrap();
    second.told("load iris 2").await;
    first.answer(&first.told("load iris 2").await, Event::Loaded).await.unwrap();
    let status = world.until_state("iris", 2, ModelState::ModelAvailable).await;
    assert_eq!(replicas(&status), [(0, Replica::Available), (1, Replica::Loading)]);
    for agent in [&first, &second] {
        let unload = agent.told("unload iris 1").await;
        assert_eq!(unload.definition.model_spec.as_ref().unwrap().uri, "/models/iris");
        agent.answer(&unload, Event::Unloaded).await.unwrap();
    }
    world.until_only("iris", 2).await;
    assert_eq!(envoy.now().shares("iris"), Some(vec![("iris_2".to_owned(), 100)]));
}

#[tokio::test]
async fn old_version_is_unloaded_when_no_envoy_routes_to_it() {
    let world = World::start().await;
    let agent = Identity::of("onnx", 0).subscribe(&world).await;
    let envoy = Envoy::start(&world, "first").await;
    world.load(&Draft::of("iris")).await.unwrap();
    world.until_state("iris", 1, ModelState::ModelAvailable).await;
    envoy.hold_routes();
    world.load(&Draft::of("iris").uri(OTHER)).await.unwrap();
    envoy.until_offered("iris", &[("iris_1", 50), ("iris_2", 50)]).await;
    world.load(&Draft::of("sentinel")).await.unwrap();
    agent.told("load sentinel 1").await;
    assert_eq!(agent.commands(), ["load iris 1", "load iris 2", "load sentinel 1"]);
    envoy.release();
    agent.told("unload iris 1").await;
    world.until_state("iris", 2, ModelState::ModelAvailable).await;
}

#[tokio::test]
async fn removed_model_is_unloaded_when_no_envoy_routes_to_it() {
    let world = World::start().await;
    let agent = Identity::of("onnx", 0).scripted().subscribe(&world).await;
    let envoy = Envoy::start(&world, "first").await;
    world.load(&Draft::of("iris")).await.unwrap();
    agent.answer(&agent.told("load iris 1").await, Event::Loaded).await.unwrap();
    world.until_state("iris", 1, ModelState::ModelAvailable).await;
    envoy.hold_routes();
    world.unload("iris", None).await.unwrap();
    envoy.until_removal_offered("iris").await;
    // Sentinel: a command that was decided later.
    world.load(&Draft::of("sentinel")).await.unwrap();
    agent.told("load sentinel 1").await;
    assert_eq!(agent.commands(), ["load iris 1", "load sentinel 1"]);
    assert_eq!(replicas(&world.latest("iris").await), [(0, Replica::UnloadEnvoyRequested)]);
    envoy.release();
    agent.answer(&agent.told("unload iris 1").await, Event::Unloaded).await.unwrap();
    world.until_state("iris", 1, ModelState::ModelTerminated).await;
    assert_eq!(envoy.now().shares("iris"), None);
}

#[tokio::test]
async fn failed_new_version_leaves_the_old_one_routed() {
    let world = World::start().await;
    let agent = Identity::of("onnx", 0).scripted().subscribe(&world).await;
    let envoy = Envoy::start(&world, "first").await;
    world.load(&Draft::of("iris")).await.unwrap();
    agent.answer(&agent.told("load iris 1").await, Event::Loaded).await.unwrap();
    world.until_state("iris", 1, ModelState::ModelAvailable).await;
    world.load(&Draft::of("iris").uri("/models/bad")).await.unwrap();
    agent.fail(&agent.told("load iris 2").await, Event::LoadFailed, "bad file").await.unwrap();
    let status = world.until_state("iris", 2, ModelState::ModelFailed).await;
    assert_eq!(reason_of(&status), "bad file; version 1 goes on answering");
    world.load(&Draft::of("sentinel")).await.unwrap();
    agent.answer(&agent.told("load sentinel 1").await, Event::Loaded).await.unwrap();
    let seen = envoy.until_shares("sentinel", &[("sentinel_1", 100)]).await;
    assert_eq!(seen.history("iris"), [Some(vec![("iris_1".to_owned(), 100)])]);
    assert_eq!(agent.commands(), ["load iris 1", "load iris 2", "load sentinel 1"]);
    let versions = world.versions("iris").await;
    assert_eq!(replicas(&versions[0]), [(0, Replica::Available)]);

    // Reverted: a version of its own, which takes over.
    world.load(&Draft::of("iris")).await.unwrap();
    agent.answer(&agent.told("load iris 3").await, Event::Loaded).await.unwrap();
    world.until_state("iris", 3, ModelState::ModelAvailable).await;
    envoy.until_shares("iris", &[("iris_3", 100)]).await;
    agent.answer(&agent.told("unload iris 1").await, Event::Unloaded).await.unwrap();
    world.until_only("iris", 3).await;
}

#[tokio::test]
async fn losing_a_replica_of_the_old_version_leaves_its_others_routed_while_the_new_one_loads() {
    let world = World::start().await;
    let goes = Identity::of("onnx", 0).subscribe(&world).await;
    let stays = Identity::of("onnx", 1).memory(1_000).subscribe(&world).await;
    let envoy = Envoy::start(&world, "first").await;
    world.load(&Draft::of("iris").replicas(2)).await.unwrap();
    world.until_state("iris", 1, ModelState::ModelAvailable).await;
    let stays = stays.disconnect().scripted().subscribe(&world).await;
    world.load(&Draft::of("iris").uri(OTHER)).await.unwrap();
    let load = stays.told("load iris 2").await;
    drop(goes.disconnect());
    // Sentinel: a route that was decided after the loss.
    world.load(&Draft::of("sentinel")).await.unwrap();
    stays.answer(&stays.told("load sentinel 1").await, Event::Loaded).await.unwrap();
    let seen = envoy.until_shares("sentinel", &[("sentinel_1", 100)]).await;
    assert_eq!(seen.shares("iris"), Some(vec![("iris_1".to_owned(), 100)]));
    let kept = world.versions("iris").await;
    assert_eq!(crate::world::replica(&kept[0], 1), Some(Replica::Available));
    stays.answer(&load, Event::Loaded).await.unwrap();
    envoy.until_shares("iris", &[("iris_2", 100)]).await;
}
