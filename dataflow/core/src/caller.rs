//! Which records of one shard become calls of models, and what becomes of the answers. No I/O.
//!
//! Invariants: an input is complete when its answer or its error is acknowledged; an answer has the slot of its input.

use std::collections::BTreeMap;

use bytes::Bytes;
use domain::{End, ModelName, Time, TopicOf, Topics};

use crate::engine::{Counters, Emission, EmissionId, Incoming};
use crate::envelope::{Envelope, Headers, name, text, union};
use crate::failure::Failure;
use crate::left::Request;
use crate::owner::{Owner, Stamp};
use crate::slot::Slot;

/// Names a call until it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// A model to be called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// To be said with the outcome.
    pub id: CallId,
    /// Which model.
    pub model: ModelName,
    /// The message, of whatever kind.
    pub value: Bytes,
    /// What the producer says that it is.
    pub infer_type: Option<String>,
    /// `x-…` headers for the model, without routes.
    pub headers: Headers,
    /// When nobody waits any more.
    pub deadline: Option<Time>,
    /// Whose it is, if it says so, and after how many returns of a cycle: not called when that is not needed any more.
    pub of: Option<(Request, u32)>,
    /// Rows to be called together, and for how many milliseconds the first one waits.
    pub batch: Option<(u32, Option<u32>)>,
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The model answered with this message; `x-…` headers came with it.
    Answer(Bytes, Headers),
    /// It failed.
    Failed(Failure),
}

struct Pending {
    stamp: Stamp,
    envelope: Envelope,
    key: Bytes,
    headers: Headers,
    model: ModelName,
    is_error: bool,
}

/// Everything of one shard.
pub struct Caller {
    partition: u32,
    topics: Topics,
    owner: Owner,
    calls: BTreeMap<CallId, Pending>,
    outstanding: BTreeMap<EmissionId, Pending>,
    emissions: Vec<Emission>,
    next: u64,
    counters: Counters,
}

impl Caller {
    /// The caller of one partition, with what is known of it.
    #[must_use]
    pub fn new(partition: u32, topics: Topics, owner: Owner) -> Self {
        Self {
            partition,
            topics,
            owner,
            calls: BTreeMap::new(),
            outstanding: BTreeMap::new(),
            emissions: Vec::new(),
            next: 0,
            counters: Counters::default(),
        }
    }

    /// Progress.
    pub fn owner(&mut self) -> &mut Owner {
        &mut self.owner
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        Counters { repeats: self.owner.repeats(), ..self.counters }
    }

    /// What is to be written now.
    pub fn emissions(&mut self) -> Vec<Emission> {
        std::mem::take(&mut self.emissions)
    }

    /// Emissions that are not acknowledged yet.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.outstanding.len()
    }

    /// Nothing is in hand.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.calls.is_empty() && self.outstanding.is_empty()
    }

    /// Takes a record of a model's inputs; gives the call to make, unless it is a repeat, too late or answered already.
    pub fn take(&mut self, record: Incoming<'_>, now: Time) -> Option<Call> {
        let TopicOf::Model(model, End::Inputs) = record.of else { return None };
        self.counters.records += 1;
        let envelope = Envelope::read(&record.headers, record.topic, record.incarnation, self.partition, record.offset);
        let place = record.place();
        let stamp = self.owner.admit(place, envelope.slot, record.time, now)?;
        if envelope.is_expired(now) {
            self.counters.expired += 1;
            self.owner.release(stamp);
            return None;
        }
        if self.owner.is_emitted(Slot::of_answer(envelope.slot)) {
            self.counters.found += 1;
            self.owner.release(stamp);
            return None;
        }
        let id = CallId(self.next);
        self.next += 1;
        let for_model = |(name, _): &&(String, Bytes)| name.starts_with("x-") && name != name::ROUTE;
        let call = Call {
            id,
            model: model.clone(),
            value: record.value,
            infer_type: text(&record.headers, name::INFER_TYPE).map(str::to_owned),
            headers: record.headers.iter().filter(for_model).cloned().collect(),
            deadline: envelope.deadline,
            of: envelope
                .pipeline
                .clone()
                .map(|pipeline| (Request { root: envelope.root, pipeline }, envelope.branch.count)),
            batch: text(&record.headers, name::BATCH).and_then(batch),
        };
        let (key, headers, model) = (record.key, record.headers, model.clone());
        self.calls.insert(id, Pending { stamp, envelope, key, headers, model, is_error: false });
        Some(call)
    }

    /// The call ended.
    pub fn answered(&mut self, id: CallId, outcome: Outcome) {
        let Some(mut pending) = self.calls.remove(&id) else { return };
        pending.envelope.slot = Slot::of_answer(pending.envelope.slot);
        match outcome {
            Outcome::Answer(value, headers) => {
                let topic = TopicOf::Model(pending.model.clone(), End::Outputs);
                union(&mut pending.headers, &headers);
                self.write(topic, pending, Headers::new(), value);
            }
            Outcome::Failed(failure) => self.fail(pending, &failure),
        }
    }

    /// Nobody waits for the outcome: the input is complete without one, as if its time were over.
    pub fn abandoned(&mut self, id: CallId) {
        let Some(pending) = self.calls.remove(&id) else { return };
        self.counters.expired += 1;
        self.owner.release(pending.stamp);
    }

    fn fail(&mut self, mut pending: Pending, failure: &Failure) {
        pending.is_error = true;
        self.counters.ended += 1;
        let extra = failure.headers(pending.model.as_str());
        self.write(TopicOf::Errors, pending, extra, failure.text.clone().into());
    }

    fn write(&mut self, topic: TopicOf, pending: Pending, extra: Headers, value: Bytes) {
        let id = EmissionId(self.next);
        self.next += 1;
        self.counters.emitted += 1;
        let mut headers = pending.envelope.write(pending.headers.clone(), &self.topics.name(&topic), self.partition);
        headers.extend(extra);
        self.emissions.push(Emission { id, topic, key: pending.key.clone(), headers, value });
        self.outstanding.insert(id, pending);
    }

    /// The log has it.
    pub fn acked(&mut self, id: EmissionId) {
        if let Some(pending) = self.outstanding.remove(&id) {
            self.owner.release(pending.stamp);
        }
    }

    /// The log will never take it: an answer becomes an error, an error is counted.
    pub fn refused(&mut self, id: EmissionId, reason: &str) {
        let Some(pending) = self.outstanding.remove(&id) else { return };
        if pending.is_error {
            self.counters.lost_errors += 1;
            self.owner.release(pending.stamp);
            return;
        }
        let text = format!("the answer of {} cannot be written: {reason}", pending.model);
        let failure = Failure::new(pending.model.as_str(), Failure::INTERNAL, text);
        self.fail(pending, &failure);
    }
}

/// `<rows>[/<milliseconds>]`
fn batch(text: &str) -> Option<(u32, Option<u32>)> {
    let (rows, window) = text.split_once('/').map_or((text, None), |(rows, window)| (rows, Some(window)));
    let window = match window {
        Some(window) => Some(window.parse().ok()?),
        None => None,
    };
    rows.parse().ok().filter(|rows| *rows > 0).map(|rows| (rows, window))
}
