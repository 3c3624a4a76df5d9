//! What an operator may choose about the data plane. Everything else is a named constant beside its use.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

/// Where the access log is by default; the compatible path.
const ACCESS_LOG: &str = "/tmp/envoy-accesslog.txt";

/// Largest HTTP/2 window the protocol has.
const LARGEST_WINDOW: u32 = i32::MAX as u32;

/// Smallest window Envoy accepts.
const SMALLEST_WINDOW: u32 = 65_535;

/// gRPC's five bytes before a message, and frame headers on the way, rounded up.
const MESSAGE_OVERHEAD: u32 = 64 << 10;

/// How Envoys serve requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Address the data port binds to.
    pub address: IpAddr,
    /// Data port; an Envoy whose node metadata has `switchyard.port` takes that instead.
    pub port: u16,
    /// The access log, or none.
    pub access_log: Option<AccessLog>,
    /// How long a request, or a connection, may be silent. Long inferences send nothing until they answer.
    pub idle_timeout: Duration,
    /// How long a client may take to send its request's headers.
    pub request_headers_timeout: Duration,
    /// Largest message, in bytes, that a gRPC client may send without the model's name in a header: Envoy must hold
    /// the first message to read the name in it.
    pub max_message: u32,
    /// Bytes that Envoy holds of a request or response whose receiver is slower than its sender. A longer request
    /// is not retried once so much of it has left.
    pub buffer_limit: u32,
    /// How long connecting to a replica may take. Room for one repetition of the first packet.
    pub connect_timeout: Duration,
    /// How often a request that no replica has begun to do is sent again.
    pub retries: u32,
    /// How often an idle connection to a replica is tried.
    pub upstream_keepalive: Duration,
    /// How long a replica may take to answer such a try; generous, because a busy machine is not a dead one.
    pub upstream_keepalive_timeout: Duration,
}

/// What is logged of requests, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLog {
    /// File, as seen by Envoy.
    pub path: PathBuf,
    /// Log requests that went well, too.
    pub include_successful: bool,
}

impl Default for AccessLog {
    fn default() -> Self {
        AccessLog { path: ACCESS_LOG.into(), include_successful: false }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            port: 9_000,
            access_log: Some(AccessLog::default()),
            idle_timeout: Duration::from_secs(3_600),
            request_headers_timeout: Duration::from_secs(60),
            max_message: 64 << 20,
            buffer_limit: 4 << 20,
            connect_timeout: Duration::from_secs(3),
            retries: 2,
            upstream_keepalive: Duration::from_secs(30),
            upstream_keepalive_timeout: Duration::from_secs(20),
        }
    }
}

impl Settings {
    /// The HTTP/2 window that lets the largest message in.
    pub(super) fn window(&self) -> u32 {
        self.max_message.saturating_add(MESSAGE_OVERHEAD).clamp(SMALLEST_WINDOW, LARGEST_WINDOW)
    }
}
