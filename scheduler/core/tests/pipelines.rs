//! Pipelines and the workers that run them: versions, states, shards, routes.

#[expect(dead_code, reason = "each test binary uses its part of the world")]
mod world;

use std::collections::BTreeSet;

use domain::{
    Combination, ModelState, Pipeline, PipelineInput, PipelineOutput, PipelineState, PipelineVersionStatus, Reference,
    Role, Step, TensorMap,
};
use proptest::prelude::*;
use scheduler_core::{Event, Refusal, Status, VERSION_FINISH_MS};
use world::{World, definition, model_name, pipeline_name};

/// A chain of the models.
fn chain(name: &str, models: &[&str]) -> Pipeline {
    let own = pipeline_name(name);
    let combination = |text: Option<&str>| Combination {
        sources: text.map(|text| Reference::inside(text, &own).expect("a reference")).into_iter().collect(),
        ..Combination::default()
    };
    let step = |(index, model): (usize, &&str)| {
        Step::new(model_name(model), combination(index.checked_sub(1).map(|before| models[before])))
    };
    let output = PipelineOutput { steps: combination(models.last().copied()), tensor_map: TensorMap::new() };
    let steps = models.iter().enumerate().map(step).collect();
    Pipeline { output: Some(output), ..Pipeline::new(own.clone(), steps) }
}

fn generation(pipeline: Pipeline, generation: i64) -> Pipeline {
    let kubernetes = Some(domain::KubernetesMeta { namespace: "ml".into(), generation });
    Pipeline { kubernetes, ..pipeline }
}

trait Pipelines {
    fn load(&mut self, pipeline: Pipeline) -> Result<(), Refusal>;
    fn unload(&mut self, name: &str) -> Result<(), Refusal>;
    fn of(&self, name: &str) -> PipelineVersionStatus;
    fn states(&self, name: &str) -> (PipelineState, PipelineState);
    fn settle_all(&mut self);
}

impl Pipelines for World {
    fn load(&mut self, pipeline: Pipeline) -> Result<(), Refusal> {
        let ticket = self.ticket();
        self.handle(Event::ApplyPipeline { definition: Box::new(pipeline), uid: None, ticket });
        self.replies.get(&ticket).cloned().expect("I7: there is no answer")
    }

    fn unload(&mut self, name: &str) -> Result<(), Refusal> {
        let ticket = self.ticket();
        self.handle(Event::RemovePipeline { name: pipeline_name(name), ticket });
        self.replies.get(&ticket).cloned().expect("I7: there is no answer")
    }

    fn of(&self, name: &str) -> PipelineVersionStatus {
        self.machine.pipeline_status(&pipeline_name(name)).expect("a known pipeline")
    }

    fn states(&self, name: &str) -> (PipelineState, PipelineState) {
        let status = self.of(name);
        (status.state, status.gateway_state)
    }

    /// Workers and Envoys do what they are told until nothing is left.
    fn settle_all(&mut self) {
        for _ in 0..4 {
            self.work_all();
            self.run();
        }
    }
}

/// One engine, one model gateway and one pipeline gateway, all at work.
fn staffed() -> World {
    let mut world = World::with_replicas(1);
    ["engine/a", "model/a", "gateway/a"].iter().for_each(|name| world.join(name));
    world.settle_all();
    world
}

proptest! {
    /// Whatever declarations, workers and restarts do to each other: the invariants hold, the store follows, no shard has
    /// two owners that both think so by right, and in the end everything that is wanted is ready.
    #[test]
    fn any_history_ends_well(steps in prop::collection::vec((0u8..9, 0usize..4), 0..60)) {
        let mut world = World::with_replicas(1);
        let workers = ["engine/a", "engine/b", "model/a", "gateway/a"];
        for (step, which) in steps {
            let name = ["p", "q", "p", "q"][which];
            match step {
                0 => drop(world.load(chain(name, &["m"]))),
                1 => drop(world.load(chain(name, &["m", "n"]))),
                2 => drop(world.unload(name)),
                3 => world.join(workers[which]),
                4 => world.part(workers[which], which % 2 == 0),
                5 => drop(world.work(workers[which], &[])),
                6 => drop(world.work(workers[which], &[name])),
                7 => world.restart(),
                _ => world.pass(1_500),
            }
        }
        workers.iter().for_each(|name| world.join(name));
        world.settle_all();
        // What was refused on the way is asked for again.
        world.pass(60_000);
        world.settle_all();
        for pipeline in world.machine.pipelines() {
            let status = world.machine.pipeline_status(&pipeline.name).expect("known");
            let states = (status.state, status.gateway_state);
            let wanted = if pipeline.removed { (PipelineState::Terminated, PipelineState::Terminated) } else { READY };
            prop_assert_eq!(states, wanted, "{:?}", status);
        }
        for role in [Role::Engine, Role::ModelGateway] {
            let mut owned: Vec<u32> = world.owned(role).into_values().flatten().collect();
            owned.sort_unstable();
            prop_assert_eq!(owned, (0..8).collect::<Vec<u32>>());
        }
    }
}

