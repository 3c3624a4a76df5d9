//! What operators emit, and what becomes of it at the log.

use std::sync::Arc;

use bytes::Bytes;
use domain::{End, TopicOf};

use super::{Emission, EmissionId, Engine, Outstanding};
use crate::envelope::{Envelope, Headers, name, union};
use crate::failure::Failure;
use crate::flow::At;
use crate::owner::Stamp;
use crate::parts::Parts;
use crate::slot::{Branch, Slot};
use crate::topology::{Operator, Topology};
use crate::window::Datum;

impl Engine {
    /// An operator emits what its data are together. Its stamps are those of the data and the triggers.
    pub(super) fn fire(
        &mut self,
        topology: &Arc<Topology>,
        at: At,
        data: Vec<Datum>,
        any: Option<u16>,
        triggers: Vec<Stamp>,
    ) {
        let operator = &topology.operators[at.0];
        let mut stamps: Vec<Stamp> = data.iter().map(|datum| datum.stamp).collect();
        stamps.extend(triggers);
        let sources: Vec<Slot> = data.iter().map(|datum| datum.envelope.slot).collect();
        let is_joined = operator.data > 1 && any.is_none();
        let mut data = data.into_iter();
        let Some(first) = data.next() else { return };
        let (mut envelope, key, mut headers, mut all) = (first.envelope, first.key, first.headers, vec![first.parts]);
        for datum in data {
            union(&mut headers, &datum.headers);
            let both = [envelope.deadline, datum.envelope.deadline];
            envelope.deadline = both.into_iter().flatten().min();
            all.push(datum.parts);
        }
        envelope.branch = match any {
            Some(side) => envelope.branch.by(side),
            None if is_joined => Branch { count: at.1, sides: Vec::new() },
            None => envelope.branch,
        };
        envelope.slot = topology.slot(operator, envelope.root, &envelope.branch);
        let parts = match Parts::join(all) {
            Ok(parts) => parts,
            Err(error) => {
                let failure = Failure::new(operator.name(), Failure::INVALID, error.to_string());
                self.end(topology, &envelope, &key, &headers, &failure, topology.pipeline.as_str(), stamps);
                return;
            }
        };
        if let Some(batch) = operator.batch {
            let window = batch.window_ms.map(|window| format!("/{window}")).unwrap_or_default();
            headers.retain(|(name, _)| name != name::BATCH);
            let header = (name::BATCH.to_owned(), format!("{}{window}", batch.size).into());
            self.emit(topology, operator, envelope, key, headers, vec![header], parts.write(operator.format()), stamps);
            return;
        }
        let mut extra = Headers::new();
        if operator.is_external() && sources.len() > 1 {
            let sources: Vec<String> = sources.iter().map(Slot::to_string).collect();
            extra.push((name::SOURCES.to_owned(), sources.join(",").into()));
        }
        self.emit(topology, operator, envelope, key, headers, extra, parts.write(operator.format()), stamps);
    }

    #[expect(clippy::too_many_arguments, reason = "a record has many parts")]
    pub(super) fn emit(
        &mut self,
        topology: &Arc<Topology>,
        operator: &Operator,
        envelope: Envelope,
        key: Bytes,
        headers: Headers,
        extra: Headers,
        value: Bytes,
        stamps: Vec<Stamp>,
    ) {
        let outstanding = Outstanding {
            stamps,
            topology: Arc::clone(topology),
            envelope,
            key,
            headers,
            is_error: false,
            operator: operator.name().to_owned(),
        };
        self.write(operator.sink.clone(), outstanding, extra, value);
    }

    /// Ends a request with an error in the outputs of its pipeline.
    #[expect(clippy::too_many_arguments, reason = "a record has many parts")]
    pub(super) fn end(
        &mut self,
        topology: &Arc<Topology>,
        envelope: &Envelope,
        key: &Bytes,
        headers: &Headers,
        failure: &Failure,
        failed: &str,
        stamps: Vec<Stamp>,
    ) {
        let slot = Slot::of_end(&topology.pipeline, envelope.root);
        let mut headers = headers.clone();
        headers.retain(|(name, _)| name != name::ERRORS);
        let outstanding = Outstanding {
            stamps,
            topology: Arc::clone(topology),
            envelope: Envelope { slot, version: Some(topology.version), ..envelope.clone() },
            key: key.clone(),
            headers,
            is_error: true,
            operator: failure.step.clone(),
        };
        let sink = TopicOf::Pipeline(topology.pipeline.clone(), End::Outputs);
        self.write(sink, outstanding, failure.headers(failed), failure.text.clone().into());
    }

    pub(super) fn write(&mut self, topic: TopicOf, outstanding: Outstanding, extra: Headers, value: Bytes) {
        if self.owner.is_emitted(outstanding.envelope.slot) {
            self.counters.found += 1;
            outstanding.stamps.iter().for_each(|stamp| self.owner.release(*stamp));
            return;
        }
        let id = EmissionId(self.next);
        self.next += 1;
        self.counters.emitted += 1;
        let mut headers =
            outstanding.envelope.write(outstanding.headers.clone(), &self.topics.name(&topic), self.partition);
        headers.extend(extra);
        self.emissions.push(Emission { id, topic, key: outstanding.key.clone(), headers, value });
        self.outstanding.insert(id, outstanding);
    }

    /// The log has it.
    pub fn acked(&mut self, id: EmissionId) {
        if let Some(outstanding) = self.outstanding.remove(&id) {
            outstanding.stamps.iter().for_each(|stamp| self.owner.release(*stamp));
        }
    }

    /// The log will never take it: the request ends with an error instead.
    pub fn refused(&mut self, id: EmissionId, reason: &str) {
        let Some(outstanding) = self.outstanding.remove(&id) else { return };
        if outstanding.is_error {
            self.counters.lost_errors += 1;
            outstanding.stamps.iter().for_each(|stamp| self.owner.release(*stamp));
            return;
        }
        let Outstanding { stamps, topology, envelope, key, headers, operator, .. } = outstanding;
        let failure =
            Failure::new(&operator, Failure::INTERNAL, format!("what {operator} gets cannot be written: {reason}"));
        let failed = topology.pipeline.to_string();
        self.end(&topology, &envelope, &key, &headers, &failure, &failed, stamps);
    }
}
