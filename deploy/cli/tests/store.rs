//! `switchyard store …`, as a program.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use messages::scheduler as wire;
use scheduler::store::{self};

const MAP: u64 = 8 << 20;

fn switchyard(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_switchyard")).args(arguments).output().expect("it runs")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a readable path")
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// A store with one model, made by a scheduler.
fn filled(folder: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let bind = async || tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let (xds, control, agents, workers) = (bind().await, bind().await, bind().await, bind().await);
        let at = control.local_addr().expect("an address");
        let stop = runtime::Stop::new();
        let listeners = scheduler::Listeners { xds, control, agents, workers };
        let running = tokio::spawn(scheduler::run(scheduler::Config::new(folder.into()), listeners, stop.clone()));
        let channel = tonic::transport::Endpoint::from_shared(format!("http://{at}")).expect("a URL").connect_lazy();
        let model = wire::Model {
            meta: Some(wire::MetaData { name: "iris".into(), ..Default::default() }),
            model_spec: Some(wire::ModelSpec { uri: "/models/iris".into(), ..Default::default() }),
            deployment_spec: Some(wire::DeploymentSpec { replicas: 1, ..Default::default() }),
            ..Default::default()
        };
        let request = wire::LoadModelRequest { model: Some(model) };
        let mut client = api::scheduler::scheduler_client::SchedulerClient::new(channel);
        client.load_model(request).await.expect("accepted");
        stop.request();
        running.await.expect("no panic").expect("it ends well");
    });
}

#[test]
fn a_store_is_checked_exported_and_imported() {
    let dir = tempfile::tempdir().expect("a folder");
    let (state, restored) = (dir.path().join("state"), dir.path().join("restored"));
    let backup = dir.path().join("backup.jsonl");
    filled(&state);
    let checked = switchyard(&["store", "check", text(&state)]);
    assert!(checked.status.success() && told(&checked).contains("1 models"), "{}", told(&checked));
    let exported = switchyard(&["store", "export", text(&state), text(&backup)]);
    assert!(exported.status.success() && told(&exported).contains("1 records"), "{}", told(&exported));
    let mode = std::fs::metadata(&backup).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "it may hold credentials");
    let written = std::fs::read_to_string(&backup).expect("readable");
    assert!(written.contains("version 1 of /models/iris"), "people can read what is in it: {written}");
    assert_eq!(told(&switchyard(&["store", "export", text(&state)])), written);
    let again = switchyard(&["store", "export", text(&state), text(&backup)]);
    assert!(!again.status.success(), "a file that is there is not overwritten");
    let imported = switchyard(&["store", "import", text(&backup), text(&restored)]);
    assert!(imported.status.success(), "{}", told(&imported));
    assert_eq!(store::check(&restored, MAP).expect("sound"), store::check(&state, MAP).expect("sound"));
    let full = switchyard(&["store", "import", text(&backup), text(&restored)]);
    assert!(!full.status.success() && told(&full).contains("not empty"), "{}", told(&full));
}

#[test]
fn a_store_that_is_missing_in_use_or_damaged_is_said_to_be() {
    let dir = tempfile::tempdir().expect("a folder");
    let state = dir.path().join("state");
    let missing = switchyard(&["store", "check", text(&state)]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(told(&missing).contains("there is no store in") && !state.exists(), "{}", told(&missing));
    filled(&state);
    let held = std::fs::File::open(state.join("LOCK")).expect("a lock file");
    held.lock().expect("locked");
    let in_use = switchyard(&["store", "check", text(&state)]);
    assert!(!in_use.status.success() && told(&in_use).contains("in use"), "{}", told(&in_use));
    drop(held);
    let path = state.join("store/data.mdb");
    let bytes = std::fs::read(&path).expect("readable");
    std::fs::write(&path, &bytes[..bytes.len() / 2]).expect("written");
    let damaged = switchyard(&["store", "check", text(&state)]);
    assert_eq!(damaged.status.code(), Some(1));
    assert!(told(&damaged).contains("cut off") && told(&damaged).contains("nothing was changed"), "{}", told(&damaged));
    assert_eq!(std::fs::read(&path).expect("readable"), bytes[..bytes.len() / 2]);
}
