//! The program as a user meets it when nothing is running: exit status, what it says and where.

use std::io::Write as _;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// An address where nobody listens: the port was free a moment ago, and only a listener takes it.
fn nowhere() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").to_string()
}

fn program(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchyard"));
    command.args(arguments).current_dir(folder).env_clear().stdin(Stdio::null());
    command
}

/// Exit status, standard output, standard error.
fn run(folder: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    said(&program(folder, arguments).output().expect("it runs"))
}

fn said(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let model = "apiVersion: mlops.seldon.io/v1alpha1\nkind: Model\nmetadata: {name: iris}\nspec: {storageUri: /a}\n";
    std::fs::write(folder.path().join("iris.yaml"), model).expect("write");
    std::fs::write(folder.path().join("bad.yaml"), model.replace("storageUri", "storgeUri")).expect("write");
    folder
}

#[test]
fn every_verb_says_where_nobody_listens_and_ends_with_1() {
    let folder = folder();
    let at = nowhere();
    for (arguments, flag) in [
        (&["model", "load", "-f", "iris.yaml"][..], "--scheduler-host"),
        (&["model", "load", "-f", "iris.yaml", "--wait"], "--scheduler-host"),
        (&["model", "unload", "iris"], "--scheduler-host"),
        (&["model", "unload", "-f", "iris.yaml"], "--scheduler-host"),
        (&["model", "status", "iris"], "--scheduler-host"),
        (&["model", "list", "-o", "json"], "--scheduler-host"),
        (&["server", "list"], "--scheduler-host"),
        (&["server", "status", "onnx"], "--scheduler-host"),
        (&["server", "scale", "onnx", "--replicas", "2"], "--scheduler-host"),
        (&["model", "metadata", "iris"], "--inference-host"),
        (&["model", "infer", "iris", "{}"], "--inference-host"),
        (&["model", "infer", "iris", "{\"inputs\":[]}", "--inference-mode", "grpc"], "--inference-host"),
    ] {
        let mut arguments = arguments.to_vec();
        arguments.extend([flag, &at]);
        let (code, out, err) = run(folder.path(), &arguments);
        assert_eq!((code, out.as_str()), (Some(1), ""), "{arguments:?}: {err}");
        let expected = format!("at {at} (from {flag}): start one with `switchyard up`");
        assert!(err.starts_with("Error: cannot connect to ") && err.contains(&expected), "{arguments:?}: {err}");
        assert!(err.contains("refused"), "the cause is told: {err}");
    }
}

