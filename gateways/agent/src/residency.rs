//! What the inference server holds for us, and how many requests use each of it. The proxy asks it for every request;
//! operations and the supervisor change it. Loads and unloads nothing itself.
//!
//! Invariants: a version that is not in here gets no request; a version is closed only while nobody uses it, or by
//! force.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use domain::{Bytes, ModelName, ModelVersionId, VersionNumber};
use messages::scheduler::Model;
use tokio::sync::Notify;

/// A model version the server has loaded.
#[derive(Debug)]
pub(crate) struct Resident {
    pub(crate) id: ModelVersionId,
    /// `<model>_<version>`: its name at the server.
    pub(crate) name: String,
    /// As the scheduler defined it.
    pub(crate) model: Model,
    requests: AtomicUsize,
    idle: Notify,
}

impl Resident {
    pub(crate) fn new(id: ModelVersionId, model: Model) -> Self {
        Self { name: id.internal_name(), id, model, requests: AtomicUsize::new(0), idle: Notify::new() }
    }

    /// Resolves when no request uses it.
    pub(crate) async fn idle(&self) {
        loop {
            let idle = self.idle.notified();
            tokio::pin!(idle);
            idle.as_mut().enable();
            if self.requests.load(Ordering::Acquire) == 0 {
                return;
            }
            idle.await;
        }
    }

    fn memory(&self) -> Bytes {
        Bytes(self.model.model_spec.as_ref().and_then(|spec| spec.memory_bytes).unwrap_or(0))
    }
}

/// A request that uses a version, until it is dropped.
#[derive(Debug)]
pub(crate) struct InUse(Arc<Resident>);

impl InUse {
    fn of(resident: &Arc<Resident>) -> Self {
        resident.requests.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(resident))
    }

    pub(crate) fn name(&self) -> &str {
        &self.0.name
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        if self.0.requests.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

/// Whether a version is closed although requests use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Close {
    WhenIdle,
    ByForce,
}

#[derive(Debug, Default)]
pub(crate) struct Residency(RwLock<State>);

#[derive(Debug, Default)]
struct State {
    by_name: HashMap<String, Arc<Resident>>,
    versions: BTreeMap<ModelName, BTreeMap<VersionNumber, Arc<Resident>>>,
    /// Still served, but on the way out: the scheduler is not told of them any more.
    leaving: BTreeSet<ModelVersionId>,
}

impl Residency {
    /// Begins a request to the version of that internal name.
    pub(crate) fn enter(&self, name: &str) -> Option<InUse> {
        // Counted under the lock, so that `close` sees it or it does not see the version.
        self.read().by_name.get(name).map(InUse::of)
    }

    /// Begins a request to the highest version of a model.
    pub(crate) fn enter_highest(&self, model: &str) -> Option<InUse> {
        let state = self.read();
        state.versions.get(model)?.values().next_back().map(InUse::of)
    }

    pub(crate) fn get(&self, id: &ModelVersionId) -> Option<Arc<Resident>> {
        self.read().versions.get(&id.model)?.get(&id.number).cloned()
    }

    pub(crate) fn add(&self, resident: Arc<Resident>) {
        let mut state = self.write();
        state.leaving.remove(&resident.id);
        let versions = state.versions.entry(resident.id.model.clone()).or_default();
        versions.insert(resident.id.number, Arc::clone(&resident));
        state.by_name.insert(resident.name.clone(), resident);
    }

    /// From now on it is not listed, but still served.
    pub(crate) fn begin_leaving(&self, id: &ModelVersionId) {
        self.write().leaving.insert(id.clone());
    }

    /// It is listed again.
    pub(crate) fn stay(&self, id: &ModelVersionId) {
        self.write().leaving.remove(id);
    }

    /// Takes no more requests for a version; false when it is in use and that counts.
    pub(crate) fn close(&self, id: &ModelVersionId, how: Close) -> bool {
        let mut state = self.write();
        let Some(resident) = state.versions.get(&id.model).and_then(|versions| versions.get(&id.number)) else {
            return true;
        };
        if how == Close::WhenIdle && resident.requests.load(Ordering::Acquire) > 0 {
            return false;
        }
        let name = resident.name.clone();
        state.by_name.remove(&name);
        state.leaving.remove(id);
        if let Some(versions) = state.versions.get_mut(&id.model) {
            versions.remove(&id.number);
            if versions.is_empty() {
                state.versions.remove(&id.model);
            }
        }
        true
    }

    /// Everything that is loaded.
    pub(crate) fn all(&self) -> Vec<Arc<Resident>> {
        self.read().versions.values().flat_map(BTreeMap::values).cloned().collect()
    }

    /// Everything the scheduler may count on.
    pub(crate) fn listed(&self) -> Vec<Arc<Resident>> {
        let state = self.read();
        let all = state.versions.values().flat_map(BTreeMap::values);
        all.filter(|resident| !state.leaving.contains(&resident.id)).cloned().collect()
    }

    /// What all of it was said to need.
    pub(crate) fn memory(&self) -> Bytes {
        let state = self.read();
        let all = state.versions.values().flat_map(BTreeMap::values);
        all.fold(Bytes(0), |sum, resident| sum + resident.memory())
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        // Nothing in here panics between two changes that belong together.
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(names: &[&str]) -> Residency {
        let residency = Residency::default();
        for name in names {
            let id = ModelVersionId::from_internal_name(name).expect("a name");
            residency.add(Arc::new(Resident::new(id, Model::default())));
        }
        residency
    }

    fn id(name: &str) -> ModelVersionId {
        ModelVersionId::from_internal_name(name).expect("a name")
    }

    #[test]
    fn plain_names_mean_the_highest_version_that_is_here() {
        let residency = with(&["iris_9", "iris_10", "wine_1"]);
        assert_eq!(residency.enter_highest("iris").expect("held").name(), "iris_10");
        assert!(residency.close(&id("iris_10"), Close::WhenIdle));
        assert_eq!(residency.enter_highest("iris").expect("held").name(), "iris_9");
        assert!(residency.close(&id("iris_9"), Close::WhenIdle));
        assert!(residency.enter_highest("iris").is_none() && residency.enter("iris_9").is_none());
    }

    #[tokio::test]
    async fn version_in_use_is_closed_only_by_force_or_when_it_is_idle() {
        let residency = with(&["iris_1", "wine_1"]);
        let (iris, wine) = (residency.enter("iris_1").expect("held"), residency.enter("wine_1").expect("held"));
        assert!(!residency.close(&id("iris_1"), Close::WhenIdle));
        assert!(residency.close(&id("wine_1"), Close::ByForce));
        let resident = residency.get(&id("iris_1")).expect("held");
        let idle = resident.idle();
        drop(iris);
        idle.await;
        assert!(residency.close(&id("iris_1"), Close::WhenIdle));
        drop(wine);
    }

    #[test]
    fn leaving_version_is_served_and_not_listed() {
        let residency = with(&["iris_1"]);
        residency.begin_leaving(&id("iris_1"));
        assert!(residency.enter("iris_1").is_some() && residency.listed().is_empty());
        residency.stay(&id("iris_1"));
        assert_eq!(residency.listed().len(), 1);
    }
}
