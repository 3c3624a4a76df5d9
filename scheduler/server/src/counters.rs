//! What a scheduler has done since its start, for `/metrics` and for benchmarks.
//!
//! Decides nothing and is read without waiting for anybody. Invariant: counters only grow, except that what the streams
//! of Envoys count goes with them.

use std::fmt::Write as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use xds::Ads;

use crate::stream_metrics;

/// The counters of one scheduler. Shared with [`crate::Config`].
#[derive(Debug, Default)]
pub struct Counters {
    events: AtomicU64,
    batches: AtomicU64,
    looks: AtomicU64,
    commits: AtomicU64,
    cut_off: AtomicU64,
    ads: OnceLock<Ads>,
}

impl Counters {
    /// Events that the machine has dealt with.
    pub(crate) fn event(&self) {
        self.events.fetch_add(1, Ordering::Relaxed);
    }

    /// The driver took what was in its inbox.
    pub(crate) fn batch(&self) {
        self.batches.fetch_add(1, Ordering::Relaxed);
    }

    /// Somebody looked at the machine, or changed who hears of it.
    pub(crate) fn look(&self) {
        self.looks.fetch_add(1, Ordering::Relaxed);
    }

    /// A transaction is on disk.
    pub(crate) fn commit(&self) {
        self.commits.fetch_add(1, Ordering::Relaxed);
    }

    /// A subscriber that took nothing was cut off.
    pub(crate) fn cut_off(&self) {
        self.cut_off.fetch_add(1, Ordering::Relaxed);
    }

    /// From now on the streams of Envoys are shown, too.
    pub(crate) fn show(&self, ads: Ads) {
        // A second scheduler with the same configuration counts in the same place; its streams are not shown.
        let _only_the_first = self.ads.set(ads);
    }

    /// Appends all of them in the Prometheus text format.
    pub fn write(&self, text: &mut String) {
        let counted = [
            ("switchyard_scheduler_events_total", "Events that were decided on.", &self.events),
            ("switchyard_scheduler_batches_total", "Batches of events; each has at most one commit.", &self.batches),
            ("switchyard_scheduler_looks_total", "Reads of the state; each may commit what came before.", &self.looks),
            ("switchyard_scheduler_commits_total", "Transactions that were synced to the disk.", &self.commits),
            ("switchyard_scheduler_subscribers_cut_off_total", "Subscribers that took nothing.", &self.cut_off),
        ];
        for (name, help, value) in counted {
            let value = value.load(Ordering::Relaxed);
            let _never_fails = writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter\n{name} {value}");
        }
        let Some(ads) = self.ads.get() else { return };
        let streams = ads.streams();
        let sum = |count: fn(&xds::Counters) -> u64| streams.iter().map(|stream| count(&stream.counters)).sum();
        let synced = streams.iter().filter(|stream| stream.synced).count();
        let gauges: [(&str, &str, u64); 5] = [
            ("switchyard_xds_streams", "Envoys that are connected.", streams.len() as u64),
            ("switchyard_xds_synced_streams", "Those that have applied everything once.", synced as u64),
            ("switchyard_xds_responses", "Responses to the connected Envoys.", sum(|counters| counters.responses)),
            ("switchyard_xds_resources", "Resources in them.", sum(|counters| counters.resources)),
            ("switchyard_xds_nacks", "Responses that they refused.", sum(|counters| counters.nacks)),
        ];
        for (name, help, value) in gauges {
            let _never_fails = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}");
        }
        stream_metrics::write(streams, ads.now(), text);
    }
}
