//! Laws of the machine that a user could name, each in a few events.

#[expect(dead_code, reason = "each test binary uses its part of the world")]
mod world;

use domain::{Bytes, Generation, Health, KubernetesMeta, Lifecycle, ModelState, VersionNumber};
use scheduler_core::{AGENT_GRACE_MS, Action, Event, Outcome, Refusal};
use world::{World, definition, model_name, replica, version};

#[test]
fn a_model_is_loaded_routed_and_then_available() {
    let mut world = World::with_replicas(1);
    world.apply(definition("iris", 1)).expect("accepted");
    assert_eq!(world.assignments("iris"), ["1@onnx/0: Loading"]);
    assert_eq!(world.state("iris"), ModelState::Progressing);
    assert!(world.route("iris").is_empty());

    world.step("onnx/0", None);
    assert_eq!(world.assignments("iris"), ["1@onnx/0: Loaded"]);
    assert_eq!(world.route("iris"), ["1 100% onnx/0"]);
    assert_eq!(world.state("iris"), ModelState::Progressing);

    world.ack("iris");
    assert_eq!(world.assignments("iris"), ["1@onnx/0: Available"]);
    assert_eq!(world.state("iris"), ModelState::Available);
}

#[test]
fn the_first_version_is_the_generation() {
    let mut world = World::with_replicas(1);
    let mut iris = definition("iris", 1);
    iris.kubernetes = Some(Box::new(KubernetesMeta { namespace: "ns".into(), generation: 7 }));
    world.apply(iris).expect("accepted");
    assert_eq!(world.machine.model(&model_name("iris")).expect("known").latest_number(), VersionNumber(7));
    world.apply(definition("other", 1)).expect("accepted");
    assert_eq!(world.machine.model(&model_name("other")).expect("known").latest_number(), VersionNumber(1));
}

#[test]
fn the_same_declaration_twice_changes_nothing() {
    let mut world = World::with_replicas(1);
    world.apply(definition("iris", 1)).expect("accepted");
    world.run();
    let commands = world.commands.len();
    world.apply(definition("iris", 1)).expect("accepted");
    world.run();
    assert_eq!(world.commands.len(), commands);
    assert_eq!(world.machine.version_statuses(&model_name("iris")).expect("known").len(), 1);
}

#[test]
fn a_changed_spec_is_a_new_version_and_a_changed_deployment_is_not() {
    let mut world = World::with_replicas(2);
    world.apply(definition("iris", 1)).expect("accepted");
    world.run();
    world.apply(definition("iris", 2)).expect("accepted");
    world.run();
    assert_eq!(world.assignments("iris"), ["1@onnx/0: Available", "1@onnx/1: Available"]);

    let mut changed = definition("iris", 2);
    changed.kubernetes = Some(Box::new(KubernetesMeta { namespace: "ns".into(), generation: 9 }));
    world.apply(changed.clone()).expect("accepted");
    world.run();
    let status = world.machine.model_status(&model_name("iris")).expect("known");
    assert_eq!((status.number, status.definition.kubernetes.expect("meta").generation), (VersionNumber(1), 9));

    changed.spec.uri = "/models/better".into();
    world.apply(changed).expect("accepted");
    world.run();
    assert_eq!(world.assignments("iris"), ["2@onnx/0: Available", "2@onnx/1: Available"]);
    let versions = world.machine.version_statuses(&model_name("iris")).expect("known");
    assert_eq!(versions.iter().map(|v| v.state).collect::<Vec<_>>(), [ModelState::Terminated, ModelState::Available]);
}

#[test]
fn the_old_version_serves_until_the_route_to_the_new_one_is_acknowledged() {
    let mut world = World::with_replicas(2);
    world.apply(definition("iris", 2)).expect("accepted");
    world.run();
    let mut better = definition("iris", 1);
    better.spec.uri = "/models/better".into();
    world.apply(better).expect("accepted");
    assert_eq!(world.route("iris"), ["1 100% onnx/0,onnx/1"]);

    world.step("onnx/0", None);
    assert_eq!(world.route("iris"), ["1 66% onnx/0,onnx/1", "2 34% onnx/0"], "floor for the old");
    assert_eq!(world.lifecycle("iris", 2, 0), Some(Lifecycle::Loaded));

    world.ack("iris");
    assert_eq!(world.route("iris"), ["2 100% onnx/0"]);
    assert_eq!(world.state("iris"), ModelState::Available);
    assert_eq!(world.lifecycle("iris", 1, 0), Some(Lifecycle::UnloadEnvoyRequested));
    let unloads = |world: &World| world.commands.iter().filter(|(_, c)| c.action == Action::Unload).count();
    assert_eq!(unloads(&world), 0);

    world.ack("iris");
    assert_eq!(unloads(&world), 0, "an Envoy that is away may still use the old route");
    world.release("iris");
    assert_eq!(unloads(&world), 2);
    world.run();
    assert_eq!(world.assignments("iris"), ["2@onnx/0: Available"]);
}

