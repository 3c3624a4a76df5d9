//! How large servers should be, and what their owners are asked for (rows 34, 60 to 63).

use messages::scheduler as wire;
use messages::scheduler::model_replica_status::ModelReplicaState as Replica;
use messages::scheduler::model_status::ModelState;
use messages::scheduler::server_status_response::Type;
use tokio::sync::mpsc;

use crate::agent::{Agent, Identity};
use crate::declare::Draft;
use crate::world::{DEADLINE, World, replica};

/// What a watcher of servers is told, status updates and wishes.
struct Watcher(mpsc::UnboundedReceiver<wire::ServerStatusResponse>);

impl Watcher {
    async fn start(world: &World) -> Watcher {
        let request = wire::ServerSubscriptionRequest { subscriber_name: "test".into() };
        let mut stream = world.control.clone().subscribe_server_status(request).await.unwrap().into_inner();
        let (tell, told) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok(Some(status)) = stream.message().await {
                if tell.send(status).is_err() {
                    break;
                }
            }
        });
        Watcher(told)
    }

    /// Wishes until a server of that name is told of.
    async fn wishes_until(&mut self, sentinel: &str) -> Vec<wire::ServerStatusResponse> {
        let mut wishes = Vec::new();
        loop {
            let status = tokio::time::timeout(DEADLINE, self.0.recv()).await.expect("in time").expect("it goes on");
            if status.server_name == sentinel {
                return wishes;
            }
            if status.r#type() == Type::ScalingRequest {
                wishes.push(status);
            }
        }
    }
}

async fn notify(world: &World, name: &str, expected_replicas: u32, min_replicas: u32, max_replicas: u32) {
    let kubernetes_meta = Some(wire::KubernetesMeta { namespace: "test".into(), generation: 5 });
    let server = wire::ServerNotify {
        name: name.into(),
        expected_replicas,
        shared: false,
        kubernetes_meta,
        min_replicas,
        max_replicas,
    };
    let request = wire::ServerNotifyRequest { servers: vec![server], is_first_sync: false };
    world.control.clone().server_notify(request).await.unwrap();
}

async fn agents(world: &World, count: u32) -> Vec<Agent> {
    let mut agents = Vec::new();
    for index in 0..count {
        agents.push(Identity::of("onnx", index).subscribe(world).await);
    }
    agents
}

fn request(replicas: i32) -> wire::ServerStatusResponse {
    wire::ServerStatusResponse {
        server_name: "onnx".into(),
        expected_replicas: replicas,
        kubernetes_meta: Some(wire::KubernetesMeta { namespace: "test".into(), generation: 5 }),
        r#type: Type::ScalingRequest.into(),
        ..wire::ServerStatusResponse::default()
    }
}

#[tokio::test]
async fn model_that_wants_more_replicas_asks_for_them_within_the_maximum() {
    for (expected, max, wish) in [(1, 4, Some(3)), (1, 2, Some(2)), (3, 4, None)] {
        let world = World::start().await;
        let _agents = agents(&world, 1).await;
        notify(&world, "onnx", expected, 0, max).await;
        let mut watcher = Watcher::start(&world).await;
        world.load(&Draft::of("iris").replicas(3)).await.unwrap();
        world.until_replica("iris", 0, Replica::Available).await;
        notify(&world, "sentinel", 1, 0, 0).await;
        let wishes = watcher.wishes_until("sentinel").await;
        assert_eq!(wishes, wish.map(request).into_iter().collect::<Vec<_>>(), "expected {expected}, maximum {max}");
    }
}

#[tokio::test]
async fn partly_placed_model_is_available_from_its_minimum_on_and_asks_for_the_rest() {
    let world = World::start().await;
    let _agents = agents(&world, 3).await;
    notify(&world, "onnx", 3, 0, 8).await;
    let mut watcher = Watcher::start(&world).await;
    world.load(&Draft::of("iris").replicas(5).at_least(2)).await.unwrap();
    let there =
        |status: &wire::ModelVersionStatus| (0..3).all(|index| replica(status, index) == Some(Replica::Available));
    let status = world.until_model("iris", "three replicas serve", there).await;
    assert_eq!(crate::world::state_of(&status), ModelState::ModelAvailable);
    notify(&world, "sentinel", 1, 0, 0).await;
    assert_eq!(watcher.wishes_until("sentinel").await, [request(5)]);
}

#[tokio::test]
async fn empty_replicas_are_given_back_after_an_unload_down_to_the_minimum() {
    for (expected, min, wish) in [(3, 1, Some(1)), (3, 2, Some(2)), (1, 0, None)] {
        let world = World::start().await;
        let agents = agents(&world, 3).await;
        notify(&world, "onnx", expected, min, 4).await;
        let mut watcher = Watcher::start(&world).await;
        world.load(&Draft::of("stays")).await.unwrap();
        world.load(&Draft::of("goes").replicas(2)).await.unwrap();
        world.until_state("stays", 1, ModelState::ModelAvailable).await;
        world.until_state("goes", 1, ModelState::ModelAvailable).await;
        world.unload("goes", None).await.unwrap();
        world.until_state("goes", 1, ModelState::ModelTerminated).await;
        notify(&world, "sentinel", 1, 0, 0).await;
        let wishes = watcher.wishes_until("sentinel").await;
        assert_eq!(wishes.last().cloned(), wish.map(request), "expected {expected}, minimum {min}");
        drop(agents);
    }
}

#[tokio::test]
async fn without_packing_nothing_is_asked_while_no_replica_is_empty() {
    let world = World::start().await;
    let _agents = agents(&world, 2).await;
    notify(&world, "onnx", 2, 0, 4).await;
    let mut watcher = Watcher::start(&world).await;
    for name in ["a", "b", "goes"] {
        world.load(&Draft::of(name)).await.unwrap();
        world.until_state(name, 1, ModelState::ModelAvailable).await;
    }
    world.unload("goes", None).await.unwrap();
    world.until_state("goes", 1, ModelState::ModelTerminated).await;
    notify(&world, "sentinel", 1, 0, 0).await;
    assert_eq!(watcher.wishes_until("sentinel").await, []);
}

#[tokio::test]
async fn more_empty_replicas_than_expected_never_make_a_huge_number() {
    let world = World::start().await;
    let _agents = agents(&world, 6).await;
    notify(&world, "onnx", 2, 0, 8).await;
    let mut watcher = Watcher::start(&world).await;
    world.load(&Draft::of("goes")).await.unwrap();
    world.until_state("goes", 1, ModelState::ModelAvailable).await;
    world.unload("goes", None).await.unwrap();
    world.until_state("goes", 1, ModelState::ModelTerminated).await;
    notify(&world, "sentinel", 1, 0, 0).await;
    assert_eq!(watcher.wishes_until("sentinel").await, [request(1)]);
}
