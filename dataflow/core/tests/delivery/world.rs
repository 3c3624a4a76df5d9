//! A log in memory, an engine, a model gateway and callers, driven step by step by a seed.
//!
//! One partition: shards do not meet. The pipeline is a join of two branches, so that windows, shared sources and
//! several records in hand of one request all occur.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use dataflow_core::{
    Branch, Call, Caller, Emission, EmissionId, Engine, Envelope, Failure, Format, Headers, Incoming,
    Outcome as Answer, Owner, Parts, Plan, REPEAT_WINDOW_MS, Root, Slot, Topology, Version, name,
};
use domain::{End, PipelineName, Time, TopicOf, Topics};

use super::bug::Bug;
use super::traffic::{message, model, numbers, pipeline};

/// What came of a run.
pub struct Outcome {
    pub laws: Result<(), String>,
    pub repeated_calls: u64,
    pub crashes: u64,
}

/// Steps of a run while there are faults.
const STEPS: usize = 1_500;
const ENTRIES: u64 = 30;
/// Callers and windows wait longer than any run takes, so that everything has to have an end.
const WAIT_MS: u64 = 2_000_000;
pub const WINDOW_MS: u32 = 600_000;
/// What a model says that fails now and then.
pub const FLAKY: &str = "not today";

#[derive(Clone)]
pub struct Stored {
    pub time: Time,
    pub key: Bytes,
    pub headers: Headers,
    pub value: Bytes,
}

/// Progress: the smallest offset that is not complete, and when the oldest record in hand was read.
type Commits = BTreeMap<(Role, Arc<str>), (u64, Time)>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    Engine,
    Models,
}

enum Part {
    Engine(Box<Engine>),
    Models(Box<Caller>),
}

/// An owner at work.
struct Worker {
    role: Role,
    part: Part,
    /// Next offset to read of each topic.
    next: BTreeMap<Arc<str>, u64>,
    to_write: VecDeque<Emission>,
    unacked: Vec<EmissionId>,
    calls: Vec<Call>,
    /// When each record was read.
    read_at: BTreeMap<(Arc<str>, u64), Time>,
    /// Slots that took effect.
    taken: BTreeSet<Slot>,
    /// It is not the owner any more, and ends then.
    zombie_until: Option<Time>,
}

impl Worker {
    fn owner(&mut self) -> &mut Owner {
        match &mut self.part {
            Part::Engine(engine) => engine.owner(),
            Part::Models(caller) => caller.owner(),
        }
    }
}

pub struct World {
    chance: u64,
    now: Time,
    pub(super) log: BTreeMap<Arc<str>, Vec<Stored>>,
    commits: Commits,
    workers: Vec<Worker>,
    plan: Plan,
    topics: Topics,
    bug: Option<Bug>,
    arrivals: u64,
    pub(super) entered: BTreeMap<Root, u64>,
    /// Calls by input slot.
    called: BTreeMap<Slot, u64>,
    crashes: u64,
    /// Everything stood still for longer than W.
    slept: bool,
    /// A record took effect although it repeats another one.
    pub(super) doubled: Option<Slot>,
}

impl World {
    pub fn run(seed: u64, bug: Option<Bug>) -> Outcome {
        let topics = Topics::default();
        let mut plan = Plan::default();
        let topology = Arc::new(Topology::compile(&pipeline(), 1));
        plan.set(&topology.pipeline.clone(), vec![Version { topology, active_since: Some(Time(0)) }]);
        let mut world = World {
            chance: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            now: Time(1_000_000),
            log: BTreeMap::new(),
            commits: Commits::new(),
            workers: Vec::new(),
            plan,
            topics,
            bug,
            arrivals: 0,
            entered: BTreeMap::new(),
            called: BTreeMap::new(),
            crashes: 0,
            slept: false,
            doubled: None,
        };
        world.take_over(Role::Engine);
        world.take_over(Role::Models);
        for _ in 0..STEPS {
            world.step(true);
        }
        let laws = world.settle().and_then(|()| world.judge());
        let repeated_calls = world.called.values().map(|calls| calls - 1).sum();
        Outcome { laws, repeated_calls, crashes: world.crashes }
    }

    fn roll(&mut self, sides: u64) -> u64 {
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        self.chance % sides
    }

    pub(super) fn topic(&self, of: &TopicOf) -> Arc<str> {
        self.topics.name(of).into()
    }

    fn inputs(&self, role: Role) -> Vec<TopicOf> {
        match role {
            Role::Engine => self.plan.topics().cloned().chain([TopicOf::Errors]).collect(),
            Role::Models => ["a", "b", "c"].map(|name| TopicOf::Model(model(name), End::Inputs)).into(),
        }
    }

