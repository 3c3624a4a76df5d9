//! A thousand models on the built-in server.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use harness::{Model, Rest, SERVER, Shape, Stack, iris, scenario, until};
use http::StatusCode;

use crate::RATE;

const MODELS: usize = 1_000;
/// Calls at once while declaring and calling.
const AT_ONCE: usize = 16;
/// Loading a thousand models takes seconds on a free machine.
const LOADED_WITHIN: Duration = Duration::from_secs(90);
/// Calls of the first and of the last model, in turn.
const COMPARED: usize = 200;
/// How long the load runs around the scheduler's restart.
const WINDOW: Duration = Duration::from_millis(500);

fn name(number: usize) -> String {
    format!("model-{number}")
}

#[test]
fn thousand_models_answer_and_survive_a_restart_of_the_scheduler() {
    scenario("thousand", Shape::default(), async |stack| {
        stack.expect_log(&["gRPC config", "scheduler is away"]);
        let control = stack.control();
        let started = Instant::now();
        let declared = stream::iter(0..MODELS).map(|number| {
            let control = control.clone();
            async move { control.declare(&Model::iris(&name(number)).memory(1 << 10)).await }
        });
        declared.buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
        println!("thousand: declared after {} ms", started.elapsed().as_millis());
        until(LOADED_WITHIN, "all models serve", async || {
            let serving = control.models().await?.values().filter(|replicas| **replicas > 0).count();
            ensure!(serving == MODELS, "{serving} of {MODELS}");
            Ok(())
        })
        .await?;
        println!("thousand: available after {} ms", started.elapsed().as_millis());
        let status = control.server(SERVER).await?;
        ensure!(status.resources.iter().all(|replica| replica.num_loaded_models > 0), "both replicas: {status:?}");

        everyone_answers(&stack.rest()).await?;
        println!("thousand: all have answered after {} ms", started.elapsed().as_millis());
        compare(&stack.rest()).await?;
        restart(stack).await
    });
}

async fn everyone_answers(rest: &Rest) -> Result<()> {
    let calls = stream::iter(0..MODELS).map(|number| call(rest, number));
    calls.buffer_unordered(AT_ONCE).try_collect::<Vec<Duration>>().await.map(|_| ())
}

async fn call(rest: &Rest, number: usize) -> Result<Duration> {
    let started = Instant::now();
    let answer = rest.infer(&name(number), iris::BODY).await?;
    let took = started.elapsed();
    ensure!(answer.status == StatusCode::OK, "model {number}: {} {}", answer.status, answer.body);
    ensure!(answer.header("x-seldon-route") == format!(":{}_1:", name(number)), "{:?}", answer.headers);
    iris::check_json(&answer.body)?;
    Ok(took)
}

/// The first and the last model in turn, so that whatever else the machine does concerns both.
async fn compare(rest: &Rest) -> Result<()> {
    let (mut first, mut last) = (Vec::new(), Vec::new());
    for _ in 0..COMPARED {
        first.push(call(rest, 0).await?);
        last.push(call(rest, MODELS - 1).await?);
    }
    let median = |times: &mut Vec<Duration>| {
        times.sort_unstable();
        times.get(times.len() / 2).copied().unwrap_or_default().as_secs_f64() * 1e3
    };
    let (first, last) = (median(&mut first), median(&mut last));
    println!("thousand: median of the first model {first:.3} ms, of the last {last:.3} ms, ratio {:.2}", last / first);
    Ok(())
}

async fn restart(stack: &mut Stack) -> Result<()> {
    let control = stack.control();
    let models: Vec<String> = (0..MODELS).step_by(50).map(name).collect();
    let load = stack.load(&models.iter().map(String::as_str).collect::<Vec<_>>(), RATE);
    load.window(WINDOW).await;
    stack.scheduler.part.kill9().await?;
    load.window(WINDOW).await;
    let restarted = Instant::now();
    stack.scheduler.start().await?;
    control.has_replicas(SERVER, 2, LOADED_WITHIN).await?;
    until(LOADED_WITHIN, "all models serve after the restart", async || {
        let serving = control.models().await?.values().filter(|replicas| **replicas > 0).count();
        ensure!(serving == MODELS, "{serving} of {MODELS}");
        Ok(())
    })
    .await?;
    println!("thousand: the restarted scheduler has all models after {} ms", restarted.elapsed().as_millis());
    load.window(WINDOW).await;
    let traffic = load.stop().await?;
    println!("thousand: {}", traffic.summary());
    traffic.none_failed().context("a restart of the scheduler")
}
