//! Connections to the inference server: a few shared HTTP/2 ones, and HTTP/1.1 for the REST of servers that speak
//! nothing else. Tells requests the server has not seen from those it may have seen. Repeats nothing.

use std::error::Error as StdError;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Request, Response, Uri, Version, header};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use runtime::{OnError, Tasks};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::body::RequestBody;
use super::{CONNECTION_WINDOW, FRAME, HEADER_LIST, STREAM_WINDOW};

/// One connection is one core's work of framing at most; more than a few bring nothing.
const CONNECTIONS: usize = 4;
/// It is on this machine, or beside it in one pod.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// Streams that we cancelled and the server has not noticed yet. Clients that go away in numbers are no error here.
const RESET_STREAMS: usize = 4096;
/// Idle HTTP/1.1 connections that are kept.
const IDLE_CONNECTIONS: usize = 32;

/// No connection to the server.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("connect to {address}")]
    Connect {
        address: SocketAddr,
        #[source]
        cause: io::Error,
    },
    #[error("connect to {address}: no answer within {CONNECT_LIMIT:?}")]
    TimedOut { address: SocketAddr },
    #[error("begin HTTP/2 with {address}")]
    Handshake {
        address: SocketAddr,
        #[source]
        cause: hyper::Error,
    },
}

/// A request that was not answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    /// The server has not seen it.
    #[error("not sent to the inference server")]
    NotSent(#[source] Box<dyn StdError + Send + Sync>),
    /// The server may have worked on it.
    #[error("the inference server at {address} broke the connection")]
    Broken {
        address: SocketAddr,
        #[source]
        cause: Box<dyn StdError + Send + Sync>,
    },
}

/// The ways to one life of the server.
pub(crate) struct Upstream {
    grpc: Pool,
    rest: Rest,
}

enum Rest {
    /// The same connections as gRPC.
    Shared,
    Http1 {
        address: SocketAddr,
        authority: Authority,
        client: Box<Client<HttpConnector, RequestBody>>,
    },
}

impl Upstream {
    pub(crate) async fn connect(
        http: SocketAddr,
        grpc: SocketAddr,
        broken: Arc<Notify>,
        tasks: Tasks,
    ) -> Result<Self, ConnectError> {
        let pool = Pool {
            address: grpc,
            authority: authority(grpc),
            open: RwLock::default(),
            opening: tokio::sync::Mutex::default(),
            broken,
            tasks,
        };
        for _ in 0..CONNECTIONS {
            pool.open().await?;
        }
        let rest = if http == grpc { Rest::Shared } else { http1(http) };
        Ok(Self { grpc: pool, rest })
    }

    pub(crate) async fn send_grpc(
        &self,
        request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, Lease), SendError> {
        self.grpc.send(request).await
    }

    pub(crate) async fn send_rest(
        &self,
        mut request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, Option<Lease>), SendError> {
        match &self.rest {
            Rest::Shared => self.grpc.send(request).await.map(|(response, lease)| (response, Some(lease))),
            Rest::Http1 { address, authority, client } => {
                *request.version_mut() = Version::HTTP_11;
                *request.uri_mut() = with_authority(request.uri(), authority);
                // The client puts the server's name there.
                request.headers_mut().remove(header::HOST);
                match client.request(request).await {
                    Ok(response) => Ok((response, None)),
                    Err(error) if error.is_connect() => Err(SendError::NotSent(error.into())),
                    Err(error) => Err(SendError::Broken { address: *address, cause: error.into() }),
                }
            }
        }
    }
}

fn http1(address: SocketAddr) -> Rest {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_LIMIT));
    let client = Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_max_idle_per_host(IDLE_CONNECTIONS)
        // A repeat would be a second inference.
        .retry_canceled_requests(false)
        .build(connector);
    Rest::Http1 { address, authority: authority(address), client: Box::new(client) }
}

fn authority(address: SocketAddr) -> Authority {
    address.to_string().parse().expect("a socket address makes an authority")
}

fn with_authority(uri: &Uri, authority: &Authority) -> Uri {
    let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let builder = Uri::builder().scheme(Scheme::HTTP).authority(authority.clone()).path_and_query(path);
    builder.build().expect("all three parts are there")
}

struct Pool {
    address: SocketAddr,
    authority: Authority,
    open: RwLock<Vec<Arc<Connection>>>,
    /// Held while one is opened: a lost server must not be answered by a crowd of connects.
    opening: tokio::sync::Mutex<()>,
    broken: Arc<Notify>,
    tasks: Tasks,
}

