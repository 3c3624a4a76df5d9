//! Runs all topologies over the records of one shard: records in, records to write out, no I/O.
//!
//! Invariants: every record taken is held until all that is derived from it is acknowledged; an operator's emission has a
//! slot by lineage, so that another owner would write the same one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use domain::{End, PipelineName, Time, TopicOf, Topics};

use crate::envelope::{Envelope, Headers, name, union};
use crate::failure::Failure;
use crate::flow::{At, Context, Flow};
use crate::owner::{Owner, Place, Stamp};
use crate::parts::{Format, Malformed, Parts};
use crate::plan::{Plan, Reading};
use crate::slot::{Branch, Root, Slot};
use crate::topology::{Operator, OperatorKind, Topology};
use crate::window::Datum;

/// Most requests with open windows before entries have to wait.
const FLOWS_MAX: usize = 200_000;

/// How long after its deadline a request is forgotten.
const EXPIRY_GRACE_MS: u64 = 1_000;

/// A record to be written to the partition of the shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Emission {
    /// To be said when it is acknowledged or refused.
    pub id: EmissionId,
    /// Where it goes.
    pub topic: TopicOf,
    /// As that of what it is made from.
    pub key: Bytes,
    /// With the envelope.
    pub headers: Headers,
    /// A message, or the text of an error.
    pub value: Bytes,
}

/// Names an emission until it is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EmissionId(pub u64);

/// A record as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incoming<'a> {
    /// Name of its topic.
    pub topic: &'a Arc<str>,
    /// What the topic is for.
    pub of: &'a TopicOf,
    /// Which of the topics that ever had the name.
    pub incarnation: u64,
    /// Its number.
    pub offset: u64,
    /// When the log took it.
    pub time: Time,
    /// Its key.
    pub key: Bytes,
    /// Its headers.
    pub headers: Headers,
    /// Its value.
    pub value: Bytes,
}

/// What happened, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Records read.
    pub records: u64,
    /// Repeats dropped.
    pub repeats: u64,
    /// Records that nobody waited for any more.
    pub expired: u64,
    /// Records that concern no pipeline here.
    pub ignored: u64,
    /// Records that are no messages.
    pub malformed: u64,
    /// Requests that were ended with an error because nothing could come of them.
    pub ended: u64,
    /// Records written.
    pub emitted: u64,
    /// Emissions that were in their sink already.
    pub found: u64,
    /// Errors that could not be written either.
    pub lost_errors: u64,
}

type FlowKey = (PipelineName, u32, Root);

/// What an emission is made from.
struct Outstanding {
    stamps: Vec<Stamp>,
    topology: Arc<Topology>,
    envelope: Envelope,
    key: Bytes,
    headers: Headers,
    is_error: bool,
    operator: String,
}

/// Everything of one shard.
pub struct Engine {
    partition: u32,
    topics: Topics,
    owner: Owner,
    flows: BTreeMap<FlowKey, Flow>,
    timers: BTreeSet<(Time, FlowKey)>,
    outstanding: BTreeMap<EmissionId, Outstanding>,
    emissions: Vec<Emission>,
    next: u64,
    counters: Counters,
}

/// A record on its way through the engine.
struct Taken {
    envelope: Envelope,
    key: Bytes,
    headers: Headers,
    value: Bytes,
    time: Time,
    stamp: Stamp,
    topic: Arc<str>,
}

impl Engine {
    /// The engine of one partition, with what is known of it.
    #[must_use]
    pub fn new(partition: u32, topics: Topics, owner: Owner) -> Self {
        Self {
            partition,
            topics,
            owner,
            flows: BTreeMap::new(),
            timers: BTreeSet::new(),
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

    /// Entries have to wait.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.owner.is_full() || self.flows.len() >= FLOWS_MAX
    }

    /// Nothing is in hand.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.outstanding.is_empty() && self.owner.held() == 0
    }