const READY: (PipelineState, PipelineState) = (PipelineState::Ready, PipelineState::Ready);

#[test]
fn a_pipeline_waits_for_workers_and_says_for_which() {
    let mut world = World::with_replicas(1);
    world.load(chain("p", &["m"])).expect("accepted");
    let status = world.of("p");
    assert_eq!((status.number, status.state, status.gateway_state), (1, PipelineState::Create, PipelineState::Create));
    assert_eq!(status.reason, "no dataflow engine is connected");
    assert_eq!(status.gateway_reason, "no pipeline gateway is connected");
    world.join("engine/a");
    assert_eq!(world.states("p").0, PipelineState::Creating, "it has not said that it has it");
    world.settle_all();
    assert_eq!(world.states("p"), (PipelineState::Ready, PipelineState::Create));
    assert_eq!(world.split("p.pipeline"), [""; 0], "nobody takes requests");
    world.join("gateway/a");
    assert_eq!(world.states("p").1, PipelineState::Creating);
    world.settle_all();
    assert_eq!(world.states("p"), READY);
    assert_eq!(world.split("p.pipeline"), ["p 100"]);
    assert_eq!(world.gateways.len(), 1);
}

#[test]
fn the_same_generation_is_no_new_version_and_a_higher_one_is() {
    let mut world = staffed();
    world.load(generation(chain("p", &["m"]), 1)).expect("accepted");
    let first = world.of("p");
    assert_eq!(first.uid.len(), 20);
    world.load(generation(chain("p", &["m"]), 1)).expect("accepted");
    assert_eq!(world.of("p").number, 1);
    let clean = Pipeline { clean_topics_on_delete: Some(true), ..generation(chain("p", &["m"]), 1) };
    world.load(clean).expect("accepted");
    assert_eq!((world.of("p").number, world.of("p").definition.clean_topics_on_delete), (1, Some(true)));
    world.load(generation(chain("p", &["m", "n"]), 2)).expect("accepted");
    assert_eq!(world.of("p").number, 2);
    assert_ne!(world.of("p").uid, first.uid);
    world.load(chain("p", &["m", "n"])).expect("accepted");
    assert_eq!(world.of("p").number, 3, "without a generation every declaration is a version");
}

#[test]
fn what_cannot_be_is_refused_with_every_offender() {
    let mut world = staffed();
    let mut bad = chain("p", &["a", "a"]);
    bad.partition_factor = Some(0);
    let Err(Refusal::BadPipeline(text)) = world.load(bad) else { panic!("it was accepted") };
    assert!(text.contains("steps: a is there more than once") && text.contains("partitionFactor: 0"), "{text}");
    assert!(world.machine.pipeline(&pipeline_name("p")).is_none());
}

/// One model, fed by other pipelines.
fn fed(name: &str, sources: &[&str]) -> Pipeline {
    let sources = sources.iter().map(|text| Reference::outside(text).expect("a reference")).collect();
    let inputs = Combination { sources, ..Combination::default() };
    let input = PipelineInput { inputs, triggers: Combination::default(), tensor_map: TensorMap::new() };
    Pipeline { input: Some(input), ..chain(name, &["m"]) }
}

