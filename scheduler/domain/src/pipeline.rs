//! What a user says about a pipeline: models chained over topics.

use std::collections::{BTreeMap, BTreeSet};

use crate::{KubernetesMeta, ModelName, Origin, PipelineName, Reference};

/// Most steps of one pipeline.
pub const STEPS_MAX: usize = 1_000;

/// Most references in one list of a pipeline.
pub const REFERENCES_MAX: usize = 100;

/// Longest time a request may be given, in milliseconds: what is known about it is kept for so long.
pub const REQUEST_LONGEST_MS: u64 = 600_000;

/// Longest window of a join, in milliseconds, for the same reason.
pub const WINDOW_LONGEST_MS: u64 = 600_000;

/// A pipeline as declared. [`Pipeline::check`] says what is wrong with one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pipeline {
    /// Identity; requests reach it as `<name>.pipeline`.
    pub name: PipelineName,
    /// Its models, each once.
    pub steps: Vec<Step>,
    /// Other pipelines whose data feed it.
    pub input: Option<PipelineInput>,
    /// What it answers; without one it answers nothing.
    pub output: Option<PipelineOutput>,
    /// A step may get what came of its own answer.
    pub allow_cycles: bool,
    /// How often one request may come back to a step.
    pub max_step_revisits: u32,
    /// Delete its topics with it; absent when the caller sent no dataflow part.
    pub clean_topics_on_delete: Option<bool>,
    /// How many partition numbers its requests enter by; absent is the setting of the installation.
    pub partition_factor: Option<u32>,
    /// Present when the declaration came from Kubernetes.
    pub kubernetes: Option<KubernetesMeta>,
}

/// One model of a pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The model, which is the step's name as well.
    pub model: ModelName,
    /// Where its data come from; none is the pipeline's inputs.
    pub inputs: Combination,
    /// What must be there, beside the data, for it to run.
    pub triggers: Combination,
    /// New names for tensors on their way in.
    pub tensor_map: TensorMap,
    /// Requests of several callers become one call of the model.
    pub batch: Option<Batch>,
}

/// Data of several sources, taken together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Combination {
    /// The sources, in the order of their tensors.
    pub sources: Vec<Reference>,
    /// How they combine.
    pub join: JoinKind,
    /// For how long one waits for another, in milliseconds; absent is the setting of the installation.
    pub window_ms: Option<u32>,
}

/// How sources combine (`spec/data-plane.md` §6.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum JoinKind {
    /// All of them.
    #[default]
    Inner,
    /// Those that came within the window.
    Outer,
    /// Each as it comes.
    Any,
}

/// New names of tensors, by the reference to them.
pub type TensorMap = BTreeMap<Reference, String>;

/// Requests of several callers in one call of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Rows that are enough for a call.
    pub size: u32,
    /// How long the first row waits for others, in milliseconds.
    pub window_ms: Option<u32>,
}

/// Other pipelines that feed one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PipelineInput {
    /// Where the data come from.
    pub inputs: Combination,
    /// What must be there beside the data.
    pub triggers: Combination,
    /// New names for tensors on their way in.
    pub tensor_map: TensorMap,
}

/// What a pipeline answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PipelineOutput {
    /// Whose data the answer is made of.
    pub steps: Combination,
    /// New names for tensors on their way out.
    pub tensor_map: TensorMap,
}

