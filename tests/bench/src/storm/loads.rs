//! Many models by 8 clients through one scheduler: how long, how much memory, how many commits.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{CLIENTS, Site, WITHIN, declare, model};
use crate::fake::fleet;
use crate::figures::mega;
use crate::process::{processor_time, resident};
use crate::statuses::Statuses;
use crate::table::Table;
use crate::{Size, backend};

/// Servers and replicas of each.
const SERVERS: usize = 4;
const REPLICAS: u32 = 2;
/// Loaded before anything is measured: what a process takes for its first use of everything.
const WARM: usize = 100;

/// What one run has cost.
struct Run {
    models: usize,
    took: Duration,
    processor: Duration,
    memory: u64,
    grown: u64,
    of_files: u64,
    batches: u64,
    commits: u64,
}

pub(crate) async fn run(size: Size) -> Result<()> {
    let (few, many) = size.pick((1_000, 10_000), (100, 1_000));
    let runs = [storm(few).await?, storm(many).await?];
    print(&runs);
    let per_model = |run: &Run| run.took.as_secs_f64() / run.models as f64;
    let [first, last] = &runs;
    println!(
        "\nTime per model at {}: {:.2} × that at {} (limit: the same). {CLIENTS} clients, {SERVERS} servers with \
         {REPLICAS} replicas each.",
        last.models,
        per_model(last) / per_model(first),
        first.models
    );
    Ok(())
}

pub(crate) async fn many(size: Size) -> Result<()> {
    print(&[storm(size.pick(100_000, 2_000)).await?]);
    println!("\nLimit at 100,000: it stays alive, with ≤ 250 MB.");
    Ok(())
}

fn print(runs: &[Run]) {
    let mut table = Table::new(&[
        "models by 8 clients",
        "all available s (limit at 10,000: 5)",
        "processor s",
        "resident MB",
        "kB for each (limit 2)",
        "of it the store's pages",
        "batches",
        "commits (limit: batches)",
    ]);
    for run in runs {
        let each = |bytes: u64| format!("{:.2}", bytes as f64 / run.models as f64 / 1e3);
        table.row([
            run.models.to_string(),
            format!("{:.2}", run.took.as_secs_f64()),
            format!("{:.2}", run.processor.as_secs_f64()),
            mega(run.memory),
            each(run.grown),
            each(run.of_files),
            run.batches.to_string(),
            run.commits.to_string(),
        ]);
    }
    table.print();
}

async fn storm(models: usize) -> Result<Run> {
    let site = Site::start().await?;
    let scheduler = &site.scheduler;
    let address = backend::start("{}").await?;
    let agents = fleet(scheduler, SERVERS, REPLICAS, address).await?;
    let statuses = Statuses::subscribe(scheduler, "bench").await?;
    let server = |number: usize| format!("server-{}", number % SERVERS);
    declare(scheduler, (models..models + WARM).map(|number| model(number, &server(number))).collect()).await?;
    statuses.available(WARM, WITHIN).await?;

    let declared = (0..models).map(|number| model(number, &server(number))).collect();
    let pid = scheduler.pid()?;
    let counted = scheduler.counters().await?;
    let (before, files_before) = resident(pid)?;
    let processor = processor_time(pid)?;
    let started = Instant::now();
    let (declared, heard) = tokio::join!(declare(scheduler, declared), statuses.available(models + WARM, WITHIN));
    declared?;
    let took = heard?.last.duration_since(started);
    let processor = processor_time(pid)?.saturating_sub(processor);
    let (after, files_after) = resident(pid)?;
    let now = scheduler.counters().await?;
    let count = |name: &str| -> Result<u64> {
        Ok(now.get(name).context("a counter")? - counted.get(name).context("a counter")?)
    };
    let run = Run {
        models,
        took,
        processor,
        memory: after,
        grown: after.saturating_sub(before),
        of_files: files_after.saturating_sub(files_before),
        batches: count("switchyard_scheduler_batches_total")?,
        commits: count("switchyard_scheduler_commits_total")?,
    };
    drop((statuses, agents));
    site.scheduler.stop().await?;
    Ok(run)
}
