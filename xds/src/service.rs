//! The gRPC service: one loop for both methods. It moves requests into a session and responses out of it.
//!
//! Not here: any rule of the protocol. The loop is the response stream itself, polled by the transport: it is dropped
//! with the connection, needs no task of its own, and does not read requests while the client takes no responses.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryService;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use futures_util::Stream;
use tokio::sync::watch;
use tonic::{Status, Streaming};

use crate::ads::{Shared, StreamStatus};
use crate::gate::{Progress, StreamId};
use crate::message::{Mode, Node, Request, Response};
use crate::resource::Kind;
use crate::session::{Session, Standing};
use crate::wire::{self, Delta, Sotw, Wire};

#[derive(Clone, Debug)]
pub struct Service {
    shared: Arc<Shared>,
}

impl Service {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Service { shared }
    }
}

type Responses<R> = Pin<Box<dyn Stream<Item = Result<R, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Service {
    type StreamAggregatedResourcesStream = Responses<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: tonic::Request<Streaming<DiscoveryRequest>>,
    ) -> Result<tonic::Response<Self::StreamAggregatedResourcesStream>, Status> {
        Ok(tonic::Response::new(responses::<Sotw>(Arc::clone(&self.shared), request.into_inner())))
    }

    async fn delta_aggregated_resources(
        &self,
        request: tonic::Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<tonic::Response<Self::DeltaAggregatedResourcesStream>, Status> {
        Ok(tonic::Response::new(responses::<Delta>(Arc::clone(&self.shared), request.into_inner())))
    }
}

fn responses<W: Wire>(shared: Arc<Shared>, requests: Streaming<W::Request>) -> Responses<W::Response> {
    let stream = Loop::<W> {
        changes: shared.changes(),
        opened: shared.opened(),
        shared,
        requests,
        joined: None,
        outbox: VecDeque::new(),
        ended: false,
    };
    Box::pin(futures_util::stream::unfold(stream, |mut stream| async move {
        let next = stream.next().await?;
        Some((next, stream))
    }))
}

struct Loop<W: Wire> {
    shared: Arc<Shared>,
    changes: watch::Receiver<u64>,
    opened: watch::Receiver<bool>,
    requests: Streaming<W::Request>,
    joined: Option<Joined>,
    outbox: VecDeque<Response>,
    ended: bool,
}

impl<W: Wire> Loop<W> {
    async fn next(&mut self) -> Option<Result<W::Response, Status>> {
        if self.ended {
            return None;
        }
        // Nothing is read before the state is complete, so nothing can be answered from half of it.
        self.opened.wait_for(|opened| *opened).await.ok()?;
        loop {
            if let Some(response) = self.outbox.pop_front() {
                return Some(Ok(W::response(response)));
            }
            if let Err(status) = self.advance().await? {
                self.ended = true;
                return Some(Err(status));
            }
        }
    }

    /// Waits for something to happen and deals with it. `None` when the client is gone.
    async fn advance(&mut self) -> Option<Result<(), Status>> {
        let due = self.joined.as_ref().and_then(|joined| joined.session.due()).map(|due| self.shared.instant(due));
        let timer = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        // Every arm is safe to cancel: a message that is not complete stays in the stream's buffer.
        let request = tokio::select! {
            request = self.requests.message() => match request {
                Ok(Some(request)) => Some(request),
                Ok(None) => return None,
                Err(status) => {
                    tracing::debug!(%status, "stream ended by its client");
                    return None;
                }
            },
            changed = self.changes.changed() => {
                changed.ok()?;
                None
            }
            () = timer => None,
        };
        Some(self.step(request))
    }