#[test]
fn a_new_version_that_fails_leaves_the_old_one_alone_and_says_why() {
    let mut world = World::with_replicas(1);
    world.apply(definition("iris", 1)).expect("accepted");
    world.run();
    let mut broken = definition("iris", 1);
    broken.spec.uri = "/models/broken".into();
    world.apply(broken).expect("accepted");
    world.step("onnx/0", Some("model.onnx: unexpected end of file"));
    world.run();
    assert_eq!(world.assignments("iris"), ["1@onnx/0: Available"]);
    assert_eq!(world.route("iris"), ["1 100% onnx/0"]);
    assert_eq!(world.state("iris"), ModelState::Failed);
    assert_eq!(world.reason("iris"), "model.onnx: unexpected end of file; version 1 goes on answering");

    world.apply(definition("iris", 1)).expect("accepted");
    world.run();
    assert_eq!(world.assignments("iris"), ["3@onnx/0: Available"]);
    assert_eq!(world.state("iris"), ModelState::Available);
}

#[test]
fn a_failed_replica_makes_the_model_failed_although_another_serves() {
    let mut world = World::with_replicas(2);
    world.apply(definition("iris", 2)).expect("accepted");
    world.step("onnx/0", None);
    world.ack("iris");
    world.step("onnx/1", Some("no space left on device"));
    assert_eq!(world.state("iris"), ModelState::Failed);
    assert_eq!(world.reason("iris"), "no space left on device");
    assert_eq!(world.route("iris"), ["1 100% onnx/0"]);
}

#[test]
fn a_losing_replica_of_the_old_version_leaves_the_others_routed_while_the_new_one_loads() {
    let mut world = World::with_replicas(2);
    world.apply(definition("iris", 2)).expect("accepted");
    world.run();
    let mut better = definition("iris", 1);
    better.spec.uri = "/models/better".into();
    world.apply(better).expect("accepted");
    world.kill("onnx/1");
    world.pass(AGENT_GRACE_MS);
    assert_eq!(world.route("iris"), ["1 100% onnx/0"]);
}

#[test]
fn a_replica_that_leaves_a_model_is_out_of_the_route_before_it_unloads() {
    let mut world = World::with_replicas(3);
    world.apply(definition("iris", 3)).expect("accepted");
    world.run();
    world.apply(definition("iris", 1)).expect("accepted");
    assert_eq!(
        world.assignments("iris"),
        ["1@onnx/0: Available", "1@onnx/1: UnloadEnvoyRequested", "1@onnx/2: UnloadEnvoyRequested"]
    );
    assert_eq!(world.route("iris"), ["1 100% onnx/0"]);
    world.ack("iris");
    assert_eq!(world.lifecycle("iris", 1, 1), Some(Lifecycle::UnloadEnvoyRequested));
    world.release("iris");
    assert_eq!(world.lifecycle("iris", 1, 1), Some(Lifecycle::Unloading));
    world.run();
    assert_eq!(world.lifecycle("iris", 1, 2), Some(Lifecycle::Unloaded));
    assert_eq!(world.state("iris"), ModelState::Available);
}

#[test]
fn a_removed_model_loses_its_route_then_its_replicas_and_can_be_declared_again_after_that() {
    let mut world = World::with_replicas(1);
    world.apply(definition("iris", 1)).expect("accepted");
    world.run();
    world.remove("iris").expect("known");
    assert!(world.route("iris").is_empty());
    assert_eq!(world.state("iris"), ModelState::Terminating);
    assert_eq!(
        world.apply(definition("iris", 1)),
        Err(Refusal::StillTerminating(model_name("iris"), 1)),
        "a replica still has it"
    );
    world.run();
    assert_eq!(world.state("iris"), ModelState::Terminated);
    let mut again = definition("iris", 1);
    again.spec.uri = "/models/other".into();
    world.apply(again).expect("accepted");
    world.run();
    assert_eq!(world.assignments("iris"), ["1@onnx/0: Available"], "its history is fresh");
}

