//! A hundred subscribers of model statuses, of which some do not read, while thousands of models are loaded: who reads
//! hears everything, who does not costs a bounded amount and nobody's time.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;

use super::{Site, WITHIN, declare, model};
use crate::fake::fleet;
use crate::figures::mega;
use crate::process::{processor_time, resident};
use crate::statuses::Statuses;
use crate::table::Table;
use crate::{Size, backend};

const READERS: usize = 90;
const DEAF: usize = 10;

pub(crate) async fn run(size: Size) -> Result<()> {
    let models = size.pick(10_000, 500);
    let site = Site::start().await?;
    let scheduler = &site.scheduler;
    let address = backend::start("{}").await?;
    let agents = fleet(scheduler, 4, 2, address).await?;
    let mut readers = Vec::new();
    for number in 0..READERS {
        readers.push(Statuses::subscribe(scheduler, &format!("reader-{number}")).await?);
    }
    let mut deaf = Vec::new();
    for number in 0..DEAF {
        deaf.push(Statuses::open(scheduler, &format!("deaf-{number}")).await?);
    }
    let pid = scheduler.pid()?;
    let (before, _) = resident(pid)?;
    let processor = processor_time(pid)?;
    let started = Instant::now();
    let declared = (0..models).map(|number| model(number, &format!("server-{}", number % 4))).collect();
    let (declared, most) = tokio::join!(declare(scheduler, declared), most_resident(pid, &readers, models));
    declared?;
    let heard = try_join_all(readers.iter().map(|reader| reader.available(models, WITHIN))).await?;
    let took = heard.iter().map(|heard| heard.last).max().context("readers")?.duration_since(started);
    let cut_off = heard.iter().filter(|heard| heard.ended).count();
    let all = heard.iter().filter(|heard| heard.available == models).count();
    ensure!(all + cut_off >= READERS, "{all} of {READERS} readers heard everything");

    // Whoever did not read is cut off, or told the newest of every model when it reads at last.
    let late: Vec<Statuses> = deaf.into_iter().map(Statuses::read).collect();
    let late = try_join_all(late.iter().map(|reader| reader.available(models, WITHIN))).await?;
    let late_ended = late.iter().filter(|heard| heard.ended).count();
    let late_all = late.iter().filter(|heard| heard.available == models).count();
    let mut table = Table::new(&[
        "loads with 100 subscribers",
        "all heard s",
        "readers that heard all",
        "readers cut off (limit 0)",
        "of 10 that did not read: cut off",
        "told the newest of all when they read at last",
        "resident before MB",
        "most MB",
        "processor s",
    ]);
    table.row([
        models.to_string(),
        format!("{:.2}", took.as_secs_f64()),
        format!("{all} of {READERS}"),
        cut_off.to_string(),
        late_ended.to_string(),
        late_all.to_string(),
        mega(before),
        mega(most?),
        format!("{:.2}", processor_time(pid)?.saturating_sub(processor).as_secs_f64()),
    ]);
    table.print();
    drop((readers, agents));
    site.scheduler.stop().await
}

/// The most memory that the process has until all readers have heard everything.
async fn most_resident(pid: u32, readers: &[Statuses], models: usize) -> Result<u64> {
    let (mut most, deadline) = (0, Instant::now() + WITHIN);
    while readers.iter().any(|reader| reader.now().available < models && !reader.now().ended) {
        ensure!(Instant::now() < deadline, "not all readers have heard everything after {WITHIN:?}");
        most = most.max(resident(pid)?.0);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(most.max(resident(pid)?.0))
}
