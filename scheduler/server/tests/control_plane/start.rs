//! The start with an empty store, where an operator says what there is (rows 57, 65 to 70).

use std::sync::Arc;
use std::time::Duration;

use messages::scheduler as wire;
use messages::scheduler::control_plane_response::Event;
use messages::scheduler::model_status::ModelState;
use tonic::Streaming;

use crate::agent::Identity;
use crate::declare::Draft;
use crate::envoy::Envoy;
use crate::world::{DEADLINE, World, loop_until, reason_of, state_of};

/// Long enough that no test waits for it.
const LONG_MS: u64 = 600_000;

async fn waiting(limit_ms: u64) -> World {
    World::start_with(Arc::new(tempfile::tempdir().unwrap()), move |config| {
        config.decisions.first_sync_ms = Some(limit_ms);
    })
    .await
}

async fn first_word(world: &World, servers: &[(&str, u32)]) {
    let notify = |(name, expected): &(&str, u32)| wire::ServerNotify {
        name: (*name).to_owned(),
        expected_replicas: *expected,
        shared: true,
        ..wire::ServerNotify::default()
    };
    let request = wire::ServerNotifyRequest { servers: servers.iter().map(notify).collect(), is_first_sync: true };
    world.control.clone().server_notify(request).await.unwrap();
}

async fn next<T>(stream: &mut Streaming<T>) -> T {
    tokio::time::timeout(DEADLINE, stream.message()).await.expect("in time").unwrap().expect("it goes on")
}

/// Nothing comes while other calls come and go.
async fn is_silent<T: std::fmt::Debug>(world: &World, stream: &mut Streaming<T>) {
    for _ in 0..20 {
        world.server_statuses(None).await.unwrap();
    }
    let next = tokio::time::timeout(Duration::from_millis(1), stream.message()).await;
    assert!(next.is_err(), "{next:?}");
}

#[tokio::test]
async fn placement_waits_for_as_many_distinct_agents_as_the_first_word_names() {
    let world = waiting(LONG_MS).await;
    let early = Identity::of("one", 0).subscribe(&world).await;
    world.load(&Draft::of("iris")).await.unwrap();
    first_word(&world, &[("one", 2), ("two", 1)]).await;
    let early = early.disconnect().subscribe(&world).await;
    let second = Identity::of("one", 1).subscribe(&world).await;
    let status = world.latest("iris").await;
    assert_eq!(state_of(&status), ModelState::ModelProgressing);
    assert!(reason_of(&status).contains("2 of 3 agents"), "{status:?}");
    assert_eq!((early.commands(), second.commands()), (Vec::new(), Vec::new()));
    let _third = Identity::of("two", 0).subscribe(&world).await;
    world.until_state("iris", 1, ModelState::ModelAvailable).await;
}

#[tokio::test]
async fn placement_waits_no_longer_than_the_limit() {
    let world = waiting(200).await;
    let _agent = Identity::of("one", 0).subscribe(&world).await;
    first_word(&world, &[("one", 9)]).await;
    world.load(&Draft::of("iris")).await.unwrap();
    world.until_state("iris", 1, ModelState::ModelAvailable).await;
}

#[tokio::test]
async fn first_word_of_no_replicas_or_no_servers_is_enough() {
    for servers in [&[("one", 0)][..], &[][..]] {
        let world = waiting(LONG_MS).await;
        let _agent = Identity::of("other", 0).subscribe(&world).await;
        world.load(&Draft::of("iris")).await.unwrap();
        first_word(&world, servers).await;
        world.until_state("iris", 1, ModelState::ModelAvailable).await;
    }
}

#[tokio::test]
async fn operator_is_asked_for_servers_first_and_for_the_rest_when_it_can_be_acted_on() {
    let world = waiting(LONG_MS).await;
    let request = wire::ControlPlaneSubscriptionRequest { subscriber_name: "test".into() };
    let mut events = world.control.clone().subscribe_control_plane(request).await.unwrap().into_inner();
    assert_eq!(next(&mut events).await.event(), Event::SendServers);
    is_silent(&world, &mut events).await;
    first_word(&world, &[("one", 1)]).await;
    is_silent(&world, &mut events).await;
    let _agent = Identity::of("one", 0).subscribe(&world).await;
    for event in [Event::SendExperiments, Event::SendModels, Event::SendPipelines] {
        assert_eq!(next(&mut events).await.event(), event);
    }
    is_silent(&world, &mut events).await;
}

