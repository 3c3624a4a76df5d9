//! What a user says about a model.

use crate::{Bytes, ModelName, ServerName};

/// A model as declared: what it is ([`ModelSpec`]) and how much of it is wanted ([`Deployment`]).
///
/// A change of [`ModelSpec`] is a new version; everything else edits the latest version in place
/// (`spec/control-plane.md` §2.3). What few models have is boxed, because a hundred thousand of these are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelDefinition {
    /// Identity of the model.
    pub name: ModelName,
    /// Free text of the caller, kept and given back.
    pub kind: Option<Box<str>>,
    /// Free text of the caller, kept and given back.
    pub label: Option<Box<str>>,
    /// Present when the declaration came from Kubernetes.
    pub kubernetes: Option<Box<KubernetesMeta>>,
    /// What the model is.
    pub spec: ModelSpec,
    /// How much of it is wanted.
    pub deployment: Deployment,
    /// Topics of one's own; kept and given back.
    pub stream: Option<Box<StreamTopics>>,
    /// Delete the model's topics with it; absent when the caller sent no dataflow part.
    pub clean_topics_on_delete: Option<bool>,
}

/// Where a declaration came from in Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubernetesMeta {
    /// Namespace of the resource.
    pub namespace: String,
    /// `metadata.generation` of the resource.
    pub generation: i64,
}

/// What a model is and what it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelSpec {
    /// Where the artifact lives.
    pub uri: String,
    /// Numbered sub-folder of the artifact.
    pub artifact_version: Option<u32>,
    /// Credentials for the artifact's store.
    pub storage: Option<Box<StorageConfig>>,
    /// Capabilities that a server must offer, as written (spaces around them do not count).
    pub requirements: Vec<String>,
    /// Memory of one instance.
    pub memory: Option<Bytes>,
    /// The one server it may run on.
    pub server: Option<ServerName>,
    /// Set when the model explains another one.
    pub explainer: Option<Box<Explainer>>,
    /// Set when the model is a prompt over another one.
    pub llm: Option<Box<Llm>>,
    /// Passed to the model when it is loaded.
    pub parameters: Vec<Parameter>,
}

/// How many replicas are wanted and what is done with their traffic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deployment {
    /// Desired replicas.
    pub replicas: u32,
    /// With at least this many the model counts as available; 0 = all of them.
    pub min_replicas: u32,
    /// Upper bound for autoscaling; 0 = none.
    pub max_replicas: u32,
    /// Log requests and responses.
    pub log_payloads: bool,
}

/// Credentials for an artifact.
#[derive(Clone, PartialEq, Eq)]
pub enum StorageConfig {
    /// Name of a secret.
    SecretName(String),
    /// An inline remote definition (JSON).
    Remote(String),
}

impl std::fmt::Debug for StorageConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StorageConfig::SecretName(name) => f.debug_tuple("SecretName").field(name).finish(),
            StorageConfig::Remote(_) => f.write_str("Remote(..)"), // may hold keys; never in a log
        }
    }
}

/// What an explainer explains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explainer {
    /// Kind of explainer, for example `anchor_tabular`.
    pub kind: String,
    /// The explained model.
    pub model: Option<String>,
    /// The explained pipeline.
    pub pipeline: Option<String>,
}

/// What a prompt model talks to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Llm {
    /// A model.
    pub model: Option<String>,
    /// A pipeline.
    pub pipeline: Option<String>,
}

/// One load parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// Topics of one's own for a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamTopics {
    /// Requests.
    pub input: String,
    /// Responses.
    pub output: String,
}

/// What an inference server says about a loaded model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuntimeInfo {
    /// MLServer: parallel workers.
    MlServer {
        /// Instances of the model.
        workers: u32,
    },
    /// Triton: instances of the first CPU group; absent when it named none.
    Triton {
        /// Instances of the model.
        instances: Option<u32>,
    },
}

impl RuntimeInfo {
    /// Instances of the model in memory; at least 1 (a report of 0 would make the model free of charge).
    #[must_use]
    pub fn instances(self) -> u32 {
        match self {
            RuntimeInfo::MlServer { workers } => workers.max(1),
            RuntimeInfo::Triton { instances } => instances.unwrap_or(1).max(1),
        }
    }
}

impl ModelSpec {
    /// Memory that one replica needs (`spec/control-plane.md` §2.3): memory × instances, one instance until a
    /// server has said otherwise; unset memory fits anywhere.
    #[must_use]
    pub fn required_memory(&self, runtime: Option<RuntimeInfo>) -> Bytes {
        self.memory.unwrap_or_default().times(runtime.map_or(1, RuntimeInfo::instances))
    }
}
