//! The states of models and their replicas (rows 14 to 24).

use std::sync::Arc;

use messages::agent::model_event_message::Event;
use messages::scheduler::model_replica_status::ModelReplicaState as Replica;
use messages::scheduler::model_status::ModelState;
use tonic::Code;

use crate::agent::{Agent, Identity};
use crate::declare::Draft;
use crate::envoy::Envoy;
use crate::world::{World, loop_until, reason_of, refused, replica, replicas};
use crate::xds_port::{self, has};

#[tokio::test]
async fn replica_is_available_when_its_route_is_applied() {
    let world = World::start().await;
    let agent = Identity::of("onnx", 0).scripted().subscribe(&world).await;
    let envoy = Envoy::start(&world, "first").await;
    envoy.hold_routes();
    world.load(&Draft::of("iris")).await.unwrap();
    let load = agent.told("load iris 1").await;
    let status = world.until_replica("iris", 0, Replica::Loading).await;
    assert_eq!(replicas(&status), [(0, Replica::Loading)]);

    agent.answer(&load, Event::Loaded).await.unwrap();
    envoy.until_offered("iris", &[("iris_1", 100)]).await;
    world.until_replica("iris", 0, Replica::Loaded).await;
    let status = world.until_state("iris", 1, ModelState::ModelProgressing).await;
    assert_eq!(status.state.unwrap().available_replicas, 0);

    envoy.release();
    world.until_state("iris", 1, ModelState::ModelAvailable).await;
    let path = world.told.borrow().path("iris", 1, 0);
    assert_eq!(path, [Replica::Loading, Replica::Loaded, Replica::Available]);
}

#[tokio::test]
async fn every_envoy_has_to_apply_the_route() {
    let world = World::start().await;
    let _agent = Identity::of("onnx", 0).subscribe(&world).await;
    let (quick, slow) = (Envoy::start(&world, "quick").await, Envoy::start(&world, "slow").await);
    slow.hold_routes();
    world.load(&Draft::of("iris")).await.unwrap();
    quick.until_shares("iris", &[("iris_1", 100)]).await;
    slow.until_offered("iris", &[("iris_1", 100)]).await;
    // Sentinel: a change that the quick one applies afterwards.
    world.load(&Draft::of("second")).await.unwrap();
    quick.until_shares("second", &[("second_1", 100)]).await;
    assert_eq!(replicas(&world.latest("iris").await), [(0, Replica::Loaded)]);
    slow.release();
    world.until_state("iris", 1, ModelState::ModelAvailable).await;
    world.until_state("second", 1, ModelState::ModelAvailable).await;
}

#[tokio::test]
async fn loaded_report_out_of_place_is_internal_and_changes_nothing() {
    let world = World::start().await;
    let agent = Identity::of("onnx", 0).foreign().scripted().subscribe(&world).await;
    world.load(&Draft::of("iris")).await.unwrap();
    let load = agent.told("load iris 1").await;
    agent.answer(&load, Event::Loaded).await.unwrap();
    let before = world.until_state("iris", 1, ModelState::ModelAvailable).await;
    let text = refused(agent.answer(&load, Event::Loaded).await, Code::Internal);
    assert!(text.contains("iris") && text.contains("stale"), "{text}");
    refused(agent.fail(&load, Event::LoadFailed, "late").await, Code::Internal);
    refused(agent.answer(&load, Event::Rsync).await, Code::Internal);
    assert_eq!(world.latest("iris").await, before);
}

#[tokio::test]
async fn report_with_an_old_fence_changes_nothing() {
    let world = World::start().await;
    let agent = Identity::of("onnx", 0).scripted().subscribe(&world).await;
    world.load(&Draft::of("iris")).await.unwrap();
    let first = agent.told("load iris 1").await;
    // The agent comes back and is told again; what its first life reports is about another command.
    let agent = agent.disconnect().subscribe(&world).await;
    let second = agent.told("load iris 1").await;
    refused(agent.answer(&first, Event::Loaded).await, Code::Internal);
    assert_eq!(replicas(&world.latest("iris").await), [(0, Replica::Loading)]);
    agent.answer(&second, Event::Loaded).await.unwrap();
    world.until_state("iris", 1, ModelState::ModelAvailable).await;
}

