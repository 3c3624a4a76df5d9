//! An inference server that loads nothing and remembers everything it was asked: the other end of the proxy.
//!
//! What a request asks of it is in its id (gRPC) or its body (REST): `fail`, `hang`, `die`; else it answers with what
//! it got. A gRPC call with [`BREAKS_OFF`] among its headers gets the beginning of an answer, until it is over. Only a model it was told to
//! load is known to it.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use api::inference::grpc_inference_service_server::{GrpcInferenceService, GrpcInferenceServiceServer};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use messages::inference as wire;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};
use tokio_stream::{Stream, StreamExt};
use tonic::{Status, Streaming};

/// The exit status of a server that was told to die.
pub const DIED: i32 = 7;

/// Header of a call whose answer breaks off.
pub const BREAKS_OFF: &str = "x-breaks-off";

#[derive(Default)]
pub struct Memory {
    pub loaded: BTreeSet<String>,
    /// Models that do not load.
    pub broken: BTreeSet<String>,
    /// Method and path, or the method of a gRPC call and the model in its message.
    pub seen: Vec<String>,
    /// Headers of the last request.
    pub headers: HeaderMap,
    /// Requests that hang now.
    pub hanging: usize,
}

#[derive(Clone, Default)]
pub struct Server {
    pub memory: Arc<Mutex<Memory>>,
    /// Lets an answer that breaks off do so.
    pub over: Arc<Notify>,
}

/// A server that listens, until it is dropped.
pub struct Listening {
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub async fn listen(&self, address: SocketAddr) -> Listening {
        let listener = TcpListener::bind(address).await.expect("a port");
        let address = listener.local_addr().expect("bound");
        Listening { address, task: tokio::spawn(self.clone().serve(listener)) }
    }

    pub async fn serve(self, listener: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.expect("accept");
            stream.set_nodelay(true).expect("a socket");
            let server = self.clone();
            connections.spawn(async move {
                let service = service_fn(move |request| {
                    let server = server.clone();
                    async move { Ok::<_, Infallible>(server.answer(request).await) }
                });
                let mut builder = Builder::new(TokioExecutor::new());
                builder.http2().initial_stream_window_size(1 << 20).max_frame_size(256 << 10);
                // The peer may go away at any time.
                let _ = builder.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    }

    pub fn seen(&self) -> Vec<String> {
        self.memory.lock().expect("memory").seen.clone()
    }

    pub fn hanging(&self) -> usize {
        self.memory.lock().expect("memory").hanging
    }

    fn note(&self, what: String, headers: HeaderMap) {
        let mut memory = self.memory.lock().expect("memory");
        memory.seen.push(what);
        memory.headers = headers;
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<tonic::body::Body> {
        let is_grpc = request.headers().get("content-type").is_some_and(|value| value == "application/grpc");
        if is_grpc {
            self.memory.lock().expect("memory").headers = request.headers().clone();
            let breaks_off = request.headers().contains_key(BREAKS_OFF);
            let limit = 1 << 30;
            let service = GrpcInferenceServiceServer::new(self.clone())
                .max_decoding_message_size(limit)
                .max_encoding_message_size(limit);
            let server = self.clone();
            let answer = TowerToHyperService::new(service).call(request).await.expect("infallible");
            return answer.map(|body| {
                if breaks_off {
                    let begun = body.into_data_stream().take(1);
                    let begun = begun.map(|data| data.map(|data| Frame::data(data.slice(..data.len() / 2))));
                    let end = futures_util::stream::once(async move { Err(server.until_told().await) });
                    return tonic::body::Body::new(StreamBody::new(begun.chain(end)));
                }
                let trailers = HeaderMap::from_iter([(
                    http::HeaderName::from_static("x-server-trailer"),
                    HeaderValue::from_static("t"),
                )]);
                tonic::body::Body::new(body.with_trailers(async { Some(Ok(trailers)) }))
            });
        }
        let (parts, body) = request.into_parts();
        let path = parts.uri.path_and_query().expect("a path").to_string();
        self.note(format!("{} {path}", parts.method), parts.headers);
        let Ok(body) = body.collect().await else { return Response::new(tonic::body::Body::empty()) };
        let body = body.to_bytes();
        match &*body {
            b"hang" => self.hang().await,
            b"die" => std::process::exit(DIED),
            _ => {}
        }
        let mut response = Response::new(tonic::body::Body::new(Full::new(body.clone())));
        if &*body == b"fail" {
            *response.status_mut() = http::StatusCode::BAD_REQUEST;
        }
        if &*body == b"own id" {
            response.headers_mut().insert("x-request-id", HeaderValue::from_static("of-the-server"));
        }
        response
    }

    async fn hang(&self) {
        let _hanging = self.hangs();
        std::future::pending::<()>().await;
    }

    /// Hangs until a test says that it is over.
    async fn until_told(&self) -> Status {
        let _hanging = self.hangs();
        self.over.notified().await;
        Status::internal("as you wish")
    }

    fn hangs(&self) -> impl Drop {
        struct Hanging<'a>(&'a Server);
        impl Drop for Hanging<'_> {
            fn drop(&mut self) {
                self.0.memory.lock().expect("memory").hanging -= 1;
            }
        }
        self.memory.lock().expect("memory").hanging += 1;
        Hanging(self)
    }

    fn known(&self, name: &str, version: &str) -> Result<(), Status> {
        assert_eq!(version, "", "the model's version is for the agent");
        let memory = self.memory.lock().expect("memory");
        if memory.loaded.contains(name) { Ok(()) } else { Err(Status::not_found(format!("no {name}"))) }
    }

    async fn infer(&self, method: &str, request: wire::ModelInferRequest) -> Result<wire::ModelInferResponse, Status> {
        self.memory.lock().expect("memory").seen.push(format!("{method} {}", request.model_name));
        self.known(&request.model_name, &request.model_version)?;
        match request.id.as_str() {
            "fail" => return Err(Status::invalid_argument("as you wish")),
            "hang" => self.hang().await,
            _ => {}
        }
        Ok(wire::ModelInferResponse {
            model_name: request.model_name,
            model_version: "1".to_owned(),
            id: request.id,
            raw_output_contents: request.raw_input_contents,
            ..Default::default()
        })
    }
}

type Answer<T> = Result<tonic::Response<T>, Status>;

#[tonic::async_trait]
impl GrpcInferenceService for Server {
    async fn server_live(&self, _: tonic::Request<wire::ServerLiveRequest>) -> Answer<wire::ServerLiveResponse> {
        Ok(tonic::Response::new(wire::ServerLiveResponse { live: true }))
    }

