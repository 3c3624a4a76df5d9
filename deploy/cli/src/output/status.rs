//! Statuses as JSON, with the names of the API: fields in lower camel case, enumerations by name, 64-bit numbers as
//! text, values that are default left out. Only for models and servers; other messages are in `experiment` and `request`.

use std::collections::BTreeMap;

use messages::scheduler as wire;
use serde::Serialize;

use super::timestamp::rfc3339;

pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A number of 64 bits as text.
fn wide<T: ToString + Default + PartialEq>(value: T) -> Option<String> {
    (value != T::default()).then(|| value.to_string())
}

/// The name of an enumeration's value, unless it is the default; a number that we do not know stays a number.
pub(super) fn name(number: i32, known: Option<&'static str>) -> Option<serde_json::Value> {
    (number != 0).then(|| known.map_or_else(|| number.into(), Into::into))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ModelStatus {
    #[serde(skip_serializing_if = "is_default")]
    model_name: String,
    #[serde(skip_serializing_if = "is_default")]
    versions: Vec<ModelVersion>,
    #[serde(skip_serializing_if = "is_default")]
    deleted: bool,
    #[serde(skip_serializing_if = "is_default")]
    keep_topics: bool,
    #[serde(skip_serializing_if = "is_default")]
    timestamp: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    operation: Option<serde_json::Value>,
}

#[derive(PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct ModelVersion {
    #[serde(skip_serializing_if = "is_default")]
    version: u32,
    #[serde(skip_serializing_if = "is_default")]
    server_name: String,
    #[serde(skip_serializing_if = "is_default")]
    kubernetes_meta: Option<KubernetesMeta>,
    #[serde(skip_serializing_if = "is_default")]
    model_replica_state: BTreeMap<i32, ReplicaStatus>,
    #[serde(skip_serializing_if = "is_default")]
    state: Option<State>,
    #[serde(skip_serializing_if = "is_default")]
    model_defn: Option<Model>,
}

#[derive(PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct KubernetesMeta {
    #[serde(skip_serializing_if = "is_default")]
    namespace: String,
    #[serde(skip_serializing_if = "is_default")]
    generation: Option<String>,
}

#[derive(PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct ReplicaStatus {
    #[serde(skip_serializing_if = "is_default")]
    state: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "is_default")]
    reason: String,
    #[serde(skip_serializing_if = "is_default")]
    last_change_timestamp: Option<String>,
}

#[derive(PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct State {
    #[serde(skip_serializing_if = "is_default")]
    state: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "is_default")]
    reason: String,
    #[serde(skip_serializing_if = "is_default")]
    available_replicas: u32,
    #[serde(skip_serializing_if = "is_default")]
    unavailable_replicas: u32,
    #[serde(skip_serializing_if = "is_default")]
    last_change_timestamp: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    model_gw_state: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "is_default")]
    model_gw_reason: String,
}

#[derive(PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Model {
    #[serde(skip_serializing_if = "is_default")]
    meta: Option<MetaData>,
    #[serde(skip_serializing_if = "is_default")]
    model_spec: Option<ModelSpec>,
    #[serde(skip_serializing_if = "is_default")]
    deployment_spec: Option<DeploymentSpec>,
    #[serde(skip_serializing_if = "is_default")]
    stream_spec: Option<StreamSpec>,
    #[serde(skip_serializing_if = "is_default")]
    dataflow_spec: Option<DataflowSpec>,
}

#[derive(PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct MetaData {
    #[serde(skip_serializing_if = "is_default")]
    name: String,
    #[serde(skip_serializing_if = "is_default")]
    kind: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    version: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    kubernetes_meta: Option<KubernetesMeta>,
}

#[derive(PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct ModelSpec {
    #[serde(skip_serializing_if = "is_default")]
    uri: String,
    #[serde(skip_serializing_if = "is_default")]
    artifact_version: Option<u32>,
    #[serde(skip_serializing_if = "is_default")]
    storage_config: Option<StorageConfig>,
    #[serde(skip_serializing_if = "is_default")]
    requirements: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    memory_bytes: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    server: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    explainer: Option<Explainer>,
    #[serde(skip_serializing_if = "is_default")]
    llm: Option<Llm>,
    #[serde(skip_serializing_if = "is_default")]
    parameters: Vec<Parameter>,
    #[serde(skip_serializing_if = "is_default")]
    model_runtime_info: Option<RuntimeInfo>,
}

#[derive(PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
enum StorageConfig {
    StorageSecretName(String),
    StorageRcloneConfig(String),
}

#[derive(PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Explainer {
    #[serde(rename = "type", skip_serializing_if = "is_default")]
    kind: String,
    #[serde(skip_serializing_if = "is_default")]
    model_ref: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    pipeline_ref: Option<String>,
}

#[derive(PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Llm {
    #[serde(skip_serializing_if = "is_default")]
    model_ref: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    pipeline_ref: Option<String>,
}