    fn sinks(&self, role: Role) -> Vec<TopicOf> {
        match role {
            Role::Engine => self.plan.sinks().cloned().collect(),
            Role::Models => {
                let outputs = ["a", "b", "c"].map(|name| TopicOf::Model(model(name), End::Outputs));
                outputs.into_iter().chain([TopicOf::Errors]).collect()
            }
        }
    }

    pub(super) fn envelope(&self, topic: &Arc<str>, offset: usize) -> Envelope {
        let headers = &self.log[topic][offset].headers;
        Envelope::read(headers, topic, 0, 0, offset as u64)
    }

    /// A new owner of the role's shard (`spec/delivery.md` §6).
    fn take_over(&mut self, role: Role) {
        let since = self.commits.iter().filter(|((of, _), _)| *of == role).map(|(_, (_, since))| *since).max();
        let mut owner = Owner::new(since);
        if self.bug != Some(Bug::NoScan) {
            let from = match self.bug {
                Some(Bug::SinceIsNow) => self.now,
                _ => since.unwrap_or_default().before(1_000),
            };
            for topic in self.sinks(role).iter().map(|of| self.topic(of)) {
                for (offset, record) in self.log.get(&topic).into_iter().flatten().enumerate() {
                    if record.time >= from {
                        owner.found(self.envelope(&topic, offset).slot);
                    }
                }
            }
        }
        let mut next = BTreeMap::new();
        for topic in self.inputs(role).iter().map(|of| self.topic(of)) {
            let records = self.log.get(&topic).map_or(&[][..], Vec::as_slice);
            let mut low = self.commits.get(&(role, Arc::clone(&topic))).map_or(0, |(low, _)| *low);
            if self.bug == Some(Bug::ForgottenError) && topic == self.topic(&TopicOf::Errors) {
                low = records.len() as u64;
            }
            owner.start(&topic, 0, low, records.len() as u64);
            let low = usize::try_from(low).expect("small");
            if let Some(next) = records.get(low).filter(|_| self.bug != Some(Bug::WallTime)) {
                owner.read_up_to(&topic, Some(next.time));
            }
            if self.bug != Some(Bug::NoRefill) && low > 0 {
                let oldest = records[low - 1].time.before(REPEAT_WINDOW_MS);
                for (offset, record) in records.iter().enumerate().take(low).filter(|(_, record)| record.time >= oldest)
                {
                    owner.remember(self.envelope(&topic, offset).slot, record.time);
                }
            }
            next.insert(topic, low as u64);
        }
        let part = match role {
            Role::Engine => Part::Engine(Box::new(Engine::new(0, self.topics.clone(), owner))),
            Role::Models => Part::Models(Box::new(Caller::new(0, self.topics.clone(), owner))),
        };
        self.workers.push(Worker {
            role,
            part,
            next,
            to_write: VecDeque::new(),
            unacked: Vec::new(),
            calls: Vec::new(),
            read_at: BTreeMap::new(),
            taken: BTreeSet::new(),
            zombie_until: None,
        });
    }

    /// One thing happens.
    fn step(&mut self, faults: bool) {
        let pause = self.roll(20);
        self.now = self.now.after(pause);
        if faults && (self.entered.len() as u64) < ENTRIES && self.roll(8) == 0 {
            self.enter();
        }
        if faults && self.roll(120) == 0 {
            self.crash();
        }
        let frozen_for_long = faults && self.roll(400) == 0;
        if frozen_for_long {
            // A backlog: nothing happens for a while, records get old.
            let pause = self.roll(15_000);
            self.now = self.now.after(pause);
        }
        if faults && !self.slept && self.roll(1_000) == 0 {
            self.sleep();
        }
        let now = self.now;
        self.workers.retain(|worker| worker.zombie_until.is_none_or(|until| until > now));
        let at = usize::try_from(self.roll(self.workers.len() as u64)).expect("small");
        let mut worker = self.workers.swap_remove(at);
        match self.roll(5) {
            0 | 1 => self.read(&mut worker),
            2 => self.write(&mut worker),
            3 => self.ack_or_answer(&mut worker),
            _ => self.commit(&mut worker),
        }
        self.workers.push(worker);
    }

    fn enter(&mut self) {
        let number = self.entered.len() as u64 + 1;
        let root = Root(u128::from(number) << 64 | 7);
        let deadline = self.now.after(WAIT_MS);
        let of = TopicOf::Pipeline(PipelineName::parse("p").expect("a name"), End::Inputs);
        let topic = self.topic(&of);
        let envelope = Envelope {
            root,
            slot: Slot::of_entry(root),
            branch: Branch::default(),
            deadline: Some(deadline),
            pipeline: Some(PipelineName::parse("p").expect("a name")),
            version: Some(1),
        };
        let headers = envelope.write(Headers::new(), &topic, 0);
        let (key, value) = (Bytes::from(format!("0.p.{number}")), message(&[("x", number)]));
        self.append(&topic, key, headers, value);
        self.entered.insert(root, number);
    }

