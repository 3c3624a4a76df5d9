//! What agents say: who they are, what they hold, how a command ended.

use std::collections::BTreeSet;

use domain::{
    Bytes, Clock, ModelDefinition, ModelName, ModelVersionId, ReplicaConfig, ReplicaId, ReplicaIndex, RuntimeInfo,
    ServerName, VersionNumber,
};
use messages::agent as wire;
use prost::Message;

use super::server::MOST_REPLICAS;
use super::{Invalid, model};

/// Longest kept reason of a failure, in bytes: room for a stack trace. What is longer is cut.
const LONGEST_REASON: usize = 4 * 1024;

/// Largest description of a replica as a message, in bytes: it is written with every change of its memory.
const LARGEST_CONFIG: usize = 16 * 1024;

/// An agent's subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// Which replica it speaks for.
    pub replica: ReplicaId,
    /// Models without an explicit server may run there.
    pub shared: bool,
    /// What the replica is. The host may still be a name; it is resolved before the scheduler decides anything.
    pub config: ReplicaConfig,
    /// Everything it holds.
    pub held: Vec<(ModelDefinition, VersionNumber, Option<RuntimeInfo>)>,
    /// Its free memory.
    pub available: Bytes,
}

/// An agent's report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Which replica it speaks for.
    pub replica: ReplicaId,
    /// What the command was about.
    pub version: ModelVersionId,
    /// How it ended.
    pub event: wire::model_event_message::Event,
    /// Why, when it failed.
    pub message: String,
    /// Free memory after it.
    pub available: Bytes,
    /// What the inference server says about the model.
    pub runtime: Option<RuntimeInfo>,
    /// Clock of the command, from agents that know it.
    pub fence: Option<Clock>,
}

/// Identity of a replica.
pub fn replica(server: &str, index: u32) -> Result<ReplicaId, Invalid> {
    let mut invalid = Invalid::default();
    if index > MOST_REPLICAS {
        invalid.add("replicaIdx", format!("is {index}, at most {MOST_REPLICAS} is accepted"));
    }
    match ServerName::parse(server) {
        Ok(server) => invalid.or(ReplicaId { server, index: ReplicaIndex(index) }),
        Err(error) => {
            invalid.add("serverName", error);
            Err(invalid)
        }
    }
}

/// The subscription in a request.
pub fn subscription(request: wire::AgentSubscribeRequest) -> Result<Subscription, Invalid> {
    let replica = replica(&request.server_name, request.replica_idx)?;
    let Some(config) = request.replica_config else { return Err(Invalid::one("replicaConfig", "missing")) };
    let mut invalid = Invalid::default();
    if config.encoded_len() > LARGEST_CONFIG {
        let reason = format!("has {} bytes, at most {LARGEST_CONFIG} are accepted", config.encoded_len());
        invalid.add("replicaConfig", reason);
    }
    if config.inference_svc.is_empty() {
        invalid.add("replicaConfig.inferenceSvc", "missing");
    }
    let mut port = |field: &str, value: i32| match u16::try_from(value) {
        Ok(port) if port > 0 => port,
        Ok(_) | Err(_) => {
            invalid.add(format!("replicaConfig.{field}"), format!("{value} is no port"));
            0
        }
    };
    let http_port = port("inferenceHttpPort", config.inference_http_port);
    let grpc_port = port("inferenceGrpcPort", config.inference_grpc_port);
    let mut held = Vec::new();
    for (index, loaded) in request.loaded_models.into_iter().enumerate() {
        let number = VersionNumber(loaded.version);
        let runtime = loaded.model.as_ref().and_then(|model| model.model_spec.as_ref());
        let runtime = runtime.and_then(|spec| spec.model_runtime_info.as_ref()).and_then(model::runtime);
        match model::definition(loaded.model.unwrap_or_default()) {
            Ok(definition) => held.push((definition, number, runtime)),
            Err(error) => invalid.add(format!("loadedModels[{index}]"), error),
        }
    }
    let capabilities: BTreeSet<String> =
        config.capabilities.iter().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()).collect();
    let config = ReplicaConfig {
        host: config.inference_svc,
        http_port,
        grpc_port,
        memory: Bytes(config.memory_bytes),
        capabilities,
        over_commit_percentage: config.over_commit_percentage,
    };
    let available = Bytes(request.available_memory_bytes);
    invalid.or(Subscription { replica, shared: request.shared, config, held, available })
}

/// A reason that people can still read; it is kept, and every status carries it.
fn shortened(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(LONGEST_REASON));
    text
}

/// The report in a message.
pub fn report(message: wire::ModelEventMessage) -> Result<Report, Invalid> {
    let replica = replica(&message.server_name, message.replica_idx)?;
    let event = message.event();
    match ModelName::parse(&message.model_name) {
        Ok(model) => Ok(Report {
            replica,
            version: ModelVersionId { model, number: VersionNumber(message.model_version) },
            event,
            available: Bytes(message.available_memory_bytes),
            runtime: message.runtime_info.as_ref().and_then(model::runtime),
            fence: message.fence.map(Clock),
            message: shortened(message.message),
        }),
        Err(error) => Err(Invalid::one("modelName", error)),
    }
}
