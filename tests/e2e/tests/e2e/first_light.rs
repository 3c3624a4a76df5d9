//! A model is loaded, and clients that know nothing of us call it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Model, Rest, Shape, Stack, iris, python, scenario, until, with_metadata};
use http::StatusCode;
use messages::inference as pb;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::LOADS_WITHIN;

/// An Envoy that was told to drain says so at once.
const DRAINS_WITHIN: Duration = Duration::from_secs(5);

#[test]
fn first_light() {
    scenario("first_light", Shape::default(), async |stack| {
        let control = stack.control();
        control.declare(&Model::iris("iris").replicas(2)).await?;
        control.declare(&Model::new("identity", &harness::sample("identity")).replicas(2)).await?;
        control.serves("iris", 2, LOADS_WITHIN).await?;
        control.serves("identity", 2, LOADS_WITHIN).await?;
        rest_finds_the_model(stack).await.context("REST")?;
        grpc_finds_the_model(stack).await.context("gRPC")?;
        stream_is_answered_message_by_message(stack).await.context("stream")?;
        unknown_models_are_named(stack).await.context("unknown models")?;
        models_describe_themselves(stack).await.context("metadata")?;
        stock_clients_work(stack).await.context("stock clients")?;
        unloaded_model_is_unknown(stack).await.context("unload")?;
        envoy_says_that_it_drains(stack).await.context("drain")
    });
}

async fn rest_finds_the_model(stack: &Stack) -> Result<()> {
    let rest = stack.rest();
    for path in ["/v2/models/iris/infer", "/v2/models/iris/versions/1/infer"] {
        let answer = rest.post(path, &[], iris::BODY).await?;
        ensure!(answer.status == StatusCode::OK, "{path}: {} {}", answer.status, answer.body);
        iris::check_json(&answer.body)?;
        ensure!(answer.json()?["model_name"] == "iris_1", "{}", answer.body);
        ensure!(answer.header("x-seldon-route") == ":iris_1:", "{:?}", answer.headers);
        ensure!(
            !answer.header("x-request-id").is_empty(),
            "one is made when the client has none: {:?}",
            answer.headers
        );
    }
    let headers = [("seldon-model", "iris"), ("seldon-internal-model", "identity_1"), ("x-request-id", "mine")];
    let answer = rest.post("/v2/models/identity/infer", &headers, iris::BODY).await?;
    ensure!(answer.status == StatusCode::OK, "the header beats the path: {} {}", answer.status, answer.body);
    ensure!(answer.header("x-seldon-route") == ":iris_1:", "{:?}", answer.headers);
    ensure!(answer.header("x-request-id") == "mine", "{:?}", answer.headers);
    Ok(())
}

async fn grpc_finds_the_model(stack: &Stack) -> Result<()> {
    let mut rpc = stack.rpc();
    let answer = rpc.model_infer(iris::message("iris")).await?;
    iris::check_message(answer.get_ref())?;
    ensure!(answer.get_ref().model_name == "iris_1", "{answer:?}");
    ensure!(answer.metadata().get("x-seldon-route").is_some_and(|route| route == ":iris_1:"), "{answer:?}");
    ensure!(answer.metadata().contains_key("x-request-id"), "one is made when the client has none: {answer:?}");
    let metadata = [("seldon-model", "iris"), ("seldon-internal-model", "identity_1")];
    let answer = rpc.model_infer(with_metadata(iris::message("identity"), &metadata)).await?;
    ensure!(answer.get_ref().model_name == "iris_1", "metadata beats the message: {answer:?}");
    let mut versioned = iris::message("iris");
    versioned.model_version = "1".to_owned();
    iris::check_message(rpc.model_infer(versioned).await?.get_ref())
}

async fn stream_is_answered_message_by_message(stack: &Stack) -> Result<()> {
    let (send, requests) = mpsc::channel(1);
    let message = |turn: u32| pb::ModelInferRequest { id: turn.to_string(), ..iris::message("iris") };
    send.send(message(0)).await?;
    let request = with_metadata(ReceiverStream::new(requests), &[("x-request-id", "streamed")]);
    let mut answers = stack.rpc().model_stream_infer(request).await?.into_inner();
    for turn in 0..3 {
        let answer = answers.message().await?.context("the stream ended")?;
        iris::check_message(&answer)?;
        ensure!(answer.id == turn.to_string() && answer.model_name == "iris_1", "{answer:?}");
        if turn < 2 {
            send.send(message(turn + 1)).await?;
        }
    }
    drop(send);
    ensure!(answers.message().await?.is_none(), "the stream ends with its requests");
    let trailers = answers.trailers().await?.context("trailers")?;
    ensure!(trailers.get("x-request-id").is_some_and(|id| id == "streamed"), "{trailers:?}");
    Ok(())
}

