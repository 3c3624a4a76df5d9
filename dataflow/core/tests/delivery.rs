//! The delivery protocol under faults (`spec/delivery.md` §10): an engine and a model gateway over a log in memory, with
//! crashes, take-overs, zombies, late acknowledgements and backlogs, all from one seed. `DELIVERY_RUNS` makes it longer.

#[path = "delivery/bug.rs"]
mod bug;
#[path = "delivery/laws.rs"]
mod laws;
#[path = "delivery/traffic.rs"]
mod traffic;
#[path = "delivery/world.rs"]
mod world;

use bug::Bug;
use world::World;

/// Runs of the test command.
const RUNS: u64 = 400;

fn runs() -> u64 {
    std::env::var("DELIVERY_RUNS").ok().and_then(|text| text.parse().ok()).unwrap_or(RUNS)
}

#[test]
fn nothing_is_lost_doubled_or_mixed_up_whatever_fails() {
    let mut repeated_calls = 0;
    let mut crashes = 0;
    for seed in 0..runs() {
        let outcome = World::run(seed, None);
        if let Err(broken) = &outcome.laws {
            panic!("seed {seed}: {broken}");
        }
        repeated_calls += outcome.repeated_calls;
        crashes += outcome.crashes;
    }
    println!("{} runs, {crashes} crashes, {repeated_calls} repeated calls of models", runs());
    assert!(crashes > runs(), "the runs have faults");
}

/// Each bug breaks a law in some run, or calls models again far more often.
#[test]
fn every_planted_bug_is_caught() {
    let usual: u64 = (0..RUNS).map(|seed| World::run(seed, None).repeated_calls).sum();
    for bug in Bug::ALL {
        let mut calls = 0;
        let caught = (0..RUNS).find_map(|seed| {
            let outcome = World::run(seed, Some(bug));
            calls += outcome.repeated_calls;
            outcome.laws.err().map(|broken| (seed, broken))
        });
        match caught {
            Some((seed, broken)) => println!("{bug:?}: seed {seed}: {broken}"),
            None => {
                println!("{bug:?}: {calls} repeated calls, {usual} without it");
                assert!(
                    bug.shows_in_calls() && calls > usual * 11 / 10,
                    "{bug:?} is not caught: {calls} against {usual}"
                );
            }
        }
    }
}
