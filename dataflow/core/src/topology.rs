//! A declared pipeline, compiled: operators with the sides that they read (`spec/data-plane.md` §6.2–6.4).

use std::collections::{BTreeMap, BTreeSet};

use domain::{
    Batch, Combination, End, JoinKind, ModelName, Origin, Pipeline, PipelineName, Reference, TensorMap, TopicOf,
};

use crate::parts::Format;
use crate::slot::{Branch, Root, Slot};

/// How long one source waits for another unless the pipeline says otherwise (`kafka.join.window.millis`).
pub const WINDOW_DEFAULT_MS: u64 = 60_000;

/// One version of a pipeline, ready to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// Whose it is.
    pub pipeline: PipelineName,
    /// Which version.
    pub version: u32,
    /// What there is to do. Their order is that of the declaration, the input first and the output last.
    pub operators: Vec<Operator>,
    /// Place of the operator that answers, if one does.
    pub output: Option<usize>,
    /// How often a request may come back.
    pub revisits_max: u32,
    /// Every side gets at most one record of a request: no cycles, no `any` joins.
    pub is_single: bool,
}

/// What an operator is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperatorKind {
    /// Takes data of other pipelines in.
    Input,
    /// Calls a model.
    Step(ModelName),
    /// Answers.
    Output,
}

/// One element of a topology: combines its sides and writes the result to its sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    /// What it is for.
    pub kind: OperatorKind,
    /// Where its records go.
    pub sink: TopicOf,
    /// Sources of data, then sources of triggers.
    pub sides: Vec<Side>,
    /// How many of the sides are data.
    pub data: usize,
    /// How data combine.
    pub join: JoinKind,
    /// How triggers combine.
    pub trigger_join: JoinKind,
    /// How long one side waits for another.
    pub window_ms: u64,
    /// Requests that the model is called with together.
    pub batch: Option<Batch>,
    /// A request may reach it more than once.
    pub is_cyclic: bool,
}

/// One source of an operator: a topic, the pipeline whose records count there, and the tensors that are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side {
    /// Where the records are.
    pub topic: TopicOf,
    /// Whose records.
    pub pipeline: PipelineName,
    /// Wanted tensors; `None`: all of them.
    pub tensors: Option<Vec<String>>,
    /// New names of tensors.
    pub renamed: Vec<(String, String)>,
    /// The operator whose step it comes from; `None`: from outside or from the pipeline's inputs.
    pub source: Option<usize>,
    /// It closes a cycle: what comes by it comes back.
    pub is_back: bool,
}

impl Operator {
    /// Its name in slots and in errors.
    #[must_use]
    pub fn name(&self) -> &str {
        match &self.kind {
            OperatorKind::Input => "input",
            OperatorKind::Step(model) => model.as_str(),
            OperatorKind::Output => "output",
        }
    }

    /// Its name for people.
    #[must_use]
    pub fn shown(&self) -> String {
        match &self.kind {
            OperatorKind::Input => "the pipeline's input".into(),
            OperatorKind::Step(model) => format!("step {model}"),
            OperatorKind::Output => "the pipeline's output".into(),
        }
    }

    /// A record of its one side is all that it needs.
    #[must_use]
    pub fn is_simple(&self) -> bool {
        self.sides.len() == 1
    }

    /// Its data join, or the triggers beside them, are paired by key, because they come from other pipelines.
    #[must_use]
    pub fn is_external(&self) -> bool {
        self.kind == OperatorKind::Input
    }

    /// The message that its sink takes.
    #[must_use]
    pub fn format(&self) -> Format {
        format_of(&self.sink)
    }
}

impl Side {
    /// The message that its topic carries.
    #[must_use]
    pub fn format(&self) -> Format {
        format_of(&self.topic)
    }

    /// Its name for people, as seen from the pipeline `own`.
    #[must_use]
    pub fn shown(&self, own: &PipelineName) -> String {
        let whose = if self.pipeline == *own { String::new() } else { format!("{}.", self.pipeline) };
        let of = match &self.topic {
            TopicOf::Model(model, end) if whose.is_empty() => format!("{model}.{}", end.as_str()),
            TopicOf::Model(model, end) => format!("step.{model}.{}", end.as_str()),
            TopicOf::Pipeline(pipeline, end) if whose.is_empty() => format!("{pipeline}.{}", end.as_str()),
            TopicOf::Pipeline(_, end) => end.as_str().to_owned(),
            TopicOf::Errors | TopicOf::Left => self.topic.to_string(),
        };
        match self.tensors.as_deref() {
            None => format!("{whose}{of}"),
            Some([tensor]) => format!("{whose}{of}.{tensor}"),
            Some(tensors) => format!("{whose}{of}.{{{}}}", tensors.join(",")),
        }
    }
}