#[tokio::test]
async fn failed_load_fails_the_model_with_the_agents_text_whatever_others_do() {
    for event in [Event::LoadFailed, Event::LoadFailMemory] {
        let world = World::start().await;
        let _good = Identity::of("onnx", 0).subscribe(&world).await;
        let bad = Identity::of("onnx", 1).scripted().subscribe(&world).await;
        world.load(&Draft::of("iris").replicas(2)).await.unwrap();
        world.until_replica("iris", 0, Replica::Available).await;
        let load = bad.told("load iris 1").await;
        bad.fail(&load, event, "no such file /models/iris").await.unwrap();
        let status = world.until_state("iris", 1, ModelState::ModelFailed).await;
        assert_eq!(replicas(&status), [(0, Replica::Available), (1, Replica::LoadFailed)]);
        assert_eq!(reason_of(&status), "no such file /models/iris");
    }
}

#[tokio::test]
async fn partly_available_model_is_available_from_its_minimum_on() {
    let world = World::start().await;
    let (_first, _second) =
        (Identity::of("onnx", 0).subscribe(&world).await, Identity::of("onnx", 1).subscribe(&world).await);
    let _third = Identity::of("onnx", 2).scripted().subscribe(&world).await;
    world.load(&Draft::of("iris").replicas(3)).await.unwrap();
    let is_there = |index: i32| move |status: &_| replica(status, index) == Some(Replica::Available);
    world.until_model("iris", "two are available", |status| is_there(0)(status) && is_there(1)(status)).await;
    world.until_state("iris", 1, ModelState::ModelProgressing).await;
    world.load(&Draft::of("iris").replicas(3).at_least(2)).await.unwrap();
    world.until_state("iris", 1, ModelState::ModelAvailable).await;
}

#[tokio::test]
async fn model_scaled_to_nothing_is_scaled_down() {
    let world = World::start().await;
    let _agent = Identity::of("onnx", 0).subscribe(&world).await;
    world.load(&Draft::of("iris")).await.unwrap();
    world.until_state("iris", 1, ModelState::ModelAvailable).await;
    world.load(&Draft::of("iris").replicas(0)).await.unwrap();
    world.until_state("iris", 1, ModelState::ModelScaledDown).await;
    world.load(&Draft::of("iris")).await.unwrap();
    world.until_state("iris", 1, ModelState::ModelAvailable).await;
}

#[tokio::test]
async fn scale_down_unloads_only_what_the_route_has_left() {
    let world = World::start().await;
    let mut agents: Vec<Agent> = Vec::new();
    for index in 0..3 {
        agents.push(Identity::of("onnx", index).subscribe(&world).await);
    }
    let envoy = Envoy::start(&world, "first").await;
    world.load(&Draft::of("iris").replicas(3)).await.unwrap();
    world.until_state("iris", 1, ModelState::ModelAvailable).await;
    envoy.hold_routes();
    world.load(&Draft::of("iris").replicas(1)).await.unwrap();
    let leaving = Replica::UnloadEnvoyRequested;
    let two_leave = |status: &_| replicas(status).iter().filter(|(_, state)| *state == leaving).count() == 2;
    let status = world.until_model("iris", "two replicas leave", two_leave).await;
    envoy.until_offered("iris", &[("iris_1", 100)]).await;
    // Sentinel: all agents are told something that was decided later.
    world.load(&Draft::of("sentinel").replicas(3)).await.unwrap();
    for agent in &agents {
        agent.told("load sentinel 1").await;
        assert_eq!(agent.commands(), ["load iris 1", "load sentinel 1"]);
    }
    envoy.release();
    let is_gone = |status: &_| {
        let counts = |wanted| replicas(status).iter().filter(|(_, state)| *state == wanted).count();
        (counts(Replica::Available), counts(Replica::Unloaded)) == (1, 2)
    };
    world.until_model("iris", "two replicas are gone", is_gone).await;
    for (index, agent) in (0..).zip(&agents).filter(|(index, _)| replica(&status, *index) == Some(leaving)) {
        agent.told("unload iris 1").await;
        let path = world.told.borrow().path("iris", 1, index);
        // Whoever hears of changes later than they come hears of the last of them only.
        let left: Vec<_> = path.iter().skip_while(|state| **state != leaving).collect();
        let order = [leaving, Replica::UnloadRequested, Replica::Unloading, Replica::Unloaded];
        let places: Vec<_> = left.iter().map(|state| order.iter().position(|other| other == *state)).collect();
        assert!(places.is_sorted() && !places.contains(&None), "{path:?}");
        assert_eq!(left.last(), Some(&&Replica::Unloaded), "{path:?}");
    }
}