struct Connection {
    sender: SendRequest<RequestBody>,
    streams: AtomicUsize,
}

/// A stream of a connection, until it is dropped: what "least used" counts.
pub(crate) struct Lease(Arc<Connection>);

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pool {
    async fn send(&self, mut request: Request<RequestBody>) -> Result<(Response<Incoming>, Lease), SendError> {
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = with_authority(request.uri(), &self.authority);
        request.headers_mut().remove(header::HOST);
        let mut fresh = false;
        loop {
            let lease = match if fresh { None } else { self.least_used() } {
                Some(lease) => lease,
                None => self.open().await.map_err(|error| SendError::NotSent(error.into()))?,
            };
            let mut sender = lease.0.sender.clone();
            let mut error = match sender.try_send_request(request).await {
                Ok(response) => return Ok((response, lease)),
                Err(error) => error,
            };
            match error.take_message() {
                // A connection that ended while it idled: the request never left. One new connection is tried.
                Some(unsent) if !fresh => (request, fresh) = (unsent, true),
                Some(_) => return Err(SendError::NotSent(error.into_error().into())),
                None => {
                    let error = error.into_error();
                    return Err(if is_refused(&error) {
                        SendError::NotSent(error.into())
                    } else {
                        SendError::Broken { address: self.address, cause: error.into() }
                    });
                }
            }
        }
    }

    /// `None` when a connection should be opened: there is none that is free, and not yet as many as there may be.
    fn least_used(&self) -> Option<Lease> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let usable = open.iter().filter(|connection| !connection.sender.is_closed());
        let mut count = 0;
        let streams = usable.inspect(|_| count += 1).map(|found| (found.streams.load(Ordering::Relaxed), found));
        let (streams, connection) = streams.min_by_key(|(streams, _)| *streams)?;
        (count >= CONNECTIONS || streams == 0).then(|| Lease::of(connection))
    }

    /// Opens a connection, unless somebody else has just done so.
    async fn open(&self) -> Result<Lease, ConnectError> {
        let _opening = self.opening.lock().await;
        if self.usable() >= CONNECTIONS
            && let Some(lease) = self.least_used()
        {
            return Ok(lease);
        }
        let address = self.address;
        let stream = tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect(address)).await;
        let stream = stream.map_err(|_| ConnectError::TimedOut { address })?;
        let stream = stream.map_err(|cause| ConnectError::Connect { address, cause })?;
        stream.set_nodelay(true).map_err(|cause| ConnectError::Connect { address, cause })?;
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME)
            .max_header_list_size(HEADER_LIST)
            .max_concurrent_reset_streams(RESET_STREAMS);
        let handshake = builder.handshake(TokioIo::new(stream)).await;
        let (sender, connection) = handshake.map_err(|cause| ConnectError::Handshake { address, cause })?;
        let broken = Arc::clone(&self.broken);
        self.tasks.spawn("server-connection", OnError::Log, async move {
            if let Err(error) = connection.await {
                tracing::debug!(%address, %error, "connection to the inference server ended");
            }
            broken.notify_one();
            Ok::<(), std::convert::Infallible>(())
        });
        let connection = Arc::new(Connection { sender, streams: AtomicUsize::new(0) });
        let lease = Lease::of(&connection);
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        open.retain(|connection| !connection.sender.is_closed());
        open.push(connection);
        Ok(lease)
    }

    fn usable(&self) -> usize {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        open.iter().filter(|connection| !connection.sender.is_closed()).count()
    }
}

impl Lease {
    fn of(connection: &Arc<Connection>) -> Self {
        connection.streams.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(connection))
    }
}

/// Whether the server said that it did not touch the stream.
fn is_refused(error: &hyper::Error) -> bool {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(error) = cause.downcast_ref::<h2::Error>() {
            return error.reason() == Some(h2::Reason::REFUSED_STREAM);
        }
        source = cause.source();
    }
    false
}

/// Removes what belongs to one hop alone. `te: trailers` stays: gRPC servers ask for it.
pub(crate) fn strip_hop_headers(headers: &mut http::HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let listed: Vec<header::HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            .collect();
        for name in listed {
            headers.remove(name);
        }
        headers.remove(header::CONNECTION);
    }
    for name in ["keep-alive", "proxy-connection", "upgrade", "expect"] {
        headers.remove(name);
    }
    headers.remove(header::TRANSFER_ENCODING);
    if headers.get(header::TE).is_some_and(|value| value != HeaderValue::from_static("trailers")) {
        headers.remove(header::TE);
    }
}
