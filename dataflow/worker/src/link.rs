//! The stream to the scheduler (`switchyard.worker.v1`): says hello, hands on what should be, passes back what was done.
//!
//! Level-triggered: a stream begins with a snapshot and needs no history, so a lost one is simply opened again. What a
//! worker says is about the stream that it heard it by, and is dropped if that one is gone.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::convert::pipeline as definition;
use api::convert::worker as convert;
use api::worker::workers_client::WorkersClient;
use domain::{ModelName, Pipeline, PipelineName, Role, Shard, Time, WorkerName};
use messages::worker as wire;
use messages::worker::order::Order;
use messages::worker::report::Report;
use runtime::Stop;
use runtime::child::Backoff;
use runtime::health::Check;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Endpoint;
use tracing::{debug, info, warn};

const RECONNECT_MIN: Duration = Duration::from_millis(100);
const RECONNECT_MAX: Duration = Duration::from_secs(2);
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// A scheduler whose machine is gone is noticed within the sum of the two.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_LIMIT: Duration = Duration::from_secs(5);

/// Reports that wait for the socket; a worker says little.
const REPORTS: usize = 64;

/// Who connects where.
#[derive(Clone, Debug)]
pub struct LinkConfig {
    /// What the worker does.
    pub role: Role,
    /// Its name, unique within the role.
    pub name: WorkerName,
    /// `host:port` of each scheduler.
    pub schedulers: Vec<String>,
    /// Where Envoy reaches it, for pipeline gateways.
    pub address: Option<SocketAddr>,
    /// Ready while there is a stream to a scheduler, by which everything that it wants was done once.
    pub check: Check,
}

/// What a worker hears.
#[derive(Debug)]
pub enum Told {
    /// What should be.
    Desired(Desired),
    /// Work on this shard from now on.
    Grant(Shard),
    /// Finish it, and say that it is released.
    Revoke(Shard),
}

/// What should be: all of it, or what changed.
#[derive(Debug, Default)]
pub struct Desired {
    /// To be said when it is in use.
    pub revision: u64,
    /// What is not in it is gone.
    pub is_snapshot: bool,
    /// Partitions of every topic; in every snapshot.
    pub partitions: Option<u32>,
    /// Pipelines.
    pub pipelines: Vec<PipelineWish>,
    /// Models.
    pub models: Vec<ModelWish>,
}

/// A pipeline, as it should be.
#[derive(Debug)]
pub struct PipelineWish {
    /// Which one.
    pub name: PipelineName,
    /// All versions that there should be, oldest first.
    pub versions: Vec<VersionWish>,
    /// With no version left: delete its topics.
    pub clean_topics: bool,
    /// Partitions that gateways enter by.
    pub entries: Vec<u32>,
}

/// A version of a pipeline.
#[derive(Debug)]
pub struct VersionWish {
    /// Which one.
    pub number: u32,
    /// What it does.
    pub definition: Pipeline,
    /// Since when it may have had entries.
    pub active_since: Option<Time>,
    /// It takes new entries.
    pub is_active: bool,
}

/// A model, as it should be.
#[derive(Debug)]
pub struct ModelWish {
    /// Which one.
    pub name: ModelName,
    /// There should be none.
    pub is_removed: bool,
    /// With its removal: delete its topics.
    pub clean_topics: bool,
}

/// A version of a pipeline that cannot be run.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// Whose.
    pub pipeline: PipelineName,
    /// Which.
    pub version: u32,
    /// Why.
    pub reason: String,
}

/// What a worker says.
#[derive(Debug)]
pub enum Said {
    /// Everything up to the revision is in use, but for these.
    Applied(u64, Vec<Refusal>),
    /// The shard is finished with.
    Released(Shard),
}

/// The present stream's number, and what takes reports to its socket.
type WayBack = Arc<Mutex<Option<(u64, mpsc::Sender<wire::Report>)>>>;

/// What is heard by one stream, and the way back.
pub struct Connected {
    /// What the scheduler says, with the number of the stream it says it by.
    pub told: mpsc::Receiver<(u64, Told)>,
    said: WayBack,
    held: Arc<Mutex<BTreeSet<Shard>>>,
    check: Check,
}

