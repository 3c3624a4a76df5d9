//! An agent comes back with thousands of loaded models. It must be settled at once, and nobody else may wait for that.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use messages::scheduler::{LoadModelRequest, ModelReference, ModelStatusRequest};

use super::{Site, WITHIN, declare, model, named};
use crate::fake::{Agent, connected, fleet};
use crate::figures::{Times, milliseconds};
use crate::statuses::Statuses;
use crate::table::Table;
use crate::{Size, backend};

const BUSY: &str = "server-0";
const OTHER: &str = "server-1";

/// How one return went.
struct Return {
    settled: Duration,
    load: Times,
    status: Times,
}

pub(crate) async fn run(size: Size) -> Result<()> {
    let models = size.pick(5_000, 500);
    let site = Site::start().await?;
    let scheduler = &site.scheduler;
    let address = backend::start("{}").await?;
    let mut agents = fleet(scheduler, 2, 1, address).await?;
    let statuses = Statuses::subscribe(scheduler, "bench").await?;
    declare(scheduler, (0..models).map(|number| model(number, BUSY)).collect()).await?;
    statuses.available(models, WITHIN).await?;
    let agent = agents.remove(0);

    let mut returns = Vec::new();
    let mut agent = agent;
    for turn in 0..size.pick(3, 1) {
        let held = agent.leave();
        connected(scheduler, BUSY, 0).await?;
        let done = tokio::sync::watch::Sender::new(false);
        let others = tokio::spawn(others(scheduler.client()?, turn, done.subscribe()));
        let started = Instant::now();
        agent = Agent::start(scheduler, BUSY, 0, address, held)?;
        connected(scheduler, BUSY, 1).await?;
        // Every model is routed as before, so all are available the moment the agent's word has been dealt with.
        let control = scheduler.control();
        harness::until(WITHIN, "all models serve", async || {
            let serving = control.models().await?.values().filter(|replicas| **replicas == 1).count();
            anyhow::ensure!(serving >= models, "{serving} of {models} serve");
            Ok(())
        })
        .await?;
        let settled = started.elapsed();
        done.send_replace(true);
        let (load, status) = others.await.context("the other calls")??;
        returns.push(Return { settled, load, status });
    }
    print(models, &returns);
    drop((agent, agents, statuses));
    site.scheduler.stop().await
}

fn print(models: usize, returns: &[Return]) {
    let mut table = Table::new(&[
        "an agent returns with models",
        "settled ms (limit at 5,000: 1000)",
        "meanwhile: a load elsewhere, worst ms",
        "the status of one model, worst ms",
        "median ms",
    ]);
    for one in returns {
        table.row([
            models.to_string(),
            milliseconds(one.settled),
            milliseconds(one.load.longest()),
            milliseconds(one.status.longest()),
            milliseconds(one.status.median()),
        ]);
    }
    table.print();
    println!("\nSettled: connected, and the statuses of all models, read anew, say that they serve.");
}

/// Loads on another server and reads of statuses, one after another until it is done.
async fn others(
    mut client: api::scheduler::scheduler_client::SchedulerClient<tonic::transport::Channel>,
    turn: usize,
    done: tokio::sync::watch::Receiver<bool>,
) -> Result<(Times, Times)> {
    let (mut loads, mut statuses) = (Times::default(), Times::default());
    for number in 0.. {
        let name = format!("other-{turn}-{number}");
        let started = Instant::now();
        client.load_model(LoadModelRequest { model: Some(named(&name, OTHER)) }).await.context("load elsewhere")?;
        loads.add(started.elapsed());
        let started = Instant::now();
        let model = Some(ModelReference { name, ..Default::default() });
        let request = ModelStatusRequest { subscriber_name: "bench".to_owned(), model, all_versions: false };
        let mut answer = client.model_status(request).await.context("a status")?.into_inner();
        answer.message().await.context("a status")?.context("an empty status")?;
        statuses.add(started.elapsed());
        if *done.borrow() {
            break;
        }
    }
    Ok((loads, statuses))
}
