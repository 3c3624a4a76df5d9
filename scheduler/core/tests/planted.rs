//! Bugs planted on purpose: the simulation must catch each of them, by the law that it breaks.

mod history;
#[expect(dead_code, reason = "each test binary uses its part of the world")]
mod world;

use world::Bug;

/// Histories until a bug must have been caught.
const HISTORIES: u64 = 4_000;

/// Every bug, with beginnings of what the world says when it catches it.
const BUGS: [(Bug, &[&str]); 27] = [
    (Bug::UnloadsBeforeEnvoysLetGo, &["I3", "acked"]),
    (Bug::ForgetsThatExperimentsLeadThere, &["I3"]),
    (Bug::IsAvailableBeforeEnvoysKnow, &["acked"]),
    (Bug::TakesALateAcknowledgementForTheNewest, &["acked"]),
    (Bug::ForgetsAWrite, &["the store lags", "assertion `left == right` failed: the store lags"]),
    (Bug::WritesAnOldState, &["assertion `left == right` failed: the store lags"]),
    (Bug::ActsBeforeTheCommit, &["fence"]),
    (Bug::AnswersTwice, &["I7"]),
    (Bug::ForgetsAnAnswer, &["I7"]),
    (Bug::IgnoresFences, &["I6"]),
    (Bug::SendsWithoutAFence, &["fence"]),
    (Bug::SendsTwice, &["fence"]),
    (Bug::BelievesInMoreMemory, &["I1"]),
    (Bug::ForgetsToPublish, &["assertion `left == right` failed: I9"]),
    (Bug::PublishesAReplicaTooMany, &["assertion `left == right` failed: I9"]),
    (Bug::PublishesWithoutMirrors, &["assertion `left == right` failed: I9"]),
    (Bug::ForgetsToAnnounceASet, &["sets"]),
    (Bug::WithdrawsASetInUse, &["sets"]),
    (Bug::ForgetsToTell, &["assertion `left == right` failed: told"]),
    (Bug::TellsAnOldStatus, &["assertion `left == right` failed: told"]),
    (Bug::SaysThatAStoppedExperimentIsActive, &["stopped"]),
    (Bug::LetsADrainGoAtOnce, &["drain"]),
    (Bug::DoesNotWaitForTheStart, &["gate"]),
    (Bug::AsksForAHugeServer, &["scaling"]),
    (Bug::DrawsLots, &["assertion `left == right` failed: I4"]),
    (Bug::NeverHearsThatEnvoysLetGo, &["heal", "assertion `left == right` failed: heal", "the world does not come"]),
    (Bug::ForgetsItsTimers, &["heal", "I7"]),
];

#[test]
fn every_planted_bug_is_caught_by_its_law() {
    std::panic::set_hook(Box::new(|_| {}));
    let mut troubles = Vec::new();
    for (bug, laws) in BUGS {
        let caught = (0..HISTORIES).find_map(|seed| history::try_seed(seed, Some(bug)).err().map(|why| (seed, why)));
        match caught {
            Some((_, why)) if laws.iter().any(|law| why.contains(law)) => {}
            Some((seed, why)) => {
                troubles.push(format!("{bug:?} was caught by another law, with seed {seed}: {why:.300}"))
            }
            None => troubles.push(format!("{bug:?} was not caught in {HISTORIES} histories")),
        }
    }
    let _silent = std::panic::take_hook();
    assert!(troubles.is_empty(), "{troubles:#?}");
}
