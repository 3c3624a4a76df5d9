//! What a pipeline's callers see when something beneath it fails: a step that never answers, too many that wait, a caller
//! that leaves, a full disk. Nobody hangs past a deadline, and nobody else is disturbed.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::future::join_all;
use harness::{Answer, Model, Rest, State, Up, header_of, onnx, pipeline, until, with_metadata};
use http::StatusCode;
use messages::inference as pb;
use serde_json::json;
use tonic::Code;

pub(crate) const WITHIN: Duration = Duration::from_secs(10);

pub(crate) fn one_step(name: &str, model: &str) -> String {
    pipeline(name, &json!({"steps": [{"name": model}], "output": {"steps": [model]}}))
}

pub(crate) async fn ask(rest: &Rest, pipeline: &str, value: f64, timeout_ms: u64) -> Result<Answer> {
    let body = json!({"inputs": [{"name": "INPUT", "datatype": "FP32", "shape": [1], "data": [value]}]}).to_string();
    let timeout = timeout_ms.to_string();
    let headers = [("switchyard-timeout-ms", timeout.as_str())];
    rest.post(&format!("/v2/pipelines/{pipeline}/infer"), &headers, body).await
}

pub(crate) fn number(answer: &Answer) -> Result<f64> {
    ensure!(answer.status == StatusCode::OK, "{} {}", answer.status, answer.body);
    answer.json()?["outputs"][0]["data"][0].as_f64().context("a number")
}

/// How many callers wait, as the gateway counts them.
async fn pending(up: &Up) -> Result<usize> {
    let metrics = Rest::new(up.address(9_999)).get("/metrics", &[]).await?.body;
    let line = metrics.lines().find_map(|line| line.strip_prefix("switchyard_pipelinegateway_pending "));
    Ok(line.context("a gauge")?.parse()?)
}

pub(crate) async fn becomes(up: &Up, count: usize) -> Result<()> {
    until(WITHIN, &format!("{count} wait"), async || {
        let found = pending(up).await?;
        ensure!(found == count, "{found}");
        Ok(())
    })
    .await
}

