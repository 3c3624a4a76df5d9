//! gRPC clients that are their own Envoy: Python's grpcio as it is. The one in Go is in `long.rs`.

#[path = "../shared/proxyless.rs"]
mod shared;

use std::path::Path;

use harness::{Shape, python, scenario};

#[test]
fn grpcio_is_its_own_envoy_and_no_call_fails() {
    scenario("proxyless grpcio", Shape::default(), async |stack| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("python");
        let requirements = folder.join("requirements.txt");
        let packages = tokio::task::spawn_blocking(move || python::packages(&requirements)).await??;
        shared::holds(stack, || python::command(&packages, &folder.join("proxyless_client.py"))).await
    });
}