async fn unknown_models_are_named(stack: &Stack) -> Result<()> {
    let answer = stack.rest().infer("nosuch", iris::BODY).await?;
    ensure!(answer.status == StatusCode::NOT_FOUND && answer.error()?.contains("model nosuch "), "{}", answer.body);
    let status = stack.rpc().model_infer(iris::message("nosuch")).await.err().context("an error")?;
    ensure!(status.code() == Code::Unimplemented && status.message().contains("model nosuch "), "{status:?}");
    let agent = &stack.agents[0];
    let headers = [("seldon-internal-model", "nosuch_1")];
    until(LOADS_WITHIN, "the agent is not new any more", async || {
        let answer = Rest::new(agent.address()).post("/v2/models/nosuch/infer", &headers, iris::BODY).await?;
        ensure!(answer.status == StatusCode::NOT_FOUND && answer.error()?.contains("nosuch"), "{}", answer.body);
        Ok(())
    })
    .await?;
    let request = with_metadata(iris::message("nosuch"), &headers);
    let status = harness::rpc(agent.address()).model_infer(request).await.err().context("an error")?;
    ensure!(status.code() == Code::NotFound && status.message().contains("nosuch"), "{status:?}");
    let status = harness::rpc(agent.address()).model_infer(iris::message("")).await.err().context("an error")?;
    ensure!(status.code() == Code::FailedPrecondition, "{status:?}");
    Ok(())
}

async fn models_describe_themselves(stack: &Stack) -> Result<()> {
    let (rest, mut rpc) = (stack.rest(), stack.rpc());
    let metadata = rest.get("/v2/models/iris", &[]).await?.json()?;
    ensure!(metadata["inputs"][0]["name"] == "X" && metadata["name"] == "iris_1", "{metadata}");
    for path in ["/v2/models/iris/ready", "/v2/health/live", "/v2/health/ready", "/v2"] {
        let answer = rest.get(path, &[]).await?;
        ensure!(answer.status == StatusCode::OK, "{path}: {} {}", answer.status, answer.body);
    }
    let name = || "iris".to_owned();
    let metadata = rpc.model_metadata(pb::ModelMetadataRequest { name: name(), ..Default::default() }).await?;
    ensure!(metadata.get_ref().inputs.iter().any(|input| input.name == "X"), "{metadata:?}");
    let ready = rpc.model_ready(pb::ModelReadyRequest { name: name(), ..Default::default() }).await?;
    ensure!(ready.get_ref().ready, "the model is ready");
    ensure!(rpc.server_ready(pb::ServerReadyRequest {}).await?.get_ref().ready, "the server is ready");
    ensure!(rpc.server_live(pb::ServerLiveRequest {}).await?.get_ref().live, "the server is live");
    Ok(())
}

async fn stock_clients_work(stack: &Stack) -> Result<()> {
    let address = stack.envoys[0].address().to_string();
    let said = tokio::task::spawn_blocking(move || {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("python");
        let packages = python::packages(&folder.join("requirements.txt"))?;
        python::run(&packages, &folder.join("stock_clients.py"), &[&address])
    });
    let said = said.await??;
    println!("first_light: {} checks of stock clients", said.lines().filter(|line| line.starts_with("ok")).count());
    Ok(())
}

async fn unloaded_model_is_unknown(stack: &Stack) -> Result<()> {
    let control = stack.control();
    control.remove("identity").await?;
    control.is_gone("identity", LOADS_WITHIN).await?;
    let answer = stack.rest().infer("identity", iris::BODY).await?;
    ensure!(answer.status == StatusCode::NOT_FOUND, "{} {}", answer.status, answer.body);
    let agent = Rest::new(stack.agents[0].address());
    let answer = agent.post("/v2/models/identity/infer", &[("seldon-internal-model", "identity_1")], "{}").await?;
    ensure!(answer.status == StatusCode::NOT_FOUND, "{} {}", answer.status, answer.body);
    Ok(())
}

async fn envoy_says_that_it_drains(stack: &mut Stack) -> Result<()> {
    let envoy = &mut stack.envoys[0];
    let stats = Rest::new(envoy.stats_address());
    ensure!(stats.get("/ready", &[]).await?.status == StatusCode::OK, "it is ready");
    let metrics = stats.get("/stats/prometheus", &[]).await?.body;
    ensure!(metrics.contains("envoy_http_downstream_rq_total"), "metrics: {metrics}");
    envoy.process().context("it runs")?.begin_drain().await?;
    until(DRAINS_WITHIN, "Envoy says that it is not ready", async || {
        let answer = stats.get("/ready", &[]).await?;
        ensure!(answer.status == StatusCode::SERVICE_UNAVAILABLE, "{}", answer.status);
        Ok(())
    })
    .await
}
