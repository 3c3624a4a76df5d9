//! Health and metrics of a process over HTTP: `/live`, `/ready`, `/startup` and `/metrics`. The parts of the process
//! set their checks; a probe only reads them, so it never waits for anything. 500 means "no": probes of compatible
//! installations expect it.
//!
//! Invariant: a check exists for as long as the process; one whose part has gone keeps what it said last.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{debug, info, warn};

use crate::{OnError, Stop, Tasks, process_metrics};

/// Probes and scrapers are few; more connections than this wait, so nobody can exhaust us here.
const CONNECTIONS: usize = 64;
/// A probe sends its request at once; whoever does not makes room for others. Also ends idle keep-alive connections.
const REQUEST_WITHIN: Duration = Duration::from_secs(10);
/// After a failed accept (usually no file descriptor is left), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long answers under way may take once the process stops.
const STOP_WITHIN: Duration = Duration::from_secs(1);
/// What a new check says until it is set.
const STARTING: &str = "starting";

/// Appends metrics in the Prometheus text format. Called on every scrape, so it must not block.
pub type Metrics = Arc<dyn Fn(&mut String) + Send + Sync>;

/// The checks and metrics of a process. Clones share them.
#[derive(Clone, Default)]
pub struct Health(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    checks: BTreeMap<String, Stand>,
    metrics: Vec<Metrics>,
}

struct Stand {
    /// None is ready.
    unready: Option<String>,
    was_ready: bool,
}

/// One thing that must be well for the process to be ready.
#[derive(Clone)]
pub struct Check {
    name: String,
    health: Health,
}

#[derive(Serialize)]
struct Line<'a> {
    name: &'a str,
    ready: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

impl Health {
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers a check, not ready at first. The same name gives the same check.
    pub fn check(&self, name: impl Into<String>) -> Check {
        let name = name.into();
        let new = || Stand { unready: Some(STARTING.to_owned()), was_ready: false };
        self.lock().checks.entry(name.clone()).or_insert_with(new);
        Check { name, health: self.clone() }
    }

    /// Adds what `/metrics` shows.
    pub fn add_metrics(&self, metrics: Metrics) {
        self.lock().metrics.push(metrics);
    }

    pub fn is_ready(&self) -> bool {
        self.lock().checks.values().all(|stand| stand.unready.is_none())
    }

    /// Every check has been ready once, though not necessarily at the same time or now.
    fn has_started(&self) -> bool {
        self.lock().checks.values().all(|stand| stand.was_ready)
    }

    fn checks_json(&self) -> Vec<u8> {
        let state = self.lock();
        let lines = state.checks.iter().map(|(name, stand)| Line {
            name,
            ready: stand.unready.is_none(),
            reason: stand.unready.as_deref(),
        });
        serde_json::to_vec(&lines.collect::<Vec<_>>()).expect("strings and booleans always serialise")
    }

    fn metrics_text(&self) -> String {
        // Producers run without the lock: one of them may ask for a check.
        let producers = self.lock().metrics.clone();
        let mut text = String::new();
        process_metrics::write(&mut text);
        producers.iter().for_each(|producer| producer(&mut text));
        text
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change under the lock is a single step, so what a panicking thread leaves behind is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Check {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Check").field(&self.name).finish()
    }
}

impl Check {
    pub fn set_ready(&self) {
        self.set(None);
    }

    pub fn set_unready(&self, reason: impl Into<String>) {
        self.set(Some(reason.into()));
    }

    fn set(&self, unready: Option<String>) {
        if let Some(stand) = self.health.lock().checks.get_mut(&self.name) {
            stand.was_ready |= unready.is_none();
            stand.unready = unready;
        }
    }
}

/// Serves until the stop is requested.
pub async fn serve(listener: TcpListener, health: Health, stop: Stop) -> Result<(), Infallible> {
    // A part of its own, so that its connections end with it.
    let tasks = Tasks::new(stop.child());
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // Both arms are cancel-safe; a place taken for a connection that never came is given back.
        let accepted = tokio::select! {
            () = stop.requested() => break,
            accepted = accept(&listener, &places) => accepted,
        };
        match accepted {
            Ok((stream, place)) => {
                tasks.spawn("health connection", OnError::Log, connection(stream, place, health.clone(), stop.clone()));
            }
            Err(error) => {
                warn!(%error, "accept a connection to the health port");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    if let Err(error) = tasks.finish(STOP_WITHIN).await {
        info!(%error, "health connections cut");
    }
    Ok(())
}

async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> std::io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.expect("the semaphore is never closed");
    let (stream, _) = listener.accept().await?;
    Ok((stream, place))
}

async fn connection(
    stream: TcpStream,
    _place: OwnedSemaphorePermit,
    health: Health,
    stop: Stop,
) -> Result<(), Infallible> {
    let service = service_fn(|request| {
        let response = answer(&request, &health);
        async { Ok::<_, Infallible>(response) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(REQUEST_WITHIN);
    let mut served = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
    let outcome = tokio::select! {
        outcome = served.as_mut() => outcome,
        () = stop.requested() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = outcome {
        debug!(%error, "health connection ended");
    }
    Ok(())
}

fn answer(request: &Request<Incoming>, health: &Health) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match request.uri().path() {
        "/live" => text(StatusCode::OK, "alive\n"),
        "/ready" => checks(health.is_ready(), health),
        "/startup" => checks(health.has_started(), health),
        "/metrics" => text(StatusCode::OK, health.metrics_text()),
        _ => text(StatusCode::NOT_FOUND, "there is /live, /ready, /startup and /metrics\n"),
    }
}

fn checks(well: bool, health: &Health) -> Response<Full<Bytes>> {
    let status = if well { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
    respond(status, "application/json", health.checks_json().into())
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    // The version is the one of the Prometheus text format; it is plain text all the same.
    respond(status, "text/plain; version=0.0.4; charset=utf-8", body.into())
}

fn respond(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
