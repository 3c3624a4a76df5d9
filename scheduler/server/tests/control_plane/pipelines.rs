//! Pipelines as their users see them: accepted or refused, ready when workers are, routed through their gateways
//! (rows 13, 71-73, 76-97 as far as they are about the scheduler).

use std::collections::BTreeSet;

use messages::scheduler as wire;
use messages::scheduler::pipeline_version_state::PipelineStatus as State;
use messages::worker::Role;
use tonic::{Code, Status};

use crate::declare::Draft;
use crate::envoy::Envoy;
use crate::worker::{Worker, first_answer, hello};
use crate::world::{World, loop_until, refused};

const READY: (State, State) = (State::PipelineReady, State::PipelineReady);

fn step(name: &str, inputs: &[&str]) -> wire::PipelineStep {
    let inputs = inputs.iter().map(|input| (*input).to_owned()).collect();
    wire::PipelineStep { name: name.into(), inputs, ..Default::default() }
}

fn chain(name: &str) -> wire::Pipeline {
    let output = wire::PipelineOutput { steps: vec!["b".into()], ..Default::default() };
    let steps = vec![step("a", &[]), step("b", &["a"])];
    wire::Pipeline { name: name.into(), steps, output: Some(output), ..Default::default() }
}

impl World {
    async fn declare(&self, pipeline: wire::Pipeline) -> Result<(), Status> {
        let request = wire::LoadPipelineRequest { pipeline: Some(pipeline) };
        self.control.clone().load_pipeline(request).await.map(|_| ())
    }

    async fn withdraw(&self, name: &str) -> Result<(), Status> {
        self.control.clone().unload_pipeline(wire::UnloadPipelineRequest { name: name.into() }).await.map(|_| ())
    }

    async fn pipelines(&self, name: Option<&str>) -> Result<Vec<wire::PipelineStatusResponse>, Status> {
        let (subscriber_name, name) = ("test".into(), name.map(str::to_owned));
        let request = wire::PipelineStatusRequest { subscriber_name, name, all_versions: false };
        let mut answers = self.control.clone().pipeline_status(request).await?.into_inner();
        let mut all = Vec::new();
        while let Some(answer) = answers.message().await? {
            all.push(answer);
        }
        Ok(all)
    }

    async fn pipeline(&self, name: &str) -> (wire::Pipeline, wire::PipelineVersionState) {
        let version = self.pipelines(Some(name)).await.unwrap().remove(0).versions.remove(0);
        (version.pipeline.unwrap(), version.state.unwrap())
    }

    async fn until_pipeline(&self, name: &str, wanted: (State, State)) -> wire::PipelineVersionState {
        loop_until(&format!("{name} is {wanted:?}"), async || {
            let (_, state) = self.pipeline(name).await;
            if (state.status(), state.pipeline_gw_status()) == wanted { Ok(state) } else { Err(format!("{state:?}")) }
        })
        .await
    }
}

/// One worker of each role.
async fn staff(world: &World) -> [Worker; 3] {
    [
        Worker::start(world, Role::Engine, "engine-0").await,
        Worker::start(world, Role::ModelGateway, "model-0").await,
        Worker::start(world, Role::PipelineGateway, "gateway-0").await,
    ]
}