    fn append(&mut self, topic: &Arc<str>, key: Bytes, headers: Headers, value: Bytes) {
        let time = self.now;
        self.log.entry(Arc::clone(topic)).or_default().push(Stored { time, key, headers, value });
    }

    /// An owner dies, or is thought dead and goes on for a while.
    fn crash(&mut self) {
        self.crashes += 1;
        let owners: Vec<usize> =
            (0..self.workers.len()).filter(|at| self.workers[*at].zombie_until.is_none()).collect();
        let at = owners[usize::try_from(self.roll(owners.len() as u64)).expect("small")];
        let role = self.workers[at].role;
        match self.roll(3) {
            0 => {
                let most = if self.bug == Some(Bug::OldZombie) { 8 * REPEAT_WINDOW_MS } else { REPEAT_WINDOW_MS / 4 };
                self.workers[at].zombie_until = Some(self.now.after(most));
            }
            _ => drop(self.workers.swap_remove(at)),
        }
        if self.bug == Some(Bug::OldZombie) && self.roll(2) == 0 {
            self.now = self.now.after(3 * REPEAT_WINDOW_MS);
        }
        self.take_over(role);
    }

    /// Everything stands still for longer than W: whoever wakes up drops what is in hand and takes over from itself
    /// (`spec/delivery.md` §7).
    fn sleep(&mut self) {
        self.slept = true;
        self.now = self.now.after(3 * REPEAT_WINDOW_MS);
        self.workers.clear();
        self.take_over(Role::Engine);
        self.take_over(Role::Models);
    }

    fn read(&mut self, worker: &mut Worker) {
        let ready: Vec<(Arc<str>, u64)> = worker
            .next
            .iter()
            .filter(|(topic, next)| self.log.get(*topic).is_some_and(|records| records.len() as u64 > **next))
            .map(|(topic, next)| (Arc::clone(topic), *next))
            .collect();
        let topics: Vec<Arc<str>> = worker.next.keys().cloned().collect();
        let owner = worker.owner();
        if ready.is_empty() {
            topics.iter().for_each(|topic| owner.read_up_to(topic, None));
            return;
        }
        for (topic, next) in &ready {
            let time = self.log[topic][usize::try_from(*next).expect("small")].time;
            owner.read_up_to(topic, Some(time).filter(|_| self.bug != Some(Bug::WallTime)));
        }
        let (topic, offset) = ready[usize::try_from(self.roll(ready.len() as u64)).expect("small")].clone();
        worker.next.insert(Arc::clone(&topic), offset + 1);
        worker.read_at.insert((Arc::clone(&topic), offset), self.now);
        let of = self.topics.parse(&topic).expect("a topic of ours");
        let slot = self.envelope(&topic, usize::try_from(offset).expect("small")).slot;
        let mut record = self.log[&topic][usize::try_from(offset).expect("small")].clone();
        if self.bug == Some(Bug::NoReaderSet) {
            // Without a set every record counts as new.
            record.headers.iter_mut().filter(|(header, _)| header == name::SLOT).for_each(|(_, value)| {
                *value = format!("{:032x}", u128::from(self.arrivals) << 32 | 1).into();
            });
            self.arrivals += 1;
        }
        if self.bug == Some(Bug::SetForEachTopic) && of == TopicOf::Errors {
            record.headers.iter_mut().filter(|(header, _)| header == name::SLOT).for_each(|(_, value)| {
                *value = String::from_utf8_lossy(value).chars().rev().collect::<String>().into();
            });
        }
        let incoming = Incoming {
            topic: &topic,
            of: &of,
            incarnation: 0,
            offset,
            time: record.time,
            key: record.key,
            headers: record.headers,
            value: record.value,
        };
        let (repeats, calls) = (worker.owner().repeats(), worker.calls.len());
        match &mut worker.part {
            Part::Engine(engine) => {
                engine.take(&self.plan, incoming, self.now);
                worker.to_write.extend(engine.emissions());
            }
            Part::Models(caller) => {
                if let Some(call) = caller.take(incoming, self.now) {
                    *self.called.entry(slot).or_default() += 1;
                    worker.calls.push(call);
                }
            }
        }
        if worker.owner().repeats() > repeats {
            return;
        }
        let low = self.commits.get(&(worker.role, Arc::clone(&topic))).map_or(0, |(low, _)| *low);
        let low = usize::try_from(low.min(offset)).expect("small");
        // A zombie may; an owner has the slots of all that is done, or finds the answer in the sink.
        let is_called_again = worker.zombie_until.is_none()
            && worker.calls.len() > calls
            && (0..low).any(|at| self.envelope(&topic, at).slot == slot);
        if !worker.taken.insert(slot) || is_called_again {
            self.doubled.get_or_insert(slot);
        }
    }

