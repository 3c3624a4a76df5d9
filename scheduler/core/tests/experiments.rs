//! The laws of experiments: who is split, what is left when a candidate is lost, what is told.

#[expect(dead_code, reason = "each test binary uses its part of the world")]
mod world;

use domain::{BadExperiment, Bytes, ExperimentName, ModelState};
use scheduler_core::{AGENT_GRACE_MS, Refusal, Status, TERMINATED_TTL_MS};
use world::{World, definition, model_name};

/// Models `a`, `b`, `c` available on one replica.
fn three() -> World {
    let mut world = World::with_replicas(1);
    for name in ["a", "b", "c"] {
        world.apply(definition(name, 1)).expect("accepted");
    }
    world.run();
    world
}

#[test]
fn an_experiment_splits_its_own_name_and_its_defaults() {
    let mut world = three();
    world.start("split", Some("a"), &[("a", 80), ("b", 20)], Some(("c", 30))).expect("accepted");
    for name in ["split.experiment", "a"] {
        assert_eq!(world.split(name), ["a@1 80", "b@1 20", "+c@1 30"]);
    }
    assert_eq!(world.split("b"), ["b@1 100"]);
    let status = world.experiment("split");
    assert!(!status.active && status.candidates_ready && status.mirror_ready, "{status:?}");
    assert!(status.description.starts_with("waiting for every Envoy"), "{status:?}");
    world.run();
    let status = world.experiment("split");
    assert!(status.active, "{status:?}");
    assert_eq!(world.statuses.last(), Some(&Status::Experiment(Box::new(status))));
}

#[test]
fn without_a_default_only_the_experiments_own_name_is_split() {
    let mut world = three();
    world.start("split", None, &[("a", 1), ("b", 0)], None).expect("accepted");
    world.run();
    assert_eq!(world.split("split.experiment"), ["a@1 1", "b@1 0"]);
    assert_eq!(world.split("a"), ["a@1 100"]);
    assert!(world.experiment("split").active);
}

#[test]
fn one_model_is_the_default_of_one_experiment() {
    let mut world = three();
    world.start("first", Some("a"), &[("a", 1), ("b", 1)], None).expect("accepted");
    let refusal = world.start("second", Some("a"), &[("a", 1), ("c", 1)], None);
    let by = ExperimentName::parse("first").expect("a name");
    assert_eq!(refusal, Err(Refusal::DefaultTaken { default: world::subject("a"), by }));
    world.start("second", Some("c"), &[("a", 1), ("c", 1)], None).expect("another default");
    world.stop("first").expect("it runs");
    world.start("third", Some("a"), &[("a", 1)], None).expect("the default is free again");
    let refusal = world.start("none", None, &[], None);
    assert_eq!(refusal, Err(Refusal::BadExperiment(BadExperiment::Empty)));
}

#[test]
fn a_stopped_experiment_gives_its_default_back_and_is_listed_for_a_day() {
    let mut world = three();
    world.start("split", Some("a"), &[("a", 1), ("b", 1)], None).expect("accepted");
    world.run();
    world.stop("split").expect("it runs");
    world.run();
    assert_eq!(world.split("a"), ["a@1 100"]);
    assert_eq!(world.split("split.experiment"), Vec::<String>::new());
    assert!(!world.experiment("split").active);
    let name = ExperimentName::parse("split").expect("a name");
    assert_eq!(world.stop("split"), Err(Refusal::StoppedExperiment(name.clone())));
    world.restart();
    assert!(!world.experiment("split").active);
    world.pass(TERMINATED_TTL_MS);
    assert_eq!(world.machine.experiment(&name), None);
    assert_eq!(world.stop("split"), Err(Refusal::UnknownExperiment(name)));
}

#[test]
fn another_default_gives_the_former_one_its_route_back() {
    let mut world = three();
    world.start("split", Some("a"), &[("a", 1), ("b", 1)], None).expect("accepted");
    world.run();
    world.start("split", Some("b"), &[("b", 3), ("c", 1)], None).expect("replaced");
    assert_eq!(world.split("a"), ["a@1 100"]);
    assert_eq!(world.split("b"), ["b@1 3", "c@1 1"]);
    assert_eq!(world.split("split.experiment"), ["b@1 3", "c@1 1"]);
    world.run();
    assert!(world.experiment("split").active);
}