/// Something that is wrong with a pipeline. Rules: `spec/control-plane.md` §2.16.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPipeline {
    /// Nothing to do.
    #[error("steps: at least one is needed")]
    NoSteps,
    /// More than one pipeline should carry.
    #[error("steps: {0} are more than the {STEPS_MAX} that are possible")]
    TooManySteps(usize),
    /// A list is longer than makes sense.
    #[error("{0}: {1} references are more than the {REFERENCES_MAX} that are possible")]
    TooManyReferences(String, usize),
    /// Two steps of one name.
    #[error("steps: {0} is there more than once; one pipeline can call a model in one step")]
    StepTwice(ModelName),
    /// References could not tell them apart.
    #[error("steps: {0} has the name of the pipeline")]
    StepNamedAsPipeline(ModelName),
    /// Nobody of that name.
    #[error("{field}: {reference} names no step; the steps are {steps}")]
    UnknownStep {
        /// Which list.
        field: String,
        /// Which reference.
        reference: String,
        /// Who could have been meant.
        steps: String,
    },
    /// The answer would be the question.
    #[error("output.steps: {0} names the pipeline itself; only steps can answer")]
    OutputOfItself(String),
    /// Data and gate at once.
    #[error("steps.{0}: {1} is both among its inputs and among its triggers")]
    InputAndTrigger(ModelName, String),
    /// A ring of steps.
    #[error("steps: {0} is a cycle; set allowCycles to permit it")]
    Cycle(String),
    /// Other pipelines are to feed it and none is named.
    #[error("input.externalInputs: at least one is needed")]
    NoExternalInputs,
    /// It would feed itself.
    #[error("{0}: {1} names the pipeline itself")]
    ExternalIsItself(String, String),
    /// A new name for what does not come.
    #[error("input.tensorMap: {0} is none of the externalInputs")]
    MapOfNoInput(String),
    /// A new name for all tensors at once.
    #[error("{0}: {1} names no tensor, so it cannot be given another name")]
    MapWithoutTensor(String, String),
    /// A name that is none.
    #[error("{0}: the new name of {1} is blank")]
    MapToBlank(String, String),
    /// Nobody would ever be called.
    #[error("steps.{0}.batch.size: {1} is more than the {2} that are possible")]
    BatchTooLarge(ModelName, u32, u32),
    /// What would have to be kept is kept for too long.
    #[error("{0}.joinWindowMs: {1} is more than the {WINDOW_LONGEST_MS} that are possible")]
    WindowTooLong(String, u32),
    /// No partition would be left.
    #[error("partitionFactor: 0 leaves no partition to enter by")]
    NoPartitions,
}

/// Most rows of one batch.
pub const BATCH_MAX: u32 = 100_000;

impl Step {
    /// A step with these inputs, and nothing else said.
    #[must_use]
    pub fn new(model: ModelName, inputs: Combination) -> Self {
        Self { model, inputs, triggers: Combination::default(), tensor_map: TensorMap::new(), batch: None }
    }
}

impl Pipeline {
    /// A pipeline of these steps, and nothing else said.
    #[must_use]
    pub fn new(name: PipelineName, steps: Vec<Step>) -> Self {
        Self {
            name,
            steps,
            input: None,
            output: None,
            allow_cycles: false,
            max_step_revisits: 0,
            clean_topics_on_delete: None,
            partition_factor: None,
            kubernetes: None,
        }
    }

    /// Everything that is wrong with it by itself; empty when nothing is. What it refers to outside need not exist.
    #[must_use]
    pub fn check(&self) -> Vec<BadPipeline> {
        let mut bad = Vec::new();
        if self.steps.is_empty() {
            bad.push(BadPipeline::NoSteps);
        }
        if self.steps.len() > STEPS_MAX {
            return vec![BadPipeline::TooManySteps(self.steps.len())];
        }
        let mut names = BTreeSet::new();
        for step in &self.steps {
            if step.model.as_str() == self.name.as_str() {
                bad.push(BadPipeline::StepNamedAsPipeline(step.model.clone()));
            }
            if !names.insert(&step.model) {
                bad.push(BadPipeline::StepTwice(step.model.clone()));
            }
        }
        for step in &self.steps {
            self.check_step(step, &names, &mut bad);
        }
        if let Some(output) = &self.output {
            self.check_output(output, &names, &mut bad);
        }
        if let Some(input) = &self.input {
            self.check_input(input, &names, &mut bad);
        }
        if self.partition_factor == Some(0) {
            bad.push(BadPipeline::NoPartitions);
        }
        if bad.is_empty() && !self.allow_cycles {
            bad.extend(self.cycle().map(BadPipeline::Cycle));
        }
        bad
    }

