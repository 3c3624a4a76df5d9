//! Puts the parts of a scheduler together: store, driver thread, timers, publisher of routes, gRPC servers.

use std::io;
use std::time::Duration;

use api::agent::agent_service_server::AgentServiceServer;
use api::health::health_check_service_server::HealthCheckServiceServer;
use api::scheduler::scheduler_server::SchedulerServer;
use api::worker::workers_server::WorkersServer;
use futures_util::{Stream, StreamExt};
use runtime::{OnError, Stop, Tasks, TasksFailed};
use scheduler_core::{Effect, Machine};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic_health::pb::health_server::HealthServer;
use tracing::{info, warn};
use xds::Ads;

use crate::config::Config;
use crate::driver::{Driver, INBOX, now};
use crate::greeted::Greeted;
use crate::grpc::agents::{Agents, Never};
use crate::grpc::control::Control;
use crate::grpc::health::Health;
use crate::grpc::streams::Carrier;
use crate::grpc::workers::Workers;
use crate::handle::Scheduler;
use crate::outbox::Outbox;
use crate::publishing::Publishing;
use crate::scaling_file;
use crate::store::{CommitError, OpenError, Pending, Store};
use crate::timers;

/// How often a quiet connection is probed, and how long the answer may take: a peer that vanished without a word is
/// noticed within both together, a fraction of the grace period that its models get.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);

/// Largest message from an agent or a user: an agent that holds 10,000 models lists all of them.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// What an Envoy's stream, and all streams of one connection, may send before it is read. Large requests that wait for their turn
/// (`xds`) keep as much, and those of one connection leave something to its other streams.
const STREAM_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;

/// How long no connection is accepted after one that could not be.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// How long clients of a server that drains get to take its last words, and to close their connections then.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What a connection of age gets besides, for the last answers on it.
const AGED_WITHIN: Duration = Duration::from_secs(30);

/// How long the parts get to end, besides what Envoys get.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// The sockets of a scheduler; the caller binds them.
pub struct Listeners {
    /// ADS, for Envoys (9002).
    pub xds: TcpListener,
    /// The scheduler API, for operators, command lines and gateways (9004).
    pub control: TcpListener,
    /// The agent API (9005).
    pub agents: TcpListener,
    /// The workers of the data plane (9008).
    pub workers: TcpListener,
}

