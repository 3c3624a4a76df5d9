//! The handle by which the owner writes the table and hears what clients did with it.
//!
//! One task belongs to it: it hands feedback to the owner and lets the gate's times pass; it ends with the last handle.
//! Locks, always taken in this order and never across an await: a session, gate, table, then demand or registry.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::time::Instant;
use tonic::service::Routes;

use crate::csds;
use crate::demand::{Demand, OnDemand};
use crate::gate::{Feedback, Gate, StreamId};
use crate::health;
use crate::inbox::Room;
use crate::lifetime::{Lifetime, Stage};
use crate::message::{Mode, Tailor};
use crate::resource::{Change, Key, Kind, Revision};
use crate::rpcs;
use crate::service::Discovery;
use crate::session::{Counters, KindStatus, Session};
use crate::table::{Dangling, Table};
use crate::time::Time;

/// Feedback on its way to the owner. What does not fit waits in the gate, where it is bounded by what was gated.
const FEEDBACK_QUEUE: usize = 1_024;

#[derive(Clone, Debug)]
pub struct Config {
    /// How long a stream may take to apply a change before it counts as lagging; also how long a first answer waits
    /// for what it requires.
    pub lag_after: Duration,
    /// How long a lost stream is taken to be using what it was told.
    pub drain_grace: Duration,
    pub tailor: Option<Tailor>,
    /// How many streams may be in their first answers at a time: each holds a list of everything until its client has ACKed
    /// it, or `first_answer_within` has passed.
    pub first_answers: usize,
    /// How long others wait for a stream that does not acknowledge its first answer: a small part of what a client with very
    /// much takes, because it is the server's own work that is to be spread. At most `lag_after`.
    pub first_answer_within: Duration,
    /// How old a stream may become; ages are spread over a fifth of it. A stream of age is sent nothing more, and ends with
    /// UNAVAILABLE when its client has acknowledged what it was sent, or after `lag_after`. So clients spread over several
    /// servers again, if their connections end, too: see [`Ads::drain`].
    pub max_stream_age: Option<Duration>,
    /// What is made when somebody asks for it.
    pub on_demand: Option<OnDemand>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            lag_after: Duration::from_secs(5),
            drain_grace: Duration::from_secs(10),
            tailor: None,
            first_answers: 16,
            first_answer_within: Duration::from_millis(500),
            max_stream_age: None,
            on_demand: None,
        }
    }
}

/// One connected stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamStatus {
    pub id: StreamId,
    pub node: String,
    pub mode: Mode,
    pub kinds: Vec<KindStatus>,
    /// It asked for something and has applied all of that once.
    pub synced: bool,
    pub lagging: bool,
    pub counters: Counters,
    /// Bytes of the messages that it was sent; of one that is on its way, or not.
    pub bytes: u64,
    /// When it acknowledged something last, or came; by [`Ads::now`].
    pub quiet_since: Time,
}

#[derive(Clone, Debug)]
pub struct Ads {
    pub(crate) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub config: Config,
    gate: Mutex<Gate>,
    table: RwLock<Table>,
    registry: Mutex<BTreeMap<StreamId, StreamStatus>>,
    demand: Mutex<Demand>,
    /// Locked by its stream for each step, before anything else is.
    sessions: Mutex<BTreeMap<StreamId, Arc<Mutex<Session>>>>,
    changes: watch::Sender<u64>,
    stage: watch::Sender<Stage>,
    /// Streams that have not ended, whether they have named themselves or not.
    open: watch::Sender<usize>,
    /// What differs from process to process.
    seed: u64,
    wake: Arc<Notify>,
    pub admission: Arc<Semaphore>,
    pub room: Room,
    streams: AtomicU64,
    begun: AtomicU64,
    started: Instant,
}

