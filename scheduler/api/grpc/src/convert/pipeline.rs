//! Pipelines as declared: `seldon.mlops.scheduler.Pipeline` and `domain::Pipeline`.

use std::collections::BTreeMap;

use domain::{
    BadReference, Batch, Combination, JoinKind, ModelName, Pipeline, PipelineInput, PipelineName, PipelineOutput,
    PipelineState, PipelineVersionStatus, Reference, STEPS_MAX, Step, TensorMap,
};
use messages::scheduler as wire;
use prost::Message;

use super::{Invalid, model};

/// Largest pipeline as a message, in bytes: it is kept, and sent to every worker and subscriber.
const LARGEST_PIPELINE: usize = 256 * 1024;

/// The pipeline in a message, with everything that is wrong with it. What it refers to outside need not exist.
pub fn definition(pipeline: wire::Pipeline) -> Result<Pipeline, Invalid> {
    let bytes = pipeline.encoded_len();
    if bytes > LARGEST_PIPELINE {
        return Err(Invalid::one("pipeline", format!("has {bytes} bytes, at most {LARGEST_PIPELINE} are accepted")));
    }
    if pipeline.steps.len() > STEPS_MAX {
        return Err(Invalid::one("pipeline", domain::BadPipeline::TooManySteps(pipeline.steps.len())));
    }
    let own = PipelineName::parse(&pipeline.name).map_err(|error| Invalid::one("pipeline.name", error))?;
    let mut invalid = Invalid::default();
    let inside = |text: &str| Reference::inside(text, &own);
    let mut steps = Vec::with_capacity(pipeline.steps.len());
    for (index, step) in pipeline.steps.into_iter().enumerate() {
        let field = |list: &str| format!("pipeline.steps[{index}].{list}");
        let model = match ModelName::parse(&step.name) {
            Ok(model) => Some(model),
            Err(error) => {
                invalid.add(field("name"), error);
                None
            }
        };
        let (inputs_join, triggers_join) = (join(step.inputs_join), join(step.triggers_join));
        let window_ms = step.join_window_ms.filter(|window| *window > 0);
        let combination = |list, sources: &[String], join, invalid: &mut Invalid| Combination {
            sources: references(&field(list), sources, inside, invalid),
            join: join_or(&field(list), join, invalid),
            window_ms,
        };
        let inputs = combination("inputs", &step.inputs, inputs_join, &mut invalid);
        let triggers = combination("triggers", &step.triggers, triggers_join, &mut invalid);
        let tensor_map = tensor_map(&field("tensorMap"), step.tensor_map, inside, &mut invalid);
        let batch = step.batch.and_then(batch);
        steps.extend(model.map(|model| Step { model, inputs, triggers, tensor_map, batch }));
    }
    let input = pipeline.input.map(|input| PipelineInput {
        inputs: Combination {
            sources: references(
                "pipeline.input.externalInputs",
                &input.external_inputs,
                Reference::outside,
                &mut invalid,
            ),
            join: join_or("pipeline.input.joinType", join(input.join_type), &mut invalid),
            window_ms: input.join_window_ms.filter(|window| *window > 0),
        },
        triggers: Combination {
            sources: references(
                "pipeline.input.externalTriggers",
                &input.external_triggers,
                Reference::outside,
                &mut invalid,
            ),
            join: join_or("pipeline.input.triggersJoin", join(input.triggers_join), &mut invalid),
            window_ms: input.join_window_ms.filter(|window| *window > 0),
        },
        tensor_map: tensor_map("pipeline.input.tensorMap", input.tensor_map, Reference::outside, &mut invalid),
    });
    let output = pipeline.output.map(|output| PipelineOutput {
        steps: Combination {
            sources: references("pipeline.output.steps", &output.steps, inside, &mut invalid),
            join: join_or("pipeline.output.stepsJoin", join(output.steps_join), &mut invalid),
            window_ms: Some(output.join_window_ms).filter(|window| *window > 0),
        },
        tensor_map: tensor_map("pipeline.output.tensorMap", output.tensor_map, inside, &mut invalid),
    });
    let kubernetes = pipeline.kubernetes_meta;
    let kubernetes = kubernetes.map(|meta| model::small_kubernetes("pipeline.kubernetesMeta", meta)).transpose();
    let kubernetes = kubernetes.unwrap_or_else(|error| {
        invalid.extend(error);
        None
    });
    let definition = Pipeline {
        name: own,
        steps,
        input,
        output,
        allow_cycles: pipeline.allow_cycles,
        max_step_revisits: pipeline.max_step_revisits,
        clean_topics_on_delete: pipeline.dataflow_spec.map(|dataflow| dataflow.clean_topics_on_delete),
        partition_factor: pipeline.partition_factor,
        kubernetes,
    };
    let definition = invalid.or(definition)?;
    let mut wrong = Invalid::default();
    for bad in definition.check() {
        wrong.add("pipeline", bad);
    }
    wrong.or(definition)
}

