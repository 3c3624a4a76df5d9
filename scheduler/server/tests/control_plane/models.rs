//! Declaring, changing, listing and removing models (rows 1 to 12).

use messages::agent::model_event_message::Event;
use messages::scheduler::model_replica_status::ModelReplicaState as Replica;
use messages::scheduler::model_status::ModelState;
use tonic::Code;

use crate::agent::Identity;
use crate::declare::{Draft, workers};
use crate::world::{World, refused, replicas, state_of};

#[tokio::test]
async fn bad_name_is_refused_and_nothing_is_stored() {
    let world = World::start().await;
    for name in ["Bad.Name", "", "-a", "a_b", &"a".repeat(254)] {
        let text = refused(world.load(&Draft::of(name)).await, Code::FailedPrecondition);
        assert!(text.contains("model.meta.name"), "{text}");
    }
    assert_eq!(world.statuses(None, true).await.unwrap().0, []);
    let world = world.restart().await;
    assert_eq!(world.statuses(None, true).await.unwrap().0, []);
}

#[tokio::test]
async fn first_version_is_one_or_the_generation() {
    let world = World::start().await;
    world.load(&Draft::of("plain")).await.unwrap();
    world.load(&Draft::of("from-a-cluster").generation(7)).await.unwrap();
    assert_eq!(world.latest("plain").await.version, 1);
    assert_eq!(world.latest("from-a-cluster").await.version, 7);
}

#[tokio::test]
async fn same_declaration_twice_is_one_version_and_one_load() {
    let world = World::start().await;
    let agent = Identity::of("onnx", 0).subscribe(&world).await;
    world.load(&Draft::of("iris")).await.unwrap();
    world.until_state("iris", 1, ModelState::ModelAvailable).await;
    world.load(&Draft::of("iris")).await.unwrap();
    world.load(&Draft::of("sentinel")).await.unwrap();
    world.until_state("sentinel", 1, ModelState::ModelAvailable).await;
    assert_eq!(world.versions("iris").await.len(), 1);
    assert_eq!(agent.commands(), ["load iris 1", "load sentinel 1"]);
}

#[tokio::test]
async fn runtime_info_makes_no_difference() {
    let world = World::start().await;
    let agent = Identity::of("onnx", 0).subscribe(&world).await;
    world.load(&Draft::of("iris")).await.unwrap();
    world.until_state("iris", 1, ModelState::ModelAvailable).await;
    world.load(&Draft::of("iris").spec(|spec| spec.model_runtime_info = Some(workers(4)))).await.unwrap();
    world.load(&Draft::of("sentinel")).await.unwrap();
    agent.told("load sentinel 1").await;
    assert_eq!(world.versions("iris").await.len(), 1);
    assert_eq!(agent.commands(), ["load iris 1", "load sentinel 1"]);
}

#[tokio::test]
async fn changed_spec_is_a_new_version_and_the_old_one_stays_listed() {
    let world = World::start().await;
    world.load(&Draft::of("iris")).await.unwrap();
    let changes: [Draft; 4] = [
        Draft::of("iris").uri("/models/other"),
        Draft::of("iris").memory(11),
        Draft::of("iris").needs(&["onnx", "gpu"]),
        Draft::of("iris").server("onnx"),
    ];
    for (position, change) in changes.iter().enumerate() {
        world.load(change).await.unwrap();
        let numbers: Vec<u32> = world.versions("iris").await.iter().map(|status| status.version).collect();
        assert_eq!(numbers, (1..=u32::try_from(position).unwrap() + 2).collect::<Vec<_>>());
    }
    let first = world.versions("iris").await.remove(0);
    assert_eq!(first.model_defn.unwrap().model_spec, Draft::of("iris").wire().model_spec);
    assert_eq!(world.latest("iris").await.version, 5);
}

#[tokio::test]
async fn changed_replicas_edit_the_version() {
    let world = World::start().await;
    let _agent = Identity::of("onnx", 0).subscribe(&world).await;
    world.load(&Draft::of("iris")).await.unwrap();
    world.until_state("iris", 1, ModelState::ModelAvailable).await;
    world.load(&Draft::of("iris").replicas(2).at_least(1)).await.unwrap();
    let versions = world.versions("iris").await;
    let [only] = versions.as_slice() else { panic!("{versions:?}") };
    assert_eq!(only.version, 1);
    assert_eq!(only.model_defn, Some(Draft::of("iris").replicas(2).at_least(1).wire()));
}

