//! An agent without an inference server: subscribes, remembers its commands, and answers by itself or when told.

use std::collections::BTreeMap;
use std::fmt;

use messages::agent as wire;
use messages::agent::model_event_message::Event;
use messages::agent::model_operation_message::Operation;
use messages::scheduler::{Model, ModelRuntimeInfo};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::world::{World, loop_until, until};
use api::agent::agent_service_client::AgentServiceClient;

/// What an agent is and has; kept from one connection to the next.
#[derive(Clone)]
pub struct Identity {
    server: String,
    index: u32,
    shared: bool,
    memory: u64,
    capabilities: Vec<String>,
    echoes_fences: bool,
    port: u16,
    answers: bool,
    loaded: BTreeMap<(String, u32), Model>,
}

/// A connected agent.
pub struct Agent {
    identity: Identity,
    client: AgentServiceClient<Channel>,
    seen: watch::Receiver<Seen>,
    tell: watch::Sender<Seen>,
    reading: JoinHandle<()>,
}

/// One command that came.
#[derive(Clone, PartialEq)]
pub struct Command {
    pub operation: Operation,
    pub model: String,
    pub version: u32,
    pub definition: Model,
    fence: Option<u64>,
}

/// What an agent has seen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub commands: Vec<Command>,
    pub ended: Option<Code>,
    loaded: BTreeMap<(String, u32), Model>,
}

impl Identity {
    /// 100 bytes, `onnx`, shared, answers by itself.
    pub fn of(server: &str, index: u32) -> Identity {
        Identity {
            server: server.into(),
            index,
            shared: true,
            memory: 100,
            port: 10_000 + u16::try_from(index).unwrap(),
            capabilities: vec!["onnx".into()],
            echoes_fences: true,
            answers: true,
            loaded: BTreeMap::new(),
        }
    }

    pub fn memory(mut self, bytes: u64) -> Identity {
        self.memory = bytes;
        self
    }

    pub fn at(mut self, port: u16) -> Identity {
        self.port = port;
        self
    }

    pub fn offers(mut self, capabilities: &[&str]) -> Identity {
        self.capabilities = capabilities.iter().map(|&capability| capability.to_owned()).collect();
        self
    }

    pub fn not_shared(mut self) -> Identity {
        self.shared = false;
        self
    }

    /// It answers only when told.
    pub fn scripted(mut self) -> Identity {
        self.answers = false;
        self
    }

    /// It knows nothing of fences, like the agents of the compatible system.
    pub fn foreign(mut self) -> Identity {
        self.echoes_fences = false;
        self
    }

    /// It has lost what it had loaded.
    pub fn emptied(mut self) -> Identity {
        self.loaded.clear();
        self
    }

    pub fn holding(mut self, version: u32, model: Model) -> Identity {
        let name = model.meta.as_ref().unwrap().name.clone();
        self.loaded.insert((name, version), model);
        self
    }

    pub fn request(&self) -> wire::AgentSubscribeRequest {
        wire::AgentSubscribeRequest {
            server_name: self.server.clone(),
            shared: self.shared,
            replica_idx: self.index,
            replica_config: Some(wire::ReplicaConfig {
                inference_svc: "127.0.0.1".into(),
                inference_http_port: self.port.into(),
                inference_grpc_port: self.port.into(),
                memory_bytes: self.memory,
                capabilities: self.capabilities.clone(),
                over_commit_percentage: 0,
            }),
            loaded_models: self
                .loaded
                .iter()
                .map(|((_, version), model)| wire::ModelVersion { model: Some(model.clone()), version: *version })
                .collect(),
            available_memory_bytes: free(self.memory, &self.loaded),
        }
    }

    /// Connects, and waits until the scheduler has taken it in.
    pub async fn subscribe(self, world: &World) -> Agent {
        let (server, index) = (self.server.clone(), self.index);
        let agent = self.open(world).await;
        loop_until(&format!("{server}/{index} is there"), async || {
            let statuses = world.server_statuses(Some(&server)).await.map_err(|status| format!("{status:?}"))?;
            let is_there = statuses[0].resources.iter().any(|resources| resources.replica_idx == index);
            if is_there { Ok(()) } else { Err(format!("{statuses:?}")) }
        })
        .await;
        agent
    }