/// Why a scheduler ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its state cannot be opened.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The driver thread cannot be started.
    #[error("start the driver thread")]
    Thread(#[source] io::Error),
    /// A part failed.
    #[error(transparent)]
    Tasks(#[from] TasksFailed),
}

/// A gRPC server ended.
#[derive(Debug, thiserror::Error)]
#[error("serve {what}")]
struct ServeError {
    what: &'static str,
    #[source]
    cause: tonic::transport::Error,
}

/// The driver thread ended.
#[derive(Debug, thiserror::Error)]
enum DriverEnded {
    #[error("what was decided is not on disk, so nothing of it was let out")]
    Commit(#[from] CommitError),
    #[error("the driver thread panicked")]
    Panicked,
}

/// Runs a scheduler until `stop` is requested or a part fails. What was declared before is served at once.
pub async fn run(config: Config, listeners: Listeners, stop: Stop) -> Result<(), Error> {
    let store = Store::open(&config.dir, config.store_bytes)?;
    let kept = store.load()?;
    let is_filled = !kept.models.is_empty() || !kept.experiments.is_empty() || !kept.pipelines.is_empty();
    let (models, servers, experiments) = (kept.models.len(), kept.servers.len(), kept.experiments.len());
    info!(dir = %config.dir.display(), models, servers, experiments, "store opened");
    let (machine, effects) = Machine::restore(config.decisions.clone(), kept, now());

    let (inbox, queue) = mpsc::channel(INBOX);
    let scheduler = Scheduler::new(inbox);
    let (routes, changes) = mpsc::unbounded_channel();
    let (wakes, wishes) = mpsc::unbounded_channel();
    let (tell_synchronised, synchronised) = watch::channel(machine.is_synchronised());
    let mut outbox = Outbox::new(routes, wakes, tell_synchronised);
    let mut publishing = Publishing::new(&config, scheduler.clone());

    // What was last published is published again, whole, before the first Envoy is answered.
    let mut published = Vec::new();
    for effect in effects {
        match effect {
            Effect::Publish(change) => published.push(change),
            Effect::Wake(at, timer) => outbox.wake(at, timer),
            Effect::Write(_) | Effect::Send { .. } | Effect::Work { .. } | Effect::Notify(_) | Effect::Reply(_, _) => {}
        }
    }
    publishing.publish(published);

    let tasks = Tasks::new(stop.clone());
    let ads = publishing.ads();
    // An empty store may stand for a lost one: Envoys keep what they have until it is known what there is.
    tasks.spawn("open-ads", OnError::StopProcess, {
        let (ads, stop, mut synchronised) = (ads.clone(), stop.clone(), synchronised.clone());
        async move {
            tokio::select! {
                // Both arms are cancel-safe.
                is_over = synchronised.wait_for(|is| *is) => if is_over.is_ok() { ads.open(is_filled) },
                () = stop.requested() => {}
            }
            Ok::<(), Never>(())
        }
    });
    let (ended, end) = oneshot::channel();
    let counters = config.counters.clone();
    counters.show(ads.clone());
    let driver = Driver { machine, store, outbox, inbox: queue, pending: Pending::default(), counters };
    let thread = std::thread::Builder::new().name("driver".to_owned());
    let thread = thread
        .spawn(move || {
            let _process_is_ending = ended.send(driver.run());
        })
        .map_err(Error::Thread)?;
    tasks.spawn("driver", OnError::StopProcess, {
        let stop = stop.clone();
        async move {
            tokio::select! {
                () = stop.requested() => Ok(()),
                outcome = end => outcome.map_err(|_| DriverEnded::Panicked)?.map_err(DriverEnded::from),
            }
        }
    });
    if let Some(path) = config.scaling.clone() {
        tasks.spawn("scaling", OnError::StopProcess, scaling_file::run(path, scheduler.clone(), stop.clone()));
    }
    tasks.spawn("timers", OnError::StopProcess, timers::run(scheduler.clone(), wishes, stop.clone()));
    tasks.spawn("routes", OnError::StopProcess, publishing.run(changes, stop.clone()));

    let health = |services| {
        let health = Health { scheduler: scheduler.clone(), services, stop: stop.clone() };
        Routes::new(HealthCheckServiceServer::new(health.clone())).add_service(HealthServer::new(health))
    };
    let (carried, limit) = (tasks.clone(), config.subscriber_limit);
    let carrier =
        Carrier { tasks: carried, stop: stop.clone(), synchronised, limit, counters: config.counters.clone() };
    let control = SchedulerServer::new(Control { scheduler: scheduler.clone(), carrier });
    let control = control.max_decoding_message_size(MAX_MESSAGE_BYTES).max_encoding_message_size(MAX_MESSAGE_BYTES);
    let agents = AgentServiceServer::new(Agents::new(scheduler.clone(), tasks.clone(), stop.clone()));
    let agents = agents.max_decoding_message_size(MAX_MESSAGE_BYTES).max_encoding_message_size(MAX_MESSAGE_BYTES);
    let control = health(&[api::scheduler::scheduler_server::SERVICE_NAME]).add_service(control);
    serve(&tasks, "the scheduler API", server().add_routes(control), listeners.control);
    let agents = health(&[api::agent::agent_service_server::SERVICE_NAME]).add_service(agents);
    serve(&tasks, "agents", server().add_routes(agents), listeners.agents);
    let workers = WorkersServer::new(Workers::new(scheduler.clone(), tasks.clone(), stop.clone()));
    let workers = workers.max_decoding_message_size(MAX_MESSAGE_BYTES).max_encoding_message_size(MAX_MESSAGE_BYTES);
    let workers = health(&[api::worker::workers_server::SERVICE_NAME]).add_service(workers);
    serve(&tasks, "workers", server().add_routes(workers), listeners.workers);
    let (over, age) = (config.envoy_drain, config.envoy_stream_age);
    serve_envoys(&tasks, ads, age, over, listeners.xds);

    stop.requested().await;
    let outcome = tasks.finish(STOP_WITHIN + over).await;
    // Connections that are still open have handles too, so the driver is told; the store closes with it.
    scheduler.end().await;
    if tokio::task::spawn_blocking(move || thread.join()).await.is_err() {
        info!("the driver thread did not end in good order");
    }
    Ok(outcome?)
}

fn server() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
}

fn incoming(listener: TcpListener) -> impl Stream<Item = io::Result<Greeted<TcpStream>>> {
    // Without this a small message waits 40 ms for the acknowledgement of the one before it.
    TcpIncoming::from(listener).with_nodelay(Some(true)).then(|stream| async {
        use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
        match &stream {
            // That one alone is gone.
            Err(error) if matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) => {}
            // No file descriptor may be free, and there will be none in the next microsecond either.
            Err(_) => tokio::time::sleep(ACCEPT_AGAIN).await,
            Ok(_) => {}
        }
        stream.map(Greeted::new)
    })
}

fn serve(tasks: &Tasks, what: &'static str, router: tonic::transport::server::Router, listener: TcpListener) {
    let stop = tasks.stop().clone();
    tasks.spawn("grpc", OnError::StopProcess, async move {
        let serving = router.serve_with_incoming(incoming(listener));
        tokio::select! {
            outcome = serving => outcome.map_err(|cause| ServeError { what, cause }),
            // Streams are endless, so there is no waiting for them; their peers come back to the next process.
            () = stop.requested() => Ok(()),
        }
    });
}

/// Envoys may be many: at the end they are told to come back by another connection, and their streams end one after the other.
fn serve_envoys(tasks: &Tasks, ads: Ads, age: Option<Duration>, over: Duration, listener: TcpListener) {
    let server = server().initial_stream_window_size(STREAM_WINDOW).initial_connection_window_size(CONNECTION_WINDOW);
    // The connection is to be left when a stream on it has its age; it ends with its streams.
    let mut server = match age {
        Some(age) => server.max_connection_age(age).max_connection_age_grace(age / 2 + AGED_WITHIN),
        None => server,
    };
    let router = server.add_routes(ads.routes());
    let stop = tasks.stop().clone();
    tasks.spawn("grpc", OnError::StopProcess, async move {
        let serving = router.serve_with_incoming_shutdown(incoming(listener), stop.requested());
        let draining = async {
            stop.requested().await;
            match tokio::time::timeout(over + LAST_WORDS, ads.drain(over)).await {
                Ok(()) => tokio::time::sleep(LAST_WORDS).await,
                Err(_) => warn!(streams = ads.streams().len(), "envoys did not take their last words"),
            }
        };
        tokio::select! {
            outcome = serving => outcome.map_err(|cause| ServeError { what: "Envoys", cause }),
            () = draining => Ok(()),
        }
    });
}
