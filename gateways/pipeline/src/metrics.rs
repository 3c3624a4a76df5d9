//! `seldon_pipeline_infer_total` and its like (`spec/data-plane.md` §8.2), for `/metrics`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Most pipelines that are counted one by one; names come from requests.
const PIPELINES_MAX: usize = 20_000;

/// Count and seconds, by pipeline, method and code.
type Counts = BTreeMap<(String, &'static str, String), (u64, f64)>;

/// Counts and seconds of all requests, and how many wait. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    counts: Arc<Mutex<Counts>>,
    pending: Arc<AtomicUsize>,
}

impl Metrics {
    pub(crate) fn count(&self, pipeline: &str, method: &'static str, code: &str, took: Duration) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (pipeline.to_owned(), method, code.to_owned());
        if counts.len() >= PIPELINES_MAX && !counts.contains_key(&key) {
            return;
        }
        let entry = counts.entry(key).or_default();
        entry.0 += 1;
        entry.1 += took.as_secs_f64();
    }

    /// One request more is under way.
    pub(crate) fn waits(&self) {
        self.pending.fetch_add(1, Ordering::Relaxed);
    }

    /// One of them is not any more.
    pub(crate) fn left(&self) {
        self.pending.fetch_sub(1, Ordering::Relaxed);
    }

    /// Appends them in Prometheus' text format.
    pub fn write(&self, text: &mut String) {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut metric = |name: &str, help: &str, of: fn(&(u64, f64)) -> f64| {
            // Writing to a string cannot fail.
            let _infallible = writeln!(text, "# HELP {name} {help}.\n# TYPE {name} counter");
            for ((pipeline, method, code), value) in counts.iter() {
                let labels = format!(
                    "server=\"pipeline-gateway\",pipeline=\"{pipeline}\",method_type=\"{method}\",code=\"{code}\""
                );
                let _infallible = writeln!(text, "{name}{{{labels}}} {}", of(value));
            }
        };
        #[expect(clippy::cast_precision_loss, reason = "what is counted stays far below 2^53")]
        metric("seldon_pipeline_infer_total", "Requests for pipelines", |of| of.0 as f64);
        metric("seldon_pipeline_infer_seconds_total", "Seconds that they took together", |of| of.1);
        let name = "switchyard_pipelinegateway_pending";
        let pending = self.pending.load(Ordering::Relaxed);
        let _infallible = writeln!(
            text,
            "# HELP {name} Requests that wait for their answers.\n# TYPE {name} gauge\n{name} {pending}"
        );
    }
}