    fn check_step(&self, step: &Step, names: &BTreeSet<&ModelName>, bad: &mut Vec<BadPipeline>) {
        let field = |list: &str| format!("steps.{}.{list}", step.model);
        for (list, combination) in [("inputs", &step.inputs), ("triggers", &step.triggers)] {
            self.check_sources(&field(list), combination, names, bad);
        }
        let inputs: BTreeSet<&Reference> = step.inputs.sources.iter().collect();
        for both in step.triggers.sources.iter().filter(|reference| inputs.contains(reference)) {
            bad.push(BadPipeline::InputAndTrigger(step.model.clone(), both.full(&self.name)));
        }
        self.check_map(&field("tensorMap"), &step.tensor_map, names, bad);
        if let Some(batch) = step.batch
            && batch.size > BATCH_MAX
        {
            bad.push(BadPipeline::BatchTooLarge(step.model.clone(), batch.size, BATCH_MAX));
        }
    }

    fn check_output(&self, output: &PipelineOutput, names: &BTreeSet<&ModelName>, bad: &mut Vec<BadPipeline>) {
        for reference in output.steps.sources.iter().filter(|reference| reference.origin == Origin::Own) {
            bad.push(BadPipeline::OutputOfItself(reference.full(&self.name)));
        }
        self.check_sources("output.steps", &output.steps, names, bad);
        self.check_map("output.tensorMap", &output.tensor_map, names, bad);
    }

    fn check_input(&self, input: &PipelineInput, names: &BTreeSet<&ModelName>, bad: &mut Vec<BadPipeline>) {
        if input.inputs.sources.is_empty() {
            bad.push(BadPipeline::NoExternalInputs);
        }
        for (field, list) in [("input.externalInputs", &input.inputs), ("input.externalTriggers", &input.triggers)] {
            check_size(field, list, bad);
            for reference in &list.sources {
                let (Origin::Pipeline(pipeline) | Origin::StepOf(pipeline, _)) = &reference.origin else { continue };
                if *pipeline == self.name {
                    let reference = reference.full(&self.name);
                    bad.push(BadPipeline::ExternalIsItself(field.into(), reference));
                }
            }
        }
        let is_source = |reference: &Reference| {
            input.inputs.sources.iter().any(|source| source.origin == reference.origin && source.end == reference.end)
        };
        for reference in input.tensor_map.keys().filter(|reference| !is_source(reference)) {
            bad.push(BadPipeline::MapOfNoInput(reference.full(&self.name)));
        }
        self.check_map("input.tensorMap", &input.tensor_map, names, bad);
    }

    fn check_sources(&self, field: &str, list: &Combination, names: &BTreeSet<&ModelName>, bad: &mut Vec<BadPipeline>) {
        check_size(field, list, bad);
        list.sources.iter().for_each(|reference| self.check_reference(field, reference, names, bad));
    }

    fn check_reference(
        &self,
        field: &str,
        reference: &Reference,
        names: &BTreeSet<&ModelName>,
        bad: &mut Vec<BadPipeline>,
    ) {
        let Origin::Step(step) = &reference.origin else { return };
        if !names.contains(step) {
            let shown: Vec<&str> = names.iter().take(20).map(|name| name.as_str()).collect();
            let (field, steps) = (field.to_owned(), shown.join(", "));
            let reference = reference.full(&self.name);
            bad.push(BadPipeline::UnknownStep { field, reference, steps });
        }
    }

    fn check_map(&self, field: &str, map: &TensorMap, names: &BTreeSet<&ModelName>, bad: &mut Vec<BadPipeline>) {
        for (reference, name) in map {
            self.check_reference(field, reference, names, bad);
            let shown = reference.full(&self.name);
            if reference.tensor.is_none() {
                bad.push(BadPipeline::MapWithoutTensor(field.into(), shown));
            } else if name.trim().is_empty() {
                bad.push(BadPipeline::MapToBlank(field.into(), shown));
            }
        }
    }

