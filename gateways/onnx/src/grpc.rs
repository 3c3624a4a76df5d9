//! The gRPC side: `inference.GRPCInferenceService`.
//!
//! An answer carries its tensors as the request did: raw contents for raw contents, typed for typed.

use std::{pin::Pin, sync::Arc};

use api::inference::grpc_inference_service_server::{GrpcInferenceService, GrpcInferenceServiceServer};
use futures_util::{Stream, StreamExt};
use messages::inference::{
    ModelInferRequest, ModelInferResponse, ModelMetadataRequest, ModelMetadataResponse, ModelReadyRequest,
    ModelReadyResponse, RepositoryIndexRequest, RepositoryIndexResponse, RepositoryModelLoadRequest,
    RepositoryModelLoadResponse, RepositoryModelUnloadRequest, RepositoryModelUnloadResponse, ServerLiveRequest,
    ServerLiveResponse, ServerMetadataRequest, ServerMetadataResponse, ServerReadyRequest, ServerReadyResponse,
    repository_index_response::ModelIndex,
};
use oip::{Contents, InferRequest};
use tonic::{Code, Request, Response, Status, Streaming};

use crate::{
    failure::Failure,
    repository::Repository,
    server::{EXTENSIONS, NAME},
    signature::VERSION,
};

pub(crate) struct Grpc {
    repository: Arc<Repository>,
}

/// The service, with the limit of its messages.
pub(crate) fn service(repository: Arc<Repository>, max_message_bytes: usize) -> GrpcInferenceServiceServer<Grpc> {
    // Answers are as large as the model makes them.
    GrpcInferenceServiceServer::new(Grpc { repository })
        .max_decoding_message_size(max_message_bytes)
        .max_encoding_message_size(usize::MAX)
}

/// Messages beyond the limit end in OUT_OF_RANGE inside tonic; what the protocol calls it is RESOURCE_EXHAUSTED.
pub(crate) async fn name_size_limit(mut response: axum::response::Response) -> axum::response::Response {
    const STATUS: &str = "grpc-status";
    let out_of_range = (Code::OutOfRange as i32).to_string();
    if let Some(status) = response.headers_mut().get_mut(STATUS)
        && status.as_bytes() == out_of_range.as_bytes()
    {
        *status = http::HeaderValue::from(Code::ResourceExhausted as i32);
    }
    response
}

async fn infer(repository: &Repository, message: ModelInferRequest) -> Result<ModelInferResponse, Failure> {
    check_version(&message.model_name, &message.model_version)?;
    let model = repository.get(&message.model_name)?;
    let contents = if message.raw_input_contents.is_empty() && !message.inputs.is_empty() {
        Contents::Typed
    } else {
        Contents::Raw
    };
    let request = InferRequest::from_proto(message)?;
    Ok(model.infer(request).await?.into_proto(contents))
}

fn check_version(name: &str, version: &str) -> Result<(), Failure> {
    if version.is_empty() || version == VERSION {
        Ok(())
    } else {
        Err(Failure::UnknownVersion { name: name.to_owned(), version: version.to_owned() })
    }
}

#[tonic::async_trait]
impl GrpcInferenceService for Grpc {
    async fn server_live(&self, _: Request<ServerLiveRequest>) -> Result<Response<ServerLiveResponse>, Status> {
        Ok(Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(&self, _: Request<ServerReadyRequest>) -> Result<Response<ServerReadyResponse>, Status> {
        Ok(Response::new(ServerReadyResponse { ready: true }))
    }

    async fn model_ready(&self, request: Request<ModelReadyRequest>) -> Result<Response<ModelReadyResponse>, Status> {
        let message = request.into_inner();
        check_version(&message.name, &message.version)?;
        Ok(Response::new(ModelReadyResponse { ready: self.repository.get(&message.name).is_ok() }))
    }

    async fn server_metadata(
        &self,
        _: Request<ServerMetadataRequest>,
    ) -> Result<Response<ServerMetadataResponse>, Status> {
        Ok(Response::new(ServerMetadataResponse {
            name: NAME.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            extensions: EXTENSIONS.map(str::to_owned).to_vec(),
        }))
    }

    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        let message = request.into_inner();
        check_version(&message.name, &message.version)?;
        Ok(Response::new(self.repository.get(&message.name)?.metadata().into_proto()))
    }

    async fn model_infer(&self, request: Request<ModelInferRequest>) -> Result<Response<ModelInferResponse>, Status> {
        Ok(Response::new(infer(&self.repository, request.into_inner()).await?))
    }

    type ModelStreamInferStream = Pin<Box<dyn Stream<Item = Result<ModelInferResponse, Status>> + Send>>;

    /// Answers in the order of the requests; the first that fails ends the stream with its status.
    async fn model_stream_infer(
        &self,
        request: Request<Streaming<ModelInferRequest>>,
    ) -> Result<Response<Self::ModelStreamInferStream>, Status> {
        let repository = Arc::clone(&self.repository);
        let answers = futures_util::stream::unfold(Some((repository, request.into_inner())), |state| async {
            let (repository, mut requests) = state?;
            let answer = match requests.next().await? {
                Ok(message) => infer(&repository, message).await.map_err(Status::from),
                Err(status) if status.code() == Code::OutOfRange => Err(Status::resource_exhausted(status.message())),
                Err(status) => Err(status),
            };
            let more = answer.is_ok().then_some((repository, requests));
            Some((answer, more))
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn repository_index(
        &self,
        request: Request<RepositoryIndexRequest>,
    ) -> Result<Response<RepositoryIndexResponse>, Status> {
        let (repository, only_ready) = (Arc::clone(&self.repository), request.into_inner().ready);
        let listed = tokio::task::spawn_blocking(move || repository.index(only_ready)).await;
        let models = listed
            .map_err(|_| Failure::Stopping)?
            .into_iter()
            .map(|model| ModelIndex {
                name: model.name,
                version: VERSION.to_owned(),
                state: model.status.to_string(),
                reason: model.reason,
            })
            .collect();
        Ok(Response::new(RepositoryIndexResponse { models }))
    }

    async fn repository_model_load(
        &self,
        request: Request<RepositoryModelLoadRequest>,
    ) -> Result<Response<RepositoryModelLoadResponse>, Status> {
        let name = request.into_inner().model_name;
        Arc::clone(&self.repository).load(&name).await.map_err(Failure::from)?;
        Ok(Response::new(RepositoryModelLoadResponse {}))
    }

    async fn repository_model_unload(
        &self,
        request: Request<RepositoryModelUnloadRequest>,
    ) -> Result<Response<RepositoryModelUnloadResponse>, Status> {
        let name = request.into_inner().model_name;
        self.repository.unload(&name).await.map_err(Failure::from)?;
        Ok(Response::new(RepositoryModelUnloadResponse {}))
    }
}
