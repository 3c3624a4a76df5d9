//! The inference server dies, restarts, forgets. The child of these tests is this very test program, told by its
//! environment to be a server.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent::{Inference, SpawnCommand};
use domain::header::REFUSED;
use http::StatusCode;
use messages::inference::ModelInferRequest;
use tokio::net::TcpListener;

use crate::scheduler::Stream;
use crate::server::{Server, full};
use crate::world::{World, client, read, until, within};

const PORT: &str = "AGENT_TEST_PORT";
const IRIS: (&str, &str) = ("seldon-internal-model", "iris_2");

#[test]
fn is_a_server_when_the_environment_says_so() {
    let Ok(port) = std::env::var(PORT) else { return };
    let port: u16 = port.parse().expect("a port");
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(async {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("a free port");
        Server::default().serve(listener).await;
    });
}

fn script(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("a file");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("a file of ours");
    path
}

/// An agent with a child; `before` is shell text that runs before the child becomes a server.
async fn spawned(folder: &Path, before: &str) -> World {
    let this = std::env::current_exe().expect("a program");
    let test = "supervise::is_a_server_when_the_environment_says_so";
    let program = script(folder, "server", &format!("{before}\nexec {} --exact {test} --nocapture", this.display()));
    let command = SpawnCommand {
        program,
        environment: vec![(PORT.to_owned(), "{port}".to_owned())],
        launcher: Some(script(folder, "launcher", "shift 3; exec \"$@\"")),
        ..SpawnCommand::default()
    };
    World::of(Server::default(), None, Inference::Spawn(command), |_| ()).await
}

/// What a client over HTTP/2 gets: a status, or the reason of a reset.
async fn outcome(world: &World) -> Result<StatusCode, Option<h2::Reason>> {
    let request = world.request("GET", "/v2/models/iris", &[IRIS]).body(full("")).expect("a request");
    match within("an answer", client(true).request(request)).await {
        Ok(response) => Ok(read(response).await.status),
        Err(error) => {
            let mut source: Option<&dyn std::error::Error> = Some(&error);
            while let Some(cause) = source {
                if let Some(error) = cause.downcast_ref::<h2::Error>() {
                    return Err(error.reason());
                }
                source = cause.source();
            }
            panic!("no HTTP/2 error: {error:?}")
        }
    }
}

async fn is_refused(world: &World) {
    assert_eq!(outcome(world).await, Err(Some(h2::Reason::REFUSED_STREAM)));
    let request = world.request("GET", "/v2/models/iris", &[IRIS]).body(full("")).expect("a request");
    let answer = within("an answer", async { read(client(false).request(request).await.expect("an answer")).await });
    let answer = answer.await;
    assert_eq!(
        (answer.status, answer.error().as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, "the inference server is down")
    );
}

async fn kill_server(world: &World, stream: &Stream) {
    let answer = world.call("POST", "/v2/models/iris/infer", &[IRIS], "die").await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert!(answer.error().contains("inference server of onnx/3"), "{}", answer.error());
    stream.left().await;
}

#[tokio::test]
async fn what_a_new_agent_does_not_hold_yet_may_be_asked_of_another_replica() {
    let mut world = World::with(|config| config.settles_after = Duration::from_secs(3600)).await;
    let stream = world.loaded(&["wine_1"]).await;
    let answer = world.call("GET", "/v2/models/iris", &[IRIS], "").await;
    assert_eq!((answer.status, answer.header(REFUSED)), (StatusCode::SERVICE_UNAVAILABLE, "1"));
    assert_eq!(answer.error(), "model \"iris_2\" is not loaded on onnx/3 yet");
    let message = ModelInferRequest { model_name: "iris".to_owned(), ..Default::default() };
    let status = world.grpc().await.model_infer(message).await.expect_err("refused");
    let refused = status.metadata().get(REFUSED).is_some();
    assert!(status.code() == tonic::Code::Unavailable && refused, "{status:?}");
    stream.load("iris", 2, &world.artifact(), None);
    assert_eq!(world.scheduler.event().await.1, "iris_2");
    assert_eq!(outcome(&world).await, Ok(StatusCode::OK));
}

