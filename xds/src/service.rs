//! The gRPC services: one loop for all methods, aggregated and per type, of both variants. It moves requests into a session
//! and responses out of it.
//!
//! Not here: any rule of the protocol. The loop is the body of the answer itself, polled by the transport: it is dropped
//! with the connection, needs no task of its own, and does not read requests while the client takes no responses. The body
//! is our own and not tonic's, so that a large response is written in pieces (`encode`) and never lies in memory whole.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body::{Body, Frame};
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::codegen::Service;
use tonic::server::NamedService;
use tonic::{Status, body::Body as TonicBody};

use crate::admission::Admission;
use crate::ads::{Begun, Shared, StreamStatus};
use crate::demand::Refused;
use crate::encode::{Encoding, Flow};
use crate::gate::{Progress, StreamId};
use crate::inbox::Inbox;
use crate::lifetime::{End, Lifetime, Stage};
use crate::message::{Mode, Node, Request, Response};
use crate::resource::Kind;
use crate::rpcs::RPCS;
use crate::session::{Session, Standing};
use crate::time::Time;
use crate::wire::{self, Delta, Sotw, Wire};

/// The first answer is one message: 50 MB at 100,000 rich scopes. Above this the stream ends with an error.
const MAX_RESPONSE_BYTES: usize = 512 << 20;

/// The service number `N`: 0 is the aggregated one.
#[derive(Clone, Debug)]
pub(crate) struct Discovery<const N: usize> {
    shared: Arc<Shared>,
}

impl<const N: usize> Discovery<N> {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Discovery { shared }
    }
}

impl<const N: usize> NamedService for Discovery<N> {
    const NAME: &'static str = RPCS[N].service;
}

impl<const N: usize> Service<http::Request<TonicBody>> for Discovery<N> {
    type Response = http::Response<TonicBody>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<TonicBody>) -> Self::Future {
        if let Some(refused) = no_call(&request) {
            return ready(Ok(refused));
        }
        let rpc = &RPCS[N];
        let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        let response = if method == rpc.sotw {
            answer::<Sotw>(Arc::clone(&self.shared), rpc.kind, request)
        } else if method == rpc.delta {
            answer::<Delta>(Arc::clone(&self.shared), rpc.kind, request)
        } else {
            let text = format!("{method} is not served: streams of {} are {} and {}", rpc.service, rpc.sotw, rpc.delta);
            Status::unimplemented(text).into_http()
        };
        ready(Ok(response))
    }
}

/// The answer to what is no call of gRPC, which says so as HTTP does.
fn no_call(request: &http::Request<TonicBody>) -> Option<http::Response<TonicBody>> {
    let content = request.headers().get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let status = match (request.method(), content.starts_with(b"application/grpc")) {
        (&Method::POST, true) => return None,
        (&Method::POST, false) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        _ => StatusCode::METHOD_NOT_ALLOWED,
    };
    let mut response = http::Response::new(TonicBody::empty());
    *response.status_mut() = status;
    Some(response)
}

