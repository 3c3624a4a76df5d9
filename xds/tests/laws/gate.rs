//! Who holds up what, and for how long.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use xds::Kind::{Cluster, Endpoints, ScopedRoute};
use xds::{Change, Feedback, Gate, Key, Kind, Progress, Rejection, Revision, Standing, StreamId, Table, Time};

use crate::peer::resource;

const LAG: Duration = Duration::from_millis(1_000);
const GRACE: Duration = Duration::from_millis(5_000);
const ONE: StreamId = StreamId(1);
const TWO: StreamId = StreamId(2);
const THREE: StreamId = StreamId(3);
const FOUR: StreamId = StreamId(4);

struct Bench {
    gate: Gate,
    table: Table,
    now: Time,
}

impl Bench {
    fn new() -> Self {
        let mut bench = Bench { gate: Gate::new(LAG, GRACE), table: Table::new(), now: Time(0) };
        bench.gate.open(false, bench.now);
        bench
    }

    /// A stream of this node that is in sync with the table.
    fn join(&mut self, id: StreamId, node: &str) {
        self.gate.connect(id, node.into());
        self.report(id, vec![]);
    }

    fn progress(&self) -> Progress {
        let mut progress = [None; Kind::COUNT];
        progress[Cluster as usize] = Some(Some(self.table.revision()));
        progress[ScopedRoute as usize] = Some(Some(self.table.revision()));
        progress
    }

    fn report(&mut self, id: StreamId, standings: Vec<(Key, Standing)>) {
        self.gate.report(id, self.progress(), standings, self.table.revision());
        self.quiet();
    }

    /// Forgets that streams came and went.
    fn quiet(&mut self) {
        let told = self.gate.poll(self.now);
        assert!(told.iter().all(|told| matches!(told, Feedback::Connected { .. })), "{told:?}");
    }

    fn change(&mut self, body: &str) -> Revision {
        let revision = self.table.apply(vec![Change::Put(resource(ScopedRoute, "iris", body))]).unwrap();
        self.gate.watch(key(), revision, revision, self.now);
        revision
    }

    fn says(&mut self, id: StreamId, standing: Standing) {
        self.gate.report(id, self.progress(), vec![(key(), standing)], self.table.revision());
    }

    fn applied(&mut self, id: StreamId, revision: Revision) -> Vec<Feedback> {
        self.says(id, Standing::Applied(revision));
        self.told()
    }

    fn told(&mut self) -> Vec<Feedback> {
        let told = self.gate.poll(self.now);
        told.into_iter().filter(|told| !matches!(told, Feedback::Connected { .. })).collect()
    }

    fn pass(&mut self, duration: Duration) -> Vec<Feedback> {
        self.now = self.now.after(duration);
        self.told()
    }
}

fn key() -> Key {
    Key::new(ScopedRoute, "iris")
}

fn applied(revision: Revision) -> Feedback {
    Feedback::Applied { key: key(), revision }
}

fn released(revision: Revision) -> Feedback {
    Feedback::Released { key: key(), revision }
}

#[test]
fn without_streams_everything_is_applied_and_released_at_once() {
    let mut bench = Bench::new();
    let revision = bench.change("1");
    assert_eq!(bench.told(), [applied(revision), released(revision)]);
}

#[test]
fn every_gating_stream_must_apply_it() {
    let mut bench = Bench::new();
    bench.join(ONE, "a");
    bench.join(TWO, "b");
    let revision = bench.change("1");
    assert_eq!(bench.told(), []);
    assert_eq!(bench.gate.outstanding(ONE), [key()]);
    assert_eq!(bench.applied(ONE, revision), []);
    assert_eq!(bench.gate.outstanding(ONE), []);
    assert_eq!(bench.applied(TWO, revision), [applied(revision), released(revision)]);
}

#[test]
fn the_ack_of_an_older_change_does_not_count_and_a_newer_one_supersedes() {
    let mut bench = Bench::new();
    bench.join(ONE, "a");
    let older = bench.change("1");
    let newer = bench.change("2");
    assert_eq!(bench.applied(ONE, older), []);
    assert_eq!(bench.applied(ONE, newer), [applied(newer), released(newer)]);
}

#[test]
fn a_stream_in_its_first_sync_does_not_gate_but_holds_the_release() {
    let mut bench = Bench::new();
    bench.gate.connect(ONE, "a".into());
    let mut progress = bench.progress();
    progress[ScopedRoute as usize] = Some(None);
    bench.gate.report(ONE, progress, vec![], bench.table.revision());
    let revision = bench.change("1");
    assert_eq!(bench.told(), [applied(revision)]);
    assert_eq!(bench.applied(ONE, revision), [released(revision)]);
}

