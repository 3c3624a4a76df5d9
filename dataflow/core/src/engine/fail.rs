//! Requests that end with an error: a model failed, a record is no message, a cycle has no end, a version is gone.

use std::sync::Arc;

use domain::{End, PipelineName, Time, TopicOf};

use super::{Engine, FlowKey, Taken, request};
use crate::envelope::{Envelope, name};
use crate::failure::Failure;
use crate::parts::{Format, Malformed};
use crate::plan::Plan;
use crate::topology::{Operator, OperatorKind, Topology};

impl Engine {
    /// Its version is forgotten, although somebody waits.
    pub(super) fn end_without_version(&mut self, pipeline: &PipelineName, version: u32, taken: Taken) {
        let text = format!("version {version} of pipeline {pipeline} is gone");
        let failure = Failure::new(pipeline.as_str(), Failure::UNAVAILABLE, text);
        let topology = Topology {
            pipeline: pipeline.clone(),
            version,
            operators: Vec::new(),
            output: None,
            revisits_max: 0,
            is_single: true,
        };
        let Taken { envelope, key, headers, stamp, .. } = taken;
        self.end(&Arc::new(topology), &envelope, &key, &headers, &failure, pipeline.as_str(), vec![stamp]);
    }

    pub(super) fn malformed(
        &mut self,
        topology: &Arc<Topology>,
        taken: &Taken,
        error: &Malformed,
        format: Format,
        is_own: bool,
    ) {
        self.counters.malformed += 1;
        if !is_own {
            return;
        }
        let message = match format {
            Format::Request => "ModelInferRequest",
            Format::Response => "ModelInferResponse",
        };
        let text = format!("a record of {} is no {message}: {error}", taken.topic);
        let failure = Failure::new(topology.pipeline.as_str(), Failure::INVALID, text);
        self.owner.hold(taken.stamp);
        let Taken { envelope, key, headers, stamp, .. } = taken;
        self.end(topology, envelope, key, headers, &failure, topology.pipeline.as_str(), vec![*stamp]);
    }

    pub(super) fn too_often(
        &mut self,
        topology: &Arc<Topology>,
        operator: &Operator,
        taken: &Taken,
        envelope: &Envelope,
    ) {
        let text = format!(
            "request {} came back to {} more often than the {} times that maxStepRevisits allows",
            request(&taken.headers),
            operator.shown(),
            topology.revisits_max
        );
        let failure = Failure::new(operator.name(), Failure::PRECONDITION, text);
        self.owner.hold(taken.stamp);
        self.end(
            topology,
            envelope,
            &taken.key,
            &taken.headers,
            &failure,
            topology.pipeline.as_str(),
            vec![taken.stamp],
        );
    }

    /// A model failed.
    pub(super) fn take_error(&mut self, plan: &Plan, taken: Taken, now: Time) {
        let failure = Failure::of(&taken.headers, &taken.value);
        let (Some(failure), Some(pipeline)) = (failure, taken.envelope.pipeline.clone()) else {
            return self.ignore(taken.stamp);
        };
        let version = taken.envelope.version.or_else(|| plan.active_at(&pipeline, taken.time));
        let version = version.and_then(|version| plan.version(&pipeline, version));
        let Some(topology) = version.map(|version| Arc::clone(&version.topology)) else {
            return self.ignore(taken.stamp);
        };
        let failed = crate::envelope::text(&taken.headers, name::ERRORS).unwrap_or_default().to_owned();
        self.owner.hold(taken.stamp);
        let (envelope, stamps) = (&taken.envelope, vec![taken.stamp]);
        self.end(&topology, envelope, &taken.key, &taken.headers, &failure, &failed, stamps);
        let step = topology
            .operators
            .iter()
            .position(|operator| matches!(&operator.kind, OperatorKind::Step(model) if model.as_str() == failed));
        if let Some(step) = step
            && topology.operators.iter().any(|operator| !operator.is_simple())
        {
            self.fail_step(&topology, step, &failure, &taken, now);
        }
        self.owner.release(taken.stamp);
    }

    /// Nothing comes of a step any more.
    pub(super) fn fail_step(
        &mut self,
        topology: &Arc<Topology>,
        step: usize,
        failure: &Failure,
        taken: &Taken,
        now: Time,
    ) {
        let key: FlowKey = (topology.pipeline.clone(), topology.version, taken.envelope.root);
        self.owner.hold(taken.stamp);
        let flow = self.flow(topology, &key, taken);
        flow.is_ended = true;
        for (at, operator) in topology.operators.iter().enumerate() {
            for (number, side) in operator.sides.iter().enumerate() {
                let is_answer = matches!(&side.topic, TopicOf::Model(_, End::Outputs)) && side.source == Some(step);
                if is_answer {
                    let count =
                        if operator.is_cyclic { taken.envelope.branch.count + u32::from(side.is_back) } else { 0 };
                    flow.rule_out((at, count), number, format!("{} failed: {}", failure.step, failure.text));
                }
            }
        }
        flow.keep(taken.stamp);
        self.settle(&key, taken.stamp, now);
    }
}
