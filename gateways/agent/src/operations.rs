//! Carries out the scheduler's commands: one at a time for each model version, several versions at once, a bounded
//! number of loads. The newest command for a version replaces one that has not begun.
//!
//! Invariants: every command that is neither replaced nor of a lost stream gets exactly one report; files of a version
//! exist while it is resident or being loaded.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::{Bytes, ModelVersionId};
use messages::scheduler::Model;
use runtime::{OnError, Tasks};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tracing::{debug, info, warn};

use crate::inference;
use crate::reason::chain;
use crate::report::{Outcome, Reports, Subject};
use crate::repository::{self, Repository};
use crate::residency::{Close, Residency, Resident};
use crate::serving::{Phase, wait_up};

/// Loads at once: a load is mostly disk and one core of the server.
const LOADS: usize = 4;
/// Versions that are worked on or wait for it; beyond it the stream is not read, so the scheduler holds the rest.
const WORKERS: usize = 1024;
/// How long an unload waits for the requests that use the model; the routes left it before (`DESIGN` §9).
const DRAIN_LIMIT: Duration = Duration::from_secs(30);
/// Calls to the server that got no answer, because it died meanwhile, are made again in its next life this often.
const LIVES: usize = 3;

/// A command of the scheduler.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) subject: Subject,
    pub(crate) action: Action,
}

#[derive(Debug)]
pub(crate) enum Action {
    Load(Box<Model>),
    Unload,
}

