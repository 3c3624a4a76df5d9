//! Mistakes that the simulation found, each as the small history that it was shrunk to.

#[expect(dead_code, reason = "each test binary uses its part of the world")]
mod world;

use domain::ModelState;
use scheduler_core::{Status, TERMINATED_TTL_MS};
use world::{World, definition, model_name};

/// A wish for a replica of a server that was scaled to nothing asked its owner to scale it up again.
#[test]
fn a_server_that_is_to_have_no_replicas_is_not_asked_for_any() {
    let mut world = World::new();
    world.apply(definition("d", 1)).expect("accepted");
    world.connect("one/2");
    world.declare(&[("one", 0, 2, 3)], false);
    world.run();
    assert!(!world.statuses.iter().any(|status| matches!(status, Status::Scaling(_))));
}

/// A removed model that an agent brought back kept the time of its first end, and was listed for ever after a restart.
#[test]
fn a_removed_model_that_an_agent_brings_back_is_forgotten_a_day_after_its_second_end() {
    let mut world = World::new();
    world.connect("two/1");
    world.apply(definition("c", 1)).expect("accepted");
    world.run();
    world.agents.iter_mut().for_each(|(_, agent)| agent.inbox.clear());
    let held = world.agent("two/1").held.clone();
    world.remove("c").expect("known");
    world.run();
    assert_eq!(world.state("c"), ModelState::Terminated);
    // It comes back with what it had unloaded, and the scheduler dies before it has let go again.
    world.agent("two/1").held = held;
    world.disconnect("two/1");
    world.connect("two/1");
    assert_eq!(world.state("c"), ModelState::Terminating);
    world.restart();
    world.connect("two/1");
    world.run();
    assert_eq!(world.state("c"), ModelState::Terminated);
    world.pass(TERMINATED_TTL_MS);
    assert_eq!(world.machine.model_status(&model_name("c")), None);
}