#[test]
fn pipelines_do_not_feed_each_other_in_a_ring() {
    let mut world = staffed();
    world.load(fed("a", &["c.step.m"])).expect("nobody knows c");
    world.load(fed("b", &["a"])).expect("accepted");
    let Err(Refusal::BadPipeline(text)) = world.load(fed("c", &["x", "b.outputs.T"])) else {
        panic!("it was accepted")
    };
    assert!(text.contains("input: c → a → b → c: what these pipelines answer would go round for ever"), "{text}");
    world.load(fed("c", &["x"])).expect("accepted");
    let Err(Refusal::BadPipeline(text)) = world.load(fed("c", &["c"])) else { panic!("it was accepted") };
    assert!(!text.contains("go round"), "it is told once: {text}");
    // What is gone leads nowhere.
    world.unload("b").expect("accepted");
    world.load(fed("c", &["b"])).expect("accepted");
}

#[test]
fn a_pipeline_says_what_is_not_there_to_feed_it() {
    let mut world = staffed();
    world.load(fed("q", &["p", "p.step.n"])).expect("accepted");
    world.settle_all();
    assert_eq!(
        (world.of("q").state, world.of("q").reason.as_str()),
        (PipelineState::Ready, "there is no pipeline p to feed it")
    );
    let told = |world: &World| {
        let of_q = |status: &Status| match status {
            Status::Pipeline(status) if status.name.as_str() == "q" => Some(status.reason.clone()),
            _ => None,
        };
        world.statuses.iter().rev().find_map(of_q).expect("it was told")
    };
    assert!(told(&world).contains("pipeline p"));
    world.load(chain("p", &["m"])).expect("accepted");
    assert_eq!(told(&world), "there is no step n of pipeline p to feed it");
    world.load(chain("p", &["m", "n"])).expect("accepted");
    assert_eq!(told(&world), "model m is not available");
    world.unload("p").expect("accepted");
    assert!(told(&world).contains("pipeline p"));
}

#[test]
fn a_new_version_takes_entries_when_every_engine_and_model_gateway_has_it() {
    let mut world = staffed();
    world.join("engine/b");
    world.settle_all();
    world.load(chain("p", &["m"])).expect("accepted");
    world.settle_all();
    world.load(chain("p", &["m", "n"])).expect("accepted");
    let active = |world: &World| {
        let pipeline = world.machine.pipeline(&pipeline_name("p")).expect("known");
        pipeline.active().map(|(number, _)| number)
    };
    world.work("engine/a", &[]);
    assert_eq!(world.of("p").reason, "1/2 dataflow engines ready");
    world.work("engine/b", &[]);
    assert_eq!(active(&world), Some(1), "a model gateway does not know it yet");
    world.work("model/a", &[]);
    assert_eq!(active(&world), Some(2));
    assert_eq!(world.split("p.pipeline"), ["p 100"], "the route stays as it is");
    let gateway = &world.workers.get("gateway/a").pipelines["p"];
    assert_eq!(
        gateway.versions.iter().map(|version| version.active).collect::<Vec<_>>(),
        [true],
        "it was not told yet"
    );
    world.settle_all();
    let told: Vec<(u32, bool)> =
        world.workers.get("engine/b").pipelines["p"].versions.iter().map(|v| (v.number, v.active)).collect();
    assert_eq!(told, [(1, false), (2, true)], "the older one finishes what it has");
    world.pass(VERSION_FINISH_MS);
    world.settle_all();
    assert_eq!(world.workers.get("engine/b").pipelines["p"].versions.len(), 1);
    assert_eq!(world.states("p"), READY);
}

#[test]
fn a_version_that_never_took_entries_gives_way_to_the_next() {
    let mut world = staffed();
    world.load(chain("p", &["m"])).expect("accepted");
    world.settle_all();
    world.load(chain("p", &["n"])).expect("accepted");
    world.work("engine/a", &["p"]);
    assert_eq!(world.of("p").state, PipelineState::Failed);
    assert_eq!(world.of("p").reason, "its topic has 4 partitions");
    world.settle_all();
    let versions: Vec<u32> =
        world.machine.pipeline(&pipeline_name("p")).expect("known").versions.keys().copied().collect();
    assert_eq!(versions, [1, 2], "the one that serves goes on");
    world.load(chain("p", &["m", "n"])).expect("accepted");
    world.settle_all();
    let pipeline = world.machine.pipeline(&pipeline_name("p")).expect("known");
    assert_eq!(pipeline.versions.keys().copied().collect::<Vec<_>>(), [1, 3]);
    assert_eq!(pipeline.active().map(|(number, _)| number), Some(3));
}

