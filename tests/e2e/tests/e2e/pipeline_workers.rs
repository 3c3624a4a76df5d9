//! Several workers of each role share the work of pipelines.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::future::join_all;
use harness::{Up, onnx, pipeline, until};
use http::StatusCode;
use serde_json::json;

const WITHIN: Duration = Duration::from_secs(10);
const PARTITIONS: u32 = 5;

/// A chain whose two steps are these.
fn chain(name: &str, second: &str) -> String {
    let steps = json!([{"name": "add10"},
        {"name": second, "inputs": ["add10.outputs.OUTPUT"], "tensorMap": {"add10.outputs.OUTPUT": "INPUT"}}]);
    pipeline(name, &json!({"steps": steps, "output": {"steps": [second]}}))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_reply_reaches_the_gateway_that_waits_for_it() -> Result<()> {
    // No number of workers divides the partitions.
    let partitions = PARTITIONS.to_string();
    let workers = ["--pipeline-gateways", "2", "--engines", "3", "--model-gateways", "2", "--partitions", &partitions];
    let mut up = Up::new(&workers)?.env("SWITCHYARD_LOG", "info");
    up.start().await?;
    up.load(&onnx::samples(up.folder())?).await?;
    let names = ["p", "q", "r"];
    for name in names {
        up.pipeline(&chain(name, "mul10")).await?;
    }
    let rest = up.rest();
    let mut entered = BTreeSet::new();
    for round in 0..10 {
        let calls = (0..30).map(|number| {
            let (rest, value, name) = (rest.clone(), round * 100 + number, names[number % names.len()]);
            async move {
                let body = json!({"inputs": [{"name": "INPUT", "datatype": "FP32", "shape": [1], "data": [value]}]})
                    .to_string();
                let headers = [("switchyard-timeout-ms", "5000"), ("x-request-id", "the-same")];
                let answer = rest.post(&format!("/v2/pipelines/{name}/infer"), &headers, body).await?;
                ensure!(answer.status == StatusCode::OK, "{} {}", answer.status, answer.body);
                ensure!(answer.json()?["outputs"][0]["data"][0] == (value as f64 + 10.0) * 10.0, "{}", answer.body);
                Ok(answer.header("x-request-id").split('.').next().context("a partition")?.to_owned())
            }
        });
        for partition in join_all(calls).await {
            entered.insert(partition?);
        }
    }
    ensure!(entered.len() == PARTITIONS as usize, "requests entered by {entered:?}");
    // Both gateways took some: those that fail are told with the address that they went to.
    up.pipeline(&chain("fails-too", "fails")).await?;
    let access_log = up.dir().join("envoy-accesslog.txt");
    until(WITHIN, "both gateways are in the access log", async || {
        let body = r#"{"inputs":[{"name":"INPUT","datatype":"FP32","shape":[1],"data":[1]}]}"#;
        rest.post("/v2/pipelines/fails-too/infer", &[], body).await?;
        let lines = std::fs::read_to_string(&access_log).context("read the access log")?;
        let asked = lines.lines().filter(|line| line.contains("/v2/pipelines/fails-too/infer"));
        // The sixth of the quoted fields.
        let upstreams: BTreeSet<&str> = asked.filter_map(|line| line.split('"').nth(11)).collect();
        ensure!(upstreams.len() == 2, "{upstreams:?}");
        Ok(())
    })
    .await?;
    // Every worker has a share of the shards, and every shard an owner.
    let log = std::fs::read_to_string(up.part.log()).context("read the log")?;
    let taken: Vec<&str> = log.lines().filter(|line| line.contains("shard taken over")).collect();
    let has = |line: &str, field: String| line.split_whitespace().any(|word| word == field);
    for (role, workers) in [("engine", 3), ("model-gateway", 2)] {
        for number in 0..workers {
            let worker = format!("worker={role}-{number}");
            ensure!(taken.iter().any(|line| has(line, worker.clone())), "{worker} has nothing: {taken:?}");
        }
        for partition in 0..PARTITIONS {
            let is_of = |line: &str| (0..workers).any(|number| has(line, format!("worker={role}-{number}")));
            let is_taken = taken.iter().any(|line| is_of(line) && has(line, format!("partition={partition}")));
            ensure!(is_taken, "no {role} has {partition}: {taken:?}");
        }
    }
    up.part.stop().await?;
    Ok(())
}
