//! The loop of one shard, the same for every role that owns shards: records and acknowledgements in, emissions out,
//! progress every second.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use dataflow_core::{Counters, Emission, EmissionId, Incoming, Owner, REPEAT_WINDOW_MS};
use domain::{Time, TopicOf, Topics, WorkerName};
use runtime::Stop;
use tokio::time::{Instant, MissedTickBehavior};
use topic_log::{Appended, Error, Fetched, Log};
use tracing::{info, warn};

use crate::clock::now;
use crate::counters::ShardCounters;
use crate::owned::{Command, End, Lease};
use crate::shard_log::{COMMIT_EVERY, Happened, ShardLog, TakeOver, incoming};

/// A take-over that fails is tried again after this long.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A window whose time is over stays open while its sources are not read so far: it is not looked at all the time.
const TICK_AT_MOST_EVERY: Duration = Duration::from_millis(5);

/// Whoever stood still for longer may have been taken for dead (`spec/delivery.md` §7: a quarter of the repeat window).
const STOOD_STILL_MS: u64 = REPEAT_WINDOW_MS / 4;

/// How long a shard that is let go of may take to finish what it began.
const FINISH_WITHIN: Duration = Duration::from_secs(10);

/// What a role does with the records of one shard. Nothing of it waits but [`ShardWork::event`].
pub trait ShardWork: Send + 'static {
    /// Progress.
    fn owner(&mut self) -> &mut Owner;

    /// What happened so far.
    fn counters(&self) -> Counters;

    /// Takes a record.
    fn take(&mut self, record: Incoming<'_>);

    /// What is to be written now.
    fn emissions(&mut self) -> Vec<Emission>;

    /// The log has it.
    fn acked(&mut self, id: EmissionId);

    /// The log will never take it.
    fn refused(&mut self, id: EmissionId, reason: &str);

    /// Time has passed: called every second, and when [`ShardWork::next_timer`] says so.
    fn tick(&mut self);

    /// When [`ShardWork::tick`] has something to do at the earliest.
    fn next_timer(&self) -> Option<Time> {
        None
    }

    /// Waits for something that is no record, and takes it. Cancel-safe; pending while there is nothing to wait for.
    fn event(&mut self) -> impl Future<Output = ()> + Send;

    /// Pauses what it has no room for and goes on with what it has; called after everything that happens.
    fn make_room(&mut self, log: &mut ShardLog);

    /// Nothing that was begun is unfinished.
    fn is_finished(&self) -> bool;
}

/// The task of a shard.
pub(crate) struct Task<M> {
    pub(crate) lease: Lease,
    pub(crate) log: Arc<dyn Log>,
    pub(crate) worker: WorkerName,
    /// The consumer group of the role.
    pub(crate) group: &'static str,
    pub(crate) topics: Topics,
    pub(crate) inputs: Vec<TopicOf>,
    pub(crate) sinks: Vec<TopicOf>,
    /// Makes the work from what is known of the shard.
    pub(crate) work: M,
    pub(crate) counters: ShardCounters,
    pub(crate) stop: Stop,
}

/// What the loop of a shard waits for.
enum Event {
    Told(Option<Command>),
    Log(Happened),
    /// The work has taken it already.
    Work,
    Second,
    Timer,
}

struct Running<W> {
    log: ShardLog,
    work: W,
}

impl<W: ShardWork, M: Fn(u32, Owner) -> W + Send> Task<M> {
    pub(crate) async fn run(mut self) -> Result<(), Infallible> {
        let stop = self.stop.clone();
        let end = tokio::select! {
            end = self.work() => end,
            // What is not committed is done again by the next owner, and has no effect twice.
            () = stop.requested() => End::Finished,
        };
        self.lease.end(end).await;
        Ok(())
    }