#[test]
fn removing_what_nobody_knows_is_refused() {
    let mut world = World::new();
    assert_eq!(world.remove("iris"), Err(Refusal::UnknownModel(model_name("iris"))));
}

#[test]
fn a_report_about_an_older_command_changes_nothing() {
    let mut world = World::with_replicas(1);
    world.apply(definition("iris", 1)).expect("accepted");
    world.stale_report("onnx/0", version("iris", 1), Outcome::Loaded(None));
    world.run();
    world.stale_report("onnx/0", version("iris", 1), Outcome::Unloaded);
    world.stale_report("onnx/0", version("iris", 9), Outcome::Loaded(None));
    world.stale_report("onnx/5", version("iris", 1), Outcome::Loaded(None));
}

#[test]
fn a_foreign_agent_without_fences_is_matched_by_the_expected_state() {
    let mut world = World::with_replicas(1);
    world.apply(definition("iris", 1)).expect("accepted");
    let mut report = |outcome| {
        let ticket = world.ticket();
        let (replica, version) = (replica("onnx/0"), version("iris", 1));
        world.handle(Event::Report { replica, version, outcome, fence: None, available: Bytes(90), ticket });
        world.replies[&ticket].clone()
    };
    assert!(matches!(report(Outcome::Unloaded), Err(Refusal::StaleReport { .. })));
    report(Outcome::Loaded(None)).expect("the replica is loading");
    assert!(matches!(report(Outcome::Loaded(None)), Err(Refusal::StaleReport { .. })));
}

#[test]
fn a_wish_for_more_than_there_is_serves_on_what_fits_says_so_and_grows_by_itself() {
    let mut world = World::with_replicas(2);
    world.apply(definition("iris", 3)).expect("accepted");
    world.run();
    assert_eq!(world.assignments("iris"), ["1@onnx/0: Available", "1@onnx/1: Available"]);
    assert_eq!(world.state("iris"), ModelState::ScheduleFailed);
    assert_eq!(world.reason("iris"), "2 of 3 replicas: server onnx has only 2 replicas");
    world.notify("onnx", 3);
    world.connect("onnx/2");
    world.run();
    assert_eq!(world.state("iris"), ModelState::Available);
    assert_eq!(world.route("iris"), ["1 100% onnx/0,onnx/1,onnx/2"]);
}

#[test]
fn a_bigger_wish_takes_no_working_replica_away() {
    let mut world = World::with_replicas(1);
    world.apply(definition("iris", 1)).expect("accepted");
    world.run();
    for replicas in [2, 100, u32::MAX] {
        world.apply(definition("iris", replicas)).expect("accepted");
        assert_eq!(world.assignments("iris"), ["1@onnx/0: Available"]);
        assert_eq!(world.route("iris"), ["1 100% onnx/0"]);
    }
}

#[test]
fn enough_replicas_for_the_minimum_make_the_model_available() {
    let mut world = World::with_replicas(2);
    let mut iris = definition("iris", 3);
    iris.deployment.min_replicas = 2;
    world.apply(iris).expect("accepted");
    world.run();
    assert_eq!(world.state("iris"), ModelState::Available);
    assert_eq!(world.reason("iris"), "2 of 3 replicas: server onnx has only 2 replicas");
}

#[test]
fn a_model_that_fits_nowhere_names_what_each_server_lacks_and_no_server() {
    let mut world = World::with_replicas(1);
    world.notify("empty", 1);
    let mut big = definition("big", 1);
    big.spec.memory = Some(Bytes(1 << 20));
    world.apply(big).expect("accepted");
    assert_eq!(world.state("big"), ModelState::ScheduleFailed);
    assert_eq!(
        world.reason("big"),
        "no server fits: server empty has no connected replica that takes models; \
         server onnx has too little free memory (1 MiB needed, 100 B free)"
    );
    assert_eq!(world.machine.model_status(&model_name("big")).expect("known").server, None);

    let mut odd = definition("odd", 1);
    odd.spec.requirements = vec![" onnx ".into(), "sklearn".into()];
    odd.spec.server = Some(world::server_name("onnx"));
    world.apply(odd).expect("accepted");
    assert_eq!(
        world.reason("odd"),
        "no server fits: server empty is not the one the model asks for; \
         server onnx does not offer capability sklearn"
    );
}