#[test]
fn what_everybody_refused_is_tried_again_and_one_who_takes_it_is_enough() {
    let mut world = staffed();
    world.join("engine/b");
    world.settle_all();
    world.load(chain("p", &["m"])).expect("accepted");
    world.work("engine/a", &["p"]);
    world.work("engine/b", &["p"]);
    assert_eq!(world.of("p").state, PipelineState::Failed);
    world.pass(59_000);
    assert!(!world.work("engine/a", &["p"]), "it is not asked again yet");
    world.pass(2_000);
    assert_eq!(world.of("p").state, PipelineState::Creating);
    for name in ["engine/a", "engine/b", "model/a", "engine/a", "engine/b", "gateway/a"] {
        world.work(name, if name == "engine/a" { &["p"] } else { &[] });
    }
    world.run();
    assert_eq!(world.states("p"), READY);
    assert_eq!(world.of("p").reason, "1/2 dataflow engines ready: its topic has 4 partitions");
}

#[test]
fn retries_end() {
    let mut world = staffed();
    world.load(chain("p", &["m"])).expect("accepted");
    let mut tries = 0;
    while world.work("engine/a", &["p"]) {
        tries += 1;
        world.pass(60_000);
    }
    assert_eq!((tries, world.of("p").state), (11, PipelineState::Failed));
}

#[test]
fn a_removed_pipeline_is_gone_when_every_worker_has_let_go() {
    let mut world = staffed();
    world.load(chain("p", &["m"])).expect("accepted");
    world.settle_all();
    world.unload("p").expect("accepted");
    assert_eq!(world.states("p"), (PipelineState::Terminating, PipelineState::Terminating));
    assert_eq!(world.split("p.pipeline"), [""; 0], "no request comes in any more");
    let again = world.unload("p");
    assert_eq!(again, Err(Refusal::PipelineStillTerminating(pipeline_name("p"))));
    assert!(matches!(world.load(chain("p", &["m"])), Err(Refusal::PipelineStillTerminating(_))));
    world.settle_all();
    assert_eq!(world.states("p"), (PipelineState::Terminated, PipelineState::Terminated));
    assert_eq!(world.unload("p"), Err(Refusal::UnknownPipeline(pipeline_name("p"))));
    world.restart();
    assert_eq!(world.states("p"), (PipelineState::Terminated, PipelineState::Terminated), "it stays listed");
    world.load(chain("p", &["m"])).expect("it begins anew");
    assert_eq!(world.of("p").number, 1);
    world.unload("p").expect("accepted");
    assert_eq!(world.states("p").0, PipelineState::Terminated, "nobody is connected");
    world.pass(24 * 60 * 60 * 1000);
    assert!(world.machine.pipeline(&pipeline_name("p")).is_none());
}

#[test]
fn topics_go_with_the_pipeline_only_when_that_was_asked_for() {
    let mut world = staffed();
    world.load(Pipeline { clean_topics_on_delete: Some(true), ..chain("p", &["m"]) }).expect("accepted");
    world.load(chain("q", &["m"])).expect("accepted");
    world.settle_all();
    world.part("engine/a", true);
    world.unload("p").expect("accepted");
    world.unload("q").expect("accepted");
    world.join("engine/a");
    let orders = format!("{:?}", world.workers.get("engine/a").inbox);
    assert!(orders.contains("clean_topics: true"), "who was away is told, too: {orders}");
    assert_eq!(orders.matches("clean_topics: true").count(), 1);
}

#[test]
fn after_a_restart_what_was_ready_is_routed_at_once_and_ready_again_when_workers_are_back() {
    let mut world = staffed();
    let cyclic = Pipeline { allow_cycles: true, max_step_revisits: 3, ..chain("p", &["m"]) };
    world.load(cyclic.clone()).expect("accepted");
    world.settle_all();
    let before = world.split("p.pipeline");
    world.restart();
    assert_eq!(world.split("p.pipeline"), before);
    assert_eq!(world.gateways.len(), 1, "Envoys keep the gateways while they come back");
    assert_eq!(*world.of("p").definition, cyclic);
    ["engine/a", "model/a", "gateway/a"].iter().for_each(|name| world.join(name));
    world.settle_all();
    assert_eq!(world.states("p"), READY);
    assert_eq!(world.owned(Role::Engine)["a"].len(), 8, "it goes on with what it had");
}

