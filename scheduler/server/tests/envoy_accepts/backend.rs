//! A replica for tests: HTTP/1.1 and HTTP/2 on one port, REST and gRPC, that records what it is asked.

use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::inference::grpc_inference_service_server::{GrpcInferenceService, GrpcInferenceServiceServer};
use bytes::Bytes;
use domain::header;
use futures_util::Stream;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use messages::inference as pb;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tonic::{Status, Streaming};
use tower::ServiceExt;

/// Larger than any message of the tests.
const MESSAGE_BYTES: usize = 128 << 20;

/// What a backend was asked.
#[derive(Clone, Debug)]
pub struct Seen {
    pub path: String,
    pub headers: HeaderMap,
    pub version: http::Version,
    pub body_bytes: usize,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<String> {
        let values: Vec<_> = self.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect();
        (!values.is_empty()).then(|| values.join(","))
    }
}

/// Ends a stream without an answer. The server looks for h2's error in the chain of causes, to find the reason.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("refuse the stream")]
    Refused(#[source] h2::Error),
    #[error("read the request")]
    Request(#[from] hyper::Error),
}

/// How it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    Well,
    /// Resets every stream before a byte of an answer: REFUSED_STREAM.
    Refuses,
    /// Answers as an agent that does not have the model yet.
    Lacks,
    /// Answers 503.
    Overloaded,
    /// Takes the request and never answers.
    Hangs,
}

#[derive(Debug)]
struct State {
    name: String,
    seen: Mutex<Vec<Seen>>,
    mood: Mutex<Mood>,
    held: Notify,
    release: Notify,
}

#[derive(Clone, Debug)]
pub struct Backend {
    pub address: SocketAddr,
    state: Arc<State>,
}

impl Backend {
    pub async fn start(name: &str) -> Backend {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let state = Arc::new(State {
            name: name.to_owned(),
            seen: Mutex::default(),
            mood: Mutex::new(Mood::Well),
            held: Notify::new(),
            release: Notify::new(),
        });
        let backend = Backend { address: listener.local_addr().unwrap(), state };
        let serving = backend.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let backend = serving.clone();
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        let backend = backend.clone();
                        async move { backend.answer(request).await }
                    });
                    let mut server = auto::Builder::new(TokioExecutor::new());
                    server.http2().initial_stream_window_size(16 << 20).initial_connection_window_size(16 << 20);
                    // Clients break connections in some tests.
                    let _ended = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        backend
    }

    pub fn is(&self, mood: Mood) {
        *self.state.mood.lock().unwrap_or_else(PoisonError::into_inner) = mood;
    }

    /// What it was asked since the last call.
    pub fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.state.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The only request it was asked since the last call.
    pub fn only(&self) -> Seen {
        let seen = self.take();
        assert_eq!(seen.len(), 1, "{seen:#?}");
        seen.into_iter().next().unwrap()
    }

    /// Waits until a request to a path that ends in `/held` is here.
    pub async fn holds(&self) {
        tokio::time::timeout(Duration::from_secs(10), self.state.held.notified()).await.unwrap();
    }

    pub fn release(&self) {
        self.state.release.notify_one();
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<tonic::body::Body>, Broken> {
        let mood = *self.state.mood.lock().unwrap_or_else(PoisonError::into_inner);
        let path = request.uri().path_and_query().unwrap().to_string();
        let mut seen =
            Seen { path: path.clone(), headers: request.headers().clone(), version: request.version(), body_bytes: 0 };
        let record = |seen: Seen| self.state.seen.lock().unwrap_or_else(PoisonError::into_inner).push(seen);
        if mood == Mood::Refuses {
            record(seen);
            return Err(Broken::Refused(h2::Reason::REFUSED_STREAM.into()));
        }
        if mood == Mood::Hangs {
            record(seen);
            return std::future::pending().await;
        }
        if path.starts_with("/inference.GRPCInferenceService/") {
            record(seen);
            if mood == Mood::Lacks {
                let mut status = Status::unavailable("not yet");
                status.metadata_mut().insert(header::REFUSED, "1".parse().unwrap());
                return Ok(status.into_http());
            }
            let service = GrpcInferenceServiceServer::new(self.clone())
                .max_decoding_message_size(MESSAGE_BYTES)
                .max_encoding_message_size(MESSAGE_BYTES);
            let response = service.oneshot(request.map(tonic::body::Body::new)).await;
            let Ok(mut response) = response;
            response.headers_mut().insert("x-backend", self.state.name.parse().unwrap());
            return Ok(response);
        }
        let mut body = request.into_body();
        while let Some(frame) = body.frame().await {
            seen.body_bytes += frame?.data_ref().map_or(0, Bytes::len);
        }
        record(seen);
        if path.ends_with("/held") {
            self.state.held.notify_one();
            self.state.release.notified().await;
        }
        let is_well = !matches!(mood, Mood::Overloaded | Mood::Lacks);
        let status = if is_well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let body = Full::new(Bytes::from(self.state.name.clone()));
        let mut response = Response::new(tonic::body::Body::new(body));
        *response.status_mut() = status;
        response.headers_mut().insert("x-backend", self.state.name.parse().unwrap());
        if mood == Mood::Lacks {
            response.headers_mut().insert(header::REFUSED, "1".parse().unwrap());
        }
        Ok(response)
    }
}