#[tokio::test]
async fn pipelines_that_cannot_be_are_refused_and_the_offender_is_named() {
    let world = World::start().await;
    let with = |edit: &dyn Fn(&mut wire::Pipeline)| {
        let mut pipeline = chain("p");
        edit(&mut pipeline);
        pipeline
    };
    let cases: [(wire::Pipeline, &str); 14] = [
        (with(&|p| p.name = "P".into()), "pipeline.name: pipeline name \"P\""),
        (with(&|p| p.steps.clear()), "steps: at least one is needed"),
        (with(&|p| p.steps.push(step("p", &[]))), "p has the name of the pipeline"),
        (with(&|p| p.steps.push(step("a", &[]))), "a is there more than once"),
        (with(&|p| p.steps[1].inputs = vec!["x.foo".into()]), "pipeline.steps[1].inputs[0]: \"x.foo\" is no reference"),
        (with(&|p| p.steps[1].inputs = vec!["x".into()]), "steps.b.inputs: x.outputs names no step"),
        (with(&|p| p.steps[1].inputs = vec![String::new()]), "pipeline.steps[1].inputs[0]: \"\" is no reference"),
        (with(&|p| p.steps[1].triggers = vec!["x".into()]), "steps.b.triggers: x.outputs names no step"),
        (
            with(&|p| p.steps[1].triggers = vec!["a".into()]),
            "a.outputs is both among its inputs and among its triggers",
        ),
        (with(&|p| p.output.as_mut().unwrap().steps = vec!["x".into()]), "output.steps: x.outputs names no step"),
        (with(&|p| p.output.as_mut().unwrap().steps = vec!["p".into()]), "names the pipeline itself"),
        (with(&|p| p.steps[0].inputs = vec!["b".into()]), "is a cycle; set allowCycles"),
        (with(&|p| p.input = Some(wire::PipelineInput::default())), "input.externalInputs: at least one is needed"),
        (
            with(&|p| {
                let external_inputs = vec!["q.step.s.foo".into()];
                p.input = Some(wire::PipelineInput { external_inputs, ..Default::default() });
            }),
            "pipeline.input.externalInputs[0]: \"q.step.s.foo\" is no reference",
        ),
    ];
    for (pipeline, words) in cases {
        let text = refused(world.declare(pipeline).await, Code::FailedPrecondition);
        assert!(text.contains(words), "{words:?} is not in {text:?}");
    }
    assert_eq!(world.pipelines(None).await.unwrap(), []);
    refused(world.pipelines(Some("p")).await, Code::FailedPrecondition);
    refused(world.withdraw("p").await, Code::FailedPrecondition);
    world.declare(with(&|p| (p.allow_cycles, p.steps[0].inputs) = (true, vec!["b".into()]))).await.unwrap();
}

#[tokio::test]
async fn bare_references_are_completed_and_each_declaration_is_a_version() {
    let world = World::start().await;
    let kubernetes = |generation| Some(wire::KubernetesMeta { namespace: "ml".into(), generation });
    let declared = |generation| wire::Pipeline { kubernetes_meta: kubernetes(generation), ..chain("p") };
    world.declare(declared(1)).await.unwrap();
    world.declare(declared(1)).await.unwrap();
    let (pipeline, state) = world.pipeline("p").await;
    assert_eq!((pipeline.version, state.pipeline_version), (1, 1));
    assert_eq!(pipeline.steps[1].inputs, ["a.outputs"]);
    assert_eq!(pipeline.output.unwrap().steps, ["b.outputs"]);
    assert_eq!((state.status(), state.pipeline_gw_status()), (State::PipelineCreate, State::PipelineCreate));
    assert_eq!(state.reason, "no dataflow engine is connected");
    world.declare(declared(2)).await.unwrap();
    let (newer, _) = world.pipeline("p").await;
    assert_eq!(newer.version, 2);
    assert_ne!(newer.uid, pipeline.uid);
    world.declare(wire::Pipeline { uid: "mine".into(), ..chain("p") }).await.unwrap();
    assert_eq!(world.pipeline("p").await.0.uid, "mine");
}

