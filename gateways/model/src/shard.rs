//! The gateway's part in one shard: records become calls, a bounded number of each model at a time.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use dataflow_core::{Call, CallId, Caller, Counters, Emission, EmissionId, Incoming, Outcome, Owner};
use domain::{End, ModelName, TopicOf};
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{FuturesUnordered, StreamExt};
use worker::{ShardLog, ShardWork, now};

use crate::batcher::Batcher;
use crate::client::Client;
use crate::leavers::Leavers;

/// Calls of one model at the same time, for each shard: enough to keep a server busy, few enough to be fair.
const CALLS_MAX: usize = 64;

/// How models are called. All shards share it.
#[derive(Clone)]
pub(crate) struct Calling {
    client: Client,
    batcher: Batcher,
    pub(crate) leavers: Leavers,
    /// Longest time of a call.
    limit: Duration,
}

impl Calling {
    pub(crate) fn new(client: Client, leavers: Leavers, limit: Duration) -> Self {
        Self { client, batcher: Batcher::default(), leavers, limit }
    }

    fn call(&self, call: Call) -> Running {
        let (client, batcher, leavers) = (self.client.clone(), self.batcher.clone(), self.leavers.clone());
        let (id, model, of) = (call.id, call.model.clone(), call.of.clone());
        let is_shared = call.batch.is_some();
        let left = call.deadline.map_or(self.limit, |deadline| Duration::from_millis(deadline.since(now())));
        let limit = left.min(self.limit);
        async move {
            let answered = batcher.call(&client, call, limit);
            let outcome = match of {
                Some((request, returns)) if !is_shared => leavers.unless_left(&request, returns, answered).await,
                // Others may be in a call that is shared: it is not given up once it has begun.
                Some((request, returns)) if leavers.has_left(&request, returns) => None,
                Some(_) | None => Some(answered.await),
            };
            (id, model, outcome)
        }
        .boxed()
    }
}

/// No outcome: nobody waits for it.
type Running = BoxFuture<'static, (CallId, ModelName, Option<Outcome>)>;

/// Calls of one model.
#[derive(Default)]
struct Queue {
    waiting: VecDeque<Call>,
    active: usize,
    is_paused: bool,
}

pub(crate) struct ModelShard {
    caller: Caller,
    calling: Calling,
    queues: BTreeMap<ModelName, Queue>,
    calls: FuturesUnordered<Running>,
    /// Models to be paused, or to be read on.
    paused: Vec<(ModelName, bool)>,
}

impl ModelShard {
    pub(crate) fn new(caller: Caller, calling: Calling) -> Self {
        Self { caller, calling, queues: BTreeMap::new(), calls: FuturesUnordered::new(), paused: Vec::new() }
    }

    /// Begins the calls of a model that may begin, and has it read on or wait.
    fn advance(&mut self, model: &ModelName) {
        let Some(queue) = self.queues.get_mut(model) else { return };
        while queue.active < CALLS_MAX
            && let Some(call) = queue.waiting.pop_front()
        {
            queue.active += 1;
            self.calls.push(self.calling.call(call));
        }
        let is_full = !queue.waiting.is_empty();
        if is_full != queue.is_paused {
            queue.is_paused = is_full;
            self.paused.push((model.clone(), is_full));
        }
        if queue.active == 0 && !is_full {
            self.queues.remove(model);
        }
    }
}

impl ShardWork for ModelShard {
    fn owner(&mut self) -> &mut Owner {
        self.caller.owner()
    }

    fn counters(&self) -> Counters {
        self.caller.counters()
    }

    fn take(&mut self, record: Incoming<'_>) {
        if let Some(call) = self.caller.take(record, now()) {
            let model = call.model.clone();
            self.queues.entry(model.clone()).or_default().waiting.push_back(call);
            self.advance(&model);
        }
    }

    fn emissions(&mut self) -> Vec<Emission> {
        self.caller.emissions()
    }

    fn acked(&mut self, id: EmissionId) {
        self.caller.acked(id);
    }

    fn refused(&mut self, id: EmissionId, reason: &str) {
        self.caller.refused(id, reason);
    }

    fn tick(&mut self) {
        self.caller.owner().forget(now());
    }

    /// A call ends.
    async fn event(&mut self) {
        let Some((id, model, outcome)) = self.calls.next().await else { return std::future::pending().await };
        match outcome {
            Some(outcome) => self.caller.answered(id, outcome),
            None => self.caller.abandoned(id),
        }
        if let Some(queue) = self.queues.get_mut(&model) {
            queue.active -= 1;
        }
        self.advance(&model);
    }

    fn make_room(&mut self, log: &mut ShardLog) {
        for (model, is_paused) in self.paused.drain(..) {
            let of = TopicOf::Model(model, End::Inputs);
            if is_paused { log.pause(&of) } else { log.resume(&of) }
        }
    }

    fn is_finished(&self) -> bool {
        self.caller.is_idle()
    }
}
