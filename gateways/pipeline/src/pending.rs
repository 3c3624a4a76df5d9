//! Callers that wait for their answers: a table with a limit. Whoever leaves, whatever the reason, frees its place.
//!
//! Invariant: a caller is woken at most once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use dataflow_core::Root;
use tokio::sync::oneshot;
use topic_log::Record;

use crate::metrics::Metrics;

/// The table. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    callers: Arc<Mutex<HashMap<Root, oneshot::Sender<Record>>>>,
    limit: usize,
    metrics: Metrics,
}

/// A place in the table.
pub(crate) struct Booked {
    pending: Pending,
    root: Root,
    pub(crate) answer: oneshot::Receiver<Record>,
}

impl Pending {
    pub(crate) fn new(limit: usize, metrics: Metrics) -> Self {
        Self { callers: Arc::default(), limit, metrics }
    }

    /// A place for the request, if there is one; else how many wait.
    pub(crate) fn book(&self, root: Root) -> Result<Booked, usize> {
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        if callers.len() >= self.limit {
            return Err(callers.len());
        }
        let (sender, answer) = oneshot::channel();
        callers.insert(root, sender);
        self.metrics.waits();
        Ok(Booked { pending: self.clone(), root, answer })
    }

    /// Somebody here waits for it.
    pub(crate) fn waits(&self, root: Root) -> bool {
        self.callers.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&root)
    }

    /// Wakes the caller, if it still waits.
    pub(crate) fn wake(&self, root: Root, record: Record) {
        let caller = self.callers.lock().unwrap_or_else(PoisonError::into_inner).remove(&root);
        if let Some(caller) = caller {
            // It may have left at this moment.
            let _left = caller.send(record);
        }
    }
}

impl Drop for Booked {
    fn drop(&mut self) {
        self.pending.callers.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.root);
        self.pending.metrics.left();
    }
}
