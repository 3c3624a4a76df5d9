//! The gateway as a whole: follows the scheduler, listens for requests.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::serve::ListenerExt;
use domain::{PipelineName, Role, Topics, WorkerName};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use runtime::health::Check;
use runtime::{OnError, Stop, Tasks, TasksFailed};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use topic_log::Log;
use tracing::warn;
use worker::{Connected, Desired, Link, LinkConfig, Said, Told};

use crate::egress::{Change, Egress};
use crate::failure::ErrorStyle;
use crate::gateway::Gateway;
use crate::metrics::Metrics;
use crate::pending::Pending;
use crate::pipelines::Pipelines;
use crate::{grpc, rest};

/// How long requests that run get to end.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// Changes that wait for the reader of outputs.
const CHANGES: usize = 8;

/// How a pipeline gateway is run.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its name, unique among pipeline gateways.
    pub name: WorkerName,
    /// `host:port` of each scheduler's port for workers.
    pub schedulers: Vec<String>,
    /// Where Envoy reaches it.
    pub address: SocketAddr,
    /// `host:port` of the Envoy by which steps are asked whether they are ready.
    pub envoy: String,
    /// Names of topics.
    pub topics: Topics,
    /// Most requests that wait for their answers.
    pub pending_max: usize,
    /// Most bytes of their bodies that are kept together, not less than the largest request.
    pub pending_bytes_max: usize,
    /// Largest request, in bytes.
    pub max_message_bytes: usize,
    /// How errors are told.
    pub errors: ErrorStyle,
    /// Where it counts.
    pub metrics: Metrics,
    /// As that of its stream to the scheduler.
    pub check: Check,
}

/// Why it does not run, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A task of it failed.
    #[error(transparent)]
    Tasks(#[from] TasksFailed),
}

/// Serves REST and gRPC on every listener until the stop.
///
/// # Errors
/// A task of it failed.
pub async fn run(config: Config, listeners: Vec<TcpListener>, log: Arc<dyn Log>, stop: Stop) -> Result<(), Error> {
    let tasks = Tasks::new(stop.clone());
    let (pipelines, pending) = (Pipelines::default(), Pending::default());
    let http = Client::builder(TokioExecutor::new()).build_http();
    let gateway = Arc::new(Gateway::new(Arc::clone(&log), &config, pipelines.clone(), pending.clone(), http));
    let egress = Egress::new(log, config.topics.clone(), pending.clone());
    let (changes, receiver) = mpsc::channel(CHANGES);
    tasks.spawn("pipeline-gateway-egress", OnError::StopProcess, egress.run(receiver, stop.clone()));
    let link = LinkConfig {
        role: Role::PipelineGateway,
        name: config.name.clone(),
        schedulers: config.schedulers.clone(),
        address: Some(config.address),
        check: config.check.clone(),
    };
    let (link, connected) = Link::new(link, stop.clone());
    tasks.spawn("pipeline-gateway-link", OnError::StopProcess, link.run());
    let process = Process { pipelines, pending, changes, connected, partitions: 1, read: BTreeSet::new() };
    tasks.spawn("pipeline-gateway", OnError::StopProcess, process.follow(stop.clone()));
    for listener in listeners {
        let grpc = Router::new()
            .route_service("/inference.GRPCInferenceService/{method}", grpc::service(Arc::clone(&gateway)))
            .layer(from_fn_with_state(Arc::clone(&gateway), grpc::admit));
        let router = rest::router(Arc::clone(&gateway)).merge(grpc);
        let stop = stop.clone();
        tasks.spawn("pipeline-gateway-server", OnError::StopProcess, async move {
            let listener = listener.tap_io(|stream| {
                // A connection that cannot be set up ends by itself.
                let _gone = stream.set_nodelay(true);
            });
            axum::serve(listener, router).with_graceful_shutdown(async move { stop.requested().await }).await
        });
    }
    stop.requested().await;
    Ok(tasks.finish(STOP_WITHIN).await?)
}

struct Process {
    pipelines: Pipelines,
    pending: Pending,
    changes: mpsc::Sender<Change>,
    connected: Connected,
    partitions: u32,
    read: BTreeSet<PipelineName>,
}

impl Process {
    async fn follow(mut self, stop: Stop) -> Result<(), Infallible> {
        loop {
            tokio::select! {
                () = stop.requested() => return Ok(()),
                told = self.connected.told.recv() => match told {
                    Some((stream, Told::Desired(desired))) => self.apply(stream, desired).await,
                    // It owns nothing.
                    Some((_, Told::Grant(_) | Told::Revoke(_))) => {}
                    None => return Ok(()),
                },
            }
        }
    }

    async fn apply(&mut self, stream: u64, desired: Desired) {
        self.partitions = desired.partitions.unwrap_or(self.partitions);
        let (there, gone): (Vec<_>, Vec<_>) =
            desired.pipelines.iter().partition(|pipeline| !pipeline.versions.is_empty());
        let names = |wishes: Vec<&worker::PipelineWish>| -> Vec<PipelineName> {
            wishes.into_iter().map(|wish| wish.name.clone()).collect()
        };
        let (start, mut stop) = (names(there), names(gone));
        if desired.is_snapshot {
            let wished: BTreeSet<&PipelineName> = start.iter().collect();
            stop.extend(self.read.iter().filter(|name| !wished.contains(name)).cloned());
        }
        let (done, answered) = oneshot::channel();
        let change = Change { start: start.clone(), stop: stop.clone(), partitions: self.partitions, done };
        if self.changes.send(change).await.is_err() {
            return;
        }
        match answered.await {
            Ok(Ok(())) => {
                self.read.extend(start);
                stop.iter().for_each(|name| drop(self.read.take(name)));
                // Outputs are read: requests may come.
                self.pipelines.apply(&desired);
                stop.iter().for_each(|name| self.pending.unloaded(name));
                self.connected.say(stream, Said::Applied(desired.revision, Vec::new()));
            }
            Ok(Err(error)) => {
                warn!(revision = desired.revision, %error, "what the scheduler wants cannot be done");
                self.connected.again(stream);
            }
            Err(_) => {}
        }
    }
}
