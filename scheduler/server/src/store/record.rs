//! Records of `switchyard.store.v1` to the machine's models, servers and experiments and back.

use domain::{Bytes, Clock, ModelName, ReplicaConfig, ReplicaIndex, ServerBounds, ServerName, Time, VersionNumber};
use messages::scheduler::model_replica_status::ModelReplicaState;
use messages::store as wire;
use prost::Message;

use super::pipeline;
use scheduler_core::{Assignment, Experiment, Few, Link, Model, Replica, Server, Version};

/// Why a record cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum BadRecord {
    /// It is no message of its kind.
    #[error("decode it")]
    Undecodable(#[source] prost::DecodeError),
    /// A name breaks its rule.
    #[error("read its name")]
    Name(#[source] domain::BadName),
    /// A definition is not valid.
    #[error("read the definition of version {0}")]
    Definition(u32, #[source] api::convert::Invalid),
    /// A definition is not valid.
    #[error("read its definition")]
    Experiment(#[source] api::convert::Invalid),
    /// A definition is not valid.
    #[error("read the definition of version {0}")]
    Pipeline(u32, #[source] api::convert::Invalid),
    /// A number stands for no role.
    #[error("there is no role {0}")]
    Role(i32),
    /// It has no version.
    #[error("it has no versions")]
    NoVersion,
    /// A number stands for no lifecycle.
    #[error("replica {replica} has the unknown state {state}")]
    Lifecycle {
        /// Which replica.
        replica: u32,
        /// Its state.
        state: i32,
    },
    /// A number is no port.
    #[error("replica {replica} has the port {port}")]
    Port {
        /// Which replica.
        replica: u32,
        /// Its port.
        port: u32,
    },
}

pub(super) fn encode_model(model: &Model) -> wire::Model {
    wire::Model {
        name: model.name.to_string(),
        deleted: model.deleted,
        terminated_at_ms: model.terminated_at.map(|at| at.0),
        clock: model.clock.0,
        versions: model.versions.iter().map(|(number, version)| encode_version(*number, version)).collect(),
    }
}

fn encode_version(number: VersionNumber, version: &Version) -> wire::ModelVersion {
    wire::ModelVersion {
        number: number.0,
        definition: Some(api::convert::model::wire(&version.definition, None)),
        server: version.server.as_ref().map(ToString::to_string).unwrap_or_default(),
        was_available: version.was_available,
        runtime: version.runtime.map(api::convert::model::runtime_wire),
        shortfall: version.shortfall.clone(),
        edited_at_ms: version.edited_at.0,
        assignments: version
            .assignments
            .iter()
            .map(|(index, assignment)| wire::Assignment {
                replica: index.0,
                lifecycle: api::convert::status::lifecycle(assignment.lifecycle).into(),
                clock: assignment.clock.0,
                reason: assignment.reason.clone(),
                changed_at_ms: assignment.changed_at.0,
                reserves: assignment.reserves,
            })
            .collect(),
    }
}

pub(super) fn decode_model(bytes: &[u8]) -> Result<Model, BadRecord> {
    let record = wire::Model::decode(bytes).map_err(BadRecord::Undecodable)?;
    let versions: Few<VersionNumber, Version> =
        record.versions.into_iter().map(decode_version).collect::<Result<_, _>>()?;
    if versions.is_empty() {
        return Err(BadRecord::NoVersion);
    }
    Ok(Model {
        name: ModelName::parse(&record.name).map_err(BadRecord::Name)?,
        deleted: record.deleted,
        terminated_at: record.terminated_at_ms.map(Time),
        clock: Clock(record.clock),
        versions,
    })
}

fn decode_version(record: wire::ModelVersion) -> Result<(VersionNumber, Version), BadRecord> {
    let definition = api::convert::model::definition(record.definition.unwrap_or_default())
        .map_err(|cause| BadRecord::Definition(record.number, cause))?;
    let server = match record.server.as_str() {
        "" => None,
        name => Some(ServerName::parse(name).map_err(BadRecord::Name)?),
    };
    let assignments = record.assignments.into_iter().map(|assignment| {
        let lifecycle = ModelReplicaState::try_from(assignment.lifecycle).ok();
        let unknown = BadRecord::Lifecycle { replica: assignment.replica, state: assignment.lifecycle };
        let decoded = Assignment {
            lifecycle: lifecycle.and_then(api::convert::status::from_lifecycle).ok_or(unknown)?,
            clock: Clock(assignment.clock),
            reserves: assignment.reserves,
            reason: assignment.reason,
            changed_at: Time(assignment.changed_at_ms),
        };
        Ok((ReplicaIndex(assignment.replica), decoded))
    });
    let version = Version {
        definition,
        runtime: record.runtime.as_ref().and_then(api::convert::model::runtime),
        server,
        assignments: assignments.collect::<Result<_, BadRecord>>()?,
        was_available: record.was_available,
        short_of_memory: !record.shortfall.is_empty(),
        shortfall: record.shortfall,
        edited_at: Time(record.edited_at_ms),
    };
    Ok((VersionNumber(record.number), version))
}

pub(super) fn encode_server(server: &Server) -> wire::Server {
    let bounds = server.bounds.as_ref();
    wire::Server {
        name: server.name.to_string(),
        shared: server.shared,
        expected_replicas: bounds.map(|bounds| bounds.expected),
        min_replicas: bounds.map_or(0, |bounds| bounds.min),
        max_replicas: bounds.map_or(0, |bounds| bounds.max),
        kubernetes_meta: bounds.and_then(|b| b.kubernetes.as_ref()).map(api::convert::model::kubernetes_wire),
        replicas: server
            .replicas
            .iter()
            .map(|(index, replica)| wire::Replica {
                index: index.0,
                host: replica.config.host.clone(),
                http_port: replica.config.http_port.into(),
                grpc_port: replica.config.grpc_port.into(),
                memory_bytes: replica.config.memory.0,
                available_memory_bytes: replica.available.0,
                capabilities: replica.config.capabilities.iter().cloned().collect(),
                over_commit_percentage: replica.config.over_commit_percentage,
                draining: replica.draining,
            })
            .collect(),
    }
}

pub(super) fn decode_server(bytes: &[u8]) -> Result<Server, BadRecord> {
    let record = wire::Server::decode(bytes).map_err(BadRecord::Undecodable)?;
    let (min, max) = (record.min_replicas, record.max_replicas);
    let kubernetes = record.kubernetes_meta.map(api::convert::model::kubernetes);
    let bounds = record.expected_replicas.map(|expected| ServerBounds { expected, min, max, kubernetes });
    let replicas = record.replicas.into_iter().map(|replica| {
        let port = |port: u32| u16::try_from(port).map_err(|_| BadRecord::Port { replica: replica.index, port });
        let decoded = Replica {
            config: ReplicaConfig {
                http_port: port(replica.http_port)?,
                grpc_port: port(replica.grpc_port)?,
                host: replica.host,
                memory: Bytes(replica.memory_bytes),
                capabilities: replica.capabilities.into_iter().collect(),
                over_commit_percentage: replica.over_commit_percentage,
            },
            available: Bytes(replica.available_memory_bytes),
            draining: replica.draining,
            catching_up: false,
            link: Link::Unseen,
        };
        Ok((ReplicaIndex(replica.index), decoded))
    });
    Ok(Server {
        name: ServerName::parse(&record.name).map_err(BadRecord::Name)?,
        shared: record.shared,
        bounds,
        replicas: replicas.collect::<Result<_, BadRecord>>()?,
    })
}

pub(super) fn encode_experiment(experiment: &Experiment) -> wire::Experiment {
    wire::Experiment {
        definition: Some(api::convert::experiment::wire(&experiment.definition)),
        stopped_at_ms: experiment.stopped_at.map(|at| at.0),
        lingering: experiment.lingering.iter().map(ToString::to_string).collect(),
        former_defaults: experiment.former_defaults.iter().map(ToString::to_string).collect(),
    }
}

pub(super) fn decode_experiment(bytes: &[u8]) -> Result<Experiment, BadRecord> {
    let record = wire::Experiment::decode(bytes).map_err(BadRecord::Undecodable)?;
    let definition = record.definition.unwrap_or_default();
    let kind = definition.resource_type();
    let definition = api::convert::experiment::definition(definition);
    let subject = |name: &String| api::convert::experiment::subject(kind, name);
    let names = |names: &[String]| names.iter().map(subject).collect::<Result<_, _>>();
    Ok(Experiment {
        definition: definition.map_err(BadRecord::Experiment)?,
        stopped_at: record.stopped_at_ms.map(Time),
        lingering: names(&record.lingering).map_err(BadRecord::Name)?,
        former_defaults: names(&record.former_defaults).map_err(BadRecord::Name)?,
    })
}

/// The name in a record, if all of it can be read.
pub(super) fn name(table: super::Table, bytes: &[u8]) -> Result<String, BadRecord> {
    Ok(match table {
        super::Table::Models => decode_model(bytes)?.name.to_string(),
        super::Table::Servers => decode_server(bytes)?.name.to_string(),
        super::Table::Experiments => decode_experiment(bytes)?.definition.name.to_string(),
        super::Table::Pipelines => pipeline::decode(bytes)?.name.to_string(),
        super::Table::Workforce => pipeline::key(pipeline::decode_workforce(bytes)?.role).to_owned(),
    })
}

/// What a record is about, in words.
pub(super) fn summary(table: super::Table, bytes: &[u8]) -> String {
    let text = match table {
        super::Table::Models => decode_model(bytes).map(|model| {
            let removed = if model.deleted { ", removed" } else { "" };
            let uri = model.latest().map(|latest| latest.definition.spec.uri.to_string()).unwrap_or_default();
            format!("version {} of {uri}{removed}", model.latest_number())
        }),
        super::Table::Servers => decode_server(bytes).map(|server| format!("{} replicas", server.replicas.len())),
        super::Table::Experiments => decode_experiment(bytes).map(|experiment| {
            let state = if experiment.is_running() { "running" } else { "stopped" };
            format!("{state}, {} candidates", experiment.definition.candidates.len())
        }),
        super::Table::Pipelines => pipeline::decode(bytes).map(|pipeline| {
            let removed = if pipeline.removed { ", removed" } else { "" };
            let steps = pipeline.latest().map_or(0, |(_, latest)| latest.definition.steps.len());
            format!("version {}, {steps} steps{removed}", pipeline.latest().map_or(0, |(number, _)| number))
        }),
        super::Table::Workforce => pipeline::decode_workforce(bytes)
            .map(|workforce| format!("{} gateways, {} shards", workforce.gateways.len(), workforce.shards.len())),
    };
    text.unwrap_or_else(|error| error.to_string())
}
