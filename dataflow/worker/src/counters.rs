//! What shards count, for `/metrics`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};

use dataflow_core::Counters;

/// A counter: its name without what comes before it, its help, and where it is.
pub type Counter = (&'static str, &'static str, fn(&Counters) -> u64);

/// Counters of all shards that ever were here. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct ShardCounters(Arc<Mutex<BTreeMap<u32, Counters>>>);

impl ShardCounters {
    pub(crate) fn set(&self, partition: u32, counters: Counters) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(partition, counters);
    }

    /// Appends them in Prometheus' text format, as `<prefix>_<name>_total`.
    pub fn write(&self, text: &mut String, prefix: &str, counters: &[Counter]) {
        let shards = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, help, of) in counters {
            let total: u64 = shards.values().map(of).sum();
            let name = format!("{prefix}_{name}_total");
            // Writing to a string cannot fail.
            let _infallible = writeln!(text, "# HELP {name} {help}.\n# TYPE {name} counter\n{name} {total}");
        }
    }
}
