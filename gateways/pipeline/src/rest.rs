//! The REST side (`spec/data-plane.md` §5.1, §5.3).

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use axum::routing::{any, get};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use messages::inference::ModelInferResponse;
use oip::{Contents, InferRequest, InferResponse, TextStyle};
use prost::Message;

use crate::failure::Failure;
use crate::gateway::{Entry, Gateway, Readiness, Reply, target, timeout, travelling};

/// Where the JSON of a body with binary tensors ends.
const JSON_LENGTH: &str = "inference-header-content-length";

pub(crate) fn router(gateway: Arc<Gateway>) -> Router {
    Router::new()
        .route("/ready", get(|| async { StatusCode::OK }))
        .route("/v2/pipelines/{name}/infer", any(infer_path))
        .route("/v2/models/{name}/infer", any(infer_header))
        .route("/v2/pipelines/{name}/ready", any(ready_path))
        .route("/v2/models/{name}/ready", any(ready_header))
        .with_state(gateway)
}

async fn infer_path(State(gateway): State<Arc<Gateway>>, Path(name): Path<String>, request: Request) -> Response {
    infer(&gateway, Some(&name), request).await
}

async fn infer_header(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    infer(&gateway, None, request).await
}

async fn infer(gateway: &Gateway, path: Option<&str>, request: Request) -> Response {
    let began = Instant::now();
    let (head, body) = request.into_parts();
    let pipeline = target(&head.headers, path);
    let label = pipeline.as_ref().map(ToString::to_string).unwrap_or_default();
    let answered = async {
        let pipeline = pipeline?;
        let (headers, request_id) = travelling(&head.headers, gateway)?;
        let timeout = timeout(&head.headers)?;
        let json_length = json_length(&head.headers)?;
        let body = collect(body, gateway.max_message_bytes).await?;
        let parsed = InferRequest::from_json(&body, json_length)?;
        let message = InferRequest { model_name: String::new(), model_version: String::new(), ..parsed.clone() };
        let message = message.into_proto(Contents::Raw).encode_to_vec().into();
        let entry = Entry { pipeline: pipeline.clone(), headers, request_id, timeout, message };
        let reply = gateway.infer(entry).await?;
        answer(reply, &parsed).map_err(|reason| Failure::Answer { pipeline, reason })
    };
    let answered = answered.await;
    let status = answered.as_ref().map_or_else(Failure::status, |_| 200);
    gateway.metrics.count(&label, "rest", &status.to_string(), began.elapsed());
    match answered {
        Ok(response) => response,
        Err(failure) => failure.to_response(gateway.errors),
    }
}

/// The answer as JSON, with binary tensors for who asked for them.
fn answer(reply: Reply, request: &InferRequest) -> Result<Response, String> {
    let message = ModelInferResponse::decode(reply.message).map_err(|error| error.to_string())?;
    let message = InferResponse::from_proto(message).map_err(|error| error.to_string())?;
    let body = message.to_json(TextStyle::Base64, |name| request.wants_binary(name));
    let mut response = Response::new(Body::from(body.body));
    let headers = response.headers_mut();
    let content_type = if body.json_length.is_some() { "application/octet-stream" } else { "application/json" };
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    if let Some(length) = body.json_length {
        headers.insert(JSON_LENGTH, HeaderValue::from(length));
    }
    // The key first, then the caller's own id, as the compatible system has it.
    if let Ok(key) = HeaderValue::from_str(&reply.key) {
        headers.append(domain::header::REQUEST_ID, key);
    }
    for (name, value) in reply.headers {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_bytes(&value)) {
            headers.append(name, value);
        }
    }
    Ok(response)
}

fn json_length(headers: &HeaderMap) -> Result<Option<usize>, Failure> {
    let Some(value) = headers.get(JSON_LENGTH) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    let length = text.parse().map_err(|_| Failure::Header {
        header: JSON_LENGTH,
        value: text.chars().take(100).collect(),
        problem: "is no number",
    })?;
    Ok(Some(length))
}

async fn collect(body: Body, limit: usize) -> Result<Bytes, Failure> {
    match Limited::new(body, limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Failure::TooLarge(limit)),
        Err(error) => Err(Failure::Body(error.to_string())),
    }
}

async fn ready_path(State(gateway): State<Arc<Gateway>>, Path(name): Path<String>) -> Response {
    // The path decides, whatever the headers say.
    ready(&gateway, target(&HeaderMap::new(), Some(&name))).await
}

async fn ready_header(State(gateway): State<Arc<Gateway>>, headers: HeaderMap) -> Response {
    ready(&gateway, target(&headers, None)).await
}

async fn ready(gateway: &Gateway, pipeline: Result<domain::PipelineName, Failure>) -> Response {
    let readiness = match pipeline {
        Ok(pipeline) => gateway.readiness(&pipeline).await,
        Err(failure) => Err(failure),
    };
    match readiness {
        Ok(Readiness::Ready) => Response::new(Body::empty()),
        Ok(Readiness::NotReady(who)) => {
            let body = serde_json::json!({ "error": format!("{who} is not ready") });
            let mut response = Response::new(Body::from(body.to_string()));
            *response.status_mut() = StatusCode::FAILED_DEPENDENCY;
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
        Err(failure) => failure.to_response(gateway.errors),
    }
}
