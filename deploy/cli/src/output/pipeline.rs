//! Pipelines as JSON, with the names of the API (see `status`).

use std::collections::BTreeMap;

use messages::scheduler as wire;
use serde::Serialize;

use super::status::{KubernetesMeta, is_default, name};
use super::timestamp::rfc3339;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PipelineStatus {
    #[serde(skip_serializing_if = "is_default")]
    pipeline_name: String,
    #[serde(skip_serializing_if = "is_default")]
    versions: Vec<Version>,
}

#[derive(PartialEq, Serialize)]
struct Version {
    #[serde(skip_serializing_if = "is_default")]
    pipeline: Option<Pipeline>,
    #[serde(skip_serializing_if = "is_default")]
    state: Option<State>,
}

#[derive(PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct State {
    #[serde(skip_serializing_if = "is_default")]
    pipeline_version: u32,
    #[serde(skip_serializing_if = "is_default")]
    status: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "is_default")]
    reason: String,
    #[serde(skip_serializing_if = "is_default")]
    last_change_timestamp: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    models_ready: bool,
    #[serde(skip_serializing_if = "is_default")]
    pipeline_gw_status: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "is_default")]
    pipeline_gw_reason: String,
}

#[derive(PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Pipeline {
    #[serde(skip_serializing_if = "is_default")]
    name: String,
    #[serde(skip_serializing_if = "is_default")]
    uid: String,
    #[serde(skip_serializing_if = "is_default")]
    version: u32,
    #[serde(skip_serializing_if = "is_default")]
    steps: Vec<Step>,
    #[serde(skip_serializing_if = "is_default")]
    output: Option<Output>,
    #[serde(skip_serializing_if = "is_default")]
    kubernetes_meta: Option<KubernetesMeta>,
    #[serde(skip_serializing_if = "is_default")]
    input: Option<Input>,
    #[serde(skip_serializing_if = "is_default")]
    dataflow_spec: Option<Dataflow>,
    #[serde(skip_serializing_if = "is_default")]
    allow_cycles: bool,
    #[serde(skip_serializing_if = "is_default")]
    max_step_revisits: u32,
    #[serde(skip_serializing_if = "is_default")]
    partition_factor: Option<u32>,
}

#[derive(PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Step {
    #[serde(skip_serializing_if = "is_default")]
    name: String,
    #[serde(skip_serializing_if = "is_default")]
    inputs: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    join_window_ms: Option<u32>,
    #[serde(skip_serializing_if = "is_default")]
    tensor_map: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "is_default")]
    inputs_join: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "is_default")]
    triggers: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    triggers_join: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "is_default")]
    batch: Option<Batch>,
}

#[derive(PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Batch {
    #[serde(skip_serializing_if = "is_default")]
    size: Option<u32>,
    #[serde(skip_serializing_if = "is_default")]
    window_ms: Option<u32>,
}

#[derive(PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Input {
    #[serde(skip_serializing_if = "is_default")]
    external_inputs: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    external_triggers: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    join_window_ms: Option<u32>,
    #[serde(skip_serializing_if = "is_default")]
    join_type: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "is_default")]
    triggers_join: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "is_default")]
    tensor_map: BTreeMap<String, String>,
}

#[derive(PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Output {
    #[serde(skip_serializing_if = "is_default")]
    steps: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    join_window_ms: u32,
    #[serde(skip_serializing_if = "is_default")]
    steps_join: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "is_default")]
    tensor_map: BTreeMap<String, String>,
}

#[derive(PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Dataflow {
    #[serde(skip_serializing_if = "is_default")]
    clean_topics_on_delete: bool,
}

/// The three enumerations of join types have the same numbers and names.
fn join(number: i32) -> Option<serde_json::Value> {
    let known = wire::pipeline_step::JoinOp::try_from(number).ok();
    name(number, known.map(|join| join.as_str_name()))
}

impl From<&wire::PipelineStatusResponse> for PipelineStatus {
    fn from(message: &wire::PipelineStatusResponse) -> Self {
        let version = |version: &wire::PipelineWithState| Version {
            pipeline: version.pipeline.as_ref().map(Pipeline::from),
            state: version.state.as_ref().map(State::from),
        };
        PipelineStatus {
            pipeline_name: message.pipeline_name.clone(),
            versions: message.versions.iter().map(version).collect(),
        }
    }
}

