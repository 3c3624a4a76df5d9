//! The messages that Envoy reads the model's name in are those of the protocol's file today.
//! `UPDATE=1 cargo test -p scheduler --test envoy_descriptors` writes them anew.

use std::path::{Path, PathBuf};

use prost::Message;

const PROTO: &str = "inference/inference.proto";

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[test]
fn descriptors_are_fresh() {
    let mut compiler = protox::Compiler::new([here("../api/proto")]).expect("the folder of protobuf files exists");
    compiler.include_source_info(false).include_imports(true);
    let set = compiler.open_file(PROTO).expect("the protobuf file compiles").file_descriptor_set();
    let fresh = set.encode_to_vec();
    let committed = here("golden/inference.desc");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&committed, &fresh).expect("write descriptors");
    }
    let old = std::fs::read(&committed).expect("read descriptors");
    assert!(
        old == fresh,
        "golden/inference.desc is stale; run: UPDATE=1 cargo test -p scheduler --test envoy_descriptors"
    );
}
