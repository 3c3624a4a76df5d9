//! From one changed scope to the last byte of it at the last of many subscribers, and what a server of N models holds for
//! each of them; beside it go-control-plane with each of its caches, serving the same scopes to the same subscribers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::Size;
use crate::discovery::{Server, Source};
use crate::figures::{Times, kilo, mega, milliseconds, ratio};
use crate::process::{most_resident, processor_time, resident};
use crate::subscriber::{Round, Subscriber};
use crate::table::Table;

/// Placement sets that the models share.
const SETS: usize = 20;
/// Subscribers that begin at once while the others are counted one group after another.
const TOGETHER: usize = 8;
/// Envoys that come together in the last table.
const CROWD: usize = 50;
/// First answers to a thousand subscribers are 20 GB on a busy machine.
const WITHIN: Duration = Duration::from_secs(120);
/// Changes are made for as long, unless there are many before.
const CHANGES_FOR: Duration = Duration::from_secs(10);

/// Subscribers of one server.
struct Audience {
    round: Arc<Round>,
    subscribers: Vec<Subscriber>,
    /// Changes that were made.
    turn: usize,
}

pub(crate) async fn run(size: Size) -> Result<()> {
    changes(size).await?;
    println!();
    crowd(size).await
}

/// Changes one after another, to ever more subscribers, of our server and of its peers in turn.
async fn changes(size: Size) -> Result<()> {
    let mut table = Table::new(&[
        "one change → all have it",
        "models",
        "subscribers",
        "p50 ms",
        "p99 ms",
        "max ms",
        "ratio of p50",
        "CPU of the server µs/change",
        "resident MB",
        "kB more for each subscriber",
    ]);
    let (few, many) = size.pick((10_000, 100_000), (100, 1_000));
    let (crowds, groups) = (size.pick(&[1, 100, 1_000][..], &[1, 4, 10]), size.pick(&[1, 100][..], &[1, 4]));
    for models in [few, many] {
        let mut ours = HashMap::new();
        for kind in [Source::Ours, Source::Linear, Source::Mux, Source::Snapshot] {
            // The others take minutes.
            let counts = match kind {
                Source::Ours => crowds,
                Source::Linear => groups,
                Source::Mux | Source::Snapshot if models == few => groups,
                Source::Mux | Source::Snapshot => &groups[..1],
            };
            let mut server = Server::start(kind, models, SETS).await?;
            let pid = server.pid()?;
            let mut audience = Audience { round: Round::new(), subscribers: Vec::new(), turn: 0 };
            let mut first = None;
            for count in counts.iter().copied() {
                audience.grow(&server, count).await?;
                let (times, spent) = audience.changes(&mut server, models, size).await?;
                let (held, _) = resident(pid)?;
                let (alone, with) = *first.get_or_insert((held, count));
                let more = held.saturating_sub(alone).checked_div((count - with) as u64);
                let base = *ours.entry(count).or_insert(times.median());
                table.row([
                    kind.name().to_owned(),
                    models.to_string(),
                    count.to_string(),
                    milliseconds(times.median()),
                    milliseconds(times.quantile(0.99)),
                    milliseconds(times.longest()),
                    ratio(times.median(), base),
                    (spent.as_micros() / times.count().max(1) as u128).to_string(),
                    mega(held),
                    more.map_or("–".to_owned(), kilo),
                ]);
            }
            drop(audience);
            server.stop().await?;
        }
    }
    table.print();
    Ok(())
}

/// Many that come at once.
async fn crowd(size: Size) -> Result<()> {
    let (models, count) = (size.pick(100_000, 1_000), size.pick(CROWD, 5));
    let server = Server::start(Source::Ours, models, SETS).await?;
    let pid = server.pid()?;
    let (before, _) = resident(pid)?;
    let round = Round::new();
    round.begin(count);
    let started = Instant::now();
    let opened = (0..count).map(|number| Subscriber::open(server.xds, number, Arc::clone(&round)));
    let subscribers = futures_util::future::try_join_all(opened).await?;
    let took = round.last(WITHIN).await?.duration_since(started);
    let mut table = Table::new(&[
        "subscribers that come together",
        "models",
        "all have everything after s",
        "resident before MB",
        "most MB",
    ]);
    table.row([
        count.to_string(),
        models.to_string(),
        format!("{:.2}", took.as_secs_f64()),
        mega(before),
        mega(most_resident(pid)?),
    ]);
    table.print();
    drop(subscribers);
    server.stop().await
}

impl Audience {
    /// As many in all; all have everything when this returns.
    async fn grow(&mut self, server: &Server, count: usize) -> Result<()> {
        while self.subscribers.len() < count {
            let more = TOGETHER.min(count - self.subscribers.len());
            self.round.begin(more);
            let opened = (0..more)
                .map(|number| Subscriber::open(server.xds, self.subscribers.len() + number, Arc::clone(&self.round)));
            let opened = futures_util::future::try_join_all(opened).await?;
            self.round.last(WITHIN).await.context("first answers")?;
            self.subscribers.extend(opened);
        }
        Ok(())
    }

    /// Many changes, and the server's processor time for them.
    async fn changes(&mut self, server: &mut Server, models: usize, size: Size) -> Result<(Times, Duration)> {
        let (mut times, before, began) = (Times::default(), processor_time(server.pid()?)?, Instant::now());
        let (least, most) = size.pick((5, 300), (3, 10));
        while times.count() < least || (times.count() < most && began.elapsed() < CHANGES_FOR) {
            times.add(self.change(server, models).await?);
        }
        Ok((times, processor_time(server.pid()?)?.saturating_sub(before)))
    }

    /// From the word to the server until the last has the change.
    async fn change(&mut self, server: &mut Server, models: usize) -> Result<Duration> {
        // Always another set than the model's last one.
        let (model, set) = (self.turn % models, (self.turn + self.turn / models + 1) % SETS);
        self.turn += 1;
        let line = server.change(model, set)?;
        self.round.begin(self.subscribers.len());
        let started = Instant::now();
        server.say(&line).await?;
        let last = self.round.last(WITHIN).await.context("a change")?;
        server.done().await?;
        Ok(last.duration_since(started))
    }
}
