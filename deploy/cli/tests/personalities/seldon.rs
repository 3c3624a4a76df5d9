//! Called as `seldon`: what scripts for the compatible command line rely on.

use serde_json::Value;

use crate::world::World;
use crate::{WARNING, failed, well};

fn json(line: &str) -> Value {
    assert_eq!(line.trim_end().lines().count(), 1, "{line}");
    serde_json::from_str(line).expect(line)
}

fn columns(table: &str) -> Vec<Vec<&str>> {
    table.lines().map(|line| line.split_whitespace().collect()).collect()
}

#[test]
fn without_force_writes_change_nothing_warn_and_exit_0() {
    let world = World::start();
    let files = "-f iris.yaml";
    let writes = [
        format!("load {files}"),
        format!("model load {files}"),
        "experiment start -f split.yaml".to_owned(),
        format!("unload {files}"),
        "model unload iris".to_owned(),
        "experiment stop split".to_owned(),
        "model load -f missing.yaml --force=false".to_owned(),
    ];
    // What is there stays, what is not there does not come.
    well(world.seldon("model load -f iris.yaml --force"));
    for write in &writes {
        let said = well(world.seldon(write));
        assert!(said.starts_with(WARNING) && said.contains("--force") && said.lines().count() == 1, "{write}: {said}");
    }
    assert_eq!(json(&well(world.seldon("model status iris")))["versions"][0]["version"], 1);
    assert_eq!(columns(&well(world.seldon("model list")))[2][..2], ["iris", "ScheduleFailed"]);
    assert_eq!(columns(&well(world.seldon("experiment list"))).len(), 2);
    // With it, or with the variable, they do what they say, and warn all the same.
    assert_eq!(well(world.seldon("experiment start -f split.yaml --force")), format!("{WARNING}\n"));
    let set = |value| [("SELDON_SCHEDULE_HOST", world.address()), ("SELDON_FORCE_CONTROL_PLANE", value)];
    assert_eq!(well(world.folder.run("seldon", &set("true"), "experiment stop split")), format!("{WARNING}\n"));
    let said = well(world.folder.run("seldon", &set("False"), "model unload iris"));
    assert!(said.contains("Nothing was done"), "{said}");
    let said = failed(world.folder.run("seldon", &set("maybe"), "model unload iris"));
    assert!(said.contains(r#"SELDON_FORCE_CONTROL_PLANE is "maybe": it must be true or false"#), "{said}");
    let said = well(world.folder.run("seldon", &set("maybe"), "model list"));
    assert!(said.contains("iris"), "what does not write does not look at it: {said}");
}

#[test]
fn a_model_is_loaded_shown_and_unloaded_with_the_compatible_output() {
    let world = World::start();
    assert_eq!(well(world.seldon("model load -f iris.yaml --force")), format!("{WARNING}\n{{}}\n"));
    let said = well(world.seldon("model load --file-path=iris.yaml --force -v"));
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!((lines.len(), lines[0], lines[2]), (3, WARNING, "{}"), "{said}");
    let request = json(lines[1]);
    assert_eq!(request["model"]["meta"]["name"], "iris");
    assert_eq!(request["model"]["deploymentSpec"]["maxReplicas"], 4_294_967_295_u32);

    let status = json(&well(world.seldon("model status iris")));
    assert_eq!((&status["modelName"], &status["versions"][0]["version"]), (&"iris".into(), &1.into()));
    assert_eq!(status["versions"][0]["kubernetesMeta"], serde_json::json!({}));
    assert_eq!(well(world.seldon("model status iris -v")).lines().count(), 2);

    assert_eq!(well(world.seldon("model unload iris --force")), format!("{WARNING}\n"));
    let said = failed(world.seldon("model unload iris --force"));
    assert!(said.contains("model iris is unloaded already"), "{said}");
    assert_eq!(columns(&well(world.seldon("model list"))).len(), 2, "what has ended is hidden");
    assert_eq!(
        failed(world.seldon("model status nosuch")),
        "Error: rpc error: code = FailedPrecondition desc = model \"nosuch\" is not known\n"
    );
    let said = failed(world.seldon("model unload nosuch --force"));
    assert!(said.starts_with("Error: rpc error: code = FailedPrecondition desc = "), "{said}");
}

#[test]
fn waiting_for_a_state_ends_with_it_or_with_a_timeout() {
    let world = World::start();
    well(world.seldon("model load -f iris.yaml --force"));
    assert_eq!(well(world.seldon("model status iris -w ScheduleFailed")), "{}\n");
    assert_eq!(well(world.seldon("model status iris --wait=ScheduleFailed --timeout-secs 20")), "{}\n");
    let started = std::time::Instant::now();
    let said = failed(world.seldon("model status iris -w ModelAvailable -t 1"));
    assert!(said.starts_with("Error: Model wait status timeout: version 1 is ScheduleFailed"), "{said}");
    assert!(started.elapsed().as_secs() < 4, "it is one second: {:?}", started.elapsed());
    let said = failed(world.seldon("model status iris -w Ready"));
    assert!(said.contains(r#""Ready" (--wait) is no state"#) && said.contains("ModelAvailable"), "{said}");
    well(world.seldon("experiment start -f split.yaml --force"));
    let said = failed(world.seldon("experiment status split -w -t 1"));
    assert!(said.starts_with("Error: Experiment wait status timeout: not active: model iris"), "{said}");
    well(world.seldon("model unload iris --force"));
    assert_eq!(well(world.seldon("model status iris -w ModelTerminated")), "{}\n");
}

#[test]
fn an_experiment_is_started_shown_and_stopped_once() {
    let world = World::start();
    let said = well(world.seldon("experiment start -f split.yaml --force -v"));
    let request = json(said.lines().nth(1).expect("the request"));
    assert_eq!(request["experiment"]["candidates"][1], serde_json::json!({"name": "other", "weight": 1}));
    let status = json(&well(world.seldon("experiment status split")));
    assert_eq!((&status["experimentName"], &status["mirrorReady"]), (&"split".into(), &true.into()));
    assert!(status["active"].is_null() && status["candidatesReady"].is_null(), "defaults are left out: {status}");
    assert!(status["statusDescription"].as_str().is_some_and(|text| text.contains("other")), "{status}");
    assert_eq!(status["kubernetesMeta"], serde_json::json!({}));
    assert_eq!(well(world.seldon("experiment stop split --force")), format!("{WARNING}\n"));
    let said = failed(world.seldon("experiment stop split --force"));
    assert!(said.contains("code = FailedPrecondition desc = experiment split is stopped already"), "{said}");
    let list = well(world.seldon("experiment list"));
    assert_eq!(columns(&list)[2], ["split", "false"], "it stays listed: {list}");
    well(world.seldon("experiment start -f split.yaml --force"));
    well(world.seldon("experiment stop -f split.yaml --force"));
}

#[test]
fn lists_have_the_compatible_columns() {
    let world = World::start();
    well(world.seldon("load -f all.yaml --force"));
    for (list, header, row) in [
        ("model list", &["model", "state", "reason"][..], &["iris", "ScheduleFailed"][..]),
        ("experiment list", &["experiment", "active"], &["split", "false"]),
        ("server list", &["server", "replicas", "models"], &["onnx", "0", "0"]),
        ("config list", &["config", "path", "active"], &[]),
    ] {
        let said = well(world.seldon(list));
        let found = columns(&said);
        assert_eq!(found[0], header, "{said}");
        assert!(found[1].iter().all(|rule| rule.bytes().all(|byte| byte == b'-')), "{said}");
        assert!(found.get(2).map_or(&[][..], Vec::as_slice).starts_with(row), "{said}");
    }
}

#[test]
fn files_of_several_kinds_are_loaded_shown_and_unloaded() {
    let world = World::start();
    assert_eq!(well(world.seldon("load -f all.yaml --force")), format!("{WARNING}\n{{}}\n"));
    let said = well(world.seldon("status -f all.yaml"));
    let lines: Vec<Value> = said.lines().map(json).collect();
    assert_eq!(lines.len(), 3, "{said}");
    assert_eq!(lines[0]["modelName"], "iris");
    assert_eq!(lines[1]["experimentName"], "split");
    assert_eq!((&lines[2]["serverName"], &lines[2]["expectedReplicas"]), (&"onnx".into(), &2.into()));
    let said = failed(world.seldon("status -f all.yaml -w -t 1"));
    assert!(said.contains("Model wait status timeout"), "{said}");
    let said = failed(world.seldon("model load -f all.yaml --force"));
    assert!(said.contains("experiment split is no model"), "{said}");
    assert_eq!(well(world.seldon("unload -f all.yaml --force")), format!("{WARNING}\n"));
    assert_eq!(columns(&well(world.seldon("model list"))).len(), 2);
    assert_eq!(json(&well(world.seldon("server status onnx")))["expectedReplicas"], Value::Null);
    // What is gone already keeps nothing else from going.
    well(world.seldon("load -f iris.yaml --force"));
    let said = failed(world.seldon("unload -f all.yaml --force"));
    assert!(said.contains("experiment split is stopped already"), "{said}");
    assert_eq!(columns(&well(world.seldon("model list"))).len(), 2, "the model is unloaded all the same");
}

#[test]
fn a_server_is_shown_as_json_or_in_one_line() {
    let world = World::start();
    well(world.seldon("load -f server.yaml --force"));
    assert_eq!(json(&well(world.seldon("server status onnx")))["serverName"], "onnx");
    assert_eq!(well(world.seldon("server status onnx -o=false")), "server onnx: 0 replicas, 0 models\n");
    let said = well(world.seldon("server status onnx -r"));
    assert_eq!(said.lines().count(), 2, "{said}");
    assert_eq!(json(said.lines().next().expect("the request"))["name"], "onnx");
}

#[test]
fn scaling_numbers_that_contradict_each_other_never_reach_the_scheduler() {
    let world = World::start();
    let file = world.folder.path().join("scaled.yaml");
    for (numbers, expected) in [
        ("replicas: 1, minReplicas: 2", "scaling spec is invalid: replicas (1) is less than minReplicas (2)"),
        ("replicas: 3, maxReplicas: 2", "scaling spec is invalid: replicas (3) is more than maxReplicas (2)"),
        ("minReplicas: 3, maxReplicas: 2", "scaling spec is invalid: minReplicas (3) is more than maxReplicas (2)"),
    ] {
        std::fs::write(&file, crate::IRIS.replace("/a}", &format!("/a, {numbers}}}"))).expect("write");
        let said = failed(world.seldon("model load -f scaled.yaml --force"));
        assert!(said.contains(expected), "{said}");
    }
    assert_eq!(columns(&well(world.seldon("model list"))).len(), 2);
    std::fs::write(&file, crate::IRIS.replace("/a}", "/a, minReplicas: 2}")).expect("write");
    well(world.seldon("model load -f scaled.yaml --force"));
    let status = json(&well(world.seldon("model status iris")));
    let sent = &status["versions"][0]["modelDefn"]["deploymentSpec"];
    assert_eq!(*sent, serde_json::json!({"replicas": 2, "minReplicas": 2, "maxReplicas": 4_294_967_295_u32}));
}

#[test]
fn rest_calls_are_addressed_to_the_authority() {
    use std::io::{BufRead as _, BufReader, Write as _};
    let folder = crate::Folder::new();
    for verb in ["metadata iris", "infer iris {}"] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let at = listener.local_addr().expect("an address");
        let peer = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a call");
            let lines = BufReader::new(stream.try_clone().expect("a handle")).lines().map(|line| line.expect("text"));
            let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").expect("it reads");
            head
        });
        let flags = format!("--inference-host {at} --authority models.example");
        assert_eq!(well(folder.run("seldon", &[], &format!("model {verb} {flags}"))), "{}\n");
        let head = peer.join().expect("it answered");
        assert!(head.iter().any(|line| line == "host: models.example"), "{head:?}");
    }
}