#[test]
fn models_are_ready_when_they_are_available_and_model_gateways_know_them() {
    let mut world = World::with_replicas(1);
    ["engine/a", "gateway/a"].iter().for_each(|name| world.join(name));
    world.settle_all();
    world.load(chain("p", &["m"])).expect("accepted");
    world.settle_all();
    assert!(!world.of("p").models_ready);
    assert_eq!(world.states("p"), READY, "it does not change the states");
    world.apply(definition("m", 1)).expect("accepted");
    world.settle_all();
    let gateway_state = |world: &World| world.machine.model_status(&model_name("m")).expect("known").gateway_state;
    assert_eq!(gateway_state(&world), ModelState::Create);
    assert!(!world.of("p").models_ready);
    world.join("model/a");
    world.settle_all();
    assert_eq!(gateway_state(&world), ModelState::Available);
    assert!(world.of("p").models_ready);
    assert_eq!(world.workers.get("model/a").models, BTreeSet::from(["m".to_owned()]));
    world.apply(definition("n", 1)).expect("accepted");
    let state = |world: &World, name: &str| world.machine.model_status(&model_name(name)).expect("known").gateway_state;
    assert_eq!(state(&world, "n"), ModelState::Progressing);
    world.settle_all();
    assert_eq!(state(&world, "n"), ModelState::Available);
    world.remove("m").expect("accepted");
    assert_eq!(state(&world, "m"), ModelState::Terminating);
    assert!(!world.of("p").models_ready);
    world.settle_all();
    assert_eq!(state(&world, "m"), ModelState::Terminated);
    assert_eq!(world.workers.get("model/a").models, BTreeSet::from(["n".to_owned()]));
}

#[test]
fn shards_are_shared_evenly_and_few_move() {
    let mut world = staffed();
    let count = |world: &World| world.owned(Role::Engine).values().map(Vec::len).collect::<Vec<_>>();
    assert_eq!(count(&world), [8]);
    world.join("engine/b");
    world.settle_all();
    assert_eq!(count(&world), [4, 4]);
    let before = world.owned(Role::Engine);
    world.join("engine/c");
    world.settle_all();
    let after = world.owned(Role::Engine);
    let mut sizes = count(&world);
    sizes.sort_unstable();
    assert_eq!(sizes, [2, 3, 3]);
    for name in ["a", "b"] {
        assert!(after[name].iter().all(|partition| before[name].contains(partition)), "only those for c move");
    }
    let all: BTreeSet<u32> = after.values().flatten().copied().collect();
    assert_eq!(all, (0..8).collect());
}

#[test]
fn a_shard_has_one_owner_at_a_time_and_each_owner_a_larger_epoch() {
    let mut world = staffed();
    let first = world.machine.shards(Role::Engine);
    world.join("engine/b");
    world.work("engine/b", &[]);
    assert_eq!(world.owned(Role::Engine)["b"], [0; 0], "nothing is granted before the other has let go");
    world.work("engine/a", &[]);
    world.work("engine/b", &[]);
    let second = world.machine.shards(Role::Engine);
    for (partition, holding) in &second {
        let moved = holding.owner != first[partition].owner;
        assert_eq!(holding.epoch, first[partition].epoch + u64::from(moved));
    }
}

#[test]
fn a_lost_worker_keeps_its_shards_for_the_grace_and_goes_on_with_them() {
    let mut world = staffed();
    world.join("engine/b");
    world.settle_all();
    let before = world.machine.shards(Role::Engine);
    world.part("engine/b", false);
    world.pass(1_000);
    world.join("engine/b");
    world.settle_all();
    assert_eq!(world.machine.shards(Role::Engine), before, "it only lost its stream");
    world.part("engine/b", true);
    world.join("engine/b");
    world.settle_all();
    let anew = world.machine.shards(Role::Engine);
    assert!(anew.iter().all(|(n, holding)| holding.owner == before[n].owner), "it died and came back: its own, anew");
    assert!(anew.iter().any(|(n, holding)| holding.epoch == before[n].epoch + 1));
    world.part("engine/b", true);
    world.pass(2_000);
    world.settle_all();
    assert_eq!(world.owned(Role::Engine)["a"].len(), 8);
}

