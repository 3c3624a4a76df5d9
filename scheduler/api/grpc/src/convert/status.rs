//! Statuses on their way out.

use std::collections::BTreeMap;

use domain::{KubernetesMeta, Lifecycle, ModelName, ModelState, ModelVersionStatus, ServerName, ServerStatus, Time};
use messages::scheduler as wire;
use prost_types::Timestamp;

use super::model;

/// Statuses of versions of one model as one message.
#[must_use]
pub fn model(name: &ModelName, versions: &[ModelVersionStatus]) -> wire::ModelStatusResponse {
    wire::ModelStatusResponse {
        model_name: name.to_string(),
        deleted: versions.iter().any(|version| version.deleted),
        versions: versions.iter().map(version).collect(),
        ..wire::ModelStatusResponse::default()
    }
}

fn version(status: &ModelVersionStatus) -> wire::ModelVersionStatus {
    let replicas: BTreeMap<i32, wire::ModelReplicaStatus> = status
        .assignments
        .iter()
        .map(|(index, assignment)| {
            let status = wire::ModelReplicaStatus {
                state: lifecycle(assignment.lifecycle).into(),
                reason: assignment.reason.clone(),
                last_change_timestamp: Some(timestamp(assignment.changed_at)),
            };
            (i32::try_from(index.0).unwrap_or(i32::MAX), status)
        })
        .collect();
    wire::ModelVersionStatus {
        version: status.number.0,
        server_name: status.server.as_ref().map(ToString::to_string).unwrap_or_default(),
        kubernetes_meta: status.definition.kubernetes.as_deref().map(model::kubernetes_wire),
        model_replica_state: replicas,
        state: Some(wire::ModelStatus {
            state: state(status.state).into(),
            reason: status.reason.clone(),
            available_replicas: status.available,
            unavailable_replicas: status.unavailable,
            last_change_timestamp: Some(timestamp(status.changed_at)),
            model_gw_state: state(status.gateway_state).into(),
            model_gw_reason: status.gateway_reason.to_owned(),
        }),
        model_defn: Some(model::wire(&status.definition, status.runtime)),
    }
}

/// Status of a server as a status update.
#[must_use]
pub fn server(status: &ServerStatus) -> wire::ServerStatusResponse {
    let count = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
    wire::ServerStatusResponse {
        server_name: status.name.to_string(),
        resources: status
            .replicas
            .iter()
            .map(|(index, resources)| wire::ServerReplicaResources {
                replica_idx: index.0,
                total_memory_bytes: resources.total.0,
                available_memory_bytes: resources.available.0,
                num_loaded_models: count(resources.models),
                over_commit_percentage: resources.over_commit_percentage,
            })
            .collect(),
        expected_replicas: status.bounds.as_ref().map_or(-1, |bounds| count(bounds.expected)),
        available_replicas: count(status.available),
        num_loaded_model_replicas: count(status.replicas.values().map(|replica| replica.models).sum()),
        kubernetes_meta: status.bounds.as_ref().and_then(|b| b.kubernetes.as_ref()).map(model::kubernetes_wire),
        min_replicas: status.bounds.as_ref().map(|bounds| bounds.min),
        max_replicas: status.bounds.as_ref().map(|bounds| bounds.max),
        r#type: wire::server_status_response::Type::StatusUpdate.into(),
    }
}

/// A wish about the size of a server, for its owner.
#[must_use]
pub fn scaling(server: &ServerName, replicas: u32, kubernetes: Option<&KubernetesMeta>) -> wire::ServerStatusResponse {
    wire::ServerStatusResponse {
        server_name: server.to_string(),
        expected_replicas: i32::try_from(replicas).unwrap_or(i32::MAX),
        kubernetes_meta: kubernetes.map(model::kubernetes_wire),
        r#type: wire::server_status_response::Type::ScalingRequest.into(),
        ..wire::ServerStatusResponse::default()
    }
}

/// Wire number of a replica's state (`spec/control-plane.md` §1.1.1).
#[must_use]
pub fn lifecycle(lifecycle: Lifecycle) -> wire::model_replica_status::ModelReplicaState {
    use wire::model_replica_status::ModelReplicaState as State;
    match lifecycle {
        Lifecycle::LoadRequested => State::LoadRequested,
        Lifecycle::Loading => State::Loading,
        Lifecycle::Loaded => State::Loaded,
        Lifecycle::LoadFailed => State::LoadFailed,
        Lifecycle::UnloadEnvoyRequested => State::UnloadEnvoyRequested,
        Lifecycle::UnloadRequested => State::UnloadRequested,
        Lifecycle::Unloading => State::Unloading,
        Lifecycle::Unloaded => State::Unloaded,
        Lifecycle::UnloadFailed => State::UnloadFailed,
        Lifecycle::Available => State::Available,
        Lifecycle::LoadedUnavailable => State::LoadedUnavailable,
        Lifecycle::Draining => State::Draining,
    }
}

/// The way in of [`lifecycle`]; the wire's «unknown» is no state of ours.
#[must_use]
pub fn from_lifecycle(state: wire::model_replica_status::ModelReplicaState) -> Option<Lifecycle> {
    Lifecycle::ALL.into_iter().find(|candidate| lifecycle(*candidate) == state)
}

fn state(state: ModelState) -> wire::model_status::ModelState {
    use wire::model_status::ModelState as State;
    match state {
        ModelState::Unknown => State::Unknown,
        ModelState::Progressing => State::ModelProgressing,
        ModelState::Available => State::ModelAvailable,
        ModelState::Failed => State::ModelFailed,
        ModelState::Terminating => State::ModelTerminating,
        ModelState::Terminated => State::ModelTerminated,
        ModelState::TerminateFailed => State::ModelTerminateFailed,
        ModelState::ScheduleFailed => State::ScheduleFailed,
        ModelState::ScaledDown => State::ModelScaledDown,
        ModelState::Create => State::ModelCreate,
        ModelState::Terminate => State::ModelTerminate,
    }
}

pub(super) fn timestamp(time: Time) -> Timestamp {
    let seconds = i64::try_from(time.0 / 1_000).unwrap_or(i64::MAX);
    let nanos = i32::try_from(time.0 % 1_000).unwrap_or(0) * 1_000_000;
    Timestamp { seconds, nanos }
}

#[cfg(test)]
mod tests {
    use domain::Lifecycle;

    #[test]
    fn replica_states_have_the_compatible_wire_numbers() {
        let numbers: Vec<(Lifecycle, i32)> =
            Lifecycle::ALL.into_iter().map(|state| (state, super::lifecycle(state).into())).collect();
        let expected = [
            (Lifecycle::LoadRequested, 1),
            (Lifecycle::Loading, 2),
            (Lifecycle::Loaded, 3),
            (Lifecycle::LoadFailed, 4),
            (Lifecycle::UnloadEnvoyRequested, 11),
            (Lifecycle::UnloadRequested, 5),
            (Lifecycle::Unloading, 6),
            (Lifecycle::Unloaded, 7),
            (Lifecycle::UnloadFailed, 8),
            (Lifecycle::Available, 9),
            (Lifecycle::LoadedUnavailable, 10),
            (Lifecycle::Draining, 12),
        ];
        assert_eq!(numbers, expected);
        for state in Lifecycle::ALL {
            assert_eq!(super::from_lifecycle(super::lifecycle(state)), Some(state));
        }
    }
}
