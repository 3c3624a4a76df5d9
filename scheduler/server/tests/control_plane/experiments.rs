//! Experiments over models (rows 98 to 102, and 16, 17 of the data plane as far as routes show it).

use messages::agent::model_event_message::Event;
use messages::scheduler as wire;
use messages::scheduler::model_status::ModelState;
use tonic::{Code, Status};

use crate::agent::{Agent, Identity};
use crate::declare::Draft;
use crate::envoy::Envoy;
use crate::world::{World, loop_until, refused};

/// An experiment as the tests declare it.
#[derive(Clone, Debug)]
struct Split(wire::Experiment);

impl Split {
    fn of(name: &str, candidates: &[(&str, u32)]) -> Split {
        let candidate =
            |(name, weight): &(&str, u32)| wire::ExperimentCandidate { name: (*name).to_owned(), weight: *weight };
        Split(wire::Experiment {
            name: name.into(),
            candidates: candidates.iter().map(candidate).collect(),
            ..Default::default()
        })
    }

    fn default(mut self, name: &str) -> Split {
        self.0.default = Some(name.into());
        self
    }

    fn mirror(mut self, name: &str, percent: u32) -> Split {
        self.0.mirror = Some(wire::ExperimentMirror { name: name.into(), percent });
        self
    }

    fn generation(mut self, generation: i64) -> Split {
        self.0.kubernetes_meta = Some(wire::KubernetesMeta { namespace: "test".into(), generation });
        self
    }
}

impl World {
    async fn begin(&self, split: &Split) -> Result<(), Status> {
        let request = wire::StartExperimentRequest { experiment: Some(split.0.clone()) };
        self.control.clone().start_experiment(request).await.map(|_| ())
    }

    async fn end(&self, name: &str) -> Result<(), Status> {
        self.control.clone().stop_experiment(wire::StopExperimentRequest { name: name.into() }).await.map(|_| ())
    }

    async fn experiments(&self, name: Option<&str>) -> Result<Vec<wire::ExperimentStatusResponse>, Status> {
        let name = name.map(str::to_owned);
        let request = wire::ExperimentStatusRequest { subscriber_name: "test".into(), name };
        let mut answers = self.control.clone().experiment_status(request).await?.into_inner();
        let mut statuses = Vec::new();
        while let Some(answer) = answers.message().await? {
            statuses.push(answer);
        }
        Ok(statuses)
    }

    async fn until_experiment(&self, name: &str, active: bool) -> wire::ExperimentStatusResponse {
        loop_until(&format!("{name} is active: {active}"), async || {
            let status = self.experiments(Some(name)).await.unwrap().remove(0);
            if status.active == active { Ok(status) } else { Err(format!("{status:?}")) }
        })
        .await
    }

    async fn available(&self, names: &[&str]) {
        for name in names {
            self.load(&Draft::of(name)).await.unwrap();
            self.until_state(name, 1, ModelState::ModelAvailable).await;
        }
    }
}

async fn three() -> (World, Agent, Envoy) {
    let world = World::start().await;
    let agent = Identity::of("onnx", 0).subscribe(&world).await;
    let envoy = Envoy::start(&world, "first").await;
    world.available(&["a", "b", "c"]).await;
    (world, agent, envoy)
}

#[tokio::test]
async fn impossible_experiments_are_refused_by_field() {
    let (world, _agent, envoy) = three().await;
    world.begin(&Split::of("first", &[("a", 1), ("b", 1)]).default("a")).await.unwrap();
    let cases = [
        (Split::of("e", &[("a", 1)]).default("b"), "experiment: default: b is not among the candidates"),
        (Split::of("e", &[]), "experiment: candidates: at least one"),
        (Split::of("e", &[("b", 1), ("b", 1)]), "experiment: candidates: b is there more than once"),
        (Split::of("e", &[("b", 1)]).mirror("b", 1), "experiment: candidates: b is there more than once"),
        (Split::of("e", &[("a", 1), ("c", 1)]).default("a"), "a is the default of experiment first already"),
        (Split::of("e", &[("b", 0), ("c", 0)]), "experiment: candidates: their weights sum to 0"),
        (Split::of("e", &[("b", u32::MAX), ("c", 1)]), "experiment: candidates: their weights sum to 4294967296"),
        (Split::of("e", &[("b", 1)]).mirror("c", 101), "experiment: mirror.percent: 101"),
        (Split::of("e/x", &[("b", 1)]), "experiment.name: "),
        (Split::of("e", &[("B", 1)]), "experiment.candidates[0].name: "),
    ];
    for (split, words) in cases {
        let text = refused(world.begin(&split).await, Code::FailedPrecondition);
        assert!(text.contains(words), "{words:?} is not in {text:?}");
    }
    let many: Vec<(String, u32)> = (0..2_000).map(|index| (format!("m{index}"), 1)).collect();
    let many: Vec<(&str, u32)> = many.iter().map(|(name, weight)| (name.as_str(), *weight)).collect();
    let text = refused(world.begin(&Split::of("e", &many)).await, Code::FailedPrecondition);
    assert!(text.contains("2000"), "{text}");
    let names: Vec<_> = world.experiments(None).await.unwrap().into_iter().map(|e| e.experiment_name).collect();
    assert_eq!(names, ["first"], "nothing of what was refused is kept");
    envoy.until_shares("first.experiment", &[("a_1", 1), ("b_1", 1)]).await;
    assert_eq!(envoy.now().shares("e.experiment"), None);
}

