//! `switchyard agent`. Names of flags and variables are the compatible ones where there are any. One port serves
//! REST and gRPC.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;

use agent::{Config, Inference, SpawnCommand};
use clap::Args;
use crds::{BadQuantity, Quantity};
use domain::{BadName, Bytes, ReplicaId, ReplicaIndex, ServerName};

use super::{Error, LogFlags, listen};

/// Name of the server when nobody says it: the built-in one.
const SERVER_NAME: &str = "onnx";
/// Ports of an inference server that somebody else started, when only one of them is said.
const INFERENCE_PORTS: (u16, u16) = (8080, 9500);

#[derive(Debug, Args)]
#[command(
    after_help = "Without --inference-http-port and --inference-grpc-port the built-in inference server is started.

Example:
  switchyard agent --scheduler-host scheduler.local --server-name onnx --server-idx 0 --memory-bytes 4Gi"
)]
pub(crate) struct Flags {
    /// Name of the server that this is a replica of [else: $POD_NAME before its last dash, onnx]
    #[arg(long, value_name = "NAME", env = "SWITCHYARD_SERVER_NAME")]
    server_name: Option<String>,
    /// Which replica of it this is [else: $POD_NAME after its last dash, 0]
    #[arg(long, value_name = "N", env = "SWITCHYARD_SERVER_IDX")]
    server_idx: Option<u32>,
    /// Name of the pod, <server>-<index>
    #[arg(long, hide = true, env = "POD_NAME")]
    pod_name: Option<String>,
    /// Host of the scheduler
    #[arg(long, value_name = "HOST", env = "SELDON_SCHEDULER_HOST", default_value = "127.0.0.1")]
    scheduler_host: String,
    /// Port of the scheduler for agents
    #[arg(long, value_name = "PORT", env = "SELDON_SCHEDULER_PORT", default_value_t = 9005, value_parser = clap::value_parser!(u16).range(1..))]
    scheduler_port: u16,
    /// Address under which Envoy reaches this agent; 0.0.0.0 is the one it calls the scheduler from
    #[arg(long, value_name = "HOST", env = "SWITCHYARD_AGENT_HOST", default_value = "0.0.0.0")]
    agent_host: String,
    /// Address to listen on
    #[arg(long, value_name = "IP", env = "SWITCHYARD_LISTEN_HOST", default_value = "0.0.0.0")]
    listen_host: IpAddr,
    /// Port for requests, REST and gRPC
    #[arg(long, value_name = "PORT", env = "SELDON_REVERSE_PROXY_HTTP_PORT", default_value_t = 9999)]
    reverse_proxy_http_port: u16,
    /// Host of an inference server that somebody else started
    #[arg(long, value_name = "HOST", env = "SWITCHYARD_INFERENCE_HOST", default_value = "127.0.0.1")]
    inference_host: String,
    /// Its port for REST
    #[arg(long, value_name = "PORT", env = "SELDON_SERVER_HTTP_PORT", value_parser = clap::value_parser!(u16).range(1..))]
    inference_http_port: Option<u16>,
    /// Its port for gRPC
    #[arg(long, value_name = "PORT", env = "SELDON_SERVER_GRPC_PORT", value_parser = clap::value_parser!(u16).range(1..))]
    inference_grpc_port: Option<u16>,
    /// Folder for copies of artifacts; it belongs to this agent alone and is cleared at its start
    #[arg(long, value_name = "FOLDER", env = "SWITCHYARD_AGENT_FOLDER", default_value = "./switchyard-data/agent")]
    agent_folder: PathBuf,
    /// Memory for models, in bytes or like 4Gi
    #[arg(long, value_name = "AMOUNT", env = "MEMORY_REQUEST", value_parser = memory)]
    memory_bytes: Option<Bytes>,
    /// What the inference server can run, separated by commas
    #[arg(long, value_name = "LIST", env = "SELDON_SERVER_CAPABILITIES", value_delimiter = ',')]
    capabilities: Vec<String>,
    /// By how much more models than fit are loaded; announced to the scheduler
    #[arg(long, value_name = "PERCENT", env = "SELDON_OVERCOMMIT_PERCENTAGE", default_value_t = 0)]
    over_commit_percentage: u32,
    /// Folders that artifacts may come from, separated by commas [else: any]
    #[arg(long, value_name = "FOLDERS", env = "SWITCHYARD_ARTIFACT_ROOTS", value_delimiter = ',')]
    artifact_roots: Vec<PathBuf>,
    #[command(flatten)]
    log: LogFlags,
}

