//! The gRPC side: `inference.GRPCInferenceService` (`spec/data-plane.md` §5.2).
//!
//! An answer carries its tensors as the request did: raw contents for raw contents, typed for typed.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use api::inference::grpc_inference_service_server::{GrpcInferenceService, GrpcInferenceServiceServer};
use axum::extract::State;
use axum::middleware::Next;
use axum::response::Response as HttpResponse;
use bytes::Bytes;
use domain::PipelineName;
use http_body_util::BodyExt;
use messages::inference::{
    ModelInferRequest, ModelInferResponse, ModelMetadataRequest, ModelMetadataResponse, ModelReadyRequest,
    ModelReadyResponse, RepositoryIndexRequest, RepositoryIndexResponse, RepositoryModelLoadRequest,
    RepositoryModelLoadResponse, RepositoryModelUnloadRequest, RepositoryModelUnloadResponse, ServerLiveRequest,
    ServerLiveResponse, ServerMetadataRequest, ServerMetadataResponse, ServerReadyRequest, ServerReadyResponse,
};
use oip::{Contents, InferRequest, InferResponse};
use prost::Message;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use crate::admission::Place;
use crate::failure::{Failure, Refusal, name};
use crate::gateway::{Entry, Gateway, Readiness, Reply, shown, target, timeout, travelling};

pub(crate) struct Grpc {
    gateway: Arc<Gateway>,
}

pub(crate) fn service(gateway: Arc<Gateway>) -> GrpcInferenceServiceServer<Grpc> {
    let limit = gateway.max_message_bytes;
    // Answers are as large as the last step makes them.
    GrpcInferenceServiceServer::new(Grpc { gateway })
        .max_decoding_message_size(limit)
        .max_encoding_message_size(usize::MAX)
}

/// Before the message is read: a place for the request, and the limits of its body.
pub(crate) async fn admit(
    State(gateway): State<Arc<Gateway>>,
    mut request: axum::extract::Request,
    next: Next,
) -> HttpResponse {
    let id = gateway.request_id(request.headers());
    // Whoever reads the message has the same one.
    if let Ok(value) = http::HeaderValue::from_str(&id) {
        request.headers_mut().insert(domain::header::REQUEST_ID, value);
    }
    let pipeline = target(request.headers(), None).ok();
    let known = pipeline.as_ref().map_or(Ok(()), |pipeline| gateway.pipelines.get(pipeline).map(drop));
    let timeout = known.and_then(|()| timeout(request.headers()));
    let admitted = timeout.and_then(|timeout| Ok((timeout, gateway.admission.enter()?)));
    let (timeout, place) = match admitted {
        Ok(admitted) => admitted,
        Err(failure) => return Refusal::early(failure, &id).into_status(gateway.errors).into_http(),
    };
    let (errors, pipelines) = (gateway.errors, gateway.pipelines.clone());
    let gone = async move {
        match pipeline {
            Some(pipeline) => pipelines.gone(pipeline).await,
            // The message may say it.
            None => std::future::pending().await,
        }
    };
    let mut request = request.map(|body| {
        // What fails here is told by tonic, which takes a status for what it is.
        let failed = move |failure| Refusal::early(failure, &id).into_status(errors);
        axum::body::Body::new(place.body(body, timeout, gone).map_err(failed))
    });
    request.extensions_mut().insert(place);
    next.run(request).await
}

impl Grpc {
    async fn infer(
        &self,
        headers: &http::HeaderMap,
        pipeline: Result<PipelineName, Failure>,
        message: ModelInferRequest,
        place: Option<Arc<Place>>,
    ) -> Result<Response<ModelInferResponse>, Refusal> {
        let id = self.gateway.request_id(headers);
        let is_typed = message.raw_input_contents.is_empty() && !message.inputs.is_empty();
        let read = || {
            let (pipeline, headers, timeout) = (pipeline?, travelling(headers, &id)?, timeout(headers)?);
            let request = InferRequest::from_proto(message)?;
            let request = InferRequest { model_name: String::new(), model_version: String::new(), ..request };
            let message = request.into_proto(Contents::Raw).encode_to_vec().into();
            let place = place.map_or_else(|| self.gateway.admission.enter(), Ok)?;
            Ok((Entry { pipeline, headers, request_id: id.clone(), timeout, message }, place))
        };
        let (entry, place) = read().map_err(|failure| Refusal::early(failure, &id))?;
        let pipeline = entry.pipeline.clone();
        let Reply { message, headers } = self.gateway.infer(entry, &place).await?;
        match answer(message, is_typed) {
            Ok(message) => {
                let metadata = MetadataMap::from_headers(shown(headers));
                Ok(Response::from_parts(metadata, message, tonic::Extensions::default()))
            }
            Err(reason) => Err(Refusal { failure: Failure::Answer { pipeline, reason }, headers }),
        }
    }
}