    /// The steps of a cycle over inputs and triggers, with the first one again at the end.
    fn cycle(&self) -> Option<String> {
        let before = |step: &Step| -> Vec<ModelName> {
            let sources = step.inputs.sources.iter().chain(&step.triggers.sources);
            let step = |reference: &Reference| match &reference.origin {
                Origin::Step(step) => Some(step.clone()),
                Origin::Own | Origin::Pipeline(_) | Origin::StepOf(..) => None,
            };
            sources.filter_map(step).collect()
        };
        let mut left: BTreeMap<&ModelName, Vec<ModelName>> =
            self.steps.iter().map(|step| (&step.model, before(step))).collect();
        // Steps that wait for nobody leave, until none is left or those that are left wait for each other.
        loop {
            let free = |sources: &Vec<ModelName>| !sources.iter().any(|source| left.contains_key(source));
            let gone: Vec<&ModelName> =
                left.iter().filter(|(_, sources)| free(sources)).map(|(name, _)| *name).collect();
            if gone.is_empty() {
                break;
            }
            for name in gone {
                left.remove(name);
            }
        }
        let mut path: Vec<&ModelName> = vec![left.keys().next()?];
        loop {
            let last = path.last()?;
            let next = left.get(last)?.iter().find_map(|source| left.get_key_value(source))?.0;
            if let Some(start) = path.iter().position(|name| *name == *next) {
                let mut ring: Vec<&str> = path[start..].iter().rev().map(|name| name.as_str()).collect();
                ring.push(ring[0]);
                return Some(ring.join(" → "));
            }
            path.push(next);
        }
    }
}