fn format_of(topic: &TopicOf) -> Format {
    match topic {
        TopicOf::Model(_, End::Inputs) | TopicOf::Pipeline(_, End::Inputs) => Format::Request,
        TopicOf::Model(_, End::Outputs) | TopicOf::Pipeline(_, End::Outputs) | TopicOf::Errors | TopicOf::Left => {
            Format::Response
        }
    }
}

impl Topology {
    /// Identity of what an operator emits.
    ///
    /// The answer of a request that can have only one is its end, as an error is: of an answer and an error, which may
    /// come of one request when an owner was lost, every reader takes the one that is first in the log.
    #[must_use]
    pub fn slot(&self, operator: &Operator, root: Root, branch: &Branch) -> Slot {
        if operator.kind == OperatorKind::Output && *branch == Branch::default() {
            Slot::of_end(&self.pipeline, root)
        } else {
            Slot::of_emission(&self.pipeline, operator.name(), root, branch)
        }
    }

    /// Compiles a pipeline in which nothing is wrong by itself ([`Pipeline::check`]).
    #[must_use]
    pub fn compile(pipeline: &Pipeline, version: u32) -> Self {
        let mut operators = Vec::new();
        if let Some(input) = &pipeline.input {
            let sink = TopicOf::Pipeline(pipeline.name.clone(), End::Inputs);
            operators.push(operator(
                OperatorKind::Input,
                sink,
                &pipeline.name,
                &input.inputs,
                &input.triggers,
                &input.tensor_map,
            ));
        }
        for step in &pipeline.steps {
            let own = Reference { origin: Origin::Own, end: End::Inputs, tensor: None };
            let mut inputs = step.inputs.clone();
            if inputs.sources.is_empty() {
                inputs.sources.push(own);
            }
            let sink = TopicOf::Model(step.model.clone(), End::Inputs);
            let kind = OperatorKind::Step(step.model.clone());
            let mut made = operator(kind, sink, &pipeline.name, &inputs, &step.triggers, &step.tensor_map);
            made.batch = step.batch.filter(|batch| batch.size > 0);
            operators.push(made);
        }
        if let Some(output) = &pipeline.output {
            let sink = TopicOf::Pipeline(pipeline.name.clone(), End::Outputs);
            let none = Combination::default();
            operators.push(operator(
                OperatorKind::Output,
                sink,
                &pipeline.name,
                &output.steps,
                &none,
                &output.tensor_map,
            ));
        }
        let mut topology = Self {
            pipeline: pipeline.name.clone(),
            version,
            output: pipeline.output.as_ref().map(|_| operators.len() - 1),
            operators,
            revisits_max: pipeline.max_step_revisits,
            is_single: true,
        };
        topology.connect();
        topology
    }

    /// Finds who feeds whom, which edges close cycles, and who is reached by them.
    fn connect(&mut self) {
        let by_model: BTreeMap<ModelName, usize> = self
            .operators
            .iter()
            .enumerate()
            .filter_map(|(at, operator)| match &operator.kind {
                OperatorKind::Step(model) => Some((model.clone(), at)),
                OperatorKind::Input | OperatorKind::Output => None,
            })
            .collect();
        let own = self.pipeline.clone();
        for side in self.operators.iter_mut().flat_map(|operator| &mut operator.sides) {
            if let TopicOf::Model(model, _) = &side.topic
                && side.pipeline == own
            {
                side.source = by_model.get(model).copied();
            }
        }
        for (operator, side) in self.back_edges() {
            self.operators[operator].sides[side].is_back = true;
        }
        // Whoever an edge back leads to, and whoever gets data from there.
        let mut reached: BTreeSet<usize> = BTreeSet::new();
        loop {
            let before = reached.len();
            for (at, operator) in self.operators.iter().enumerate() {
                let is_reached =
                    |side: &Side| side.is_back || side.source.is_some_and(|source| reached.contains(&source));
                if operator.sides.iter().any(is_reached) {
                    reached.insert(at);
                }
            }
            if reached.len() == before {
                break;
            }
        }
        for at in &reached {
            self.operators[*at].is_cyclic = true;
        }
        let any = |operator: &Operator| operator.data > 1 && operator.join == JoinKind::Any;
        self.is_single = reached.is_empty() && !self.operators.iter().any(any);
    }