    async fn server_ready(&self, _: tonic::Request<wire::ServerReadyRequest>) -> Answer<wire::ServerReadyResponse> {
        Ok(tonic::Response::new(wire::ServerReadyResponse { ready: true }))
    }

    async fn server_metadata(
        &self,
        _: tonic::Request<wire::ServerMetadataRequest>,
    ) -> Answer<wire::ServerMetadataResponse> {
        Ok(tonic::Response::new(wire::ServerMetadataResponse { name: "fake".to_owned(), ..Default::default() }))
    }

    async fn model_ready(&self, request: tonic::Request<wire::ModelReadyRequest>) -> Answer<wire::ModelReadyResponse> {
        let request = request.into_inner();
        self.memory.lock().expect("memory").seen.push(format!("ready {}", request.name));
        self.known(&request.name, &request.version)?;
        Ok(tonic::Response::new(wire::ModelReadyResponse { ready: true }))
    }

    async fn model_metadata(
        &self,
        request: tonic::Request<wire::ModelMetadataRequest>,
    ) -> Answer<wire::ModelMetadataResponse> {
        let request = request.into_inner();
        self.known(&request.name, &request.version)?;
        Ok(tonic::Response::new(wire::ModelMetadataResponse { name: request.name, ..Default::default() }))
    }

    async fn model_infer(&self, request: tonic::Request<wire::ModelInferRequest>) -> Answer<wire::ModelInferResponse> {
        let mut response = tonic::Response::new(self.infer("infer", request.into_inner()).await?);
        response.metadata_mut().insert("x-server-header", "h".parse().expect("text"));
        Ok(response)
    }

    type ModelStreamInferStream = Pin<Box<dyn Stream<Item = Result<wire::ModelInferResponse, Status>> + Send>>;

    async fn model_stream_infer(
        &self,
        request: tonic::Request<Streaming<wire::ModelInferRequest>>,
    ) -> Answer<Self::ModelStreamInferStream> {
        let server = self.clone();
        let answers = request.into_inner().then(move |request| {
            let server = server.clone();
            async move { server.infer("stream", request?).await }
        });
        Ok(tonic::Response::new(Box::pin(answers)))
    }

    async fn repository_index(
        &self,
        _: tonic::Request<wire::RepositoryIndexRequest>,
    ) -> Answer<wire::RepositoryIndexResponse> {
        let loaded = self.memory.lock().expect("memory").loaded.clone();
        let index = |name| wire::repository_index_response::ModelIndex {
            name,
            version: "1".to_owned(),
            state: "READY".to_owned(),
            reason: String::new(),
        };
        Ok(tonic::Response::new(wire::RepositoryIndexResponse { models: loaded.into_iter().map(index).collect() }))
    }

    async fn repository_model_load(
        &self,
        request: tonic::Request<wire::RepositoryModelLoadRequest>,
    ) -> Answer<wire::RepositoryModelLoadResponse> {
        let name = request.into_inner().model_name;
        let mut memory = self.memory.lock().expect("memory");
        memory.seen.push(format!("load {name}"));
        if memory.broken.contains(&name) {
            return Err(Status::invalid_argument("not a model at all"));
        }
        memory.loaded.insert(name);
        Ok(tonic::Response::new(wire::RepositoryModelLoadResponse {}))
    }

    async fn repository_model_unload(
        &self,
        request: tonic::Request<wire::RepositoryModelUnloadRequest>,
    ) -> Answer<wire::RepositoryModelUnloadResponse> {
        let name = request.into_inner().model_name;
        let mut memory = self.memory.lock().expect("memory");
        memory.seen.push(format!("unload {name}"));
        if memory.loaded.remove(&name) {
            Ok(tonic::Response::new(wire::RepositoryModelUnloadResponse {}))
        } else {
            Err(Status::not_found("never heard of it"))
        }
    }
}

/// The body of a request or response that a test has at hand.
pub fn full(bytes: impl Into<Bytes>) -> Full<Bytes> {
    Full::new(bytes.into())
}
