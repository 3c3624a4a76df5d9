//! The resource Pipeline and what it says to the scheduler. Whether its models exist is the scheduler's business.

use std::collections::BTreeMap;

use domain::{
    BadPipeline, BadReference, Batch, Combination, JoinKind, ModelName, PipelineName, Reference, Step, TensorMap,
};
use messages::scheduler as wire;
use serde::{Deserialize, Serialize};

use crate::manifest::Metadata;
use crate::model::Dataflow;
use crate::shape::{COUNT, Shape, optional, required};
use crate::violation::{Fault, Path, Problem};

/// A Pipeline resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pipeline {
    /// Its name and what Kubernetes keeps about it.
    pub metadata: Metadata,
    /// What is wanted.
    pub spec: PipelineSpec,
}

/// What a Pipeline wants.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PipelineSpec {
    /// Its models.
    pub steps: Vec<PipelineStep>,
    /// Other pipelines that feed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<PipelineInput>,
    /// What it answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<PipelineOutput>,
    /// What becomes of its topics.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dataflow: Option<Dataflow>,
    /// A step may get what came of its own answer.
    #[serde(default)]
    pub allow_cycles: bool,
    /// How often one request may come back to a step.
    #[serde(default)]
    pub max_step_revisits: i32,
    /// How many partition numbers its requests enter by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition_factor: Option<i32>,
}

/// One model of a pipeline.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PipelineStep {
    /// The model.
    pub name: String,
    /// Where its data come from; none is the pipeline's inputs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<String>,
    /// How they combine.
    #[serde(default)]
    pub inputs_join_type: JoinType,
    /// For how long one waits for another, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub join_window_ms: Option<i32>,
    /// New names of tensors.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tensor_map: BTreeMap<String, String>,
    /// What must be there beside the data.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub triggers: Vec<String>,
    /// How they combine.
    #[serde(default)]
    pub triggers_join_type: JoinType,
    /// Requests of several callers in one call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<PipelineBatch>,
}

/// Requests of several callers in one call of a model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PipelineBatch {
    /// Rows that are enough for a call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<i32>,
    /// How long the first row waits, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window_ms: Option<i32>,
    /// No effect.
    #[serde(default)]
    pub rolling: bool,
}

/// Other pipelines that feed one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PipelineInput {
    /// Where the data come from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub external_inputs: Vec<String>,
    /// What must be there beside the data.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub external_triggers: Vec<String>,
    /// For how long one waits for another, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub join_window_ms: Option<i32>,
    /// How the data combine.
    #[serde(default)]
    pub join_type: JoinType,
    /// How the triggers combine.
    #[serde(default)]
    pub triggers_join_type: JoinType,
    /// New names of tensors.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tensor_map: BTreeMap<String, String>,
}

/// What a pipeline answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PipelineOutput {
    /// Whose data.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<String>,
    /// For how long one waits for another, in milliseconds.
    #[serde(default)]
    pub join_window_ms: i32,
    /// How they combine.
    #[serde(default)]
    pub steps_join: JoinType,
    /// New names of tensors.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tensor_map: BTreeMap<String, String>,
}

/// How sources combine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JoinType {
    /// All of them.
    #[default]
    Inner,
    /// Those that came in time.
    Outer,
    /// Each as it comes.
    Any,
}

const TEXTS: Shape = Shape::List(&Shape::Text);
const JOIN: Shape = Shape::OneOf(&["inner", "outer", "any"]);

/// The form of [`PipelineSpec`].
pub(crate) const SHAPE: Shape = Shape::Object(&[
    required("steps", Shape::List(&STEP)),
    optional(
        "input",
        Shape::Object(&[
            optional("externalInputs", TEXTS),
            optional("externalTriggers", TEXTS),
            optional("joinWindowMs", COUNT),
            optional("joinType", JOIN),
            optional("triggersJoinType", JOIN),
            optional("tensorMap", Shape::TextMap),
        ]),
    ),
    optional(
        "output",
        Shape::Object(&[
            optional("steps", TEXTS),
            optional("joinWindowMs", COUNT),
            optional("stepsJoin", JOIN),
            optional("tensorMap", Shape::TextMap),
        ]),
    ),
    optional("dataflow", Shape::Object(&[optional("cleanTopicsOnDelete", Shape::Flag)])),
    optional("allowCycles", Shape::Flag),
    optional("maxStepRevisits", COUNT),
    optional("partitionFactor", COUNT),
]);
const STEP: Shape = Shape::Object(&[
    required("name", Shape::FilledText),
    optional("inputs", TEXTS),
    optional("inputsJoinType", JOIN),
    optional("joinWindowMs", COUNT),
    optional("tensorMap", Shape::TextMap),
    optional("triggers", TEXTS),
    optional("triggersJoinType", JOIN),
    optional(
        "batch",
        Shape::Object(&[optional("size", COUNT), optional("windowMs", COUNT), optional("rolling", Shape::Flag)]),
    ),
]);