fn check_size(field: &str, list: &Combination, bad: &mut Vec<BadPipeline>) {
    if list.sources.len() > REFERENCES_MAX {
        bad.push(BadPipeline::TooManyReferences(field.into(), list.sources.len()));
    }
    match list.window_ms {
        Some(window) if u64::from(window) > WINDOW_LONGEST_MS => {
            bad.push(BadPipeline::WindowTooLong(field.into(), window));
        }
        Some(_) | None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::{BadPipeline, Batch, Combination, Pipeline, PipelineInput, PipelineOutput, STEPS_MAX, Step, TensorMap};
    use crate::{ModelName, PipelineName, Reference};

    fn own() -> PipelineName {
        PipelineName::parse("p").expect("a name")
    }

    fn inside(texts: &[&str]) -> Combination {
        let sources = texts.iter().map(|text| Reference::inside(text, &own()).expect("a reference")).collect();
        Combination { sources, ..Combination::default() }
    }

    fn outside(texts: &[&str]) -> Combination {
        let sources = texts.iter().map(|text| Reference::outside(text).expect("a reference")).collect();
        Combination { sources, ..Combination::default() }
    }

    fn step(name: &str, inputs: &[&str], triggers: &[&str]) -> Step {
        let step = Step::new(ModelName::parse(name).expect("a name"), inside(inputs));
        Step { triggers: inside(triggers), ..step }
    }

    fn pipeline(steps: Vec<Step>) -> Pipeline {
        Pipeline::new(own(), steps)
    }

    fn output(texts: &[&str]) -> Option<PipelineOutput> {
        Some(PipelineOutput { steps: inside(texts), tensor_map: TensorMap::new() })
    }

    fn input(inputs: &[&str], triggers: &[&str]) -> Option<PipelineInput> {
        Some(PipelineInput { inputs: outside(inputs), triggers: outside(triggers), tensor_map: TensorMap::new() })
    }

    #[test]
    fn pipelines_of_every_shape_are_fine() {
        let chain =
            vec![step("a", &[], &[]), step("b", &["a"], &[]), step("c", &["a", "b.outputs.T"], &["p.inputs.x"])];
        let fine = [
            pipeline(vec![step("a", &[], &[])]),
            Pipeline { output: output(&["c.outputs.x"]), ..pipeline(chain) },
            pipeline(vec![step("a", &["b.outputs.x"], &[]), step("b", &[], &["b.inputs"])]).cyclic(),
            Pipeline { input: input(&["q", "q.step.s"], &["r.inputs"]), ..pipeline(vec![step("a", &[], &[])]) },
            pipeline(vec![step("a", &["b.outputs.x"], &["b.outputs.y"]), step("b", &[], &[])]),
        ];
        for pipeline in fine {
            assert_eq!(pipeline.check(), []);
        }
    }

    impl Pipeline {
        fn cyclic(self) -> Self {
            Self { allow_cycles: true, ..self }
        }
    }

    /// What is wrong, as users read it.
    fn says(pipeline: &Pipeline) -> String {
        let texts: Vec<String> = pipeline.check().iter().map(BadPipeline::to_string).collect();
        texts.join("; ")
    }

    #[test]
    fn every_rule_names_its_offender() {
        let one = || vec![step("a", &[], &[])];
        let map = |text: &str, to: &str| {
            TensorMap::from([(Reference::inside(text, &own()).expect("a reference"), to.to_owned())])
        };
        let many = (0..=STEPS_MAX).map(|index| step(&format!("s{index}"), &[], &[])).collect();
        let cases = [
            (pipeline(vec![]), "steps: at least one is needed"),
            (pipeline(many), "steps: 1001 are more than the 1000"),
            (pipeline(vec![step("a", &[], &[]), step("a", &[], &[])]), "steps: a is there more than once"),
            (pipeline(vec![step("p", &[], &[])]), "steps: p has the name of the pipeline"),
            (pipeline(vec![step("a", &["b"], &[])]), "steps.a.inputs: b.outputs names no step; the steps are a"),
            (pipeline(vec![step("a", &[], &["b"])]), "steps.a.triggers: b.outputs names no step"),
            (Pipeline { output: output(&["b"]), ..pipeline(one()) }, "output.steps: b.outputs names no step"),
            (
                Pipeline { output: output(&["p"]), ..pipeline(one()) },
                "output.steps: p.inputs names the pipeline itself",
            ),
            (
                pipeline(vec![step("a", &[], &[]), step("b", &["a"], &["a.outputs"])]),
                "steps.b: a.outputs is both among its inputs and among its triggers",
            ),
            (pipeline(vec![step("a", &["a"], &[])]), "steps: a → a is a cycle"),
            (
                pipeline(vec![
                    step("a", &["c"], &[]),
                    step("b", &["a"], &[]),
                    step("c", &[], &["b"]),
                    step("d", &["a"], &[]),
                ]),
                "is a cycle; set allowCycles",
            ),
            (Pipeline { input: input(&[], &["q"]), ..pipeline(one()) }, "input.externalInputs: at least one"),
            (Pipeline { input: input(&["p"], &[]), ..pipeline(one()) }, "input.externalInputs: p.outputs names the"),
            (
                pipeline(vec![Step { tensor_map: map("a.outputs", "x"), ..step("a", &[], &[]) }]),
                "steps.a.tensorMap: a.outputs names no tensor",
            ),
            (
                Pipeline {
                    input: input(&["q"], &[]).map(|input| PipelineInput {
                        tensor_map: TensorMap::from([(Reference::outside("r.outputs.t").expect("one"), "x".into())]),
                        ..input
                    }),
                    ..pipeline(one())
                },
                "input.tensorMap: r.outputs.t is none of the externalInputs",
            ),
            (
                pipeline(vec![Step { tensor_map: map("b.outputs.t", "x"), ..step("a", &[], &[]) }]),
                "steps.a.tensorMap: b.outputs.t names no step; the steps are a",
            ),
            (
                pipeline(vec![Step { tensor_map: map("a.outputs.t", " "), ..step("a", &[], &[]) }]),
                "steps.a.tensorMap: the new name of a.outputs.t is blank",
            ),
            (
                pipeline(vec![Step { batch: Some(Batch { size: u32::MAX, window_ms: None }), ..step("a", &[], &[]) }]),
                "steps.a.batch.size: 4294967295 is more",
            ),
            (Pipeline { partition_factor: Some(0), ..pipeline(one()) }, "partitionFactor: 0 leaves no partition"),
            (pipeline(vec![step("a", &vec!["p"; 101], &[])]), "steps.a.inputs: 101 references are more than the 100"),
        ];
        for (bad, expected) in cases {
            let text = says(&bad);
            assert!(text.contains(expected), "{text:?} does not say {expected:?}");
        }
    }

    #[test]
    fn all_offenders_are_named_at_once() {
        let mut bad = pipeline(vec![step("a", &["x"], &["y"]), step("p", &[], &[])]);
        bad.output = output(&["z"]);
        assert_eq!(bad.check().len(), 4, "{}", says(&bad));
    }

    #[test]
    fn a_cycle_is_shown_in_the_direction_of_its_data() {
        let ring = pipeline(vec![step("a", &["c"], &[]), step("b", &["a"], &[]), step("c", &["b"], &[])]);
        assert!(says(&ring).contains("b → c → a → b") || says(&ring).contains("a → b → c → a"), "{}", says(&ring));
    }
}