#[test]
fn a_stream_that_did_not_ask_for_the_kind_or_does_not_want_the_name_gates_nothing() {
    let mut bench = Bench::new();
    bench.gate.connect(ONE, "a".into());
    bench.gate.report(ONE, [None; Kind::COUNT], vec![], bench.table.revision());
    bench.join(TWO, "b");
    let revision = bench.change("1");
    assert_eq!(bench.told(), []);
    bench.says(TWO, Standing::Foreign);
    assert_eq!(bench.told(), [applied(revision), released(revision)]);
}

#[test]
fn a_late_stream_is_lagging_gates_nothing_and_holds_the_release_for_the_grace() {
    let mut bench = Bench::new();
    bench.join(ONE, "a");
    let first = bench.change("1");
    assert_eq!(bench.gate.due(), Some(Time(0).after(LAG)));
    assert_eq!(bench.pass(LAG), [applied(first)]);
    assert!(bench.gate.is_lagging(ONE));
    let second = bench.change("2");
    assert_eq!(bench.told(), [applied(second)], "lagging streams do not gate");
    assert_eq!(bench.pass(GRACE), [released(second)]);
    let third = bench.change("3");
    assert_eq!(bench.told(), [applied(third), released(third)]);
    bench.report(ONE, vec![]);
    assert!(!bench.gate.is_lagging(ONE), "it caught up");
    bench.change("4");
    assert_eq!(bench.told(), []);
}

#[test]
fn a_lost_stream_holds_the_release_until_it_expires() {
    let mut bench = Bench::new();
    bench.join(ONE, "a");
    let before = bench.change("1");
    bench.gate.disconnect(ONE, true, bench.now);
    assert_eq!(bench.told(), [applied(before)], "who is gone does not gate");
    let after = bench.change("2");
    assert_eq!(bench.told(), [applied(after)]);
    assert_eq!(bench.pass(GRACE), [released(after)]);
}

#[test]
fn a_stream_that_was_sent_nothing_costs_nothing_when_it_goes() {
    let mut bench = Bench::new();
    bench.join(ONE, "a");
    bench.gate.disconnect(ONE, false, bench.now);
    let revision = bench.change("1");
    assert_eq!(bench.told(), [applied(revision), released(revision)]);
}

#[test]
fn a_client_that_is_back_in_sync_ends_the_wait_for_its_lost_stream() {
    let mut bench = Bench::new();
    bench.join(ONE, "a");
    bench.gate.disconnect(ONE, true, bench.now);
    let revision = bench.change("1");
    assert_eq!(bench.told(), [applied(revision)]);
    bench.gate.connect(TWO, "a".into());
    let mut progress = bench.progress();
    progress[ScopedRoute as usize] = None;
    bench.gate.report(TWO, progress, vec![], bench.table.revision());
    assert_eq!(bench.told(), [], "it has not asked for routes yet");
    bench.gate.report(TWO, bench.progress(), vec![], bench.table.revision());
    assert_eq!(bench.told(), [released(revision)]);
}

#[test]
fn where_node_ids_are_not_unique_only_time_ends_the_wait() {
    let mut bench = Bench::new();
    bench.join(ONE, "same");
    bench.join(TWO, "same");
    bench.gate.disconnect(ONE, true, bench.now);
    bench.quiet();
    let revision = bench.change("1");
    assert_eq!(bench.applied(TWO, revision), [applied(revision)]);
    bench.join(THREE, "same");
    assert_eq!(bench.told(), []);
    assert_eq!(bench.pass(GRACE), [released(revision)]);
}

#[test]
fn streams_of_an_earlier_run_hold_releases_for_the_grace_after_opening() {
    let mut bench = Bench { gate: Gate::new(LAG, GRACE), table: Table::new(), now: Time(0) };
    let revision = bench.change("1");
    assert_eq!(bench.told(), [applied(revision)]);
    assert_eq!(bench.pass(GRACE * 10), [], "not before it is open");
    bench.gate.open(true, bench.now);
    assert_eq!(bench.told(), []);
    assert_eq!(bench.pass(GRACE), [released(revision)]);
}