#[test]
fn a_candidate_that_is_lost_leaves_the_default_alone_and_the_others_their_shares() {
    let mut world = three();
    world.start("split", Some("a"), &[("a", 50), ("b", 30), ("c", 20)], None).expect("accepted");
    world.run();
    world.remove("b").expect("known");
    assert_eq!(world.split("a"), ["a@1 100"]);
    assert_eq!(world.split("split.experiment"), ["a@1 50", "c@1 20"]);
    let status = world.experiment("split");
    assert!(!status.active && !status.candidates_ready, "{status:?}");
    assert!(status.description.contains("model b is removed"), "{status:?}");
    world.run();
    world.apply(definition("b", 1)).expect("accepted");
    world.run();
    assert_eq!(world.split("a"), ["a@1 50", "b@1 30", "c@1 20"]);
    assert!(world.experiment("split").active);
}

#[test]
fn a_candidate_that_is_not_there_yet_leaves_the_default_alone_until_it_is() {
    let mut world = three();
    world.start("split", Some("a"), &[("a", 1), ("later", 1)], None).expect("accepted");
    world.run();
    assert_eq!(world.split("a"), ["a@1 100"]);
    let status = world.experiment("split");
    assert!(!status.active && status.description.contains("model later is not known"), "{status:?}");
    world.apply(definition("later", 1)).expect("accepted");
    world.run();
    assert_eq!(world.split("a"), ["a@1 1", "later@1 1"]);
    assert!(world.experiment("split").active);
}

#[test]
fn a_mirror_that_is_lost_ends_the_copies_and_not_the_split() {
    let mut world = three();
    world.start("split", Some("a"), &[("a", 1), ("b", 1)], Some(("c", 100))).expect("accepted");
    world.run();
    world.remove("c").expect("known");
    world.run();
    assert_eq!(world.split("a"), ["a@1 1", "b@1 1"]);
    let status = world.experiment("split");
    assert!(!status.active && status.candidates_ready && !status.mirror_ready, "{status:?}");
    assert!(status.description.contains("no copies are sent"), "{status:?}");
}

#[test]
fn only_a_mirror_leads_nowhere_and_says_so() {
    let mut world = three();
    world.start("copies", None, &[], Some(("c", 100))).expect("accepted");
    world.run();
    assert_eq!(world.split("copies.experiment"), Vec::<String>::new());
    let status = world.experiment("copies");
    assert!(!status.active && status.description.contains("no candidate"), "{status:?}");
}

#[test]
fn a_candidate_in_a_roll_out_divides_its_share() {
    let mut world = World::new();
    for index in 0..3 {
        let id = format!("onnx/{index}");
        world.agent(&id).config.memory = Bytes(1_000);
        world.connect(&id);
    }
    for name in ["a", "b"] {
        world.apply(definition(name, 2)).expect("accepted");
    }
    world.run();
    world.start("split", Some("a"), &[("a", 3), ("b", 1)], None).expect("accepted");
    world.run();
    let mut second = definition("b", 2);
    second.spec.uri = "/models/second".into();
    world.apply(second).expect("accepted");
    // One of the two replicas of the new version is loaded, and no Envoy has acknowledged anything yet.
    let loading = (0..3).find(|index| world.lifecycle("b", 2, *index).is_some()).expect("it is placed");
    world.step(&format!("onnx/{loading}"), None);
    assert_eq!(world.split("a"), ["a@1 300", "b@1 66", "b@2 34"]);
    world.run();
    assert_eq!(world.split("a"), ["a@1 3", "b@2 1"]);
    assert!(world.experiment("split").active);
}

