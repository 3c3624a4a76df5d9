//! A hundred subscribers of model statuses, of which some do not read, while thousands of models are loaded: who reads
//! hears everything, who does not is cut off, and what waits for them is bounded.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::future::{join_all, try_join_all};
use messages::scheduler::{ModelStatusResponse, ModelSubscriptionRequest};
use tonic::Streaming;

use super::{Site, WITHIN, declare, mega, model};
use crate::fake::fleet;
use crate::process::{processor_time, resident};
use crate::statuses::Statuses;
use crate::table::Table;
use crate::{Size, backend};

const READERS: usize = 90;
const DEAF: usize = 10;
/// A stream that was cut off ends when what it was sent before has been read.
const CUT_OFF_WITHIN: Duration = Duration::from_secs(2);

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
    let mut deaf: Vec<Streaming<ModelStatusResponse>> = Vec::new();
    for number in 0..DEAF {
        let request = ModelSubscriptionRequest { subscriber_name: format!("deaf-{number}"), ..Default::default() };
        let answers = scheduler.client()?.subscribe_model_status(request).await.context("subscribe to statuses")?;
        deaf.push(answers.into_inner());
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

    let ended = deaf.iter_mut().map(|stream| async move {
        let drained = async { while let Ok(Some(_)) = stream.message().await {} };
        // A stream that was not cut off goes on for ever.
        tokio::time::timeout(CUT_OFF_WITHIN, drained).await.is_ok()
    });
    let ended = join_all(ended).await.into_iter().filter(|ended| *ended).count();
    let mut table = Table::new(&[
        "loads with 100 subscribers",
        "all heard s",
        "readers that heard all",
        "readers cut off (limit 0)",
        "of 10 that do not read, cut off",
        "resident before MB",
        "most MB",
        "processor s",
    ]);
    table.row([
        models.to_string(),
        format!("{:.2}", took.as_secs_f64()),
        format!("{all} of {READERS}"),
        cut_off.to_string(),
        ended.to_string(),
        mega(before),
        mega(most?),
        format!("{:.2}", processor_time(pid)?.saturating_sub(processor).as_secs_f64()),
    ]);
    table.print();
    drop((readers, deaf, agents));
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