impl JoinType {
    /// The three enumerations of the API have the same numbers.
    fn to_wire(self) -> i32 {
        match self {
            JoinType::Inner => wire::pipeline_step::JoinOp::Inner,
            JoinType::Outer => wire::pipeline_step::JoinOp::Outer,
            JoinType::Any => wire::pipeline_step::JoinOp::Any,
        }
        .into()
    }
}

/// A number that the form has checked.
fn count(number: i32) -> u32 {
    u32::try_from(number).unwrap_or_default()
}

impl Pipeline {
    /// What the scheduler is told: [`wire::LoadPipelineRequest::pipeline`]. Or everything that is wrong.
    pub fn to_wire(&self) -> Result<wire::Pipeline, Vec<Fault>> {
        let checked = self.to_domain()?;
        let bad = checked.check();
        if !bad.is_empty() {
            return Err(bad.into_iter().map(|bad| Fault { path: self.place(&bad), problem: bad.into() }).collect());
        }
        let spec = &self.spec;
        let step = |step: &PipelineStep| wire::PipelineStep {
            name: step.name.clone(),
            inputs: step.inputs.clone(),
            join_window_ms: step.join_window_ms.map(count),
            tensor_map: step.tensor_map.clone(),
            inputs_join: step.inputs_join_type.to_wire(),
            triggers: step.triggers.clone(),
            triggers_join: step.triggers_join_type.to_wire(),
            batch: step
                .batch
                .as_ref()
                .map(|batch| wire::Batch { size: batch.size.map(count), window_ms: batch.window_ms.map(count) }),
        };
        Ok(wire::Pipeline {
            name: self.metadata.name.clone(),
            uid: String::new(),
            version: 0,
            steps: spec.steps.iter().map(step).collect(),
            output: spec.output.as_ref().map(|output| wire::PipelineOutput {
                steps: output.steps.clone(),
                join_window_ms: count(output.join_window_ms),
                steps_join: output.steps_join.to_wire(),
                tensor_map: output.tensor_map.clone(),
            }),
            kubernetes_meta: Some(self.metadata.to_wire()),
            input: spec.input.as_ref().map(|input| wire::PipelineInput {
                external_inputs: input.external_inputs.clone(),
                external_triggers: input.external_triggers.clone(),
                join_window_ms: input.join_window_ms.map(count),
                join_type: input.join_type.to_wire(),
                triggers_join: input.triggers_join_type.to_wire(),
                tensor_map: input.tensor_map.clone(),
            }),
            dataflow_spec: spec
                .dataflow
                .as_ref()
                .map(|dataflow| wire::DataflowSpec { clean_topics_on_delete: dataflow.clean_topics_on_delete }),
            allow_cycles: spec.allow_cycles,
            max_step_revisits: count(spec.max_step_revisits),
            partition_factor: spec.partition_factor.map(count),
        })
    }