#[tokio::test]
async fn pipeline_is_ready_when_workers_and_envoys_have_it_and_gone_when_they_let_go() {
    let world = World::start().await;
    let envoy = Envoy::start(&world, "envoy").await;
    let subscription = wire::PipelineSubscriptionRequest { subscriber_name: "test".into(), ..Default::default() };
    let mut watcher = world.control.clone().subscribe_pipeline_status(subscription).await.unwrap().into_inner();
    let [engine, models, gateway] = staff(&world).await;
    world.declare(chain("p")).await.unwrap();
    world.until_pipeline("p", READY).await;
    let seen = envoy.until_shares("p.pipeline", &[("p.pipeline", 100)]).await;
    assert!(seen.received.iter().any(|name| name == "ScopedRouteConfiguration p.pipeline"), "{:?}", seen.received);
    let known = gateway.until("it knows which version takes entries", |seen| seen.pipelines["p"] == [(1, true)]).await;
    assert_eq!((known.partitions, known.entries["p"].len()), (8, 8));
    for worker in [&engine, &models] {
        let seen = worker.until("it owns all shards", |seen| seen.shards.len() == 8).await;
        assert_eq!(seen.shards, (0..8).collect());
    }
    let mut told = Vec::new();
    while told.last() != Some(&READY) {
        let status = watcher.message().await.unwrap().unwrap();
        assert_eq!((status.pipeline_name.as_str(), status.versions.len()), ("p", 1));
        let state = status.versions[0].state.as_ref().unwrap();
        told.push((state.status(), state.pipeline_gw_status()));
    }
    world.withdraw("p").await.unwrap();
    world.until_pipeline("p", (State::PipelineTerminated, State::PipelineTerminated)).await;
    envoy.until("its route is gone", |seen| seen.shares("p.pipeline").is_none()).await;
    engine.until("it is gone", |seen| seen.pipelines.is_empty() && seen.cleaned.is_empty()).await;
    let text = refused(world.withdraw("p").await, Code::FailedPrecondition);
    assert_eq!(text, "pipeline p is not known");
}

#[tokio::test]
async fn topics_are_cleaned_on_removal_when_that_is_asked_for_later() {
    let world = World::start().await;
    let [engine, _models, _gateway] = staff(&world).await;
    let kubernetes_meta = Some(wire::KubernetesMeta { namespace: "ml".into(), generation: 1 });
    let declared = wire::Pipeline { kubernetes_meta, ..chain("p") };
    world.declare(declared.clone()).await.unwrap();
    world.until_pipeline("p", READY).await;
    let dataflow_spec = Some(wire::DataflowSpec { clean_topics_on_delete: true });
    world.declare(wire::Pipeline { dataflow_spec, ..declared }).await.unwrap();
    world.withdraw("p").await.unwrap();
    engine.until("it is told to delete the topics", |seen| seen.cleaned.contains("p")).await;
}

#[tokio::test]
async fn after_a_restart_pipelines_are_listed_and_routed_at_once_and_ready_when_workers_are_back() {
    let world = World::start().await;
    let staffed = staff(&world).await;
    let dataflow_spec = Some(wire::DataflowSpec { clean_topics_on_delete: true });
    let pipeline = wire::Pipeline { allow_cycles: true, max_step_revisits: 4, dataflow_spec, ..chain("p") };
    world.declare(pipeline).await.unwrap();
    world.declare(chain("gone")).await.unwrap();
    world.until_pipeline("p", READY).await;
    world.until_pipeline("gone", READY).await;
    world.withdraw("gone").await.unwrap();
    world.until_pipeline("gone", (State::PipelineTerminated, State::PipelineTerminated)).await;
    let before = staffed[0].until("it owns shards", |seen| seen.epochs.len() == 8).await;

    let world = world.restart().await;
    let (kept, _) = world.pipeline("p").await;
    assert!(kept.allow_cycles && kept.dataflow_spec.is_some_and(|spec| spec.clean_topics_on_delete));
    assert_eq!(kept.max_step_revisits, 4);
    assert_eq!(world.pipeline("gone").await.1.status(), State::PipelineTerminated);
    let envoy = Envoy::start(&world, "newcomer").await;
    assert_eq!(envoy.now().shares("p.pipeline"), Some(vec![("p.pipeline".to_owned(), 100)]), "at once");
    let [engine, _models, _gateway] = staff(&world).await;
    world.until_pipeline("p", READY).await;
    let after = engine.until("it owns shards again", |seen| seen.epochs.len() == 8).await;
    assert!(after.epochs.iter().all(|(partition, epoch)| *epoch > before.epochs[partition]), "{after:?}");
}

