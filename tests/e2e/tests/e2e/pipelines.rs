//! Pipelines of every shape through Envoy, by REST and gRPC: `scenarios/pipelines.yaml` says what they answer.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use harness::{Answer, Up, onnx, root, with_metadata};
use oip::{Contents, InferRequest, InferResponse, TextStyle};
use serde_json::{Value, json};

/// An error comes at once, not when a window or a deadline ends.
const AT_ONCE: Duration = Duration::from_secs(5);

/// The body of a request: a list is a vector of floats, anything else is the tensor.
fn body(ask: &Value) -> Result<Value> {
    let tensors = ask.as_object().context("ask")?.iter().map(|(name, tensor)| match tensor {
        Value::Array(data) => json!({"name": name, "datatype": "FP32", "shape": [data.len()], "data": data}),
        other => json!({"name": name, "datatype": other["datatype"], "shape": other["shape"], "data": other["data"]}),
    });
    Ok(json!({"inputs": tensors.collect::<Vec<_>>()}))
}

/// Names and numbers of the tensors of an answer.
fn tensors(answer: &Value) -> Result<Vec<(String, Vec<f64>)>> {
    let outputs = answer["outputs"].as_array().or_else(|| answer.as_array()).context("no outputs")?;
    let tensor = |output: &Value| {
        let data = output["data"].as_array().context("data")?.iter().map(|number| number.as_f64().context("a number"));
        Ok((output["name"].as_str().context("name")?.to_owned(), data.collect::<Result<_>>()?))
    };
    outputs.iter().map(tensor).collect()
}

async fn by_rest(up: &Up, call: &Value) -> Result<()> {
    let rest = up.rest().within(AT_ONCE);
    let answer = rest.post("/v2/pipelines/p/infer", &[], body(&call["ask"])?.to_string()).await?;
    if call["answer"].is_array() {
        ensure!(answer.status == 200, "{} {}", answer.status, answer.body);
        ensure!(answer.header("content-type") == "application/json", "{}", answer.header("content-type"));
        ensure!(tensors(&answer.json()?)? == tensors(&call["answer"])?, "{}", answer.body);
        return Ok(());
    }
    fails(call, &answer)
}

fn fails(call: &Value, answer: &Answer) -> Result<()> {
    let error = answer.json()?;
    let (text, status) = (error["error"].as_str().context("error")?, answer.status.as_u16());
    ensure!(text.contains(call["error"].as_str().context("expected")?), "{text}");
    ensure!(
        status >= 400 && call["status"].as_u64().is_none_or(|expected| expected == u64::from(status)),
        "{status} {text}"
    );
    ensure!(call["step"].is_null() || call["step"] == error["step"], "{error}");
    ensure!(error["code"].is_string(), "{error}");
    Ok(())
}

async fn by_grpc(up: &Up, call: &Value, contents: Contents) -> Result<()> {
    let body = Bytes::from(body(&call["ask"])?.to_string());
    let message = InferRequest::from_json(&body, None)?.into_proto(contents);
    let mut request = with_metadata(message, &[("seldon-model", "p.pipeline")]);
    request.set_timeout(AT_ONCE);
    let answer = up.rpc().model_infer(request).await;
    match (call["answer"].is_array(), answer) {
        (true, Ok(answer)) => {
            let answer = answer.into_inner();
            ensure!(answer.model_name.is_empty(), "{}", answer.model_name);
            let is_raw = !answer.raw_output_contents.is_empty();
            ensure!(is_raw == (contents == Contents::Raw), "the answer is as the request was");
            let answer = InferResponse::from_proto(answer)?.to_json(TextStyle::Text, |_| false);
            let answer: Value = serde_json::from_slice(&answer.body)?;
            ensure!(tensors(&answer)? == tensors(&call["answer"])?, "{answer}");
        }
        (false, Err(status)) => {
            ensure!(status.message().contains(call["error"].as_str().context("expected")?), "{status:?}");
            ensure!(status.code() != tonic::Code::Unknown, "{status:?}");
        }
        (_, answer) => anyhow::bail!("{answer:?}"),
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_shape_of_pipeline_gives_its_documented_result() -> Result<()> {
    let mut up = Up::new(&[])?;
    up.start().await?;
    up.load(&onnx::samples(up.folder())?).await?;
    let text = std::fs::read_to_string(root().join("tests/e2e/scenarios/pipelines.yaml"))?;
    let scenarios: Value = serde_yaml_ng::from_str(&text)?;
    let mut failed = Vec::new();
    let mut names = BTreeSet::new();
    for scenario in scenarios.as_array().context("a list of scenarios")? {
        let name = scenario["name"].as_str().context("name")?;
        ensure!(names.insert(name), "{name} is there twice");
        let manifest = json!({
            "apiVersion": "mlops.seldon.io/v1alpha1", "kind": "Pipeline", "metadata": {"name": "p"},
            "spec": scenario["pipeline"],
        });
        up.pipeline(&manifest.to_string()).await.with_context(|| name.to_owned())?;
        for (number, call) in scenario["calls"].as_array().context("calls")?.iter().enumerate() {
            for (protocol, outcome) in [
                ("REST", by_rest(&up, call).await),
                ("gRPC, raw", by_grpc(&up, call, Contents::Raw).await),
                ("gRPC, typed", by_grpc(&up, call, Contents::Typed).await),
            ] {
                if let Err(error) = outcome {
                    failed.push(format!("{name}, call {number} by {protocol}: {error:#}"));
                }
            }
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    up.part.stop().await?;
    Ok(())
}