fn answer<W: Wire>(
    shared: Arc<Shared>,
    implied: Option<Kind>,
    request: http::Request<TonicBody>,
) -> http::Response<TonicBody> {
    if shared.stage().borrow().is_draining() {
        return End::Drain.status().into_http();
    }
    let requests = Inbox::new(request.into_body(), shared.room.clone());
    let (begun, lifetime) = shared.begin();
    let sent = Arc::default();
    let stream = Loop::<W> {
        changes: shared.changes(),
        stage: shared.stage(),
        _begun: begun,
        lifetime,
        sent: Arc::clone(&sent),
        shared,
        implied,
        requests,
        joined: None,
        outbox: VecDeque::new(),
        ended: false,
    };
    let responses = futures_util::stream::unfold(stream, |mut stream| async move {
        let next = stream.next().await?;
        Some((next, stream))
    });
    let body = Responses {
        mode: W::MODE,
        responses: Box::pin(responses),
        sent,
        current: None,
        flow: Arc::default(),
        ended: false,
    };
    let mut response = http::Response::new(TonicBody::new(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// The responses of a stream as the body of its answer.
struct Responses {
    mode: Mode,
    responses: Pin<Box<dyn Stream<Item = Result<Response, Status>> + Send>>,
    /// Bytes of messages; read by the loop.
    sent: Arc<AtomicU64>,
    current: Option<Encoding>,
    flow: Arc<Flow>,
    ended: bool,
}

impl Responses {
    fn end(&mut self, status: &Status) -> Frame<Bytes> {
        self.ended = true;
        let mut trailers = HeaderMap::new();
        // A text that is no header is left out.
        if status.add_header(&mut trailers).is_err() {
            trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("2"));
        }
        Frame::trailers(trailers)
    }
}

impl Body for Responses {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            if self.ended {
                return Poll::Ready(None);
            }
            let Responses { current, flow, .. } = &mut *self;
            if let Some(encoding) = current {
                if !encoding.is_over() {
                    std::task::ready!(flow.poll_room(context));
                }
                match encoding.piece() {
                    Some(piece) => {
                        // The last one, which mostly is the only one, keeps no other one waiting.
                        let piece = if encoding.is_over() { piece } else { flow.counted(piece) };
                        return Poll::Ready(Some(Ok(Frame::data(piece))));
                    }
                    None => *current = None,
                }
            }
            let status = match std::task::ready!(self.responses.as_mut().poll_next(context)) {
                Some(Ok(response)) => {
                    let encoding = Encoding::new(self.mode, response);
                    let bytes = encoding.message_bytes();
                    if bytes <= MAX_RESPONSE_BYTES {
                        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
                        self.current = Some(encoding);
                        continue;
                    }
                    Status::out_of_range(format!("a response of {bytes} bytes; at most {MAX_RESPONSE_BYTES} are sent"))
                }
                Some(Err(status)) => status,
                None => Status::ok(""),
            };
            let end = self.end(&status);
            return Poll::Ready(Some(Ok(end)));
        }
    }
}

struct Loop<W: Wire> {
    shared: Arc<Shared>,
    changes: watch::Receiver<u64>,
    stage: watch::Receiver<Stage>,
    _begun: Begun,
    lifetime: Lifetime,
    sent: Arc<AtomicU64>,
    implied: Option<Kind>,
    requests: Inbox<W::Request>,
    joined: Option<Joined>,
    outbox: VecDeque<Response>,
    ended: bool,
}

impl<W: Wire> Loop<W> {
    async fn next(&mut self) -> Option<Result<Response, Status>> {
        if self.ended {
            return None;
        }
        loop {
            if let Some(response) = self.outbox.pop_front() {
                return Some(Ok(response));
            }
            let stage = *self.stage.borrow();
            let is_quiet = self.joined.as_ref().is_none_or(|joined| joined.session().is_quiet());
            let end = self.lifetime.end(stage, self.shared.now(), is_quiet);
            let advanced = match end {
                Some(end) => Err(end.status()),
                None if stage.answers() => self.advance().await?,
                None => self.wait().await?,
            };
            if let Err(status) = advanced {
                self.ended = true;
                return Some(Err(status));
            }
        }
    }

    /// Nothing is read before the state is complete, so nothing can be answered from half of it.
    async fn wait(&mut self) -> Option<Result<(), Status>> {
        let end = self.lifetime.due(*self.stage.borrow(), self.shared.now());
        let timer = at(end.map(|end| self.shared.instant(end)));
        tokio::select! {
            // Both arms are safe to cancel.
            changed = self.stage.changed() => changed.ok()?,
            () = timer => {}
        }
        Some(Ok(()))
    }

