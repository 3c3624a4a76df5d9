//! `switchyard.worker.v1.Workers`: the streams of pipeline gateways, dataflow engines and model gateways.

use std::sync::atomic::{AtomicU64, Ordering};

use api::convert::{pipeline, worker as convert};
use api::worker::workers_server::Workers as Service;
use domain::{PipelineName, WorkerId};
use messages::worker as wire;
use messages::worker::order::Order as Kind;
use messages::worker::report::Report;
use runtime::{OnError, Stop, Tasks};
use scheduler_core::{Address, ConnectionId, Event, ModelOrder, Order, PipelineOrder, Refused, VersionOrder};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::{info, warn};

use super::agents::Never;
use super::invalid;
use crate::handle::Scheduler;

/// Orders that may wait for one worker: each is a change that somebody declared; one who is so far behind comes back and
/// is told everything.
const WORKER_QUEUE: usize = 20_000;

/// Messages between the queue of a worker and its socket: the socket's own buffers do the rest.
const IN_FLIGHT: usize = 16;

/// Longest reason for a refusal that is kept.
const LONGEST_REASON: usize = 2_000;

pub(crate) struct Workers {
    scheduler: Scheduler,
    tasks: Tasks,
    stop: Stop,
    connections: AtomicU64,
}

impl Workers {
    pub(crate) fn new(scheduler: Scheduler, tasks: Tasks, stop: Stop) -> Self {
        Self { scheduler, tasks, stop, connections: AtomicU64::new(0) }
    }
}

#[tonic::async_trait]
impl Service for Workers {
    type WorkStream = ReceiverStream<Result<wire::Order, Status>>;

    async fn work(&self, request: Request<Streaming<wire::Report>>) -> Result<Response<Self::WorkStream>, Status> {
        let mut reports = request.into_inner();
        let first = reports.message().await?.and_then(|report| report.report);
        let Some(Report::Hello(hello)) = first else {
            return Err(Status::invalid_argument("report: the first one must be a hello"));
        };
        let hello = convert::hello(&hello).map_err(|error| invalid(&error))?;
        let connection = ConnectionId(self.connections.fetch_add(1, Ordering::Relaxed) + 1);
        let worker = hello.worker.clone();
        info!(%worker, connection = connection.0, held = hello.held.len(), "worker connected");
        let (orders, mut queue) = mpsc::channel(WORKER_QUEUE);
        let (outgoing, stream) = mpsc::channel(IN_FLIGHT);
        let connected = Event::WorkerConnected {
            worker: hello.worker,
            connection,
            address: hello.address.map(|(host, port)| Address { host: host.to_string(), port }),
            held: hello.held,
        };
        let (scheduler, stop) = (self.scheduler.clone(), self.stop.clone());
        self.tasks.spawn("worker-stream", OnError::Log, async move {
            scheduler.attach_worker(orders, connected).await;
            let last = loop {
                tokio::select! {
                    // All four arms are cancel-safe.
                    () = outgoing.closed() => break None,
                    () = stop.requested() => break None,
                    order = queue.recv() => {
                        // Cut off, or another stream speaks for the worker now.
                        let Some(order) = order else { break Some(Status::aborted("the stream has ended")) };
                        let mut sent = true;
                        for message in messages(order) {
                            sent = sent && outgoing.send(Ok(message)).await.is_ok();
                        }
                        if !sent {
                            break None;
                        }
                    }
                    report = reports.message() => match report {
                        Ok(Some(report)) => match event(&worker, connection, report) {
                            Ok(event) => scheduler.tell(event).await,
                            Err(status) => break Some(status),
                        },
                        Ok(None) => break None,
                        Err(status) => {
                            info!(%worker, %status, "worker's stream broke");
                            break None;
                        }
                    },
                }
            };
            if let Some(status) = last {
                warn!(%worker, %status, "worker's stream is ended");
                // Whoever is gone needs no reason.
                let _worker_is_gone = outgoing.try_send(Err(status));
            }
            drop(outgoing);
            info!(%worker, connection = connection.0, "worker stream ended");
            scheduler.detach_worker(worker, connection).await;
            Ok::<(), Never>(())
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// What a report means.
fn event(worker: &WorkerId, connection: ConnectionId, report: wire::Report) -> Result<Event, Status> {
    let worker = worker.clone();
    match report.report {
        Some(Report::Applied(applied)) => {
            let refused = applied.refused.into_iter().filter_map(|refused| {
                let pipeline = PipelineName::parse(&refused.pipeline).ok()?;
                let reason = refused.reason.chars().take(LONGEST_REASON).collect();
                Some(Refused { pipeline, version: refused.version, reason })
            });
            let refused = refused.collect();
            Ok(Event::WorkerApplied { worker, connection, revision: applied.revision, refused })
        }
        Some(Report::Released(released)) => {
            let shard = released.shard.as_ref().map(convert::shard);
            let shard = shard.ok_or_else(|| Status::invalid_argument("report.released.shard: missing"))?;
            Ok(Event::WorkerReleased { worker, connection, shard })
        }
        Some(Report::Hello(_)) => Err(Status::invalid_argument("report: a second hello")),
        None => Err(Status::invalid_argument("report: empty")),
    }
}

/// An order on the wire; a snapshot comes in pieces.
fn messages(order: Order) -> Vec<wire::Order> {
    let kinds = match order {
        Order::Snapshot { revision, partitions, pipelines, models } => {
            let (pipelines, models) = (pipelines.iter().map(pipeline_wire), models.iter().map(model_wire));
            let pieces = convert::pieces(revision, partitions, pipelines.collect(), models.collect());
            pieces.into_iter().map(Kind::Desired).collect()
        }
        Order::Change { revision, pipelines, models } => vec![Kind::Desired(wire::Desired {
            revision,
            first: false,
            more: false,
            pipelines: pipelines.iter().map(pipeline_wire).collect(),
            models: models.iter().map(model_wire).collect(),
            partitions: 0,
        })],
        Order::Grant(shard) => vec![Kind::Grant(wire::Grant { shard: Some(convert::shard_wire(shard)) })],
        Order::Revoke(shard) => vec![Kind::Revoke(wire::Revoke { shard: Some(convert::shard_wire(shard)) })],
    };
    kinds.into_iter().map(|kind| wire::Order { order: Some(kind) }).collect()
}

fn pipeline_wire(order: &PipelineOrder) -> wire::Pipeline {
    let version = |version: &VersionOrder| wire::PipelineVersion {
        version: version.number,
        uid: version.uid.clone(),
        definition: Some(pipeline::version(&version.definition, version.number, &version.uid)),
        active_since_ms: version.active_since.map_or(0, |since| since.0),
        active: version.active,
    };
    wire::Pipeline {
        name: order.name.to_string(),
        versions: order.versions.iter().map(version).collect(),
        clean_topics: order.clean_topics,
        entries: order.entries.clone(),
    }
}

fn model_wire(order: &ModelOrder) -> wire::Model {
    wire::Model { name: order.name.to_string(), removed: order.removed, clean_topics: order.clean_topics }
}
