//! A pipeline as it is kept on disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use domain::{PipelineName, Time};

/// A pipeline with its versions. It has at least one, also while it is listed after its removal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pipeline {
    /// Its name.
    pub name: PipelineName,
    /// The latest version, the one that takes entries, and those whose entries are not over yet.
    pub versions: BTreeMap<u32, PipelineVersion>,
    /// A user asked for its removal.
    pub removed: bool,
    /// When every worker had let go of it after its removal.
    pub terminated_at: Option<Time>,
}

/// One version of a pipeline. What it does never changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PipelineVersion {
    /// Identity among all versions of all pipelines.
    pub uid: String,
    /// What it does.
    pub definition: Arc<domain::Pipeline>,
    /// When it was declared.
    pub declared_at: Time,
    /// Since when new entries ran under it; none: never yet.
    pub active_since: Option<Time>,
    /// New entries run under it; at most one version of a pipeline does (I8).
    pub active: bool,
    /// When a newer version took its entries over.
    pub retired_at: Option<Time>,
}

impl Pipeline {
    /// The newest version and its number.
    #[must_use]
    pub fn latest(&self) -> Option<(u32, &PipelineVersion)> {
        self.versions.iter().next_back().map(|(number, version)| (*number, version))
    }

    /// The version that takes new entries.
    #[must_use]
    pub fn active(&self) -> Option<(u32, &PipelineVersion)> {
        self.versions.iter().find(|(_, version)| version.active).map(|(number, version)| (*number, version))
    }

    /// Its topics go with it, when it goes.
    pub(crate) fn cleans_topics(&self) -> bool {
        self.latest().is_some_and(|(_, latest)| latest.definition.clean_topics_on_delete == Some(true))
    }
}
