//! The resource Experiment and what it says to the scheduler. Whether its candidates exist is the scheduler's business.

use domain::{BadExperiment, BadName, Candidate, ExperimentName, ModelName, PipelineName, Subject};
use messages::scheduler as wire;
use serde::{Deserialize, Serialize};

use crate::manifest::Metadata;
use crate::shape::{COUNT, Shape, optional, required};
use crate::violation::{Fault, Path, Problem};

/// An Experiment resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Experiment {
    /// Its name and what Kubernetes keeps about it.
    pub metadata: Metadata,
    /// What is wanted.
    pub spec: ExperimentSpec,
}

/// What an Experiment wants.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExperimentSpec {
    /// The candidate whose own name is split too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// Who answers.
    pub candidates: Vec<ExperimentCandidate>,
    /// Who gets copies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror: Option<ExperimentMirror>,
    /// What the candidates are.
    #[serde(default, skip_serializing_if = "ResourceType::is_model")]
    pub resource_type: ResourceType,
}

/// A share of the traffic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExperimentCandidate {
    /// A model or a pipeline.
    pub name: String,
    /// Share among the weights of all candidates.
    pub weight: i32,
}

/// A copy of the traffic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExperimentMirror {
    /// A model or a pipeline.
    pub name: String,
    /// Share of the requests that are copied.
    pub percent: i32,
}

/// What an experiment is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ResourceType {
    /// Models.
    #[default]
    Model,
    /// Pipelines.
    Pipeline,
}

impl ResourceType {
    fn is_model(&self) -> bool {
        *self == ResourceType::Model
    }

    /// What a name stands for.
    fn subject(self, name: &str) -> Result<Subject, BadName> {
        match self {
            ResourceType::Model => ModelName::parse(name).map(Subject::Model),
            ResourceType::Pipeline => PipelineName::parse(name).map(Subject::Pipeline),
        }
    }

    fn to_wire(self) -> wire::ResourceType {
        match self {
            ResourceType::Model => wire::ResourceType::Model,
            ResourceType::Pipeline => wire::ResourceType::Pipeline,
        }
    }
}

/// The form of [`ExperimentSpec`].
pub(crate) const SHAPE: Shape = Shape::Object(&[
    optional("default", Shape::Text),
    required(
        "candidates",
        Shape::List(&Shape::Object(&[required("name", Shape::FilledText), required("weight", COUNT)])),
    ),
    optional("mirror", Shape::Object(&[required("name", Shape::FilledText), required("percent", PERCENT)])),
    optional("resourceType", Shape::OneOf(&["model", "pipeline"])),
]);
const PERCENT: Shape = Shape::Integer(0, 100);

impl Experiment {
    /// What the scheduler is told: [`wire::StartExperimentRequest::experiment`]. Or everything that is wrong.
    pub fn to_wire(&self) -> Result<wire::Experiment, Vec<Fault>> {
        let mut faults = Vec::new();
        let mut fault = |path: Path, problem| faults.push(Fault { path, problem });
        let spec = &self.spec;
        let name = ExperimentName::parse(&self.metadata.name);
        if let Err(bad) = &name {
            fault(Path::of(&["metadata", "name"]), Problem::Name(bad.clone()));
        }
        let default = self.default();
        let default_name = default.map(|name| spec.resource_type.subject(name)).transpose();
        if let Err(bad) = &default_name {
            fault(Path::of(&["spec", "default"]), Problem::Name(bad.clone()));
        }
        let mut candidates = Vec::new();
        for (index, candidate) in spec.candidates.iter().enumerate() {
            let path = Path::of(&["spec", "candidates"]).index(index);
            match (spec.resource_type.subject(&candidate.name), u32::try_from(candidate.weight)) {
                (Ok(subject), Ok(weight)) => candidates.push(Candidate { subject, weight }),
                (Err(bad), _) => fault(path.key("name"), Problem::Name(bad)),
                (_, Err(_)) => fault(path.key("weight"), range(i32::MAX, candidate.weight)),
            }
        }
        let mut mirror = None;
        if let Some(ExperimentMirror { name, percent }) = &spec.mirror {
            let path = Path::of(&["spec", "mirror"]);
            match (spec.resource_type.subject(name), u32::try_from(*percent)) {
                (Ok(subject), Ok(percent)) => mirror = Some(domain::Mirror { subject, percent }),
                (Err(bad), _) => fault(path.key("name"), Problem::Name(bad)),
                (_, Err(_)) => fault(path.key("percent"), range(100, *percent)),
            }
        }
        let (Ok(name), Ok(default_name), []) = (name, default_name, faults.as_slice()) else { return Err(faults) };
        let checked = domain::Experiment {
            name,
            default: default_name,
            candidates,
            mirror,
            sticky_sessions: None,
            kubernetes: None,
        };
        checked.check().map_err(|bad| vec![Fault { path: place(&bad), problem: Problem::Experiment(bad) }])?;
        let mirror = checked
            .mirror
            .map(|mirror| wire::ExperimentMirror { name: mirror.subject.to_string(), percent: mirror.percent });
        let candidate = |candidate: Candidate| wire::ExperimentCandidate {
            name: candidate.subject.to_string(),
            weight: candidate.weight,
        };
        Ok(wire::Experiment {
            name: self.metadata.name.clone(),
            default: default.map(str::to_owned),
            candidates: checked.candidates.into_iter().map(candidate).collect(),
            mirror,
            config: None,
            kubernetes_meta: Some(self.metadata.to_wire()),
            resource_type: spec.resource_type.to_wire().into(),
        })
    }

    /// Empty text says nothing.
    fn default(&self) -> Option<&str> {
        self.spec.default.as_deref().filter(|default| !default.is_empty())
    }
}

fn range(max: i32, found: i32) -> Problem {
    Problem::Range { min: 0, max: max.into(), found: found.to_string() }
}

/// The field that a user would change.
fn place(bad: &BadExperiment) -> Path {
    match bad {
        BadExperiment::DefaultIsNoCandidate(_) => Path::of(&["spec", "default"]),
        BadExperiment::Empty
        | BadExperiment::TooMany(_)
        | BadExperiment::Twice(_)
        | BadExperiment::Mixed(_, _)
        | BadExperiment::NoWeight
        | BadExperiment::TooHeavy(_) => Path::of(&["spec", "candidates"]),
        BadExperiment::Percent(_) => Path::of(&["spec", "mirror", "percent"]),
    }
}