/// The way out of [`definition`]: references in full.
#[must_use]
pub fn wire(pipeline: &Pipeline) -> wire::Pipeline {
    let own = &pipeline.name;
    let texts = |references: &[Reference]| references.iter().map(|reference| reference.full(own)).collect();
    let map = |map: &TensorMap| map.iter().map(|(reference, name)| (reference.full(own), name.clone())).collect();
    let step = |step: &Step| wire::PipelineStep {
        name: step.model.to_string(),
        inputs: texts(&step.inputs.sources),
        join_window_ms: step.inputs.window_ms,
        tensor_map: map(&step.tensor_map),
        inputs_join: join_wire(step.inputs.join),
        triggers: texts(&step.triggers.sources),
        triggers_join: join_wire(step.triggers.join),
        batch: step.batch.map(|batch| wire::Batch { size: Some(batch.size), window_ms: batch.window_ms }),
    };
    wire::Pipeline {
        name: own.to_string(),
        uid: String::new(),
        version: 0,
        steps: pipeline.steps.iter().map(step).collect(),
        output: pipeline.output.as_ref().map(|output| wire::PipelineOutput {
            steps: texts(&output.steps.sources),
            join_window_ms: output.steps.window_ms.unwrap_or(0),
            steps_join: join_wire(output.steps.join),
            tensor_map: map(&output.tensor_map),
        }),
        kubernetes_meta: pipeline.kubernetes.as_ref().map(model::kubernetes_wire),
        input: pipeline.input.as_ref().map(|input| wire::PipelineInput {
            external_inputs: texts(&input.inputs.sources),
            external_triggers: texts(&input.triggers.sources),
            join_window_ms: input.inputs.window_ms,
            join_type: join_wire(input.inputs.join),
            triggers_join: join_wire(input.triggers.join),
            tensor_map: map(&input.tensor_map),
        }),
        dataflow_spec: pipeline
            .clean_topics_on_delete
            .map(|clean_topics_on_delete| wire::DataflowSpec { clean_topics_on_delete }),
        allow_cycles: pipeline.allow_cycles,
        max_step_revisits: pipeline.max_step_revisits,
        partition_factor: pipeline.partition_factor,
    }
}

/// The definition of a version, with its number and identity.
#[must_use]
pub fn version(pipeline: &Pipeline, number: u32, uid: &str) -> wire::Pipeline {
    wire::Pipeline { version: number, uid: uid.to_owned(), ..wire(pipeline) }
}

/// Statuses of versions of one pipeline.
#[must_use]
pub fn statuses(name: &PipelineName, versions: &[PipelineVersionStatus]) -> wire::PipelineStatusResponse {
    let version = |status: &PipelineVersionStatus| {
        let mut pipeline = version(&status.definition, status.number, &status.uid);
        pipeline.steps.sort_by(|a, b| a.name.cmp(&b.name));
        let state = wire::PipelineVersionState {
            pipeline_version: status.number,
            status: state(status.state).into(),
            reason: status.reason.clone(),
            last_change_timestamp: Some(super::status::timestamp(status.changed_at)),
            models_ready: status.models_ready,
            pipeline_gw_status: state(status.gateway_state).into(),
            pipeline_gw_reason: status.gateway_reason.clone(),
        };
        wire::PipelineWithState { pipeline: Some(pipeline), state: Some(state) }
    };
    wire::PipelineStatusResponse {
        pipeline_name: name.to_string(),
        versions: versions.iter().map(version).collect(),
        ..wire::PipelineStatusResponse::default()
    }
}

fn state(state: PipelineState) -> wire::pipeline_version_state::PipelineStatus {
    use wire::pipeline_version_state::PipelineStatus as State;
    match state {
        PipelineState::Create => State::PipelineCreate,
        PipelineState::Creating => State::PipelineCreating,
        PipelineState::Ready => State::PipelineReady,
        PipelineState::Failed => State::PipelineFailed,
        PipelineState::Terminating => State::PipelineTerminating,
        PipelineState::Terminated => State::PipelineTerminated,
    }
}

/// The three enumerations of join types have the same numbers.
fn join(number: i32) -> Result<JoinKind, i32> {
    match wire::pipeline_step::JoinOp::try_from(number) {
        Ok(wire::pipeline_step::JoinOp::Inner) => Ok(JoinKind::Inner),
        Ok(wire::pipeline_step::JoinOp::Outer) => Ok(JoinKind::Outer),
        Ok(wire::pipeline_step::JoinOp::Any) => Ok(JoinKind::Any),
        Err(_) => Err(number),
    }
}

fn join_or(field: &str, join: Result<JoinKind, i32>, invalid: &mut Invalid) -> JoinKind {
    join.unwrap_or_else(|number| {
        invalid.add(field, format!("{number} is no join type: 0 is inner, 1 outer, 2 any"));
        JoinKind::default()
    })
}

fn join_wire(join: JoinKind) -> i32 {
    match join {
        JoinKind::Inner => wire::pipeline_step::JoinOp::Inner,
        JoinKind::Outer => wire::pipeline_step::JoinOp::Outer,
        JoinKind::Any => wire::pipeline_step::JoinOp::Any,
    }
    .into()
}

