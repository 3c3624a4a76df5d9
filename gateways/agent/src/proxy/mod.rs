//! The reverse proxy: one port for REST and gRPC, HTTP/1.1 and HTTP/2 with prior knowledge. Puts the server's name of
//! the model in its place and passes everything else on, both ways, as it comes. Repeats nothing.
//!
//! Invariant: while the server is down no request is begun: HTTP/2 streams are refused before any byte of an answer,
//! so that whoever sent them may try another replica.

mod body;
mod frames;
mod grpc;
mod messages;
mod rest;
mod together;
pub(crate) mod upstream;

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use domain::ReplicaId;
use domain::header::REQUEST_ID;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use runtime::Stop;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{debug, warn};

use crate::residency::Residency;
use crate::serving::Phase;
use body::ResponseBody;
use messages::Budget;
use runtime::RequestIds;
use together::{Gathering, Streams};

/// Tensors are large: windows of 64 KiB would cost a round trip for each of them.
const STREAM_WINDOW: u32 = 1 << 20;
/// So many full stream windows at once that one slow request does not stop the others of its connection.
const CONNECTION_WINDOW: u32 = 64 << 20;
/// A frame of a large tensor; fewer frames are less work.
const FRAME: u32 = 256 << 10;
/// Envoy accepts headers of 60 KiB.
const HEADER_LIST: u32 = 64 << 10;
/// Streams of one connection; Envoy opens another connection beyond them.
const STREAMS: u32 = 1024;
/// Streams that a client cancels before they were looked at. Envoy passes on the cancels of many clients, so as many as
/// there may be streams are no attack.
const CANCELLED_STREAMS: usize = STREAMS as usize;
/// Connections at once: far above what any number of Envoys opens, and each costs little until it sends.
const CONNECTIONS: usize = 4096;
/// Headers have to come in a while.
const HEADER_LIMIT: Duration = Duration::from_secs(30);
/// A peer that is gone without a word is noticed within the sum of the two.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_LIMIT: Duration = Duration::from_secs(20);
/// Requests under way when the agent is told to stop get this long; longer ones are cut.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);
/// After a failed accept (no file handles) the next try waits, or the loop would burn a core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Incomplete gRPC messages of all requests together: this many of the largest.
const INCOMPLETE_MESSAGES: usize = 16;

/// What the proxy knows.
pub(crate) struct Proxy {
    replica: ReplicaId,
    residency: Arc<Residency>,
    phase: watch::Receiver<Phase>,
    settling: Settling,
    ids: RequestIds,
    max_message_bytes: usize,
    budget: Arc<Budget>,
}

/// Whether an agent is so new that routes may still be those of the one that was here before.
pub(crate) struct Settling {
    /// When it first subscribed.
    told: Arc<OnceLock<Instant>>,
    after: Duration,
}

impl Settling {
    pub(crate) fn new(told: Arc<OnceLock<Instant>>, after: Duration) -> Self {
        Self { told, after }
    }

    fn is_over(&self) -> bool {
        self.told.get().is_some_and(|told| told.elapsed() >= self.after)
    }
}

/// The value of a header that only has to be there.
const ANY: &str = "1";

/// A model that a request means is not here. A reset would count against the replica, which other models need.
#[derive(Debug, thiserror::Error)]
enum Absence {
    #[error("model {name:?} is not loaded on {replica}")]
    Known { name: String, replica: ReplicaId },
    /// It may come, or a route is older than this agent: `header::REFUSED` lets Envoy ask another replica.
    #[error("model {name:?} is not loaded on {replica} yet")]
    NotYet { name: String, replica: ReplicaId },
}