#[tokio::test]
async fn changed_generation_is_told_and_makes_no_version() {
    let world = World::start().await;
    let agent = Identity::of("onnx", 0).subscribe(&world).await;
    world.load(&Draft::of("iris").generation(3)).await.unwrap();
    world.until_state("iris", 3, ModelState::ModelAvailable).await;
    world.load(&Draft::of("iris").generation(4)).await.unwrap();
    let told = world.until_model("iris", "generation 4", |status| {
        status.kubernetes_meta.as_ref().is_some_and(|meta| meta.generation == 4)
    });
    let told = told.await;
    assert_eq!((told.version, state_of(&told)), (3, ModelState::ModelAvailable));
    assert_eq!(world.versions("iris").await.len(), 1);
    assert_eq!(agent.commands(), ["load iris 3"]);
}

#[tokio::test]
async fn load_returns_before_any_agent_is_contacted() {
    let world = World::start().await;
    world.load(&Draft::of("nowhere")).await.unwrap();
    let agent = Identity::of("onnx", 0).scripted().subscribe(&world).await;
    world.load(&Draft::of("iris")).await.unwrap();
    agent.told("load iris 1").await;
    assert_eq!(replicas(&world.latest("iris").await), [(0, Replica::Loading)]);
}

#[tokio::test]
async fn unknown_model_cannot_be_unloaded() {
    let world = World::start().await;
    let text = refused(world.unload("nobody", None).await, Code::FailedPrecondition);
    assert!(text.contains("nobody"), "{text}");
    refused(world.unload("Bad.Name", None).await, Code::FailedPrecondition);
}

#[tokio::test]
async fn model_under_removal_cannot_be_declared_until_it_is_unloaded() {
    let world = World::start().await;
    let agent = Identity::of("onnx", 0).scripted().subscribe(&world).await;
    world.load(&Draft::of("iris")).await.unwrap();
    world.load(&Draft::of("iris").uri("/models/other")).await.unwrap();
    let load = agent.told("load iris 2").await;
    agent.answer(&load, Event::Loaded).await.unwrap();
    world.until_state("iris", 2, ModelState::ModelAvailable).await;
    let unload = agent.told("unload iris 1").await;
    agent.answer(&unload, Event::Unloaded).await.unwrap();
    world.until_only("iris", 2).await;

    world.unload("iris", None).await.unwrap();
    let unload = agent.told("unload iris 2").await;
    world.until_replica("iris", 0, Replica::Unloading).await;
    let text = refused(world.load(&Draft::of("iris")).await, Code::FailedPrecondition);
    assert!(text.contains("iris") && text.contains("still being removed"), "{text}");
    // A removal can be asked for again at any time.
    world.unload("iris", None).await.unwrap();

    agent.answer(&unload, Event::Unloaded).await.unwrap();
    world.until_state("iris", 2, ModelState::ModelTerminated).await;
    world.load(&Draft::of("iris")).await.unwrap();
    let numbers: Vec<u32> = world.versions("iris").await.iter().map(|status| status.version).collect();
    assert_eq!(numbers, [1], "a fresh history");
}

#[tokio::test]
async fn removal_carries_its_generation() {
    let world = World::start().await;
    let _agent = Identity::of("onnx", 0).subscribe(&world).await;
    world.load(&Draft::of("iris").generation(7)).await.unwrap();
    world.until_state("iris", 7, ModelState::ModelAvailable).await;
    let before = world.told.borrow().0.len();
    world.unload("iris", Some(9)).await.unwrap();
    world.until_state("iris", 7, ModelState::ModelTerminated).await;
    for status in &world.told.borrow().0[before..] {
        let meta = status.versions[0].kubernetes_meta.as_ref().unwrap();
        assert_eq!((meta.generation, status.deleted), (9, true), "{status:?}");
    }
}

#[tokio::test]
async fn model_status_lists_all_or_one_and_refuses_the_unknown() {
    let world = World::start().await;
    for name in ["a", "b", "c"] {
        world.load(&Draft::of(name)).await.unwrap();
    }
    let names = |told: crate::world::Told| told.0.into_iter().map(|status| status.model_name).collect::<Vec<_>>();
    assert_eq!(names(world.statuses(None, false).await.unwrap()), ["a", "b", "c"]);
    assert_eq!(names(world.statuses(Some("b"), false).await.unwrap()), ["b"]);
    refused(world.statuses(Some("d"), false).await, Code::FailedPrecondition);
    refused(world.statuses(Some("Bad.Name"), false).await, Code::FailedPrecondition);
}

#[tokio::test]
async fn status_carries_no_kubernetes_meta_unless_it_was_declared() {
    let world = World::start().await;
    world.load(&Draft::of("iris")).await.unwrap();
    assert_eq!(world.latest("iris").await.kubernetes_meta, None);
}