#[tokio::test]
async fn models_of_a_pipeline_are_ready_when_they_are_available_and_model_gateways_have_them() {
    use wire::model_status::ModelState;
    let world = World::start().await;
    let [_engine, models, _gateway] = staff(&world).await;
    world.declare(chain("p")).await.unwrap();
    assert!(!world.until_pipeline("p", READY).await.models_ready, "models do not change the states");
    let _agent = crate::agent::Identity::of("onnx", 0).subscribe(&world).await;
    for name in ["a", "b"] {
        world.load(&Draft::of(name).memory(1)).await.unwrap();
        let available = |status: &wire::ModelVersionStatus| {
            status.state.as_ref().is_some_and(|state| state.model_gw_state() == ModelState::ModelAvailable)
        };
        world.until_model(name, "model gateways have it", available).await;
    }
    models.until("it knows both", |seen| seen.models == BTreeSet::from(["a".to_owned(), "b".to_owned()])).await;
    loop_until("models are ready", async || {
        let (_, state) = world.pipeline("p").await;
        if state.models_ready { Ok(()) } else { Err(format!("{state:?}")) }
    })
    .await;
    models.die().await;
    world.unload("a", None).await.unwrap();
    world
        .until_model("a", "nobody is left to be told", |status| {
            status.state.as_ref().is_some_and(|state| state.model_gw_state() == ModelState::ModelTerminated)
        })
        .await;
}

#[tokio::test]
async fn topics_of_a_removed_model_are_to_be_deleted_until_a_gateway_has_done_it() {
    use wire::model_status::ModelState;
    let world = World::start().await;
    let [_engine, models, _gateway] = staff(&world).await;
    let _agent = crate::agent::Identity::of("onnx", 0).subscribe(&world).await;
    world.load(&Draft::of("a").memory(1).cleans_topics()).await.unwrap();
    let gateway_says = |wanted: ModelState| {
        move |status: &wire::ModelVersionStatus| {
            status.state.as_ref().is_some_and(|state| state.model_gw_state() == wanted)
        }
    };
    world.until_model("a", "model gateways have it", gateway_says(ModelState::ModelAvailable)).await;
    // It dies with the order unanswered, as one does that cannot delete them.
    models.die().await;
    world.unload("a", None).await.unwrap();
    let models = Worker::start(&world, Role::ModelGateway, "model-0").await;
    models.until("it is told again to delete the topics", |seen| seen.cleaned_models.contains("a")).await;
    world.until_model("a", "it is gone", gateway_says(ModelState::ModelTerminated)).await;
}

#[tokio::test]
async fn one_engine_that_can_run_it_is_enough_and_none_is_a_failure_with_its_reason() {
    let world = World::start().await;
    let _first = Worker::refusing(&world, Role::Engine, "engine-0", &["p", "q"]).await;
    let second = Worker::refusing(&world, Role::Engine, "engine-1", &["q"]).await;
    let _gateway = Worker::start(&world, Role::PipelineGateway, "gateway-0").await;
    second.until("it has half of the shards", |seen| seen.shards.len() == 4).await;
    world.declare(chain("p")).await.unwrap();
    let state = world.until_pipeline("p", READY).await;
    assert!(state.reason.contains("1/2 dataflow engines ready: its topic has 4 partitions"), "{state:?}");
    world.declare(chain("q")).await.unwrap();
    let state = world.until_pipeline("q", (State::PipelineFailed, State::PipelineCreating)).await;
    assert_eq!(state.reason, "its topic has 4 partitions");
    second.die().await;
    world.until_pipeline("p", (State::PipelineFailed, State::PipelineReady)).await;
}

#[tokio::test]
async fn shards_move_to_engines_that_come_and_stay_when_one_goes() {
    let world = World::start().await;
    let first = Worker::start(&world, Role::Engine, "engine-0").await;
    first.until("it has all", |seen| seen.shards.len() == 8).await;
    let second = Worker::start(&world, Role::Engine, "engine-1").await;
    let seen = second.until("it has half", |seen| seen.shards.len() == 4).await;
    let kept = first.until("it has the rest", |seen| seen.shards.len() == 4).await;
    assert_eq!(seen.shards.union(&kept.shards).count(), 8);
    assert!(seen.epochs.values().all(|epoch| *epoch == 2), "{seen:?}");
    second.die().await;
    let all = first.until("it has all again", |seen| seen.shards.len() == 8).await;
    assert!(seen.shards.iter().all(|partition| all.epochs[partition] == 3), "{all:?}");
}

