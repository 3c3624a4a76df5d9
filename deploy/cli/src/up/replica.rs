//! How a replica of the built-in server is configured: its agent in this process, its inference server a child of this
//! very program.

use std::net::SocketAddr;
use std::path::Path;

use agent::{Config, Inference, SpawnCommand};
use domain::{Bytes, ReplicaId, ReplicaIndex, ServerName};

use super::launcher::{Replicas, SERVER};

/// Envoys of the same machine reach the agent here.
const HOST: &str = "127.0.0.1";

/// The configuration of one replica.
pub(crate) fn config(
    index: u32,
    folder: &Path,
    scheduler: SocketAddr,
    replicas: &Replicas,
) -> Result<Config, domain::BadName> {
    let replica = ReplicaId { server: ServerName::parse(SERVER)?, index: ReplicaIndex(index) };
    let arguments = ["onnx-server", "--port", "{port}", "--model-folder", "{models}", "--runtime-library"];
    let library = replicas.runtime_library.display().to_string();
    let inference = Inference::Spawn(SpawnCommand {
        program: replicas.program.clone(),
        arguments: arguments.into_iter().map(str::to_owned).chain([library]).collect(),
        ..SpawnCommand::default()
    });
    let mut config = Config::new(replica, vec![scheduler.to_string()], folder.to_owned(), inference);
    HOST.clone_into(&mut config.advertise_host);
    config.memory = Bytes(replicas.memory_bytes);
    Ok(config)
}
