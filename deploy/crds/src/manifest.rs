//! Documents of any kind: which kind they are, the part that all kinds share, and the reader that collects everything
//! that is wrong with a text.
//!
//! Invariant: `to_wire` of what [`parse`] returned succeeds.

use messages::scheduler as wire;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::document::{Document, MAX_TEXT, split};
use crate::experiment::{self, Experiment};
use crate::model::{self, Model};
use crate::pipeline::{self, Pipeline};
use crate::server::{self, Server};
use crate::shape::{Field, Shape, kind, optional, required};
use crate::violation::{Fault, Path, Problem, Violation, like};

/// The one API version.
pub const API_VERSION: &str = "mlops.seldon.io/v1alpha1";
/// Violations shown of one text; whoever has more has one mistake many times.
const MAX_VIOLATIONS: usize = 50;
/// Most documents in one text.
const MAX_DOCUMENTS: usize = 50_000;
/// Kinds that are read.
const KINDS: [&str; 4] = ["Model", "Server", "Pipeline", "Experiment"];
/// Kinds of the API that come later.
const LATER_KINDS: [&str; 3] = ["ServerConfig", "SeldonConfig", "SeldonRuntime"];

/// One resource.
#[derive(Clone, Debug, PartialEq)]
pub enum Manifest {
    /// A model.
    Model(Box<Model>),
    /// A server.
    Server(Box<Server>),
    /// A pipeline.
    Pipeline(Box<Pipeline>),
    /// An experiment.
    Experiment(Box<Experiment>),
}

/// What all resources have. Kubernetes keeps more; it is accepted and not looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// Name of the resource.
    pub name: String,
    /// Its namespace; empty outside Kubernetes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Counts changes of the spec; 0 outside Kubernetes.
    #[serde(default)]
    pub generation: i64,
}

impl Metadata {
    /// What the scheduler is told.
    #[must_use]
    pub fn to_wire(&self) -> wire::KubernetesMeta {
        wire::KubernetesMeta { namespace: self.namespace.clone(), generation: self.generation }
    }
}

impl Manifest {
    /// Its kind as written in manifests.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Manifest::Model(_) => "Model",
            Manifest::Server(_) => "Server",
            Manifest::Pipeline(_) => "Pipeline",
            Manifest::Experiment(_) => "Experiment",
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Manifest::Model(model) => &model.metadata.name,
            Manifest::Server(server) => &server.metadata.name,
            Manifest::Pipeline(pipeline) => &pipeline.metadata.name,
            Manifest::Experiment(experiment) => &experiment.metadata.name,
        }
    }
}

/// The form of a resource, but for its spec.
const ENVELOPE: &[Field] = &[
    required("apiVersion", Shape::Text),
    required("kind", Shape::Text),
    required("metadata", METADATA),
    required("spec", Shape::Any),
    optional("status", Shape::AnyObject),
];
const METADATA: Shape = Shape::Object(&[
    required("name", Shape::Text),
    optional("namespace", Shape::Text),
    optional("generation", Shape::Integer(0, i64::MAX)),
    optional("labels", Shape::TextMap),
    optional("annotations", Shape::TextMap),
    optional("creationTimestamp", Shape::Any),
    optional("deletionGracePeriodSeconds", Shape::Any),
    optional("deletionTimestamp", Shape::Any),
    optional("finalizers", Shape::Any),
    optional("generateName", Shape::Any),
    optional("managedFields", Shape::Any),
    optional("ownerReferences", Shape::Any),
    optional("resourceVersion", Shape::Any),
    optional("selfLink", Shape::Any),
    optional("uid", Shape::Any),
]);

/// The resources in `text`, in their order; or everything that is wrong with it. `source_name` is what `text` is
/// called in violations, for example a file name.
pub fn parse(text: &str, source_name: &str) -> Result<Vec<Manifest>, Vec<Violation>> {
    let violation = |line, path, problem| Violation { source_name: source_name.to_owned(), line, path, problem };
    let whole = |problem| Err(vec![violation(None, Path::default(), problem)]);
    if text.len() > MAX_TEXT {
        return whole(Problem::TooLarge { what: "the text (bytes)", limit: MAX_TEXT });
    }
    let documents = split(text);
    if documents.is_empty() {
        return whole(Problem::Empty);
    }
    if documents.len() > MAX_DOCUMENTS {
        return whole(Problem::TooLarge { what: "the number of documents", limit: MAX_DOCUMENTS });
    }
    let mut manifests = Vec::new();
    let mut violations = Vec::new();
    let mut hidden = 0;
    for document in &documents {
        match read(document) {
            Ok(manifest) => manifests.push(manifest),
            Err(found) => {
                let room = MAX_VIOLATIONS.saturating_sub(violations.len());
                hidden += found.len().saturating_sub(room);
                violations.extend(found.into_iter().take(room).map(|found| match found {
                    Found::Unreadable(line, problem) => violation(line, Path::default(), problem),
                    Found::Fault(Fault { path, problem }) => violation(document.line_of(&path), path, problem),
                }));
            }
        }
    }
    if hidden > 0 {
        violations.push(violation(None, Path::default(), Problem::More(hidden)));
    }
    if violations.is_empty() { Ok(manifests) } else { Err(violations) }
}