impl Connected {
    /// Answers what was heard by that stream.
    pub fn say(&self, stream: u64, said: Said) {
        let guard = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((_, reports)) = guard.as_ref().filter(|(current, _)| *current == stream) else { return };
        let report = match said {
            Said::Applied(revision, refused) => {
                self.check.set_ready();
                let refused = refused.into_iter().map(|refusal| wire::Refused {
                    pipeline: refusal.pipeline.to_string(),
                    model: String::new(),
                    version: refusal.version,
                    reason: refusal.reason,
                });
                Report::Applied(wire::Applied { revision, refused: refused.collect() })
            }
            Said::Released(shard) => Report::Released(wire::Released { shard: Some(convert::shard_wire(shard)) }),
        };
        if reports.try_send(wire::Report { report: Some(report) }).is_err() {
            // The next stream begins with everything; this one is at its end if it takes nothing any more.
            warn!(stream, "the scheduler does not take what this worker says");
        }
    }

    /// Ends that stream, so that the next one begins with everything.
    pub fn again(&self, stream: u64) {
        let mut guard = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if guard.as_ref().is_some_and(|(current, _)| *current == stream) {
            // Without a way back the scheduler's side ends.
            guard.take();
        }
    }

    /// Shards that this worker works on, for the next hello.
    pub fn set_held(&self, held: BTreeSet<Shard>) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = held;
    }
}

/// Keeps a stream to the scheduler.
pub struct Link {
    config: LinkConfig,
    told: mpsc::Sender<(u64, Told)>,
    said: WayBack,
    held: Arc<Mutex<BTreeSet<Shard>>>,
    stop: Stop,
}

/// Orders that wait for the worker.
const ORDERS: usize = 64;

#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("connect")]
    Connect(#[source] tonic::transport::Error),
    #[error("{code:?}: {reason}")]
    Broken { code: tonic::Code, reason: String },
    #[error("the scheduler ended the stream")]
    ByScheduler,
    #[error("the worker listens no more")]
    Deaf,
}

impl Link {
    /// A link, and what the worker has of it.
    #[must_use]
    pub fn new(config: LinkConfig, stop: Stop) -> (Self, Connected) {
        let (sender, told) = mpsc::channel(ORDERS);
        let (said, held) = (Arc::default(), Arc::default());
        let check = config.check.clone();
        let connected = Connected { told, said: Arc::clone(&said), held: Arc::clone(&held), check };
        (Self { config, told: sender, said, held, stop }, connected)
    }