#[test]
fn what_one_stream_refused_does_not_gate_and_what_all_refused_is_not_applied() {
    let mut bench = Bench::new();
    bench.join(ONE, "a");
    bench.join(TWO, "b");
    let first = bench.change("1");
    bench.says(ONE, Standing::Rejected(first));
    assert_eq!(bench.told(), []);
    assert_eq!(bench.applied(TWO, first), [applied(first), released(first)]);
    let second = bench.change("2");
    bench.says(ONE, Standing::Rejected(second));
    assert_eq!(bench.told(), [], "the other one may apply it");
    bench.says(TWO, Standing::Rejected(second));
    assert_eq!(bench.told(), [Feedback::Refused { key: key(), revision: second }]);
    assert_eq!(bench.pass(GRACE * 2), []);
    let third = bench.change("3");
    bench.applied(ONE, third);
    assert_eq!(bench.applied(TWO, third), [applied(third), released(third)]);
}

/// Its cluster changed, so it is waited for anew, and a stream tells what it found before that.
#[test]
fn a_refusal_of_what_was_before_does_not_count_for_what_is_waited_for_anew() {
    let mut bench = Bench::new();
    bench.join(ONE, "a");
    let scope = bench.change("1");
    let before = bench.table.revision();
    let mended = bench.table.apply(vec![Change::Put(resource(Endpoints, "b", "better"))]).unwrap();
    bench.gate.watch(key(), scope, mended, bench.now);
    let progress = bench.progress();
    bench.gate.report(ONE, progress, vec![(key(), Standing::Rejected(scope))], before);
    assert_eq!(bench.told(), []);
    assert_eq!(bench.applied(ONE, scope), [applied(mended), released(mended)]);
}

/// Nobody else was there to say so when it was published; nobody at all is not one who took it.
#[test]
fn what_all_refused_is_applied_when_one_that_comes_later_takes_it() {
    let mut bench = Bench::new();
    bench.join(ONE, "a");
    let first = bench.change("1");
    bench.says(ONE, Standing::Rejected(first));
    assert_eq!(bench.told(), [Feedback::Refused { key: key(), revision: first }]);
    bench.gate.disconnect(ONE, true, bench.now);
    bench.quiet();
    assert_eq!(bench.pass(GRACE), []);
    // Waited for anew, because what it requires has changed, while nobody is there.
    let again = bench.table.apply(vec![Change::Put(resource(Endpoints, "b", "better"))]).unwrap();
    bench.gate.watch(key(), first, again, bench.now);
    assert_eq!(bench.told(), [Feedback::Refused { key: key(), revision: again }], "nobody has taken it");
    for (id, node) in [(TWO, "b"), (THREE, "c"), (FOUR, "d")] {
        bench.gate.connect(id, node.into());
        bench.quiet();
        bench.gate.asks(id, ScopedRoute);
        assert_eq!(bench.gate.outstanding(id), [key()]);
    }
    bench.says(TWO, Standing::Rejected(first));
    bench.says(FOUR, Standing::Rejected(first));
    assert_eq!(bench.told(), [], "once is enough");
    assert_eq!(bench.pass(LAG * 2), [], "who has not answered does not lag: it has nothing older");
    bench.gate.disconnect(FOUR, true, bench.now);
    bench.quiet();
    bench.join(FOUR, "e");
    assert_eq!(bench.applied(FOUR, first), [applied(again), released(again)], "the third is not waited for");
    for id in [TWO, THREE, FOUR] {
        bench.report(id, vec![]);
        assert_eq!(bench.gate.outstanding(id), []);
    }
}

#[test]
fn what_all_refused_that_kept_up_is_applied_when_one_that_lagged_takes_it() {
    let mut bench = Bench::new();
    bench.join(ONE, "a");
    bench.join(TWO, "b");
    let before = bench.change("1");
    bench.applied(ONE, before);
    assert_eq!(bench.pass(LAG), [applied(before)]);
    assert_eq!(bench.pass(GRACE), [released(before)]);
    let revision = bench.change("2");
    bench.says(ONE, Standing::Rejected(revision));
    assert_eq!(bench.told(), [Feedback::Refused { key: key(), revision }]);
    assert!(bench.gate.take_asks(), "the one that does not lag, which changes nothing");
    bench.says(ONE, Standing::Rejected(revision));
    assert_eq!(bench.told(), []);
    // It has answered before it is asked.
    bench.gate.report(TWO, bench.progress(), vec![], bench.table.revision());
    assert!(bench.gate.has_news() && bench.gate.take_asks() && !bench.gate.has_news());
    assert_eq!(bench.applied(TWO, revision), [applied(revision), released(revision)]);
}