    fn write(&mut self, worker: &mut Worker) {
        let Some(mut emission) = worker.to_write.pop_front() else { return };
        let topic = self.topic(&emission.topic);
        self.arrivals += 1;
        let sides = emission.value.len() as u64;
        let changed = match self.bug {
            Some(Bug::SlotByArrival) => Some(self.arrivals),
            // What happens to be in it: answers of the model differ in length with what came first.
            Some(Bug::SlotBySides) if worker.role == Role::Engine => Some(sides + self.roll(2)),
            _ => None,
        };
        if let Some(changed) = changed {
            emission.headers.iter_mut().filter(|(header, _)| header == name::SLOT).for_each(|(_, value)| {
                let text = String::from_utf8_lossy(value).into_owned();
                *value = format!("{}{changed:08x}", &text[..24]).into();
            });
        }
        self.append(&topic, emission.key, emission.headers, emission.value);
        // The acknowledgement may be late, or lost: then the owner takes over from itself.
        worker.unacked.push(emission.id);
    }

    fn ack_or_answer(&mut self, worker: &mut Worker) {
        if !worker.unacked.is_empty() && self.roll(2) == 0 {
            let at = usize::try_from(self.roll(worker.unacked.len() as u64)).expect("small");
            let id = worker.unacked.swap_remove(at);
            match &mut worker.part {
                Part::Engine(engine) => engine.acked(id),
                Part::Models(caller) => caller.acked(id),
            }
            return;
        }
        let Part::Models(caller) = &mut worker.part else { return };
        if worker.calls.is_empty() {
            return;
        }
        let call = worker.calls.swap_remove(0);
        let sum: u64 = numbers(&call.value).iter().sum();
        let by = match call.model.as_str() {
            "a" => 1_000,
            "b" => 1_000_000,
            _ => 0,
        };
        let outcome = if self.roll(30) == 0 {
            Answer::Failed(Failure::new(call.model.as_str(), Failure::INTERNAL, FLAKY))
        } else if by == 0 && sum.is_multiple_of(7) {
            Answer::Failed(Failure::new("c", Failure::INTERNAL, "seven"))
        } else {
            let request = message(&[("x", sum + by)]);
            let answer = Parts::parse(&request, Format::Request).expect("a request").write(Format::Response);
            Answer::Answer(answer, Headers::new())
        };
        caller.answered(call.id, outcome);
        worker.to_write.extend(caller.emissions());
    }

    fn commit(&mut self, worker: &mut Worker) {
        let now = self.now;
        let owner = match &mut worker.part {
            Part::Engine(engine) => {
                engine.tick(now);
                worker.to_write.extend(engine.emissions());
                engine.owner()
            }
            Part::Models(caller) => {
                caller.owner().forget(now);
                caller.owner()
            }
        };
        let since = owner.since(now);
        let checkpoints = owner.checkpoints();
        if self.bug == Some(Bug::CommitBeforeAck) {
            for (topic, next) in &worker.next {
                self.commits.insert((worker.role, Arc::clone(topic)), (*next, now));
            }
            return;
        }
        if worker.zombie_until.is_some() {
            // It sees a higher epoch and stops committing.
            return;
        }
        for checkpoint in checkpoints {
            let since = match self.bug {
                Some(Bug::SinceOfOneInput) => {
                    let oldest = worker.read_at.get(&(Arc::clone(&checkpoint.topic), checkpoint.low));
                    oldest.copied().unwrap_or(now)
                }
                _ => since,
            };
            self.commits.insert((worker.role, checkpoint.topic), (checkpoint.low, since));
        }
    }

    /// No more faults: everything has to come to its end.
    fn settle(&mut self) -> Result<(), String> {
        self.workers.retain(|worker| worker.zombie_until.is_none());
        for _ in 0..40_000 {
            self.step(false);
        }
        let left = self.workers.iter().any(|worker| {
            let unread =
                worker.next.iter().any(|(topic, next)| self.log.get(topic).is_some_and(|all| all.len() as u64 > *next));
            unread || !worker.to_write.is_empty() || !worker.calls.is_empty()
        });
        if left { Err("work is left at the end".into()) } else { Ok(()) }
    }
}
