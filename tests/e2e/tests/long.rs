//! Calls that take longer than Envoy's own limits would let them: no route timeout, and ten silent minutes and more
//! (data-plane row 21); and clients whose toolchain the test command does not ask for. Runs with the feature `long`.

#[path = "shared/proxyless.rs"]
mod proxyless;

use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::{Model, Rest, Shape, Stack, go, sample, scenario};
use messages::inference as pb;

/// Longer than what is to be shown: the machine may be faster later.
const LONG: Duration = Duration::from_secs(720);

/// Twice the time after which Envoy ends a silent stream unless it is told otherwise.
const TEN_MINUTES: Duration = Duration::from_secs(600);

/// How long the calls may take at most: the machine does other things too.
const AT_MOST: Duration = Duration::from_secs(1_800);

/// Rounds of the first pairs of calls, by which the long pair is measured.
const TRIAL: i64 = 50_000;
const TRIALS: usize = 3;

/// The scenarios measure or load the machine, so they have it one after the other.
static MACHINE: Mutex<()> = Mutex::new(());

/// Each protocol calls a model of its own, so that neither waits for the other's rounds.
const BY_REST: &str = "slow-rest";
const BY_GRPC: &str = "slow-grpc";

/// Time for the first load and answer.
const SOON: Duration = Duration::from_secs(30);

fn body(rounds: i64) -> String {
    format!(r#"{{"inputs":[{{"name":"rounds","datatype":"INT64","shape":[1],"data":[{rounds}]}}]}}"#)
}

async fn over_rest(stack: &Stack, rounds: i64) -> Result<Duration> {
    let rest = Rest::new(stack.envoys[0].address()).within(AT_MOST);
    let started = Instant::now();
    let answer = rest.infer(BY_REST, body(rounds)).await?;
    ensure!(answer.status.is_success(), "{} {}", answer.status, answer.body);
    ensure!(answer.json()?["outputs"][0]["name"] == "result", "{}", answer.body);
    Ok(started.elapsed())
}

async fn over_grpc(stack: &Stack, rounds: i64) -> Result<Duration> {
    let input = pb::model_infer_request::InferInputTensor {
        name: "rounds".to_owned(),
        datatype: "INT64".to_owned(),
        shape: vec![1],
        contents: Some(pb::InferTensorContents { int64_contents: vec![rounds], ..Default::default() }),
        ..Default::default()
    };
    let message = pb::ModelInferRequest { model_name: BY_GRPC.to_owned(), inputs: vec![input], ..Default::default() };
    let started = Instant::now();
    let answer = stack.rpc().model_infer(message).await?.into_inner();
    ensure!(answer.outputs.iter().any(|output| output.name == "result"), "{answer:?}");
    Ok(started.elapsed())
}

/// Both at once, as they share the machine; each goes to a replica of its own.
async fn over_both(stack: &Stack, rounds: i64) -> Result<(Duration, Duration)> {
    let (rest, grpc) = tokio::join!(over_rest(stack, rounds), over_grpc(stack, rounds));
    Ok((rest.context("REST")?, grpc.context("gRPC")?))
}

#[test]
fn a_call_of_more_than_ten_minutes_succeeds_over_rest_and_grpc() {
    let _alone = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    scenario("long calls", Shape::default(), async |stack| {
        let control = stack.control();
        // Placement puts the second model where more memory is free; two calls of one model might meet at a replica.
        for model in [BY_REST, BY_GRPC] {
            control.declare(&Model::new(model, &sample("slow"))).await?;
            control.serves(model, 1, SOON).await?;
        }
        // The fastest: whatever else the machine did then, it may not do later.
        let mut trial = AT_MOST;
        for _ in 0..TRIALS {
            let (rest, grpc) = over_both(stack, TRIAL).await.context("a trial")?;
            trial = trial.min(rest).min(grpc);
        }
        let rounds = LONG.as_secs_f64() / trial.as_secs_f64() * TRIAL as f64;
        let rounds = rounds as i64;
        println!("long calls: {TRIAL} rounds take {trial:?}, so {rounds} rounds are asked for");
        let (rest, grpc) = over_both(stack, rounds).await?;
        println!("long calls: REST {} s, gRPC {} s", rest.as_secs(), grpc.as_secs());
        ensure!(rest > TEN_MINUTES && grpc > TEN_MINUTES, "they were long enough to show it: {rest:?}, {grpc:?}");
        Ok(())
    });
}

#[test]
fn grpc_go_is_its_own_envoy_and_no_call_fails() {
    let _alone = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    scenario("proxyless grpc-go", Shape::default(), async |stack| {
        let program = tokio::task::spawn_blocking(|| go::program("grpc-client")).await??;
        proxyless::holds(stack, || Command::new(&program)).await
    });
}
