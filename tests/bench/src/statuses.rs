//! A subscriber of model statuses that counts: how many models are available by the last word about each.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use messages::scheduler::model_status::ModelState;
use messages::scheduler::{ModelStatusResponse, ModelSubscriptionRequest};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::Streaming;

use crate::scheduler::Scheduler;

/// What has been heard.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heard {
    pub(crate) available: usize,
    /// The last word.
    pub(crate) last: Instant,
    pub(crate) ended: bool,
}

/// A subscriber that reads; it goes away when it is dropped.
pub(crate) struct Statuses {
    heard: watch::Receiver<Heard>,
    task: JoinHandle<()>,
}

impl Drop for Statuses {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Statuses {
    pub(crate) async fn subscribe(scheduler: &Scheduler, name: &str) -> Result<Statuses> {
        Ok(Statuses::read(Statuses::open(scheduler, name).await?))
    }

    /// A subscription that nobody reads yet.
    pub(crate) async fn open(scheduler: &Scheduler, name: &str) -> Result<Streaming<ModelStatusResponse>> {
        let request = ModelSubscriptionRequest { subscriber_name: name.to_owned(), ..Default::default() };
        let answers = scheduler.client()?.subscribe_model_status(request).await.context("subscribe to statuses")?;
        Ok(answers.into_inner())
    }

    pub(crate) fn read(mut answers: Streaming<ModelStatusResponse>) -> Statuses {
        let first = Heard { available: 0, last: Instant::now(), ended: false };
        let (tell, heard) = watch::channel(first);
        let task = tokio::spawn(async move {
            let mut states: HashMap<String, bool> = HashMap::new();
            let mut available = 0;
            while let Ok(Some(status)) = answers.message().await {
                let state = status.versions.first().and_then(|version| version.state.as_ref());
                let is = state.is_some_and(|state| state.state() == ModelState::ModelAvailable);
                let was = states.insert(status.model_name, is).unwrap_or(false);
                available += usize::from(is);
                available -= usize::from(was);
                let heard = Heard { available, last: Instant::now(), ended: false };
                tell.send_replace(heard);
            }
            tell.send_modify(|heard| heard.ended = true);
        });
        Statuses { heard, task }
    }

    pub(crate) fn now(&self) -> Heard {
        *self.heard.borrow()
    }

    /// Waits until it has heard that so many models are available, or that its stream has ended.
    pub(crate) async fn available(&self, models: usize, within: Duration) -> Result<Heard> {
        let mut heard = self.heard.clone();
        let waiting = heard.wait_for(|heard| heard.available >= models || heard.ended);
        let outcome = tokio::time::timeout(within, waiting).await.map(|heard| heard.map(|heard| *heard));
        match outcome {
            Ok(Ok(heard)) => Ok(heard),
            _ => anyhow::bail!("{} of {models} models are available after {within:?}", self.now().available),
        }
    }
}