    /// Edges (operator, side) that lead back to an operator on the way to them. Ways start at operators that data enter.
    fn back_edges(&self) -> Vec<(usize, usize)> {
        let enters = |operator: &Operator| operator.sides[..operator.data].iter().any(|side| side.source.is_none());
        let entries = (0..self.operators.len()).filter(|at| enters(&self.operators[*at]));
        let mut search = Search { topology: self, state: vec![Visit::New; self.operators.len()], back: Vec::new() };
        entries.chain(0..self.operators.len()).for_each(|at| search.visit(at));
        search.back
    }

    /// Topics that it reads, with those of errors.
    pub fn topics(&self) -> impl Iterator<Item = &TopicOf> {
        self.operators.iter().flat_map(|operator| operator.sides.iter().map(|side| &side.topic))
    }

    /// Topics that it writes.
    pub fn sinks(&self) -> impl Iterator<Item = &TopicOf> {
        self.operators.iter().map(|operator| &operator.sink)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Visit {
    New,
    OnTheWay,
    Done,
}

/// Depth first along the data.
struct Search<'a> {
    topology: &'a Topology,
    state: Vec<Visit>,
    back: Vec<(usize, usize)>,
}

impl Search<'_> {
    fn visit(&mut self, start: usize) {
        if self.state[start] != Visit::New {
            return;
        }
        // A stack of our own: chains may be long.
        let mut stack = vec![(start, self.edges(start))];
        self.state[start] = Visit::OnTheWay;
        while let Some((at, edges)) = stack.last_mut() {
            let at = *at;
            let Some((to, side)) = edges.pop() else {
                self.state[at] = Visit::Done;
                stack.pop();
                continue;
            };
            match self.state[to] {
                Visit::OnTheWay => self.back.push((to, side)),
                Visit::Done => {}
                Visit::New => {
                    self.state[to] = Visit::OnTheWay;
                    stack.push((to, self.edges(to)));
                }
            }
        }
    }

    /// Who gets data of this operator, and by which side; the last declared first.
    fn edges(&self, from: usize) -> Vec<(usize, usize)> {
        let sides = self
            .topology
            .operators
            .iter()
            .enumerate()
            .flat_map(|(to, operator)| operator.sides.iter().enumerate().map(move |(at, side)| (to, at, side)));
        let mut edges: Vec<(usize, usize)> =
            sides.filter(|(_, _, side)| side.source == Some(from)).map(|(to, at, _)| (to, at)).collect();
        edges.reverse();
        edges
    }
}

fn operator(
    kind: OperatorKind,
    sink: TopicOf,
    own: &PipelineName,
    inputs: &Combination,
    triggers: &Combination,
    renamed: &TensorMap,
) -> Operator {
    let mut all = sides(own, &inputs.sources, renamed);
    let data = all.len();
    all.extend(sides(own, &triggers.sources, &TensorMap::new()));
    Operator {
        kind,
        sink,
        sides: all,
        data,
        join: inputs.join,
        trigger_join: triggers.join,
        window_ms: inputs.window_ms.filter(|window| *window > 0).map_or(WINDOW_DEFAULT_MS, u64::from),
        batch: None,
        is_cyclic: false,
    }
}

/// Sources by topic and pipeline, in the order in which they are first named. One that is named whole and by tensors is
/// only its tensors, as in the compatible system.
fn sides(own: &PipelineName, sources: &[Reference], renamed: &TensorMap) -> Vec<Side> {
    let mut sides: Vec<Side> = Vec::new();
    for reference in sources {
        let (topic, pipeline) = (TopicOf::of(reference, own), pipeline_of(reference, own));
        let at = sides.iter().position(|side| side.topic == topic && side.pipeline == pipeline);
        let at = at.unwrap_or_else(|| {
            let renamed = renamed
                .iter()
                .filter(|(from, _)| TopicOf::of(from, own) == topic && pipeline_of(from, own) == pipeline);
            let renamed = renamed.filter_map(|(from, new)| Some((from.tensor.clone()?, new.clone()))).collect();
            let (topic, pipeline) = (topic.clone(), pipeline.clone());
            sides.push(Side { topic, pipeline, tensors: None, renamed, source: None, is_back: false });
            sides.len() - 1
        });
        if let Some(tensor) = &reference.tensor {
            let tensors = sides[at].tensors.get_or_insert_default();
            if !tensors.contains(tensor) {
                tensors.push(tensor.clone());
            }
        }
    }
    sides
}

/// Whose records a reference means.
fn pipeline_of(reference: &Reference, own: &PipelineName) -> PipelineName {
    match &reference.origin {
        Origin::Own | Origin::Step(_) => own.clone(),
        Origin::Pipeline(pipeline) | Origin::StepOf(pipeline, _) => pipeline.clone(),
    }
}
