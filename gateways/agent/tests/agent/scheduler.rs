//! A scheduler that decides nothing: tests read what agents say and send them what they like.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use api::agent::agent_service_server::{AgentService, AgentServiceServer};
use messages::agent as wire;
use messages::agent::model_event_message::Event;
use messages::agent::model_operation_message::Operation;
use messages::scheduler::{MetaData, Model, ModelSpec};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use crate::world::within;

type Commands = UnboundedSender<Result<wire::ModelOperationMessage, Status>>;

/// An agent's stream; it ends when this is dropped.
pub struct Stream {
    pub request: wire::AgentSubscribeRequest,
    commands: Commands,
}

/// A report in short.
#[derive(Debug, PartialEq, Eq)]
pub struct Report {
    pub model: String,
    pub event: Event,
    pub message: String,
    pub fence: Option<u64>,
    pub available: u64,
}

pub struct Scheduler {
    pub address: SocketAddr,
    streams: UnboundedReceiver<Stream>,
    reports: UnboundedReceiver<Report>,
    /// What the next reports are answered with; when it is empty they are acknowledged.
    pub answers: Arc<Mutex<VecDeque<Status>>>,
    task: JoinHandle<()>,
}

struct Service {
    streams: UnboundedSender<Stream>,
    reports: UnboundedSender<Report>,
    answers: Arc<Mutex<VecDeque<Status>>>,
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Scheduler {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let (streams_in, streams) = unbounded_channel();
        let (reports_in, reports) = unbounded_channel();
        let answers = Arc::<Mutex<VecDeque<Status>>>::default();
        let service = Service { streams: streams_in, reports: reports_in, answers: Arc::clone(&answers) };
        let task = tokio::spawn(async move {
            let server = tonic::transport::Server::builder().add_service(AgentServiceServer::new(service));
            server.serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true))).await.expect("serve");
        });
        Self { address, streams, reports, answers, task }
    }

    /// The next subscription.
    pub async fn stream(&mut self) -> Stream {
        within("a subscription", self.streams.recv()).await.expect("the service lives")
    }

    /// The next report.
    pub async fn report(&mut self) -> Report {
        within("a report", self.reports.recv()).await.expect("the service lives")
    }

    /// The next report in short: event, model, fence.
    pub async fn event(&mut self) -> (Event, String, Option<u64>) {
        let report = self.report().await;
        (report.event, report.model, report.fence)
    }
}

impl Stream {
    pub fn load(&self, name: &str, version: u32, uri: &str, fence: impl Into<Option<u64>>) {
        self.send(Operation::LoadModel, model(name, uri), version, fence.into());
    }

    pub fn unload(&self, name: &str, version: u32, fence: impl Into<Option<u64>>) {
        self.send(Operation::UnloadModel, model(name, ""), version, fence.into());
    }

    fn send(&self, operation: Operation, model: Model, version: u32, fence: Option<u64>) {
        let model_version = Some(wire::ModelVersion { model: Some(model), version });
        let message = wire::ModelOperationMessage {
            operation: operation.into(),
            model_version,
            autoscaling_enabled: false,
            fence,
        };
        self.commands.send(Ok(message)).expect("the agent listens");
    }

    /// Resolves when the agent has left.
    pub async fn left(&self) {
        within("the agent to leave", self.commands.closed()).await;
    }

    /// Names and versions of what the agent said it holds.
    pub fn held(&self) -> Vec<String> {
        let held = self.request.loaded_models.iter();
        let mut held: Vec<String> = held
            .map(|held| {
                let meta = held.model.as_ref().and_then(|model| model.meta.as_ref()).expect("a definition");
                format!("{}_{}", meta.name, held.version)
            })
            .collect();
        held.sort();
        held
    }
}

/// A definition with 100 bytes of memory.
pub fn model(name: &str, uri: &str) -> Model {
    Model {
        meta: Some(MetaData { name: name.to_owned(), ..Default::default() }),
        model_spec: Some(ModelSpec { uri: uri.to_owned(), memory_bytes: Some(100), ..Default::default() }),
        ..Default::default()
    }
}

#[tonic::async_trait]
impl AgentService for Service {
    type SubscribeStream = UnboundedReceiverStream<Result<wire::ModelOperationMessage, Status>>;

    async fn subscribe(
        &self,
        request: Request<wire::AgentSubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let (commands, stream) = unbounded_channel();
        let sent = self.streams.send(Stream { request: request.into_inner(), commands });
        sent.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(UnboundedReceiverStream::new(stream)))
    }

    async fn agent_event(
        &self,
        request: Request<wire::ModelEventMessage>,
    ) -> Result<Response<wire::ModelEventResponse>, Status> {
        let message = request.into_inner();
        let report = Report {
            model: format!("{}_{}", message.model_name, message.model_version),
            event: message.event(),
            fence: message.fence,
            available: message.available_memory_bytes,
            message: message.message,
        };
        self.reports.send(report).map_err(|_| Status::unavailable("the test is over"))?;
        let answer = self.answers.lock().expect("answers").pop_front();
        answer.map_or(Ok(Response::new(wire::ModelEventResponse {})), Err)
    }

    async fn model_scaling_trigger(
        &self,
        _: Request<Streaming<wire::ModelScalingTriggerMessage>>,
    ) -> Result<Response<wire::ModelScalingTriggerResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn agent_drain(
        &self,
        _: Request<wire::AgentDrainRequest>,
    ) -> Result<Response<wire::AgentDrainResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }
}
