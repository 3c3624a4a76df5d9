//! SIGKILL to one part after the other, under load. Requests to parts that are alive never fail, what was acknowledged
//! is there afterwards, and all heals by itself within a stated bound.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::{Control, Model, Rest, SERVER, Shape, Stack, iris, scenario, until};
use http::StatusCode;
use tokio::sync::oneshot;

use crate::{LOADS_WITHIN, RATE};

/// How long the load runs before, between and after what happens.
const WINDOW: Duration = Duration::from_millis(800);
/// Longer than anything the stack does about a loss at once, shorter than the grace period of a lost agent.
const LOSS_WINDOW: Duration = Duration::from_millis(1500);

// The bounds within which the stack heals, as the documentation states them. They are for a busy machine.
const SCHEDULER_IS_BACK: Duration = Duration::from_secs(5);
const AGENT_IS_BACK: Duration = Duration::from_secs(10);
const INFERENCE_SERVER_IS_BACK: Duration = Duration::from_secs(10);
const ENVOY_IS_BACK: Duration = Duration::from_secs(10);

/// What the parts say about a peer that is gone.
const SCHEDULER_IS_GONE: &[&str] = &["gRPC config", "scheduler is away"];

/// Says how long something took, and that it was within its bound.
fn healed(what: &str, since: Instant, bound: Duration) -> Result<()> {
    let took = since.elapsed();
    println!("{what} after {} ms (bound {} s)", took.as_millis(), bound.as_secs());
    ensure!(took <= bound, "{what} only after {took:?}, the bound is {bound:?}");
    Ok(())
}

#[test]
fn scheduler_killed_loses_no_request_and_no_acknowledged_write() {
    scenario("kill scheduler", Shape { envoys: 2, ..Shape::default() }, async |stack| {
        stack.expect_log(SCHEDULER_IS_GONE);
        let control = stack.control();
        control.declare(&Model::iris("iris").replicas(2)).await?;
        control.serves("iris", 2, LOADS_WITHIN).await?;
        let load = stack.load(&["iris"], RATE);
        load.window(WINDOW).await;

        nothing_is_sent_again(stack, &control).await.context("a restart while nothing changes")?;

        let (stop, writer) = writer(control.clone());
        load.window(WINDOW).await;
        stack.scheduler.part.kill9().await?;
        let _it_ended_by_itself = stop.send(());
        let acknowledged = writer.await?;
        load.window(WINDOW).await;
        let restarted = Instant::now();
        stack.scheduler.start().await?;
        let known = control.models().await?;
        healed("scheduler answers again", restarted, SCHEDULER_IS_BACK)?;
        let lost: Vec<_> = acknowledged.iter().filter(|name| !known.contains_key(*name)).collect();
        ensure!(
            !acknowledged.is_empty() && lost.is_empty(),
            "{} of {} are lost: {lost:?}",
            lost.len(),
            acknowledged.len()
        );
        println!("{} acknowledged writes, all are there", acknowledged.len());
        control.has_replicas(SERVER, 2, LOADS_WITHIN).await?;
        until(LOADS_WITHIN, "every acknowledged model serves", async || {
            let models = control.models().await?;
            let missing: Vec<_> = models.iter().filter(|(_, replicas)| **replicas == 0).collect();
            ensure!(missing.is_empty(), "not yet: {missing:?}");
            Ok(())
        })
        .await?;
        healed("all models serve", restarted, SCHEDULER_IS_BACK + LOADS_WITHIN)?;
        load.window(WINDOW).await;
        let traffic = load.stop().await?;
        println!("kill scheduler: {}", traffic.summary());
        traffic.none_failed()
    });
}

/// Declares models one after the other until the scheduler is gone; returns those that were acknowledged.
fn writer(control: Control) -> (oneshot::Sender<()>, tokio::task::JoinHandle<Vec<String>>) {
    let (stop, mut stopped) = oneshot::channel();
    let task = tokio::spawn(async move {
        let mut acknowledged = Vec::new();
        for number in 0.. {
            let name = format!("written-{number}");
            let model = Model::iris(&name);
            tokio::select! {
                _ = &mut stopped => break,
                declared = control.declare(&model) => match declared {
                    Ok(()) => acknowledged.push(name),
                    Err(_) => break,
                },
            }
        }
        acknowledged
    });
    (stop, task)
}

