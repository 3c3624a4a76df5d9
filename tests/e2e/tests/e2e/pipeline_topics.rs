//! Topics of pipelines and of models over time: who makes them, who deletes them, and what follows when they are gone.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Model, State, Up, onnx, until};
use http::StatusCode;
use messages::scheduler as wire;
use serde_json::json;

const WITHIN: Duration = Duration::from_secs(10);

const PIPELINE: &str = r#"{"apiVersion": "mlops.seldon.io/v1alpha1", "kind": "Pipeline", "metadata": {"name": "p"}, "spec": {
  "steps": [{"name": "add10"}], "output": {"steps": ["add10"]}}}"#;

/// Asks the pipeline, which adds ten.
async fn answers(up: &Up, value: f64) -> Result<()> {
    let body = json!({"inputs": [{"name": "INPUT", "datatype": "FP32", "shape": [1], "data": [value]}]}).to_string();
    let headers = [("switchyard-timeout-ms", "10000")];
    let answer = up.rest().post("/v2/pipelines/p/infer", &headers, body).await?;
    ensure!(answer.status == StatusCode::OK, "{} {}", answer.status, answer.body);
    ensure!(answer.json()?["outputs"][0]["data"] == json!([value + 10.0]), "{}", answer.body);
    Ok(())
}

/// Waits until all of the pipeline is ready by its own account; no record is written for that.
async fn is_ready(up: &Up) -> Result<()> {
    until(WITHIN, "the pipeline is ready", async || {
        let answer = up.rest().get("/v2/pipelines/p/ready", &[]).await?;
        ensure!(answer.status == StatusCode::OK, "{}", answer.status);
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_is_made_again_is_read_from_its_new_topics_first_record() -> Result<()> {
    /// Requests before the topics go.
    const OLD: u32 = 20;
    let mut up = Up::new(&["--partitions", "2"])?;
    up.start().await?;
    let samples = onnx::samples(up.folder())?;
    let folder = |name: &str| samples.iter().find(|(sample, _)| *sample == name).map(|(_, folder)| folder.clone());
    let (add10, mul10) = (folder("add10").context("add10")?, folder("mul10").context("mul10")?);
    let control = up.control();
    let mut model = Model::new("add10", &add10);
    model.0.dataflow_spec = Some(wire::DataflowSpec { clean_topics_on_delete: true });
    control.declare(&model).await?;
    control.declare(&Model::new("mul10", &mul10)).await?;
    for name in ["add10", "mul10"] {
        control.reaches(name, State::ModelAvailable, WITHIN).await?;
    }
    up.pipeline(PIPELINE).await?;
    for value in 0..OLD {
        answers(&up, f64::from(value)).await?;
    }
    let inputs = "seldon.default.model.add10.inputs";
    let before = up.topics().list(inputs).await?;
    ensure!(
        before[0].partitions.len() == 2
            && before[0].partitions.iter().map(|one| one.end).sum::<u64>() == u64::from(OLD)
    );
    // The topics of a model that asks for it go with it, those of another one stay.
    control.remove("add10").await?;
    control.remove("mul10").await?;
    until(WITHIN, "the topics are gone", async || {
        ensure!(!up.topics().has(inputs).await? && !up.topics().has("seldon.default.model.add10.outputs").await?);
        Ok(())
    })
    .await?;
    ensure!(up.topics().has("seldon.default.model.mul10.inputs").await?, "nobody asked for that");
    let error = answers(&up, 1.0).await.err().context("no model, no answer")?;
    ensure!(error.to_string().contains("add10"), "{error:#}");
    // It comes back: everybody reads its new topics, whatever they had read of the old ones.
    control.declare(&model).await?;
    control.reaches("add10", State::ModelAvailable, WITHIN).await?;
    is_ready(&up).await?;
    answers(&up, 2.0).await?;
    let new = up.topics().list(inputs).await?.remove(0).partitions;
    ensure!(new.iter().map(|one| one.end).sum::<u64>() == 1, "one request since: {new:?}");
    up.part.kill9().await?;
    up.start().await?;
    is_ready(&up).await?;
    answers(&up, 3.0).await?;
    // Another number of partitions is for another installation.
    up.part.stop().await?;
    let dir = up.dir().display().to_string();
    let said = harness::run(up.folder(), &[], &["up", "--dir", &dir, "--partitions", "3"]).await?.failed(1)?;
    ensure!(said.contains("have 2 partitions and not 3: start with --partitions 2"), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipeline_is_ready_as_soon_as_its_models_are_and_only_then() -> Result<()> {
    let mut up = Up::new(&[])?;
    up.start().await?;
    let file = up.folder().join("p.yaml");
    std::fs::write(&file, PIPELINE).context("write the manifest")?;
    let path = file.display().to_string();
    up.verb(&["pipeline", "load", "-f", &path]).await?.well()?;
    let rest = up.rest();
    let is_ready = async || -> Result<StatusCode> { Ok(rest.get("/v2/pipelines/p/ready", &[]).await?.status) };
    until(WITHIN, "it is known", async || {
        let status = is_ready().await?;
        ensure!(status == StatusCode::FAILED_DEPENDENCY, "without its model: {status}");
        Ok(())
    })
    .await?;
    let state = async || -> Result<String> { up.verb(&["pipeline", "status", "p", "-o", "json"]).await?.well() };
    let said = state().await?;
    ensure!(!said.contains(r#""modelsReady":true"#), "{said}");
    let samples = onnx::samples(up.folder())?;
    up.load(&samples[..1]).await?;
    until(WITHIN, "it is ready", async || {
        ensure!(is_ready().await? == StatusCode::OK);
        ensure!(state().await?.contains(r#""modelsReady":true"#));
        Ok(())
    })
    .await?;
    answers(&up, 1.0).await?;
    up.part.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_that_are_missing_at_start_are_made() -> Result<()> {
    let mut up = Up::new(&[])?;
    up.start().await?;
    up.load(&onnx::samples(up.folder())?).await?;
    up.pipeline(PIPELINE).await?;
    answers(&up, 1.0).await?;
    let before: Vec<String> = up.topics().list("").await?.into_iter().map(|topic| topic.name).collect();
    up.part.stop().await?;
    std::fs::remove_dir_all(up.dir().join("log")).context("lose the log")?;
    up.start().await?;
    let health = harness::Rest::new(up.address(9_999));
    until(WITHIN, "every part is ready", async || {
        let answer = health.get("/ready", &[]).await?;
        ensure!(answer.status == StatusCode::OK, "{}", answer.body);
        Ok(())
    })
    .await?;
    // Whoever is ready knows its pipelines; only the model may still be on its way.
    let status = harness::Rest::new(up.address(9_010)).get("/v2/pipelines/p/ready", &[]).await?.status;
    ensure!(status == StatusCode::OK || status == StatusCode::FAILED_DEPENDENCY, "{status}");
    is_ready(&up).await?;
    answers(&up, 2.0).await?;
    let after = up.topics().list("").await?;
    ensure!(after.iter().all(|topic| topic.partitions.len() == 8), "{after:?}");
    let after: Vec<String> = after.into_iter().map(|topic| topic.name).collect();
    ensure!(before == after && before.contains(&"seldon.default.pipeline.p.inputs".to_owned()), "{before:?} {after:?}");
    up.part.stop().await?;
    Ok(())
}
