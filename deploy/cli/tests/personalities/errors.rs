//! Called as `seldon`: everything that goes wrong ends with 255 and one `Error: …` on standard error.

use std::net::TcpListener;

use crate::{Folder, IRIS, SPLIT, failed, well};

/// An address where nobody listens: the port was free a moment ago, and only a listener takes it.
fn nowhere() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").to_string()
}

#[test]
fn command_lines_that_cannot_be_understood_end_with_255() {
    let folder = Folder::new();
    for arguments in [
        "",
        "model",
        "frobnicate",
        "model frobnicate",
        "model load",
        "model load -f",
        "model unload --force",
        "model status",
        "model status iris -t -1",
        "model list --colour",
        "model infer iris",
        "model infer iris {} --inference-mode soap",
        "model infer iris {} --header host=x",
        "model infer iris {} --header nothing",
        "model infer iris {} -o=maybe",
        "config add one",
        "completion",
    ] {
        let (code, out, err) = folder.run("seldon", &[], arguments);
        assert_eq!((code, out.as_str()), (Some(255), ""), "{arguments}: {err}");
        assert!(err.starts_with("Error: ") && !err.starts_with("Error: error"), "{arguments}: {err}");
    }
}

#[test]
fn help_and_completion_are_results() {
    let folder = Folder::new();
    for (arguments, word) in [
        ("--help", "experiment"),
        ("help model load", "--file-path"),
        ("model list --help", "0.0.0.0:9004"),
        ("model infer --help", "0.0.0.0:9000"),
        ("pipeline --help", "inspect"),
        ("completion bash", "complete"),
        ("completion zsh", "#compdef seldon"),
    ] {
        let said = well(folder.run("seldon", &[], arguments));
        assert!(said.contains(word), "{arguments}: {said}");
    }
}

#[test]
fn a_pipeline_is_refused_with_every_reference_that_leads_nowhere() {
    let folder = Folder::new();
    let pipeline = "apiVersion: mlops.seldon.io/v1alpha1
kind: Pipeline
metadata: {name: p}
spec:
  steps:
  - name: a
  - name: b
    inputs: [c, a.outputs.x.y]
";
    std::fs::write(folder.path().join("p.yaml"), pipeline).expect("write");
    for verb in ["load -f p.yaml --force", "pipeline load -f p.yaml --force"] {
        let said = failed(folder.run("seldon", &[], verb));
        assert!(said.contains("spec.steps[1].inputs") && said.contains("a.outputs.x.y"), "{said}");
    }
}

