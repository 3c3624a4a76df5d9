//! What users are told about models and servers (`spec/control-plane.md` §2.5).

use domain::{
    AssignmentStatus, Lifecycle, ModelName, ModelState, ModelVersionStatus, ReplicaId, ReplicaResources, ServerName,
    ServerStatus, VersionNumber,
};

use crate::machine::Machine;
use crate::model::{Model, Version, is_failed};
use crate::routing;
use crate::server::Link;

/// A group of states.
type Group = fn(Lifecycle) -> bool;

/// Replicas that a reason names; the rest are counted. Whoever wants all reads the assignments.
const NAMED: usize = 4;

impl Machine {
    /// Status of the latest version of a model.
    #[must_use]
    pub fn model_status(&self, name: &ModelName) -> Option<ModelVersionStatus> {
        let model = self.models.get(name)?;
        self.latest_status(model)
    }

    /// Status of the latest version of a model that may be out of the state while it is changed.
    pub(crate) fn latest_status(&self, model: &Model) -> Option<ModelVersionStatus> {
        let (number, version) = model.versions.iter().next_back()?;
        Some(self.version_status(model, *number, version))
    }

    /// State of the latest version of a model.
    pub(crate) fn model_state(&self, name: &ModelName) -> Option<ModelState> {
        let model = self.models.get(name)?;
        let latest = model.latest()?;
        Some(if model.deleted { ending_state(model, latest) } else { self.living_state(model, latest) })
    }

    /// Status of every version of a model that is kept, oldest first.
    #[must_use]
    pub fn version_statuses(&self, name: &ModelName) -> Option<Vec<ModelVersionStatus>> {
        let model = self.models.get(name)?;
        Some(model.versions.iter().map(|(number, version)| self.version_status(model, *number, version)).collect())
    }

    fn version_status(&self, model: &Model, number: VersionNumber, version: &Version) -> ModelVersionStatus {
        let available = version.count(|lifecycle| lifecycle == Lifecycle::Available);
        let arriving = version.count(|lifecycle| lifecycle.is_arriving() || lifecycle == Lifecycle::Loaded);
        let failed = version.count(is_failed);
        let is_latest = number == model.latest_number();
        let state =
            if model.deleted || !is_latest { ending_state(model, version) } else { self.living_state(model, version) };
        let unavailable = match state {
            ModelState::ScheduleFailed => version.definition.deployment.replicas.saturating_sub(available),
            _ => arriving + failed,
        };
        let changed_at = version.assignments.values().map(|assignment| assignment.changed_at).max();
        let gateway_state = self.model_gateway_state(model);
        ModelVersionStatus {
            number,
            deleted: model.deleted,
            definition: version.definition.clone(),
            runtime: version.runtime,
            server: version.server.clone(),
            state,
            reason: reason(model, version, state),
            available,
            unavailable,
            changed_at: changed_at.unwrap_or(version.edited_at).max(version.edited_at),
            assignments: version
                .assignments
                .iter()
                .map(|(index, assignment)| {
                    let status = AssignmentStatus {
                        lifecycle: assignment.lifecycle,
                        reason: assignment.reason.clone(),
                        changed_at: assignment.changed_at,
                    };
                    (*index, status)
                })
                .collect(),
            gateway_state,
            gateway_reason: match gateway_state {
                ModelState::Create => "no model gateway is connected",
                ModelState::Progressing | ModelState::Terminating => "model gateways are being told",
                _ => "",
            },
        }
    }

    /// State of the version that users want.
    fn living_state(&self, model: &Model, version: &Version) -> ModelState {
        let wish = &version.definition.deployment;
        let available = version.count(|lifecycle| lifecycle == Lifecycle::Available);
        if version.count(is_failed) > 0 {
            return ModelState::Failed;
        }
        if wish.replicas == 0 && wish.min_replicas == 0 {
            let is_empty = version.assignments.values().all(|assignment| assignment.lifecycle.is_over());
            return if is_empty { ModelState::ScaledDown } else { ModelState::Progressing };
        }
        let meets_minimum = wish.min_replicas > 0 && available >= wish.min_replicas;
        if available >= wish.replicas || meets_minimum {
            return ModelState::Available;
        }
        if !version.shortfall.is_empty() && self.is_synchronised() {
            return ModelState::ScheduleFailed;
        }
        let replaces = model.versions.values().rev().skip(1).any(|older| {
            older.was_available && older.assignments.values().any(|assignment| !assignment.lifecycle.is_over())
        });
        if available > 0 && replaces { ModelState::Available } else { ModelState::Progressing }
    }

