//! Bad input through the whole stack: everyone is told what is wrong, in the form of the protocol, and nobody else
//! notices: a probe model is called all the time.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use harness::{Model, Part, Shape, Stack, State, iris, scenario, until, with_metadata};
use http::{Method, StatusCode};
use messages::inference as pb;
use tonic::Code;

use crate::LOADS_WITHIN;
use crate::rollout::broken_iris;

/// What the built-in server accepts, and a little more.
const TOO_LARGE: usize = (64 << 20) + 1024;
/// Calls of the probe model, in requests a second.
const PROBES: u32 = 50;
/// A part that cannot start says so at once.
const ENDS_WITHIN: Duration = Duration::from_secs(10);

#[test]
fn bad_input_is_explained_and_disturbs_nobody() {
    scenario("bad input", Shape::default(), async |stack| {
        stack.expect_log(&["load failed"]);
        let control = stack.control();
        control.declare(&Model::iris("iris").replicas(2)).await?;
        control.declare(&Model::iris("probe").replicas(2)).await?;
        control.declare(&Model::new("identity", &harness::sample("identity"))).await?;
        for (model, replicas) in [("iris", 2), ("probe", 2), ("identity", 1)] {
            control.serves(model, replicas, LOADS_WITHIN).await?;
        }
        let probe = stack.load(&["probe"], PROBES);
        let started = Instant::now();
        rest(stack).await.context("REST")?;
        grpc(stack).await.context("gRPC")?;
        garbage_on_grpc(stack).await.context("garbage on gRPC")?;
        declarations(stack).await.context("declarations")?;
        artifacts(stack).await.context("artifacts")?;
        taken_ports(stack).await.context("ports")?;
        taken_folder(stack).await.context("folder")?;
        println!("bad input: all of it took {} ms", started.elapsed().as_millis());
        let traffic = probe.stop().await?;
        println!("bad input: the probe: {}", traffic.summary());
        traffic.none_failed()
    });
}

async fn rest(stack: &Stack) -> Result<()> {
    let rest = stack.rest();
    let good = iris::BODY;
    let cases = [
        ("{", StatusCode::BAD_REQUEST, "JSON"),
        ("[]", StatusCode::BAD_REQUEST, "inputs"),
        ("", StatusCode::BAD_REQUEST, "JSON"),
        ("\u{0}\u{1}\u{2}", StatusCode::BAD_REQUEST, "JSON"),
        (&good.replace("[1,4]", "[2,4]"), StatusCode::BAD_REQUEST, "shape"),
        (&good.replace("[1,4]", "[-1,4]"), StatusCode::BAD_REQUEST, "shape"),
        (&good.replace("FP32", "FP31"), StatusCode::BAD_REQUEST, "FP31"),
        (&good.replace("FP32", "INT64").replace("5.1,3.5,1.4,0.2", "1,2,3,4"), StatusCode::BAD_REQUEST, "INT64"),
        (&good.replace("\"X\"", "\"Y\""), StatusCode::BAD_REQUEST, "Y"),
        (&good.replace("\"label\"", "\"labels\""), StatusCode::BAD_REQUEST, "labels"),
        (&good.replace("5.1", "\"5.1\""), StatusCode::BAD_REQUEST, "inputs[0] 'X'"),
    ];
    for (body, status, word) in cases {
        let answer = rest.infer("iris", body.to_owned()).await?;
        let error = answer.error()?;
        ensure!(answer.status == status && error.contains(word), "{body:?}: {} {error}", answer.status);
        ensure!(answer.header("x-seldon-route") == ":iris_1:", "it was the model's answer: {:?}", answer.headers);
    }
    let answer = rest.infer("iris", vec![b'['; TOO_LARGE]).await?;
    ensure!(
        answer.status == StatusCode::PAYLOAD_TOO_LARGE && answer.error()?.contains("67108864 bytes"),
        "{}",
        answer.body
    );
    let headers = [("inference-header-content-length", "1000000")];
    let answer = rest.post("/v2/models/iris/infer", &headers, iris::BODY).await?;
    ensure!(answer.status == StatusCode::BAD_REQUEST, "{} {}", answer.status, answer.body);
    let answer = rest.get("/v2/models/iris/infer", &[]).await?;
    ensure!(answer.status == StatusCode::METHOD_NOT_ALLOWED, "{} {}", answer.status, answer.body);
    let answer = rest.post("/v2/models/iris/nothing", &[], "{}").await?;
    ensure!(answer.status == StatusCode::NOT_FOUND, "{} {}", answer.status, answer.body);
    let answer = rest.infer("nosuch", iris::BODY).await?;
    ensure!(answer.status == StatusCode::NOT_FOUND && answer.error()?.contains("nosuch"), "{}", answer.body);
    Ok(())
}