/// The server is down: the stream is reset with REFUSED_STREAM, which says that nothing was done.
#[derive(Debug, thiserror::Error)]
#[error("the inference server is down")]
pub(crate) struct Refused(#[source] h2::Error);

impl Refused {
    /// HTTP/1.1 has no way to refuse a request, so it gets a 503.
    fn answer(version: Version, request_id: &HeaderValue) -> Result<Response<ResponseBody>, Self> {
        if version == Version::HTTP_2 {
            return Err(Self(h2::Error::from(h2::Reason::REFUSED_STREAM)));
        }
        Ok(rest::json_error(StatusCode::SERVICE_UNAVAILABLE, "the inference server is down", request_id))
    }
}

impl Proxy {
    pub(crate) fn new(
        replica: ReplicaId,
        residency: Arc<Residency>,
        phase: watch::Receiver<Phase>,
        settling: Settling,
        max_message_bytes: usize,
    ) -> Arc<Self> {
        let budget = Budget::new(max_message_bytes.saturating_mul(INCOMPLETE_MESSAGES));
        Arc::new(Self { replica, residency, phase, settling, ids: RequestIds::new(), max_message_bytes, budget })
    }

    async fn answer(&self, mut request: Request<Incoming>) -> Result<Response<ResponseBody>, Refused> {
        let running = self.phase.borrow().running().cloned();
        let Some(running) = running else {
            let (version, request_id) = (request.version(), self.request_id(request.headers_mut()));
            debug!(replica = %self.replica, ?request_id, "refused: the inference server is down");
            return Refused::answer(version, &request_id);
        };
        if grpc::is_call(&request) {
            grpc::call(self, &running, request).await
        } else {
            rest::call(self, &running, request).await
        }
    }

    /// The client's id of a request, or one of ours, which the server then sees too.
    fn request_id(&self, headers: &mut HeaderMap) -> HeaderValue {
        let made = || HeaderValue::from_str(&self.ids.next()).expect("digits and letters make a header value");
        headers.entry(REQUEST_ID).or_insert_with(made).clone()
    }

    fn absence(&self, name: &str) -> Absence {
        let (name, replica) = (name.to_owned(), self.replica.clone());
        if self.settling.is_over() { Absence::Known { name, replica } } else { Absence::NotYet { name, replica } }
    }

    /// For people.
    fn server(&self) -> String {
        format!("the inference server of {}", self.replica)
    }
}

/// Serves until `stop` is requested, then lets requests under way end.
pub(crate) async fn serve(proxy: Arc<Proxy>, listener: TcpListener, stop: Stop) {
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            // All arms are cancel-safe; stopping goes first, or a busy listener would never stop.
            biased;
            () = stop.requested() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((_, peer)) if connections.len() >= CONNECTIONS => {
                warn!(replica = %proxy.replica, %peer, limit = CONNECTIONS, "connection refused: there are too many");
            }
            Ok((stream, _)) => {
                connections.spawn(connection(&graceful, Arc::clone(&proxy), stream));
            }
            Err(error) => {
                warn!(replica = %proxy.replica, %error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    if tokio::time::timeout(DRAIN_LIMIT, graceful.shutdown()).await.is_err() {
        warn!(replica = %proxy.replica, limit = ?DRAIN_LIMIT, "requests still running at the end of the drain are cut");
    }
    connections.shutdown().await;
}

fn builder(streams: Streams) -> Builder<Streams> {
    let mut builder = Builder::new(streams);
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_LIMIT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_pending_accept_reset_streams(CANCELLED_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_header_list_size(HEADER_LIST)
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_LIMIT);
    builder
}

fn connection(
    graceful: &GracefulShutdown,
    proxy: Arc<Proxy>,
    stream: TcpStream,
) -> impl Future<Output = Result<(), Infallible>> + Send + 'static {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "connection gone before it was served");
    }
    let service = service_fn(move |request| {
        let proxy = Arc::clone(&proxy);
        async move { proxy.answer(request).await }
    });
    let streams = Streams::default();
    let builder = builder(streams.clone());
    let socket = Gathering::new(stream);
    let connection = graceful.watch(builder.serve_connection(TokioIo::new(socket.clone()), service).into_owned());
    async move {
        if let Err(error) = streams.run(connection, socket).await {
            debug!(%error, "connection ended");
        }
        Ok(())
    }
}