#[test]
fn what_all_refused_is_over_when_it_changes_though_nobody_waits_for_that() {
    let mut bench = Bench::new();
    bench.join(ONE, "a");
    let first = bench.change("1");
    bench.says(ONE, Standing::Rejected(first));
    assert_eq!(bench.told(), [Feedback::Refused { key: key(), revision: first }]);
    assert_eq!(bench.gate.outstanding(ONE), [key()], "once more");
    bench.gate.changed(&key(), first);
    assert!(bench.gate.has_refused(), "it is as it was");
    bench.gate.changed(&key(), Revision::ZERO);
    assert!(bench.gate.has_refused(), "a removal that is forgotten is as it was");
    let second = bench.table.apply(vec![Change::Remove(key())]).unwrap();
    bench.gate.changed(&key(), second);
    assert!(!bench.gate.has_refused());
    assert_eq!(bench.gate.outstanding(ONE), []);
    bench.join(TWO, "b");
    bench.gate.asks(TWO, ScopedRoute);
    assert_eq!(bench.gate.outstanding(TWO), []);
}

/// Each has its own time, though the change itself is the same.
#[test]
fn what_is_waited_for_anew_may_take_as_long_as_what_is_new() {
    let mut bench = Bench::new();
    bench.join(ONE, "a");
    let first = bench.change("1");
    assert_eq!(bench.pass(LAG - Duration::from_millis(1)), []);
    let again = bench.table.apply(vec![Change::Put(resource(Endpoints, "b", "better"))]).unwrap();
    bench.gate.watch(key(), first, again, bench.now);
    assert_eq!(bench.pass(LAG - Duration::from_millis(1)), []);
    assert!(!bench.gate.is_lagging(ONE));
    assert_eq!(bench.applied(ONE, first), [applied(again), released(again)]);
}

#[test]
fn a_newer_change_of_what_all_refused_is_like_any_other() {
    let mut bench = Bench::new();
    bench.join(ONE, "a");
    let first = bench.change("1");
    bench.says(ONE, Standing::Rejected(first));
    bench.told();
    bench.gate.disconnect(ONE, false, bench.now);
    bench.quiet();
    let second = bench.change("2");
    assert_eq!(bench.told(), [applied(second), released(second)]);
}

#[test]
fn clients_that_reconnect_in_a_loop_are_merged_into_one() {
    let mut bench = Bench::new();
    let mut revision = Revision::ZERO;
    for id in 1..3_000 {
        bench.join(StreamId(id), &id.to_string());
        revision = bench.change(&id.to_string());
        bench.gate.disconnect(StreamId(id), true, bench.now);
        assert_eq!(bench.told(), [applied(revision)]);
    }
    assert_eq!(bench.pass(GRACE), [released(revision)]);
    let revision = bench.change("last");
    assert_eq!(bench.told(), [applied(revision), released(revision)]);
}

#[test]
fn a_stream_that_is_asking_for_a_kind_holds_the_release_of_what_changes_meanwhile() {
    let mut bench = Bench::new();
    bench.gate.connect(ONE, "envoy-0".into());
    bench.quiet();
    bench.gate.asks(ONE, ScopedRoute);
    let revision = bench.change("1");
    assert_eq!(bench.told(), [applied(revision)]);
    assert_eq!(bench.applied(ONE, Revision::ZERO), [], "what it has is older");
    assert_eq!(bench.applied(ONE, revision), [released(revision)]);
}

#[test]
fn refusals_are_bounded_however_many_of_them_are_read_in_between() {
    let mut bench = Bench::new();
    let mut read = 0;
    for _ in 0..10 {
        for _ in 0..5_000 {
            bench.gate.reject("envoy-0", Rejection { key: key(), version: None, message: "no".into() });
        }
        read += bench.told().len();
    }
    let left: usize = std::iter::repeat_with(|| bench.told().len()).take_while(|told| *told > 0).sum();
    assert!(read > 0 && left <= 10_000, "{left} were kept");
}

const KEYS: [&str; 2] = ["iris", "wine"];

#[derive(Clone, Debug)]
enum Step {
    Connect(u64),
    Disconnect {
        stream: u64,
        served: bool,
    },
    Change(usize),
    /// It is waited for anew, unchanged.
    Anew(usize),
    /// What a stream makes of all that it is asked about.
    Say {
        stream: u64,
        took: bool,
    },
    Sync(u64),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let (stream, key) = (1..4_u64, 0..KEYS.len());
    prop_oneof![
        2 => stream.clone().prop_map(Step::Connect),
        1 => (stream.clone(), any::<bool>()).prop_map(|(stream, served)| Step::Disconnect { stream, served }),
        2 => key.clone().prop_map(Step::Change),
        1 => key.prop_map(Step::Anew),
        4 => (stream.clone(), any::<bool>()).prop_map(|(stream, took)| Step::Say { stream, took }),
        2 => stream.prop_map(Step::Sync),
        1 => (0..8_000_u64).prop_map(Step::Pass),
    ]
}