#[derive(PartialEq, Serialize)]
struct Parameter {
    #[serde(skip_serializing_if = "is_default")]
    name: String,
    #[serde(skip_serializing_if = "is_default")]
    value: String,
}

#[derive(PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
enum RuntimeInfo {
    Mlserver(MlServer),
    Triton(Triton),
}

#[derive(PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct MlServer {
    #[serde(skip_serializing_if = "is_default")]
    parallel_workers: u32,
}

#[derive(PartialEq, Serialize)]
struct Triton {
    #[serde(skip_serializing_if = "is_default")]
    cpu: Vec<TritonCpu>,
}

#[derive(PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct TritonCpu {
    #[serde(skip_serializing_if = "is_default")]
    instance_count: u32,
}

#[derive(PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct DeploymentSpec {
    #[serde(skip_serializing_if = "is_default")]
    replicas: u32,
    #[serde(skip_serializing_if = "is_default")]
    min_replicas: u32,
    #[serde(skip_serializing_if = "is_default")]
    max_replicas: u32,
    #[serde(skip_serializing_if = "is_default")]
    log_payloads: bool,
}

#[derive(PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct StreamSpec {
    #[serde(skip_serializing_if = "is_default")]
    input_topic: String,
    #[serde(skip_serializing_if = "is_default")]
    output_topic: String,
}

#[derive(PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct DataflowSpec {
    #[serde(skip_serializing_if = "is_default")]
    clean_topics_on_delete: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ServerStatus {
    #[serde(skip_serializing_if = "is_default")]
    server_name: String,
    #[serde(skip_serializing_if = "is_default")]
    resources: Vec<Resources>,
    #[serde(skip_serializing_if = "is_default")]
    expected_replicas: i32,
    #[serde(skip_serializing_if = "is_default")]
    available_replicas: i32,
    #[serde(skip_serializing_if = "is_default")]
    num_loaded_model_replicas: i32,
    #[serde(skip_serializing_if = "is_default")]
    kubernetes_meta: Option<KubernetesMeta>,
    #[serde(rename = "type", skip_serializing_if = "is_default")]
    kind: Option<serde_json::Value>,
}

#[derive(PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Resources {
    #[serde(skip_serializing_if = "is_default")]
    replica_idx: u32,
    #[serde(skip_serializing_if = "is_default")]
    total_memory_bytes: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    available_memory_bytes: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    num_loaded_models: i32,
    #[serde(skip_serializing_if = "is_default")]
    over_commit_percentage: u32,
}

impl From<&wire::ModelStatusResponse> for ModelStatus {
    fn from(message: &wire::ModelStatusResponse) -> Self {
        let operation = wire::model_status_response::ModelOperation::try_from(message.operation).ok();
        ModelStatus {
            model_name: message.model_name.clone(),
            versions: message.versions.iter().map(Into::into).collect(),
            deleted: message.deleted,
            keep_topics: message.keep_topics,
            timestamp: wide(message.timestamp),
            operation: name(message.operation, operation.map(|operation| operation.as_str_name())),
        }
    }
}

impl From<&wire::ModelVersionStatus> for ModelVersion {
    fn from(message: &wire::ModelVersionStatus) -> Self {
        ModelVersion {
            version: message.version,
            server_name: message.server_name.clone(),
            kubernetes_meta: message.kubernetes_meta.as_ref().map(Into::into),
            model_replica_state: message
                .model_replica_state
                .iter()
                .map(|(index, status)| (*index, status.into()))
                .collect(),
            state: message.state.as_ref().map(Into::into),
            model_defn: message.model_defn.as_ref().map(Into::into),
        }
    }
}

impl From<&wire::KubernetesMeta> for KubernetesMeta {
    fn from(message: &wire::KubernetesMeta) -> Self {
        KubernetesMeta { namespace: message.namespace.clone(), generation: wide(message.generation) }
    }
}

impl From<&wire::ModelReplicaStatus> for ReplicaStatus {
    fn from(message: &wire::ModelReplicaStatus) -> Self {
        ReplicaStatus {
            state: name(message.state, replica_state(message.state)),
            reason: message.reason.clone(),
            last_change_timestamp: message.last_change_timestamp.as_ref().map(|time| rfc3339(time.seconds, time.nanos)),
        }
    }
}

/// The name of a replica's state.
pub(crate) fn replica_state(number: i32) -> Option<&'static str> {
    let state = wire::model_replica_status::ModelReplicaState::try_from(number);
    state.ok().map(|state| state.as_str_name())
}

/// The name of a model's state.
pub(crate) fn model_state(number: i32) -> Option<&'static str> {
    wire::model_status::ModelState::try_from(number).ok().map(|state| state.as_str_name())
}