#[test]
fn an_unknown_field_is_an_error_that_names_it() {
    let folder = Folder::new();
    std::fs::write(folder.path().join("typo.yaml"), IRIS.replace("storageUri", "storgeUri")).expect("write");
    std::fs::write(folder.path().join("split-typo.yaml"), SPLIT.replace("weight", "wieght")).expect("write");
    for (arguments, field) in [
        ("model load -f typo.yaml --force", "storgeUri"),
        ("load -f typo.yaml --force", "storgeUri"),
        ("unload -f typo.yaml --force", "storgeUri"),
        ("status -f typo.yaml", "storgeUri"),
        ("experiment start -f split-typo.yaml --force", "wieght"),
    ] {
        let (code, out, err) = folder.run("seldon", &[], arguments);
        assert_eq!(code, Some(255), "{err}");
        assert!(!out.contains(field), "errors go to standard error: {out}");
        assert!(err.starts_with("Error: ") && err.contains(&format!(r#"json: unknown field "{field}""#)), "{err}");
    }
    for arguments in ["model load -f missing.yaml --force", "status -f missing.yaml"] {
        let (code, out, err) = folder.run("seldon", &[], arguments);
        assert_eq!(code, Some(255), "{err}");
        assert!(!out.contains("missing.yaml") && err.contains("missing.yaml: No such file"), "{out}{err}");
    }
}

#[test]
fn bad_names_are_refused_with_the_pattern() {
    let folder = Folder::new();
    std::fs::write(folder.path().join("bad.yaml"), IRIS.replace("name: iris", "name: iris_v1.0")).expect("write");
    for arguments in
        ["model load -f bad.yaml --force", "model status iris_v1", "model infer Iris {}", "model metadata a/b"]
    {
        let said = failed(folder.run("seldon", &[], arguments));
        assert!(said.contains("must match ^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"), "{arguments}: {said}");
    }
}

#[test]
fn hosts_come_from_the_flag_else_the_config_else_the_environment() {
    let folder = Folder::new();
    let (flag, config, variable) = (nowhere(), nowhere(), nowhere());
    let text = format!(r#"{{"controlplane":{{"schedulerHost":"{config}"}},"dataplane":{{"inferHost":"{config}"}}}}"#);
    std::fs::write(folder.path().join("lab.json"), text).expect("write");
    let environment = [("SELDON_SCHEDULE_HOST", variable.as_str()), ("SELDON_INFER_HOST", &variable)];
    let check = |arguments: &str, expected: &str| {
        let said = failed(folder.run("seldon", &environment, arguments));
        assert!(said.contains(expected), "{arguments}: {expected} is not in {said}");
    };
    let (list, infer) = ("model list", "model infer iris {}");
    check(list, &format!("{variable} (from $SELDON_SCHEDULE_HOST)"));
    check(infer, &format!("{variable} (from $SELDON_INFER_HOST)"));
    well(folder.run("seldon", &[], "config add lab lab.json"));
    check(list, &format!("{variable} (from $SELDON_SCHEDULE_HOST)"));
    well(folder.run("seldon", &[], "config activate lab"));
    check(list, &format!("{config} (from config lab)"));
    check(infer, &format!("{config} (from config lab)"));
    check(&format!("{list} --scheduler-host {flag}"), &format!("{flag} (from --scheduler-host)"));
    check(&format!("{infer} --inference-host {flag}"), &format!("{flag} (from --inference-host)"));
    // What `switchyard up` wrote is not for this command line.
    std::fs::create_dir(folder.path().join("switchyard-data")).expect("a folder");
    let endpoints = format!(r#"{{"scheduler":"{flag}"}}"#);
    std::fs::write(folder.path().join("switchyard-data/endpoints.json"), endpoints).expect("write");
    check(list, &format!("{config} (from config lab)"));
    let (code, _, err) = folder.run("switchyard", &environment, list);
    assert!(code == Some(1) && err.contains(&format!("{flag} (from ./switchyard-data/endpoints.json)")), "{err}");
}

#[test]
fn a_peer_that_is_not_there_is_unavailable() {
    let folder = Folder::new();
    let at = nowhere();
    let rpc = format!("rpc error: code = Unavailable desc = cannot connect to the scheduler at {at}");
    for arguments in ["model list", "server list", "experiment list", "model status iris", "status -f iris.yaml -w"] {
        let said = failed(folder.run("seldon", &[], &format!("{arguments} --scheduler-host {at}")));
        assert!(said.contains(&rpc), "{said}");
    }
    let body = r#"model infer iris {"inputs":[]} --inference-mode grpc"#;
    let said = failed(folder.run("seldon", &[], &format!("{body} --inference-host {at}")));
    assert!(said.contains("rpc error: code = Unavailable desc = cannot connect to Envoy"), "{said}");
    for arguments in ["model list", "model metadata iris", "model infer iris {}"] {
        let said = failed(folder.run("seldon", &[], &format!("{arguments} --authority a/b")));
        assert!(said.contains(r#""a/b" (--authority) is no authority: write it as a host"#), "{said}");
    }
    for calls in ["-i 3", "-t 1"] {
        let (code, out, err) =
            folder.run("seldon", &[], &format!("model infer iris {{}} {calls} --inference-host {at}"));
        assert_eq!((code, out.as_str()), (Some(255), ""), "{err}");
    }
}
