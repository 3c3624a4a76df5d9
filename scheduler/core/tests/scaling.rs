//! The laws of server autoscaling and of the start.

#[expect(dead_code, reason = "each test binary uses its part of the world")]
mod world;

use domain::{ModelState, ReplicaIndex, ServerBounds};
use scheduler_core::{Event, Kept, Machine, ScalingRequest, Settings, Status};
use world::{World, definition, server_name};

const FIRST_SYNC_MS: u64 = 300_000;

fn declare(world: &mut World, server: &str, expected: u32, min: u32, max: u32) {
    let bounds = ServerBounds { expected, min, max, kubernetes: None };
    let ticket = world.ticket();
    let servers = vec![(server_name(server), bounds, true)];
    world.handle(Event::NotifyServers { servers, first_sync: false, ticket });
}

/// The wishes that were told since the last call.
fn wishes(world: &mut World) -> Vec<(String, u32)> {
    let wishes = std::mem::take(&mut world.statuses).into_iter().filter_map(|status| match status {
        Status::Scaling(ScalingRequest { server, replicas, .. }) => Some((server.to_string(), replicas)),
        _ => None,
    });
    wishes.collect()
}

fn with(settings: Settings) -> World {
    let mut world = World::new();
    world.machine = Machine::new(settings);
    world
}

#[test]
fn a_model_that_wants_more_replicas_than_there_are_to_be_asks_for_them_within_the_maximum() {
    for (expected, max, wish) in [(1, 4, Some(3)), (1, 2, Some(2)), (3, 4, None), (1, 0, None), (1, u32::MAX, Some(3))]
    {
        let mut world = World::new();
        declare(&mut world, "onnx", expected, 0, max);
        world.connect("onnx/0");
        world.apply(definition("iris", 3)).expect("accepted");
        let wanted: Vec<_> = wish.map(|replicas| ("onnx".to_owned(), replicas)).into_iter().collect();
        assert_eq!(wishes(&mut world), wanted, "expected {expected}, maximum {max}");
        world.run();
        assert_eq!(wishes(&mut world), [], "it is told once");
        let stands = world.machine.scaling_request(&server_name("onnx")).map(|request| request.replicas);
        assert_eq!(stands, wish);
    }
}

#[test]
fn a_wish_that_the_owner_has_not_met_is_told_again_after_his_next_word() {
    let mut world = World::new();
    declare(&mut world, "onnx", 1, 0, 4);
    world.connect("onnx/0");
    world.apply(definition("iris", 3)).expect("accepted");
    assert_eq!(wishes(&mut world), [("onnx".to_owned(), 3)]);
    declare(&mut world, "onnx", 1, 0, 4);
    assert_eq!(wishes(&mut world), [("onnx".to_owned(), 3)]);
    declare(&mut world, "onnx", 3, 0, 4);
    assert_eq!(wishes(&mut world), []);
    for index in 1..3 {
        world.connect(&format!("onnx/{index}"));
    }
    world.run();
    assert_eq!(world.state("iris"), ModelState::Available);
    assert_eq!(wishes(&mut world), []);
}

#[test]
fn empty_replicas_are_given_back_after_an_unload_down_to_the_minimum() {
    for (expected, min, wish) in [(3, 1, Some(1)), (3, 2, Some(2)), (3, 0, Some(1)), (1, 1, None), (2, 2, None)] {
        let mut world = World::new();
        declare(&mut world, "onnx", expected, min, 4);
        for index in 0..3 {
            world.connect(&format!("onnx/{index}"));
        }
        world.apply(definition("stays", 1)).expect("accepted");
        world.apply(definition("goes", 2)).expect("accepted");
        world.run();
        assert_eq!(wishes(&mut world), [], "nothing was unloaded yet");
        world.remove("goes").expect("known");
        world.run();
        let last = wishes(&mut world).last().map(|(_, replicas)| *replicas);
        assert_eq!(last, wish, "expected {expected}, minimum {min}");
    }
}

#[test]
fn more_empty_replicas_than_there_are_to_be_never_make_a_huge_number() {
    let mut world = World::new();
    declare(&mut world, "onnx", 2, 0, 10);
    for index in 0..9 {
        world.connect(&format!("onnx/{index}"));
    }
    world.apply(definition("goes", 9)).expect("accepted");
    world.run();
    wishes(&mut world);
    world.remove("goes").expect("known");
    world.run();
    assert_eq!(wishes(&mut world), [("onnx".to_owned(), 1)]);
}