/// `slow` and `quick` on one replica each, with a pipeline each; gives the replica of `slow`.
pub(crate) async fn two_replicas(flags: &[&str]) -> Result<(Up, u32)> {
    let mut up = Up::new(&[&["--replicas", "2"], flags].concat())?;
    up.start().await?;
    let samples = onnx::samples(up.folder())?;
    let add10 = &samples.iter().find(|(name, _)| *name == "add10").context("add10")?.1;
    let control = up.control();
    let mut replicas = Vec::new();
    for name in ["slow", "quick"] {
        control.declare(&Model::new(name, add10)).await?;
        control.reaches(name, State::ModelAvailable, WITHIN).await?;
        up.pipeline(&one_step(&format!("by-{name}"), name)).await?;
        ensure!(number(&ask(&up.rest(), &format!("by-{name}"), 1.0, 5_000).await?)? == 11.0);
        let versions = control.versions(name).await?;
        let replica = versions.last().and_then(|version| version.model_replica_state.keys().next().copied());
        replicas.push(u32::try_from(replica.context("a replica")?)?);
    }
    ensure!(replicas[0] != replicas[1], "both are on replica {}", replicas[0]);
    Ok((up, replicas[0]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_that_never_answers_costs_its_own_callers_their_time_and_nobody_else_anything() -> Result<()> {
    let (mut up, replica) = two_replicas(&["--pending-max", "4", "--model-timeout-ms", "2500"]).await?;
    let rest = up.rest();
    let frozen = up.freeze_replica(replica)?;
    // The caller's deadline.
    let began = Instant::now();
    let answer = ask(&rest, "by-slow", 1.0, 500).await?;
    let took = began.elapsed();
    ensure!(answer.status == StatusCode::GATEWAY_TIMEOUT, "{} {}", answer.status, answer.body);
    ensure!(took >= Duration::from_millis(500) && took < Duration::from_millis(1_500), "{took:?}");
    // A model next to it answers all the while.
    let held = tokio::spawn({
        let rest = rest.clone();
        async move { ask(&rest, "by-slow", 1.0, 60_000).await }
    });
    becomes(&up, 1).await?;
    for value in 0..20 {
        ensure!(number(&ask(&rest, "by-quick", f64::from(value), 400).await?)? == f64::from(value + 10));
    }
    ensure!(!held.is_finished(), "the slow one was answered");
    held.abort();
    becomes(&up, 0).await?;
    // Callers that leave free their places at once.
    let leaving: Vec<_> = (0..4)
        .map(|_| {
            let rest = rest.clone();
            tokio::spawn(async move { ask(&rest, "by-slow", 2.0, 60_000).await })
        })
        .collect();
    becomes(&up, 4).await?;
    let refused = ask(&rest, "by-quick", 1.0, 5_000).await?;
    ensure!(refused.status == StatusCode::TOO_MANY_REQUESTS, "{} {}", refused.status, refused.body);
    ensure!(refused.error()?.contains('4'), "it says how many wait: {}", refused.body);
    let message = pb::ModelInferRequest::default();
    let status = up.rpc().model_infer(with_metadata(message, &[("seldon-model", "by-quick.pipeline")])).await;
    ensure!(status.err().context("refused")?.code() == Code::ResourceExhausted);
    leaving.iter().for_each(tokio::task::JoinHandle::abort);
    becomes(&up, 0).await?;
    ensure!(number(&ask(&rest, "by-quick", 1.0, 5_000).await?)? == 11.0);
    // The gateway's own limit: the caller hears of it, by its step, before its deadline.
    let answer = ask(&rest, "by-slow", 3.0, 30_000).await?;
    ensure!(answer.status == StatusCode::GATEWAY_TIMEOUT && answer.json()?["step"] == "slow", "{}", answer.body);
    let errors = up.topics().read("seldon.default.errors.errors").await?;
    ensure!(errors.iter().any(|record| header_of(record, "seldon-pipeline-errors") == ["slow"]), "{errors:?}");
    drop(frozen);
    until(WITHIN, "it answers again", async || {
        ensure!(number(&ask(&rest, "by-slow", 4.0, 2_000).await?)? == 14.0);
        Ok(())
    })
    .await?;
    up.part.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_fails_requests_in_time_and_they_are_served_when_there_is_room() -> Result<()> {
    const MEGABYTES: usize = 4;
    let mut up = Up::new(&[])?;
    up.start().await?;
    up.load(&onnx::samples(up.folder())?).await?;
    up.pipeline(&one_step("p", "add10")).await?;
    let elements = MEGABYTES << 18;
    let large = || {
        let tensor = pb::model_infer_request::InferInputTensor {
            name: "INPUT".into(),
            datatype: "FP32".into(),
            shape: vec![i64::try_from(elements).unwrap_or(0)],
            ..Default::default()
        };
        let raw = vec![bytes::Bytes::from(vec![0; elements * 4])];
        let message = pb::ModelInferRequest { inputs: vec![tensor], raw_input_contents: raw, ..Default::default() };
        with_metadata(message, &[("seldon-model", "p.pipeline"), ("switchyard-timeout-ms", "1500")])
    };
    up.rpc().model_infer(large()).await?;
    // The log cannot begin another segment: the name is taken, as a full disk would refuse it.
    let blocker = up.dir().join("log").join("0000000001.log");
    std::fs::create_dir(&blocker).context("take the name")?;
    let mut statuses = Vec::new();
    for _ in 0..12 {
        let began = Instant::now();
        let answer = up.rpc().model_infer(large()).await;
        ensure!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        if let Err(status) = answer {
            statuses.push(status);
        }
    }
    ensure!(statuses.len() > 2, "48 MB through four topics need another segment: {statuses:?}");
    for status in &statuses {
        let is_clear = match status.code() {
            // It was on its way when there was no more room.
            Code::DeadlineExceeded => true,
            // It could not begin.
            Code::Unavailable | Code::ResourceExhausted => status.message().contains("log"),
            _ => false,
        };
        ensure!(is_clear, "{status:?}");
    }
    ensure!(statuses.iter().any(|status| status.code() != Code::DeadlineExceeded), "{statuses:?}");
    std::fs::remove_dir(&blocker).context("give it back")?;
    let rest = up.rest();
    let answers = join_all((0..20).map(|value| ask(&rest, "p", f64::from(value), 10_000))).await;
    for (value, answer) in (0..).zip(answers) {
        ensure!(number(&answer?)? == f64::from(value + 10));
    }
    up.rpc().model_infer(large()).await?;
    up.part.stop().await?;
    Ok(())
}
