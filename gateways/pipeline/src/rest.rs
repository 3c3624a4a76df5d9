//! The REST side (`spec/data-plane.md` §5.1, §5.3).

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use axum::routing::{any, get};
use bytes::Bytes;
use domain::PipelineName;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use http_body::Body as _;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use messages::inference::ModelInferResponse;
use oip::{Contents, InferRequest, InferResponse, TextStyle};
use prost::Message;

use crate::admission::{AdmittedBody, Place};
use crate::failure::{ErrorStyle, Failure, Refusal};
use crate::gateway::{Entry, Gateway, Readiness, Reply, shown, target, timeout, travelling};

/// Where the JSON of a body with binary tensors ends.
const JSON_LENGTH: &str = "inference-header-content-length";

pub(crate) fn router(gateway: Arc<Gateway>) -> Router {
    Router::new()
        .route("/ready", get(|| async { StatusCode::OK }))
        .route("/v2/pipelines/{name}/infer", any(infer_path))
        .route("/v2/models/{name}/infer", any(infer_header))
        .route("/v2/pipelines/{name}/ready", any(ready_path))
        .route("/v2/models/{name}/ready", any(ready_header))
        .fallback(not_served)
        .with_state(gateway)
}

async fn not_served(method: Method, uri: Uri) -> Response {
    Failure::NotServed(format!("{method} {}", uri.path())).to_response(ErrorStyle::Structured)
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
    let id = gateway.request_id(&head.headers);
    let pipeline = target(&head.headers, path);
    let label = pipeline.as_ref().map(ToString::to_string).unwrap_or_default();
    let answered = async {
        let read = read(gateway, &head.headers, pipeline, &id, body).await;
        let (entry, asked, place) = read.map_err(|failure| Refusal::early(failure, &id))?;
        let pipeline = entry.pipeline.clone();
        answer(&pipeline, gateway.infer(entry, &place).await?, &asked)
    };
    let answered: Result<Response, Refusal> = answered.await;
    let status = answered.as_ref().map_or_else(|refusal| refusal.failure.status(), |_| 200);
    gateway.metrics.count(&label, "rest", &status.to_string(), began.elapsed());
    answered.unwrap_or_else(|refusal| refusal.into_response(gateway.errors))
}

/// Reads a request; gives it without its tensors, too, which says how the answer is to be written.
async fn read(
    gateway: &Gateway,
    headers: &HeaderMap,
    pipeline: Result<PipelineName, Failure>,
    id: &str,
    body: Body,
) -> Result<(Entry, InferRequest, Arc<Place>), Failure> {
    let pipeline = pipeline?;
    let kept = travelling(headers, id)?;
    let timeout = timeout(headers)?;
    let json_length = json_length(headers)?;
    if body.size_hint().lower() > gateway.max_message_bytes as u64 {
        return Err(Failure::TooLarge(gateway.max_message_bytes));
    }
    // Who asks for nobody need not send a body.
    gateway.pipelines.get(&pipeline)?;
    // A place first: who has none need not send a body.
    let place = gateway.admission.enter()?;
    let gone = gateway.pipelines.clone().gone(pipeline.clone());
    let body = collect(place.body(body, timeout, gone), gateway.max_message_bytes).await?;
    let parsed = InferRequest::from_json(&body, json_length)?;
    let (parameters, outputs) = (parsed.parameters.clone(), parsed.outputs.clone());
    let asked = InferRequest { parameters, outputs, ..InferRequest::default() };
    let message = InferRequest { model_name: String::new(), model_version: String::new(), ..parsed };
    let message = message.into_proto(Contents::Raw).encode_to_vec().into();
    let entry = Entry { pipeline, headers: kept, request_id: id.to_owned(), timeout, message };
    Ok((entry, asked, place))
}

/// The answer as JSON, with binary tensors for who asked for them.
fn answer(pipeline: &PipelineName, reply: Reply, asked: &InferRequest) -> Result<Response, Refusal> {
    let message = ModelInferResponse::decode(reply.message).map_err(|error| error.to_string());
    let message = message.and_then(|message| InferResponse::from_proto(message).map_err(|error| error.to_string()));
    let message = match message {
        Ok(message) => message,
        Err(reason) => {
            let failure = Failure::Answer { pipeline: pipeline.clone(), reason };
            return Err(Refusal { failure, headers: reply.headers });
        }
    };
    let body = message.to_json(TextStyle::Base64, |name| asked.wants_binary(name));
    let mut response = Response::new(Body::from(body.body));
    let headers = response.headers_mut();
    headers.extend(shown(reply.headers));
    let content_type = if body.json_length.is_some() { "application/octet-stream" } else { "application/json" };
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    if let Some(length) = body.json_length {
        headers.insert(JSON_LENGTH, HeaderValue::from(length));
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

async fn collect(body: AdmittedBody, limit: usize) -> Result<Bytes, Failure> {
    match Limited::new(body, limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Failure::TooLarge(limit)),
        Err(error) => Err(match error.downcast::<Failure>() {
            Ok(failure) => *failure,
            Err(error) => Failure::Body(error.to_string()),
        }),
    }
}

async fn ready_path(State(gateway): State<Arc<Gateway>>, Path(name): Path<String>) -> Response {
    // The path decides, whatever the headers say.
    ready(&gateway, target(&HeaderMap::new(), Some(&name))).await
}

async fn ready_header(State(gateway): State<Arc<Gateway>>, headers: HeaderMap) -> Response {
    ready(&gateway, target(&headers, None)).await
}

async fn ready(gateway: &Gateway, pipeline: Result<PipelineName, Failure>) -> Response {
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