/// What was told of the latest change of a key.
#[derive(Debug, Default)]
struct Told {
    at: Revision,
    revision: Revision,
    refused: bool,
    applied: bool,
    released: bool,
    /// Since it was changed a stream took it.
    took: bool,
    /// Since it was changed all that counted refused it, and nobody took it.
    was_refused: bool,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens, of a change at most one of each is told and in their order, what was refused is applied only when a
    /// stream took it, nobody is asked about what is over, and in the end every change is applied and
    /// released.
    #[test]
    fn every_change_has_an_end(steps in prop::collection::vec(step(), 1..60)) {
        let mut bench = Bench::new();
        let mut told: BTreeMap<Key, Told> = BTreeMap::new();
        // A client that comes back is another stream.
        let mut streams: BTreeMap<u64, StreamId> = BTreeMap::new();
        let mut next = 1;
        let key = |number: usize| Key::new(ScopedRoute, KEYS[number]);
        // Who has refused it is not asked again as long as it stays as it is.
        let ending = (1..4).flat_map(|stream| {
            let gone = Step::Disconnect { stream, served: true };
            [gone, Step::Connect(stream), Step::Sync(stream), Step::Say { stream, took: true }]
        });
        let ending = ending.chain([Step::Pass(8_000), Step::Pass(8_000), Step::Pass(8_000)]);
        for (number, step) in steps.into_iter().chain(ending).enumerate() {
            match step {
                Step::Connect(stream) => {
                    streams.entry(stream).or_insert_with(|| {
                        next += 1;
                        bench.gate.connect(StreamId(next), format!("{stream}"));
                        bench.gate.asks(StreamId(next), ScopedRoute);
                        StreamId(next)
                    });
                }
                Step::Disconnect { stream, served } => {
                    if let Some(id) = streams.remove(&stream) {
                        bench.gate.disconnect(id, served, bench.now);
                    }
                }
                Step::Change(index) => {
                    let revision = bench.table.apply(vec![Change::Put(resource(ScopedRoute, KEYS[index], &format!("{number}")))]);
                    let revision = revision.unwrap();
                    bench.gate.watch(key(index), revision, revision, bench.now);
                    told.insert(key(index), Told { at: revision, revision, ..Told::default() });
                }
                Step::Anew(index) => {
                    if let Some(told) = told.get_mut(&key(index)) {
                        let revision = bench.table.apply(vec![Change::Put(resource(Cluster, "a", &format!("{number}")))]).unwrap();
                        bench.gate.watch(key(index), told.at, revision, bench.now);
                        let was_refused = !told.applied && (told.refused || told.was_refused);
                        *told = Told { at: told.at, revision, was_refused, ..Told::default() };
                    }
                }
                Step::Say { stream, took } => {
                    if let Some(id) = streams.get(&stream) {
                        let standings = bench.gate.outstanding(*id).into_iter().map(|key| {
                            let told = told.get_mut(&key).expect("it is asked about what was changed");
                            assert!(!told.released, "{key} is over");
                            told.took |= took;
                            (key, if took { Standing::Applied(told.at) } else { Standing::Rejected(told.at) })
                        });
                        let standings = standings.collect();
                        bench.gate.report(*id, bench.progress(), standings, bench.table.revision());
                    }
                }
                Step::Sync(stream) => {
                    if let Some(id) = streams.get(&stream) {
                        bench.gate.report(*id, bench.progress(), vec![], bench.table.revision());
                    }
                }
                Step::Pass(milliseconds) => bench.now = bench.now.after(Duration::from_millis(milliseconds)),
            }
            for feedback in bench.told() {
                let (key, at) = match &feedback {
                    Feedback::Applied { key, revision }
                    | Feedback::Released { key, revision }
                    | Feedback::Refused { key, revision } => (key, *revision),
                    _ => continue,
                };
                let told = told.get_mut(key).expect("it was changed");
                // What a newer one superseded may have been told of before.
                if at != told.revision {
                    continue;
                }
                match feedback {
                    Feedback::Refused { .. } => {
                        prop_assert!(!told.refused && !told.applied && !told.took, "{told:?}");
                        told.refused = true;
                    }
                    Feedback::Applied { .. } => {
                        prop_assert!(!told.applied && (told.took || !(told.refused || told.was_refused)), "{told:?}");
                        told.applied = true;
                    }
                    _ => {
                        prop_assert!(told.applied && !told.released, "{told:?}");
                        told.released = true;
                    }
                }
            }
        }
        for (key, told) in told {
            prop_assert!(told.applied && told.released, "{key}: {told:?}");
        }
    }
}
