//! The resource Model and what it says to the scheduler.
//!
//! Fields without an effect (`schemaUri`, `preloaded`, `dedicated`, `logger.percent`) are read, so that existing
//! manifests stay valid, and not sent.

use domain::ModelName;
use messages::scheduler as wire;
use serde::{Deserialize, Serialize};

use crate::manifest::Metadata;
use crate::quantity::Quantity;
use crate::scaling::Scaling;
use crate::shape::{COUNT, Shape, optional, required};
use crate::violation::{Fault, Path, Problem};

/// A Model resource.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// Its name and what Kubernetes keeps about it.
    pub metadata: Metadata,
    /// What is wanted.
    pub spec: ModelSpec,
}

/// What a Model wants.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ModelSpec {
    /// Where the artifact lives.
    pub storage_uri: String,
    /// One more capability that the server must offer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_type: Option<String>,
    /// Numbered sub-folder of the artifact.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact_version: Option<i32>,
    /// No effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema_uri: Option<String>,
    /// Secret with the credentials for the artifact's store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_name: Option<String>,
    /// Capabilities that the server must offer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requirements: Vec<String>,
    /// Memory of one instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Quantity>,
    /// Wanted replicas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Enough replicas to count as available, and the floor of autoscaling.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_replicas: Option<i32>,
    /// Ceiling of autoscaling.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_replicas: Option<i32>,
    /// The one server it may run on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// No effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preloaded: Option<bool>,
    /// No effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dedicated: Option<bool>,
    /// Its presence turns the logging of payloads on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logger: Option<Logger>,
    /// Set when the model explains another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explainer: Option<Explainer>,
    /// Passed to the model when it is loaded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parameters: Vec<Parameter>,
    /// Set when the model is a prompt over another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub llm: Option<Llm>,
    /// What happens to the model's topics.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dataflow: Option<Dataflow>,
}

/// Logging of payloads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Logger {
    /// No effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<i32>,
}

/// What an explainer explains.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Explainer {
    /// Kind of explainer.
    #[serde(rename = "type", default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// The explained model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_ref: Option<String>,
    /// The explained pipeline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pipeline_ref: Option<String>,
}

/// One load parameter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Parameter {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// What a prompt model talks to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Llm {
    /// A model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_ref: Option<String>,
    /// A pipeline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pipeline_ref: Option<String>,
}

/// What happens to a model's topics.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Dataflow {
    /// Delete them with the model.
    #[serde(default)]
    pub clean_topics_on_delete: bool,
}

/// The form of [`ModelSpec`].
pub(crate) const SHAPE: Shape = Shape::Object(&[
    required("storageUri", Shape::FilledText),
    optional("modelType", Shape::Text),
    optional("artifactVersion", COUNT),
    optional("schemaUri", Shape::Text),
    optional("secretName", Shape::Text),
    optional("requirements", Shape::List(&Shape::FilledText)),
    optional("memory", Shape::NumberOrText),
    optional("replicas", COUNT),
    optional("minReplicas", COUNT),
    optional("maxReplicas", COUNT),
    optional("server", Shape::Text),
    optional("preloaded", Shape::Flag),
    optional("dedicated", Shape::Flag),
    optional("logger", Shape::Object(&[optional("percent", COUNT)])),
    optional(
        "explainer",
        Shape::Object(&[
            optional("type", Shape::Text),
            optional("modelRef", Shape::Text),
            optional("pipelineRef", Shape::Text),
        ]),
    ),
    optional(
        "parameters",
        Shape::List(&Shape::Object(&[required("name", Shape::Text), required("value", Shape::Text)])),
    ),
    optional("llm", Shape::Object(&[optional("modelRef", Shape::Text), optional("pipelineRef", Shape::Text)])),
    optional("dataflow", Shape::Object(&[optional("cleanTopicsOnDelete", Shape::Flag)])),
]);