    async fn work(&mut self) -> End {
        let shard = self.lease.shard;
        let Some((log, owner)) = self.take_over().await else { return End::Finished };
        let mut running = Running { log, work: (self.work)(shard.partition, owner) };
        let (worker, group) = (&self.worker, self.group);
        info!(%worker, group, partition = shard.partition, epoch = shard.epoch, "shard taken over");
        let mut commit = tokio::time::interval(COMMIT_EVERY);
        commit.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut finish: Option<Instant> = None;
        let mut awake = now();
        loop {
            let timer = running.work.next_timer().map(|at| Duration::from_millis(at.since(now())));
            let timer = timer.map(|timer| timer.clamp(TICK_AT_MOST_EVERY, COMMIT_EVERY));
            let event = tokio::select! {
                command = self.lease.commands.recv(), if finish.is_none() => Event::Told(command),
                happened = running.log.next() => Event::Log(happened),
                () = running.work.event() => Event::Work,
                _ = commit.tick() => Event::Second,
                () = tokio::time::sleep(timer.unwrap_or_default()), if timer.is_some() => Event::Timer,
            };
            // Before anything is written: others may have done it long ago, and who reads it may have forgotten.
            let slept_ms = now().since(std::mem::replace(&mut awake, now()));
            if slept_ms > STOOD_STILL_MS {
                let group = self.group;
                warn!(group, slept_ms, "the process stood still or the clock jumped: the shard is taken over again");
                return End::StoodStill;
            }
            match event {
                Event::Told(Some(Command::Topics { start, stop, done })) => {
                    running.change(start, stop).await;
                    // Whoever asked may have gone.
                    let _gone = done.send(());
                }
                Event::Told(Some(Command::Finish) | None) => {
                    finish = Some(Instant::now() + FINISH_WITHIN);
                    running.log.finish();
                }
                Event::Log(happened) => running.happened(happened),
                Event::Work => {}
                Event::Second => {
                    running.work.tick();
                    running.log.search_gone(running.work.owner()).await;
                    running.log.commit(running.work.owner());
                    self.counters.set(shard.partition, running.work.counters());
                }
                Event::Timer => running.work.tick(),
            }
            running.settle();
            if let Some(until) = finish
                && (running.work.is_finished() || until <= Instant::now())
            {
                running.store().await;
                self.counters.set(shard.partition, running.work.counters());
                return End::Finished;
            }
        }
    }

    async fn take_over(&mut self) -> Option<(ShardLog, Owner)> {
        loop {
            let take_over = TakeOver {
                log: Arc::clone(&self.log),
                group: self.group,
                shard: self.lease.shard,
                topics: self.topics.clone(),
            };
            match take_over.run(self.inputs.iter().cloned(), self.sinks.iter().cloned()).await {
                Ok(taken) => return Some(taken),
                Err(error) => {
                    let (group, partition) = (self.group, self.lease.shard.partition);
                    warn!(group, partition, %error, "a shard cannot be taken over; it is tried again");
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

impl<W: ShardWork> Running<W> {
    async fn change(&mut self, start: Vec<TopicOf>, stop: Vec<TopicOf>) {
        for of in stop {
            self.log.stop(&of, self.work.owner());
        }
        for of in start {
            if let Err(error) = self.log.start(&of, self.work.owner()).await {
                warn!(topic = %of, %error, "a topic cannot be read");
            }
        }
    }

    fn happened(&mut self, happened: Happened) {
        match happened {
            Happened::Fetched(fetched) => self.fetched(fetched),
            Happened::Acked(id, outcome) => self.acked(id, outcome),
            Happened::NotCommitted(checkpoints) => self.work.owner().not_committed(checkpoints),
            Happened::Gone(topic) => self.log.lost(&topic, self.work.owner()),
            Happened::Committed | Happened::NotRead => {}
        }
    }

    fn fetched(&mut self, fetched: Fetched) {
        self.log.account(self.work.owner(), &fetched);
        let Some((of, incarnation)) = self.log.input(&fetched.topic).map(|(of, at)| (of.clone(), at)) else { return };
        for record in fetched.records {
            self.work.take(incoming(&fetched.topic, &of, incarnation, record));
            self.write();
        }
    }

    fn acked(&mut self, id: EmissionId, outcome: Result<Appended, Error>) {
        match outcome {
            Ok(_) => self.work.acked(id),
            Err(error) => self.work.refused(id, &error.to_string()),
        }
    }

    fn write(&mut self) {
        loop {
            let emissions = self.work.emissions();
            if emissions.is_empty() {
                break;
            }
            self.log.write(emissions);
            for (id, outcome) in self.log.acks_at_hand() {
                self.acked(id, outcome);
            }
        }
    }

    fn settle(&mut self) {
        self.write();
        self.work.make_room(&mut self.log);
    }

    /// Stores progress for the last time.
    async fn store(&mut self) {
        self.log.commit(self.work.owner());
        let stored = async {
            while !self.log.is_quiet() {
                let happened = self.log.next().await;
                self.happened(happened);
                self.write();
            }
        };
        // What is not stored is done again.
        let _too_slow = tokio::time::timeout(FINISH_WITHIN, stored).await;
    }
}
