//! The generated code in `messages` and `api` is what the protobuf files say today.
//! `UPDATE=1 cargo test --release -p tidy --test codegen` writes it anew. (It is here and not in `api`, because code
//! that does not fit the new messages yet must not keep them from being written.)

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Files below the proto folder, in the order protoc would take them.
const PROTOS: [&str; 9] = [
    "inference/inference.proto",
    "mlops/agent/agent.proto",
    "mlops/chainer/chainer.proto",
    "mlops/health/health.proto",
    "mlops/scheduler/scheduler.proto",
    "mlops/scheduler/storage.proto",
    "switchyard/log/v1/log.proto",
    "switchyard/store/v1/store.proto",
    "switchyard/worker/v1/worker.proto",
];

/// Packages with a service, and the module of `messages` their types live in.
const PACKAGES: [(&str, &str); 5] = [
    (".inference", "::messages::inference"),
    (".seldon.mlops.agent", "::messages::agent"),
    (".seldon.mlops.chainer", "::messages::chainer"),
    (".seldon.mlops.health", "::messages::health"),
    (".seldon.mlops.scheduler", "::messages::scheduler"),
];

/// Packages of our own, and the module of `messages` their types live in.
const OURS: [(&str, &str); 3] = [
    (".switchyard.log.v1", "::messages::log"),
    (".switchyard.store.v1", "::messages::store"),
    (".switchyard.worker.v1", "::messages::worker"),
];

fn crate_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../scheduler/api/grpc")
}

fn read_all(dir: &Path) -> BTreeMap<String, String> {
    std::fs::read_dir(dir)
        .expect("the folder of generated code exists")
        .map(|entry| entry.expect("readable entry").path())
        .map(|path| {
            let name = path.file_name().expect("a file has a name").to_string_lossy().into_owned();
            (name, std::fs::read_to_string(&path).expect("readable file"))
        })
        .collect()
}

/// Compares a folder of fresh output with the committed one, or replaces the latter when UPDATE is set.
fn check(fresh: &Path, committed: &Path) {
    let fresh_files = read_all(fresh);
    if std::env::var_os("UPDATE").is_some() {
        if committed.exists() {
            std::fs::remove_dir_all(committed).expect("remove old output");
        }
        std::fs::create_dir_all(committed).expect("create folder");
        for (name, text) in &fresh_files {
            std::fs::write(committed.join(name), text).expect("write generated file");
        }
        return;
    }
    let committed_files = read_all(committed);
    assert_eq!(
        fresh_files.keys().collect::<Vec<_>>(),
        committed_files.keys().collect::<Vec<_>>(),
        "run: UPDATE=1 cargo test --release -p tidy --test codegen"
    );
    for (name, text) in &fresh_files {
        assert!(
            committed_files[name] == *text,
            "{name} is stale; run: UPDATE=1 cargo test --release -p tidy --test codegen"
        );
    }
}

#[test]
fn generated_code_is_fresh() {
    let proto_dir = crate_dir().join("../proto");
    let descriptors = protox::compile(PROTOS, [proto_dir]).expect("the protobuf files compile");

    let messages = tempfile::tempdir().expect("temporary folder");
    let mut config = prost_build::Config::new();
    config.btree_map(["."]).bytes([".inference", ".switchyard.log"]).out_dir(messages.path());
    config.compile_fds(descriptors.clone()).expect("compatible messages are generated");
    // Our own packages once more, with paths to the compatible ones that do not depend on how deep a package is.
    for (package, module) in PACKAGES {
        config.extern_path(package, module.replace("::messages", "crate"));
    }
    let ours = tempfile::tempdir().expect("temporary folder");
    config.out_dir(ours.path()).compile_fds(descriptors.clone()).expect("our own messages are generated");
    for (name, text) in read_all(ours.path()).into_iter().filter(|(name, _)| name.starts_with("switchyard.")) {
        std::fs::write(messages.path().join(name), text).expect("write generated file");
    }
    check(messages.path(), &crate_dir().join("../messages/src/gen"));

    let services = tempfile::tempdir().expect("temporary folder");
    let mut builder = tonic_prost_build::configure().out_dir(services.path());
    for (package, module) in PACKAGES {
        builder = builder.extern_path(package, module);
    }
    for (package, module) in OURS {
        builder = builder.extern_path(package, module);
    }
    builder.compile_fds(descriptors).expect("services are generated");
    // Packages without a service leave a file with nothing in it.
    for (name, text) in read_all(services.path()) {
        if !text.contains("pub mod") {
            std::fs::remove_file(services.path().join(name)).expect("remove empty output");
        }
    }
    check(services.path(), &crate_dir().join("src/gen"));
}