impl From<&wire::PipelineVersionState> for State {
    fn from(message: &wire::PipelineVersionState) -> Self {
        State {
            pipeline_version: message.pipeline_version,
            status: name(message.status, Some(message.status().as_str_name())),
            reason: message.reason.clone(),
            last_change_timestamp: message.last_change_timestamp.as_ref().map(|time| rfc3339(time.seconds, time.nanos)),
            models_ready: message.models_ready,
            pipeline_gw_status: name(message.pipeline_gw_status, Some(message.pipeline_gw_status().as_str_name())),
            pipeline_gw_reason: message.pipeline_gw_reason.clone(),
        }
    }
}

impl From<&wire::Pipeline> for Pipeline {
    fn from(message: &wire::Pipeline) -> Self {
        let step = |step: &wire::PipelineStep| Step {
            name: step.name.clone(),
            inputs: step.inputs.clone(),
            join_window_ms: step.join_window_ms,
            tensor_map: step.tensor_map.clone(),
            inputs_join: join(step.inputs_join),
            triggers: step.triggers.clone(),
            triggers_join: join(step.triggers_join),
            batch: step.batch.as_ref().map(|batch| Batch { size: batch.size, window_ms: batch.window_ms }),
        };
        Pipeline {
            name: message.name.clone(),
            uid: message.uid.clone(),
            version: message.version,
            steps: message.steps.iter().map(step).collect(),
            output: message.output.as_ref().map(|output| Output {
                steps: output.steps.clone(),
                join_window_ms: output.join_window_ms,
                steps_join: join(output.steps_join),
                tensor_map: output.tensor_map.clone(),
            }),
            kubernetes_meta: message.kubernetes_meta.as_ref().map(Into::into),
            input: message.input.as_ref().map(|input| Input {
                external_inputs: input.external_inputs.clone(),
                external_triggers: input.external_triggers.clone(),
                join_window_ms: input.join_window_ms,
                join_type: join(input.join_type),
                triggers_join: join(input.triggers_join),
                tensor_map: input.tensor_map.clone(),
            }),
            dataflow_spec: message
                .dataflow_spec
                .as_ref()
                .map(|dataflow| Dataflow { clean_topics_on_delete: dataflow.clean_topics_on_delete }),
            allow_cycles: message.allow_cycles,
            max_step_revisits: message.max_step_revisits,
            partition_factor: message.partition_factor,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use messages::scheduler as wire;
    use wire::pipeline_version_state::PipelineStatus as State;

    use super::PipelineStatus;
    use crate::output::as_json;

    #[test]
    fn a_status_has_the_names_of_the_api_and_leaves_defaults_out() {
        let step = wire::PipelineStep {
            name: "a".to_owned(),
            inputs: vec!["p.inputs".to_owned()],
            inputs_join: 1,
            tensor_map: BTreeMap::from([("p.inputs.x".to_owned(), "y".to_owned())]),
            batch: Some(wire::Batch { size: Some(3), window_ms: None }),
            ..Default::default()
        };
        let pipeline = wire::Pipeline {
            name: "p".to_owned(),
            version: 2,
            steps: vec![step],
            output: Some(wire::PipelineOutput {
                steps: vec!["a.outputs".to_owned()],
                steps_join: 2,
                ..Default::default()
            }),
            allow_cycles: true,
            ..Default::default()
        };
        let state = wire::PipelineVersionState {
            pipeline_version: 2,
            status: State::PipelineReady.into(),
            models_ready: true,
            pipeline_gw_status: State::PipelineCreating.into(),
            pipeline_gw_reason: "0/1 ready".to_owned(),
            ..Default::default()
        };
        let versions = vec![wire::PipelineWithState { pipeline: Some(pipeline), state: Some(state) }];
        let status = wire::PipelineStatusResponse { pipeline_name: "p".to_owned(), versions, ..Default::default() };
        assert_eq!(
            as_json(&PipelineStatus::from(&status)),
            concat!(
                r#"{"pipelineName":"p","versions":[{"pipeline":{"name":"p","version":2,"steps":[{"name":"a","#,
                r#""inputs":["p.inputs"],"tensorMap":{"p.inputs.x":"y"},"inputsJoin":"OUTER","batch":{"size":3}}],"#,
                r#""output":{"steps":["a.outputs"],"stepsJoin":"ANY"},"allowCycles":true},"#,
                r#""state":{"pipelineVersion":2,"status":"PipelineReady","modelsReady":true,"#,
                r#""pipelineGwStatus":"PipelineCreating","pipelineGwReason":"0/1 ready"}}]}"#
            )
        );
    }
}
