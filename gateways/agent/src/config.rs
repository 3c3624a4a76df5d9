//! What an agent is told when it starts. Reads no environment and opens nothing.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use domain::{Bytes, ReplicaId};

/// The largest request, unless said otherwise: what Envoy's stream windows are made for.
pub const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// As long as the scheduler waits for an agent that it has lost, unless it is told otherwise.
const SETTLES_AFTER: Duration = Duration::from_secs(10);

/// What the built-in inference server can run.
const BUILT_IN: &str = "onnx";

/// Configuration of one agent.
#[derive(Clone, Debug)]
pub struct Config {
    /// Which replica of which server this is.
    pub replica: ReplicaId,
    /// Schedulers (`host:port`), tried in turn.
    pub schedulers: Vec<String>,
    /// The address under which Envoy reaches this agent; the unspecified one means "where I call from".
    pub advertise_host: String,
    /// Memory for models.
    pub memory: Bytes,
    /// What the inference server can run.
    pub capabilities: Vec<String>,
    /// Announced only.
    pub over_commit_percentage: u32,
    /// Copies of artifacts (in `models`) and the server's log. Belongs to this agent alone: it is cleared at start.
    pub folder: PathBuf,
    /// The inference server.
    pub inference: Inference,
    /// The largest request, REST and gRPC alike.
    pub max_message_bytes: usize,
    /// Folders that artifacts may come from; empty = any.
    pub artifact_roots: Vec<PathBuf>,
    /// Until so long after it first subscribed, the agent refuses requests for models that it does not hold, so that they
    /// are sent elsewhere: routes may still be those of the agent that was here before. Later they are NOT_FOUND.
    pub settles_after: Duration,
}

impl Config {
    /// The defaults: the built-in server's capability, any artifact, reached where it calls from.
    #[must_use]
    pub fn new(replica: ReplicaId, schedulers: Vec<String>, folder: PathBuf, inference: Inference) -> Self {
        Self {
            replica,
            schedulers,
            advertise_host: "0.0.0.0".to_owned(),
            memory: Bytes(1 << 30),
            capabilities: vec![BUILT_IN.to_owned()],
            over_commit_percentage: 0,
            folder,
            inference,
            max_message_bytes: MAX_MESSAGE_BYTES,
            artifact_roots: Vec::new(),
            settles_after: SETTLES_AFTER,
        }
    }
}

/// Where the inference server is.
#[derive(Clone, Debug)]
pub enum Inference {
    /// A child process of the agent. It serves REST and gRPC (both over HTTP/2 with prior knowledge) on one port.
    Spawn(SpawnCommand),
    /// A process that somebody else looks after and that loads models from `<folder>/models`.
    Attached {
        /// REST. When it is the gRPC address too, requests go over HTTP/2, else over HTTP/1.1.
        http: SocketAddr,
        /// gRPC over HTTP/2 with prior knowledge.
        grpc: SocketAddr,
    },
}

/// How the child is started. In arguments and in values of the environment, `{port}` and `{models}` are replaced by the
/// port to listen on (127.0.0.1) and the folder with the models.
#[derive(Clone, Debug, Default)]
pub struct SpawnCommand {
    /// A path, or a name on the PATH.
    pub program: PathBuf,
    /// Arguments.
    pub arguments: Vec<String>,
    /// Added to the inherited environment.
    pub environment: Vec<(String, String)>,
    /// A program that answers the verb `run-child`; without one this very program must.
    pub launcher: Option<PathBuf>,
}
