//! When streams may be answered and when they end: not before the table is complete, soon after the server begins to drain,
//! and, where an age is set, not much later than that.
//!
//! Not here: sockets, and what a stream says before its end. Pure: the time and the chance are arguments.

use std::time::Duration;

use tonic::Status;
use xxhash_rust::xxh64::xxh64;

use crate::time::Time;

/// Streams end at least this far apart, as long as the span that they have allows it: few clients are not held up, and
/// thousands do not come back in one instant.
const APART: Duration = Duration::from_millis(1);

/// Ages are spread over this share of the age, so that clients that came together do not leave together.
const AGE_SPREAD: u32 = 5;

/// What the server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The table is not complete: streams are accepted and answered nothing.
    Closed,
    Open,
    /// Streams end, those that are there within `over`.
    Draining {
        since: Time,
        over: Duration,
        /// It was open before.
        answers: bool,
    },
}

impl Stage {
    /// The beginning of a drain of so many streams. One that has begun goes on as it is.
    pub fn drained(self, streams: usize, over: Duration, now: Time) -> Stage {
        let enough = APART.saturating_mul(u32::try_from(streams).unwrap_or(u32::MAX));
        match self {
            Stage::Closed | Stage::Open => {
                Stage::Draining { since: now, over: over.min(enough), answers: self.answers() }
            }
            Stage::Draining { .. } => self,
        }
    }

    pub fn answers(self) -> bool {
        match self {
            Stage::Closed => false,
            Stage::Open => true,
            Stage::Draining { answers, .. } => answers,
        }
    }

    /// Whether a client that comes now is at the right place.
    pub fn serves(self) -> bool {
        self == Stage::Open
    }

    pub fn is_draining(self) -> bool {
        matches!(self, Stage::Draining { .. })
    }
}

/// Why a stream ends that its client did not end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Drain,
    Age,
}

impl End {
    /// Clients take UNAVAILABLE for what passes: they keep what they have and come back.
    pub fn status(self) -> Status {
        Status::unavailable(match self {
            End::Drain => "the server is stopping; connect again",
            End::Age => "the stream has reached its age; connect again",
        })
    }
}

/// When one stream ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lifetime {
    /// Its place in every span over which streams are spread.
    place: u16,
    /// When it has its age.
    until: Option<Time>,
    /// How long its last responses may take to be acknowledged then.
    patience: Duration,
}

impl Lifetime {
    /// `chance` differs from stream to stream and from process to process.
    pub fn new(max_age: Option<Duration>, patience: Duration, chance: (u64, u64), now: Time) -> Self {
        let (seed, number) = chance;
        let [low, high, ..] = xxh64(&number.to_le_bytes(), seed).to_le_bytes();
        let place = u16::from_le_bytes([low, high]);
        let until = max_age.map(|age| now.after(age).after(part(age / AGE_SPREAD, place)));
        Lifetime { place, until, patience }
    }

    /// When to look again whether it ends.
    pub fn due(&self, stage: Stage, now: Time) -> Option<Time> {
        match stage {
            Stage::Closed => None,
            Stage::Open => self.until.map(|until| if now < until { until } else { until.after(self.patience) }),
            Stage::Draining { since, over, .. } => Some(since.after(part(over, self.place))),
        }
    }

    /// It has its age: what is sent is to be acknowledged, and nothing more is sent.
    pub fn is_ending(&self, stage: Stage, now: Time) -> bool {
        stage == Stage::Open && self.until.is_some_and(|until| until <= now)
    }

    /// Whether it ends now. `is_quiet`: all that was sent is acknowledged.
    pub fn end(&self, stage: Stage, now: Time, is_quiet: bool) -> Option<End> {
        let is_due = self.due(stage, now).is_some_and(|due| due <= now);
        match stage {
            Stage::Closed => None,
            Stage::Open => (is_due || (is_quiet && self.is_ending(stage, now))).then_some(End::Age),
            Stage::Draining { .. } => is_due.then_some(End::Drain),
        }
    }
}

/// A place in a span.
fn part(span: Duration, place: u16) -> Duration {
    span * u32::from(place) / u32::from(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn streams(count: u64, max_age: Option<Duration>) -> Vec<Lifetime> {
        (0..count).map(|number| Lifetime::new(max_age, SECOND, (7, number), Time(0))).collect()
    }

    #[test]
    fn a_drain_is_spread_evenly_over_its_span_and_is_short_for_few() {
        let all = streams(10_000, None);
        let stage = Stage::Open.drained(all.len(), SECOND, Time(5));
        assert_eq!(stage, Stage::Draining { since: Time(5), over: SECOND, answers: true });
        for tenth in 0..10 {
            let from = 5 + tenth * 100;
            let ends = |due: Time| (from..from + 100).contains(&due.0);
            let count = all.iter().filter(|stream| stream.due(stage, Time(5)).is_some_and(ends)).count();
            assert!((800..1_200).contains(&count), "{count} of 10,000 in a tenth of the span");
        }
        assert!(all.iter().all(|stream| stream.end(stage, Time(1_005), false) == Some(End::Drain)));
        let Stage::Draining { over, .. } = Stage::Open.drained(2, SECOND, Time(5)) else { panic!("it drains") };
        assert_eq!(over, 2 * APART);
        assert_eq!(stage.drained(1, 9 * SECOND, Time(9)), stage, "a drain begins once");
    }

    #[test]
    fn what_was_not_open_is_not_answered_while_it_drains() {
        assert!(!Stage::Closed.drained(1, SECOND, Time(0)).answers());
        assert!(!Stage::Closed.answers() && Stage::Open.answers());
    }

    #[test]
    fn a_stream_of_age_ends_when_all_is_acknowledged_or_patience_is_over() {
        let [stream] = streams(1, Some(10 * SECOND))[..] else { panic!("one stream") };
        let until = stream.due(Stage::Open, Time(0)).expect("an age");
        assert!((10_000..=12_000).contains(&until.0), "{until:?}");
        let before = Time(until.0 - 1);
        assert_eq!((stream.is_ending(Stage::Open, before), stream.end(Stage::Open, before, true)), (false, None));
        assert!(stream.is_ending(Stage::Open, until));
        assert_eq!(stream.end(Stage::Open, until, true), Some(End::Age));
        assert_eq!(stream.end(Stage::Open, until, false), None);
        assert_eq!(stream.end(Stage::Open, until.after(SECOND), false), Some(End::Age));
        assert_eq!(stream.end(Stage::Closed, until, true), None, "who waits for the table goes on waiting");
        let ages: std::collections::BTreeSet<_> =
            streams(100, Some(10 * SECOND)).iter().map(|stream| stream.until).collect();
        assert!(ages.len() > 90, "{} different ages", ages.len());
    }
}
