//! Calls to models through Envoy: the Open Inference Protocol over REST and gRPC.

use std::time::Duration;

use api::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderValue};
use http::uri::Authority;
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use messages::inference::{ModelInferRequest, ModelInferResponse};
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;

use super::{CONNECT_TIMEOUT, Error, MAX_MESSAGE, Protocol, channel, refused};
use crate::address::Address;
use crate::output::table::one_line;

/// The header that names the model.
pub(crate) const MODEL_HEADER: &str = "seldon-model";
/// The header in which the way through Envoy comes back.
pub(crate) const ROUTE_HEADER: &str = "x-seldon-route";
/// The step of a pipeline that failed, in gRPC.
const ERROR_STEP: &str = "switchyard-error-step";
/// Characters of an error body that are shown.
const SHOWN_ERROR: usize = 2000;

/// REST calls.
pub(crate) struct Rest {
    client: Client<HttpConnector, Full<Bytes>>,
    address: Address,
    /// What calls are addressed to, when that is not the address.
    authority: Option<Authority>,
    timeout: Duration,
}

/// An answer over REST.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Rest {
    /// Calls take `timeout` at most.
    pub(crate) fn new(address: Address, timeout: Duration) -> Rest {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        Rest { client: Client::builder(TokioExecutor::new()).build(connector), address, authority: None, timeout }
    }

    /// The same, with calls addressed to `authority` if there is one.
    pub(crate) fn addressed_to(self, authority: Option<Authority>) -> Rest {
        Rest { authority, ..self }
    }

    /// `POST /v2/models/<model>/infer`. The answer may have any status.
    pub(crate) async fn infer(&self, model: &str, headers: HeaderMap, body: Bytes) -> Result<Answer, Error> {
        self.call(Method::POST, &format!("/v2/models/{model}/infer"), headers, body).await
    }

    /// Whether `GET /v2/models/<model>/ready` says yes, and what it says.
    pub(crate) async fn ready(&self, model: &str) -> Result<StatusCode, Error> {
        let path = format!("/v2/models/{model}/ready");
        let answer = self.call(Method::GET, &path, for_model(model), Bytes::new()).await?;
        Ok(answer.status)
    }

    /// `GET /v2/models/<model>`.
    pub(crate) async fn metadata(&self, model: &str) -> Result<Bytes, Error> {
        let path = format!("/v2/models/{model}");
        self.call(Method::GET, &path, for_model(model), Bytes::new()).await?.successful(model)
    }

    async fn call(&self, method: Method, path: &str, headers: HeaderMap, body: Bytes) -> Result<Answer, Error> {
        let unreadable = |cause| Error::Answer { address: self.address.clone(), cause };
        let uri = Uri::builder().scheme("http").authority(self.address.authority.clone()).path_and_query(path);
        let uri = uri.build().map_err(|cause| unreadable(cause.into()))?;
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        // An authority is made of characters that a header may have.
        if let Some(Ok(host)) = self.authority.as_ref().map(|authority| HeaderValue::from_str(authority.as_str())) {
            request.headers_mut().insert(HOST, host);
        }
        let exchange = async {
            let answer = self.client.request(request).await.map_err(|cause| {
                if cause.is_connect() {
                    Error::Connect { address: self.address.clone(), protocol: Protocol::Http, cause: cause.into() }
                } else {
                    unreadable(cause.into())
                }
            })?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, MAX_MESSAGE).collect().await.map_err(unreadable)?.to_bytes();
            Ok(Answer { status: head.status, headers: head.headers, body })
        };
        let slow = |_| Error::Slow { address: self.address.clone(), seconds: self.timeout.as_secs() };
        tokio::time::timeout(self.timeout, exchange).await.map_err(slow)?
    }
}

impl Answer {
    /// The body, unless the status is an error.
    pub(crate) fn successful(self, model: &str) -> Result<Bytes, Error> {
        if self.status.is_success() {
            return Ok(self.body);
        }
        let shown = |text: &str| one_line(text).chars().take(SHOWN_ERROR).collect::<String>();
        let error = serde_json::from_slice::<serde_json::Value>(&self.body).ok();
        let field = |name: &str| error.as_ref().and_then(|body| body.get(name)).and_then(|error| error.as_str());
        let (error, step) = (field("error").map(shown), field("step").filter(|step| !step.is_empty()).map(shown));
        let body = shown(&String::from_utf8_lossy(&self.body));
        Err(Error::Http { model: model.to_owned(), step, code: self.status, body, error })
    }
}

/// gRPC calls.
pub(crate) struct Grpc {
    client: GrpcInferenceServiceClient<Channel>,
    address: Address,
    timeout: Duration,
}

impl Grpc {
    /// Calls take `timeout` at most.
    pub(crate) async fn connect(address: Address, timeout: Duration) -> Result<Grpc, Error> {
        Grpc::connect_as(address, None, timeout).await
    }

    /// With another authority than the address, if there is one.
    pub(crate) async fn connect_as(
        address: Address,
        authority: Option<&Authority>,
        timeout: Duration,
    ) -> Result<Grpc, Error> {
        let client = GrpcInferenceServiceClient::new(channel(&address, authority).await?)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        Ok(Grpc { client, address, timeout })
    }

    /// `ModelInfer`. The answer with its headers.
    pub(crate) async fn infer(
        &mut self,
        headers: HeaderMap,
        message: ModelInferRequest,
    ) -> Result<(HeaderMap, ModelInferResponse), Error> {
        let mut call = format!("infer {}", super::shown(&message.model_name));
        let mut request = tonic::Request::new(message);
        *request.metadata_mut() = MetadataMap::from_headers(headers);
        request.set_timeout(self.timeout);
        let slow = |_| Error::Slow { address: self.address.clone(), seconds: self.timeout.as_secs() };
        let answer = tokio::time::timeout(self.timeout, self.client.model_infer(request)).await.map_err(slow)?;
        let answer = answer.map_err(|status| {
            if let Some(Ok(step)) = status.metadata().get(ERROR_STEP).map(|step| step.to_str()) {
                call.push_str(", step ");
                call.push_str(&one_line(step).chars().take(SHOWN_ERROR).collect::<String>());
            }
            refused(call, &self.address, &status)
        });
        let (headers, message, _) = answer?.into_parts();
        Ok((headers.into_headers(), message))
    }
}

/// The header that routes a request to `model`.
pub(crate) fn for_model(model: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    // A name of a model is a valid header value.
    if let Ok(value) = HeaderValue::from_str(model) {
        headers.insert(MODEL_HEADER, value);
    }
    headers
}

/// The same for a JSON body.
pub(crate) fn for_json(model: &str) -> HeaderMap {
    let mut headers = for_model(model);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers
}
