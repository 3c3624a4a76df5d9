//! Runs all topologies over the records of one shard: records in, records to write out, no I/O.
//!
//! Invariants: every record taken is held until all that is derived from it is acknowledged; an operator's emission has a
//! slot by lineage, so that another owner would write the same one.

mod emit;
mod fail;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use domain::{End, JoinKind, PipelineName, Time, TopicOf, Topics};

use crate::envelope::{Envelope, Headers, name};
use crate::failure::Failure;
use crate::flow::{At, Context, Flow};
use crate::owner::{Owner, Place, Stamp};
use crate::parts::Parts;
use crate::plan::{Plan, Reading};
use crate::slot::{Branch, Root};
use crate::topology::{Operator, Topology};
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

impl Incoming<'_> {
    pub(crate) fn place(&self) -> Place {
        Place { topic: Arc::clone(self.topic), incarnation: self.incarnation, offset: self.offset }
    }
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
        let place = record.place();
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
        let mut readings: Vec<Reading> = plan.readers(of, &pipeline).to_vec();
        if readings.iter().any(|reading| reading.side().is_back) {
            readings.sort_by_cached_key(|reading| precedence(reading, &taken.value));
        }
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
            let format = reading.side().format();
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
            let message = match side.topic {
                TopicOf::Pipeline(_, End::Inputs) | TopicOf::Model(_, End::Inputs) => "request",
                _ => "answer",
            };
            let reason = format!("{} was not in the {message}", side.shown(&topology.pipeline));
            return self.rule_out(topology, at, reading.side, reason, taken, now);
        }
        let Taken { key, headers, stamp, .. } = taken;
        let datum = Datum { envelope, key: key.clone(), headers: headers.clone(), parts, stamp: *stamp };
        if operator.is_simple() {
            self.fire(topology, at, vec![datum], None, Vec::new());
            return;
        }
        if self.is_done_already(topology, at, reading.side, &datum.envelope) {
            // The owner before has written what this was a part of.
            self.owner.release(datum.stamp);
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
        self.tidy(&flow_key, taken.stamp, now);
    }

    /// What comes of this side was found in its sink.
    fn is_done_already(&self, topology: &Topology, at: At, side: usize, envelope: &Envelope) -> bool {
        let operator = &topology.operators[at.0];
        let joined = Branch { count: at.1, sides: Vec::new() };
        let branch = match (operator.data, operator.join) {
            (1, _) => envelope.branch.clone(),
            (_, JoinKind::Any) if side >= operator.data => return false,
            (_, JoinKind::Any) => envelope.branch.clone().by(u16::try_from(side).unwrap_or(u16::MAX)),
            (_, JoinKind::Inner | JoinKind::Outer) => joined,
        };
        self.owner.is_emitted(topology.slot(operator, envelope.root, &branch))
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
        self.tidy(flow_key, stamp, now);
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
    fn tidy(&mut self, flow_key: &FlowKey, stamp: Stamp, now: Time) {
        let Some(flow) = self.flows.get_mut(flow_key) else { return };
        // Whoever waits is told; of data that nobody waits for, some are filtered out on purpose.
        let is_waited_for = flow.context.envelope.deadline.is_some_and(|deadline| now < deadline);
        if !flow.is_ended
            && is_waited_for
            && let Some((step, reason)) = flow.hopeless()
        {
            flow.is_ended = true;
            let (topology, context) = (Arc::clone(&flow.topology), flow.context.clone());
            let Context { envelope, key, headers } = context;
            let at = topology.output.map(|output| (output, envelope.branch.count));
            let is_answered = at.is_some_and(|at| self.is_done_already(&topology, at, 0, &envelope));
            if !is_answered {
                self.counters.ended += 1;
                self.owner.hold(stamp);
                let failure = Failure::new(step, Failure::PRECONDITION, reason);
                let failed = topology.pipeline.to_string();
                self.end(&topology, &envelope, &key, &headers, &failure, &failed, vec![stamp]);
            }
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
}

/// An answer goes before the error of a cycle that may not go on, and that before what is missing for an answer.
fn precedence(reading: &Reading, value: &Bytes) -> u8 {
    let side = reading.side();
    let parts = Parts::parse(value, side.format()).map(|parts| parts.select(side.tensors.as_deref(), &side.renamed));
    match parts {
        _ if side.is_back => 1,
        Ok(parts) if parts.is_empty() => 2,
        Ok(_) | Err(_) => 0,
    }
}

fn flow_key(topology: &Topology, operator: &Operator, envelope: &Envelope, key: &Bytes) -> FlowKey {
    let root = if operator.is_external() { Root::of_key(key) } else { envelope.root };
    (topology.pipeline.clone(), topology.version, root)
}

fn request(headers: &Headers) -> &str {
    crate::envelope::text(headers, name::REQUEST_ID).unwrap_or("without an id")
}
