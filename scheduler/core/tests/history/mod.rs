//! Random histories: what is chosen at random, how a history runs, and how one that fails is made small.
//!
//! Everything follows from the seed. A history ends with everything healed, and then what was last wished must be there.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use domain::{Bytes, Explainer, Lifecycle, ModelState};
use scheduler_core::{DRAIN_LIMIT_MS, Event, Outcome, Settings, TERMINATED_TTL_MS};

use crate::world::{Bug, Saboteur, World, definition, model_name, server_name, version};

const MODELS: [&str; 4] = ["a", "b", "c", "d"];
const REPLICAS: [&str; 6] = ["one/0", "one/1", "one/2", "two/0", "two/1", "own/0"];
const EXPERIMENTS: [&str; 2] = ["e", "f"];
const NAMES: [&str; 6] = ["a", "b", "c", "d", "e.experiment", "f.experiment"];

/// Steps of one history, at most.
const LONGEST: u64 = 120;

#[derive(Clone, Copy, Debug)]
pub enum Step {
    Apply { model: usize, variant: u8, replicas: u32, min: u32, memory: u64, place: u8 },
    Remove { model: usize },
    Start { experiment: usize, default: usize, others: u8, mirror: usize, weight: u32 },
    Stop { experiment: usize },
    Declare { server: usize, expected: u32, min: u32, max: u32 },
    FirstWord { expected: u32 },
    Connect { replica: usize },
    Disconnect { replica: usize },
    Kill { replica: usize },
    Work { replica: usize, fails: bool },
    Overtake { replica: usize },
    Swallow { replica: usize },
    Repeat { replica: usize },
    Stale { replica: usize, model: usize },
    Ack { name: usize },
    AckLate { name: usize },
    Release { name: usize },
    Reject { name: usize },
    Drain { replica: usize },
    Pass { milliseconds: u64 },
    Restart,
    Crash { model: usize, replicas: u32, after_commit: bool },
}

/// Small, fast, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn index(&mut self, end: usize) -> usize {
        usize::try_from(self.below(end as u64)).expect("below a usize")
    }

    fn small(&mut self, end: u32) -> u32 {
        u32::try_from(self.below(u64::from(end))).expect("below a u32")
    }

    fn step(&mut self) -> Step {
        let (model, replica, name) = (self.index(MODELS.len()), self.index(REPLICAS.len()), self.index(NAMES.len()));
        match self.below(64) {
            0..8 => Step::Apply {
                model,
                variant: u8::try_from(self.below(3)).expect("small"),
                replicas: self.small(4),
                min: self.small(3),
                memory: self.below(70),
                place: u8::try_from(self.below(8)).expect("small"),
            },
            8..10 => Step::Remove { model },
            10..13 => Step::Start {
                experiment: self.index(EXPERIMENTS.len()),
                default: self.index(MODELS.len() + 2),
                others: u8::try_from(self.below(16)).expect("small"),
                mirror: self.index(MODELS.len() + 2),
                weight: self.small(3),
            },
            13 => Step::Stop { experiment: self.index(EXPERIMENTS.len()) },
            14 | 15 => {
                let (expected, min, max) = (self.small(4), self.small(3), self.small(6));
                Step::Declare { server: self.index(2), expected, min: min.min(max), max }
            }
            16 => Step::FirstWord { expected: self.small(5) },
            17..22 => Step::Connect { replica },
            22 | 23 => Step::Disconnect { replica },
            24 => Step::Kill { replica },
            25..37 => Step::Work { replica, fails: self.below(7) == 0 },
            37 | 38 => Step::Overtake { replica },
            39 => Step::Swallow { replica },
            40 | 41 => Step::Repeat { replica },
            42 => Step::Stale { replica, model },
            43..50 => Step::Ack { name },
            50 => Step::AckLate { name },
            51..57 => Step::Release { name },
            57 => Step::Reject { name },
            58 => Step::Drain { replica },
            59 | 60 => {
                let lengths = [1, 1_000, 10_000, DRAIN_LIMIT_MS];
                Step::Pass { milliseconds: lengths[self.index(lengths.len())] }
            }
            61 => Step::Restart,
            _ => Step::Crash { model, replicas: self.small(4), after_commit: self.below(2) == 0 },
        }
    }
}