#[tokio::test]
async fn experiment_on_available_models_becomes_active() {
    let (world, _agent, envoy) = three().await;
    envoy.hold_routes();
    world.begin(&Split::of("split", &[("a", 80), ("b", 20)]).default("a").mirror("c", 30).generation(4)).await.unwrap();
    envoy.until_offered("a", &[("a_1", 80), ("b_1", 20)]).await;
    let status = world.until_experiment("split", false).await;
    assert!(status.candidates_ready && status.mirror_ready, "{status:?}");
    assert!(status.status_description.contains("waiting for every Envoy"), "{status:?}");
    envoy.release();
    let status = world.until_experiment("split", true).await;
    assert_eq!(status.kubernetes_meta, Some(wire::KubernetesMeta { namespace: "test".into(), generation: 4 }));
    envoy.until_shares("split.experiment", &[("a_1", 80), ("b_1", 20)]).await;
    envoy.until_shares("b", &[("b_1", 100)]).await;
}

#[tokio::test]
async fn experiment_with_a_missing_candidate_is_inactive_says_why_and_leaves_the_default_alone() {
    let (world, agent, envoy) = three().await;
    world.begin(&Split::of("split", &[("a", 1), ("later", 1)]).default("a")).await.unwrap();
    let status = world.until_experiment("split", false).await;
    assert!(!status.candidates_ready && status.mirror_ready, "{status:?}");
    assert!(status.status_description.contains("model later is not known"), "{status:?}");
    envoy.until_shares("split.experiment", &[("a_1", 100)]).await;
    assert_eq!(envoy.now().history("a"), [Some(vec![("a_1".to_owned(), 100)])]);

    // It comes, goes and comes back.
    world.available(&["later"]).await;
    world.until_experiment("split", true).await;
    envoy.until_shares("a", &[("a_1", 1), ("later_1", 1)]).await;
    world.unload("later", None).await.unwrap();
    let status = world.until_experiment("split", false).await;
    assert!(status.status_description.contains("later"), "{status:?}");
    envoy.until_shares("a", &[("a_1", 100)]).await;
    agent.told("unload later 1").await;
    world.until_state("later", 1, ModelState::ModelTerminated).await;
    world.available(&["later"]).await;
    world.until_experiment("split", true).await;
    envoy.until_shares("a", &[("a_1", 1), ("later_1", 1)]).await;
}

#[tokio::test]
async fn stopped_experiment_is_inactive_its_route_gone_and_the_default_has_all_again() {
    let (world, _agent, envoy) = three().await;
    world.begin(&Split::of("split", &[("a", 1), ("b", 1)]).default("a")).await.unwrap();
    world.until_experiment("split", true).await;
    world.end("split").await.unwrap();
    let status = world.until_experiment("split", false).await;
    assert!(status.status_description.contains("stopped"), "{status:?}");
    envoy.until_shares("split.experiment", &[]).await;
    envoy.until_shares("a", &[("a_1", 100)]).await;
    let text = refused(world.end("split").await, Code::FailedPrecondition);
    assert!(text.contains("stopped already"), "{text}");
    refused(world.end("nobody").await, Code::FailedPrecondition);
    refused(world.experiments(Some("nobody")).await, Code::FailedPrecondition);
    // The same name again is a new experiment.
    world.begin(&Split::of("split", &[("b", 1), ("c", 1)])).await.unwrap();
    world.until_experiment("split", true).await;
    envoy.until_shares("split.experiment", &[("b_1", 1), ("c_1", 1)]).await;
}

#[tokio::test]
async fn another_default_gives_the_former_one_its_route_back() {
    let (world, _agent, envoy) = three().await;
    world.begin(&Split::of("split", &[("a", 1), ("b", 1)]).default("a")).await.unwrap();
    world.until_experiment("split", true).await;
    world.begin(&Split::of("split", &[("b", 3), ("c", 1)]).default("b")).await.unwrap();
    envoy.until_shares("a", &[("a_1", 100)]).await;
    envoy.until_shares("b", &[("b_1", 3), ("c_1", 1)]).await;
    world.until_experiment("split", true).await;
}