#[test]
fn a_model_without_an_explicit_server_is_never_put_on_a_server_that_is_not_shared() {
    let mut world = World::new();
    world.agent("private/0").shared = false;
    world.connect("private/0");
    world.apply(definition("iris", 1)).expect("accepted");
    assert_eq!(world.state("iris"), ModelState::ScheduleFailed);
    let mut pinned = definition("pinned", 1);
    pinned.spec.server = Some(world::server_name("private"));
    world.apply(pinned).expect("accepted");
    world.run();
    assert_eq!(world.assignments("pinned"), ["1@private/0: Available"]);
    world.connect("onnx/0");
    world.run();
    assert_eq!(world.assignments("iris"), ["1@onnx/0: Available"], "placed when a suitable agent connects");
}

#[test]
fn the_replica_with_most_memory_left_is_chosen_then_the_lower_index_and_reservations_count() {
    let mut world = World::with_replicas(2);
    world.agent("onnx/2").config.memory = Bytes(1000);
    world.connect("onnx/2");
    let mut first = definition("first", 1);
    first.spec.memory = Some(Bytes(950));
    world.apply(first).expect("accepted");
    assert_eq!(world.assignments("first"), ["1@onnx/2: Loading"]);
    let mut second = definition("second", 1);
    second.spec.memory = Some(Bytes(60));
    world.apply(second.clone()).expect("accepted");
    assert_eq!(world.assignments("second"), ["1@onnx/0: Loading"], "equal memory: the lower index");
    second.name = model_name("third");
    world.apply(second.clone()).expect("accepted");
    assert_eq!(world.assignments("third"), ["1@onnx/1: Loading"], "60 of 100 are reserved on onnx/0");
    second.name = model_name("fourth");
    world.apply(second).expect("accepted");
    assert_eq!(world.state("fourth"), ModelState::ScheduleFailed);
    world.run();
    assert_eq!(world.state("third"), ModelState::Available);
}

#[test]
fn a_replica_that_holds_the_model_keeps_it_whatever_its_memory() {
    let mut world = World::with_replicas(2);
    let mut large = definition("large", 1);
    large.spec.memory = Some(Bytes(100));
    world.apply(large.clone()).expect("accepted");
    world.run();
    large.deployment.replicas = 2;
    world.apply(large).expect("accepted");
    world.run();
    assert_eq!(world.assignments("large"), ["1@onnx/0: Available", "1@onnx/1: Available"]);
}

#[test]
fn memory_is_counted_for_each_instance_once_it_is_known() {
    let mut spec = definition("iris", 1).spec;
    spec.memory = Some(Bytes(10));
    assert_eq!(spec.required_memory(None), Bytes(10));
    assert_eq!(spec.required_memory(Some(domain::RuntimeInfo::MlServer { workers: 4 })), Bytes(40));
    assert_eq!(spec.required_memory(Some(domain::RuntimeInfo::MlServer { workers: 0 })), Bytes(10));
    assert_eq!(spec.required_memory(Some(domain::RuntimeInfo::Triton { instances: None })), Bytes(10));
    spec.memory = None;
    assert_eq!(spec.required_memory(Some(domain::RuntimeInfo::MlServer { workers: 4 })), Bytes(0));
}

#[test]
fn a_drained_replica_is_empty_before_its_drain_ends() {
    let mut world = World::with_replicas(2);
    world.apply(definition("iris", 1)).expect("accepted");
    world.run();
    let ticket = world.drain("onnx/0");
    assert_eq!(world.assignments("iris"), ["1@onnx/0: Draining", "1@onnx/1: Loading"]);
    assert_eq!(world.route("iris"), ["1 100% onnx/0"], "it serves until the other one does");
    assert!(!world.replies.contains_key(&ticket));
    world.step("onnx/1", None);
    assert_eq!(world.route("iris"), ["1 100% onnx/1"]);
    world.run();
    assert_eq!(world.assignments("iris"), ["1@onnx/1: Available"]);
    assert_eq!(world.replies.get(&ticket), Some(&Ok(())));
    world.apply(definition("next", 2)).expect("accepted");
    assert_eq!(world.assignments("next"), ["1@onnx/1: Loading"], "a draining replica receives nothing");
}

