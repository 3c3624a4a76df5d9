//! gRPC clients that are their own Envoy: what every stock one of them was promised. Both test programs have it, each for
//! another client.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use harness::{Control, First, Model, Proxyless, SERVER, Stack, until};

/// How long the load runs before, between and after what happens.
const WINDOW: Duration = Duration::from_millis(500);
/// Longer than anything the stack does about a loss at once, shorter than the grace period of a lost agent.
const LOSS_WINDOW: Duration = Duration::from_millis(1500);
/// A load of a small model takes some tens of milliseconds; the machine may be busy.
const LOADS_WITHIN: Duration = Duration::from_secs(20);
/// For an answer that no replica gives. gRPC waits 15 s for a name that it is told nothing of.
const AT_ONCE_MS: f64 = 3_000.0;
/// Calls at a time of a load.
const CONCURRENCY: u32 = 4;

/// Another artifact that is the same model.
fn copy_of_iris(folder: &Path) -> Result<PathBuf> {
    let copy = folder.join("second");
    std::fs::create_dir_all(&copy)?;
    std::fs::copy(harness::sample("iris").join("model.onnx"), copy.join("model.onnx"))?;
    Ok(copy)
}

/// Everything that is promised, by one client. `client` is the program without arguments.
pub async fn holds(stack: &mut Stack, client: impl Fn() -> Command) -> Result<()> {
    // Those who lose their peers say so.
    stack.expect_log(&["gRPC config", "scheduler is away", "no envoy is connected"]);
    let control = stack.control();
    let mut early = Proxyless::start(stack, client(), "iris", 1)?;
    at_once("a model that nobody declared", &early.first().await?, "NOT_FOUND")?;

    control.declare(&Model::iris("iris").replicas(2)).await?;
    control.serves("iris", 2, LOADS_WITHIN).await?;
    control.declare(&Model::iris("moving")).await?;
    control.serves("moving", 1, LOADS_WITHIN).await?;
    control.declare(&Model::iris("large").memory(1 << 40)).await?;
    let mut large = Proxyless::start(stack, client(), "large", 1)?;
    let mut load = Proxyless::start(stack, client(), "iris", CONCURRENCY)?;
    let mut moving = Proxyless::start(stack, client(), "moving", 1)?;
    at_once("a model that has no replica", &large.first().await?, "UNAVAILABLE")?;
    let first = load.first().await?;
    println!("proxyless: the first call took {:.1} ms", first.ms);
    ensure!(first.code == "OK" && moving.first().await?.code == "OK", "{first:?}");
    large.end().await?;
    let early = early.end().await?;
    println!("proxyless: a client that was there before the model: {}", early.summary());
    // While it is loaded it is declared and has no replica.
    let became = |code: &str| early.codes.contains_key(code);
    ensure!(became("NOT_FOUND") && became("OK"), "what was unknown is there: {early:?}");
    ensure!(early.codes.keys().all(|code| ["NOT_FOUND", "OK", "UNAVAILABLE"].contains(&code.as_str())), "{early:?}");

    let outcome = in_order(stack, &control, &load).await;
    let moved = moving.end().await?;
    println!("proxyless: a model that moves twice: {}", moved.summary());
    let outcome = match outcome {
        Ok(()) => by_force(stack, &control, &load).await,
        Err(error) => Err(error),
    };
    let calls = load.end().await?;
    println!("proxyless: {}", calls.summary());
    outcome?;
    ensure!(moved.failed == 0 && moved.calls > 0, "{}", moved.summary());
    ensure!(calls.failed == 0 && calls.calls > 0, "{}", calls.summary());
    let answered = |model| calls.models.is_empty() || calls.models.contains_key(model);
    ensure!(answered("iris_1") && answered("iris_2"), "both versions answered: {:?}", calls.models);
    unseen_by_envoy(stack).await
}

fn at_once(what: &str, first: &First, code: &str) -> Result<()> {
    println!("proxyless: {what} is {} after {:.1} ms: {}", first.code, first.ms, first.message);
    ensure!(first.code == code && first.ms < AT_ONCE_MS, "{what}: {first:?}");
    Ok(())
}

/// A new version, and each replica is emptied, ended and started again. A model with one replica goes from one to the other.
async fn in_order(stack: &mut Stack, control: &Control, load: &Proxyless) -> Result<()> {
    load.window(WINDOW).await;
    control.declare(&Model::new("iris", &copy_of_iris(stack.folder())?).replicas(2)).await?;
    until(LOADS_WITHIN, "the second version alone serves", async || {
        let versions = control.versions("iris").await?;
        let serving = |version: &messages::scheduler::ModelVersionStatus| {
            version.state.as_ref().map_or(0, |state| state.available_replicas)
        };
        match versions.iter().map(|version| (version.version, serving(version))).collect::<Vec<_>>().as_slice() {
            [(1, 0), (2, 2)] => Ok(()),
            other => bail!("{other:?}"),
        }
    })
    .await?;
    load.window(WINDOW).await;

    for index in [0, 1] {
        stack.scheduler.drain(SERVER, u32::try_from(index)?).await?;
        stack.agents[index].part.stop().await?;
        load.window(WINDOW).await;
        stack.agents[index].part.start().await?;
        both_serve(control).await.context("a replica that was ended")?;
        control.serves("moving", 1, LOADS_WITHIN).await?;
    }
    Ok(())
}

/// A replica and a scheduler are killed.
async fn by_force(stack: &mut Stack, control: &Control, load: &Proxyless) -> Result<()> {
    stack.agents[1].part.kill9().await?;
    load.window(LOSS_WINDOW).await;
    stack.agents[1].part.start().await?;
    both_serve(control).await.context("a replica that was killed")?;

    stack.scheduler.part.kill9().await?;
    load.window(WINDOW).await;
    let restarted = Instant::now();
    stack.scheduler.start().await?;
    both_serve(control).await.context("a scheduler that was killed")?;
    println!("proxyless: all is back {} ms after a scheduler began", restarted.elapsed().as_millis());
    // Clients come back to it.
    load.window(LOSS_WINDOW).await;
    Ok(())
}

async fn both_serve(control: &Control) -> Result<()> {
    control.has_replicas(SERVER, 2, LOADS_WITHIN).await?;
    control.serves("iris", 2, LOADS_WITHIN).await.map(drop)
}

/// What is made for these clients is theirs.
async fn unseen_by_envoy(stack: &Stack) -> Result<()> {
    for envoy in &stack.envoys {
        let stats = envoy.stats("^(cluster|listener)\\.").await?;
        ensure!(stats.keys().any(|name| name.contains("cluster.set-")), "Envoy has the set: {stats:?}");
        let foreign: Vec<_> = stats.keys().filter(|name| name.contains("proxyless")).collect();
        ensure!(foreign.is_empty(), "{foreign:?}");
    }
    Ok(())
}
