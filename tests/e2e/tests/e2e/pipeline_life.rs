//! Pipelines over time: batches, new versions under load, experiments over them, and what is counted.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::future::join_all;
use harness::{Answer, Rest, Up, onnx, pipeline, until};
use http::StatusCode;
use serde_json::{Value, json};

const WITHIN: Duration = Duration::from_secs(10);

fn one_step(model: &str) -> Value {
    json!({"steps": [{"name": model}], "output": {"steps": [model]}})
}

async fn ask(rest: &Rest, target: &str, number: i32) -> Result<Answer> {
    let body = json!({"inputs": [{"name": "INPUT", "datatype": "FP32", "shape": [1], "data": [number]}]});
    rest.post("/v2/models/any/infer", &[("seldon-model", target)], body.to_string()).await
}

fn number(answer: &Answer) -> Result<f64> {
    ensure!(answer.status == StatusCode::OK, "{} {}", answer.status, answer.body);
    answer.json()?["outputs"][0]["data"][0].as_f64().context("a number")
}

async fn up() -> Result<Up> {
    let mut up = Up::new(&[])?.env("SWITCHYARD_COMPATIBLE_ERRORS", "true");
    up.start().await?;
    up.load(&onnx::samples(up.folder())?).await?;
    Ok(up)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_gives_everybody_their_own_rows_and_a_partial_one_is_flushed() -> Result<()> {
    const WINDOW_MS: u64 = 2_000;
    let mut up = up().await?;
    let spec = json!({"steps": [{"name": "add10", "batch": {"size": 3, "windowMs": WINDOW_MS}}], "output": {"steps": ["add10"]}});
    up.pipeline(&pipeline("p", &spec)).await?;
    let rest = up.rest();
    let began = Instant::now();
    let answers = join_all((1..=3).map(|value| ask(&rest, "p.pipeline", value))).await;
    ensure!(began.elapsed() < Duration::from_millis(WINDOW_MS / 2), "three are enough: {:?}", began.elapsed());
    for (value, answer) in (1..=3).zip(answers) {
        ensure!(number(&answer?)? == f64::from(value + 10), "somebody else's row");
    }
    let began = Instant::now();
    ensure!(number(&ask(&rest, "p.pipeline", 7).await?)? == 17.0);
    ensure!(began.elapsed() >= Duration::from_millis(WINDOW_MS), "it waited for others: {:?}", began.elapsed());
    // A bad one among them costs the others nothing.
    let bad = json!({"inputs": [{"name": "INPUT", "datatype": "FP32", "shape": [1, 1], "data": [1]}]}).to_string();
    let bad = rest.post("/v2/pipelines/p/infer", &[], bad);
    let good = join_all((1..=3).map(|value| ask(&rest, "p.pipeline", value)));
    let (bad, good) = futures_util::future::join(bad, good).await;
    let bad = bad?;
    ensure!(bad.status == StatusCode::BAD_REQUEST && bad.body.starts_with("add10 : "), "{} {}", bad.status, bad.body);
    for (value, answer) in (1..=3).zip(good) {
        ensure!(number(&answer?)? == f64::from(value + 10), "somebody else's row");
    }
    // Nobody sees another one's headers, and whoever has little time does not wait for the others'.
    let long =
        json!({"steps": [{"name": "add10", "batch": {"size": 3, "windowMs": 60_000}}], "output": {"steps": ["add10"]}});
    up.pipeline(&pipeline("q", &long)).await?;
    let body = json!({"inputs": [{"name": "INPUT", "datatype": "FP32", "shape": [1], "data": [1]}]}).to_string();
    let (path, first) = ("/v2/pipelines/q/infer", [("x-request-id", "first"), ("x-first", "1")]);
    let second = [("x-request-id", "second"), ("switchyard-timeout-ms", "3000")];
    let began = Instant::now();
    let both =
        futures_util::future::join(rest.post(path, &first, body.clone()), rest.post(path, &second, body.clone())).await;
    ensure!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    for (answer, id) in [(both.0?, "first"), (both.1?, "second")] {
        ensure!(
            number(&answer)? == 11.0 && answer.header("x-request-id").ends_with(&format!(".q.{id},{id}")),
            "{answer:?}"
        );
        ensure!(answer.header("x-first").is_empty() == (id == "second"), "{answer:?}");
        ensure!(answer.header("x-seldon-route").contains(":add10_"), "{answer:?}");
    }
    let names: Vec<String> = (0..64).map(|number| format!("x-h{number}")).collect();
    let many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "v")).collect();
    let refused = rest.post(path, &many, body.clone()).await?;
    ensure!(refused.status == StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "{} {}", refused.status, refused.body);
    ensure!(refused.error()?.contains("at most 64"), "{}", refused.body);
    up.pipeline(&pipeline("r", &one_step("add10"))).await?;
    ensure!(number(&rest.post("/v2/pipelines/r/infer", &many[..60], body).await?)? == 11.0);
    up.part.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_version_takes_over_without_a_lost_doubled_or_mixed_request() -> Result<()> {
    let mut up = up().await?;
    up.pipeline(&pipeline("p", &one_step("add10"))).await?;
    let rest = up.rest();
    let load = tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(5));
        let mut running = tokio::task::JoinSet::new();
        for value in 1..=400 {
            ticks.tick().await;
            let rest = rest.clone();
            running.spawn(async move {
                let answer = ask(&rest, "p.pipeline", value).await?;
                let version: u32 = answer.header("x-pipeline-version").parse()?;
                let expected = if version % 2 == 1 { f64::from(value) + 10.0 } else { f64::from(value) * 10.0 };
                ensure!(number(&answer)? == expected, "version {version} says {}", answer.body);
                Ok(version)
            });
        }
        let mut versions: BTreeMap<u32, usize> = BTreeMap::new();
        while let Some(one) = running.join_next().await {
            *versions.entry(one??).or_default() += 1;
        }
        Ok::<_, anyhow::Error>(versions)
    });
    for model in ["mul10", "add10", "mul10"] {
        up.pipeline(&pipeline("p", &one_step(model))).await?;
    }
    let versions = load.await??;
    println!("requests by version: {versions:?}");
    ensure!(versions.len() > 1 && versions.values().sum::<usize>() == 400, "{versions:?}");
    up.part.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_experiment_splits_pipelines_and_keeps_a_client_where_it_was() -> Result<()> {
    let mut up = up().await?;
    for (name, model) in [("ten", "add10"), ("twenty", "add20"), ("copy", "add20")] {
        up.pipeline(&pipeline(name, &one_step(model))).await?;
    }
    let experiment = json!({"apiVersion": "mlops.seldon.io/v1alpha1", "kind": "Experiment", "metadata": {"name": "e"}, "spec": {
        "resourceType": "pipeline", "default": "ten", "mirror": {"name": "copy", "percent": 100},
        "candidates": [{"name": "ten", "weight": 50}, {"name": "twenty", "weight": 50}]}});
    up.declare("experiment", &experiment.to_string()).await?;
    let rest = up.rest();
    let mut seen: BTreeMap<i64, String> = BTreeMap::new();
    for _ in 0..60 {
        let answer = ask(&rest, "e.experiment", 1).await?;
        let route = answer.headers.get_all("x-seldon-route").iter().filter_map(|route| route.to_str().ok());
        #[expect(clippy::cast_possible_truncation, reason = "small numbers")]
        seen.insert(number(&answer)? as i64, route.collect::<Vec<_>>().join(","));
    }
    ensure!(seen.keys().copied().collect::<Vec<_>>() == [11, 21], "both answer: {seen:?}");
    for (value, route) in &seen {
        for _ in 0..10 {
            let body =
                json!({"inputs": [{"name": "INPUT", "datatype": "FP32", "shape": [1], "data": [1]}]}).to_string();
            let headers = [("seldon-model", "e.experiment"), ("x-seldon-route", route.as_str())];
            let answer = rest.post("/v2/models/any/infer", &headers, body).await?;
            #[expect(clippy::cast_possible_truncation, reason = "small numbers")]
            let found = number(&answer)? as i64;
            ensure!(found == *value, "{route} leads to {found}");
        }
    }
    // By its plain name the default is split, too; the mirror's answers are seen by nobody but its topics.
    let mut plain = BTreeMap::new();
    for _ in 0..60 {
        #[expect(clippy::cast_possible_truncation, reason = "small numbers")]
        let value = number(&ask(&rest, "ten.pipeline", 1).await?)? as i64;
        *plain.entry(value).or_insert(0) += 1;
    }
    ensure!(plain.len() == 2, "{plain:?}");
    let copied =
        up.verb(&["pipeline", "inspect", "copy.outputs", "--offset", "1000", "--format", "json"]).await?.well()?;
    let copied: Value = serde_json::from_str(&copied)?;
    let count = copied["topics"][0]["msgs"].as_array().map_or(0, Vec::len);
    ensure!(count >= 100, "the mirror got {count} of 140");
    up.verb(&["experiment", "stop", "e"]).await?.well()?;
    until(WITHIN, "all go to the pipeline again", async || {
        let gone = ask(&rest, "e.experiment", 1).await?.status == StatusCode::NOT_FOUND;
        ensure!(gone, "the experiment is there");
        ensure!(number(&ask(&rest, "ten.pipeline", 1).await?)? == 11.0, "split still");
        Ok(())
    })
    .await?;
    up.part.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_are_exact_silence_is_refused_and_everything_is_counted() -> Result<()> {
    let mut up = up().await?;
    up.pipeline(&pipeline("p", &one_step("exact"))).await?;
    up.pipeline(&pipeline("silent", &json!({"steps": [{"name": "add10"}]}))).await?;
    up.pipeline(&pipeline("wrong", &one_step("fails"))).await?;
    let rest = up.rest();
    let body = r#"{"inputs":[{"name":"INPUT","datatype":"INT64","shape":[2],"data":[9007199254740993,-9223372036854775808]}]}"#;
    let answer = rest.post("/v2/pipelines/p/infer", &[], body).await?;
    ensure!(answer.body.contains("[9007199254740993,-9223372036854775808]"), "{}", answer.body);
    let answer = ask(&rest, "silent.pipeline", 1).await?;
    ensure!(answer.status == 422 && answer.error()?.contains("pipeline silent has no output"), "{}", answer.body);
    // As the compatible system tells it, because it was asked to.
    let answer = ask(&rest, "wrong.pipeline", 1).await?;
    ensure!(answer.status == 400 && answer.body.starts_with("fails : "), "{} {}", answer.status, answer.body);
    let message = messages::inference::ModelInferRequest {
        inputs: vec![messages::inference::model_infer_request::InferInputTensor {
            name: "INPUT".into(),
            datatype: "FP32".into(),
            shape: vec![1],
            ..Default::default()
        }],
        raw_input_contents: vec![bytes::Bytes::from_static(&[0; 4])],
        ..Default::default()
    };
    let request = harness::with_metadata(message, &[("seldon-model", "wrong.pipeline")]);
    let status = up.rpc().model_infer(request).await.err().context("an error")?;
    ensure!(status.code() == tonic::Code::Unknown && status.message().starts_with("fails : "), "{status:?}");
    let metrics = Rest::new(up.address(9_999)).get("/metrics", &[]).await?.body;
    for line in [
        r#"seldon_pipeline_infer_total{server="pipeline-gateway",pipeline="p",method_type="rest",code="200"} 1"#,
        r#"seldon_pipeline_infer_total{server="pipeline-gateway",pipeline="silent",method_type="rest",code="422"} 1"#,
        r#"seldon_pipeline_infer_total{server="pipeline-gateway",pipeline="wrong",method_type="grpc",code="#,
        "switchyard_modelgateway_failed_total 2",
        "switchyard_xds_synced_streams 1",
    ] {
        let found = until(WITHIN, line, async || {
            let metrics = Rest::new(up.address(9_999)).get("/metrics", &[]).await?.body;
            ensure!(metrics.contains(line), "{metrics}");
            Ok(())
        });
        found.await.with_context(|| metrics.clone())?;
    }
    up.part.stop().await?;
    Ok(())
}