#[test]
fn draining_everything_ends_and_the_last_replica_keeps_its_route() {
    let mut world = World::with_replicas(2);
    world.apply(definition("iris", 2)).expect("accepted");
    world.run();
    let first = world.drain("onnx/0");
    world.run();
    assert_eq!(world.replies.get(&first), Some(&Ok(())));
    let second = world.drain("onnx/1");
    assert_eq!(world.replies.get(&second), Some(&Ok(())), "there is nowhere to go");
    assert_eq!(world.route("iris"), ["1 100% onnx/1"]);
}

#[test]
fn a_lost_agent_is_unhealthy_at_once_and_replaced_after_the_grace_period() {
    let mut world = World::with_replicas(3);
    world.apply(definition("iris", 2)).expect("accepted");
    world.run();
    world.kill("onnx/1");
    assert_eq!(world.route("iris"), ["1 100% onnx/0,onnx/1"]);
    let server = world.machine.server(&world::server_name("onnx")).expect("known");
    assert_eq!(server.replicas[&domain::ReplicaIndex(1)].health(), Health::Unhealthy);
    world.pass(AGENT_GRACE_MS - 1);
    world.run();
    assert_eq!(world.assignments("iris"), ["1@onnx/0: Available", "1@onnx/1: Available"]);
    world.pass(1);
    world.run();
    assert_eq!(world.assignments("iris"), ["1@onnx/0: Available", "1@onnx/2: Available"]);
}

#[test]
fn the_last_replica_keeps_its_route_when_its_agent_is_lost() {
    let mut world = World::with_replicas(1);
    world.apply(definition("iris", 1)).expect("accepted");
    world.run();
    world.disconnect("onnx/0");
    world.pass(10 * AGENT_GRACE_MS);
    world.run();
    assert_eq!(world.route("iris"), ["1 100% onnx/0"]);
    world.connect("onnx/0");
    world.run();
    assert_eq!(world.assignments("iris"), ["1@onnx/0: Available"]);
    assert_eq!(world.commands.len(), 1, "it was never loaded again");
}

#[test]
fn an_agent_that_forgot_everything_is_told_to_load_it_again() {
    let mut world = World::with_replicas(1);
    world.apply(definition("iris", 1)).expect("accepted");
    world.run();
    world.kill("onnx/0");
    world.connect("onnx/0");
    assert_eq!(world.assignments("iris"), ["1@onnx/0: Loading"]);
    world.run();
    assert_eq!(world.state("iris"), ModelState::Available);
}

#[test]
fn a_replica_that_came_back_empty_is_unhealthy_until_no_envoy_asks_it_for_what_it_lost() {
    let mut world = World::with_replicas(2);
    world.apply(definition("iris", 2)).expect("accepted");
    world.run();
    let health = |world: &World| {
        let server = world.machine.server(&world::server_name("onnx")).expect("known");
        server.replicas[&domain::ReplicaIndex(0)].health()
    };
    world.kill("onnx/0");
    world.connect("onnx/0");
    assert_eq!(world.route("iris"), ["1 100% onnx/1"]);
    assert_eq!(health(&world), Health::Unhealthy, "an Envoy may still route there");
    world.ack("iris");
    assert_eq!(health(&world), Health::Unhealthy, "one that is away may still route there");
    world.release("iris");
    assert_eq!(health(&world), Health::Healthy);

    world.run();
    world.kill("onnx/0");
    world.connect("onnx/0");
    assert_eq!(health(&world), Health::Unhealthy);
    world.step("onnx/0", None);
    assert_eq!(health(&world), Health::Healthy, "it holds the model again, so any route will do");
}

#[test]
fn a_restart_serves_the_same_routes_and_loads_nothing_again() {
    let mut world = World::with_replicas(2);
    world.apply(definition("iris", 2)).expect("accepted");
    world.run();
    let (route, commands) = (world.route("iris"), world.commands.len());
    world.restart();
    assert_eq!(world.route("iris"), route);
    assert_eq!(world.routes[&world::routable("iris")].generations.keys().next_back(), Some(&Generation(1)));
    world.connect("onnx/0");
    world.connect("onnx/1");
    world.run();
    assert_eq!(world.commands.len(), commands);
    assert_eq!(world.state("iris"), ModelState::Available);
}