#[tokio::test]
async fn statuses_are_told_after_the_start_those_of_servers_at_once() {
    let world = waiting(LONG_MS).await;
    first_word(&world, &[("one", 1)]).await;
    let mut control = world.control.clone();
    let request = wire::ServerSubscriptionRequest::default();
    let mut servers = control.subscribe_server_status(request).await.unwrap().into_inner();
    assert_eq!(next(&mut servers).await.server_name, "one");
    let mut models = control.subscribe_model_status(wire::ModelSubscriptionRequest::default()).await.unwrap();
    let experiments = control.subscribe_experiment_status(wire::ExperimentSubscriptionRequest::default());
    let mut experiments = experiments.await.unwrap();
    world.load(&Draft::of("iris")).await.unwrap();
    let candidate = wire::ExperimentCandidate { name: "iris".into(), weight: 1 };
    let split = wire::Experiment { name: "split".into(), candidates: vec![candidate], ..Default::default() };
    control.start_experiment(wire::StartExperimentRequest { experiment: Some(split) }).await.unwrap();
    is_silent(&world, models.get_mut()).await;
    is_silent(&world, experiments.get_mut()).await;
    let _agent = Identity::of("one", 0).subscribe(&world).await;
    assert_eq!(next(models.get_mut()).await.model_name, "iris");
    assert_eq!(next(experiments.get_mut()).await.experiment_name, "split");
}

#[tokio::test]
async fn envoys_of_an_empty_store_are_answered_only_after_the_start() {
    let world = waiting(LONG_MS).await;
    let envoy = Envoy::open(&world, "first").await;
    for _ in 0..20 {
        world.server_statuses(None).await.unwrap();
    }
    assert_eq!(envoy.now().received, Vec::<String>::new());
    first_word(&world, &[]).await;
    envoy.until("it has routes", |seen| seen.synced).await;
}

#[tokio::test]
async fn filled_store_waits_for_nobody() {
    let world = World::start().await;
    let agent = Identity::of("one", 0).subscribe(&world).await;
    world.load(&Draft::of("iris")).await.unwrap();
    world.until_state("iris", 1, ModelState::ModelAvailable).await;
    let identity = agent.disconnect();
    let folder = world.stop().await;
    let world = World::start_with(folder, |config| config.decisions.first_sync_ms = Some(LONG_MS)).await;
    let envoy = Envoy::start(&world, "first").await;
    envoy.until_shares("iris", &[("iris_1", 100)]).await;
    // Models are on disk: they are listed with no agent and no operator.
    assert_eq!(world.statuses(None, false).await.unwrap().0.len(), 1);
    world.until_state("iris", 1, ModelState::ModelAvailable).await;
    let _agent = identity.subscribe(&world).await;
    world.load(&Draft::of("second")).await.unwrap();
    world.until_state("second", 1, ModelState::ModelAvailable).await;
}

#[tokio::test]
async fn running_experiment_is_active_after_a_restart_and_a_stopped_one_is_not() {
    let world = World::start().await;
    let agent = Identity::of("one", 0).subscribe(&world).await;
    let mut control = world.control.clone();
    for name in ["a", "b"] {
        world.load(&Draft::of(name)).await.unwrap();
        world.until_state(name, 1, ModelState::ModelAvailable).await;
    }
    for name in ["runs", "stopped"] {
        let candidates = ["a", "b"].map(|name| wire::ExperimentCandidate { name: name.into(), weight: 1 }).into();
        let split = wire::Experiment { name: name.into(), candidates, ..Default::default() };
        control.start_experiment(wire::StartExperimentRequest { experiment: Some(split) }).await.unwrap();
    }
    control.stop_experiment(wire::StopExperimentRequest { name: "stopped".into() }).await.unwrap();
    let identity = agent.disconnect();
    let world = world.restart().await;
    let _agent = identity.subscribe(&world).await;
    loop_until("one is active and the other is not", async || {
        let request = wire::ExperimentStatusRequest::default();
        let mut answers = world.control.clone().experiment_status(request).await.unwrap().into_inner();
        let mut seen = Vec::new();
        while let Some(status) = answers.message().await.unwrap() {
            seen.push((status.experiment_name, status.active));
        }
        if seen == [("runs".to_owned(), true), ("stopped".to_owned(), false)] {
            Ok(())
        } else {
            Err(format!("{seen:?}"))
        }
    })
    .await;
}
