//! Agents without inference servers, which speak the agents' protocol: they carry out every command at once and say so.
//! They come back by themselves when the scheduler goes away, with everything they hold, as real ones do.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail};
use api::agent::agent_service_client::AgentServiceClient;
use futures_util::StreamExt;
use harness::until;
use messages::agent as wire;
use messages::agent::model_event_message::Event;
use messages::agent::model_operation_message::Operation;
use messages::scheduler::Model;
use tokio::task::JoinHandle;
use tonic::transport::Channel;

use crate::scheduler::Scheduler;

/// Commands that an agent carries out side by side.
const AT_ONCE: usize = 16;
/// Between two attempts to subscribe; a real agent's first wait.
const AGAIN_AFTER: Duration = Duration::from_millis(100);
/// What a replica has; no model of these benchmarks is large.
const MEMORY: u64 = 1 << 50;
/// The scheduler takes an agent in at once.
const CONNECTS_WITHIN: Duration = Duration::from_secs(20);

/// A connected agent; it goes away when it is dropped.
pub(crate) struct Agent {
    held: Held,
    task: JoinHandle<()>,
}

type Held = Arc<Mutex<BTreeMap<(String, u32), Model>>>;

#[derive(Clone)]
struct Identity {
    server: String,
    index: u32,
    address: SocketAddr,
    held: Held,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Agent {
    /// Replica `index` of a server, whose requests are answered at `address`.
    pub(crate) fn start(
        scheduler: &Scheduler,
        server: &str,
        index: u32,
        address: SocketAddr,
        held: BTreeMap<(String, u32), Model>,
    ) -> Result<Agent> {
        let held = Arc::new(Mutex::new(held));
        let identity = Identity { server: server.to_owned(), index, address, held: held.clone() };
        let client = scheduler.agents()?.max_decoding_message_size(usize::MAX);
        let task = tokio::spawn(async move {
            loop {
                identity.serve(client.clone()).await;
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        });
        Ok(Agent { held, task })
    }

    /// Goes away, and gives what it holds.
    pub(crate) fn leave(self) -> BTreeMap<(String, u32), Model> {
        self.task.abort();
        lock(&self.held).clone()
    }
}

/// Starts `servers` × `replicas` agents, and waits until the scheduler knows all of them.
pub(crate) async fn fleet(
    scheduler: &Scheduler,
    servers: usize,
    replicas: u32,
    address: SocketAddr,
) -> Result<Vec<Agent>> {
    let mut agents = Vec::new();
    for server in 0..servers {
        let name = format!("server-{server}");
        for index in 0..replicas {
            agents.push(Agent::start(scheduler, &name, index, address, BTreeMap::new())?);
        }
        let wanted = i32::try_from(replicas)?;
        scheduler.control().has_replicas(&name, wanted, CONNECTS_WITHIN).await?;
    }
    Ok(agents)
}

/// Waits until all replicas of a server are there.
pub(crate) async fn connected(scheduler: &Scheduler, server: &str, replicas: i32) -> Result<()> {
    until(CONNECTS_WITHIN, "the agents are connected", async || {
        match scheduler.control().server(server).await?.available_replicas {
            available if available == replicas => Ok(()),
            available => bail!("{available} replicas of {server}"),
        }
    })
    .await
}

impl Identity {
    /// One subscription, until it ends.
    async fn serve(&self, mut client: AgentServiceClient<Channel>) {
        let Ok(commands) = client.subscribe(self.request()).await else { return };
        let commands = commands.into_inner();
        commands
            .for_each_concurrent(AT_ONCE, |command| async {
                // A refused report is the answer to a command that was superseded meanwhile.
                if let Some(report) = command.ok().and_then(|command| self.carry_out(command)) {
                    let _superseded = client.clone().agent_event(report).await;
                }
            })
            .await;
    }

    fn request(&self) -> wire::AgentSubscribeRequest {
        let port = i32::from(self.address.port());
        let held = lock(&self.held);
        let models = held.iter();
        wire::AgentSubscribeRequest {
            server_name: self.server.clone(),
            shared: true,
            replica_idx: self.index,
            replica_config: Some(wire::ReplicaConfig {
                inference_svc: self.address.ip().to_string(),
                inference_http_port: port,
                inference_grpc_port: port,
                memory_bytes: MEMORY,
                capabilities: vec![self.server.clone(), "onnx".to_owned()],
                over_commit_percentage: 0,
            }),
            loaded_models: models
                .map(|((_, version), model)| wire::ModelVersion { model: Some(model.clone()), version: *version })
                .collect(),
            available_memory_bytes: free(&held),
        }
    }

    fn carry_out(&self, command: wire::ModelOperationMessage) -> Option<wire::ModelEventMessage> {
        let operation = command.operation();
        let version = command.model_version?;
        let model = version.model?;
        let name = model.meta.as_ref()?.name.clone();
        let mut held = lock(&self.held);
        let event = match operation {
            Operation::UnloadModel => {
                held.remove(&(name.clone(), version.version));
                Event::Unloaded
            }
            Operation::LoadModel | Operation::UnknownEvent => {
                held.insert((name.clone(), version.version), model);
                Event::Loaded
            }
        };
        Some(wire::ModelEventMessage {
            server_name: self.server.clone(),
            replica_idx: self.index,
            model_name: name,
            model_version: version.version,
            event: event.into(),
            message: String::new(),
            available_memory_bytes: free(&held),
            runtime_info: None,
            fence: command.fence,
        })
    }
}

/// Every model of these benchmarks takes as much.
fn free(held: &BTreeMap<(String, u32), Model>) -> u64 {
    MEMORY - (held.len() as u64) * MODEL_BYTES
}

/// What a model takes.
pub(crate) const MODEL_BYTES: u64 = 1 << 20;

fn lock(held: &Held) -> MutexGuard<'_, BTreeMap<(String, u32), Model>> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}