#[tokio::test]
async fn pending_commands_are_shown_while_the_agent_is_away() {
    let world = World::start().await;
    let agent = Identity::of("onnx", 0).scripted().subscribe(&world).await;
    world.load(&Draft::of("iris")).await.unwrap();
    agent.told("load iris 1").await;
    let agent = agent.disconnect();
    world.until_replica("iris", 0, Replica::LoadRequested).await;
    world.unload("iris", None).await.unwrap();
    world.until_state("iris", 1, ModelState::ModelTerminated).await;
    drop(agent);
}

#[tokio::test]
async fn removal_unloads_every_version_and_then_the_model_is_terminated() {
    let world = World::start().await;
    let agent = Identity::of("onnx", 0).scripted().subscribe(&world).await;
    world.load(&Draft::of("iris")).await.unwrap();
    let load = agent.told("load iris 1").await;
    agent.answer(&load, Event::Loaded).await.unwrap();
    world.until_state("iris", 1, ModelState::ModelAvailable).await;
    world.load(&Draft::of("iris").uri("/models/other")).await.unwrap();
    agent.told("load iris 2").await;
    world.unload("iris", None).await.unwrap();
    for command in ["unload iris 1", "unload iris 2"] {
        let unload = agent.told(command).await;
        world.until_state("iris", 2, ModelState::ModelTerminating).await;
        agent.answer(&unload, Event::Unloaded).await.unwrap();
    }
    world.until_state("iris", 2, ModelState::ModelTerminated).await;
}

#[tokio::test]
async fn failed_unload_of_a_removed_model_is_told() {
    let world = World::start().await;
    let agent = Identity::of("onnx", 0).scripted().subscribe(&world).await;
    world.load(&Draft::of("iris")).await.unwrap();
    let load = agent.told("load iris 1").await;
    agent.answer(&load, Event::Loaded).await.unwrap();
    world.unload("iris", None).await.unwrap();
    let unload = agent.told("unload iris 1").await;
    agent.fail(&unload, Event::UnloadFailed, "device busy").await.unwrap();
    let status = world.until_state("iris", 1, ModelState::ModelTerminateFailed).await;
    assert_eq!(reason_of(&status), "device busy");
}

#[tokio::test]
async fn superseded_versions_are_never_told() {
    let world = World::start().await;
    let agent = Identity::of("onnx", 0).subscribe(&world).await;
    world.load(&Draft::of("iris")).await.unwrap();
    world.until_state("iris", 1, ModelState::ModelAvailable).await;
    world.load(&Draft::of("iris").uri("/models/other")).await.unwrap();
    agent.told("unload iris 1").await;
    world.until_only("iris", 2).await;
    world.load(&Draft::of("sentinel")).await.unwrap();
    world.until_state("sentinel", 1, ModelState::ModelAvailable).await;
    assert_eq!(world.told.borrow().versions("iris"), [1, 2]);
}

#[tokio::test]
async fn refused_route_leaves_the_replica_loaded_and_says_why() {
    let world = World::start().await;
    let _agent = Identity::of("onnx", 0).subscribe(&world).await;
    let envoy = Envoy::start(&world, "first").await;
    envoy.refuse("iris");
    world.load(&Draft::of("iris")).await.unwrap();
    let status = world.until_state("iris", 1, ModelState::ModelFailed).await;
    assert_eq!(replicas(&status), [(0, Replica::LoadedUnavailable)]);
    assert!(reason_of(&status).contains("first") && reason_of(&status).contains("no such thing"), "{status:?}");
    // Others are not held up.
    world.load(&Draft::of("other")).await.unwrap();
    world.until_state("other", 1, ModelState::ModelAvailable).await;
}