#[test]
fn without_packing_nothing_is_asked_while_no_replica_is_empty_and_with_it_models_move_together() {
    for (packing, wish) in [(0, None), (1_000, Some(1))] {
        let mut world = with(Settings { packing, ..Settings::default() });
        declare(&mut world, "onnx", 2, 0, 4);
        for index in 0..2 {
            world.connect(&format!("onnx/{index}"));
        }
        for name in ["a", "b", "goes"] {
            world.apply(definition(name, 1)).expect("accepted");
        }
        world.run();
        world.remove("goes").expect("known");
        world.run();
        assert_eq!(wishes(&mut world).last().map(|(_, replicas)| *replicas), wish, "packing {packing}");
    }
}

#[test]
fn packing_happens_in_its_share_of_the_cases() {
    let mut world = with(Settings { packing: 250, ..Settings::default() });
    for index in 0..2 {
        world.connect(&format!("onnx/{index}"));
    }
    for name in ["a", "b"] {
        world.apply(definition(name, 1)).expect("accepted");
    }
    world.run();
    let mut packed = 0;
    for _ in 0..20 {
        declare(&mut world, "onnx", 2, 0, 4);
        world.apply(definition("goes", 1)).expect("accepted");
        world.run();
        world.remove("goes").expect("known");
        world.run();
        packed += wishes(&mut world).len();
    }
    assert_eq!(packed, 5);
}

#[test]
fn nothing_is_asked_when_autoscaling_is_off() {
    let mut world = with(Settings { server_autoscaling: false, ..Settings::default() });
    declare(&mut world, "onnx", 1, 0, 4);
    world.connect("onnx/0");
    world.apply(definition("iris", 3)).expect("accepted");
    world.run();
    assert_eq!(wishes(&mut world), []);
}

fn waiting() -> World {
    let mut world = World::new();
    let settings = Settings { first_sync_ms: Some(FIRST_SYNC_MS), ..Settings::default() };
    (world.machine, _) = Machine::restore(settings, Kept::default(), world.now);
    world
}

fn first_word(world: &mut World, servers: &[(&str, u32)]) {
    let bounds = |expected| ServerBounds { expected, min: 0, max: 0, kubernetes: None };
    let servers = servers.iter().map(|(name, expected)| (server_name(name), bounds(*expected), true)).collect();
    let ticket = world.ticket();
    world.handle(Event::NotifyServers { servers, first_sync: true, ticket });
}

#[test]
fn placement_waits_for_the_first_word_and_for_as_many_agents_as_it_names() {
    let mut world = waiting();
    world.connect("one/0");
    world.apply(definition("iris", 1)).expect("accepted");
    assert_eq!((world.state("iris"), world.commands.len()), (ModelState::Progressing, 0));
    assert_eq!(world.reason("iris"), "waiting for the first word about servers");
    first_word(&mut world, &[("one", 2), ("two", 1)]);
    // The same agent once more is not a second one.
    world.disconnect("one/0");
    world.connect("one/0");
    world.connect("one/1");
    assert!(!world.machine.is_synchronised() && world.commands.is_empty());
    assert_eq!(world.statuses.iter().filter(|status| **status == Status::Synchronised).count(), 0);
    world.connect("two/0");
    assert!(world.machine.is_synchronised());
    assert_eq!(world.statuses.iter().filter(|status| **status == Status::Synchronised).count(), 1);
    world.run();
    assert_eq!(world.state("iris"), ModelState::Available);
}

#[test]
fn placement_waits_no_longer_than_its_limit_and_not_at_all_for_nobody() {
    let mut world = waiting();
    world.connect("one/0");
    world.apply(definition("iris", 1)).expect("accepted");
    world.handle(Event::Timer(scheduler_core::Timer::FirstSync));
    assert!(world.machine.is_synchronised());
    world.run();
    assert_eq!(world.state("iris"), ModelState::Available);

    for servers in [&[] as &[(&str, u32)], &[("one", 0)]] {
        let mut world = waiting();
        first_word(&mut world, servers);
        assert!(world.machine.is_synchronised(), "{servers:?}");
    }
}

#[test]
fn a_filled_store_waits_for_nobody() {
    let mut world = World::with_replicas(1);
    world.apply(definition("iris", 1)).expect("accepted");
    world.run();
    let server = world.machine.server(&server_name("onnx")).expect("known").clone();
    assert!(server.replicas.contains_key(&ReplicaIndex(0)));
    let kept = Kept { servers: vec![server], ..Kept::default() };
    let settings = Settings { first_sync_ms: Some(FIRST_SYNC_MS), ..Settings::default() };
    let (machine, _) = Machine::restore(settings, kept, world.now);
    assert!(machine.is_synchronised());
}