async fn grpc(stack: &Stack) -> Result<()> {
    let mut rpc = stack.rpc();
    let with = |change: &dyn Fn(&mut pb::ModelInferRequest)| {
        let mut message = iris::message("iris");
        change(&mut message);
        message
    };
    let input = |change: &dyn Fn(&mut pb::model_infer_request::InferInputTensor)| {
        with(&|message| message.inputs.iter_mut().for_each(change))
    };
    let cases = [
        (input(&|input| input.shape = vec![2, 4]), Code::InvalidArgument, "shape"),
        (input(&|input| input.datatype = "FP31".to_owned()), Code::InvalidArgument, "FP31"),
        (input(&|input| input.name = "Y".to_owned()), Code::InvalidArgument, "Y"),
        (with(&|message| message.raw_input_contents.clear()), Code::InvalidArgument, "X"),
        (with(&|message| message.inputs.clear()), Code::InvalidArgument, "raw_input_contents"),
        (with(&|message| message.raw_input_contents = vec![Bytes::from_static(b"123")]), Code::InvalidArgument, "X"),
        (
            with(&|message| message.raw_input_contents = vec![Bytes::from(vec![0; TOO_LARGE])]),
            Code::ResourceExhausted,
            "at most 67108864",
        ),
        (with(&|message| message.model_name = "nosuch".to_owned()), Code::Unimplemented, "nosuch"),
    ];
    for (message, code, word) in cases {
        let (name, raw) = (message.inputs.clone(), message.raw_input_contents.len());
        let Err(status) = rpc.model_infer(message).await else { bail!("{name:?} and {raw} contents were accepted") };
        ensure!(status.code() == code && status.message().contains(word), "expected {code:?} {word}: {status:?}");
    }
    Ok(())
}

/// Bytes that are no message, sent as gRPC by hand.
async fn garbage_on_grpc(stack: &Stack) -> Result<()> {
    let envoy = tokio::net::TcpStream::connect(stack.envoys[0].address()).await?;
    let io = hyper_util::rt::TokioIo::new(envoy);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(hyper_util::rt::TokioExecutor::new(), io).await?;
    let driver = tokio::spawn(connection);
    let frames: [(&[u8], &str); 4] = [
        (b"\0\0\0\0\x08\xff\xff\xff\xff\xff\xff\xff\xff", "no protobuf"),
        (b"\0\xff\xff\xff\xff", "a length that never comes"),
        (b"\x07\0\0\0\x01a", "an unknown compression"),
        (b"\0\0", "half a frame"),
    ];
    for (frame, what) in frames {
        let request = http::Request::builder()
            .method(Method::POST)
            .uri(format!("http://{}/inference.GRPCInferenceService/ModelInfer", stack.envoys[0].address()))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("seldon-model", "iris")
            .body(http_body_util::Full::new(Bytes::from_static(frame)))?;
        let answered = tokio::time::timeout(ENDS_WITHIN, sender.send_request(request)).await;
        let (head, body) = answered.with_context(|| format!("{what}: no answer"))??.into_parts();
        let body = tokio::time::timeout(ENDS_WITHIN, http_body_util::BodyExt::collect(body)).await;
        let trailers = body.with_context(|| format!("{what}: no end"))??.trailers().cloned().unwrap_or_default();
        let status = head.headers.get("grpc-status").or_else(|| trailers.get("grpc-status")).cloned();
        let message = head.headers.get("grpc-message").or_else(|| trailers.get("grpc-message")).cloned();
        println!("bad input: {what}: grpc-status {status:?}, {message:?}");
        let failed = status.is_some_and(|status| status != "0");
        ensure!(failed && message.is_some(), "{what}: {:?} {trailers:?}", head.headers);
    }
    drop(sender);
    driver.await??;
    Ok(())
}