    /// Waits for something to happen and deals with it. `None` when the client is gone.
    async fn advance(&mut self) -> Option<Result<(), Status>> {
        let (stage, now) = (*self.stage.borrow(), self.shared.now());
        let end = self.lifetime.due(stage, now);
        // One that is sent nothing more has nothing due but its end.
        let due = self.joined.as_ref().filter(|_| !self.lifetime.is_ending(stage, now)).and_then(Joined::due);
        let due = due.into_iter().chain(end).min();
        let timer = at(due.map(|due| self.shared.instant(due)));
        let waits = self.joined.as_ref().is_some_and(|joined| matches!(joined.admission, Admission::Waiting));
        let admission = Arc::clone(&self.shared.admission);
        // Every arm is safe to cancel: a message that is not complete stays in the inbox.
        let request = tokio::select! {
            request = self.requests.next() => match request {
                Ok(Some(request)) => Some(request),
                Ok(None) => return None,
                Err(status) => {
                    // The client is gone, or is told what of its request cannot be read.
                    tracing::debug!(%status, "no more requests");
                    return Some(Err(status));
                }
            },
            changed = self.changes.changed() => {
                changed.ok()?;
                None
            }
            changed = self.stage.changed() => {
                changed.ok()?;
                None
            }
            // Closed it never is.
            Ok(permit) = admission.acquire_owned(), if waits => {
                if let Some(joined) = &mut self.joined {
                    joined.admission = Admission::held(permit, &self.shared);
                }
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
        let is_ending = self.lifetime.is_ending(*self.stage.borrow(), self.shared.now());
        match &mut self.joined {
            Some(joined) => {
                self.outbox.extend(joined.step(request, is_ending)?);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// `None` for a type this server does not know: a newer client asks for more, and must not lose the rest.
    fn admit(&mut self, request: W::Request) -> Result<Option<Request>, Status> {
        if self.joined.is_none() {
            let node = wire::node(W::node(&request))?;
            self.joined = Some(Joined::new(Arc::clone(&self.shared), W::MODE, node, Arc::clone(&self.sent)));
        }
        let kind = match (W::type_url(&request), self.implied) {
            ("", Some(kind)) => kind,
            ("", None) => {
                return Err(Status::invalid_argument("type_url is missing: a stream of several types needs it"));
            }
            (type_url, implied) => match (Kind::from_type_url(type_url), implied) {
                (Some(kind), None) => kind,
                (Some(kind), Some(implied)) if kind == implied => kind,
                (_, Some(implied)) => {
                    let text = format!("type_url {type_url:?} on a stream of {}", implied.type_url());
                    return Err(Status::invalid_argument(text));
                }
                (None, None) => {
                    tracing::debug!(type_url, "asked for a type that is not served");
                    return Ok(None);
                }
            },
        };
        Ok(Some(W::request(request, kind)))
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// A stream whose client named itself. Dropping it is how the others learn that it is gone.
struct Joined {
    shared: Arc<Shared>,
    id: StreamId,
    session: Arc<Mutex<Session>>,
    admission: Admission,
    refused: Refused,
    came_at: Time,
    sent: Arc<AtomicU64>,
}

impl Joined {
    fn new(shared: Arc<Shared>, mode: Mode, node: Node, sent: Arc<AtomicU64>) -> Self {
        let (id, came_at) = (shared.next_stream(), shared.now());
        tracing::info!(stream = id.0, node = %node.id, ?mode, "stream opened");
        shared.gate().connect(id, node.id.clone());
        let lag_after = shared.config.lag_after;
        let session = Session::new(mode, node, lag_after, shared.config.tailor.clone());
        let session = match shared.config.on_demand {
            Some(on_demand) => session.on_demand(on_demand),
            None => session,
        };
        let status = StreamStatus {
            id,
            node: session.node().id.clone(),
            mode,
            kinds: Vec::new(),
            synced: false,
            lagging: false,
            counters: session.counters().clone(),
            bytes: 0,
            quiet_since: came_at,
        };
        shared.registry().insert(id, status);
        let session = Arc::new(Mutex::new(session));
        shared.joined(id, &session);
        shared.wake();
        Joined { shared, id, session, admission: Admission::None, refused: Refused::new(lag_after), came_at, sent }
    }

    /// When to step again although nothing happened.
    fn due(&self) -> Option<Time> {
        let until = match &self.admission {
            Admission::Held { until, .. } => Some(*until),
            Admission::None | Admission::Waiting | Admission::Over => None,
        };
        self.session().due().into_iter().chain(until).chain(self.refused.due()).min()
    }

    fn session(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `is_ending`: nothing more is sent, only acknowledgements are taken in.
    fn step(&mut self, request: Option<Request>, is_ending: bool) -> Result<Vec<Response>, Status> {
        let now = self.shared.now();
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let openness = session.openness();
        let outstanding = {
            let mut gate = self.shared.gate();
            if let Some(request) = &request {
                // Before its answer is made: a change that comes meanwhile is not in it.
                gate.asks(self.id, request.kind);
            }
            gate.outstanding(self.id)
        };
        let (responses, standings, progress, judged_at) = {
            // Held until the cursors are written down: what was removed since a request was taken in would not be known.
            let table = self.shared.table();
            if let Some(request) = request {
                let taken = session.on_request(request, &table, now);
                taken.map_err(|refused| Status::resource_exhausted(refused.to_string()))?;
            }
            let wishes = session.take_wishes();
            if !wishes.is_empty() || self.refused.is_due(now) {
                let declined = self.refused.take_in(wishes, self.id, &mut self.shared.demand(), now);
                declined.iter().for_each(|key| session.decline(key));
                self.shared.wake();
            }
            let is_first = session.is_in_first_answer();
            self.admission.advance(is_first, &self.shared, now);
            session.admit(self.admission.allows(), now);
            let responses = if is_ending { Ok(Vec::new()) } else { session.poll(&table, now) };
            let responses = responses.map_err(|behind| Status::aborted(behind.to_string()))?;
            let standings: Vec<_> = outstanding
                .into_iter()
                .map(|key| (session.standing(&key, &table), key))
                .filter(|(standing, _)| *standing != Standing::Outstanding)
                .map(|(standing, key)| (key, standing))
                .collect();
            (responses, standings, self.record(&session), table.revision())
        };
        let mut gate = self.shared.gate();
        for rejection in session.take_rejections() {
            let node = &session.node().id;
            tracing::warn!(stream = self.id.0, %node, key = %rejection.key, error = %rejection.message, "resource refused");
            gate.reject(node, rejection);
        }
        gate.report(self.id, progress, standings, judged_at);
        if session.openness() != openness {
            gate.ask_again(self.id);
        }
        let news = gate.has_news();
        drop(gate);
        if news {
            self.shared.wake();
        }
        Ok(responses)
    }

    /// Writes the status down. Called with the table held, so that no tombstone goes before its cursor is known.
    fn record(&self, session: &Session) -> Progress {
        let kinds = session.status();
        let mut progress: Progress = [None; Kind::COUNT];
        for status in &kinds {
            progress[status.kind.index()] = Some(status.settled);
        }
        if let Some(status) = self.shared.registry().get_mut(&self.id) {
            status.synced = !kinds.is_empty() && kinds.iter().all(|kind| kind.settled.is_some());
            status.kinds = kinds;
            status.counters.clone_from(session.counters());
            status.bytes = self.sent.load(Ordering::Relaxed);
            status.quiet_since = session.counters().acked_at.unwrap_or(self.came_at);
        }
        progress
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        let served = {
            let session = self.session();
            tracing::info!(stream = self.id.0, node = %session.node().id, "stream closed");
            session.counters().responses > 0 || session.status().iter().any(|k| k.settled.is_some())
        };
        self.shared.demand().leave(self.id);
        self.shared.left(self.id);
        let now = self.shared.now();
        self.shared.gate().disconnect(self.id, served, now);
        self.shared.registry().remove(&self.id);
        self.shared.wake();
    }
}
