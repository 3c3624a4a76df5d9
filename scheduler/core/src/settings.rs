//! What an installation may set about decisions; everything else is a rule.

/// How long a lost agent may stay away before its models are placed elsewhere, in milliseconds. An agent that
/// restarts its server or reconnects needs about a second; ten keep a blip from moving models (DESIGN §9).
pub const AGENT_GRACE_MS: u64 = 10_000;

/// How long a drain may take before its caller is told to go on, in milliseconds: half of the 120 s that the
/// compatible manifests give a server to end.
pub const DRAIN_LIMIT_MS: u64 = 60_000;

/// How long a removed model or a stopped experiment stays listed, in milliseconds: one day
/// (`deleted-resource-ttl-seconds`).
pub const TERMINATED_TTL_MS: u64 = 24 * 60 * 60 * 1000;

/// Partitions of every topic of a new installation (`KAFKA_DEFAULT_NUM_PARTITIONS`; `spec/delivery.md` §1).
pub const PARTITIONS: u32 = 8;

/// How long a worker may be without a stream before its shards go to others, in milliseconds: with what it takes to
/// notice that a peer is gone without a word, this is the lease of `spec/delivery.md` §7.
pub const WORKER_GRACE_MS: u64 = 2_000;

/// The whole, in which [`Settings::packing`] is given.
pub(crate) const THOUSANDTHS: u32 = 1_000;

/// Settings of one machine. They are not kept on disk: a restart may change them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// See [`AGENT_GRACE_MS`]; 0 = a lost agent's models are placed elsewhere at once.
    pub agent_grace_ms: u64,
    /// See [`DRAIN_LIMIT_MS`].
    pub drain_limit_ms: u64,
    /// See [`TERMINATED_TTL_MS`].
    pub terminated_ttl_ms: u64,
    /// Owners of servers are asked for more or fewer replicas (`enable-server-autoscaling`).
    pub server_autoscaling: bool,
    /// How often, in thousandths, a server that could do with fewer replicas is packed although none is empty;
    /// 0 = never (`server-packing-percentage`).
    pub packing: u32,
    /// With an empty store: how long placement waits, in milliseconds, for the first word about servers and for their
    /// agents (`scheduler-ready-timeout-seconds`). Absent: it waits for nobody, because nobody will say.
    pub first_sync_ms: Option<u64>,
    /// See [`PARTITIONS`].
    pub partitions: u32,
    /// How many partitions a pipeline's requests enter by, where it says nothing itself; absent = all
    /// (`maxShardCountMultiplier`).
    pub partition_factor: Option<u32>,
    /// See [`WORKER_GRACE_MS`].
    pub worker_grace_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            agent_grace_ms: AGENT_GRACE_MS,
            drain_limit_ms: DRAIN_LIMIT_MS,
            terminated_ttl_ms: TERMINATED_TTL_MS,
            server_autoscaling: true,
            packing: 0,
            first_sync_ms: None,
            partitions: PARTITIONS,
            partition_factor: None,
            worker_grace_ms: WORKER_GRACE_MS,
        }
    }
}