    fn step(&mut self, request: Option<W::Request>) -> Result<(), Status> {
        let request = match request {
            Some(request) => self.admit(request)?,
            None => None,
        };
        match &mut self.joined {
            Some(joined) => {
                self.outbox.extend(joined.step(request)?);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// `None` for a type this server does not know: a newer client asks for more, and must not lose the rest.
    fn admit(&mut self, request: W::Request) -> Result<Option<Request>, Status> {
        if self.joined.is_none() {
            let node = W::node(&request).filter(|node| !node.id.is_empty());
            let node = node.ok_or_else(|| {
                Status::invalid_argument(
                    "node.id is missing in the first request of the stream: set it in the bootstrap",
                )
            })?;
            self.joined = Some(Joined::new(Arc::clone(&self.shared), W::MODE, wire::node(node)));
        }
        let type_url = W::type_url(&request);
        if type_url.is_empty() {
            return Err(Status::invalid_argument("type_url is missing: a stream of several types needs it"));
        }
        let Some(kind) = Kind::from_type_url(type_url) else {
            tracing::debug!(type_url, "asked for a type that is not served");
            return Ok(None);
        };
        Ok(Some(W::request(request, kind)))
    }
}

/// A stream whose client named itself. Dropping it is how the others learn that it is gone.
struct Joined {
    shared: Arc<Shared>,
    id: StreamId,
    session: Session,
}

impl Joined {
    fn new(shared: Arc<Shared>, mode: Mode, node: Node) -> Self {
        let id = shared.next_stream();
        tracing::info!(stream = id.0, node = %node.id, ?mode, "stream opened");
        shared.gate().connect(id, node.id.clone());
        let session = Session::new(mode, node, shared.config.lag_after, shared.config.tailor.clone());
        let status = StreamStatus {
            id,
            node: session.node().id.clone(),
            mode,
            kinds: Vec::new(),
            synced: false,
            lagging: false,
            counters: session.counters().clone(),
        };
        shared.registry().insert(id, status);
        shared.wake();
        Joined { shared, id, session }
    }

    fn step(&mut self, request: Option<Request>) -> Result<Vec<Response>, Status> {
        let now = self.shared.now();
        let outstanding = self.shared.gate().outstanding(self.id);
        let (responses, standings, progress) = {
            let table = self.shared.table();
            if let Some(request) = request {
                let taken = self.session.on_request(request, &table, now);
                taken.map_err(|refused| Status::resource_exhausted(refused.to_string()))?;
            }
            let responses = self.session.poll(&table, now).map_err(|behind| Status::aborted(behind.to_string()))?;
            let standings: Vec<_> = outstanding
                .into_iter()
                .map(|key| (self.session.standing(&key, &table), key))
                .filter(|(standing, _)| *standing != Standing::Outstanding)
                .map(|(standing, key)| (key, standing))
                .collect();
            (responses, standings, self.record())
        };
        let mut gate = self.shared.gate();
        for rejection in self.session.take_rejections() {
            let node = &self.session.node().id;
            tracing::warn!(stream = self.id.0, %node, key = %rejection.key, error = %rejection.message, "resource refused");
            gate.reject(node, rejection);
        }
        gate.report(self.id, progress, standings);
        let news = gate.has_news();
        drop(gate);
        if news {
            self.shared.wake();
        }
        Ok(responses)
    }

    /// Writes the status down. Called with the table held, so that no tombstone goes before its cursor is known.
    fn record(&self) -> Progress {
        let kinds = self.session.status();
        let mut progress: Progress = [None; Kind::COUNT];
        for status in &kinds {
            progress[status.kind.index()] = Some(status.settled);
        }
        if let Some(status) = self.shared.registry().get_mut(&self.id) {
            status.synced = !kinds.is_empty() && kinds.iter().all(|kind| kind.settled.is_some());
            status.kinds = kinds;
            status.counters.clone_from(self.session.counters());
        }
        progress
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        tracing::info!(stream = self.id.0, node = %self.session.node().id, "stream closed");
        let served = self.session.counters().responses > 0 || self.session.status().iter().any(|k| k.settled.is_some());
        let now = self.shared.now();
        self.shared.gate().disconnect(self.id, served, now);
        self.shared.registry().remove(&self.id);
        self.shared.wake();
    }
}
