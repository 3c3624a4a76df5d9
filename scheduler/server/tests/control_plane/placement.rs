//! Where models are placed and what is said when they are not (rows 25 to 33, 35 to 41).

use messages::agent::model_event_message::Event;
use messages::scheduler as wire;
use messages::scheduler::model_replica_status::ModelReplicaState as Replica;
use messages::scheduler::model_status::ModelState;

use crate::agent::Identity;
use crate::declare::{Draft, workers};
use crate::world::{World, reason_of, replica, replicas};

#[tokio::test]
async fn server_that_is_not_shared_takes_only_models_that_name_it() {
    let world = World::start().await;
    let _own = Identity::of("own", 0).memory(1_000).not_shared().subscribe(&world).await;
    let _shared = Identity::of("shared", 0).subscribe(&world).await;
    world.load(&Draft::of("anywhere")).await.unwrap();
    world.load(&Draft::of("explicit").server("own")).await.unwrap();
    world.load(&Draft::of("impossible").server("own").memory(2_000)).await.unwrap();
    assert_eq!(world.until_state("anywhere", 1, ModelState::ModelAvailable).await.server_name, "shared");
    assert_eq!(world.until_state("explicit", 1, ModelState::ModelAvailable).await.server_name, "own");
    let status = world.until_state("impossible", 1, ModelState::ScheduleFailed).await;
    assert_eq!((status.server_name.as_str(), replicas(&status)), ("", vec![]));
}

#[tokio::test]
async fn all_requirements_count_spaces_do_not_and_case_does() {
    let world = World::start().await;
    let _both = Identity::of("both", 0).offers(&["sklearn", " xgboost "]).subscribe(&world).await;
    let _one = Identity::of("one", 0).memory(1_000).offers(&["sklearn"]).subscribe(&world).await;
    world.load(&Draft::of("two").needs(&[" sklearn", "xgboost "])).await.unwrap();
    assert_eq!(world.until_state("two", 1, ModelState::ModelAvailable).await.server_name, "both");
    world.load(&Draft::of("loud").needs(&["SKLEARN"])).await.unwrap();
    let status = world.until_state("loud", 1, ModelState::ScheduleFailed).await;
    assert!(reason_of(&status).contains("SKLEARN"), "{status:?}");
}