#[test]
fn the_origin_of_an_address_is_told() {
    let folder = folder();
    let (file, variable) = (nowhere(), nowhere());
    let list = |dir: &str| {
        let mut command = program(folder.path(), &["model", "list"]);
        let output = command.env("SELDON_SCHEDULE_HOST", &variable).env("SWITCHYARD_DIR", dir).output();
        said(&output.expect("it runs")).2
    };
    let err = list("nothing-here");
    assert!(err.contains(&format!("{variable} (from $SELDON_SCHEDULE_HOST)")), "{err}");
    std::fs::create_dir(folder.path().join("data")).expect("a folder");
    std::fs::write(folder.path().join("data/endpoints.json"), format!(r#"{{"scheduler":"{file}"}}"#)).expect("write");
    let err = list("data");
    assert!(err.contains(&format!("{file} (from data/endpoints.json)")), "{err}");
}

#[test]
fn a_bad_manifest_is_refused_before_anything_is_called() {
    let folder = folder();
    for verb in ["load", "unload"] {
        let (code, out, err) = run(folder.path(), &["model", verb, "-f", "bad.yaml"]);
        assert_eq!((code, out.as_str()), (Some(1), ""));
        assert!(
            err.contains(r#"bad.yaml:4: spec.storgeUri: unknown field "storgeUri", did you mean "storageUri"?"#),
            "{err}"
        );
    }
    let (code, _, err) = run(folder.path(), &["model", "load", "-f", "missing.yaml"]);
    assert_eq!(code, Some(1));
    assert!(err.contains("read missing.yaml: No such file"), "{err}");
    let (code, _, err) = run(folder.path(), &["server", "scale", "-f", "iris.yaml"]);
    assert_eq!(code, Some(1));
    assert!(err.contains("model iris is no server"), "{err}");
}

#[test]
fn a_manifest_can_come_from_standard_input() {
    let folder = folder();
    let at = nowhere();
    let load = |text: &str| {
        let mut command = program(folder.path(), &["model", "load", "-f", "-", "--scheduler-host", &at]);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("runs");
        child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("it reads");
        said(&child.wait_with_output().expect("it ends"))
    };
    let (code, _, err) = load("kind: SeldonRuntime");
    assert_eq!(code, Some(1));
    assert!(err.contains("standard input:1: kind: kind SeldonRuntime is not in this version yet"), "{err}");
    let good = std::fs::read_to_string(folder.path().join("iris.yaml")).expect("text");
    assert!(load(&good).2.contains("cannot connect"));
}

#[test]
fn names_that_cannot_be_are_refused_at_once() {
    let folder = folder();
    for arguments in [["model", "status", "Bad.Name"], ["model", "unload", "../x"], ["model", "metadata", "a/b"]] {
        let (code, _, err) = run(folder.path(), &arguments);
        assert_eq!(code, Some(1));
        assert!(err.contains("must match ^[a-z0-9]"), "{err}");
    }
}

#[test]
fn a_command_line_that_cannot_be_understood_ends_with_2() {
    let folder = folder();
    for arguments in [
        &[][..],
        &["model"],
        &["frobnicate"],
        &["model", "load"],
        &["model", "unload"],
        &["model", "infer", "iris"],
        &["model", "infer", "iris", "{}", "-f", "x"],
        &["model", "infer", "iris", "{}", "--header", "host=x"],
        &["model", "infer", "iris", "{}", "-i", "0"],
        &["server", "scale", "onnx"],
        &["server", "scale", "onnx", "--replicas", "-1"],
        &["model", "list", "-o", "xml"],
    ] {
        let (code, out, err) = run(folder.path(), arguments);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(!err.is_empty());
    }
    let (code, _, err) = run(folder.path(), &["model", "list", "--scheduler-host", "nonsense"]);
    assert_eq!(code, Some(1));
    assert!(err.contains("write it as host:port"), "{err}");
}

#[test]
fn help_is_a_result_and_has_no_colours() {
    let folder = folder();
    let (code, out, err) = run(folder.path(), &["model", "load", "--help"]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(out.trim_end().ends_with("switchyard model load -f samples/iris.yaml --wait --timeout-secs 30"), "{out}");
    assert!(!out.contains('\u{1b}'));
    assert!(!run(folder.path(), &["--help"]).1.contains("run-child"));
}

#[test]
fn a_closed_pipe_is_no_crash() {
    let folder = folder();
    for arguments in [&["--help"][..], &["model", "list", "--scheduler-host", "127.0.0.1:1"]] {
        let mut child =
            program(folder.path(), arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
        drop(child.stdout.take());
        drop(child.stderr.take());
        let code = child.wait().expect("it ends").code();
        assert!(matches!(code, Some(0 | 1)), "{code:?}");
    }
}

#[test]
fn run_child_becomes_the_program_it_is_given() {
    let folder = folder();
    let parent = std::process::id().to_string();
    let (code, out, _) = run(folder.path(), &["run-child", &parent, "--", "/bin/sh", "-c", "echo hello; exit 7"]);
    assert_eq!((code, out.as_str()), (Some(7), "hello\n"));
    let (code, _, err) = run(folder.path(), &["run-child", &parent, "--", "/no/such/program"]);
    assert_eq!(code, Some(127), "{err}");
    let (code, ..) = run(folder.path(), &["run-child"]);
    assert_eq!(code, Some(127));
}