impl Model {
    /// What the scheduler is told: [`wire::LoadModelRequest::model`]. Or everything that is wrong.
    pub fn to_wire(&self) -> Result<wire::Model, Vec<Fault>> {
        let mut faults = Vec::new();
        let mut fault = |path: &[&str], problem| faults.push(Fault { path: Path::of(path), problem });
        if let Err(bad) = ModelName::parse(&self.metadata.name) {
            fault(&["metadata", "name"], Problem::Name(bad));
        }
        let spec = &self.spec;
        let scaling = Scaling::new(spec.replicas, spec.min_replicas, spec.max_replicas);
        if let Err(bad) = &scaling {
            fault(&["spec", bad.field()], Problem::Scaling(bad.clone()));
        }
        let memory = spec.memory.as_ref().map(Quantity::bytes).transpose();
        if let Err(bad) = &memory {
            fault(&["spec", "memory"], Problem::Quantity(bad.clone()));
        }
        let artifact_version = spec.artifact_version.map(u32::try_from).transpose();
        if artifact_version.is_err() {
            let found = spec.artifact_version.unwrap_or_default().to_string();
            fault(&["spec", "artifactVersion"], Problem::Range { min: 0, max: i32::MAX.into(), found });
        }
        if spec.explainer.is_some() && spec.llm.is_some() {
            fault(&["spec", "llm"], Problem::Exclusive("explainer", "llm"));
        }
        let (Ok(scaling), Ok(memory), Ok(artifact_version), []) =
            (scaling, memory, artifact_version, faults.as_slice())
        else {
            return Err(faults);
        };
        let model_type = filled(spec.model_type.as_ref());
        Ok(wire::Model {
            meta: Some(wire::MetaData {
                name: self.metadata.name.clone(),
                kind: None,
                version: None,
                kubernetes_meta: Some(self.metadata.to_wire()),
            }),
            model_spec: Some(wire::ModelSpec {
                uri: spec.storage_uri.clone(),
                artifact_version,
                storage_config: filled(spec.secret_name.as_ref()).map(|name| wire::StorageConfig {
                    config: Some(wire::storage_config::Config::StorageSecretName(name)),
                }),
                requirements: spec.requirements.iter().cloned().chain(model_type).collect(),
                memory_bytes: memory.map(|bytes| bytes.0),
                server: filled(spec.server.as_ref()),
                parameters: spec.parameters.iter().map(Parameter::to_wire).collect(),
                model_runtime_info: None,
                model_spec: spec.special(),
            }),
            deployment_spec: Some(wire::DeploymentSpec {
                replicas: scaling.replicas,
                min_replicas: scaling.min,
                max_replicas: scaling.max,
                log_payloads: spec.logger.is_some(),
            }),
            stream_spec: None,
            dataflow_spec: spec
                .dataflow
                .as_ref()
                .map(|dataflow| wire::DataflowSpec { clean_topics_on_delete: dataflow.clean_topics_on_delete }),
        })
    }
}

impl ModelSpec {
    fn special(&self) -> Option<wire::model_spec::ModelSpec> {
        let explainer = self.explainer.as_ref().map(|explainer| {
            wire::model_spec::ModelSpec::Explainer(wire::ExplainerSpec {
                r#type: explainer.kind.clone(),
                model_ref: explainer.model_ref.clone(),
                pipeline_ref: explainer.pipeline_ref.clone(),
            })
        });
        let llm = self.llm.as_ref().map(|llm| {
            wire::model_spec::ModelSpec::Llm(wire::LlmSpec {
                model_ref: llm.model_ref.clone(),
                pipeline_ref: llm.pipeline_ref.clone(),
            })
        });
        explainer.or(llm)
    }
}

impl Parameter {
    fn to_wire(&self) -> wire::ParameterSpec {
        wire::ParameterSpec { name: self.name.clone(), value: self.value.clone() }
    }
}

/// Empty text says nothing.
fn filled(text: Option<&String>) -> Option<String> {
    text.filter(|text| !text.is_empty()).cloned()
}
