//! `cargo run --release -p bench -- [--quick] [scenario ...]`: what this system costs, each figure beside that of a peer
//! or of the naive way, measured in the same run and in turn, because other work on the machine then concerns both.
//! Prints tables of Markdown for `docs/benchmarks.md`.
//!
//! Judges no figure: a scenario fails when an answer is wrong or missing. `--quick` runs all of it with small numbers,
//! so that it keeps working; its figures mean nothing. Invariant: nothing that was started outlives this program.

mod backend;
mod change;
mod client;
mod cold;
mod discovery;
mod fake;
mod fanout;
mod figures;
mod installation;
mod latency;
mod linear;
mod load;
mod lookup;
mod memory;
mod mesh;
mod moves;
mod pipelines;
mod process;
mod program;
mod scheduler;
mod statuses;
mod storm;
mod subscriber;
mod table;
mod world;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    /// For figures: below a minute for each scenario on a free machine with two cores.
    Full,
    /// To see that it works.
    Quick,
}

impl Size {
    /// One of two numbers.
    pub(crate) fn pick<T>(self, full: T, quick: T) -> T {
        match self {
            Size::Full => full,
            Size::Quick => quick,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scenario {
    Lookup,
    Change,
    Cold,
    Moves,
    Fanout,
    Latency,
    Load,
    Memory,
    Loads,
    Many,
    Restart,
    Resubscribe,
    Subscribers,
    Pipelines,
}

const SCENARIOS: [(&str, Scenario); 14] = [
    ("lookup", Scenario::Lookup),
    ("change", Scenario::Change),
    ("cold", Scenario::Cold),
    ("moves", Scenario::Moves),
    ("fanout", Scenario::Fanout),
    ("latency", Scenario::Latency),
    ("load", Scenario::Load),
    ("memory", Scenario::Memory),
    ("storm-loads", Scenario::Loads),
    ("storm-many", Scenario::Many),
    ("storm-restart", Scenario::Restart),
    ("storm-resubscribe", Scenario::Resubscribe),
    ("storm-subscribers", Scenario::Subscribers),
    ("pipelines", Scenario::Pipelines),
];

const USAGE: &str = "usage: cargo run --release -p bench -- [--quick] [all | lookup | change | cold | moves | fanout | latency | load | memory | \
    storm-loads | storm-many | storm-restart | storm-resubscribe | storm-subscribers | pipelines]...";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments.next_if(|word| word == scheduler::WORD).is_some() {
        return runtime()?.block_on(scheduler::run(arguments));
    }
    if arguments.next_if(|word| word == discovery::WORD).is_some() {
        return runtime()?.block_on(discovery::run(arguments));
    }
    let (size, scenarios) = read(arguments)?;
    program::build()?;
    let runtime = runtime()?;
    println!("{}", process::machine());
    for scenario in scenarios {
        let started = Instant::now();
        let (name, _) = SCENARIOS.iter().find(|(_, known)| *known == scenario).context("a scenario has a name")?;
        println!("\n## {name}\n");
        let outcome = runtime.block_on(async {
            match scenario {
                Scenario::Lookup => lookup::run(size).await,
                Scenario::Change => change::run(size).await,
                Scenario::Cold => cold::run(size).await,
                Scenario::Moves => moves::run(size).await,
                Scenario::Fanout => fanout::run(size).await,
                Scenario::Latency => latency::run(size).await,
                Scenario::Load => load::run(size).await,
                Scenario::Memory => memory::run(size).await,
                Scenario::Loads => storm::loads::run(size).await,
                Scenario::Many => storm::loads::many(size).await,
                Scenario::Restart => storm::restart::run(size).await,
                Scenario::Resubscribe => storm::resubscribe::run(size).await,
                Scenario::Subscribers => storm::subscribers::run(size).await,
                Scenario::Pipelines => pipelines::run(size).await,
            }
        });
        outcome.with_context(|| format!("scenario {name}"))?;
        eprintln!("({name} took {:.1} s)", started.elapsed().as_secs_f64());
    }
    Ok(())
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")
}

fn read(arguments: impl Iterator<Item = String>) -> Result<(Size, Vec<Scenario>)> {
    let (mut size, mut scenarios) = (Size::Full, Vec::new());
    for argument in arguments {
        match argument.as_str() {
            "--quick" => size = Size::Quick,
            "all" => scenarios.extend(SCENARIOS.map(|(_, scenario)| scenario)),
            name => match SCENARIOS.iter().find(|(known, _)| *known == name) {
                Some((_, scenario)) => scenarios.push(*scenario),
                None => bail!("{name:?} is no scenario; {USAGE}"),
            },
        }
    }
    if scenarios.is_empty() {
        bail!("no scenario is named; {USAGE}");
    }
    Ok((size, scenarios))
}