/// What can be wrong with a document.
enum Found {
    Unreadable(Option<usize>, Problem),
    Fault(Fault),
}

fn read(document: &Document<'_>) -> Result<Manifest, Vec<Found>> {
    let value = document.value().map_err(|(line, problem)| vec![Found::Unreadable(line, problem)])?;
    resource(value).map_err(|faults| faults.into_iter().map(Found::Fault).collect())
}

/// A value as a resource, or all its faults.
fn resource(value: Value) -> Result<Manifest, Vec<Fault>> {
    let one = |path, problem| vec![Fault { path, problem }];
    let Value::Object(fields) = value else {
        let problem =
            Problem::Type { expected: "a mapping with apiVersion, kind, metadata and spec", found: kind(&value) };
        return Err(one(Path::default(), problem));
    };
    let name = fields.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
    if LATER_KINDS.contains(&name.as_str()) {
        return Err(one(Path::of(&["kind"]), Problem::NotYet { name }));
    }
    let mut faults = Vec::new();
    let shape = match name.as_str() {
        "Model" => &model::SHAPE,
        "Server" => &server::SHAPE,
        "Pipeline" => &pipeline::SHAPE,
        "Experiment" => &experiment::SHAPE,
        _ => {
            if fields.get("kind").is_some_and(Value::is_string) {
                let like = like(&name, KINDS.into_iter().chain(LATER_KINDS));
                faults.push(Fault {
                    path: Path::of(&["kind"]),
                    problem: Problem::UnknownKind { name: name.clone(), like },
                });
            }
            &Shape::Any
        }
    };
    if let Some(found) = fields.get("apiVersion").and_then(Value::as_str).filter(|found| *found != API_VERSION) {
        let problem = Problem::ApiVersion { expected: API_VERSION, found: found.to_owned() };
        faults.push(Fault { path: Path::of(&["apiVersion"]), problem });
    }
    if let Some(spec) = fields.get("spec") {
        shape.check(spec, &Path::of(&["spec"]), &mut faults);
    }
    let value = Value::Object(fields);
    Shape::Object(ENVELOPE).check(&value, &Path::default(), &mut faults);
    let Value::Object(mut fields) = value else { return Err(faults) };
    // Rules over several fields are looked at as soon as the fields themselves can be read.
    let metadata = take::<Metadata>(&mut fields, "metadata");
    let found = match name.as_str() {
        "Model" => take(&mut fields, "spec").and_then(|spec| {
            let model = Model { metadata: metadata?, spec };
            Ok((model.to_wire().err(), Manifest::Model(Box::new(model))))
        }),
        "Pipeline" => take(&mut fields, "spec").and_then(|spec| {
            let pipeline = Pipeline { metadata: metadata?, spec };
            Ok((pipeline.to_wire().err(), Manifest::Pipeline(Box::new(pipeline))))
        }),
        "Experiment" => take(&mut fields, "spec").and_then(|spec| {
            let experiment = Experiment { metadata: metadata?, spec };
            Ok((experiment.to_wire().err(), Manifest::Experiment(Box::new(experiment))))
        }),
        _ => take(&mut fields, "spec").and_then(|spec| {
            let server = Server { metadata: metadata?, spec };
            Ok((server.to_wire().err(), Manifest::Server(Box::new(server))))
        }),
    };
    match found {
        Ok((broken_rules, manifest)) => {
            let broken_rules = broken_rules.unwrap_or_default();
            let new = broken_rules.into_iter().filter(|rule| faults.iter().all(|fault| fault.path != rule.path));
            let new: Vec<Fault> = new.collect(); // one complaint for each place is enough
            faults.extend(new);
            if faults.is_empty() { Ok(manifest) } else { Err(faults) }
        }
        Err(fault) => {
            if faults.is_empty() {
                faults.push(fault);
            }
            Err(faults)
        }
    }
}

/// A field in its type. Its form was checked, so what fails here was reported already.
fn take<T: DeserializeOwned>(fields: &mut Map<String, Value>, name: &'static str) -> Result<T, Fault> {
    let value = fields.remove(name).unwrap_or(Value::Null);
    serde_json::from_value(value)
        .map_err(|error| Fault { path: Path::of(&[name]), problem: Problem::Syntax(error.to_string()) })
}