impl Ads {
    /// Must be called inside a tokio runtime. The receiver must be read; it closes when the last handle is gone.
    #[must_use]
    pub fn new(config: Config) -> (Ads, mpsc::Receiver<Feedback>) {
        let wake = Arc::new(Notify::new());
        let shared = Arc::new(Shared {
            gate: Mutex::new(Gate::new(config.lag_after, config.drain_grace)),
            demand: Mutex::new(
                config.on_demand.map_or(Demand::new(0, 0), |wanted| Demand::new(wanted.limit, wanted.limit_of_stream)),
            ),
            admission: Arc::new(Semaphore::new(config.first_answers.max(1))),
            room: Room::default(),
            config,
            table: RwLock::new(Table::new()),
            registry: Mutex::new(BTreeMap::new()),
            sessions: Mutex::new(BTreeMap::new()),
            changes: watch::Sender::new(0),
            stage: watch::Sender::new(Stage::Closed),
            open: watch::Sender::new(0),
            seed: RandomState::new().hash_one(()),
            wake: Arc::clone(&wake),
            streams: AtomicU64::new(0),
            begun: AtomicU64::new(0),
            started: Instant::now(),
        });
        let (sender, receiver) = mpsc::channel(FEEDBACK_QUEUE);
        tokio::spawn(tell(Arc::downgrade(&shared), wake, sender));
        (Ads { shared }, receiver)
    }

    /// One atomic change of the table. `gated` keys get [`Feedback::Applied`] and [`Feedback::Released`] with the
    /// returned revision, unless a later publication gates them again.
    pub fn publish(&self, changes: Vec<Change>, gated: Vec<Key>) -> Result<Revision, Dangling> {
        self.publish_as(changes, gated, None)
    }

    /// The same; `name` is what `version_info` and `system_version_info` say of the state after it.
    pub fn publish_as(&self, changes: Vec<Change>, gated: Vec<Key>, name: Option<&str>) -> Result<Revision, Dangling> {
        let shared = &self.shared;
        let now = shared.now();
        let revision = {
            let mut gate = shared.gate();
            let mut table = shared.table_mut();
            let changed: Vec<Key> = if gate.has_refused() { changes.iter().map(Change::key).collect() } else { vec![] };
            let revision = table.apply_as(changes, name)?;
            let at = |key: &Key| table.entry(key.kind, &key.name).map_or(Revision::ZERO, |entry| entry.revision);
            for key in gated {
                gate.watch(key.clone(), at(&key), revision, now);
            }
            for key in changed {
                gate.changed(&key, at(&key));
            }
            shared.forget_tombstones(&mut table);
            revision
        };
        shared.changes.send_modify(|count| *count += 1);
        shared.wake.notify_one();
        Ok(revision)
    }

    /// Until this is called streams are accepted and answered nothing, and nothing is released. `earlier_streams`: a
    /// previous run may have fed clients that have not come back yet.
    pub fn open(&self, earlier_streams: bool) {
        let now = self.shared.now();
        self.shared.gate().open(earlier_streams, now);
        self.shared.stage.send_if_modified(|stage| {
            let is_closed = *stage == Stage::Closed;
            if is_closed {
                *stage = Stage::Open;
            }
            is_closed
        });
        self.shared.wake.notify_one();
    }

    /// Ends in good order: health says NOT_SERVING, new streams are refused and those that are there end with UNAVAILABLE,
    /// spread over `over` (a millisecond for each of them, if that is less), so that thousands of clients do not come back
    /// in one instant. Returns when all have ended; how long to wait for clients that take nothing is for the caller to say.
    ///
    /// Connections are the transport's: give `serve_with_incoming_shutdown` a signal at the same time, so that clients are
    /// told (GOAWAY) to come back by another one. For [`Config::max_stream_age`] that is `Server::max_connection_age`.
    pub async fn drain(&self, over: Duration) {
        let now = self.shared.now();
        self.shared.stage.send_modify(|stage| {
            *stage = stage.drained(*self.shared.open.borrow(), over, now);
        });
        let mut open = self.shared.open.subscribe();
        // The sender is ours, so this ends only as it should.
        let _all_have_ended = open.wait_for(|streams| *streams == 0).await;
    }

    /// The time by which [`StreamStatus`] is told.
    #[must_use]
    pub fn now(&self) -> Time {
        self.shared.now()
    }

    /// All services of the protocol: ADS, and CDS, EDS, LDS, SRDS, RDS, SDS and RTDS, each in both variants; and CSDS, which
    /// tells people and tools what each client has; and `grpc.health.v1`, which says whether streams are answered.
    #[must_use]
    pub fn routes(&self) -> Routes {
        const { assert!(rpcs::COUNT == 8, "one line below for each service") };
        let shared = || Arc::clone(&self.shared);
        Routes::new(Discovery::<0>::new(shared()))
            .add_service(Discovery::<1>::new(shared()))
            .add_service(Discovery::<2>::new(shared()))
            .add_service(Discovery::<3>::new(shared()))
            .add_service(Discovery::<4>::new(shared()))
            .add_service(Discovery::<5>::new(shared()))
            .add_service(Discovery::<6>::new(shared()))
            .add_service(Discovery::<7>::new(shared()))
            .add_service(csds::service(shared()))
            .add_service(health::service(self.shared.stage()))
    }

