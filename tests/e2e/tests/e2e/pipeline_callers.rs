//! What callers of pipelines are owed and what they may cost: an end at once when their pipeline goes, the id of their
//! request whatever comes of it, and no work, bytes or places for those who are gone or send slowly.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use harness::{Answer, Model, Rest, State, Up, onnx, pipeline, until, with_metadata};
use http::{Request, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use messages::inference as pb;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::pipeline_trouble::{WITHIN, ask, becomes, number, one_step, two_replicas};

/// How long a request has that says nothing about it.
const USUAL_TIME: Duration = Duration::from_secs(60);

/// The sum of a metric of `up` over its labels.
async fn metric(up: &Up, name: &str) -> Result<f64> {
    let metrics = Rest::new(up.address(9_999)).get("/metrics", &[]).await?.body;
    let lines = metrics.lines().filter_map(|line| line.strip_prefix(name));
    lines.filter_map(|line| line.rsplit_once(' ')).map(|(_, value)| Ok(value.parse::<f64>()?)).sum()
}

/// A request that sends what it is given and no more; its answer.
async fn slowly(
    up: &Up,
    path: &str,
    headers: &[(&str, &str)],
) -> Result<(mpsc::Sender<Bytes>, tokio::task::JoinHandle<Result<http::Response<Bytes>>>)> {
    let (sender, receiver) = mpsc::channel(4);
    let frames =
        tokio_stream::StreamExt::map(ReceiverStream::new(receiver), |data| Ok::<_, hyper::Error>(Frame::data(data)));
    let mut request = Request::post(format!("http://{}{path}", up.address(9_000)));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(BoxBody::new(StreamBody::new(frames)))?;
    let stream = tokio::net::TcpStream::connect(up.address(9_000)).await?;
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(hyper_util::rt::TokioExecutor::new(), io).await?;
    tokio::spawn(connection);
    let answer = tokio::spawn(async move {
        let answer = client.send_request(request).await?;
        let (head, body) = answer.into_parts();
        Ok(http::Response::from_parts(head, body.collect().await?.to_bytes()))
    });
    Ok((sender, answer))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_when_the_pipeline_is_unloaded_or_leaves_costs_the_model_nothing() -> Result<()> {
    const LEAVERS: usize = 100;
    let (mut up, replica) = two_replicas(&[]).await?;
    let rest = up.rest();
    let frozen = up.freeze_replica(replica)?;
    let hold = |count: usize| -> Vec<tokio::task::JoinHandle<Result<Answer>>> {
        let one = || {
            let rest = rest.clone();
            tokio::spawn(async move { ask(&rest, "by-slow", 1.0, 60_000).await })
        };
        (0..count).map(|_| one()).collect()
    };
    let mut expired = 0.0;
    for round in ["leave", "unload"] {
        let waiting = hold(LEAVERS);
        becomes(&up, LEAVERS).await?;
        let began = Instant::now();
        if round == "leave" {
            waiting.iter().for_each(tokio::task::JoinHandle::abort);
        } else {
            up.verb(&["pipeline", "unload", "by-slow", "--wait"]).await?.well()?;
            for answer in waiting {
                let answer = answer.await??;
                ensure!(answer.status == StatusCode::SERVICE_UNAVAILABLE, "{} {}", answer.status, answer.body);
                ensure!(answer.error()?.contains("unloaded"), "{}", answer.body);
                ensure!(answer.header("x-pipeline-version") == "1", "{}", answer.body);
            }
        }
        becomes(&up, 0).await?;
        // The calls that nobody waits for are given up, long before their minute is over.
        expired += f64::from(u32::try_from(LEAVERS)?);
        until(WITHIN, "the calls are given up", async || {
            let found = metric(&up, "switchyard_modelgateway_expired_total").await?;
            ensure!(found >= expired, "{found} of {expired}");
            Ok(())
        })
        .await?;
        ensure!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    }
    drop(frozen);
    // And so the model is free for who does wait.
    up.pipeline(&one_step("again", "slow")).await?;
    until(WITHIN, "it answers again", async || {
        ensure!(number(&ask(&rest, "again", 4.0, 2_000).await?)? == 14.0);
        Ok(())
    })
    .await?;
    up.part.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_does_not_end_has_the_time_of_its_request_and_a_share_of_the_memory() -> Result<()> {
    let mut up = Up::new(&["--pending-max", "2", "--pending-bytes-max", "67108864"])?;
    up.start().await?;
    up.load(&onnx::samples(up.folder())?).await?;
    up.pipeline(&one_step("p", "add10")).await?;
    let (rest, path) = (up.rest(), "/v2/pipelines/p/infer");
    // Slow ones: they have a place while they send, and no more than their time.
    let began = Instant::now();
    let timed = [("switchyard-timeout-ms", "3000"), ("x-request-id", "slow")];
    let (first, by_rest) = slowly(&up, path, &timed).await?;
    first.send(Bytes::from_static(b"{\"inputs\": [")).await?;
    let grpc = "/inference.GRPCInferenceService/ModelInfer";
    let headers =
        [timed[0], timed[1], ("seldon-model", "p.pipeline"), ("content-type", "application/grpc"), ("te", "trailers")];
    let (second, by_grpc) = slowly(&up, grpc, &headers).await?;
    second.send(Bytes::from_static(&[0, 0, 0, 1, 0, 10])).await?;
    becomes(&up, 2).await?;
    let refused = ask(&rest, "p", 1.0, 5_000).await?;
    ensure!(refused.status == StatusCode::TOO_MANY_REQUESTS, "{} {}", refused.status, refused.body);
    let answer = by_rest.await??;
    let took = began.elapsed();
    ensure!(answer.status() == StatusCode::GATEWAY_TIMEOUT, "{answer:?}");
    ensure!(answer.headers()["x-request-id"] == "slow", "{answer:?}");
    // Not before its own time, and long before the usual one.
    ensure!(took >= Duration::from_secs(3) && took < USUAL_TIME / 2, "{took:?}");
    let answer = by_grpc.await??;
    ensure!(answer.headers()["grpc-status"] == (Code::DeadlineExceeded as i32).to_string(), "{answer:?}");
    ensure!(answer.headers()["x-request-id"] == "slow", "{answer:?}");
    becomes(&up, 0).await?;
    // Large ones: what does not fit is refused, and what is given up is given back.
    let (first, by_first) = slowly(&up, path, &[]).await?;
    let (second, by_second) = slowly(&up, path, &[]).await?;
    let megabytes = |count: usize| Bytes::from(vec![b' '; count << 20]);
    for sender in [&first, &second] {
        for _ in 0..40 {
            // One is refused on the way: whose bytes come last.
            let _refused = sender.send(megabytes(1)).await;
        }
    }
    let (refused, held) = futures_util::future::select(by_first, by_second).await.into_inner();
    let refused = refused??;
    ensure!(refused.status() == StatusCode::TOO_MANY_REQUESTS, "{refused:?}");
    let text = String::from_utf8_lossy(refused.body());
    ensure!(text.contains("67108864 bytes"), "{text}");
    ensure!(number(&ask(&rest, "p", 1.0, 5_000).await?)? == 11.0);
    held.abort();
    drop((first, second));
    becomes(&up, 0).await?;
    let large = [
        megabytes(40),
        Bytes::from(
            json!({"inputs": [{"name": "INPUT", "datatype": "FP32", "shape": [1], "data": [5.0]}]}).to_string(),
        ),
    ]
    .concat();
    let answer = rest.post(path, &[], large).await?;
    ensure!(number(&answer)? == 15.0);
    // What says that it is too large need not come.
    let (_silent, refused) = slowly(&up, path, &[("content-length", "100000000000")]).await?;
    let refused = refused.await??;
    ensure!(refused.status() == StatusCode::PAYLOAD_TOO_LARGE, "{refused:?}");
    // Who is still sending when the pipeline goes is told so, too.
    let (first, by_rest) = slowly(&up, path, &[]).await?;
    first.send(Bytes::from_static(b"{\"inputs\": [")).await?;
    let (second, by_grpc) = slowly(&up, grpc, &headers[2..]).await?;
    second.send(Bytes::from_static(&[0, 0, 0, 1, 0, 10])).await?;
    becomes(&up, 2).await?;
    let began = Instant::now();
    up.verb(&["pipeline", "unload", "p", "--wait"]).await?.well()?;
    let answer = by_rest.await??;
    ensure!(answer.status() == StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
    let answer = by_grpc.await??;
    ensure!(answer.headers()["grpc-status"] == (Code::Unavailable as i32).to_string(), "{answer:?}");
    ensure!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    up.part.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_says_whose_request_it_ends_and_how_far_that_came() -> Result<()> {
    let mut up = Up::new(&[])?;
    up.start().await?;
    let samples = onnx::samples(up.folder())?;
    up.load(&samples).await?;
    let add10 = &samples.iter().find(|(name, _)| *name == "add10").context("add10")?.1;
    up.control().declare(&Model::new("second", add10)).await?;
    up.control().reaches("second", State::ModelAvailable, WITHIN).await?;
    // The second step gets a tensor that it does not know.
    let spec = json!({
        "steps": [
            {"name": "add10"},
            {"name": "second", "inputs": ["add10.outputs"], "tensorMap": {"add10.outputs.OUTPUT": "UNKNOWN"}},
        ],
        "output": {"steps": ["second"]},
    });
    up.pipeline(&pipeline("p", &spec)).await?;
    let body = json!({"inputs": [{"name": "INPUT", "datatype": "FP32", "shape": [1], "data": [1.0]}]}).to_string();
    let path = "/v2/pipelines/p/infer";
    let headers = [("x-request-id", "mine"), ("x-of-mine", "too")];
    let answer = up.rest().post(path, &headers, body.clone()).await?;
    ensure!(answer.status.is_client_error() && answer.json()?["step"] == "second", "{} {}", answer.status, answer.body);
    // The record's key and the caller's id; Envoy makes one header of them.
    let is_pair = |id: &str| id.split_once(',').is_some_and(|(key, id)| key.ends_with(".p.mine") && id == "mine");
    ensure!(is_pair(answer.header("x-request-id")) && answer.header("x-pipeline-version") == "1", "{answer:?}");
    ensure!(answer.header("x-of-mine") == "too" && answer.header("x-seldon-route") == ":add10_1:", "{answer:?}");
    for mode in ["rest", "grpc"] {
        let said = up.verb(&["pipeline", "infer", "p", &body, "--inference-mode", mode]).await?.failed(1)?;
        ensure!(said.contains("pipeline p") && said.contains("step second"), "{said}");
    }
    // Also if nothing was begun, and if the caller gave no id.
    let answer = up.rest().post(path, &headers, "{").await?;
    ensure!(answer.status == StatusCode::BAD_REQUEST && answer.header("x-request-id") == "mine", "{answer:?}");
    let answer = up.rest().post(path, &[], "{").await?;
    ensure!(answer.status == StatusCode::BAD_REQUEST && !answer.header("x-request-id").is_empty(), "{answer:?}");
    // And by gRPC.
    let message = pb::ModelInferRequest::default();
    let metadata = [("seldon-model", "p.pipeline"), ("x-request-id", "mine")];
    let status = up.rpc().model_infer(with_metadata(message, &metadata)).await.err().context("an error")?;
    let id = status.metadata().get("x-request-id").and_then(|id| id.to_str().ok()).unwrap_or_default();
    ensure!(is_pair(id), "{status:?}");
    ensure!(status.metadata().get("x-pipeline-version").is_some_and(|version| version == "1"), "{status:?}");
    up.part.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cycle_that_has_answered_ends() -> Result<()> {
    let mut up = Up::new(&[])?;
    up.start().await?;
    up.load(&onnx::samples(up.folder())?).await?;
    // Each round gives the next one its input, and the first one answers.
    let back = json!({"add10.outputs.OUTPUT": "INPUT"});
    let inputs = ["p.inputs.INPUT", "add10.outputs.OUTPUT"];
    let spec = json!({
        "allowCycles": true,
        "maxStepRevisits": 1_000_000,
        "steps": [{"name": "add10", "inputsJoinType": "any", "inputs": inputs, "tensorMap": back}],
        "output": {"steps": ["add10"]},
    });
    up.pipeline(&pipeline("p", &spec)).await?;
    ensure!(number(&ask(&up.rest(), "p", 1.0, 60_000).await?)? == 11.0);
    until(WITHIN, "the cycle is cut", async || {
        let found = metric(&up, "switchyard_modelgateway_expired_total").await?;
        ensure!(found >= 1.0, "{found} calls were given up");
        Ok(())
    })
    .await?;
    let rounds = up.topics().read("seldon.default.model.add10.inputs").await?.len();
    ensure!(rounds < 500, "{rounds} rounds for one answer");
    up.part.stop().await?;
    Ok(())
}