#[tokio::test]
async fn dead_child_ends_the_stream_and_the_next_life_holds_what_was_loaded() {
    let folder = tempfile::tempdir().expect("a folder");
    // Later lives wait for a word of the test, so that it sees the time between.
    let (began, go) = (folder.path().join("began"), folder.path().join("go"));
    let before = format!(
        "if [ -e {0} ]; then while [ ! -e {1} ]; do sleep 0.01; done; fi; touch {0}",
        began.display(),
        go.display()
    );
    let mut world = spawned(folder.path(), &before).await;
    is_refused(&world).await;
    let stream = world.loaded(&["iris_2", "wine_1"]).await;
    assert_eq!(outcome(&world).await, Ok(StatusCode::OK));
    kill_server(&world, &stream).await;
    is_refused(&world).await;
    std::fs::write(&go, "").expect("a file");
    assert_eq!(world.scheduler.stream().await.held(), ["iris_2", "wine_1"]);
    assert_eq!(outcome(&world).await, Ok(StatusCode::OK));
    let log = world.folder.path().join("agent/server.log");
    assert!(std::fs::read_to_string(log).expect("a log").contains("running 1 test"));
    world.stop.request();
    within("the agent to stop", &mut world.running).await.expect("no panic").expect("a good end");
}

#[tokio::test]
async fn server_that_keeps_ending_is_started_again_and_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let count = folder.path().join("count");
    let before = format!("echo . >> {0}; [ $(wc -l < {0}) -ge 3 ] || exit 1", count.display());
    let mut world = spawned(folder.path(), &before).await;
    assert!(world.scheduler.stream().await.held().is_empty());
    assert_eq!(std::fs::read_to_string(count).expect("a file").lines().count(), 3);
    assert_eq!(world.call("GET", "/v2/health/live", &[], "").await.status, StatusCode::OK);
}

#[tokio::test]
async fn server_of_somebody_else_that_forgot_its_models_gets_them_again() {
    let mut world = World::start().await;
    let stream = world.loaded(&["iris_2", "wine_1"]).await;
    let mut client = world.grpc().await;
    let mut call = tonic::Request::new(ModelInferRequest { id: "hang".to_owned(), ..Default::default() });
    call.metadata_mut().insert(IRIS.0, IRIS.1.parse().expect("text"));
    let call = tokio::spawn(async move { client.model_infer(call).await.map(|_| ()) });
    until("the call to hang", || world.server.hanging() == 1).await;
    let address = world.listening.take().expect("a server").address;
    let status = within("the call to end", call).await.expect("no panic").expect_err("no answer");
    assert_eq!(status.code(), tonic::Code::Unavailable);
    assert!(status.message().contains("inference server of onnx/3"), "{status}");
    stream.left().await;
    is_refused(&world).await;
    {
        let mut memory = world.server.memory.lock().expect("memory");
        memory.loaded.clear();
        memory.broken.insert("wine_1".to_owned());
    }
    world.listening = Some(world.server.listen(address).await);
    // What it does not take any more is not listed.
    assert_eq!(world.scheduler.stream().await.held(), ["iris_2"]);
    assert_eq!(outcome(&world).await, Ok(StatusCode::OK));
    until("the files to go", || !world.files("wine_1").exists()).await;
}

#[tokio::test]
async fn agent_starts_with_nothing_and_unloads_what_an_earlier_one_left() {
    let server = Server::default();
    server.memory.lock().expect("memory").loaded.extend(["iris_2".to_owned(), "not-ours".to_owned()]);
    let listening = server.listen(crate::world::any_port()).await;
    let inference = Inference::Attached { http: listening.address, grpc: listening.address };
    let mut world = World::of(server, Some(listening), inference, |_| ()).await;
    assert!(world.scheduler.stream().await.held().is_empty());
    assert_eq!(world.server.seen(), ["unload iris_2"]);
}