    /// Runs until the stop.
    pub async fn run(self) -> Result<(), Infallible> {
        let mut backoff = Backoff::new(RECONNECT_MIN, RECONNECT_MAX);
        let mut number = 0;
        for scheduler in self.config.schedulers.iter().cycle() {
            number += 1;
            let ended = tokio::select! {
                ended = self.stream(scheduler, number, &mut backoff) => ended,
                () = self.stop.requested() => break,
            };
            *self.said.lock().unwrap_or_else(PoisonError::into_inner) = None;
            self.config.check.set_unready("no stream to a scheduler");
            let (role, name) = (self.config.role, &self.config.name);
            match &ended {
                Ended::Deaf => break,
                Ended::Connect(_) => debug!(%role, %name, scheduler, "no scheduler"),
                Ended::ByScheduler | Ended::Broken { .. } => {
                    info!(%role, %name, scheduler, reason = %ended, "scheduler lost")
                }
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.next_delay()) => {}
                () = self.stop.requested() => break,
            }
        }
        Ok(())
    }

    async fn stream(&self, scheduler: &str, number: u64, backoff: &mut Backoff) -> Ended {
        let endpoint = match Endpoint::from_shared(format!("http://{scheduler}")) {
            Ok(endpoint) => endpoint,
            Err(error) => return Ended::Connect(error),
        };
        let endpoint = endpoint
            .connect_timeout(CONNECT_LIMIT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_LIMIT);
        let channel = match endpoint.connect().await {
            Ok(channel) => channel,
            Err(error) => return Ended::Connect(error),
        };
        let mut client = WorkersClient::new(channel).max_decoding_message_size(usize::MAX);
        let (reports, outgoing) = mpsc::channel(REPORTS);
        if reports.try_send(self.hello()).is_err() {
            return Ended::Deaf;
        }
        let orders = match client.work(ReceiverStream::new(outgoing)).await {
            Ok(orders) => orders.into_inner(),
            Err(status) => return broken(&status),
        };
        backoff.reset();
        info!(role = %self.config.role, name = %self.config.name, scheduler, "connected to the scheduler");
        *self.said.lock().unwrap_or_else(PoisonError::into_inner) = Some((number, reports));
        self.listen(orders, number).await
    }

    async fn listen(&self, mut orders: Streaming<wire::Order>, number: u64) -> Ended {
        let mut desired = Desired::default();
        let mut refused = Vec::new();
        loop {
            let order = match orders.message().await {
                Ok(Some(order)) => order.order,
                Ok(None) => return Ended::ByScheduler,
                Err(status) => return broken(&status),
            };
            let told = match order {
                Some(Order::Desired(piece)) => {
                    let more = piece.more;
                    if piece.first {
                        (desired, refused) = (Desired { is_snapshot: true, ..Desired::default() }, Vec::new());
                    }
                    take_piece(&mut desired, piece, &mut refused);
                    if more {
                        continue;
                    }
                    for refusal in refused.drain(..) {
                        warn!(pipeline = %refusal, "a definition from the scheduler cannot be read");
                    }
                    Told::Desired(std::mem::take(&mut desired))
                }
                Some(Order::Grant(grant)) => match grant.shard {
                    Some(shard) => Told::Grant(convert::shard(&shard)),
                    None => continue,
                },
                Some(Order::Revoke(revoke)) => match revoke.shard {
                    Some(shard) => Told::Revoke(convert::shard(&shard)),
                    None => continue,
                },
                None => continue,
            };
            if self.told.send((number, told)).await.is_err() {
                return Ended::Deaf;
            }
        }
    }

    fn hello(&self) -> wire::Report {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let hello = wire::Hello {
            role: convert::role_wire(self.config.role).into(),
            name: self.config.name.to_string(),
            host: self.config.address.map(|address| address.ip().to_string()).unwrap_or_default(),
            port: self.config.address.map_or(0, |address| address.port().into()),
            held: held.iter().map(|shard| convert::shard_wire(*shard)).collect(),
        };
        wire::Report { report: Some(Report::Hello(hello)) }
    }
}

/// Adds a piece; names of what cannot be read go to `refused`, because a scheduler of ours sends no such thing.
fn take_piece(desired: &mut Desired, piece: wire::Desired, refused: &mut Vec<String>) {
    desired.revision = piece.revision;
    desired.partitions = desired.partitions.or((piece.partitions > 0).then_some(piece.partitions));
    for pipeline in piece.pipelines {
        let Ok(name) = PipelineName::parse(&pipeline.name) else {
            refused.push(pipeline.name);
            continue;
        };
        let versions = pipeline.versions.into_iter().filter_map(|version| {
            let parsed = definition::definition(version.definition.unwrap_or_default());
            match parsed {
                Ok(definition) => Some(VersionWish {
                    number: version.version,
                    definition,
                    active_since: (version.active_since_ms > 0).then_some(Time(version.active_since_ms)),
                    is_active: version.active,
                }),
                Err(error) => {
                    refused.push(format!("{name} version {}: {error}", version.version));
                    None
                }
            }
        });
        let versions = versions.collect();
        desired.pipelines.push(PipelineWish {
            name,
            versions,
            clean_topics: pipeline.clean_topics,
            entries: pipeline.entries,
        });
    }
    for model in piece.models {
        match ModelName::parse(&model.name) {
            Ok(name) => {
                desired.models.push(ModelWish { name, is_removed: model.removed, clean_topics: model.clean_topics });
            }
            Err(_) => refused.push(model.name),
        }
    }
}

fn broken(status: &tonic::Status) -> Ended {
    Ended::Broken { code: status.code(), reason: status.message().to_owned() }
}