/// The steps of a seed.
pub fn steps(seed: u64) -> Vec<Step> {
    let mut random = Random(seed);
    let count = 1 + random.below(LONGEST);
    (0..count).map(|_| random.step()).collect()
}

struct History {
    world: World,
    wished: BTreeMap<&'static str, u32>,
    running: BTreeMap<&'static str, Vec<&'static str>>,
}

impl History {
    fn new(seed: u64, bug: Option<Bug>) -> Self {
        let mut random = Random(!seed);
        let settings = Settings {
            agent_grace_ms: [0, 10_000][random.index(2)],
            server_autoscaling: random.below(8) > 0,
            packing: [0, 0, 300, 1_000][random.index(4)],
            first_sync_ms: (random.below(4) == 0).then_some(300_000),
            ..Settings::default()
        };
        let saboteur = bug.map(Saboteur::with).unwrap_or_default();
        let mut world = World::waiting(settings, saboteur);
        for replica in REPLICAS {
            let is_own = replica == "own/0";
            let agent = world.agent(replica);
            agent.shared = !is_own;
            agent.echoes_fences = replica != "two/1" || bug.is_some();
            if is_own {
                agent.config.capabilities.insert("alibi-explain".to_owned());
            }
        }
        Self { world, wished: BTreeMap::new(), running: BTreeMap::new() }
    }

    fn take(&mut self, step: Step) {
        let world = &mut self.world;
        match step {
            Step::Apply { model, variant, replicas, min, memory, place } => {
                let mut wish = definition(MODELS[model], replicas);
                wish.spec.uri = format!("/models/{variant}");
                wish.spec.memory = Some(Bytes(memory));
                wish.deployment.min_replicas = min.min(replicas);
                match place {
                    0 | 1 => wish.spec.server = Some(server_name("two")),
                    2 => wish.spec.server = Some(server_name("own")),
                    3 => {
                        let explainer = Explainer { kind: "anchor".into(), model: Some("a".into()), pipeline: None };
                        wish.spec.explainer = Some(Box::new(explainer));
                    }
                    4 => wish.spec.requirements = vec![" onnx ".into(), "telepathy".into()],
                    _ => {}
                }
                if world.apply(wish).is_ok() {
                    self.wished.insert(MODELS[model], replicas);
                }
            }
            Step::Remove { model } => {
                if world.remove(MODELS[model]).is_ok() {
                    self.wished.remove(MODELS[model]);
                }
            }
            Step::Start { experiment, default, others, mirror, weight } => {
                let chosen = |index: usize| others & (1 << index) != 0 || index == default;
                let candidates: Vec<(&str, u32)> =
                    (0..MODELS.len()).filter(|index| chosen(*index)).map(|index| (MODELS[index], weight)).collect();
                let default = MODELS.get(default).copied();
                let mirror = MODELS.get(mirror).map(|name| (*name, 50));
                let models = candidates.iter().map(|(name, _)| *name).chain(mirror.map(|(name, _)| name)).collect();
                if world.start(EXPERIMENTS[experiment], default, &candidates, mirror).is_ok() {
                    self.running.insert(EXPERIMENTS[experiment], models);
                }
            }
            Step::Stop { experiment } => {
                if world.stop(EXPERIMENTS[experiment]).is_ok() {
                    self.running.remove(EXPERIMENTS[experiment]);
                }
            }
            Step::Declare { server, expected, min, max } => {
                world.declare(&[(["one", "two"][server], expected, min, max)], false);
            }
            Step::FirstWord { expected } => world.declare(&[("one", expected, 0, 4), ("two", 1, 0, 0)], true),
            Step::Connect { replica } => {
                world.disconnect(REPLICAS[replica]);
                world.connect(REPLICAS[replica]);
            }
            Step::Disconnect { replica } => world.disconnect(REPLICAS[replica]),
            Step::Kill { replica } => world.kill(REPLICAS[replica]),
            Step::Work { replica, fails } => {
                world.step(REPLICAS[replica], fails.then_some("it broke"));
            }
            Step::Overtake { replica } => world.overtake(REPLICAS[replica]),
            Step::Swallow { replica } => world.swallow(REPLICAS[replica]),
            Step::Repeat { replica } => world.repeat(REPLICAS[replica]),
            Step::Stale { replica, model } => {
                world.stale_report(REPLICAS[replica], version(MODELS[model], 1), Outcome::Loaded(None));
            }
            Step::Ack { name } => world.ack(NAMES[name]),
            Step::AckLate { name } => world.ack_late(NAMES[name]),
            Step::Release { name } => world.release(NAMES[name]),
            Step::Reject { name } => world.reject(NAMES[name], "refused"),
            Step::Drain { replica } => {
                world.drain(REPLICAS[replica]);
            }
            Step::Pass { milliseconds } => world.pass(milliseconds),
            Step::Restart => world.restart(),
            Step::Crash { model, replicas, after_commit } => {
                let mut wish = definition(MODELS[model], replicas);
                wish.spec.uri = "/models/crash".into();
                let was =
                    world.machine.model(&model_name(MODELS[model])).is_some_and(|m| m.deleted && m.remaining() > 0);
                let ticket = world.ticket();
                world.crash_at(Event::ApplyModel { definition: Box::new(wish), ticket }, after_commit);
                if after_commit && !was {
                    self.wished.insert(MODELS[model], replicas);
                }
            }
        }
    }