impl From<&wire::ModelStatus> for State {
    fn from(message: &wire::ModelStatus) -> Self {
        State {
            state: name(message.state, model_state(message.state)),
            reason: message.reason.clone(),
            available_replicas: message.available_replicas,
            unavailable_replicas: message.unavailable_replicas,
            last_change_timestamp: message.last_change_timestamp.as_ref().map(|time| rfc3339(time.seconds, time.nanos)),
            model_gw_state: name(message.model_gw_state, model_state(message.model_gw_state)),
            model_gw_reason: message.model_gw_reason.clone(),
        }
    }
}

impl From<&wire::Model> for Model {
    fn from(message: &wire::Model) -> Self {
        Model {
            meta: message.meta.as_ref().map(|meta| MetaData {
                name: meta.name.clone(),
                kind: meta.kind.clone(),
                version: meta.version.clone(),
                kubernetes_meta: meta.kubernetes_meta.as_ref().map(Into::into),
            }),
            model_spec: message.model_spec.as_ref().map(Into::into),
            deployment_spec: message.deployment_spec.as_ref().map(|deployment| DeploymentSpec {
                replicas: deployment.replicas,
                min_replicas: deployment.min_replicas,
                max_replicas: deployment.max_replicas,
                log_payloads: deployment.log_payloads,
            }),
            stream_spec: message.stream_spec.as_ref().map(|stream| StreamSpec {
                input_topic: stream.input_topic.clone(),
                output_topic: stream.output_topic.clone(),
            }),
            dataflow_spec: message
                .dataflow_spec
                .as_ref()
                .map(|dataflow| DataflowSpec { clean_topics_on_delete: dataflow.clean_topics_on_delete }),
        }
    }
}

impl From<&wire::ModelSpec> for ModelSpec {
    fn from(message: &wire::ModelSpec) -> Self {
        use wire::model_spec::ModelSpec as Special;
        use wire::storage_config::Config;
        let (explainer, llm) = match &message.model_spec {
            Some(Special::Explainer(explainer)) => (Some(explainer), None),
            Some(Special::Llm(llm)) => (None, Some(llm)),
            None => (None, None),
        };
        let config = message.storage_config.as_ref().and_then(|storage| storage.config.as_ref());
        ModelSpec {
            uri: message.uri.clone(),
            artifact_version: message.artifact_version,
            storage_config: config.map(|config| match config {
                Config::StorageSecretName(name) => StorageConfig::StorageSecretName(name.clone()),
                Config::StorageRcloneConfig(config) => StorageConfig::StorageRcloneConfig(config.clone()),
            }),
            requirements: message.requirements.clone(),
            memory_bytes: message.memory_bytes.map(|bytes| bytes.to_string()),
            server: message.server.clone(),
            explainer: explainer.map(|explainer| Explainer {
                kind: explainer.r#type.clone(),
                model_ref: explainer.model_ref.clone(),
                pipeline_ref: explainer.pipeline_ref.clone(),
            }),
            llm: llm.map(|llm| Llm { model_ref: llm.model_ref.clone(), pipeline_ref: llm.pipeline_ref.clone() }),
            parameters: message
                .parameters
                .iter()
                .map(|parameter| Parameter { name: parameter.name.clone(), value: parameter.value.clone() })
                .collect(),
            model_runtime_info: message.model_runtime_info.as_ref().and_then(runtime_info),
        }
    }
}

fn runtime_info(message: &wire::ModelRuntimeInfo) -> Option<RuntimeInfo> {
    use wire::model_runtime_info::ModelRuntimeInfo as Kind;
    message.model_runtime_info.as_ref().map(|info| match info {
        Kind::Mlserver(settings) => RuntimeInfo::Mlserver(MlServer { parallel_workers: settings.parallel_workers }),
        Kind::Triton(config) => RuntimeInfo::Triton(Triton {
            cpu: config.cpu.iter().map(|cpu| TritonCpu { instance_count: cpu.instance_count }).collect(),
        }),
    })
}

impl From<&wire::ServerStatusResponse> for ServerStatus {
    fn from(message: &wire::ServerStatusResponse) -> Self {
        let kind = wire::server_status_response::Type::try_from(message.r#type).ok();
        ServerStatus {
            server_name: message.server_name.clone(),
            resources: message.resources.iter().map(Into::into).collect(),
            expected_replicas: message.expected_replicas,
            available_replicas: message.available_replicas,
            num_loaded_model_replicas: message.num_loaded_model_replicas,
            kubernetes_meta: message.kubernetes_meta.as_ref().map(Into::into),
            kind: name(message.r#type, kind.map(|kind| kind.as_str_name())),
        }
    }
}

impl From<&wire::ServerReplicaResources> for Resources {
    fn from(message: &wire::ServerReplicaResources) -> Self {
        Resources {
            replica_idx: message.replica_idx,
            total_memory_bytes: wide(message.total_memory_bytes),
            available_memory_bytes: wide(message.available_memory_bytes),
            num_loaded_models: message.num_loaded_models,
            over_commit_percentage: message.over_commit_percentage,
        }
    }
}