#[tokio::test]
async fn models_whose_cluster_is_refused_say_why_and_come_when_the_cluster_changes() {
    let world = World::start().await;
    let envoy = Envoy::start(&world, "first").await;
    envoy.refuse_endpoints(Some("no such address"));
    let agent = Identity::of("onnx", 0).subscribe(&world).await;
    for model in ["iris", "wine"] {
        world.load(&Draft::of(model)).await.unwrap();
        let status = world.until_state(model, 1, ModelState::ModelFailed).await;
        assert_eq!(replicas(&status), [(0, Replica::LoadedUnavailable)]);
        let reason = reason_of(&status);
        assert!(
            reason.contains("first") && reason.contains("endpoints") && reason.contains("no such address"),
            "{reason}"
        );
    }
    envoy.refuse_endpoints(Some("nor this one"));
    let agent = agent.disconnect().at(11_000).subscribe(&world).await;
    for model in ["iris", "wine"] {
        world.until_model(model, "it says why now", |status| reason_of(status).contains("nor this one")).await;
    }
    envoy.refuse_endpoints(None);
    let _agent = agent.disconnect().at(12_000).subscribe(&world).await;
    for model in ["iris", "wine"] {
        world.until_state(model, 1, ModelState::ModelAvailable).await;
        envoy.until_shares(model, &[(&format!("{model}_1"), 100)]).await;
    }
}

#[tokio::test]
async fn a_model_that_one_envoy_refused_is_available_by_the_one_that_comes_after_it() {
    let world = World::start().await;
    let first = Envoy::start(&world, "first").await;
    first.refuse_endpoints(Some("no such address"));
    let _agent = Identity::of("onnx", 0).subscribe(&world).await;
    world.load(&Draft::of("iris")).await.unwrap();
    world.until_state("iris", 1, ModelState::ModelFailed).await;
    drop(first);
    let second = Envoy::start(&world, "second").await;
    second.until_shares("iris", &[("iris_1", 100)]).await;
    world.until_state("iris", 1, ModelState::ModelAvailable).await;
}

#[tokio::test]
async fn a_version_that_envoys_refuse_leaves_the_older_one_serving() {
    let world = World::start().await;
    let envoy = Envoy::start(&world, "first").await;
    let older = Identity::of("onnx", 0).subscribe(&world).await;
    let newer = Identity::of("triton", 0).subscribe(&world).await;
    world.load(&Draft::of("iris").server("onnx")).await.unwrap();
    world.until_state("iris", 1, ModelState::ModelAvailable).await;
    envoy.refuse_endpoints(Some("no such address"));
    world.load(&Draft::of("iris").server("triton").uri("/models/other")).await.unwrap();
    world.until_model("iris", "it says why", |status| reason_of(status).contains("no such address")).await;
    // Whatever the older one would be told, it would have been told before this.
    envoy.refuse_endpoints(None);
    world.load(&Draft::of("sentinel").server("onnx")).await.unwrap();
    world.until_state("sentinel", 1, ModelState::ModelAvailable).await;
    assert!(!older.commands().iter().any(|command| command.starts_with("unload")), "{:?}", older.commands());
    assert_eq!(envoy.now().shares("iris"), Some([("iris_1".to_owned(), 100)].into()));
    let _newer = newer.disconnect().at(11_000).subscribe(&world).await;
    world.until_state("iris", 2, ModelState::ModelAvailable).await;
    older.told("unload iris 1").await;
}

/// Whoever connects to the port may refuse; a model that another Envoy serves is not failed by that.
#[tokio::test]
async fn a_route_that_one_of_two_envoys_refuses_is_available_by_the_other() {
    let counters = Arc::default();
    let world = xds_port::world(&counters, None).await;
    let _agent = Identity::of("onnx", 0).subscribe(&world).await;
    let (first, second) = (Envoy::start(&world, "first").await, Envoy::start(&world, "second").await);
    first.refuse("iris");
    second.hold_routes();
    world.load(&Draft::of("iris")).await.unwrap();
    second.until_offered("iris", &[("iris_1", 100)]).await;
    loop_until("its refusal has come", async || has(&counters, "switchyard_xds_nacks 1")).await;
    second.release();
    let status = world.until_state("iris", 1, ModelState::ModelAvailable).await;
    assert_eq!(replicas(&status), [(0, Replica::Available)]);
    let path = world.told.borrow().path("iris", 1, 0);
    assert!(!path.contains(&Replica::LoadedUnavailable), "{path:?}");
}
