//! An experiment as it is kept on disk.

use std::collections::BTreeSet;

use domain::{RoutableName, Subject, Time};

/// An experiment: what was declared, and what Envoys may still do about what was declared before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Experiment {
    /// What was declared last.
    pub definition: domain::Experiment,
    /// When it was stopped; absent while it runs.
    pub stopped_at: Option<Time>,
    /// What an Envoy may still lead its names to although it has no share for them any more.
    pub lingering: BTreeSet<Subject>,
    /// Whose plain names an Envoy may still split although they are no longer its default.
    pub former_defaults: BTreeSet<Subject>,
}

impl Experiment {
    /// An experiment as it was declared, in the place of an older one if there was one.
    pub(crate) fn started(definition: domain::Experiment, older: Option<&Experiment>) -> Self {
        let mut lingering: BTreeSet<Subject> = older.into_iter().flat_map(Experiment::may_lead_to).cloned().collect();
        lingering.retain(|subject| !definition.subjects().any(|other| other == subject));
        let mut former_defaults: BTreeSet<Subject> =
            older.into_iter().flat_map(Experiment::may_split).cloned().collect();
        former_defaults.retain(|subject| definition.default.as_ref() != Some(subject));
        Self { definition, stopped_at: None, lingering, former_defaults }
    }

    /// It ends; its names lead nowhere as soon as Envoys have let go.
    pub(crate) fn stop(&mut self, now: Time) {
        self.stopped_at = Some(now);
        self.lingering.extend(self.definition.subjects().cloned());
        self.former_defaults.extend(self.definition.default.iter().cloned());
    }

    /// It splits traffic.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.stopped_at.is_none()
    }

    /// What an Envoy may lead its names to.
    pub(crate) fn may_lead_to(&self) -> impl Iterator<Item = &Subject> {
        self.definition.subjects().chain(&self.lingering)
    }

    /// Whose plain names an Envoy may split.
    pub(crate) fn may_split(&self) -> impl Iterator<Item = &Subject> {
        self.definition.default.iter().chain(&self.former_defaults)
    }

    /// Every name that an Envoy may know a split of it by.
    pub(crate) fn names(&self) -> BTreeSet<RoutableName> {
        let defaults = self.may_split().cloned().map(RoutableName::from);
        defaults.chain([RoutableName::Experiment(self.definition.name.clone())]).collect()
    }

    /// Envoys have let go of all that was declared before; says whether there was anything.
    pub(crate) fn settled(&mut self) -> bool {
        let had = !self.lingering.is_empty() || !self.former_defaults.is_empty();
        self.lingering.clear();
        self.former_defaults.clear();
        had
    }
}
