//! The loop of one shard: records and acknowledgements in, emissions out, progress every second.

use std::convert::Infallible;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use dataflow_core::{Engine, Plan};
use domain::{End, TopicOf, Topics};
use runtime::Stop;
use tokio::time::{Instant, MissedTickBehavior};
use topic_log::{Log, Record};
use tracing::{info, warn};
use worker::{COMMIT_EVERY, Command, Happened, Lease, ShardLog, TakeOver, incoming, now};

use crate::GROUP;
use crate::metrics::Metrics;
use crate::pipelines::Shared;

/// A take-over that fails is tried again after this long.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A window whose time is over stays open while its sources are not read so far: it is not looked at all the time.
const TICK_AT_MOST_EVERY: Duration = Duration::from_millis(5);

/// How long a shard that is let go of may take to finish what it began.
const FINISH_WITHIN: Duration = Duration::from_secs(5);

pub(crate) struct Task {
    pub(crate) lease: Lease,
    pub(crate) log: Arc<dyn Log>,
    pub(crate) topics: Topics,
    pub(crate) plan: Shared,
    pub(crate) inputs: Vec<TopicOf>,
    pub(crate) sinks: Vec<TopicOf>,
    pub(crate) metrics: Metrics,
    pub(crate) stop: Stop,
}

struct Running {
    log: ShardLog,
    engine: Engine,
    plan: Shared,
    is_paused: bool,
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
        let Some(mut running) = self.take_over().await else { return };
        info!(partition = self.lease.shard.partition, epoch = self.lease.shard.epoch, "shard taken over");
        let mut commit = tokio::time::interval(COMMIT_EVERY);
        commit.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut finish: Option<Instant> = None;
        loop {
            let timer = running.engine.next_timer().map(|at| Duration::from_millis(at.since(now())));
            let timer = timer.map(|timer| timer.clamp(TICK_AT_MOST_EVERY, COMMIT_EVERY));
            tokio::select! {
                command = self.lease.commands.recv(), if finish.is_none() => match command {
                    Some(Command::Topics { start, stop, done }) => {
                        running.change(start, stop).await;
                        // Whoever asked may have gone.
                        let _gone = done.send(());
                    }
                    Some(Command::Finish) | None => {
                        finish = Some(Instant::now() + FINISH_WITHIN);
                        running.pause(|_| true);
                    }
                },
                happened = running.log.next(running.engine.owner()) => running.happened(happened),
                _ = commit.tick() => {
                    running.tick();
                    let Running { log, engine, .. } = &mut running;
                    log.commit(engine.owner());
                    self.metrics.set(self.lease.shard.partition, running.engine.counters());
                }
                () = tokio::time::sleep(timer.unwrap_or(COMMIT_EVERY)) => running.tick(),
            }
            if let Some(until) = finish
                && (running.engine.outstanding() == 0 || until <= Instant::now())
            {
                running.store().await;
                return;
            }
        }
    }

    async fn take_over(&mut self) -> Option<Running> {
        loop {
            let take_over = TakeOver {
                log: Arc::clone(&self.log),
                group: GROUP,
                shard: self.lease.shard,
                topics: self.topics.clone(),
            };
            match take_over.run(self.inputs.iter().cloned(), self.sinks.iter().cloned()).await {
                Ok((log, owner)) => {
                    let engine = Engine::new(self.lease.shard.partition, self.topics.clone(), owner);
                    return Some(Running { log, engine, plan: Arc::clone(&self.plan), is_paused: false });
                }
                Err(error) => {
                    warn!(partition = self.lease.shard.partition, %error, "a shard cannot be taken over; it is tried again");
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

impl Running {
    async fn change(&mut self, start: Vec<TopicOf>, stop: Vec<TopicOf>) {
        for of in stop {
            self.log.stop(&of, self.engine.owner());
        }
        for of in start {
            if self.log.inputs().any(|(_, known)| *known == of) {
                continue;
            }
            if let Err(error) = self.log.start(&of, self.engine.owner()).await {
                warn!(topic = %of, %error, "a topic cannot be read");
            }
        }
    }

    fn happened(&mut self, happened: Happened) {
        match happened {
            Happened::Fetched(fetched) => {
                self.log.account(self.engine.owner(), &fetched);
                let Some((of, incarnation)) = self.log.input(&fetched.topic).map(|(of, at)| (of.clone(), at)) else {
                    return;
                };
                let plan = Arc::clone(&self.plan);
                let plan = plan.read().unwrap_or_else(PoisonError::into_inner);
                for record in fetched.records {
                    self.take(&plan, &fetched.topic, &of, incarnation, record);
                }
            }
            Happened::Acked(id, outcome) => self.acked(id, outcome),
            Happened::Committed | Happened::NotRead(_) => {}
        }
        self.write();
        self.make_room();
    }

    fn take(&mut self, plan: &Plan, topic: &Arc<str>, of: &TopicOf, incarnation: u64, record: Record) {
        self.engine.take(plan, incoming(topic, of, incarnation, record), now());
        self.write();
    }

    fn write(&mut self) {
        loop {
            let emissions = self.engine.emissions();
            if emissions.is_empty() {
                break;
            }
            self.log.write(emissions);
            for (id, outcome) in self.log.acks_at_hand() {
                self.acked(id, outcome);
            }
        }
    }

    fn acked(&mut self, id: dataflow_core::EmissionId, outcome: Result<topic_log::Appended, topic_log::Error>) {
        match outcome {
            Ok(_) => self.engine.acked(id),
            Err(error) => self.engine.refused(id, &error.to_string()),
        }
    }

    fn tick(&mut self) {
        self.engine.tick(now());
        self.write();
        self.make_room();
    }

    /// Entries wait while there is too much in hand; what is under way goes on.
    fn make_room(&mut self) {
        let is_full = self.engine.is_full();
        if is_full && !self.is_paused {
            self.pause(|of| matches!(of, TopicOf::Pipeline(_, End::Inputs)));
        } else if !is_full && self.is_paused {
            let all: Vec<TopicOf> = self.log.inputs().map(|(_, of)| of.clone()).collect();
            all.iter().for_each(|of| self.log.resume(of));
        }
        self.is_paused = is_full;
    }

    fn pause(&mut self, which: impl Fn(&TopicOf) -> bool) {
        let inputs = self.log.inputs().filter(|(_, of)| which(of));
        let paused: Vec<(Arc<str>, TopicOf)> = inputs.map(|(topic, of)| (Arc::clone(topic), of.clone())).collect();
        for (topic, of) in paused {
            self.log.pause(&of);
            // No window waits for what is not read on purpose, or none would ever close and make room.
            self.engine.owner().read_up_to(&topic, None);
        }
    }

    /// Stores progress for the last time.
    async fn store(&mut self) {
        self.log.commit(self.engine.owner());
        let stored = async {
            while !self.log.is_quiet() {
                let happened = self.log.next(self.engine.owner()).await;
                self.happened(happened);
            }
        };
        // What is not stored is done again.
        let _too_slow = tokio::time::timeout(FINISH_WITHIN, stored).await;
    }
}
