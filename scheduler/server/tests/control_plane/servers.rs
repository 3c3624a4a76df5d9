//! Servers as their owners and their watchers see them, health, and what is not in this version (rows 37, 57, 58, 64,
//! 103, 106).

use messages::scheduler as wire;
use messages::scheduler::model_status::ModelState;
use messages::scheduler::server_status_response::Type;
use tonic::Code;

use crate::agent::Identity;
use crate::declare::Draft;
use crate::world::{World, loop_until, refused};

fn notify(name: &str, expected_replicas: u32) -> wire::ServerNotifyRequest {
    let meta = Some(wire::KubernetesMeta { namespace: "test".into(), generation: 5 });
    let server = wire::ServerNotify {
        name: name.into(),
        expected_replicas,
        shared: true,
        kubernetes_meta: meta,
        min_replicas: 0,
        max_replicas: 4,
    };
    wire::ServerNotifyRequest { servers: vec![server], is_first_sync: false }
}

#[tokio::test]
async fn server_status_says_what_is_expected_and_what_is_there() {
    let world = World::start().await;
    let _agent = Identity::of("onnx", 3).memory(100).subscribe(&world).await;
    world.load(&Draft::of("iris")).await.unwrap();
    world.until_state("iris", 1, ModelState::ModelAvailable).await;
    let status = world.server_statuses(Some("onnx")).await.unwrap().remove(0);
    let resources = wire::ServerReplicaResources {
        replica_idx: 3,
        total_memory_bytes: 100,
        available_memory_bytes: 90,
        num_loaded_models: 1,
        over_commit_percentage: 0,
    };
    let mut expected = wire::ServerStatusResponse {
        server_name: "onnx".into(),
        resources: vec![resources],
        expected_replicas: -1,
        available_replicas: 1,
        num_loaded_model_replicas: 1,
        kubernetes_meta: None,
        r#type: Type::StatusUpdate.into(),
        min_replicas: None,
        max_replicas: None,
    };
    assert_eq!(status, expected);

    world.control.clone().server_notify(notify("onnx", 2)).await.unwrap();
    world.control.clone().server_notify(notify("later", 3)).await.unwrap();
    expected.expected_replicas = 2;
    (expected.min_replicas, expected.max_replicas) = (Some(0), Some(4));
    expected.kubernetes_meta = Some(wire::KubernetesMeta { namespace: "test".into(), generation: 5 });
    let all = world.server_statuses(None).await.unwrap();
    let names: Vec<_> = all.iter().map(|status| (status.server_name.as_str(), status.expected_replicas)).collect();
    assert_eq!(names, [("later", 3), ("onnx", 2)]);
    assert_eq!(all[1], expected);
    refused(world.server_statuses(Some("nobody")).await, Code::FailedPrecondition);
}

#[tokio::test]
async fn server_watcher_is_told_all_there_are_and_then_what_changes() {
    let world = World::start().await;
    world.control.clone().server_notify(notify("onnx", 1)).await.unwrap();
    let request = wire::ServerSubscriptionRequest { subscriber_name: "test".into() };
    let watched = world.control.clone().subscribe_server_status(request).await.unwrap();
    let mut watched = watched.into_inner();
    let first = watched.message().await.unwrap().unwrap();
    assert_eq!((first.server_name.as_str(), first.expected_replicas, first.available_replicas), ("onnx", 1, 0));
    let _agent = Identity::of("onnx", 0).subscribe(&world).await;
    let told = async {
        while let Some(status) = watched.message().await.unwrap() {
            if status.available_replicas == 1 && status.expected_replicas == 1 {
                return status;
            }
        }
        panic!("the stream ended");
    };
    let status = tokio::time::timeout(crate::world::DEADLINE, told).await.unwrap();
    assert_eq!(status.r#type(), Type::StatusUpdate);
}

#[tokio::test]
async fn server_scaled_to_zero_gives_its_models_to_another() {
    let world = World::start().await;
    let _zero = Identity::of("a", 0).memory(1_000).subscribe(&world).await;
    world.load(&Draft::of("iris")).await.unwrap();
    assert_eq!(world.until_state("iris", 1, ModelState::ModelAvailable).await.server_name, "a");
    let _other = Identity::of("b", 0).subscribe(&world).await;
    world.control.clone().server_notify(notify("a", 0)).await.unwrap();
    assert_eq!(world.until_state("iris", 2, ModelState::ModelAvailable).await.server_name, "b");
    world.load(&Draft::of("second")).await.unwrap();
    assert_eq!(world.until_state("second", 1, ModelState::ModelAvailable).await.server_name, "b");
    world.load(&Draft::of("third").server("a")).await.unwrap();
    world.until_state("third", 1, ModelState::ScheduleFailed).await;
}

#[tokio::test]
async fn bounds_outlive_the_agents_and_the_scheduler() {
    let world = World::start().await;
    world.control.clone().server_notify(notify("onnx", 2)).await.unwrap();
    let agent = Identity::of("onnx", 0).subscribe(&world).await;
    drop(agent.disconnect());
    loop_until("the replica is not available any more", async || {
        let status = world.server_statuses(Some("onnx")).await.unwrap().remove(0);
        if status.available_replicas == 0 { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
    let world = world.restart().await;
    let status = world.server_statuses(Some("onnx")).await.unwrap().remove(0);
    assert_eq!(status.expected_replicas, 2);
}

#[tokio::test]
async fn impossible_bounds_are_refused_and_named() {
    let world = World::start().await;
    let call = |edit: fn(&mut wire::ServerNotify)| {
        let mut request = notify("onnx", 1);
        edit(&mut request.servers[0]);
        let mut control = world.control.clone();
        async move { control.server_notify(request).await }
    };
    for (edit, field) in [
        ((|server| server.name = "Bad.Name".into()) as fn(&mut wire::ServerNotify), "servers[0].name"),
        (|server| server.expected_replicas = u32::MAX, "servers[0].expectedReplicas"),
        (|server| server.min_replicas = 5, "servers[0].minReplicas"),
    ] {
        let text = refused(call(edit).await, Code::FailedPrecondition);
        assert!(text.contains(field), "{text}");
    }
    assert_eq!(world.server_statuses(None).await.unwrap(), []);
}

#[tokio::test]
async fn health_is_ok_on_every_port() {
    let world = World::start().await;
    assert!(world.is_healthy().await);
}

#[tokio::test]
async fn control_plane_asks_for_everything_at_once() {
    let world = World::start().await;
    let request = wire::ControlPlaneSubscriptionRequest { subscriber_name: "test".into() };
    let mut events = world.control.clone().subscribe_control_plane(request).await.unwrap().into_inner();
    use wire::control_plane_response::Event;
    for expected in [Event::SendServers, Event::SendExperiments, Event::SendModels, Event::SendPipelines] {
        assert_eq!(events.message().await.unwrap().unwrap().event(), expected);
    }
}

#[tokio::test]
async fn version_is_told() {
    let world = World::start().await;
    let status = world.control.clone().scheduler_status(wire::SchedulerStatusRequest::default()).await.unwrap();
    assert_eq!(status.into_inner().application_version, env!("CARGO_PKG_VERSION"));
}
