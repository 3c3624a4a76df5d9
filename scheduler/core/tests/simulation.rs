//! A million random events: declarations, experiments, servers that grow and shrink, agents that come, go, fail, forget,
//! overtake and repeat themselves, Envoys that acknowledge late or refuse, crashes between any two steps and amid one.
//! The world checks the invariants after every event; at its end each history heals and must reach what was last wished.
//!
//! `SIMULATION_EVENTS=100000000 cargo test --release -p scheduler-core --test simulation -- --nocapture` runs it for
//! longer, `SIMULATION_FIRST_SEED=N` from another seed on; `SIMULATION_SEED=N` runs one history, and with
//! `SIMULATION_TRACE=1` shows its events.

mod history;
#[expect(dead_code, reason = "each test binary uses its part of the world")]
mod world;

use std::sync::atomic::{AtomicU64, Ordering};

/// Events, unless said otherwise.
const EVENTS: u64 = 1_000_000;

/// Runs of smaller histories while one that fails is made small.
const SHRINKING_RUNS: usize = 2_000;

/// As many as the machine of the project has cores.
const THREADS: usize = 2;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

#[test]
fn every_history_keeps_the_invariants_and_heals() {
    if let Some(seed) = number("SIMULATION_SEED") {
        let events = history::try_seed(seed, None).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        println!("seed {seed}: {events} events");
        return;
    }
    let wanted = number("SIMULATION_EVENTS").unwrap_or(EVENTS);
    let first = number("SIMULATION_FIRST_SEED").unwrap_or(0);
    let (next, events) = (AtomicU64::new(first), AtomicU64::new(0));
    // What a failing history prints is of interest only when it has been made small.
    std::panic::set_hook(Box::new(|_| {}));
    let failed = std::thread::scope(|scope| {
        let work = || {
            while events.load(Ordering::Relaxed) < wanted {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                match history::try_seed(seed, None) {
                    Ok(count) => events.fetch_add(count, Ordering::Relaxed),
                    Err(_) => return Some(seed),
                };
            }
            None
        };
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok().flatten()).min()
    });
    let small = failed.map(|seed| (seed, shrink(seed)));
    let _silent = std::panic::take_hook();
    if let Some((seed, small)) = small {
        panic!(
            "seed {seed} fails; SIMULATION_SEED={seed} cargo test --release -p scheduler-core --test simulation\n{small}"
        );
    }
    let (seeds, events) = (next.into_inner() - first, events.into_inner());
    println!("{events} events in {seeds} histories, seeds {first} to {}", first + seeds);
}

/// The smallest history that was found to fail like the one of the seed, as text that can become a test.
fn shrink(seed: u64) -> String {
    let mut small = history::steps(seed);
    let mut why = String::new();
    let mut size = small.len().div_ceil(2);
    let mut runs = 0;
    while size > 0 && runs < SHRINKING_RUNS {
        let mut start = 0;
        let mut removed = false;
        while start < small.len() {
            let mut fewer = small.clone();
            fewer.drain(start..(start + size).min(fewer.len()));
            runs += 1;
            match history::run(seed, &fewer, None) {
                Err(text) => {
                    (small, why) = (fewer, text);
                    removed = true;
                }
                Ok(_) => start += size,
            }
        }
        if !removed {
            size /= 2;
        }
    }
    let lines: Vec<String> = small.iter().map(|step| format!("    Step::{step:?},")).collect();
    format!("{why}\nsteps (seed {seed}):\n{}", lines.join("\n"))
}
