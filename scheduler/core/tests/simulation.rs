//! Random histories: declarations, agents that come, go, fail and repeat themselves, Envoys that acknowledge late or
//! refuse, restarts from the store at any point. The world checks the invariants after every event; here the history
//! is chosen, and at its end everything heals and must reach what was last wished.
//!
//! `SIMULATION_CASES=100000 cargo test --release -p scheduler-core --test simulation` runs it for longer.

#[expect(dead_code, reason = "each test binary uses its part of the world")]
mod world;

use std::collections::BTreeMap;

use domain::{Bytes, Lifecycle, ModelState};
use proptest::prelude::*;
use scheduler_core::{AGENT_GRACE_MS, DRAIN_LIMIT_MS, Outcome};
use world::{World, definition, server_name, version};

const MODELS: [&str; 4] = ["a", "b", "c", "d"];
const REPLICAS: [&str; 5] = ["one/0", "one/1", "one/2", "two/0", "two/1"];

#[derive(Clone, Debug)]
enum Step {
    Apply { model: usize, variant: u8, replicas: u32, memory: u64, pinned: bool },
    Remove { model: usize },
    Notify { second: bool, expected: u32 },
    Connect { replica: usize },
    Disconnect { replica: usize },
    Kill { replica: usize },
    Work { replica: usize, fails: bool },
    Stale { replica: usize, model: usize },
    Ack { model: usize },
    Release { model: usize },
    Reject { model: usize },
    Drain { replica: usize },
    Pass { milliseconds: u64 },
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let model = 0..MODELS.len();
    let replica = 0..REPLICAS.len();
    prop_oneof![
        6 => (model.clone(), 0..3u8, 0..4u32, 0..70u64, any::<bool>()).prop_map(
            |(model, variant, replicas, memory, pinned)| Step::Apply { model, variant, replicas, memory, pinned }
        ),
        2 => model.clone().prop_map(|model| Step::Remove { model }),
        1 => (any::<bool>(), 0..4u32).prop_map(|(second, expected)| Step::Notify { second, expected }),
        5 => replica.clone().prop_map(|replica| Step::Connect { replica }),
        2 => replica.clone().prop_map(|replica| Step::Disconnect { replica }),
        1 => replica.clone().prop_map(|replica| Step::Kill { replica }),
        12 => (replica.clone(), prop::bool::weighted(0.15)).prop_map(|(replica, fails)| Step::Work { replica, fails }),
        1 => (replica.clone(), model.clone()).prop_map(|(replica, model)| Step::Stale { replica, model }),
        6 => model.clone().prop_map(|model| Step::Ack { model }),
        6 => model.clone().prop_map(|model| Step::Release { model }),
        1 => model.prop_map(|model| Step::Reject { model }),
        1 => replica.prop_map(|replica| Step::Drain { replica }),
        2 => prop_oneof![Just(1), Just(1_000), Just(AGENT_GRACE_MS), Just(DRAIN_LIMIT_MS)]
            .prop_map(|milliseconds| Step::Pass { milliseconds }),
        1 => Just(Step::Restart),
    ]
}

struct History {
    world: World,
    wished: BTreeMap<&'static str, u32>,
}

impl History {
    fn new() -> Self {
        Self { world: World::new(), wished: BTreeMap::new() }
    }

    fn take(&mut self, step: &Step) {
        let world = &mut self.world;
        match *step {
            Step::Apply { model, variant, replicas, memory, pinned } => {
                let mut wish = definition(MODELS[model], replicas);
                wish.spec.uri = format!("/models/{variant}");
                wish.spec.memory = Some(Bytes(memory));
                wish.spec.server = pinned.then(|| server_name("two"));
                if world.apply(wish).is_ok() {
                    self.wished.insert(MODELS[model], replicas);
                }
            }
            Step::Remove { model } => {
                if world.remove(MODELS[model]).is_ok() {
                    self.wished.remove(MODELS[model]);
                }
            }
            Step::Notify { second, expected } => world.notify(if second { "two" } else { "one" }, expected),
            Step::Connect { replica } => {
                world.disconnect(REPLICAS[replica]);
                world.connect(REPLICAS[replica]);
            }
            Step::Disconnect { replica } => world.disconnect(REPLICAS[replica]),
            Step::Kill { replica } => world.kill(REPLICAS[replica]),
            Step::Work { replica, fails } => {
                world.step(REPLICAS[replica], fails.then_some("it broke"));
            }
            Step::Stale { replica, model } => {
                world.stale_report(REPLICAS[replica], version(MODELS[model], 1), Outcome::Loaded(None));
            }
            Step::Ack { model } => world.ack(MODELS[model]),
            Step::Release { model } => world.release(MODELS[model]),
            Step::Reject { model } => world.reject(MODELS[model], "refused"),
            Step::Drain { replica } => {
                world.drain(REPLICAS[replica]);
            }
            Step::Pass { milliseconds } => world.pass(milliseconds),
            Step::Restart => world.restart(),
        }
    }

    /// Everything comes back and works: what was wished last must be there, and nothing else.
    fn heal(&mut self) {
        let world = &mut self.world;
        for server in ["one", "two"] {
            world.notify(server, 3);
        }
        for replica in REPLICAS {
            world.agent(replica).config.memory = Bytes(1_000);
            world.disconnect(replica);
            world.connect(replica);
        }
        world.run();
        // A route that Envoy refused is accepted in its next generation; a failed replica is tried again on arrival.
        for model in MODELS.iter().filter(|model| self.wished.contains_key(*model)) {
            let mut wish = definition(model, self.wished[model].min(2));
            wish.spec.uri = "/models/final".into();
            world.apply(wish).expect("it is not being removed");
        }
        world.run();
        for replica in REPLICAS {
            world.disconnect(replica);
            world.connect(replica);
        }
        world.run();
        world.pass(DRAIN_LIMIT_MS);
        world.run();
        assert!(world.open_tickets().is_empty(), "I7: {:?} were never answered", world.open_tickets());
        for model in MODELS {
            let status = world.machine.model_status(&world::model_name(model));
            match self.wished.get(model) {
                Some(0) => assert_eq!(world.state(model), ModelState::ScaledDown),
                Some(_) => {
                    assert_eq!(world.state(model), ModelState::Available, "{model}: {status:#?}");
                    let model = world.machine.model(&world::model_name(model)).expect("known");
                    for version in model.versions.values().rev().skip(1) {
                        let left = version.assignments.values().find(|a| {
                            !matches!(
                                a.lifecycle,
                                Lifecycle::Unloaded | Lifecycle::UnloadFailed | Lifecycle::LoadFailed
                            )
                        });
                        assert!(left.is_none(), "an old version is left: {left:?}");
                    }
                }
                None => {
                    let ended = [ModelState::Terminated, ModelState::TerminateFailed];
                    assert!(status.is_none_or(|status| ended.contains(&status.state)), "{model} is not gone");
                }
            }
        }
    }
}

fn cases() -> u32 {
    std::env::var("SIMULATION_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(600)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_history_keeps_the_invariants_and_heals(steps in prop::collection::vec(step(), 1..120)) {
        let mut history = History::new();
        for step in &steps {
            history.take(step);
        }
        history.heal();
    }
}