#[tokio::test]
async fn explainer_needs_what_explains() {
    let world = World::start().await;
    let _plain = Identity::of("plain", 0).memory(1_000).subscribe(&world).await;
    let explainer = Draft::of("why").spec(|spec| {
        let explainer =
            wire::ExplainerSpec { r#type: "anchor".into(), model_ref: Some("iris".into()), pipeline_ref: None };
        spec.model_spec = Some(wire::model_spec::ModelSpec::Explainer(explainer));
    });
    world.load(&explainer).await.unwrap();
    let status = world.until_state("why", 1, ModelState::ScheduleFailed).await;
    assert!(reason_of(&status).contains("alibi-explain"), "{status:?}");
    let _alibi = Identity::of("alibi", 0).offers(&["onnx", "alibi-explain"]).subscribe(&world).await;
    assert_eq!(world.until_state("why", 1, ModelState::ModelAvailable).await.server_name, "alibi");
}

#[tokio::test]
async fn model_without_a_place_says_which_rule_kept_it_out() {
    let world = World::start().await;
    world.load(&Draft::of("early")).await.unwrap();
    let status = world.until_state("early", 1, ModelState::ScheduleFailed).await;
    assert_eq!(status.server_name, "");
    assert!(reason_of(&status).contains("no server"), "{status:?}");

    let _agent = Identity::of("onnx", 0).memory(100).subscribe(&world).await;
    world.until_state("early", 1, ModelState::ModelAvailable).await;
    for (draft, words) in [
        (Draft::of("unable").needs(&["onnx", "telepathy"]), vec!["onnx", "telepathy"]),
        (Draft::of("large").memory(1 << 40), vec!["memory", "needed", "free"]),
        (Draft::of("elsewhere").server("mars"), vec!["onnx", "not the one"]),
    ] {
        world.load(&draft).await.unwrap();
        let name = draft.wire().meta.unwrap().name;
        let status = world.until_state(&name, 1, ModelState::ScheduleFailed).await;
        assert_eq!(status.server_name, "");
        for word in words {
            assert!(reason_of(&status).contains(word), "{word:?} is not in {:?}", reason_of(&status));
        }
    }
}

#[tokio::test]
async fn memory_is_counted_for_each_instance_once_they_are_known() {
    let world = World::start().await;
    let first = Identity::of("onnx", 0).memory(100).scripted().subscribe(&world).await;
    let _small = Identity::of("onnx", 1).memory(59).subscribe(&world).await;
    world.load(&Draft::of("iris").memory(30)).await.unwrap();
    let load = first.told("load iris 1").await;
    first.loaded_with(&load, workers(2), 40).await.unwrap();
    world.until_state("iris", 1, ModelState::ModelAvailable).await;
    // 59 bytes are enough for one instance of 30, not for the two that the server said it runs.
    world.load(&Draft::of("iris").memory(30).replicas(2)).await.unwrap();
    let status = world.until_state("iris", 1, ModelState::ScheduleFailed).await;
    assert_eq!(replicas(&status), [(0, Replica::Available)]);
    assert!(reason_of(&status).starts_with("1 of 2 replicas") && reason_of(&status).contains("60"), "{status:?}");
    let _large = Identity::of("onnx", 2).memory(60).subscribe(&world).await;
    let status = world.until_state("iris", 1, ModelState::ModelAvailable).await;
    assert_eq!(replicas(&status), [(0, Replica::Available), (2, Replica::Available)]);
}

#[tokio::test]
async fn replica_that_holds_the_version_needs_no_memory_for_it() {
    let world = World::start().await;
    let agent = Identity::of("onnx", 0).memory(15).subscribe(&world).await;
    world.load(&Draft::of("iris")).await.unwrap();
    world.until_state("iris", 1, ModelState::ModelAvailable).await;
    // 5 bytes are free, and it is placed anew with each of these.
    world.load(&Draft::of("iris").generation(2)).await.unwrap();
    world.load(&Draft::of("iris").at_least(1)).await.unwrap();
    let agent = agent.disconnect().subscribe(&world).await;
    world.load(&Draft::of("sentinel").memory(1)).await.unwrap();
    world.until_state("sentinel", 1, ModelState::ModelAvailable).await;
    assert_eq!(agent.commands(), ["load sentinel 1"]);
    world.until_state("iris", 1, ModelState::ModelAvailable).await;
}

#[tokio::test]
async fn holders_come_first_then_free_memory_then_the_lower_index() {
    let world = World::start().await;
    let _first = Identity::of("onnx", 0).memory(100).subscribe(&world).await;
    let _second = Identity::of("onnx", 1).memory(100).subscribe(&world).await;
    world.load(&Draft::of("lowest-index")).await.unwrap();
    assert_eq!(replicas(&world.until_state("lowest-index", 1, ModelState::ModelAvailable).await)[0].0, 0);
    world.load(&Draft::of("most-free")).await.unwrap();
    assert_eq!(replicas(&world.until_state("most-free", 1, ModelState::ModelAvailable).await)[0].0, 1);
    let _third = Identity::of("onnx", 2).memory(1_000).subscribe(&world).await;
    world.load(&Draft::of("lowest-index").replicas(2)).await.unwrap();
    let status =
        world.until_model("lowest-index", "two replicas", |status| replica(status, 2) == Some(Replica::Available));
    assert_eq!(replicas(&status.await), [(0, Replica::Available), (2, Replica::Available)], "the holder stays");
}

#[tokio::test]
async fn what_is_reserved_counts_before_it_is_loaded() {
    let world = World::start().await;
    let agent = Identity::of("onnx", 0).memory(100).scripted().subscribe(&world).await;
    world.load(&Draft::of("first").memory(60)).await.unwrap();
    world.load(&Draft::of("second").memory(60)).await.unwrap();
    world.until_state("second", 1, ModelState::ScheduleFailed).await;
    agent.told("load first 1").await;
    assert_eq!(agent.commands(), ["load first 1"]);
}

#[tokio::test]
async fn too_few_replicas_serve_what_fits_and_say_how_many() {
    let world = World::start().await;
    let _agent = Identity::of("onnx", 0).subscribe(&world).await;
    world.load(&Draft::of("iris").replicas(10_000)).await.unwrap();
    let is_there = |status: &_| replica(status, 0) == Some(Replica::Available);
    let status = world.until_model("iris", "one replica serves", is_there).await;
    assert_eq!(crate::world::state_of(&status), ModelState::ScheduleFailed);
    assert!(reason_of(&status).starts_with(&format!("1 of {} replicas", 10_000)), "{status:?}");
    world.load(&Draft::of("iris")).await.unwrap();
    world.until_state("iris", 1, ModelState::ModelAvailable).await;
}

#[tokio::test]
async fn refused_place_is_tried_again_when_an_agent_comes() {
    let world = World::start().await;
    world.load(&Draft::of("iris")).await.unwrap();
    world.until_state("iris", 1, ModelState::ScheduleFailed).await;
    let _unable = Identity::of("other", 0).offers(&["sklearn"]).subscribe(&world).await;
    let _able = Identity::of("onnx", 0).subscribe(&world).await;
    assert_eq!(world.until_state("iris", 1, ModelState::ModelAvailable).await.server_name, "onnx");
}

#[tokio::test]
async fn draining_replica_gets_no_new_model() {
    let world = World::start().await;
    let leaving = Identity::of("onnx", 0).memory(1_000).subscribe(&world).await;
    let _other = Identity::of("onnx", 1).subscribe(&world).await;
    assert!(leaving.drain().await.unwrap());
    world.load(&Draft::of("iris")).await.unwrap();
    let status = world.until_state("iris", 1, ModelState::ModelAvailable).await;
    assert_eq!(replicas(&status), [(1, Replica::Available)]);
    world.load(&Draft::of("both").replicas(2)).await.unwrap();
    let status = world.until_state("both", 1, ModelState::ScheduleFailed).await;
    assert!(reason_of(&status).starts_with("1 of 2 replicas"), "{status:?}");
    assert_eq!(leaving.commands(), Vec::<String>::new());
}

#[tokio::test]
async fn server_of_which_nobody_said_how_many_takes_models_and_one_scaled_to_zero_does_not() {
    let world = World::start().await;
    let _agent = Identity::of("onnx", 0).subscribe(&world).await;
    assert_eq!(world.server_statuses(Some("onnx")).await.unwrap()[0].expected_replicas, -1);
    world.load(&Draft::of("iris")).await.unwrap();
    world.until_state("iris", 1, ModelState::ModelAvailable).await;
    let server = wire::ServerNotify { name: "onnx".into(), ..wire::ServerNotify::default() };
    let request = wire::ServerNotifyRequest { servers: vec![server], is_first_sync: false };
    world.control.clone().server_notify(request).await.unwrap();
    world.load(&Draft::of("later")).await.unwrap();
    let status = world.until_state("later", 1, ModelState::ScheduleFailed).await;
    assert!(reason_of(&status).contains("scaled to 0"), "{status:?}");
}

#[tokio::test]
async fn server_that_hosts_the_model_is_preferred_over_an_emptier_one() {
    let world = World::start().await;
    let _host = Identity::of("host", 0).memory(20).subscribe(&world).await;
    world.load(&Draft::of("iris")).await.unwrap();
    world.until_state("iris", 1, ModelState::ModelAvailable).await;
    let _second = Identity::of("host", 1).memory(20).subscribe(&world).await;
    let _emptier =
        (Identity::of("a", 0).memory(1_000).subscribe(&world).await, Identity::of("a", 1).subscribe(&world).await);
    world.load(&Draft::of("iris").replicas(2)).await.unwrap();
    let is_done = |status: &wire::ModelVersionStatus| replicas(status).len() == 2;
    let status = world.until_model("iris", "two replicas", is_done).await;
    assert_eq!((status.version, status.server_name.as_str()), (1, "host"));
}

#[tokio::test]
async fn move_to_another_server_is_a_new_version_and_the_old_place_serves_until_then() {
    let world = World::start().await;
    let old = Identity::of("old", 0).subscribe(&world).await;
    let envoy = crate::envoy::Envoy::start(&world, "first").await;
    world.load(&Draft::of("iris")).await.unwrap();
    world.until_state("iris", 1, ModelState::ModelAvailable).await;
    let new = Identity::of("new", 0).scripted().subscribe(&world).await;
    let server = wire::ServerNotify { name: "old".into(), ..wire::ServerNotify::default() };
    let request = wire::ServerNotifyRequest { servers: vec![server], is_first_sync: false };
    world.control.clone().server_notify(request).await.unwrap();
    let load = new.told("load iris 2").await;
    let status = world.until_state("iris", 2, ModelState::ModelProgressing).await;
    assert_eq!(status.server_name, "new");
    assert!(reason_of(&status).contains("version 1 goes on answering"), "{status:?}");
    assert_eq!(envoy.now().shares("iris"), Some(vec![("iris_1".to_owned(), 100)]));
    assert_eq!(old.commands(), ["load iris 1"]);
    new.answer(&load, Event::Loaded).await.unwrap();
    world.until_state("iris", 2, ModelState::ModelAvailable).await;
    envoy.until_shares("iris", &[("iris_2", 100)]).await;
    old.told("unload iris 1").await;
}

#[tokio::test]
async fn what_failed_is_tried_again_when_an_agent_goes() {
    let world = World::start_with(std::sync::Arc::new(tempfile::tempdir().unwrap()), |config| {
        config.decisions.agent_grace_ms = 0;
    })
    .await;
    let stays = Identity::of("onnx", 0).scripted().subscribe(&world).await;
    let goes = Identity::of("other", 0).offers(&["sklearn"]).subscribe(&world).await;
    world.load(&Draft::of("iris")).await.unwrap();
    stays.fail(&stays.told("load iris 1").await, Event::LoadFailed, "no network").await.unwrap();
    world.until_state("iris", 1, ModelState::ModelFailed).await;
    drop(goes.disconnect());
    let again = |seen: &crate::agent::Seen| seen.commands.len() == 2;
    let seen = stays.until("told twice", again).await;
    stays.answer(&seen.commands[1], Event::Loaded).await.unwrap();
    world.until_state("iris", 1, ModelState::ModelAvailable).await;
}

#[tokio::test]
async fn replica_with_more_reserved_than_free_comes_last() {
    let world = World::start().await;
    let crowded = Identity::of("onnx", 0).memory(100).scripted().subscribe(&world).await;
    world.load(&Draft::of("arriving").memory(90)).await.unwrap();
    crowded.told("load arriving 1").await;
    world.load(&Draft::of("small").memory(5)).await.unwrap();
    let load = crowded.told("load small 1").await;
    // Its agent says that less is free than what is still reserved there.
    crowded.loaded_with(&load, workers(1), 10).await.unwrap();
    let _roomy = Identity::of("onnx", 1).memory(20).subscribe(&world).await;
    world.load(&Draft::of("next").memory(0)).await.unwrap();
    let status = world.until_state("next", 1, ModelState::ModelAvailable).await;
    assert_eq!(replicas(&status), [(1, Replica::Available)]);
}