#[tokio::test]
async fn the_watched_file_says_how_many_partitions_a_pipeline_enters_by() {
    let dir = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let file = dir.path().join("scaling.yaml");
    let world = World::start_with(dir.clone(), |config| config.scaling = Some(file.clone())).await;
    let [_engine, _models, gateway] = staff(&world).await;
    world.declare(chain("p")).await.unwrap();
    world.declare(wire::Pipeline { partition_factor: Some(2), ..chain("own") }).await.unwrap();
    let enters = async |name: &'static str, count: usize| {
        let what = format!("{name} enters by {count} partitions");
        gateway.until(&what, |seen| seen.entries.get(name).is_some_and(|entries| entries.len() == count)).await
    };
    enters("p", 8).await;
    std::fs::write(&file, "pipelines:\n  maxShardCountMultiplier: 3\n").unwrap();
    enters("p", 3).await;
    world.until_pipeline("p", READY).await;
    // What cannot be read changes nothing, and what is mended counts.
    std::fs::write(&file, "pipelines: [").unwrap();
    std::fs::write(&file, r#"{"pipelines": {"maxShardCountMultiplier": 5}}"#).unwrap();
    enters("p", 5).await;
    assert_eq!(enters("own", 2).await.partitions, 8, "its own word counts");
    std::fs::remove_file(&file).unwrap();
    enters("p", 8).await;
}

#[tokio::test]
async fn a_worker_that_says_nonsense_is_told_so_and_a_second_one_of_its_name_takes_over() {
    let world = World::start().await;
    let report = |report| messages::worker::Report { report: Some(report) };
    use messages::worker::report::Report;
    let hello_of = |role, name: &str| report(Report::Hello(hello(role, name)));
    let empty = messages::worker::Report::default();
    let applied = report(Report::Applied(messages::worker::Applied { revision: u64::MAX, refused: Vec::new() }));
    refused(first_answer(&world, Vec::new()).await, Code::InvalidArgument);
    refused(first_answer(&world, vec![empty]).await, Code::InvalidArgument);
    refused(first_answer(&world, vec![applied]).await, Code::InvalidArgument);
    let text = refused(first_answer(&world, vec![hello_of(Role::Engine, "-")]).await, Code::FailedPrecondition);
    assert!(text.contains("hello.name"), "{text}");
    let text = refused(first_answer(&world, vec![hello_of(Role::Unspecified, "a")]).await, Code::FailedPrecondition);
    assert!(text.contains("hello.role"), "{text}");
    let first = Worker::start(&world, Role::Engine, "engine-0").await;
    let _second = Worker::start(&world, Role::Engine, "engine-0").await;
    first.until("its stream ends", |seen| seen.ended == Some(Code::Aborted)).await;
    assert!(world.is_healthy().await);
}

#[tokio::test]
async fn gateways_and_engines_of_other_systems_are_told_that_they_are_not_supported() {
    let world = World::start().await;
    let control = || world.control.clone();
    let gateway = wire::PipelineSubscriptionRequest { is_pipeline_gateway: true, ..Default::default() };
    let calls: [Result<(), Status>; 3] = [
        control().pipeline_status_event(messages::chainer::PipelineUpdateStatusMessage::default()).await.map(|_| ()),
        control().model_status_event(wire::ModelUpdateStatusMessage::default()).await.map(|_| ()),
        control().subscribe_pipeline_status(gateway).await.map(|_| ()),
    ];
    for call in calls {
        let text = refused(call, Code::Unimplemented);
        assert!(text.contains("of other systems are not supported"), "{text}");
    }
}

#[tokio::test]
async fn a_thousand_pipelines_come_in_pieces_and_are_ready() {
    let world = World::start().await;
    for index in 0..1_000 {
        world.declare(chain(&format!("p{index}"))).await.unwrap();
    }
    let [engine, _models, _gateway] = staff(&world).await;
    let seen = engine.until("it knows all", |seen| seen.pipelines.len() == 1_000).await;
    assert!(seen.pieces >= 10, "{}", seen.pieces);
    world.until_pipeline("p999", READY).await;
    world.until_pipeline("p0", READY).await;
}
