//! An agent between a scheduler and an inference server, and clients of it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use agent::{Config, Inference};
use api::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use bytes::Bytes;
use domain::{ReplicaId, ReplicaIndex, ServerName};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use messages::agent::model_event_message::Event;
use runtime::Stop;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::transport::Channel;

use crate::scheduler::{Scheduler, Stream};
use crate::server::{Listening, Server};

/// What any single step may take; the machine may be busy.
pub const DEADLINE: Duration = Duration::from_secs(20);
/// Between two looks at a state.
const POLL: Duration = Duration::from_millis(5);

pub struct World {
    pub server: Server,
    pub listening: Option<Listening>,
    pub scheduler: Scheduler,
    pub agent: SocketAddr,
    pub folder: tempfile::TempDir,
    pub stop: Stop,
    pub running: JoinHandle<Result<(), agent::Error>>,
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }

    pub fn error(&self) -> String {
        assert_eq!(self.header("content-type"), "application/json");
        let json: serde_json::Value = serde_json::from_slice(&self.body).expect("JSON");
        json["error"].as_str().expect("an error").to_owned()
    }
}

pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("waited too long for {what}"))
}

pub async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    within(what, async {
        while !is_so() {
            tokio::time::sleep(POLL).await; // poll
        }
    })
    .await;
}

pub fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

impl World {
    /// An agent beside a server that serves both protocols on one port.
    pub async fn start() -> Self {
        Self::with(|_| ()).await
    }

    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let server = Server::default();
        let listening = server.listen(any_port()).await;
        let address = listening.address;
        let inference = Inference::Attached { http: address, grpc: address };
        Self::of(server, Some(listening), inference, change).await
    }

    pub async fn of(
        server: Server,
        listening: Option<Listening>,
        inference: Inference,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("artifact")).expect("a folder");
        std::fs::write(folder.path().join("artifact/model.onnx"), "weights").expect("a file");
        let scheduler = Scheduler::start().await;
        let replica = ReplicaId { server: ServerName::parse("onnx").expect("a name"), index: ReplicaIndex(3) };
        let schedulers = vec![scheduler.address.to_string()];
        let mut config = Config::new(replica, schedulers, folder.path().join("agent"), inference);
        config.memory = domain::Bytes(1000);
        config.settles_after = Duration::ZERO;
        config.advertise_host = "10.1.2.3".to_owned();
        change(&mut config);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let agent = listener.local_addr().expect("bound");
        let stop = Stop::new();
        let running = tokio::spawn(agent::run(config, listener, stop.clone()));
        Self { server, listening, scheduler, agent, folder, stop, running }
    }

    pub fn artifact(&self) -> String {
        self.folder.path().join("artifact").display().to_string()
    }

    pub fn files(&self, model: &str) -> PathBuf {
        self.folder.path().join("agent/models").join(model)
    }

    /// The stream, after these are loaded over it.
    pub async fn loaded(&mut self, models: &[&str]) -> Stream {
        let stream = self.scheduler.stream().await;
        for model in models {
            let (name, version) = model.rsplit_once('_').expect("name_version");
            stream.load(name, version.parse().expect("a number"), &self.artifact(), None);
            assert_eq!(self.scheduler.event().await, (Event::Loaded, (*model).to_owned(), None));
        }
        stream
    }

    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> http::request::Builder {
        let builder = Request::builder().method(method).uri(format!("http://{}{path}", self.agent));
        headers.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value))
    }

    /// A request over HTTP/2.
    pub async fn call(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        let request = self.request(method, path, headers).body(Full::new(body.into())).expect("a request");
        within(path, async { read(client(true).request(request).await.expect("an answer")).await }).await
    }

    pub async fn grpc(&self) -> GrpcInferenceServiceClient<Channel> {
        let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", self.agent)).expect("a URI");
        let channel = within("a connection", channel.connect()).await.expect("connected");
        GrpcInferenceServiceClient::new(channel).max_decoding_message_size(1 << 30).max_encoding_message_size(1 << 30)
    }
}

pub fn client(is_http2: bool) -> Client<HttpConnector, Full<Bytes>> {
    let mut connector = HttpConnector::new();
    // Else headers and body of each request are a delayed acknowledgement apart.
    connector.set_nodelay(true);
    Client::builder(TokioExecutor::new()).http2_only(is_http2).build(connector)
}

pub async fn read(response: http::Response<hyper::body::Incoming>) -> Answer {
    let (parts, body) = response.into_parts();
    let body = body.collect().await.expect("a whole body").to_bytes();
    Answer { status: parts.status, headers: parts.headers, body }
}
