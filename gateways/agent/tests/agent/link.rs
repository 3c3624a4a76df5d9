//! The stream to the scheduler: commands, reports, reconnects.

use messages::agent::model_event_message::Event;
use tonic::Status;

use crate::scheduler::{Report, Scheduler};
use crate::server::full;
use crate::world::{World, client, read, until, within};

const IRIS: (&str, &str) = ("seldon-internal-model", "iris_2");

#[tokio::test]
async fn subscription_says_who_the_replica_is() {
    let mut world = World::with(|config| {
        config.capabilities = vec!["onnx".to_owned(), "gpu".to_owned()];
        config.over_commit_percentage = 20;
    })
    .await;
    let request = world.scheduler.stream().await.request;
    assert_eq!((request.server_name.as_str(), request.replica_idx, request.shared), ("onnx", 3, true));
    assert_eq!((request.available_memory_bytes, request.loaded_models.len()), (1000, 0));
    let config = request.replica_config.expect("a configuration");
    assert_eq!(config.inference_svc, "10.1.2.3");
    assert_eq!([config.inference_http_port, config.inference_grpc_port], [i32::from(world.agent.port()); 2]);
    assert_eq!((config.memory_bytes, config.over_commit_percentage), (1000, 20));
    assert_eq!(config.capabilities, ["gpu", "onnx"]);
}

#[tokio::test]
async fn load_copies_the_artifact_and_unload_removes_it_and_both_echo_the_fence() {
    let mut world = World::start().await;
    let stream = world.scheduler.stream().await;
    stream.load("iris", 2, &format!("file://{}", world.artifact()), 17);
    let report = |event, fence, available| Report {
        model: "iris_2".to_owned(),
        event,
        message: String::new(),
        fence: Some(fence),
        available,
    };
    assert_eq!(world.scheduler.report().await, report(Event::Loaded, 17, 900));
    assert_eq!(std::fs::read_to_string(world.files("iris_2").join("model.onnx")).unwrap(), "weights");
    // Once more: it is there already, so nothing is done.
    stream.load("iris", 2, "/nowhere", 18);
    assert_eq!(world.scheduler.report().await, report(Event::Loaded, 18, 900));
    assert_eq!(world.server.seen(), ["load iris_2"]);
    stream.unload("iris", 2, 19);
    assert_eq!(world.scheduler.report().await, report(Event::Unloaded, 19, 1000));
    assert!(!world.files("iris_2").exists());
    stream.unload("iris", 2, 20);
    assert_eq!(world.scheduler.report().await, report(Event::Unloaded, 20, 1000));
    assert_eq!(world.server.seen(), ["load iris_2", "unload iris_2"]);
    let answer = world.call("GET", "/v2/models/iris", &[IRIS], "").await;
    assert_eq!(answer.status, 404);
}

#[tokio::test]
async fn failed_load_says_why_and_leaves_no_files() {
    let mut world = World::start().await;
    world.server.memory.lock().unwrap().broken.insert("broken_1".to_owned());
    let stream = world.scheduler.stream().await;
    let artifact = world.artifact();
    let cases = [
        ("cloud", "s3://bucket/iris", "s3:// needs the storage feature"),
        ("relative", "models/iris", "relative path"),
        ("missing", "/no/such/artifact", "/no/such/artifact: No such file"),
        ("broken", artifact.as_str(), "load broken_1 on the inference server: not a model at all"),
    ];
    for (model, uri, expected) in cases {
        stream.load(model, 1, uri, 5);
        let report = world.scheduler.report().await;
        assert_eq!((report.model, report.event, report.fence), (format!("{model}_1"), Event::LoadFailed, Some(5)));
        assert!(report.message.contains(expected), "{}", report.message);
        assert!(!world.files(&format!("{model}_1")).exists());
        assert_eq!(report.available, 1000);
    }
}

#[tokio::test]
async fn report_is_repeated_until_it_is_acknowledged_or_called_stale() {
    let mut world = World::start().await;
    let stream = world.scheduler.stream().await;
    let busy = || Status::unavailable("busy");
    world.scheduler.answers.lock().unwrap().extend([busy(), busy(), Status::internal("stale")]);
    stream.load("iris", 1, &world.artifact(), 1);
    for _ in 0..3 {
        assert_eq!(world.scheduler.event().await, (Event::Loaded, "iris_1".to_owned(), Some(1)));
    }
    // After the answer that it is stale nothing more is said of it.
    stream.load("iris", 2, &world.artifact(), 2);
    assert_eq!(world.scheduler.event().await, (Event::Loaded, "iris_2".to_owned(), Some(2)));
}