/// What Envoys have been sent: updates of every kind.
async fn updates(stack: &Stack) -> Result<Vec<BTreeMap<String, u64>>> {
    let mut all = Vec::new();
    for envoy in &stack.envoys {
        let stats = envoy.stats(r"^(cluster_manager\.cluster_(added|modified)|listener_manager\.listener_(added|modified)|.*(lds|scoped_rds\.scopes|rds\..*|eds|cluster\..*)\.update_(success|rejected))$").await?;
        all.push(stats.into_iter().filter(|(name, _)| !name.contains(".sentinel")).collect());
    }
    Ok(all)
}

/// The scheduler dies and comes back; then a model is removed, so that it is known when everything was sent.
async fn nothing_is_sent_again(stack: &mut Stack, control: &Control) -> Result<()> {
    control.declare(&Model::iris("sentinel").replicas(2)).await?;
    control.serves("sentinel", 2, LOADS_WITHIN).await?;
    let before = updates(stack).await?;
    ensure!(before.iter().all(|stats| !stats.is_empty()), "Envoy has such statistics: {before:?}");
    stack.scheduler.part.kill9().await?;
    let restarted = Instant::now();
    stack.scheduler.start().await?;
    control.has_replicas(SERVER, 2, LOADS_WITHIN).await?;
    control.remove("sentinel").await?;
    for envoy in &stack.envoys {
        let rest = Rest::new(envoy.address());
        until(LOADS_WITHIN, "the removed model's route is gone", async || {
            let answer = rest.infer("sentinel", iris::BODY).await?;
            ensure!(answer.status == StatusCode::NOT_FOUND, "{} {}", answer.status, answer.body);
            Ok(())
        })
        .await?;
    }
    healed("scheduler and Envoys are in step again", restarted, SCHEDULER_IS_BACK)?;
    let after = updates(stack).await?;
    for (before, after) in before.iter().zip(&after) {
        let moved: Vec<_> = after.iter().filter(|(name, count)| before.get(*name) != Some(*count)).collect();
        println!("statistics of updates that moved over a restart and one removal: {moved:?}");
        ensure!(moved.iter().all(|(name, _)| name.contains("scoped_rds")), "sent again: {moved:?}, before {before:?}");
    }
    Ok(())
}

/// A process that was killed keeps its sockets open until the kernel has taken it apart. What reaches it meanwhile is
/// under way on it as well: nobody can know whether it was seen, so nobody may send it again.
const DYING: Duration = Duration::from_millis(50);

#[test]
fn agent_killed_loses_only_what_was_under_way_on_it() {
    scenario("kill agent", Shape::default(), async |stack| {
        stack.expect_log(&["gRPC config"]);
        let control = stack.control();
        control.declare(&Model::iris("iris").replicas(2)).await?;
        control.serves("iris", 2, LOADS_WITHIN).await?;
        let load = stack.load(&["iris"], RATE);
        load.window(WINDOW).await;
        let dead = stack.agents[0].part.kill9().await?;
        control.has_replicas(SERVER, 1, LOADS_WITHIN).await?;
        println!("kill agent: the scheduler knows after {} ms", dead.elapsed().as_millis());
        load.window(LOSS_WINDOW).await;
        let restarted = Instant::now();
        stack.agents[0].part.start().await?;
        control.has_replicas(SERVER, 2, LOADS_WITHIN).await?;
        control.serves("iris", 2, LOADS_WITHIN).await?;
        let agent = Rest::new(stack.agents[0].address());
        let headers = [("seldon-internal-model", "iris_1")];
        until(LOADS_WITHIN, "the agent serves again", async || {
            let answer = agent.post("/v2/models/iris/infer", &headers, iris::BODY).await?;
            ensure!(answer.status == StatusCode::OK, "{} {}", answer.status, answer.body);
            Ok(())
        })
        .await?;
        healed("killed agent serves again", restarted, AGENT_IS_BACK)?;
        load.window(WINDOW).await;
        let traffic = load.stop().await?;
        println!("kill agent: {}", traffic.summary());
        traffic.only_failed("only what was under way may fail", |outcome| outcome.started <= dead)
    });
}