#[test]
fn a_model_is_not_unloaded_before_envoys_let_go_of_every_experiment_that_led_there() {
    for name in ["b", "c"] {
        let mut world = three();
        world.start("split", Some("a"), &[("a", 1), ("b", 1)], Some(("c", 100))).expect("accepted");
        world.run();
        world.remove(name).expect("known");
        world.ack(name);
        world.release(name);
        // Its own name is gone from every Envoy; the split of the default still is not.
        assert_eq!(world.state(name), ModelState::Terminating);
        assert_eq!(world.commands.iter().filter(|(_, c)| c.version.model == model_name(name)).count(), 1);
        world.release("split.experiment");
        assert_eq!(world.commands.iter().filter(|(_, c)| c.version.model == model_name(name)).count(), 1);
        world.release("a");
        assert_eq!(world.commands.iter().filter(|(_, c)| c.version.model == model_name(name)).count(), 2);
        world.run();
        assert_eq!(world.state(name), ModelState::Terminated);
    }
}

#[test]
fn what_a_stopped_experiment_led_to_is_remembered_over_a_restart_until_envoys_let_go() {
    let mut world = three();
    world.start("split", Some("a"), &[("a", 1), ("b", 1)], None).expect("accepted");
    world.run();
    world.start("split", Some("a"), &[("a", 1), ("c", 1)], None).expect("replaced");
    world.stop("split").expect("it runs");
    world.remove("b").expect("known");
    world.restart();
    world.connect("onnx/0");
    world.ack("b");
    world.release("b");
    assert_eq!(world.state("b"), ModelState::Terminating);
    world.release("split.experiment");
    world.release("a");
    world.run();
    assert_eq!(world.state("b"), ModelState::Terminated);
    let kept = world.machine.experiment(&ExperimentName::parse("split").expect("a name")).expect("listed");
    assert!(kept.lingering.is_empty() && kept.former_defaults.is_empty(), "{kept:?}");
}

#[test]
fn a_running_experiment_is_active_again_after_a_restart_when_envoys_have_it() {
    let mut world = three();
    world.start("split", Some("a"), &[("a", 1), ("b", 1)], None).expect("accepted");
    world.run();
    world.restart();
    assert_eq!(world.split("a"), ["a@1 1", "b@1 1"]);
    world.run();
    assert!(world.experiment("split").active);
    world.connect("onnx/0");
    world.run();
    assert!(world.experiment("split").active);
}

#[test]
fn a_late_acknowledgement_does_not_make_a_stopped_experiment_active() {
    let mut world = three();
    world.start("split", Some("a"), &[("a", 1), ("b", 1)], None).expect("accepted");
    let late = world.routes[&world::routable("split.experiment")].generations.keys().next_back().copied();
    world.stop("split").expect("it runs");
    for name in ["split.experiment", "a"] {
        let generation = late.expect("published");
        world.handle(scheduler_core::Event::RouteApplied { name: world::routable(name), generation });
        assert!(!world.experiment("split").active);
    }
    world.run();
    assert!(!world.experiment("split").active);
}

#[test]
fn a_route_that_envoy_refuses_keeps_the_experiment_inactive_with_envoys_words() {
    let mut world = three();
    world.start("split", None, &[("a", 1), ("b", 1)], None).expect("accepted");
    world.reject("split.experiment", "weights are odd");
    let status = world.experiment("split");
    assert!(!status.active && status.description.contains("weights are odd"), "{status:?}");
}

#[test]
fn an_experiment_of_models_that_all_lose_their_replica_keeps_its_routes_as_a_last_resort() {
    let mut world = three();
    world.start("split", Some("a"), &[("a", 1), ("b", 1)], None).expect("accepted");
    world.run();
    world.disconnect("onnx/0");
    world.pass(AGENT_GRACE_MS);
    assert_eq!(world.split("a"), ["a@1 1", "b@1 1"]);
}

#[test]
fn a_change_of_a_model_costs_nothing_for_experiments_that_do_not_name_it() {
    let mut world = three();
    for index in 0..50 {
        world.start(&format!("e{index}"), None, &[("a", 1), ("b", 1)], None).expect("accepted");
    }
    world.run();
    world.statuses.clear();
    let mut second = definition("c", 1);
    second.spec.uri = "/models/second".into();
    world.apply(second).expect("accepted");
    world.run();
    assert!(!world.statuses.iter().any(|status| matches!(status, Status::Experiment(_))));
}