#[tokio::test]
async fn lost_stream_stops_nothing_and_the_next_one_lists_what_is_loaded() {
    let mut world = World::start().await;
    let stream = world.loaded(&["iris_2", "wine_1"]).await;
    drop(stream);
    let answer = world.call("POST", "/v2/models/iris/infer", &[IRIS], "{}").await;
    assert_eq!(answer.status, 200);
    let again = world.scheduler.stream().await;
    assert_eq!(again.held(), ["iris_2", "wine_1"]);
    assert_eq!(again.request.available_memory_bytes, 800);
    let spec = again.request.loaded_models[0].model.as_ref().unwrap().model_spec.as_ref().unwrap();
    assert_eq!((spec.uri.as_str(), spec.memory_bytes), (world.artifact().as_str(), Some(100)));
    again.unload("wine", 1, 1);
    assert_eq!(world.scheduler.event().await, (Event::Unloaded, "wine_1".to_owned(), Some(1)));
}

#[tokio::test]
async fn report_of_a_lost_stream_is_not_sent_on_the_next_one() {
    let mut world = World::start().await;
    let stream = world.scheduler.stream().await;
    world.scheduler.answers.lock().unwrap().push_back(Status::unavailable("busy"));
    stream.load("iris", 1, &world.artifact(), 1);
    assert_eq!(world.scheduler.event().await.0, Event::Loaded);
    drop(stream);
    let again = world.scheduler.stream().await;
    assert_eq!(again.held(), ["iris_1"]);
    again.load("wine", 1, &world.artifact(), 2);
    // A repeat on the old stream may have been under way; on the new one there is none.
    let mut event = world.scheduler.event().await;
    while event.1 == "iris_1" {
        event = world.scheduler.event().await;
    }
    assert_eq!(event, (Event::Loaded, "wine_1".to_owned(), Some(2)));
}

#[tokio::test]
async fn another_scheduler_takes_over_when_the_first_is_gone() {
    let mut second = Scheduler::start().await;
    let address = second.address.to_string();
    let mut world = World::with(|config| config.schedulers.push(address)).await;
    let stream = world.loaded(&["iris_2"]).await;
    world.scheduler = Scheduler::start().await;
    drop(stream);
    assert_eq!(second.stream().await.held(), ["iris_2"]);
}

#[tokio::test]
async fn unload_waits_for_the_requests_that_use_the_model() {
    let mut world = World::start().await;
    let stream = world.loaded(&["iris_2"]).await;
    let request = world.request("POST", "/v2/models/iris/infer", &[IRIS]).body(full("hang")).unwrap();
    let waiting = tokio::spawn(async move { client(true).request(request).await.map(|_| ()) });
    until("the request to hang", || world.server.hanging() == 1).await;
    stream.unload("iris", 2, 1);
    // A command for another model goes by, so the unload has begun; the model still serves.
    stream.load("wine", 1, &world.artifact(), 2);
    assert_eq!(world.scheduler.event().await, (Event::Loaded, "wine_1".to_owned(), Some(2)));
    assert_eq!(world.call("GET", "/v2/models/iris", &[IRIS], "").await.status, 200);
    waiting.abort();
    assert_eq!(world.scheduler.event().await, (Event::Unloaded, "iris_2".to_owned(), Some(1)));
}

#[tokio::test]
async fn newer_command_takes_the_place_of_one_that_waits_and_an_older_one_is_ignored() {
    let mut world = World::start().await;
    let stream = world.loaded(&["iris_2"]).await;
    let request = world.request("POST", "/v2/models/iris/infer", &[IRIS]).body(full("hang")).unwrap();
    let waiting = tokio::spawn(async move { read(client(true).request(request).await.unwrap()).await.status });
    until("the request to hang", || world.server.hanging() == 1).await;
    stream.unload("iris", 2, 5);
    stream.load("iris", 2, &world.artifact(), 7);
    assert_eq!(world.scheduler.event().await, (Event::Loaded, "iris_2".to_owned(), Some(7)));
    stream.unload("iris", 2, 9);
    stream.load("iris", 2, &world.artifact(), 8);
    waiting.abort();
    assert_eq!(world.scheduler.event().await, (Event::Unloaded, "iris_2".to_owned(), Some(9)));
    assert_eq!(world.server.seen().iter().filter(|seen| *seen == "load iris_2").count(), 1);
}

#[tokio::test]
async fn agent_stops_when_told_to() {
    let mut world = World::start().await;
    let stream = world.loaded(&["iris_2"]).await;
    world.stop.request();
    stream.left().await;
    within("the agent to stop", &mut world.running).await.expect("no panic").expect("a good end");
}
