//! The program under both of its names, against a scheduler in this process: what is printed and where, the exit
//! status, and what has really happened.

mod config;
mod errors;
mod seldon;
mod switchyard;
mod world;

use std::path::Path;
use std::process::{Command, Stdio};

/// Manifests that the tests use.
const IRIS: &str =
    "apiVersion: mlops.seldon.io/v1alpha1\nkind: Model\nmetadata: {name: iris}\nspec: {storageUri: /a}\n";
const SPLIT: &str = "apiVersion: mlops.seldon.io/v1alpha1\nkind: Experiment\nmetadata: {name: split}\n\
     spec: {default: iris, candidates: [{name: iris, weight: 1}, {name: other, weight: 1}]}\n";
const SERVER: &str = "apiVersion: mlops.seldon.io/v1alpha1\nkind: Server\nmetadata: {name: onnx}\nspec: {serverConfig: onnx, replicas: 2}\n";
/// The first words of what every write says, without the file's name.
const WARNING: &str = "Warning: this goes to the scheduler directly, so Kubernetes does not know of it";

/// Exit status, standard output, standard error.
type Said = (Option<i32>, String, String);

/// A folder with the manifests and an own home; the program is in it under both names.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["switchyard", "seldon"] {
            std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_switchyard"), folder.path().join(name)).expect("a link");
        }
        let all = format!("{IRIS}---\n{SPLIT}---\n{SERVER}");
        for (name, text) in [("iris", IRIS), ("split", SPLIT), ("server", SERVER), ("all", &all)] {
            std::fs::write(folder.path().join(name).with_extension("yaml"), text).expect("write");
        }
        Folder(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// The program under one of its names. It knows `$HOME`, which does not exist yet, and what `environment` says.
    fn run(&self, name: &str, environment: &[(&str, &str)], arguments: &str) -> Said {
        let mut command = Command::new(self.path().join(name));
        command.args(arguments.split_whitespace()).current_dir(self.path()).env_clear().stdin(Stdio::null());
        command.env("HOME", self.path().join("home")).envs(environment.iter().copied());
        let output = command.output().expect("it runs");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        (output.status.code(), text(output.stdout), text(output.stderr))
    }
}

/// Standard output of a run that went well.
fn well(said: Said) -> String {
    assert_eq!((said.0, said.2.as_str()), (Some(0), ""), "{said:?}");
    said.1
}

/// Standard error of a compatible run that went wrong.
fn failed(said: Said) -> String {
    assert_eq!(said.0, Some(255), "{said:?}");
    assert!(said.2.starts_with("Error: "), "{said:?}");
    said.2
}
