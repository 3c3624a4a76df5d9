//! A model with its versions and where each of them is: what is kept on disk, and what follows from it.

use std::collections::BTreeSet;

use domain::{
    Bytes, Clock, Lifecycle, ModelDefinition, ModelName, ModelVersionId, ReplicaId, ReplicaIndex, RuntimeInfo,
    ServerName, Time, VersionNumber,
};

use crate::few::Few;

/// A model. It has at least one version; the last one is what users want.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// Identity.
    pub name: ModelName,
    /// The user asked for its removal.
    pub deleted: bool,
    /// When the last replica let go of a removed model.
    pub terminated_at: Option<Time>,
    /// Clock of the last command about it; never goes back, also not over restarts.
    pub clock: Clock,
    /// Its versions by number; never empty.
    pub versions: Few<VersionNumber, Version>,
}

/// One immutable version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// What was declared.
    pub definition: ModelDefinition,
    /// What a server said about it, first report wins.
    pub runtime: Option<RuntimeInfo>,
    /// The server its assignments are on.
    pub server: Option<ServerName>,
    /// Where it is, by replica of that server.
    pub assignments: Few<ReplicaIndex, Assignment>,
    /// It has taken requests with a route that every gating Envoy had acknowledged.
    pub was_available: bool,
    /// Why it is not on as many replicas as wished; empty when it is, or when nobody wishes any more.
    pub shortfall: String,
    /// Memory alone would help against the shortfall. Not kept on disk: taken for true until it is known.
    pub short_of_memory: bool,
    /// When its definition was last edited.
    pub edited_at: Time,
}

/// One version on one replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// How far it is.
    pub lifecycle: Lifecycle,
    /// Clock of the last command sent for it.
    pub clock: Clock,
    /// Its memory is reserved: the agent may be loading it and has not yet counted it in what it reports as free.
    pub reserves: bool,
    /// Why it failed.
    pub reason: String,
    /// When it got where it is.
    pub changed_at: Time,
}

impl Model {
    /// The number of the version that users want.
    #[must_use]
    pub fn latest_number(&self) -> VersionNumber {
        self.versions.keys().next_back().copied().unwrap_or_default()
    }

    /// The version that users want.
    #[must_use]
    pub fn latest(&self) -> Option<&Version> {
        self.versions.values().next_back()
    }

    /// Identity of one of its versions.
    #[must_use]
    pub fn version_id(&self, number: VersionNumber) -> ModelVersionId {
        ModelVersionId { model: self.name.clone(), number }
    }

    /// Its topics go with it, when it goes.
    pub(crate) fn cleans_topics(&self) -> bool {
        self.latest().is_some_and(|latest| latest.definition.clean_topics_on_delete == Some(true))
    }

    /// The server that its latest version is on and how many replicas it wants there.
    pub(crate) fn wish(&self) -> Option<(&ServerName, u32)> {
        let latest = self.latest().filter(|_| !self.deleted)?;
        Some((latest.server.as_ref()?, latest.definition.deployment.replicas))
    }

    /// A replica of it goes on serving only because an Envoy may still route there.
    pub(crate) fn waits_for_envoy(&self) -> bool {
        let mut assignments = self.versions.values().flat_map(|version| version.assignments.values());
        assignments.any(|assignment| assignment.lifecycle == Lifecycle::UnloadEnvoyRequested)
    }

    /// How many replicas have not let go of it.
    #[must_use]
    pub fn remaining(&self) -> usize {
        let assignments = self.versions.values().flat_map(|version| version.assignments.values());
        assignments.filter(|assignment| !assignment.lifecycle.is_over()).count()
    }
}

impl Version {
    /// A version that is nowhere yet.
    #[must_use]
    pub fn new(definition: ModelDefinition, now: Time) -> Self {
        Self {
            definition,
            runtime: None,
            server: None,
            assignments: Few::new(),
            was_available: false,
            shortfall: String::new(),
            short_of_memory: false,
            edited_at: now,
        }
    }

    /// Memory that one replica needs for it.
    #[must_use]
    pub fn memory(&self) -> Bytes {
        self.definition.spec.required_memory(self.runtime)
    }

    /// The replicas that requests may be sent to: those that serve, or else those that are leaving but still serve.
    #[must_use]
    pub fn serving(&self) -> BTreeSet<ReplicaId> {
        let those = |wanted: fn(Lifecycle) -> bool| -> BTreeSet<ReplicaId> {
            let Some(server) = &self.server else { return BTreeSet::new() };
            let matching = self.assignments.iter().filter(|(_, assignment)| wanted(assignment.lifecycle));
            matching.map(|(index, _)| ReplicaId { server: server.clone(), index: *index }).collect()
        };
        let serving = those(Lifecycle::is_serving);
        if serving.is_empty() { those(|lifecycle| lifecycle == Lifecycle::Draining) } else { serving }
    }

    /// How many assignments are in one of the states.
    #[must_use]
    pub fn count(&self, wanted: impl Fn(Lifecycle) -> bool) -> u32 {
        let count = self.assignments.values().filter(|assignment| wanted(assignment.lifecycle)).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// It can take all traffic: a replica is available and none has failed (`spec/control-plane.md` §2.5, §2.9).
    #[must_use]
    pub fn can_take_over(&self) -> bool {
        self.count(|lifecycle| lifecycle == Lifecycle::Available) > 0 && self.count(is_failed) == 0
    }
}

impl Assignment {
    /// The agent holds it and requests are, or were until a moment ago, sent there.
    #[must_use]
    pub fn is_loaded(&self) -> bool {
        self.lifecycle.is_serving() || self.lifecycle == Lifecycle::Draining
    }
}

/// The replica failed to load the version, or Envoy refused its route.
pub(crate) fn is_failed(lifecycle: Lifecycle) -> bool {
    matches!(lifecycle, Lifecycle::LoadFailed | Lifecycle::LoadedUnavailable)
}