    /// Connects; another stream of the same replica may still be there.
    pub async fn open(self, world: &World) -> Agent {
        let mut client = world.agent_api().max_decoding_message_size(usize::MAX);
        let mut commands = client.subscribe(self.request()).await.unwrap().into_inner();
        let first = Seen { loaded: self.loaded.clone(), ..Seen::default() };
        let (tell, seen) = watch::channel(first);
        let (identity, reports, telling) = (self.clone(), client.clone(), tell.clone());
        let reading = tokio::spawn(async move {
            let ended = loop {
                let operation = match commands.message().await {
                    Ok(Some(operation)) => operation,
                    Ok(None) => break Code::Ok,
                    Err(status) => break status.code(),
                };
                let command = Command::of(operation);
                telling.send_modify(|seen| seen.commands.push(command.clone()));
                if identity.answers {
                    let event = match command.operation {
                        Operation::UnloadModel => Event::Unloaded,
                        Operation::LoadModel | Operation::UnknownEvent => Event::Loaded,
                    };
                    let report = identity.report(&telling, &command, event);
                    let mut reports = reports.clone();
                    // Commands are carried out side by side, as an agent does. A refused report is the answer to a
                    // command that was superseded meanwhile.
                    tokio::spawn(async move {
                        let _superseded = reports.agent_event(report).await;
                    });
                }
            };
            telling.send_modify(|seen| seen.ended = Some(ended));
        });
        Agent { identity: self, client, seen, tell, reading }
    }

    fn report(&self, tell: &watch::Sender<Seen>, command: &Command, event: Event) -> wire::ModelEventMessage {
        let mut available = 0;
        tell.send_modify(|seen| {
            let key = (command.model.clone(), command.version);
            match event {
                Event::Loaded => {
                    seen.loaded.insert(key, command.definition.clone());
                }
                Event::Unloaded => {
                    seen.loaded.remove(&key);
                }
                _ => {}
            }
            available = free(self.memory, &seen.loaded);
        });
        wire::ModelEventMessage {
            server_name: self.server.clone(),
            replica_idx: self.index,
            model_name: command.model.clone(),
            model_version: command.version,
            event: event.into(),
            message: String::new(),
            available_memory_bytes: available,
            runtime_info: None,
            fence: command.fence.filter(|_| self.echoes_fences),
        }
    }
}

impl Agent {
    /// Commands so far, as text.
    pub fn commands(&self) -> Vec<String> {
        self.seen.borrow().commands.iter().map(|command| format!("{command:?}")).collect()
    }

    pub async fn until(&self, what: &str, holds: impl Fn(&Seen) -> bool) -> Seen {
        until(&self.seen, &format!("agent {}-{}: {what}", self.identity.server, self.identity.index), holds).await
    }

    /// Waits until the command, written like `load iris 1`, has come, and gives it.
    pub async fn told(&self, command: &str) -> Command {
        let is = |seen: &&Command| format!("{seen:?}") == command;
        let seen = self.until(command, |seen| seen.commands.iter().any(|command| is(&command))).await;
        seen.commands.iter().rev().find(is).unwrap().clone()
    }

    /// Reports how a command ended.
    pub async fn answer(&self, command: &Command, event: Event) -> Result<(), Status> {
        self.send(self.identity.report(&self.tell, command, event)).await
    }

    /// Reports that a command failed.
    pub async fn fail(&self, command: &Command, event: Event, why: &str) -> Result<(), Status> {
        let report = self.identity.report(&self.tell, command, event);
        self.send(wire::ModelEventMessage { message: why.into(), ..report }).await
    }

    /// Reports a finished load with what the server says about the model, and what is free now.
    pub async fn loaded_with(&self, command: &Command, runtime: ModelRuntimeInfo, free: u64) -> Result<(), Status> {
        let report = self.identity.report(&self.tell, command, Event::Loaded);
        let runtime_info = Some(runtime);
        self.send(wire::ModelEventMessage { runtime_info, available_memory_bytes: free, ..report }).await
    }

    async fn send(&self, report: wire::ModelEventMessage) -> Result<(), Status> {
        self.client.clone().agent_event(report).await.map(|_| ())
    }

    pub async fn drain(&self) -> Result<bool, Status> {
        let (server_name, replica_idx) = (self.identity.server.clone(), self.identity.index);
        let request = wire::AgentDrainRequest { server_name, replica_idx };
        Ok(self.client.clone().agent_drain(request).await?.into_inner().success)
    }

    /// Goes away and gives what it is and has.
    pub fn disconnect(self) -> Identity {
        self.reading.abort();
        Identity { loaded: self.seen.borrow().loaded.clone(), ..self.identity }
    }
}

impl Command {
    fn of(message: wire::ModelOperationMessage) -> Command {
        let operation = message.operation();
        let version = message.model_version.expect("a command names its version");
        let definition = version.model.expect("a command has the whole definition");
        let model = definition.meta.as_ref().expect("meta").name.clone();
        Command { operation, model, version: version.version, definition, fence: message.fence }
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = match self.operation {
            Operation::LoadModel => "load",
            Operation::UnloadModel => "unload",
            Operation::UnknownEvent => "unknown",
        };
        write!(f, "{verb} {} {}", self.model, self.version)
    }
}

fn free(memory: u64, loaded: &BTreeMap<(String, u32), Model>) -> u64 {
    let sizes = loaded.values().filter_map(|model| model.model_spec.as_ref()).filter_map(|spec| spec.memory_bytes);
    memory.saturating_sub(sizes.sum())
}
