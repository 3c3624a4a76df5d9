//! The loop of one shard: records in, calls, answers out, progress every second.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use dataflow_core::{Call, CallId, Caller, Outcome};
use domain::{End, ModelName, TopicOf, Topics};
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{FuturesUnordered, StreamExt};
use runtime::Stop;
use tokio::time::{Instant, MissedTickBehavior};
use topic_log::Log;
use tracing::{info, warn};
use worker::{COMMIT_EVERY, Command, Happened, Lease, ShardLog, TakeOver, incoming, now};

use crate::GROUP;
use crate::batcher::Batcher;
use crate::client::Client;
use crate::metrics::Metrics;

/// Calls of one model at the same time, for each shard: enough to keep a server busy, few enough to be fair.
const CALLS_MAX: usize = 64;

/// A take-over that fails is tried again after this long.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How long a shard that is let go of may take to finish its calls.
const FINISH_WITHIN: Duration = Duration::from_secs(10);

pub(crate) struct Task {
    pub(crate) lease: Lease,
    pub(crate) log: Arc<dyn Log>,
    pub(crate) topics: Topics,
    pub(crate) inputs: Vec<TopicOf>,
    pub(crate) sinks: Vec<TopicOf>,
    pub(crate) client: Client,
    pub(crate) batcher: Batcher,
    /// Longest time of a call.
    pub(crate) limit: Duration,
    pub(crate) metrics: Metrics,
    pub(crate) stop: Stop,
}

/// Calls of one model.
#[derive(Default)]
struct Queue {
    waiting: VecDeque<Call>,
    active: usize,
    is_paused: bool,
}

type Running = BoxFuture<'static, (CallId, ModelName, Outcome)>;

struct Shard {
    log: ShardLog,
    caller: Caller,
    queues: BTreeMap<ModelName, Queue>,
    calls: FuturesUnordered<Running>,
    client: Client,
    batcher: Batcher,
    limit: Duration,
}

impl Task {
    pub(crate) async fn run(mut self) -> Result<(), Infallible> {
        let stop = self.stop.clone();
        tokio::select! {
            () = self.work() => {}
            // What is not committed is done again by the next owner, and has no effect twice.
            () = stop.requested() => {}
        }
        self.lease.end().await;
        Ok(())
    }

    async fn work(&mut self) {
        let partition = self.lease.shard.partition;
        let Some(mut shard) = self.take_over().await else { return };
        info!(partition, epoch = self.lease.shard.epoch, "shard taken over");
        let mut commit = tokio::time::interval(COMMIT_EVERY);
        commit.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut finish: Option<Instant> = None;
        loop {
            tokio::select! {
                command = self.lease.commands.recv(), if finish.is_none() => match command {
                    Some(Command::Topics { start, stop, done }) => {
                        shard.change(start, stop).await;
                        // Whoever asked may have gone.
                        let _gone = done.send(());
                    }
                    Some(Command::Finish) | None => {
                        finish = Some(Instant::now() + FINISH_WITHIN);
                        shard.pause_all();
                    }
                },
                happened = shard.log.next(shard.caller.owner()) => shard.happened(happened, finish.is_some()),
                Some((id, model, outcome)) = shard.calls.next(), if !shard.calls.is_empty() => {
                    shard.answered(id, &model, outcome);
                }
                _ = commit.tick() => {
                    shard.caller.owner().forget(now());
                    let Shard { log, caller, .. } = &mut shard;
                    log.commit(caller.owner());
                    self.metrics.set(partition, caller.counters());
                }
            }
            if let Some(until) = finish
                && (shard.caller.is_idle() || until <= Instant::now())
            {
                shard.store().await;
                return;
            }
        }
    }

    async fn take_over(&mut self) -> Option<Shard> {
        loop {
            let take_over = TakeOver {
                log: Arc::clone(&self.log),
                group: GROUP,
                shard: self.lease.shard,
                topics: self.topics.clone(),
            };
            match take_over.run(self.inputs.iter().cloned(), self.sinks.iter().cloned()).await {
                Ok((log, owner)) => {
                    return Some(Shard {
                        log,
                        caller: Caller::new(self.lease.shard.partition, self.topics.clone(), owner),
                        queues: BTreeMap::new(),
                        calls: FuturesUnordered::new(),
                        client: self.client.clone(),
                        batcher: self.batcher.clone(),
                        limit: self.limit,
                    });
                }
                Err(error) => {
                    let partition = self.lease.shard.partition;
                    warn!(partition, %error, "a shard cannot be taken over; it is tried again");
                }
            }
            // What is told meanwhile goes into the next try.
            let deadline = tokio::time::sleep(RETRY_AFTER);
            tokio::pin!(deadline);
            loop {
                tokio::select! {
                    () = &mut deadline => break,
                    command = self.lease.commands.recv() => match command {
                        Some(Command::Topics { start, stop, done }) => {
                            self.inputs.retain(|of| !stop.contains(of));
                            self.inputs.extend(start);
                            let _gone = done.send(());
                        }
                        Some(Command::Finish) | None => return None,
                    },
                }
            }
        }
    }
}