    /// Everything comes back and works: what was wished last must be there, and nothing else.
    fn heal(&mut self) {
        let world = &mut self.world;
        world.declare(&[("one", 3, 0, 0), ("two", 2, 0, 0), ("own", 1, 0, 0)], true);
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
            world.apply(wish).expect("heal: a model that is not being removed is accepted");
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
            let status = world.machine.model_status(&model_name(model));
            match self.wished.get(model) {
                Some(0) => assert_eq!(world.state(model), ModelState::ScaledDown, "heal: {model}"),
                Some(_) => {
                    let state = status.as_ref().map(|status| status.state);
                    assert_eq!(state, Some(ModelState::Available), "heal: {model}: {status:#?}");
                    let model = world.machine.model(&model_name(model)).expect("known");
                    for version in model.versions.values().rev().skip(1) {
                        let left = version.count(|lifecycle: Lifecycle| !lifecycle.is_over());
                        assert_eq!(left, 0, "heal: an old version is left: {version:?}");
                    }
                }
                None => {
                    let ended = [ModelState::Terminated, ModelState::TerminateFailed];
                    assert!(status.is_none_or(|status| ended.contains(&status.state)), "heal: {model} is not gone");
                }
            }
        }
        for (name, models) in &self.running {
            let serves = |model: &&str| self.wished.get(*model).is_some_and(|replicas| *replicas > 0);
            if models.iter().all(serves) {
                let status = world.experiment(name);
                let routed = !world.split(&format!("{name}.experiment")).is_empty();
                assert_eq!(status.active, routed, "heal: {status:?}");
            }
        }
        world.pass(TERMINATED_TTL_MS);
        for model in MODELS.iter().filter(|model| !self.wished.contains_key(*model)) {
            let is_listed =
                world.machine.model_status(&model_name(model)).is_some_and(|s| s.state == ModelState::Terminated);
            assert!(!is_listed, "heal: {model} is still listed");
        }
    }
}

/// Runs a history; what went wrong, or the number of events.
pub fn run(seed: u64, steps: &[Step], bug: Option<Bug>) -> Result<u64, String> {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let mut history = History::new(seed, bug);
        for step in steps {
            history.take(*step);
        }
        history.heal();
        history.world.events
    }));
    outcome.map_err(|payload| {
        let text = payload.downcast_ref::<String>().cloned();
        text.or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
    })
}

/// Runs the history of a seed; what went wrong, or the number of events.
pub fn try_seed(seed: u64, bug: Option<Bug>) -> Result<u64, String> {
    run(seed, &steps(seed), bug)
}