    /// The pipeline in the words of `domain`, whose rules hold everywhere.
    fn to_domain(&self) -> Result<domain::Pipeline, Vec<Fault>> {
        let mut faults = Vec::new();
        let own = PipelineName::parse(&self.metadata.name);
        let own =
            own.map_err(|bad| vec![Fault { path: Path::of(&["metadata", "name"]), problem: Problem::Name(bad) }])?;
        let spec = &self.spec;
        let inside = |text: &str| Reference::inside(text, &own);
        let mut steps = Vec::new();
        for (index, step) in spec.steps.iter().enumerate() {
            let path = Path::of(&["spec", "steps"]).index(index);
            let window = step.join_window_ms;
            let inputs = combination(&path.key("inputs"), &step.inputs, window, inside, &mut faults);
            let triggers = combination(&path.key("triggers"), &step.triggers, window, inside, &mut faults);
            let tensor_map = tensor_map(&path.key("tensorMap"), &step.tensor_map, inside, &mut faults);
            let batch = step.batch.as_ref().and_then(|batch| batch.size).filter(|size| *size > 0);
            let batch = batch.map(|size| Batch { size: count(size), window_ms: None });
            match ModelName::parse(&step.name) {
                Ok(model) => steps.push(Step { model, inputs, triggers, tensor_map, batch }),
                Err(bad) => faults.push(Fault { path: path.key("name"), problem: Problem::Name(bad) }),
            }
        }
        let path = Path::of(&["spec", "input"]);
        let outside = Reference::outside;
        let input = spec.input.as_ref().map(|input| domain::PipelineInput {
            inputs: combination(
                &path.key("externalInputs"),
                &input.external_inputs,
                input.join_window_ms,
                outside,
                &mut faults,
            ),
            triggers: combination(
                &path.key("externalTriggers"),
                &input.external_triggers,
                input.join_window_ms,
                outside,
                &mut faults,
            ),
            tensor_map: tensor_map(&path.key("tensorMap"), &input.tensor_map, outside, &mut faults),
        });
        let path = Path::of(&["spec", "output"]);
        let output = spec.output.as_ref().map(|output| domain::PipelineOutput {
            steps: combination(&path.key("steps"), &output.steps, Some(output.join_window_ms), inside, &mut faults),
            tensor_map: tensor_map(&path.key("tensorMap"), &output.tensor_map, inside, &mut faults),
        });
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(domain::Pipeline {
            name: own.clone(),
            steps,
            input,
            output,
            allow_cycles: spec.allow_cycles,
            max_step_revisits: count(spec.max_step_revisits),
            clean_topics_on_delete: None,
            partition_factor: spec.partition_factor.map(count),
            kubernetes: None,
        })
    }

    /// The field that a user would change.
    fn place(&self, bad: &BadPipeline) -> Path {
        let steps = Path::of(&["spec", "steps"]);
        // The list as `domain` calls it: `steps.<model>.inputs`, `output.steps`.
        let list = |field: &str| match field.strip_prefix("steps.").and_then(|rest| rest.split_once('.')) {
            Some((model, list)) => match self.spec.steps.iter().position(|step| step.name == model) {
                Some(index) => steps.index(index).key(list),
                None => steps.clone(),
            },
            None => field.split('.').fold(Path::of(&["spec"]), |path, key| path.key(key)),
        };
        match bad {
            BadPipeline::NoSteps
            | BadPipeline::TooManySteps(_)
            | BadPipeline::StepTwice(_)
            | BadPipeline::StepNamedAsPipeline(_)
            | BadPipeline::Cycle(_) => steps,
            BadPipeline::TooManyReferences(field, _)
            | BadPipeline::UnknownStep { field, .. }
            | BadPipeline::ExternalIsItself(field, _)
            | BadPipeline::MapWithoutTensor(field, _)
            | BadPipeline::MapToBlank(field, _)
            | BadPipeline::WindowTooLong(field, _) => list(field),
            BadPipeline::OutputOfItself(_) => Path::of(&["spec", "output", "steps"]),
            BadPipeline::InputAndTrigger(model, _) => list(&format!("steps.{model}.triggers")),
            BadPipeline::BatchTooLarge(model, _, _) => list(&format!("steps.{model}.batch")),
            BadPipeline::MapOfNoInput(_) => Path::of(&["spec", "input", "tensorMap"]),
            BadPipeline::NoExternalInputs => Path::of(&["spec", "input", "externalInputs"]),
            BadPipeline::NoPartitions => Path::of(&["spec", "partitionFactor"]),
        }
    }
}

fn combination(
    path: &Path,
    texts: &[String],
    window_ms: Option<i32>,
    parse: impl Fn(&str) -> Result<Reference, BadReference>,
    faults: &mut Vec<Fault>,
) -> Combination {
    let mut sources = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        match parse(text) {
            Ok(reference) => sources.push(reference),
            Err(bad) => faults.push(Fault { path: path.index(index), problem: bad.into() }),
        }
    }
    Combination { sources, join: JoinKind::default(), window_ms: window_ms.map(count) }
}

fn tensor_map(
    path: &Path,
    map: &BTreeMap<String, String>,
    parse: impl Fn(&str) -> Result<Reference, BadReference>,
    faults: &mut Vec<Fault>,
) -> TensorMap {
    let mut parsed = TensorMap::new();
    for (key, name) in map {
        match parse(key) {
            Ok(reference) => {
                parsed.insert(reference, name.clone());
            }
            Err(bad) => faults.push(Fault { path: path.key(key), problem: bad.into() }),
        }
    }
    parsed
}
