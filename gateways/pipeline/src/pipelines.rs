//! The pipelines of this gateway: which version takes entries, and by which partitions.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use domain::{ModelName, PipelineName};
use worker::{Desired, PipelineWish};

/// A pipeline that there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    /// The version that takes new entries.
    pub(crate) active: Option<u32>,
    /// That version answers.
    pub(crate) has_output: bool,
    /// Partitions that requests enter by.
    pub(crate) entries: Vec<u32>,
    /// Models of the latest version.
    pub(crate) steps: Vec<ModelName>,
}

/// All of them. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pipelines(Arc<RwLock<BTreeMap<PipelineName, Arc<Known>>>>);

impl Pipelines {
    pub(crate) fn get(&self, name: &PipelineName) -> Option<Arc<Known>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Makes what is desired so.
    pub(crate) fn apply(&self, desired: &Desired) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if desired.is_snapshot {
            known.clear();
        }
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
        entries: wish.entries.clone(),
        steps: latest.definition.steps.iter().map(|step| step.model.clone()).collect(),
    })
}