#[test]
fn inference_server_killed_loses_only_what_was_under_way_on_it() {
    scenario("kill inference server", Shape::default(), async |stack| {
        // A request may find it dead before the agent does; Envoy asks the other replica then.
        stack.expect_log(&["inference server is down", "broke the connection", "not sent to the inference server"]);
        let control = stack.control();
        control.declare(&Model::iris("iris").replicas(2)).await?;
        control.declare(&Model::iris("other").replicas(2)).await?;
        control.serves("iris", 2, LOADS_WITHIN).await?;
        control.serves("other", 2, LOADS_WITHIN).await?;
        let load = stack.load(&["iris", "other"], RATE);
        load.window(WINDOW).await;
        let before = stack.agents[0].inference_server()?;
        let dead = stack.agents[0].kill9_inference_server()?;
        let agent = Rest::new(stack.agents[0].address());
        for model in ["iris", "other"] {
            let internal = format!("{model}_1");
            until(LOADS_WITHIN, "the agent serves again", async || {
                ensure!(stack.agents[0].inference_server()? != before, "it is the old one");
                let headers = [("seldon-internal-model", internal.as_str())];
                let answer = agent.post(&format!("/v2/models/{model}/infer"), &headers, iris::BODY).await?;
                ensure!(answer.status == StatusCode::OK, "{} {}", answer.status, answer.body);
                Ok(())
            })
            .await?;
        }
        healed("killed inference server serves its models again", dead, INFERENCE_SERVER_IS_BACK)?;
        control.has_replicas(SERVER, 2, LOADS_WITHIN).await?;
        control.serves("iris", 2, LOADS_WITHIN).await?;
        healed("scheduler counts it again", dead, INFERENCE_SERVER_IS_BACK)?;
        load.window(WINDOW).await;
        let traffic = load.stop().await?;
        println!("kill inference server: {}", traffic.summary());
        traffic.only_failed("only what was under way may fail", |outcome| outcome.started <= dead + DYING)
    });
}

#[test]
fn envoy_killed_is_no_loss_to_the_other_one() {
    scenario("kill envoy", Shape { envoys: 2, ..Shape::default() }, async |stack| {
        let control = stack.control();
        control.declare(&Model::iris("iris").replicas(2)).await?;
        control.serves("iris", 2, LOADS_WITHIN).await?;
        let load = stack.load(&["iris"], RATE);
        load.window(WINDOW).await;
        let killing = Instant::now();
        stack.envoys[0].kill9().await?;
        // A model that is declared while one of two is gone is available by the other one soon.
        control.declare(&Model::iris("meanwhile")).await?;
        control.serves("meanwhile", 1, LOADS_WITHIN).await?;
        println!("kill envoy: a new model is available {} ms after the loss", killing.elapsed().as_millis());
        let restarted = Instant::now();
        stack.envoys[0].start().await?;
        let rest = Rest::new(stack.envoys[0].address());
        for model in ["iris", "meanwhile"] {
            let answer = rest.infer(model, iris::BODY).await?;
            ensure!(
                answer.status == StatusCode::OK,
                "an Envoy that is ready has all routes: {} {}",
                answer.status,
                answer.body
            );
        }
        healed("killed Envoy serves again", restarted, ENVOY_IS_BACK)?;
        let back = Instant::now();
        load.window(WINDOW).await;
        let traffic = load.stop().await?;
        println!("kill envoy: {}", traffic.summary());
        traffic.only_failed("only requests to the dead Envoy may fail", |outcome| {
            // It may have been under way when Envoy was killed.
            outcome.target == 0 && outcome.started + outcome.took >= killing && outcome.started <= back
        })
    });
}