impl Shard {
    async fn change(&mut self, start: Vec<TopicOf>, stop: Vec<TopicOf>) {
        for of in stop {
            self.log.stop(&of, self.caller.owner());
        }
        for of in start {
            if self.log.inputs().any(|(_, known)| *known == of) {
                continue;
            }
            if let Err(error) = self.log.start(&of, self.caller.owner()).await {
                warn!(topic = %of, %error, "a topic cannot be read");
            }
        }
    }

    fn happened(&mut self, happened: Happened, is_finishing: bool) {
        match happened {
            Happened::Fetched(fetched) => {
                self.log.account(self.caller.owner(), &fetched);
                let Some((of, incarnation)) = self.log.input(&fetched.topic).map(|(of, at)| (of.clone(), at)) else {
                    return;
                };
                // What is read after the last moment is the next owner's.
                for record in fetched.records.into_iter().filter(|_| !is_finishing) {
                    let record = incoming(&fetched.topic, &of, incarnation, record);
                    if let Some(call) = self.caller.take(record, now()) {
                        self.queues.entry(call.model.clone()).or_default().waiting.push_back(call);
                    }
                }
                if let TopicOf::Model(model, _) = &of {
                    self.advance(model);
                }
            }
            Happened::Acked(id, Ok(_)) => self.caller.acked(id),
            Happened::Acked(id, Err(error)) => self.caller.refused(id, &error.to_string()),
            Happened::Committed | Happened::NotRead(_) => {}
        }
        self.write();
    }

    /// Begins the calls of a model that may begin, and reads on or waits.
    fn advance(&mut self, model: &ModelName) {
        let Some(queue) = self.queues.get_mut(model) else { return };
        while queue.active < CALLS_MAX
            && let Some(call) = queue.waiting.pop_front()
        {
            queue.active += 1;
            let (client, batcher, id, model) = (self.client.clone(), self.batcher.clone(), call.id, call.model.clone());
            let left = call.deadline.map_or(self.limit, |deadline| Duration::from_millis(deadline.since(now())));
            let limit = left.min(self.limit);
            self.calls.push(async move { (id, model, batcher.call(&client, call, limit).await) }.boxed());
        }
        let of = TopicOf::Model(model.clone(), End::Inputs);
        let is_full = !queue.waiting.is_empty();
        if is_full != queue.is_paused {
            queue.is_paused = is_full;
            if is_full { self.log.pause(&of) } else { self.log.resume(&of) }
        }
        if queue.active == 0 && queue.waiting.is_empty() {
            self.queues.remove(model);
        }
    }

    fn answered(&mut self, id: CallId, model: &ModelName, outcome: Outcome) {
        self.caller.answered(id, outcome);
        if let Some(queue) = self.queues.get_mut(model) {
            queue.active -= 1;
        }
        self.advance(model);
        self.write();
    }

    fn write(&mut self) {
        loop {
            let emissions = self.caller.emissions();
            if emissions.is_empty() {
                break;
            }
            self.log.write(emissions);
            for (id, outcome) in self.log.acks_at_hand() {
                match outcome {
                    Ok(_) => self.caller.acked(id),
                    Err(error) => self.caller.refused(id, &error.to_string()),
                }
            }
        }
    }

    fn pause_all(&mut self) {
        let all: Vec<TopicOf> = self.log.inputs().map(|(_, of)| of.clone()).collect();
        all.iter().for_each(|of| self.log.pause(of));
    }

    /// Stores progress for the last time.
    async fn store(&mut self) {
        self.log.commit(self.caller.owner());
        let stored = async {
            while !self.log.is_quiet() {
                let happened = self.log.next(self.caller.owner()).await;
                self.happened(happened, true);
            }
        };
        // What is not stored is done again.
        let _too_slow = tokio::time::timeout(FINISH_WITHIN, stored).await;
    }
}