    /// Emissions that are not acknowledged yet.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.outstanding.len()
    }

    /// When [`Engine::tick`] has something to do at the earliest.
    #[must_use]
    pub fn next_timer(&self) -> Option<Time> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Takes a record.
    pub fn take(&mut self, plan: &Plan, record: Incoming<'_>, now: Time) {
        self.counters.records += 1;
        let envelope = Envelope::read(&record.headers, record.topic, record.incarnation, self.partition, record.offset);
        let place = Place { topic: Arc::clone(record.topic), offset: record.offset };
        let Some(stamp) = self.owner.admit(place, envelope.slot, record.time, now) else { return };
        if envelope.is_expired(now) {
            self.counters.expired += 1;
            self.owner.release(stamp);
            return;
        }
        let is_error = record.headers.iter().any(|(name, _)| name == name::ERRORS);
        let Incoming { topic, of, key, headers, value, time, .. } = record;
        let taken = Taken { envelope, key, headers, value, time, stamp, topic: Arc::clone(topic) };
        match of {
            TopicOf::Errors => self.take_error(plan, taken, now),
            // An error is nobody's data.
            _ if is_error => self.ignore(stamp),
            _ => self.take_data(plan, of, taken, now),
        }
    }

    fn ignore(&mut self, stamp: Stamp) {
        self.counters.ignored += 1;
        self.owner.release(stamp);
    }

    fn take_data(&mut self, plan: &Plan, of: &TopicOf, mut taken: Taken, now: Time) {
        // What stands in the inputs of a pipeline is that pipeline's, also if it does not say so.
        if let (None, TopicOf::Pipeline(pipeline, End::Inputs)) = (&taken.envelope.pipeline, of) {
            taken.envelope.pipeline = Some(pipeline.clone());
        }
        let Some(pipeline) = taken.envelope.pipeline.clone() else { return self.ignore(taken.stamp) };
        let readings: Vec<Reading> = plan.readers(of, &pipeline).to_vec();
        let stamp = taken.stamp;
        let (mut parts, mut is_read) = (None, false);
        for reading in readings {
            let is_own = reading.topology.pipeline == pipeline;
            let version = match taken.envelope.version {
                Some(version) if is_own => Some(version),
                _ => plan.active_at(&reading.topology.pipeline, taken.time),
            };
            if version != Some(reading.topology.version) {
                continue;
            }
            is_read = true;
            let format = reading.topology.operators[reading.operator].sides[reading.side].format();
            let parsed = parts.get_or_insert_with(|| Parts::parse(&taken.value, format));
            match parsed {
                Ok(parts) => {
                    let parts = parts.clone();
                    self.side(&reading, &taken, parts, is_own, now);
                }
                Err(error) => {
                    let error = error.clone();
                    self.malformed(&reading.topology, &taken, &error, format, is_own);
                }
            }
        }
        let is_gone = taken.envelope.version.filter(|version| plan.version(&pipeline, *version).is_none());
        match is_gone {
            Some(version) if !is_read && taken.envelope.deadline.is_some() && plan.knows(&pipeline) => {
                self.end_without_version(&pipeline, version, taken);
            }
            _ if is_read => self.owner.release(stamp),
            _ => self.ignore(stamp),
        }
    }

    /// Its version is forgotten, although somebody waits.
    fn end_without_version(&mut self, pipeline: &PipelineName, version: u32, taken: Taken) {
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

    fn malformed(&mut self, topology: &Arc<Topology>, taken: &Taken, error: &Malformed, format: Format, is_own: bool) {
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

    /// One side of one operator gets a record.
    fn side(&mut self, reading: &Reading, taken: &Taken, parts: Parts, is_own: bool, now: Time) {
        let topology = &reading.topology;
        let operator = &topology.operators[reading.operator];
        let side = &operator.sides[reading.side];
        let mut envelope = taken.envelope.clone();
        if !is_own {
            envelope.branch = envelope.branch.entering();
            envelope.deadline = None;
        }
        envelope.version = Some(topology.version);
        envelope.pipeline = Some(topology.pipeline.clone());
        if side.is_back {
            envelope.branch.count += 1;
            if envelope.branch.count > topology.revisits_max {
                return self.too_often(topology, operator, taken, &envelope);
            }
        }
        let count = if operator.is_cyclic { envelope.branch.count } else { 0 };
        let at = (reading.operator, count);
        let parts = parts.select(side.tensors.as_deref(), &side.renamed);
        self.owner.hold(taken.stamp);
        if parts.is_empty() {
            let reason = format!("{} was not in the answer", side.shown(&topology.pipeline));
            return self.rule_out(topology, at, reading.side, reason, taken, now);
        }
        let Taken { key, headers, stamp, .. } = taken;
        let datum = Datum { envelope, key: key.clone(), headers: headers.clone(), parts, stamp: *stamp };
        if operator.is_simple() {
            self.fire(topology, at, vec![datum], None, Vec::new());
            return;
        }
        let flow_key = flow_key(topology, operator, &datum.envelope, key);
        let flow = self.flow(topology, &flow_key, taken);
        if let Some(unneeded) = flow.put(at, reading.side, datum, taken.time) {
            self.owner.release(unneeded);
        }
        // An external pair may have been put elsewhere than at 0.
        let open = self.flows.get(&flow_key).map(Flow::open).unwrap_or_default();
        open.into_iter().filter(|(open, _)| *open == at.0).for_each(|at| self.look(&flow_key, at, now));
        self.tidy(&flow_key, taken.stamp);
    }

    fn too_often(&mut self, topology: &Arc<Topology>, operator: &Operator, taken: &Taken, envelope: &Envelope) {
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

    /// The record of a side that holds none of the wanted tensors. The hold on it is the flow's.
    fn rule_out(&mut self, topology: &Arc<Topology>, at: At, side: usize, reason: String, taken: &Taken, now: Time) {
        let flow_key = flow_key(topology, &topology.operators[at.0], &taken.envelope, &taken.key);
        let flow = self.flow(topology, &flow_key, taken);
        flow.rule_out(at, side, reason);
        flow.keep(taken.stamp);
        self.settle(&flow_key, taken.stamp, now);
    }

    /// The flow of a request, as it is about to change.
    fn flow(&mut self, topology: &Arc<Topology>, key: &FlowKey, taken: &Taken) -> &mut Flow {
        let longest = topology.operators.iter().map(|operator| operator.window_ms).max().unwrap_or(0);
        // Whoever comes from another pipeline has no deadline here.
        let is_own = taken.envelope.pipeline.as_ref() == Some(&topology.pipeline);
        let deadline = taken.envelope.deadline.filter(|_| is_own);
        let expires = deadline.unwrap_or(taken.time.after(longest)).after(EXPIRY_GRACE_MS);
        let flow = self.flows.entry(key.clone()).or_insert_with(|| {
            let envelope = Envelope {
                deadline,
                pipeline: Some(topology.pipeline.clone()),
                version: Some(topology.version),
                ..taken.envelope.clone()
            };
            let context = Context { envelope, key: taken.key.clone(), headers: taken.headers.clone() };
            Flow::new(Arc::clone(topology), context, expires)
        });
        self.timers.remove(&(flow.next_timer(), key.clone()));
        flow.expires = flow.expires.max(expires);
        flow
    }

    /// Looks at all open windows until nothing changes, then at the request as a whole.
    fn settle(&mut self, flow_key: &FlowKey, stamp: Stamp, now: Time) {
        let mut open = self.flows.get(flow_key).map(Flow::open).unwrap_or_default();
        loop {
            open.iter().for_each(|at| self.look(flow_key, *at, now));
            let left = self.flows.get(flow_key).map(Flow::open).unwrap_or_default();
            if left.len() == open.len() {
                break;
            }
            open = left;
        }
        self.tidy(flow_key, stamp);
    }

    fn look(&mut self, flow_key: &FlowKey, at: At, now: Time) {
        let read_time = self.owner.read_time(now);
        let Some(flow) = self.flows.get_mut(flow_key) else { return };
        let topology = Arc::clone(&flow.topology);
        let Some(settled) = flow.look(at, read_time) else { return };
        if !settled.verdict.fire.is_empty() && topology.output == Some(at.0) {
            flow.is_ended = true;
        }
        for (data, side) in settled.verdict.fire {
            settled.triggers.iter().for_each(|stamp| self.owner.hold(*stamp));
            self.fire(&topology, settled.at, data, side, settled.triggers.clone());
        }
        settled.released.iter().for_each(|stamp| self.owner.release(*stamp));
    }

    /// Ends the request if nothing can come of it, and forgets the flow if it is not needed any more.
    fn tidy(&mut self, flow_key: &FlowKey, stamp: Stamp) {
        let Some(flow) = self.flows.get_mut(flow_key) else { return };
        // Whoever waits is told; of data that nobody waits for, some are filtered out on purpose.
        if !flow.is_ended
            && flow.context.envelope.deadline.is_some()
            && let Some((step, reason)) = flow.hopeless()
        {
            flow.is_ended = true;
            let topology = Arc::clone(&flow.topology);
            self.counters.ended += 1;
            let Context { envelope, key, headers } = flow.context.clone();
            self.owner.hold(stamp);
            let failure = Failure::new(step, Failure::PRECONDITION, reason);
            let failed = topology.pipeline.to_string();
            self.end(&topology, &envelope, &key, &headers, &failure, &failed, vec![stamp]);
        }
        self.keep_or_drop(flow_key);
    }

    fn keep_or_drop(&mut self, flow_key: &FlowKey) {
        let Some(flow) = self.flows.get(flow_key) else { return };
        if flow.is_done() {
            self.drop_flow(flow_key);
        } else {
            self.timers.insert((flow.next_timer(), flow_key.clone()));
        }
    }

    fn drop_flow(&mut self, flow_key: &FlowKey) {
        if let Some(flow) = self.flows.remove(flow_key) {
            self.timers.remove(&(flow.next_timer(), flow_key.clone()));
            flow.stamps().into_iter().for_each(|stamp| self.owner.release(stamp));
        }
    }

    /// Closes windows whose time is over and forgets requests.
    pub fn tick(&mut self, now: Time) {
        self.owner.forget(now);
        let read_time = self.owner.read_time(now);
        while let Some((at, flow_key)) = self.timers.first().cloned() {
            if at > read_time {
                break;
            }
            self.timers.pop_first();
            let Some(flow) = self.flows.get_mut(&flow_key) else { continue };
            if flow.expires <= read_time {
                self.drop_flow(&flow_key);
                continue;
            }
            let Some(stamp) = flow.stamps().first().copied() else {
                self.keep_or_drop(&flow_key);
                continue;
            };
            // What is let go of while it settles is still needed for the error that may come of it.
            self.owner.hold(stamp);
            self.settle(&flow_key, stamp, now);
            self.owner.release(stamp);
        }
    }

    /// An operator emits what its data are together. Its stamps are those of the data and the triggers.
    fn fire(&mut self, topology: &Arc<Topology>, at: At, data: Vec<Datum>, any: Option<u16>, triggers: Vec<Stamp>) {
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
        envelope.slot = Slot::of_emission(&topology.pipeline, operator.name(), envelope.root, &envelope.branch);
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
    fn emit(
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
    fn end(
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

    fn write(&mut self, topic: TopicOf, outstanding: Outstanding, extra: Headers, value: Bytes) {
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

    /// A model failed.
    fn take_error(&mut self, plan: &Plan, taken: Taken, now: Time) {
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
    fn fail_step(&mut self, topology: &Arc<Topology>, step: usize, failure: &Failure, taken: &Taken, now: Time) {
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

    /// A version is gone: whatever it had in hand is dropped.
    pub fn forget_version(&mut self, pipeline: &PipelineName, version: u32) {
        let range = (pipeline.clone(), version, Root(0))..=(pipeline.clone(), version, Root(u128::MAX));
        let keys: Vec<FlowKey> = self.flows.range(range).map(|(key, _)| key.clone()).collect();
        keys.iter().for_each(|key| self.drop_flow(key));
    }
}

fn flow_key(topology: &Topology, operator: &Operator, envelope: &Envelope, key: &Bytes) -> FlowKey {
    let root = if operator.is_external() { Root::of_key(key) } else { envelope.root };
    (topology.pipeline.clone(), topology.version, root)
}

fn request(headers: &Headers) -> &str {
    crate::envelope::text(headers, name::REQUEST_ID).unwrap_or("without an id")
}
