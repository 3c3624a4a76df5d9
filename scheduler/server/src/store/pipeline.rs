//! Records of `switchyard.store.v1` to the machine's pipelines and workers and back.

use std::sync::Arc;

use domain::{PipelineName, Role, Time, WorkerName};
use messages::store as wire;
use prost::Message;
use scheduler_core::{Address, Holding, Pipeline, PipelineVersion, Workforce};

use super::record::BadRecord;

/// The key of a role's record.
pub(super) const fn key(role: Role) -> &'static str {
    match role {
        Role::PipelineGateway => "pipeline-gateway",
        Role::Engine => "engine",
        Role::ModelGateway => "model-gateway",
    }
}

pub(super) fn encode(pipeline: &Pipeline) -> wire::Pipeline {
    wire::Pipeline {
        name: pipeline.name.to_string(),
        removed: pipeline.removed,
        terminated_at_ms: pipeline.terminated_at.map(|at| at.0),
        versions: pipeline
            .versions
            .iter()
            .map(|(number, version)| wire::PipelineVersion {
                number: *number,
                uid: version.uid.clone(),
                definition: Some(api::convert::pipeline::wire(&version.definition)),
                declared_at_ms: version.declared_at.0,
                active_since_ms: version.active_since.map(|at| at.0),
                active: version.active,
                retired_at_ms: version.retired_at.map(|at| at.0),
            })
            .collect(),
    }
}

pub(super) fn decode(bytes: &[u8]) -> Result<Pipeline, BadRecord> {
    let record = wire::Pipeline::decode(bytes).map_err(BadRecord::Undecodable)?;
    if record.versions.is_empty() {
        return Err(BadRecord::NoVersion);
    }
    let versions = record.versions.into_iter().map(|version| {
        let definition = api::convert::pipeline::definition(version.definition.unwrap_or_default());
        let definition = definition.map_err(|cause| BadRecord::Pipeline(version.number, cause))?;
        let decoded = PipelineVersion {
            uid: version.uid,
            definition: Arc::new(definition),
            declared_at: Time(version.declared_at_ms),
            active_since: version.active_since_ms.map(Time),
            active: version.active,
            retired_at: version.retired_at_ms.map(Time),
        };
        Ok((version.number, decoded))
    });
    Ok(Pipeline {
        name: PipelineName::parse(&record.name).map_err(BadRecord::Name)?,
        versions: versions.collect::<Result<_, BadRecord>>()?,
        removed: record.removed,
        terminated_at: record.terminated_at_ms.map(Time),
    })
}

pub(super) fn encode_workforce(workforce: &Workforce) -> wire::Workforce {
    let gateways = workforce.gateways.iter();
    let shards = workforce.shards.iter();
    wire::Workforce {
        role: api::convert::worker::role_wire(workforce.role).into(),
        gateways: gateways
            .map(|(name, at)| wire::Gateway { name: name.to_string(), host: at.host.clone(), port: at.port.into() })
            .collect(),
        shards: shards
            .map(|(partition, holding)| wire::Holding {
                partition: *partition,
                owner: holding.owner.as_ref().map(ToString::to_string).unwrap_or_default(),
                epoch: holding.epoch,
            })
            .collect(),
    }
}

pub(super) fn decode_workforce(bytes: &[u8]) -> Result<Workforce, BadRecord> {
    let record = wire::Workforce::decode(bytes).map_err(BadRecord::Undecodable)?;
    let role = messages::worker::Role::try_from(record.role).ok().and_then(api::convert::worker::role);
    let gateways = record.gateways.into_iter().zip(0..).map(|(gateway, replica)| {
        let port = u16::try_from(gateway.port).map_err(|_| BadRecord::Port { replica, port: gateway.port })?;
        Ok((WorkerName::parse(&gateway.name).map_err(BadRecord::Name)?, Address { host: gateway.host, port }))
    });
    let shards = record.shards.into_iter().map(|holding| {
        let owner = match holding.owner.as_str() {
            "" => None,
            name => Some(WorkerName::parse(name).map_err(BadRecord::Name)?),
        };
        Ok((holding.partition, Holding { owner, epoch: holding.epoch, ..Holding::default() }))
    });
    Ok(Workforce {
        role: role.ok_or(BadRecord::Role(record.role))?,
        gateways: gateways.collect::<Result<_, BadRecord>>()?,
        shards: shards.collect::<Result<_, BadRecord>>()?,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use domain::{PipelineName, Role, Time, WorkerName};
    use scheduler_core::{Address, Holding, Pipeline, PipelineVersion, Workforce};

    pub(in crate::store) fn pipeline() -> Pipeline {
        let step = messages::scheduler::PipelineStep { name: "a".into(), ..Default::default() };
        let definition = messages::scheduler::Pipeline {
            name: "p".into(),
            steps: vec![step],
            allow_cycles: true,
            max_step_revisits: 3,
            dataflow_spec: Some(messages::scheduler::DataflowSpec { clean_topics_on_delete: true }),
            ..Default::default()
        };
        let version = |active: bool| PipelineVersion {
            uid: format!("uid-{active}"),
            definition: Arc::new(api::convert::pipeline::definition(definition.clone()).expect("valid")),
            declared_at: Time(1),
            active_since: Some(Time(2)),
            active,
            retired_at: (!active).then_some(Time(3)),
        };
        Pipeline {
            name: PipelineName::parse("p").expect("a name"),
            versions: BTreeMap::from([(1, version(false)), (2, version(true))]),
            removed: false,
            terminated_at: Some(Time(4)),
        }
    }

    pub(in crate::store) fn workforce() -> Workforce {
        let name = |name: &str| WorkerName::parse(name).expect("a name");
        let holding = |owner: Option<&str>, epoch| Holding { owner: owner.map(name), epoch, ..Holding::default() };
        Workforce {
            role: Role::PipelineGateway,
            gateways: BTreeMap::from([(name("g-0"), Address { host: "10.0.0.1".into(), port: 9010 })]),
            shards: BTreeMap::from([(0, holding(Some("e"), 3)), (1, holding(None, 4))]),
        }
    }
}
