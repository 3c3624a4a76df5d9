//! Who holds up what, and for how long.

use std::time::Duration;

use xds::Kind::{Cluster, Endpoints, ScopedRoute};
use xds::{Change, Feedback, Gate, Key, Kind, Progress, Rejection, Revision, Standing, StreamId, Table, Time};

use crate::peer::resource;

const LAG: Duration = Duration::from_millis(1_000);
const GRACE: Duration = Duration::from_millis(5_000);
const ONE: StreamId = StreamId(1);
const TWO: StreamId = StreamId(2);
const THREE: StreamId = StreamId(3);

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
fn what_one_stream_refused_does_not_gate_and_what_all_refused_is_never_applied() {
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
