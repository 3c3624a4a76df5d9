//! Callers that wait for their answers. Whoever leaves, whatever the reason, is forgotten.
//!
//! Invariant: a caller is woken at most once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use dataflow_core::Root;
use domain::PipelineName;
use tokio::sync::oneshot;
use topic_log::Record;

/// The table. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pending {
    callers: Arc<Mutex<HashMap<Root, Caller>>>,
}

#[derive(Debug)]
struct Caller {
    pipeline: PipelineName,
    answer: oneshot::Sender<Record>,
}

/// A caller in the table.
pub(crate) struct Waiting {
    pending: Pending,
    root: Root,
    /// Closed when the pipeline is unloaded.
    pub(crate) answer: oneshot::Receiver<Record>,
}

impl Pending {
    /// Waits for the answer to a request of the pipeline.
    pub(crate) fn wait(&self, root: Root, pipeline: PipelineName) -> Waiting {
        let (sender, answer) = oneshot::channel();
        self.callers().insert(root, Caller { pipeline, answer: sender });
        Waiting { pending: self.clone(), root, answer }
    }

    /// Somebody here waits for it.
    pub(crate) fn waits(&self, root: Root) -> bool {
        self.callers().contains_key(&root)
    }

    /// Wakes the caller, if it still waits.
    pub(crate) fn wake(&self, root: Root, record: Record) {
        let caller = self.callers().remove(&root);
        if let Some(caller) = caller {
            // It may have left at this moment.
            let _left = caller.answer.send(record);
        }
    }

    /// Wakes everybody who waits for that pipeline: nothing answers any more.
    pub(crate) fn unloaded(&self, pipeline: &PipelineName) {
        self.callers().retain(|_, caller| caller.pipeline != *pipeline);
    }

    fn callers(&self) -> std::sync::MutexGuard<'_, HashMap<Root, Caller>> {
        self.callers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.pending.callers().remove(&self.root);
    }
}
