//! What the gateway counts, for `/metrics`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};

use dataflow_core::Counters;

/// Counters of all shards that ever were here. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Metrics(Arc<Mutex<BTreeMap<u32, Counters>>>);

impl Metrics {
    pub(crate) fn set(&self, partition: u32, counters: Counters) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(partition, counters);
    }

    /// Appends them in Prometheus' text format.
    pub fn write(&self, text: &mut String) {
        let shards = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        type Of = fn(&Counters) -> u64;
        let counters: [(&str, &str, Of); 5] = [
            ("records", "Records read by the model gateway", |of| of.records),
            ("repeats_dropped", "Records that repeat another one", |of| of.repeats),
            ("expired", "Records that nobody waited for any more", |of| of.expired),
            ("failed", "Calls of models that ended with an error", |of| of.ended),
            ("answered", "Records written by the model gateway", |of| of.emitted),
        ];
        for (name, help, of) in counters {
            let total: u64 = shards.values().map(of).sum();
            let name = format!("switchyard_modelgateway_{name}_total");
            // Writing to a string cannot fail.
            let _infallible = writeln!(text, "# HELP {name} {help}.\n# TYPE {name} counter\n{name} {total}");
        }
    }
}
