//! Experiments as JSON, with the names of the API (see `status`).

use messages::scheduler as wire;
use serde::Serialize;

use super::status::{KubernetesMeta, is_default, name};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ExperimentStatus {
    #[serde(skip_serializing_if = "is_default")]
    experiment_name: String,
    #[serde(skip_serializing_if = "is_default")]
    active: bool,
    #[serde(skip_serializing_if = "is_default")]
    candidates_ready: bool,
    #[serde(skip_serializing_if = "is_default")]
    mirror_ready: bool,
    #[serde(skip_serializing_if = "is_default")]
    status_description: String,
    #[serde(skip_serializing_if = "is_default")]
    kubernetes_meta: Option<KubernetesMeta>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Experiment {
    #[serde(skip_serializing_if = "is_default")]
    name: String,
    #[serde(skip_serializing_if = "is_default")]
    default: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    candidates: Vec<Candidate>,
    #[serde(skip_serializing_if = "is_default")]
    mirror: Option<Mirror>,
    #[serde(skip_serializing_if = "is_default")]
    kubernetes_meta: Option<KubernetesMeta>,
    #[serde(skip_serializing_if = "is_default")]
    resource_type: Option<serde_json::Value>,
}

#[derive(PartialEq, Serialize)]
struct Candidate {
    #[serde(skip_serializing_if = "is_default")]
    name: String,
    #[serde(skip_serializing_if = "is_default")]
    weight: u32,
}

#[derive(PartialEq, Serialize)]
struct Mirror {
    #[serde(skip_serializing_if = "is_default")]
    name: String,
    #[serde(skip_serializing_if = "is_default")]
    percent: u32,
}

impl From<&wire::ExperimentStatusResponse> for ExperimentStatus {
    fn from(message: &wire::ExperimentStatusResponse) -> Self {
        ExperimentStatus {
            experiment_name: message.experiment_name.clone(),
            active: message.active,
            candidates_ready: message.candidates_ready,
            mirror_ready: message.mirror_ready,
            status_description: message.status_description.clone(),
            kubernetes_meta: message.kubernetes_meta.as_ref().map(Into::into),
        }
    }
}

impl From<&wire::Experiment> for Experiment {
    fn from(message: &wire::Experiment) -> Self {
        let candidate = |candidate: &wire::ExperimentCandidate| Candidate {
            name: candidate.name.clone(),
            weight: candidate.weight,
        };
        let mirror = |mirror: &wire::ExperimentMirror| Mirror { name: mirror.name.clone(), percent: mirror.percent };
        let kind = wire::ResourceType::try_from(message.resource_type).ok();
        Experiment {
            name: message.name.clone(),
            default: message.default.clone(),
            candidates: message.candidates.iter().map(candidate).collect(),
            mirror: message.mirror.as_ref().map(mirror),
            kubernetes_meta: message.kubernetes_meta.as_ref().map(Into::into),
            resource_type: name(message.resource_type, kind.map(|kind| kind.as_str_name())),
        }
    }
}

#[cfg(test)]
mod tests {
    use messages::scheduler as wire;

    use super::ExperimentStatus;
    use crate::output::as_json;

    #[test]
    fn a_status_has_the_names_of_the_api_and_leaves_defaults_out() {
        let status = wire::ExperimentStatusResponse {
            experiment_name: "e".to_owned(),
            active: true,
            candidates_ready: true,
            mirror_ready: true,
            status_description: "active".to_owned(),
            kubernetes_meta: Some(wire::KubernetesMeta::default()),
        };
        assert_eq!(
            as_json(&ExperimentStatus::from(&status)),
            concat!(
                r#"{"experimentName":"e","active":true,"candidatesReady":true,"mirrorReady":true,"#,
                r#""statusDescription":"active","kubernetesMeta":{}}"#
            )
        );
        let stopped = wire::ExperimentStatusResponse { experiment_name: "e".to_owned(), ..Default::default() };
        assert_eq!(as_json(&ExperimentStatus::from(&stopped)), r#"{"experimentName":"e"}"#);
    }
}