async fn declarations(stack: &Stack) -> Result<()> {
    let control = stack.control();
    let cases = [
        (Model::iris("Bad.Name"), "model.meta.name"),
        (Model::iris(""), "model.meta.name"),
        (Model::iris("huge").replicas(u32::MAX), "replicas"),
    ];
    for (model, field) in cases {
        let Err(status) = control.declare(&model).await else { bail!("{model:?} was accepted") };
        ensure!(status.code() == Code::FailedPrecondition && status.message().contains(field), "{field}: {status:?}");
    }
    let mut unable = Model::iris("unable");
    unable.0.model_spec.get_or_insert_default().requirements = vec!["teleport".to_owned()];
    control.declare(&unable).await?;
    let reason = control.reaches("unable", State::ScheduleFailed, LOADS_WITHIN).await?;
    ensure!(reason.contains("teleport"), "an unknown capability is named: {reason}");
    control.declare(&Model::iris("fat").memory(1 << 40)).await?;
    let reason = control.reaches("fat", State::ScheduleFailed, LOADS_WITHIN).await?;
    ensure!(reason.contains("memory"), "what does not fit says so: {reason}");
    let Err(status) = control.remove("nosuch").await else { bail!("an unknown model was removed") };
    ensure!(status.message().contains("nosuch"), "{status:?}");
    for model in ["unable", "fat"] {
        control.remove(model).await?;
        control.is_gone(model, LOADS_WITHIN).await?;
    }
    Ok(())
}

async fn artifacts(stack: &Stack) -> Result<()> {
    let control = stack.control();
    let (missing, empty) = (stack.folder().join("missing"), stack.folder().join("empty"));
    std::fs::create_dir_all(&empty)?;
    let remote = std::path::Path::new("gs://bucket/iris");
    let broken = broken_iris(stack.folder(), "corrupt")?;
    for (name, folder, word) in [
        ("corrupt", broken.as_path(), "model.onnx"),
        ("missing", &missing, "missing"),
        ("empty", &empty, "empty"),
        ("remote", remote, "gs"),
    ] {
        control.declare(&Model::new(name, folder)).await?;
        let reason = control.reaches(name, State::ModelFailed, LOADS_WITHIN).await?;
        println!("bad input: artifact {name}: {reason}");
        ensure!(reason.contains(word), "{name}: the reason names {word}: {reason}");
        until(LOADS_WITHIN, "Envoy says that nobody serves it", async || {
            let answer = stack.rest().infer(name, iris::BODY).await?;
            let is_unavailable = answer.status == StatusCode::SERVICE_UNAVAILABLE;
            ensure!(is_unavailable && answer.error()?.contains(name), "{} {}", answer.status, answer.body);
            Ok(())
        })
        .await?;
        let status =
            stack.rpc().model_infer(with_metadata(iris::message(name), &[])).await.err().context("an error")?;
        ensure!(status.code() == Code::Unavailable, "{status:?}");
        control.remove(name).await?;
        control.is_gone(name, LOADS_WITHIN).await?;
    }
    Ok(())
}

/// A second part on a port of the first one ends and says which port and which flag.
async fn taken_ports(stack: &mut Stack) -> Result<()> {
    let folder = stack.folder().to_owned();
    let (taken, free) = (stack.scheduler.control_port.to_string(), stack.ports.free()?.to_string());
    let mut second = Part::new(
        "second",
        &folder,
        &["scheduler", "--db-path", &folder.join("second").display().to_string(), "--envoy-port", &free]
            .into_iter()
            .chain(["--listen-host", "127.0.0.1", "--scheduler-port", &taken, "--agent-port", "0"])
            .collect::<Vec<_>>(),
    );
    second.start().await?;
    let status = second.ended(ENDS_WITHIN).await?;
    let said = std::fs::read_to_string(second.log())?;
    ensure!(status.code() == Some(1), "{status}: {said}");
    ensure!(said.contains(&taken) && said.contains("--scheduler-port"), "{said}");
    Ok(())
}

/// A second scheduler in the folder of the first one ends and names the folder.
async fn taken_folder(stack: &mut Stack) -> Result<()> {
    let folder = stack.folder().to_owned();
    let db = folder.join("scheduler").display().to_string();
    let mut third = Part::new(
        "third",
        &folder,
        &["scheduler", "--db-path", &db, "--listen-host", "127.0.0.1"]
            .into_iter()
            .chain(["--envoy-port", "0", "--scheduler-port", "0", "--agent-port", "0"])
            .collect::<Vec<_>>(),
    );
    third.start().await?;
    let status = third.ended(ENDS_WITHIN).await?;
    let said = std::fs::read_to_string(third.log())?;
    ensure!(status.code() == Some(1) && said.contains(&db), "{status}: {said}");
    Ok(())
}