fn answer(message: Bytes, is_typed: bool) -> Result<ModelInferResponse, String> {
    let mut message = ModelInferResponse::decode(message).map_err(|error| error.to_string())?;
    if is_typed && !message.raw_output_contents.is_empty() {
        let normal = InferResponse::from_proto(message).map_err(|error| error.to_string())?;
        message = normal.into_proto(Contents::Typed);
    }
    Ok(message)
}

#[tonic::async_trait]
impl GrpcInferenceService for Grpc {
    async fn model_infer(&self, request: Request<ModelInferRequest>) -> Result<Response<ModelInferResponse>, Status> {
        let began = Instant::now();
        let (metadata, extensions, message) = request.into_parts();
        let headers = metadata.into_headers();
        let pipeline = target(&headers, None);
        let label = pipeline.as_ref().map(ToString::to_string).unwrap_or_default();
        let answered = self.infer(&headers, pipeline, message, extensions.get().cloned()).await;
        let code = answered.as_ref().map_or_else(|refusal| refusal.failure.code(), |_| tonic::Code::Ok);
        self.gateway.metrics.count(&label, "grpc", name(code), began.elapsed());
        answered.map_err(|refusal| refusal.into_status(self.gateway.errors))
    }

    async fn model_ready(&self, request: Request<ModelReadyRequest>) -> Result<Response<ModelReadyResponse>, Status> {
        // What routed the request here names the pipeline; a caller of ours may name it in the message.
        let headers = request.metadata().clone().into_headers();
        let named = request.into_inner().name;
        let named = named.strip_suffix(".pipeline").unwrap_or(&named);
        let pipeline = target(&headers, Some(named)).map_err(|failure| failure.to_status(self.gateway.errors))?;
        match self.gateway.readiness(&pipeline).await {
            Ok(readiness) => Ok(Response::new(ModelReadyResponse { ready: matches!(readiness, Readiness::Ready) })),
            Err(failure) => Err(failure.to_status(self.gateway.errors)),
        }
    }

    async fn server_live(&self, _: Request<ServerLiveRequest>) -> Result<Response<ServerLiveResponse>, Status> {
        Ok(Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(&self, _: Request<ServerReadyRequest>) -> Result<Response<ServerReadyResponse>, Status> {
        Ok(Response::new(ServerReadyResponse { ready: true }))
    }

    async fn server_metadata(
        &self,
        _: Request<ServerMetadataRequest>,
    ) -> Result<Response<ServerMetadataResponse>, Status> {
        Err(Status::unimplemented("a pipeline is no server"))
    }

    async fn model_metadata(
        &self,
        _: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        Err(Status::unimplemented("pipelines have no metadata"))
    }

    type ModelStreamInferStream =
        Pin<Box<dyn tonic::codegen::tokio_stream::Stream<Item = Result<ModelInferResponse, Status>> + Send>>;

    async fn model_stream_infer(
        &self,
        _: Request<Streaming<ModelInferRequest>>,
    ) -> Result<Response<Self::ModelStreamInferStream>, Status> {
        Err(Status::unimplemented("pipelines answer with one message"))
    }

    async fn repository_index(
        &self,
        _: Request<RepositoryIndexRequest>,
    ) -> Result<Response<RepositoryIndexResponse>, Status> {
        Err(Status::unimplemented("a pipeline has no repository"))
    }

    async fn repository_model_load(
        &self,
        _: Request<RepositoryModelLoadRequest>,
    ) -> Result<Response<RepositoryModelLoadResponse>, Status> {
        Err(Status::unimplemented("a pipeline has no repository"))
    }

    async fn repository_model_unload(
        &self,
        _: Request<RepositoryModelUnloadRequest>,
    ) -> Result<Response<RepositoryModelUnloadResponse>, Status> {
        Err(Status::unimplemented("a pipeline has no repository"))
    }
}
