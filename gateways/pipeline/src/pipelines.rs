//! The pipelines of this gateway: which version takes entries, and by which partitions.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use domain::{ModelName, PipelineName};
use tokio::sync::watch;
use worker::{Desired, PipelineWish};

use crate::failure::Failure;

/// A pipeline that there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    /// The version that takes new entries.
    pub(crate) active: Option<u32>,
    /// That version answers.
    pub(crate) has_output: bool,
    /// It may go on when it has answered.
    pub(crate) has_cycles: bool,
    /// Partitions that requests enter by.
    pub(crate) entries: Vec<u32>,
    /// Models of the latest version.
    pub(crate) steps: Vec<ModelName>,
}

type ByName = BTreeMap<PipelineName, Arc<Known>>;

/// All of them; none until it is known which there are. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Pipelines {
    known: Arc<RwLock<Option<ByName>>>,
    changes: watch::Sender<()>,
}

impl Default for Pipelines {
    fn default() -> Self {
        Self { known: Arc::default(), changes: watch::Sender::new(()) }
    }
}

impl Pipelines {
    /// The pipeline of that name.
    ///
    /// # Errors
    /// There is none, or nobody has said yet which there are.
    pub(crate) fn get(&self, name: &PipelineName) -> Result<Arc<Known>, Failure> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let known = known.as_ref().ok_or(Failure::Starting)?;
        known.get(name).cloned().ok_or_else(|| Failure::Unknown(name.clone()))
    }

    /// Waits until there is no such pipeline.
    pub(crate) async fn gone(self, name: PipelineName) {
        let mut changes = self.changes.subscribe();
        while !matches!(self.get(&name), Err(Failure::Unknown(_))) {
            if changes.changed().await.is_err() {
                break;
            }
        }
    }

    /// Makes what is desired so.
    pub(crate) fn apply(&self, desired: &Desired) {
        self.change(desired);
        self.changes.send_replace(());
    }

    fn change(&self, desired: &Desired) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if desired.is_snapshot {
            *known = None;
        }
        let known = known.get_or_insert_default();
        for wish in &desired.pipelines {
            match known_of(wish) {
                Some(pipeline) => drop(known.insert(wish.name.clone(), Arc::new(pipeline))),
                None => drop(known.remove(&wish.name)),
            }
        }
    }
}

fn known_of(wish: &PipelineWish) -> Option<Known> {
    let latest = wish.versions.last()?;
    let active = wish.versions.iter().find(|version| version.is_active);
    Some(Known {
        active: active.map(|version| version.number),
        has_output: active.is_some_and(|version| version.definition.output.is_some()),
        has_cycles: active.is_some_and(|version| version.definition.allow_cycles),
        entries: wish.entries.clone(),
        steps: latest.definition.steps.iter().map(|step| step.model.clone()).collect(),
    })
}

#[cfg(test)]
mod tests {
    use domain::PipelineName;
    use worker::Desired;

    use super::Pipelines;
    use crate::failure::Failure;

    #[test]
    fn nothing_is_said_not_to_exist_before_it_is_known_what_does() {
        let (pipelines, name) = (Pipelines::default(), PipelineName::parse("p").expect("a name"));
        assert!(matches!(pipelines.get(&name), Err(Failure::Starting)));
        pipelines.apply(&Desired { is_snapshot: true, ..Desired::default() });
        assert!(matches!(pipelines.get(&name), Err(Failure::Unknown(unknown)) if unknown == name));
    }
}