type Responses = Pin<Box<dyn Stream<Item = Result<pb::ModelInferResponse, Status>> + Send>>;

fn reply(request: pb::ModelInferRequest, name: &str) -> pb::ModelInferResponse {
    pb::ModelInferResponse {
        model_name: request.model_name,
        model_version: name.to_owned(),
        id: request.id,
        ..Default::default()
    }
}

#[tonic::async_trait]
impl GrpcInferenceService for Backend {
    type ModelStreamInferStream = Responses;

    async fn server_live(
        &self,
        _request: tonic::Request<pb::ServerLiveRequest>,
    ) -> Result<tonic::Response<pb::ServerLiveResponse>, Status> {
        Ok(tonic::Response::new(pb::ServerLiveResponse { live: true }))
    }

    async fn server_ready(
        &self,
        _request: tonic::Request<pb::ServerReadyRequest>,
    ) -> Result<tonic::Response<pb::ServerReadyResponse>, Status> {
        Ok(tonic::Response::new(pb::ServerReadyResponse { ready: true }))
    }

    async fn model_ready(
        &self,
        _request: tonic::Request<pb::ModelReadyRequest>,
    ) -> Result<tonic::Response<pb::ModelReadyResponse>, Status> {
        Ok(tonic::Response::new(pb::ModelReadyResponse { ready: true }))
    }

    async fn server_metadata(
        &self,
        _request: tonic::Request<pb::ServerMetadataRequest>,
    ) -> Result<tonic::Response<pb::ServerMetadataResponse>, Status> {
        let name = self.state.name.clone();
        Ok(tonic::Response::new(pb::ServerMetadataResponse { name, ..Default::default() }))
    }

    async fn model_metadata(
        &self,
        request: tonic::Request<pb::ModelMetadataRequest>,
    ) -> Result<tonic::Response<pb::ModelMetadataResponse>, Status> {
        let name = request.into_inner().name;
        Ok(tonic::Response::new(pb::ModelMetadataResponse { name, ..Default::default() }))
    }

    async fn model_infer(
        &self,
        request: tonic::Request<pb::ModelInferRequest>,
    ) -> Result<tonic::Response<pb::ModelInferResponse>, Status> {
        Ok(tonic::Response::new(reply(request.into_inner(), &self.state.name)))
    }

    async fn model_stream_infer(
        &self,
        request: tonic::Request<Streaming<pb::ModelInferRequest>>,
    ) -> Result<tonic::Response<Responses>, Status> {
        let name = self.state.name.clone();
        let responses = futures_util::StreamExt::map(request.into_inner(), move |request| Ok(reply(request?, &name)));
        Ok(tonic::Response::new(Box::pin(responses)))
    }

    async fn repository_index(
        &self,
        _request: tonic::Request<pb::RepositoryIndexRequest>,
    ) -> Result<tonic::Response<pb::RepositoryIndexResponse>, Status> {
        Err(Status::unimplemented("not part of the tests"))
    }

    async fn repository_model_load(
        &self,
        _request: tonic::Request<pb::RepositoryModelLoadRequest>,
    ) -> Result<tonic::Response<pb::RepositoryModelLoadResponse>, Status> {
        Err(Status::unimplemented("not part of the tests"))
    }

    async fn repository_model_unload(
        &self,
        _request: tonic::Request<pb::RepositoryModelUnloadRequest>,
    ) -> Result<tonic::Response<pb::RepositoryModelUnloadResponse>, Status> {
        Err(Status::unimplemented("not part of the tests"))
    }
}