#[test]
fn an_agent_that_holds_a_removed_model_is_told_to_unload_it() {
    let mut world = World::with_replicas(1);
    world.apply(definition("iris", 1)).expect("accepted");
    world.run();
    world.disconnect("onnx/0");
    world.remove("iris").expect("known");
    world.release("iris");
    world.connect("onnx/0");
    world.run();
    assert_eq!(world.state("iris"), ModelState::Terminated);
    assert!(world.agent("onnx/0").held.is_empty());
}

#[test]
fn an_agent_that_holds_a_model_nobody_knows_brings_it_along() {
    let mut world = World::new();
    let iris = definition("iris", 1);
    world.agent("onnx/0").held.insert((model_name("iris"), VersionNumber(4)), iris);
    world.connect("onnx/0");
    world.run();
    assert_eq!(world.assignments("iris"), ["4@onnx/0: Available"]);
    assert!(world.commands.is_empty());
}

#[test]
fn a_route_that_envoy_refuses_fails_the_model_with_envoys_words() {
    let mut world = World::with_replicas(1);
    world.apply(definition("iris", 1)).expect("accepted");
    world.step("onnx/0", None);
    world.reject("iris", "weights sum to zero");
    assert_eq!(world.state("iris"), ModelState::Failed);
    assert_eq!(world.reason("iris"), "weights sum to zero");
    // Also after it was taken once, when what it leads to was changed and then mended.
    for _ in 0..2 {
        world.ack("iris");
        assert_eq!((world.state("iris"), &*world.reason("iris")), (ModelState::Available, ""));
        world.reject("iris", "no such cluster");
        assert_eq!((world.state("iris"), &*world.reason("iris")), (ModelState::Failed, "no such cluster"));
    }
}

#[test]
fn no_replicas_wished_is_scaled_down() {
    let mut world = World::with_replicas(1);
    world.apply(definition("iris", 1)).expect("accepted");
    world.run();
    world.apply(definition("iris", 0)).expect("accepted");
    world.run();
    assert_eq!(world.state("iris"), ModelState::ScaledDown);
    assert!(world.route("iris").is_empty());
    world.apply(definition("iris", 1)).expect("accepted");
    world.run();
    assert_eq!(world.state("iris"), ModelState::Available);
}

#[test]
fn a_server_scaled_to_zero_gives_its_models_to_another_through_a_new_version() {
    let mut world = World::with_replicas(1);
    world.apply(definition("iris", 1)).expect("accepted");
    world.run();
    world.notify("onnx", 0);
    assert_eq!(world.assignments("iris"), ["1@onnx/0: Available"], "nowhere to go yet");
    world.connect("other/0");
    world.step("other/0", None);
    assert_eq!(world.route("iris"), ["1 50% onnx/0", "2 50% other/0"]);
    world.run();
    assert_eq!(world.assignments("iris"), ["2@other/0: Available"]);
}

#[test]
fn memory_that_a_failed_load_gives_back_feeds_a_waiting_model() {
    let mut world = World::new();
    let with_memory = |name: &str, memory| {
        let mut wish = definition(name, 1);
        wish.spec.memory = Some(Bytes(memory));
        wish
    };
    world.apply(with_memory("a", 33)).expect("accepted");
    world.connect("onnx/0");
    world.apply(with_memory("b", 58)).expect("accepted");
    world.apply(with_memory("c", 10)).expect("accepted");
    world.apply(with_memory("b", 10)).expect("accepted");
    world.step("onnx/0", None);
    world.step("onnx/0", Some("it broke"));
    world.run();
    assert_eq!(world.state("c"), ModelState::Available);
}

#[test]
fn draining_replicas_are_not_counted_in_a_servers_status() {
    let mut world = World::with_replicas(2);
    world.apply(definition("iris", 2)).expect("accepted");
    world.run();
    world.drain("onnx/1");
    let status = world.machine.server_status(&world::server_name("onnx")).expect("known");
    assert_eq!((status.available, status.replicas.len()), (1, 1));
    assert!(status.replicas.contains_key(&domain::ReplicaIndex(0)), "{status:?}");
}
