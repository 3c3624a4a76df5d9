//! The thread that drives the machine: drain the inbox, decide, commit once, then let the effects out.
//!
//! Nothing leaves before the commit returns, and a commit that fails ends the process without releasing anything,
//! because memory is ahead of the disk then. Decides nothing itself, except that new declarations are refused while
//! the disk is nearly full.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use domain::{Ticket, Time};
use prost::Message as _;
use scheduler_core::{Effect, Event, Machine, Refusal};
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, warn};

use crate::counters::Counters;
use crate::outbox::Outbox;
use crate::store::{CommitError, Pending, Store};

/// Requests that may wait for the driver. At 10 µs each the queue is worked off in 0.1 s; beyond it callers wait.
pub const INBOX: usize = 10_000;

/// Most events that share one commit: keeps the memory of a batch and the wait of its first event small, and still
/// makes the price of a sync (0.2 to 5 ms) vanish among them.
const BATCH_MAX: usize = 1_000;

/// What a record takes beside its definition: a page of the store, because it may need a new one.
const RECORD_BYTES: usize = 4_096;

/// What a server's record takes at most, without its replicas.
const SERVER_BYTES: usize = 1_024;

/// What is done between two events, with the machine at rest.
pub(crate) type Look = Box<dyn FnOnce(&Machine, &mut Outbox) + Send>;

/// A request for the driver.
pub(crate) enum Message {
    /// Something happened that nobody waits for.
    Tell(Event),
    /// A request; the ticket is made here.
    Ask(Box<dyn FnOnce(Ticket) -> Event + Send>, oneshot::Sender<Result<(), Rejected>>),
    /// Look at the machine, or change who hears of it, between two events.
    Look(Look),
    /// Read the machine when the batch is durable.
    Read(Box<dyn FnOnce(&Machine) + Send>),
    /// The process ends. Handles outlive it in connections that are still open, so their end cannot be waited for.
    End,
}

/// Why a request was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// The machine refused it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The disk is nearly full.
    #[error(
        "the scheduler's disk is nearly full: {missing_bytes} bytes more must be free before anything new is accepted; what runs goes on"
    )]
    NoSpace {
        /// How much is missing.
        missing_bytes: u64,
    },
    /// The scheduler is stopping.
    #[error("the scheduler is stopping")]
    Stopping,
}

/// The driver's state.
pub(crate) struct Driver {
    pub(crate) machine: Machine,
    pub(crate) store: Store,
    pub(crate) outbox: Outbox,
    pub(crate) inbox: mpsc::Receiver<Message>,
    pub(crate) pending: Pending,
    pub(crate) counters: Arc<Counters>,
}

impl Driver {
    /// Runs until it is told to end, every sender is gone, or the store fails.
    pub(crate) fn run(mut self) -> Result<(), CommitError> {
        let mut waiting: BTreeMap<Ticket, oneshot::Sender<Result<(), Rejected>>> = BTreeMap::new();
        let mut tickets = Ticket(0);
        let mut batch = Vec::with_capacity(BATCH_MAX);
        let mut effects = Vec::new();
        let mut reads = Vec::new();
        loop {
            if self.inbox.blocking_recv_many(&mut batch, BATCH_MAX) == 0 {
                return Ok(());
            }
            self.counters.batch();
            // Asked once for each batch, and only when somebody wants to declare something.
            let mut spare_bytes = None;
            let mut ends = false;
            for message in batch.drain(..) {
                match message {
                    Message::End => ends = true,
                    // Who is not answered any more is told so by the end of its channel.
                    Message::Tell(_) | Message::Ask(..) | Message::Look(_) | Message::Read(_) if ends => {}
                    Message::Tell(event) => self.handle(event, &mut effects),
                    Message::Ask(event, reply) => {
                        tickets = tickets.next();
                        let event = event(tickets);
                        let takes = takes_bytes(&event);
                        if takes > 0 {
                            let spare = spare_bytes.get_or_insert_with(|| self.store.spare_bytes());
                            if *spare < takes {
                                let missing_bytes = takes.saturating_sub(*spare).unsigned_abs();
                                warn!(missing_bytes, "refused a declaration, the disk is nearly full");
                                self.outbox.answer(reply, Err(Rejected::NoSpace { missing_bytes }));
                                continue;
                            }
                            *spare -= takes;
                        }
                        waiting.insert(tickets, reply);
                        self.handle(event, &mut effects);
                    }
                    Message::Read(read) => reads.push(read),
                    Message::Look(look) => {
                        self.counters.look();
                        // What was decided before it is visible to it, so it must be durable first.
                        self.finish(&mut effects, &mut waiting)?;
                        look(&self.machine, &mut self.outbox);
                    }
                }
                if self.pending.bytes() > self.store.commit_bytes() {
                    self.finish(&mut effects, &mut waiting)?;
                }
            }
            self.finish(&mut effects, &mut waiting)?;
            reads.drain(..).for_each(|read| read(&self.machine));
            if ends {
                return Ok(());
            }
        }
    }

    /// Lets the machine decide, and takes in what is to be written.
    fn handle(&mut self, event: Event, effects: &mut Vec<Effect>) {
        self.counters.event();
        let decided = effects.len();
        self.machine.handle(event, now(), effects);
        for effect in effects.iter().skip(decided) {
            if let Effect::Write(record) = effect {
                self.pending.add(record);
            }
        }
    }

    /// Makes what was decided durable, then lets it out.
    fn finish(
        &mut self,
        effects: &mut Vec<Effect>,
        waiting: &mut BTreeMap<Ticket, oneshot::Sender<Result<(), Rejected>>>,
    ) -> Result<(), CommitError> {
        if !self.pending.is_empty() {
            self.store.commit(&mut self.pending)?;
            self.counters.commit();
        }
        for effect in effects.drain(..) {
            match effect {
                Effect::Write(_) => {} // it was taken in by `handle`
                Effect::Reply(ticket, outcome) => {
                    let Some(reply) = waiting.remove(&ticket) else { continue };
                    self.outbox.answer(reply, outcome.map_err(Rejected::from));
                }
                Effect::Send { replica, connection, command } => {
                    debug!(replica = %replica, version = %command.version, action = ?command.action, "command");
                    self.outbox.send(&replica, connection, &command);
                }
                Effect::Work { worker, connection, order } => self.outbox.order(&worker, connection, *order),
                Effect::Publish(change) => self.outbox.publish(change),
                Effect::Notify(status) => self.outbox.notify(&status),
                Effect::Wake(at, timer) => self.outbox.wake(at, timer),
            }
        }
        self.outbox.flush();
        Ok(())
    }
}

/// What a declaration takes on the disk, about; 0 for events that are taken in however full it is. The record of a
/// model is written into new pages before the old ones are free.
fn takes_bytes(event: &Event) -> i64 {
    let bytes = match event {
        Event::ApplyModel { definition, .. } => api::convert::model::encoded_bytes(definition),
        Event::NotifyServers { servers, .. } => servers.len().saturating_mul(SERVER_BYTES),
        Event::StartExperiment { definition, .. } => api::convert::experiment::wire(definition).encoded_len(),
        Event::ApplyPipeline { definition, .. } => api::convert::pipeline::wire(definition).encoded_len(),
        _ => return 0,
    };
    i64::try_from(bytes.saturating_mul(2).saturating_add(RECORD_BYTES)).unwrap_or(i64::MAX)
}

/// Milliseconds since the epoch; the machine is told the time, here and nowhere else.
pub(crate) fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