/// Why a load failed.
#[derive(Debug, thiserror::Error)]
enum LoadError {
    #[error("model.modelSpec: missing")]
    NoSpec,
    #[error(transparent)]
    Repository(#[from] repository::Error),
    #[error(transparent)]
    Inference(#[from] inference::Error),
    #[error("fetch the artifact: the thread that copies it ended early")]
    CopyPanicked,
    #[error("the agent is stopping")]
    Stopping,
}

pub(crate) struct Operations {
    slots: Mutex<HashMap<ModelVersionId, Slot>>,
    loads: Semaphore,
    workers: Arc<Semaphore>,
    residency: Arc<Residency>,
    repository: Arc<Repository>,
    phase: watch::Receiver<Phase>,
    reports: Reports,
    memory: Bytes,
    tasks: Tasks,
}

/// What is to be done for a version that has a worker.
struct Slot {
    pending: Option<Command>,
    session: u64,
    fence: Option<u64>,
    /// Told when `pending` is filled.
    newer: Arc<Notify>,
}

pub(crate) struct Parts {
    pub(crate) residency: Arc<Residency>,
    pub(crate) repository: Arc<Repository>,
    pub(crate) phase: watch::Receiver<Phase>,
    pub(crate) reports: Reports,
    pub(crate) memory: Bytes,
    pub(crate) tasks: Tasks,
}

impl Operations {
    pub(crate) fn new(parts: Parts) -> Arc<Self> {
        let Parts { residency, repository, phase, reports, memory, tasks } = parts;
        Arc::new(Self {
            slots: Mutex::default(),
            loads: Semaphore::new(LOADS),
            workers: Arc::new(Semaphore::new(WORKERS)),
            residency,
            repository,
            phase,
            reports,
            memory,
            tasks,
        })
    }

    /// Takes a command, or waits while there are too many. Cancel-safe: a command is taken whole or not at all.
    pub(crate) async fn submit(self: &Arc<Self>, command: Command) {
        let Ok(permit) = Arc::clone(&self.workers).acquire_owned().await else { return };
        if let Some(newer) = self.place(command) {
            self.start_worker(newer.0, newer.1, permit);
        }
    }

    /// Memory that is left.
    pub(crate) fn available(&self) -> Bytes {
        self.memory.saturating_sub(self.residency.memory())
    }

    /// Puts the command where its worker finds it; answers with the version when there is no worker yet.
    fn place(&self, command: Command) -> Option<(ModelVersionId, Arc<Notify>)> {
        let mut slots = self.slots();
        let Subject { id, session, fence } = command.subject.clone();
        let Some(slot) = slots.get_mut(&id) else {
            let newer = Arc::new(Notify::new());
            slots.insert(id.clone(), Slot { pending: Some(command), session, fence, newer: Arc::clone(&newer) });
            return Some((id, newer));
        };
        // Clocks are compared within a stream: another scheduler, or one with a new store, counts from the start.
        if slot.session == session && fence < slot.fence {
            debug!(model = %id, ?fence, newest = ?slot.fence, "command dropped: there was a newer one");
            return None;
        }
        (slot.session, slot.fence) = (session, fence);
        slot.pending = Some(command);
        slot.newer.notify_one();
        None
    }

    fn start_worker(self: &Arc<Self>, id: ModelVersionId, newer: Arc<Notify>, permit: OwnedSemaphorePermit) {
        let operations = Arc::clone(self);
        self.tasks.clone().spawn("operation", OnError::Log, async move {
            while let Some(command) = operations.next(&id) {
                tokio::select! {
                    // Whatever is half done when we stop is cleared at the next start.
                    () = operations.perform(command, &newer) => {}
                    () = operations.tasks.stop().requested() => break,
                }
            }
            drop(permit);
            Ok::<(), Infallible>(())
        });
    }

    /// The pending command of a version; without one its slot goes, and the worker with it.
    fn next(&self, id: &ModelVersionId) -> Option<Command> {
        let mut slots = self.slots();
        let pending = slots.get_mut(id).and_then(|slot| slot.pending.take());
        if pending.is_none() {
            slots.remove(id);
        }
        pending
    }

    fn is_replaced(&self, id: &ModelVersionId) -> bool {
        self.slots().get(id).is_some_and(|slot| slot.pending.is_some())
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<ModelVersionId, Slot>> {
        // Every change under the lock is a single step.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn perform(&self, command: Command, newer: &Notify) {
        let Command { subject, action } = command;
        let outcome = match action {
            Action::Load(model) => self.load(&subject, *model).await,
            Action::Unload => self.unload(&subject, newer).await,
        };
        let Some(outcome) = outcome else { return };
        match &outcome {
            Outcome::Loaded => info!(model = %subject.id, "loaded"),
            Outcome::Unloaded => info!(model = %subject.id, "unloaded"),
            Outcome::LoadFailed(reason) => warn!(model = %subject.id, reason, "load failed"),
            Outcome::UnloadFailed(reason) => warn!(model = %subject.id, reason, "unload failed"),
        }
        let sent = self.reports.send(&subject, outcome, self.available());
        tokio::select! {
            () = sent => {}
            // Its clock is no longer current: the scheduler would drop it.
            () = self.replaced(&subject.id, newer) => {}
        }
    }

    async fn replaced(&self, id: &ModelVersionId, newer: &Notify) {
        while !self.is_replaced(id) {
            newer.notified().await;
        }
    }

    /// `None` when a newer command took its place, or its stream is over, before it began.
    async fn load(&self, subject: &Subject, model: Model) -> Option<Outcome> {
        let id = &subject.id;
        if self.residency.get(id).is_some() {
            return Some(Outcome::Loaded);
        }
        let _permit = self.loads.acquire().await.ok()?;
        if self.is_replaced(id) || !self.reports.is_current(subject.session) {
            return None;
        }
        match self.bring_and_load(id, model).await {
            Ok(()) => Some(Outcome::Loaded),
            Err(error) => {
                self.remove_files(id).await;
                Some(Outcome::LoadFailed(chain(&error)))
            }
        }
    }

    async fn bring_and_load(&self, id: &ModelVersionId, model: Model) -> Result<(), LoadError> {
        let spec = model.model_spec.as_ref().ok_or(LoadError::NoSpec)?;
        let (repository, version) = (Arc::clone(&self.repository), id.clone());
        let (uri, artifact_version) = (spec.uri.clone(), spec.artifact_version);
        let bring = move || repository.bring(&version, &uri, artifact_version);
        tokio::task::spawn_blocking(bring).await.map_err(|_| LoadError::CopyPanicked)??;
        let resident = Arc::new(Resident::new(id.clone(), model));
        let mut phase = self.phase.clone();
        let mut lives = 0;
        loop {
            let running = wait_up(&mut phase).await.ok_or(LoadError::Stopping)?;
            lives += 1;
            match running.control.load(&resident.name).await {
                Err(error) if error.is_no_answer() && lives < LIVES => {
                    self.wait_for_another_life(running.life).await;
                    continue;
                }
                loaded => loaded?,
            }
            // Added first and looked at afterwards, while the supervisor says Down first and looks at what is held
            // afterwards: either it loads the model again in the next life, or we see that there is one.
            self.residency.add(Arc::clone(&resident));
            if self.phase.borrow().is_life(running.life) || lives >= LIVES {
                return Ok(());
            }
            self.residency.close(id, Close::ByForce);
        }
    }

    async fn unload(&self, subject: &Subject, newer: &Notify) -> Option<Outcome> {
        let id = &subject.id;
        self.residency.begin_leaving(id);
        if !self.reports.is_current(subject.session) {
            self.residency.stay(id);
            return None;
        }
        let Some(resident) = self.residency.get(id) else {
            self.residency.stay(id);
            self.remove_files(id).await;
            return Some(Outcome::Unloaded);
        };
        if !self.wait_idle(&resident, newer).await {
            self.residency.stay(id);
            return None;
        }
        if let Err(error) = self.unload_from_server(&resident.name).await {
            // The server still has it, so it still counts.
            self.residency.add(resident);
            return Some(Outcome::UnloadFailed(chain(&error)));
        }
        self.remove_files(id).await;
        Some(Outcome::Unloaded)
    }

    /// Closes the version when nobody uses it, or at the limit; false when a newer command came meanwhile.
    async fn wait_idle(&self, resident: &Resident, newer: &Notify) -> bool {
        let limit = tokio::time::sleep(DRAIN_LIMIT);
        tokio::pin!(limit);
        while !self.residency.close(&resident.id, Close::WhenIdle) {
            tokio::select! {
                // All three are cancel-safe.
                () = resident.idle() => {}
                () = self.replaced(&resident.id, newer) => return false,
                () = &mut limit => {
                    warn!(model = %resident.id, limit = ?DRAIN_LIMIT, "unloaded with requests under way");
                    self.residency.close(&resident.id, Close::ByForce);
                }
            }
        }
        true
    }

    async fn unload_from_server(&self, name: &str) -> Result<(), LoadError> {
        let mut phase = self.phase.clone();
        let mut lives = 0;
        loop {
            let running = wait_up(&mut phase).await.ok_or(LoadError::Stopping)?;
            lives += 1;
            match running.control.unload(name).await {
                Err(error) if error.is_unknown_model() => return Ok(()),
                Err(error) if error.is_no_answer() && lives < LIVES => self.wait_for_another_life(running.life).await,
                unloaded => return Ok(unloaded?),
            }
        }
    }

    /// After a call without an answer: either the supervisor notices that the server died, or it did not.
    async fn wait_for_another_life(&self, life: u64) {
        const NOTICED_WITHIN: Duration = Duration::from_secs(2);
        let mut phase = self.phase.clone();
        let noticed = phase.wait_for(|phase| !phase.is_life(life));
        // Not noticed: the call is simply made again.
        let _ = tokio::time::timeout(NOTICED_WITHIN, noticed).await;
    }

    async fn remove_files(&self, id: &ModelVersionId) {
        let (repository, version) = (Arc::clone(&self.repository), id.clone());
        match tokio::task::spawn_blocking(move || repository.remove(&version)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(model = %id, error = chain(&error), "files not removed"),
            Err(_) => warn!(model = %id, "files not removed: the thread that does it ended early"),
        }
    }
}