    /// Status of a server.
    #[must_use]
    pub fn server_status(&self, name: &ServerName) -> Option<ServerStatus> {
        let server = self.servers.get(name)?;
        let present = server
            .replicas
            .iter()
            .filter(|(_, replica)| !replica.draining && matches!(replica.link, Link::Connected(_) | Link::Unseen));
        let replicas: std::collections::BTreeMap<_, _> = present
            .map(|(index, replica)| {
                let id = ReplicaId { server: name.clone(), index: *index };
                let resources = ReplicaResources {
                    total: replica.config.memory,
                    available: replica.available,
                    models: self.residents.get(&id).map_or(0, |residents| residents.loaded),
                    over_commit_percentage: replica.config.over_commit_percentage,
                };
                (*index, resources)
            })
            .collect();
        Some(ServerStatus {
            name: name.clone(),
            bounds: server.bounds.clone(),
            available: u32::try_from(replicas.len()).unwrap_or(u32::MAX),
            replicas,
        })
    }
}

/// State of a version that is not wished any more, or not yet replaced.
fn ending_state(model: &Model, version: &Version) -> ModelState {
    let is = |wanted: fn(Lifecycle) -> bool| version.assignments.values().any(|a| wanted(a.lifecycle));
    if is(|lifecycle| lifecycle == Lifecycle::UnloadFailed) {
        return ModelState::TerminateFailed;
    }
    if !model.deleted && version.was_available && is(Lifecycle::is_serving) {
        return ModelState::Available;
    }
    if is(|lifecycle| !lifecycle.is_over()) { ModelState::Terminating } else { ModelState::Terminated }
}

fn reason(model: &Model, version: &Version, state: ModelState) -> String {
    let newest = |wanted: fn(Lifecycle) -> bool| -> Option<String> {
        let those = version.assignments.iter().filter(|(_, a)| wanted(a.lifecycle) && !a.reason.is_empty());
        those.map(|(index, a)| (a.changed_at, *index, a.reason.clone())).max().map(|(_, _, text)| text)
    };
    let text = match state {
        ModelState::Failed => newest(is_failed),
        ModelState::TerminateFailed => newest(|l| l == Lifecycle::UnloadFailed),
        ModelState::ScaledDown => Some("no replicas are wished".to_owned()),
        ModelState::Terminating => Some(progress(version)),
        ModelState::Progressing if version.shortfall.is_empty() => Some(progress(version)),
        _ => None,
    };
    let mut text = text.unwrap_or_else(|| version.shortfall.clone());
    let is_latest = model.latest().is_some_and(|latest| std::ptr::eq(latest, version));
    if is_latest
        && !model.deleted
        && !version.can_take_over()
        && let Some((older, _)) = routing::stable(model)
    {
        let separator = if text.is_empty() { "" } else { "; " };
        text = format!("{text}{separator}version {older} goes on answering");
    }
    text
}

/// What is going on with the replicas of a version, in words.
fn progress(version: &Version) -> String {
    let server = version.server.as_ref().map(ToString::to_string).unwrap_or_default();
    let on = |wanted: Group| {
        let those = version.assignments.iter().filter(|(_, assignment)| wanted(assignment.lifecycle));
        those.map(|(index, _)| format!("{server}/{index}")).collect::<Vec<_>>()
    };
    let groups: [(&str, Group); 6] = [
        ("waiting for the agent of", |l| matches!(l, Lifecycle::LoadRequested | Lifecycle::UnloadRequested)),
        ("loading on", |l| l == Lifecycle::Loading),
        ("waiting for Envoy to route to", |l| l == Lifecycle::Loaded),
        ("waiting for Envoy to let go of", |l| l == Lifecycle::UnloadEnvoyRequested),
        ("unloading from", |l| l == Lifecycle::Unloading),
        ("waiting for another replica before it leaves", |l| l == Lifecycle::Draining),
    ];
    let texts = groups.iter().filter_map(|(what, wanted)| {
        let mut replicas = on(*wanted);
        let more = replicas.len().saturating_sub(NAMED);
        replicas.truncate(NAMED);
        let rest = if more == 0 { String::new() } else { format!(" and {more} more") };
        (!replicas.is_empty()).then(|| format!("{what} {}{rest}", replicas.join(", ")))
    });
    texts.collect::<Vec<_>>().join("; ")
}