/// A batch of no size is none (`spec/data-plane.md` §6.6).
fn batch(batch: wire::Batch) -> Option<Batch> {
    let size = batch.size.filter(|size| *size > 0)?;
    Some(Batch { size, window_ms: batch.window_ms })
}

fn references(
    field: &str,
    texts: &[String],
    parse: impl Fn(&str) -> Result<Reference, BadReference>,
    invalid: &mut Invalid,
) -> Vec<Reference> {
    let mut references = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        match parse(text) {
            Ok(reference) => references.push(reference),
            Err(error) => invalid.add(format!("{field}[{index}]"), error),
        }
    }
    references
}

fn tensor_map(
    field: &str,
    map: BTreeMap<String, String>,
    parse: impl Fn(&str) -> Result<Reference, BadReference>,
    invalid: &mut Invalid,
) -> TensorMap {
    let mut parsed = TensorMap::new();
    for (key, name) in map {
        match parse(&key) {
            Ok(reference) => {
                parsed.insert(reference, name);
            }
            Err(error) => invalid.add(field, error),
        }
    }
    parsed
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use messages::scheduler as wire;

    fn step(name: &str, inputs: &[&str]) -> wire::PipelineStep {
        let inputs = inputs.iter().map(|text| (*text).to_owned()).collect();
        wire::PipelineStep { name: name.into(), inputs, ..wire::PipelineStep::default() }
    }

    fn pipeline() -> wire::Pipeline {
        wire::Pipeline {
            name: "p".into(),
            steps: vec![
                step("a", &[]),
                wire::PipelineStep {
                    join_window_ms: Some(5),
                    tensor_map: BTreeMap::from([("a.outputs.x".into(), "y".into())]),
                    inputs_join: 1,
                    triggers: vec!["p.inputs.go".into()],
                    triggers_join: 2,
                    batch: Some(wire::Batch { size: Some(3), window_ms: Some(20) }),
                    ..step("b", &["a.outputs.x", "a.inputs"])
                },
            ],
            output: Some(wire::PipelineOutput {
                steps: vec!["b.outputs".into()],
                join_window_ms: 7,
                steps_join: 2,
                tensor_map: BTreeMap::from([("b.outputs.z".into(), "answer".into())]),
            }),
            input: Some(wire::PipelineInput {
                external_inputs: vec!["q.outputs".into(), "q.step.s.outputs.t".into()],
                external_triggers: vec!["r.inputs".into()],
                join_window_ms: Some(9),
                join_type: 1,
                triggers_join: 2,
                tensor_map: BTreeMap::from([("q.step.s.outputs.t".into(), "u".into())]),
            }),
            kubernetes_meta: Some(wire::KubernetesMeta { namespace: "ml".into(), generation: 3 }),
            dataflow_spec: Some(wire::DataflowSpec { clean_topics_on_delete: true }),
            allow_cycles: true,
            max_step_revisits: 4,
            partition_factor: Some(2),
            ..wire::Pipeline::default()
        }
    }

    #[test]
    fn a_pipeline_comes_out_as_it_went_in() {
        let read = super::definition(pipeline()).expect("valid");
        assert_eq!(super::wire(&read), pipeline());
    }

    #[test]
    fn bare_references_come_out_in_full() {
        let bare = wire::Pipeline { steps: vec![step("a", &["p"]), step("b", &["a"])], ..wire::Pipeline::default() };
        let read = super::definition(wire::Pipeline { name: "p".into(), ..bare }).expect("valid");
        let inputs: Vec<String> = super::wire(&read).steps.into_iter().flat_map(|step| step.inputs).collect();
        assert_eq!(inputs, ["p.inputs", "a.outputs"]);
    }

    #[test]
    fn every_wrong_field_is_named() {
        let mut bad = pipeline();
        bad.steps[0].name = "A".into();
        bad.steps[1].inputs[1] = "a.foo".into();
        bad.steps[1].triggers[0] = ".x".into();
        bad.steps[1].inputs_join = 7;
        bad.steps[1].tensor_map = BTreeMap::from([("a..x".into(), "y".into())]);
        bad.output.as_mut().expect("an output").steps = vec![" ".into()];
        bad.input.as_mut().expect("an input").external_inputs[0] = "q.step.s.foo".into();
        let error = super::definition(bad).expect_err("invalid").to_string();
        let fields = [
            "steps[0].name",
            "steps[1].inputs[1]",
            "steps[1].triggers[0]",
            "steps[1].inputs",
            "steps[1].tensorMap",
            "output.steps[0]",
            "input.externalInputs[0]",
        ];
        for field in fields {
            assert!(error.contains(&format!("pipeline.{field}: ")), "{field} is not in {error}");
        }
    }

    #[test]
    fn rules_between_fields_name_their_offender() {
        let mut bad = pipeline();
        bad.output = None;
        bad.steps[1].inputs[0] = "c.outputs".into();
        let error = super::definition(bad).expect_err("invalid").to_string();
        assert_eq!(error, "pipeline: steps.b.inputs: c.outputs names no step; the steps are a, b");
    }
}
