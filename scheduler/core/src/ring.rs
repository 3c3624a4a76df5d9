//! Who owns which shard, and by which partitions a pipeline's requests enter: consistent hashing with bounded loads.
//!
//! Pure functions of names and numbers (`spec/delivery.md` §1), so every scheduler that knows the same comes to the same.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use domain::{PipelineName, WorkerName};
use xxhash_rust::xxh64::xxh64;

/// How much a name prefers a partition; the highest wins.
fn score(name: &str, partition: u32) -> u64 {
    xxh64(name.as_bytes(), u64::from(partition))
}

/// Owners of the partitions `0..partitions`, given the present ones. Each of the workers gets ⌊P/w⌋ or ⌈P/w⌉ of them; as
/// few as possible change hands, and the hash decides between equals. Without workers nobody owns anything.
#[must_use]
pub fn assign(
    workers: &[WorkerName],
    partitions: u32,
    present: &BTreeMap<u32, WorkerName>,
) -> BTreeMap<u32, WorkerName> {
    let count = u32::try_from(workers.len()).unwrap_or(u32::MAX);
    if count == 0 {
        return BTreeMap::new();
    }
    let (least, extra) = (partitions / count, partitions % count);
    let mut held: BTreeMap<&WorkerName, Vec<u32>> = workers.iter().map(|worker| (worker, Vec::new())).collect();
    for (partition, owner) in present.iter().filter(|(partition, _)| **partition < partitions) {
        if let Some(held) = held.get_mut(owner) {
            held.push(*partition);
        }
    }
    // Those who have the most may keep one more.
    let mut by_load: Vec<&WorkerName> = held.keys().copied().collect();
    by_load.sort_by_key(|worker| (Reverse(held[*worker].len()), Reverse(score(worker.as_str(), 0)), *worker));
    let quota: BTreeMap<&WorkerName, usize> =
        by_load.iter().zip(0..).map(|(worker, place)| (*worker, (least + u32::from(place < extra)) as usize)).collect();
    let mut owners = BTreeMap::new();
    for (worker, partitions) in &mut held {
        partitions.sort_by_key(|partition| (Reverse(score(worker.as_str(), *partition)), *partition));
        partitions.truncate(quota[worker]);
        owners.extend(partitions.iter().map(|partition| (*partition, (*worker).clone())));
    }
    for partition in 0..partitions {
        if owners.contains_key(&partition) {
            continue;
        }
        let with_room = held.iter().filter(|(worker, partitions)| partitions.len() < quota[*worker]);
        let best = with_room.max_by_key(|(worker, _)| (score(worker.as_str(), partition), Reverse(*worker)));
        let Some(worker) = best.map(|(worker, _)| *worker) else { break };
        held.entry(worker).or_default().push(partition);
        owners.insert(partition, worker.clone());
    }
    owners
}

/// The partitions that a pipeline's requests enter by: `factor` of all, those that its name prefers, best first.
#[must_use]
pub fn entries(pipeline: &PipelineName, factor: u32, partitions: u32) -> Vec<u32> {
    let mut entries: Vec<u32> = (0..partitions).collect();
    entries.sort_by_key(|partition| (Reverse(score(pipeline.as_str(), *partition)), *partition));
    entries.truncate(factor.max(1) as usize);
    entries
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use domain::{PipelineName, WorkerName};
    use proptest::prelude::*;

    use super::{assign, entries};

    fn workers(names: &BTreeSet<u8>) -> Vec<WorkerName> {
        names.iter().map(|name| WorkerName::parse(&format!("w{name}")).expect("a name")).collect()
    }

    proptest! {
        #[test]
        fn loads_are_bounded_and_few_shards_move(
            partitions in 1u32..200,
            before in prop::collection::btree_set(0u8..20, 0..8),
            after in prop::collection::btree_set(0u8..20, 1..8),
        ) {
            let first = assign(&workers(&before), partitions, &BTreeMap::new());
            let second = assign(&workers(&after), partitions, &first);
            prop_assert_eq!(second.len(), partitions as usize, "somebody owns each");
            let count = after.len() as u32;
            for worker in workers(&after) {
                let owned = second.values().filter(|owner| **owner == worker).count() as u32;
                prop_assert!((partitions / count..=partitions.div_ceil(count)).contains(&owned));
            }
            prop_assert_eq!(assign(&workers(&after), partitions, &second), second.clone(), "again: nothing moves");
            let moved = first.iter().filter(|(partition, owner)| second[partition] != **owner).count() as u32;
            if before.is_subset(&after) && after.len() == before.len() + 1 {
                prop_assert!(moved <= partitions.div_ceil(count), "one joins: {} of {} move", moved, partitions);
            }
            if after.is_subset(&before) && before.len() == after.len() + 1 {
                let gone = workers(&before.difference(&after).copied().collect());
                let theirs = first.values().filter(|owner| gone.contains(owner)).count() as u32;
                prop_assert_eq!(moved, theirs, "one leaves: its own move");
            }
        }
    }

    #[test]
    fn a_factor_limits_the_partitions_and_a_larger_one_adds_to_them() {
        let pipeline = PipelineName::parse("p").expect("a name");
        let all = entries(&pipeline, 100, 8);
        assert_eq!(all.iter().copied().collect::<BTreeSet<u32>>(), (0..8).collect());
        assert_eq!(entries(&pipeline, 3, 8), all[..3]);
        assert_eq!(entries(&pipeline, 0, 8), all[..1]);
    }

    #[test]
    fn names_spread_over_the_partitions() {
        let first = |index| entries(&PipelineName::parse(&format!("p{index}")).expect("a name"), 1, 8)[0];
        let mut counts = BTreeMap::new();
        (0..800).for_each(|index| *counts.entry(first(index)).or_insert(0) += 1);
        assert!(counts.len() == 8 && counts.values().all(|count| (60..150).contains(count)), "{counts:?}");
    }
}