#[tokio::test]
async fn edited_weights_replace_the_routes_at_once() {
    let (world, _agent, envoy) = three().await;
    world.begin(&Split::of("split", &[("a", 1), ("b", 1)]).default("a")).await.unwrap();
    world.until_experiment("split", true).await;
    world.begin(&Split::of("split", &[("a", 1), ("b", 9)]).default("a")).await.unwrap();
    envoy.until_shares("a", &[("a_1", 1), ("b_1", 9)]).await;
    let history = envoy.now().history("a");
    assert_eq!(history.len(), 3, "no route between the old and the new one: {history:?}");
    world.until_experiment("split", true).await;
}

#[tokio::test]
async fn late_acknowledgement_does_not_reactivate_a_stopped_experiment() {
    let (world, _agent, envoy) = three().await;
    envoy.hold_routes();
    world.begin(&Split::of("split", &[("a", 1), ("b", 1)]).default("a")).await.unwrap();
    envoy.until_offered("split.experiment", &[("a_1", 1), ("b_1", 1)]).await;
    let request = wire::ExperimentSubscriptionRequest { subscriber_name: "test".into() };
    let mut told = world.control.clone().subscribe_experiment_status(request).await.unwrap().into_inner();
    world.end("split").await.unwrap();
    envoy.release();
    envoy.until_shares("split.experiment", &[]).await;
    // Sentinel: an experiment that is told of later.
    world.begin(&Split::of("sentinel", &[("c", 1)])).await.unwrap();
    loop {
        let status = told.message().await.unwrap().unwrap();
        if status.experiment_name == "sentinel" && status.active {
            break;
        }
        assert!(!status.active, "{status:?}");
    }
    assert!(!world.experiments(Some("split")).await.unwrap()[0].active);
}

#[tokio::test]
async fn candidate_is_not_unloaded_before_every_envoy_has_left_the_split() {
    let (world, agent, envoy) = three().await;
    world.begin(&Split::of("split", &[("a", 1), ("b", 1)]).default("a").mirror("c", 10)).await.unwrap();
    world.until_experiment("split", true).await;
    envoy.hold_routes();
    for name in ["b", "c"] {
        world.unload(name, None).await.unwrap();
    }
    envoy.until_removal_offered("b").await;
    // Sentinel: something that the agent is told and that was decided later.
    world.load(&Draft::of("sentinel")).await.unwrap();
    agent.told("load sentinel 1").await;
    assert!(!agent.commands().iter().any(|command| command.starts_with("unload")), "{:?}", agent.commands());
    envoy.release();
    for name in ["b", "c"] {
        agent.told(&format!("unload {name} 1")).await;
        world.until_state(name, 1, ModelState::ModelTerminated).await;
    }
}

#[tokio::test]
async fn candidate_in_a_roll_out_divides_its_share() {
    let world = World::start().await;
    let (first, second) = (
        Identity::of("onnx", 0).scripted().subscribe(&world).await,
        Identity::of("onnx", 1).scripted().subscribe(&world).await,
    );
    let envoy = Envoy::start(&world, "first").await;
    for name in ["a", "b"] {
        world.load(&Draft::of(name).replicas(2)).await.unwrap();
        for agent in [&first, &second] {
            agent.answer(&agent.told(&format!("load {name} 1")).await, Event::Loaded).await.unwrap();
        }
        world.until_state(name, 1, ModelState::ModelAvailable).await;
    }
    world.begin(&Split::of("split", &[("a", 3), ("b", 1)]).default("a")).await.unwrap();
    world.until_experiment("split", true).await;
    envoy.hold_routes();
    world.load(&Draft::of("b").uri("/models/other").replicas(2)).await.unwrap();
    first.answer(&first.told("load b 2").await, Event::Loaded).await.unwrap();
    envoy.until_offered("a", &[("a_1", 300), ("b_1", 66), ("b_2", 34)]).await;
    envoy.release();
    envoy.until_shares("a", &[("a_1", 3), ("b_2", 1)]).await;
    envoy.until_shares("split.experiment", &[("a_1", 3), ("b_2", 1)]).await;
}

#[tokio::test]
async fn thousand_experiments_are_a_route_each_and_a_change_touches_one() {
    let (world, _agent, envoy) = three().await;
    for index in 0..1_000 {
        world.begin(&Split::of(&format!("e{index}"), &[("a", 1), ("b", 1)])).await.unwrap();
    }
    envoy.until_shares("e999.experiment", &[("a_1", 1), ("b_1", 1)]).await;
    world.until_experiment("e999", true).await;
    let before = envoy.now().received.len();
    world.begin(&Split::of("e500", &[("a", 1), ("c", 1)])).await.unwrap();
    let seen = envoy.until_shares("e500.experiment", &[("a_1", 1), ("c_1", 1)]).await;
    assert_eq!(seen.received[before..], ["ScopedRouteConfiguration e500.experiment"]);
}