#[test]
fn an_engine_that_dies_leaves_its_pipelines_to_the_other() {
    let mut world = staffed();
    world.join("engine/b");
    world.load(chain("p", &["m"])).expect("accepted");
    world.settle_all();
    assert_eq!(world.states("p"), READY);
    world.part("engine/a", true);
    assert_eq!(world.states("p"), READY, "the other one has it");
    world.part("engine/b", true);
    assert_eq!(world.of("p").state, PipelineState::Create);
    assert_eq!(world.split("p.pipeline"), ["p 100"], "requests wait for an engine until their deadline");
}

#[test]
fn gateways_take_requests_only_when_they_know_the_pipelines() {
    let mut world = staffed();
    world.load(chain("p", &["m"])).expect("accepted");
    world.settle_all();
    world.join("gateway/bb");
    assert_eq!(world.gateways.len(), 1, "it was told and has not said that it knows");
    world.settle_all();
    assert_eq!(world.gateways.len(), 2);
    world.part("gateway/a", true);
    assert_eq!(world.gateways.len(), 1);
    world.part("gateway/bb", true);
    assert_eq!(world.gateways.len(), 2, "where nobody is well, those that were a moment ago are tried");
    world.pass(2_000);
    assert!(world.gateways.is_empty());
    assert_eq!(world.of("p").gateway_reason, "no pipeline gateway is connected");
}

#[test]
fn a_word_from_an_older_stream_or_about_another_revision_changes_nothing() {
    let mut world = staffed();
    world.load(chain("p", &["m"])).expect("accepted");
    let connection = world.workers.get("engine/a").connection.expect("connected");
    let worker = world::workers::worker("engine/a");
    let applied = |connection, revision| Event::WorkerApplied {
        worker: worker.clone(),
        connection,
        revision,
        refused: Vec::new(),
    };
    world.handle(applied(scheduler_core::ConnectionId(connection.0 + 99), 99));
    assert_eq!(world.of("p").state, PipelineState::Creating);
    world.handle(applied(connection, 0));
    assert_eq!(world.of("p").state, PipelineState::Creating);
    let shard = domain::Shard { partition: 0, epoch: 99 };
    let before = world.machine.shards(Role::Engine);
    world.handle(Event::WorkerReleased { worker: worker.clone(), connection, shard });
    assert_eq!(world.machine.shards(Role::Engine), before);
}

#[test]
fn experiments_split_pipelines_and_give_the_plain_name_back() {
    let mut world = staffed();
    for name in ["p", "q"] {
        world.load(chain(name, &["m"])).expect("accepted");
    }
    world.start("e", Some("p.pipeline"), &[("p.pipeline", 8), ("q.pipeline", 2)], None).expect("accepted");
    assert!(!world.experiment("e").active);
    world.settle_all();
    assert_eq!(world.split("e.experiment"), ["p 8", "q 2"]);
    assert_eq!(world.split("p.pipeline"), ["p 8", "q 2"]);
    let status = world.experiment("e");
    assert!(status.active && status.candidates_ready, "{status:?}");
    world.unload("q").expect("accepted");
    world.settle_all();
    assert_eq!(world.split("p.pipeline"), ["p 100"], "a candidate that is lost takes nothing away from the default");
    assert!(world.experiment("e").description.contains("pipeline q is removed"));
    world.stop("e").expect("accepted");
    world.settle_all();
    assert_eq!(world.split("e.experiment"), [""; 0]);
    assert_eq!(world.split("p.pipeline"), ["p 100"]);
}

#[test]
fn a_mirror_of_a_pipeline_gets_copies() {
    let mut world = staffed();
    for name in ["p", "q"] {
        world.load(chain(name, &["m"])).expect("accepted");
    }
    world.start("e", Some("p.pipeline"), &[("p.pipeline", 1)], Some(("q.pipeline", 100))).expect("accepted");
    world.settle_all();
    assert_eq!(world.split("p.pipeline"), ["p 1", "+q 100"]);
}