    /// Every connected stream that named itself.
    #[must_use]
    pub fn streams(&self) -> Vec<StreamStatus> {
        let gate = self.shared.gate();
        let registry = self.shared.registry();
        let with_lag = |status: &StreamStatus| StreamStatus { lagging: gate.is_lagging(status.id), ..status.clone() };
        registry.values().map(with_lag).collect()
    }
}

impl Shared {
    pub fn now(&self) -> Time {
        Time(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    pub fn instant(&self, time: Time) -> Instant {
        // A year is never waited out; it keeps the sum in range.
        const YEAR_MS: u64 = 365 * 24 * 3_600 * 1_000;
        self.started + Duration::from_millis(time.0.min(YEAR_MS))
    }

    /// A stream begins now; it has ended when the first is dropped.
    pub fn begin(self: &Arc<Self>) -> (Begun, Lifetime) {
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        self.open.send_modify(|streams| *streams += 1);
        let Config { max_stream_age, lag_after, .. } = self.config;
        let lifetime = Lifetime::new(max_stream_age, lag_after, (self.seed, number), self.now());
        (Begun { shared: Arc::clone(self) }, lifetime)
    }

    pub fn next_stream(&self) -> StreamId {
        StreamId(self.streams.fetch_add(1, Ordering::Relaxed) + 1)
    }

    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub fn stage(&self) -> watch::Receiver<Stage> {
        self.stage.subscribe()
    }

    pub fn wake(&self) {
        self.wake.notify_one();
    }

    pub fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn demand(&self) -> MutexGuard<'_, Demand> {
        self.demand.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn table(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn table_mut(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn registry(&self) -> MutexGuard<'_, BTreeMap<StreamId, StreamStatus>> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whoever is connected now.
    pub fn sessions(&self) -> Vec<(StreamId, Arc<Mutex<Session>>)> {
        let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.iter().map(|(id, session)| (*id, Arc::clone(session))).collect()
    }

    pub fn joined(&self, id: StreamId, session: &Arc<Mutex<Session>>) {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).insert(id, Arc::clone(session));
    }

    pub fn left(&self, id: StreamId) {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    /// Streams write their cursors to the registry while they hold the table, so none can be ahead of what is here.
    fn forget_tombstones(&self, table: &mut Table) {
        let kinds = Kind::ALL.into_iter().filter(|kind| table.has_tombstones(*kind)).collect::<Vec<_>>();
        if kinds.is_empty() {
            return;
        }
        let registry = self.registry();
        for kind in kinds {
            let cursors = registry.values().flat_map(|stream| &stream.kinds).filter(|status| status.kind == kind);
            let passed = cursors.map(|status| status.cursor).min().unwrap_or(table.revision());
            table.forget(kind, passed);
        }
    }
}

/// A stream that has not ended.
pub(crate) struct Begun {
    shared: Arc<Shared>,
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.shared.open.send_modify(|streams| *streams -= 1);
    }
}

/// Hands feedback to the owner, in order, until either side is gone.
async fn tell(shared: Weak<Shared>, wake: Arc<Notify>, owner: mpsc::Sender<Feedback>) {
    loop {
        let (told, is_all, due) = {
            let Some(shared) = shared.upgrade() else { return };
            let now = shared.now();
            let wished = shared.demand().poll();
            let mut gate = shared.gate();
            let told = gate.poll(now).into_iter().chain(wished).collect::<Vec<_>>();
            if gate.take_asks() {
                shared.changes.send_modify(|count| *count += 1);
            }
            (told, !gate.has_news(), gate.due().map(|due| shared.instant(due)))
        };
        for feedback in told {
            if owner.send(feedback).await.is_err() {
                break;
            }
        }
        if !is_all && !owner.is_closed() {
            continue;
        }
        let timer = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = wake.notified() => {}
            () = timer => {}
            () = owner.closed() => {
                if let Some(shared) = shared.upgrade() {
                    shared.gate().mute();
                }
                return;
            }
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.wake.notify_one();
    }
}