/// Flags that do not make a configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadFlags {
    #[error("--server-name")]
    ServerName(#[source] BadName),
    #[error("$POD_NAME {text:?} is not <server>-<index>: give --server-name and --server-idx")]
    PodName { text: String },
    #[error("resolve {host} (--inference-host)")]
    InferenceHost {
        host: String,
        #[source]
        cause: io::Error,
    },
    #[error("the path of this program, which the built-in inference server is started with, is not known")]
    ThisProgram(#[source] io::Error),
}

fn memory(text: &str) -> Result<Bytes, BadQuantity> {
    Quantity::Text(text.to_owned()).bytes()
}

impl Flags {
    fn config(&self) -> Result<Config, BadFlags> {
        let schedulers = vec![format!("{}:{}", bracketed(&self.scheduler_host), self.scheduler_port)];
        let mut config = Config::new(self.replica()?, schedulers, self.agent_folder.clone(), self.inference()?);
        config.advertise_host.clone_from(&self.agent_host);
        config.memory = self.memory_bytes.unwrap_or(config.memory);
        let capabilities = self.capabilities.iter().map(|text| text.trim().to_owned());
        let capabilities: Vec<String> = capabilities.filter(|text| !text.is_empty()).collect();
        if !capabilities.is_empty() {
            config.capabilities = capabilities;
        }
        config.over_commit_percentage = self.over_commit_percentage;
        config.artifact_roots =
            self.artifact_roots.iter().filter(|root| !root.as_os_str().is_empty()).cloned().collect();
        Ok(config)
    }

    fn replica(&self) -> Result<ReplicaId, BadFlags> {
        let (mut name, mut index) = (SERVER_NAME.to_owned(), 0);
        // Only what no flag says is taken from the pod's name.
        let asked = self.server_name.is_none() || self.server_idx.is_none();
        if let Some(pod) = self.pod_name.as_deref().filter(|pod| asked && !pod.is_empty()) {
            let parts = pod.rsplit_once('-').and_then(|(name, index)| Some((name, index.parse::<u32>().ok()?)));
            let (pod_server, pod_index) = parts.ok_or_else(|| BadFlags::PodName { text: pod.to_owned() })?;
            (name, index) = (pod_server.to_owned(), pod_index);
        }
        let name = self.server_name.as_deref().unwrap_or(&name);
        let server = ServerName::parse(name).map_err(BadFlags::ServerName)?;
        Ok(ReplicaId { server, index: ReplicaIndex(self.server_idx.unwrap_or(index)) })
    }

    fn inference(&self) -> Result<Inference, BadFlags> {
        if self.inference_http_port.is_none() && self.inference_grpc_port.is_none() {
            return Ok(Inference::Spawn(built_in()?));
        }
        let resolve = |port: u16| -> Result<SocketAddr, BadFlags> {
            let failed = |cause| BadFlags::InferenceHost { host: self.inference_host.clone(), cause };
            let mut addresses = (self.inference_host.as_str(), port).to_socket_addrs().map_err(failed)?;
            addresses.next().ok_or_else(|| failed(io::ErrorKind::NotFound.into()))
        };
        let (http, grpc) = INFERENCE_PORTS;
        Ok(Inference::Attached {
            http: resolve(self.inference_http_port.unwrap_or(http))?,
            grpc: resolve(self.inference_grpc_port.unwrap_or(grpc))?,
        })
    }
}

/// How an agent starts the built-in inference server.
pub(crate) fn built_in() -> Result<SpawnCommand, BadFlags> {
    let program = std::env::current_exe().map_err(BadFlags::ThisProgram)?;
    let arguments = ["onnx-server", "--host", "127.0.0.1", "--port", "{port}", "--model-folder", "{models}"];
    Ok(SpawnCommand { program, arguments: arguments.map(str::to_owned).to_vec(), ..SpawnCommand::default() })
}

/// A host as it stands before a port.
fn bracketed(host: &str) -> String {
    if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() }
}

pub(crate) async fn run(flags: Flags) -> Result<(), Error> {
    flags.log.init();
    super::run(async |stop| {
        let config = flags.config()?;
        let listener = listen(flags.listen_host, flags.reverse_proxy_http_port, "--reverse-proxy-http-port").await?;
        agent::run(config, listener, stop).await.map_err(Error::Agent)
    })
    .await
}

#[cfg(test)]
mod tests {
    use agent::Inference;
    use clap::Parser;
    use domain::Bytes;

    use super::Flags;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        flags: Flags,
    }

    fn flags(arguments: &[&str]) -> Flags {
        Program::parse_from(["agent"].iter().chain(arguments)).flags
    }

    #[test]
    fn the_replica_is_named_by_flags_else_by_the_pod_else_it_is_the_built_in_one() {
        for (arguments, expected) in [
            (&[][..], Some("onnx/0")),
            (&["--pod-name", "ml-server-12"], Some("ml-server/12")),
            (&["--pod-name", "ml-server-12", "--server-idx", "3"], Some("ml-server/3")),
            (&["--pod-name", "odd", "--server-name", "a", "--server-idx", "3"], Some("a/3")),
            (&["--pod-name", "ml-server-x"], None),
            (&["--server-name", "Bad"], None),
        ] {
            let replica = flags(arguments).replica().ok().map(|id| format!("{}/{}", id.server, id.index.0));
            assert_eq!(replica.as_deref(), expected, "{arguments:?}");
        }
    }

    #[test]
    fn the_built_in_server_is_started_unless_there_is_one() {
        assert!(matches!(flags(&[]).inference(), Ok(Inference::Spawn(_))));
        let attached = flags(&["--inference-http-port", "81", "--inference-host", "::1"]).inference();
        let Ok(Inference::Attached { http, grpc }) = attached else { panic!("attached") };
        assert_eq!((http.to_string().as_str(), grpc.to_string().as_str()), ("[::1]:81", "[::1]:9500"));
    }

    #[test]
    fn flags_become_the_configuration() {
        let flags = flags(&["--memory-bytes", "4Gi", "--capabilities", "onnx, extra,", "--scheduler-host", "::1"]);
        let config = flags.config().expect("good flags");
        assert_eq!(config.memory, Bytes(4 << 30));
        assert_eq!(config.capabilities, ["onnx", "extra"]);
        assert_eq!(config.schedulers, ["[::1]:9005"]);
    }
}
