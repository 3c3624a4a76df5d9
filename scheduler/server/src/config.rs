//! What a scheduler process is told when it starts.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use scheduler_core::Settings;

/// Largest store, unless said otherwise: about a million models. The file grows as it is filled.
pub const STORE_BYTES: u64 = 4 << 30;

/// An Envoy that has not applied a change after this time gates nothing until it has caught up: far above the 2 s
/// that Envoy was seen to take for 100,000 scopes, and short enough that one stuck proxy delays a roll-out only once.
pub const LAG_AFTER: Duration = Duration::from_secs(10);

/// How long a lost Envoy is taken to be using what it was told: its reconnect takes at most a second
/// (DESIGN §4, bootstrap), and a new process of it some more.
pub const DRAIN_GRACE: Duration = Duration::from_secs(5);

/// Over how long the streams of Envoys end when the scheduler stops: thousands of them come back at a rate that another
/// scheduler, or the next process of this one, takes. Few end at once.
pub const ENVOY_DRAIN: Duration = Duration::from_secs(2);

/// How long a subscriber of statuses may take nothing before it is cut off (`spec/control-plane.md` §1.0).
pub const SUBSCRIBER_LIMIT: Duration = Duration::from_secs(30);

/// Configuration of one scheduler.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it keeps its state.
    pub dir: PathBuf,
    /// Bound of the store in bytes.
    pub store_bytes: u64,
    /// See [`LAG_AFTER`].
    pub lag_after: Duration,
    /// See [`DRAIN_GRACE`].
    pub drain_grace: Duration,
    /// See [`ENVOY_DRAIN`].
    pub envoy_drain: Duration,
    /// How old the stream of an Envoy may become, so that Envoys spread over several schedulers again; as old as it likes
    /// unless set.
    pub envoy_stream_age: Option<Duration>,
    /// See [`SUBSCRIBER_LIMIT`].
    pub subscriber_limit: Duration,
    /// What the installation sets about decisions.
    pub decisions: Settings,
    /// A file that is watched for `pipelines.maxShardCountMultiplier`.
    pub scaling: Option<PathBuf>,
    /// What Envoys are told about the listener.
    pub envoy: crate::envoy::Settings,
    /// Where it counts what it does.
    pub counters: Arc<crate::Counters>,
}

impl Config {
    /// The defaults, with the state in `dir`.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        let envoy = crate::envoy::Settings::default();
        Self {
            dir,
            store_bytes: STORE_BYTES,
            lag_after: LAG_AFTER,
            drain_grace: DRAIN_GRACE,
            envoy_drain: ENVOY_DRAIN,
            envoy_stream_age: None,
            subscriber_limit: SUBSCRIBER_LIMIT,
            decisions: Settings::default(),
            scaling: None,
            envoy,
            counters: Arc::default(),
        }
    }
}
