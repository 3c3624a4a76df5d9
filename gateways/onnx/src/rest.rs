//! The REST side: paths, bodies, headers. Clients send no content type, so none is asked for.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Path, Request, State},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use oip::{InferRequest, TextStyle};
use serde::{Deserialize, Serialize};

use crate::{
    failure::Failure,
    model::Model,
    repository::Repository,
    server::{EXTENSIONS, NAME},
    signature::VERSION,
};

/// Where the JSON of a body with binary tensors ends.
const JSON_LENGTH: &str = "inference-header-content-length";
/// The parameters of the repository calls are small; nothing else belongs into their bodies.
const MAX_CONTROL_BYTES: usize = 64 * 1024;
/// How much of an over-sized body is still read, and for how long, so that its sender sees the refusal: a second on a
/// local network. Senders of more may see a closed connection instead.
const MAX_DISCARD_BYTES: usize = 1024 * 1024 * 1024;
const DISCARD_TIME: Duration = Duration::from_secs(5);

#[derive(Clone)]
pub(crate) struct Rest {
    pub(crate) repository: Arc<Repository>,
    pub(crate) max_message_bytes: usize,
}

pub(crate) fn router(rest: Rest) -> Router {
    Router::new()
        .route("/v2", get(server_metadata))
        .route("/v2/health/live", get(alive))
        .route("/v2/health/ready", get(alive))
        .route("/v2/models/{model}", get(model_metadata))
        .route("/v2/models/{model}/ready", get(model_ready))
        .route("/v2/models/{model}/infer", post(infer))
        .route("/v2/models/{model}/versions/{version}", get(version_metadata))
        .route("/v2/models/{model}/versions/{version}/ready", get(version_ready))
        .route("/v2/models/{model}/versions/{version}/infer", post(infer_version))
        .route("/v2/repository/index", post(index))
        .route("/v2/repository/models/{model}/load", post(load))
        .route("/v2/repository/models/{model}/unload", post(unload))
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(rest)
}

pub(crate) async fn not_found(request: Request) -> Failure {
    Failure::UnknownPath { path: request.uri().path().chars().take(256).collect() }
}

async fn method_not_allowed(request: Request) -> Failure {
    Failure::Method { method: request.method().clone() }
}

async fn server_metadata() -> Response {
    #[derive(Serialize)]
    struct ServerMetadata {
        name: &'static str,
        version: &'static str,
        extensions: [&'static str; EXTENSIONS.len()],
    }
    json(&ServerMetadata { name: NAME, version: env!("CARGO_PKG_VERSION"), extensions: EXTENSIONS })
}

async fn alive() -> StatusCode {
    StatusCode::OK
}

async fn model_metadata(State(rest): State<Rest>, Path(model): Path<String>) -> Result<Response, Failure> {
    Ok(body(rest.repository.get(&model)?.metadata().to_json()))
}

async fn version_metadata(
    State(rest): State<Rest>,
    Path((model, version)): Path<(String, String)>,
) -> Result<Response, Failure> {
    check_version(&model, &version)?;
    Ok(body(rest.repository.get(&model)?.metadata().to_json()))
}

async fn model_ready(State(rest): State<Rest>, Path(model): Path<String>) -> Result<StatusCode, Failure> {
    rest.repository.get(&model).map(|_| StatusCode::OK)
}

async fn version_ready(
    State(rest): State<Rest>,
    Path((model, version)): Path<(String, String)>,
) -> Result<StatusCode, Failure> {
    check_version(&model, &version)?;
    rest.repository.get(&model).map(|_| StatusCode::OK)
}

async fn infer(State(rest): State<Rest>, Path(model): Path<String>, request: Request) -> Result<Response, Failure> {
    let model = rest.repository.get(&model)?;
    answer(model, request, rest.max_message_bytes).await
}

async fn infer_version(
    State(rest): State<Rest>,
    Path((model, version)): Path<(String, String)>,
    request: Request,
) -> Result<Response, Failure> {
    check_version(&model, &version)?;
    let model = rest.repository.get(&model)?;
    answer(model, request, rest.max_message_bytes).await
}

async fn answer(model: Arc<Model>, request: Request, limit: usize) -> Result<Response, Failure> {
    let (parts, content) = request.into_parts();
    let json_length = json_length(&parts.headers)?;
    let content = collect(content, limit).await?;
    let request = InferRequest::from_json(&content, json_length)?;
    let binary: Vec<String> = binary_outputs(&request);
    let all = request.outputs.is_empty() && request.wants_binary("");
    let answer = model.infer(request).await?;
    let written = answer.to_json(TextStyle::Text, |name| all || binary.iter().any(|wanted| wanted == name));
    let mut response = body(written.body);
    if let Some(length) = written.json_length {
        response.headers_mut().insert(JSON_LENGTH, HeaderValue::from(length));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    }
    Ok(response)
}

fn binary_outputs(request: &InferRequest) -> Vec<String> {
    let named = request.outputs.iter().map(|output| &output.name);
    named.filter(|name| request.wants_binary(name)).cloned().collect()
}

fn json_length(headers: &HeaderMap) -> Result<Option<usize>, Failure> {
    let Some(value) = headers.get(JSON_LENGTH) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    text.trim().parse().map(Some).map_err(|_| Failure::JsonLength { value: text.chars().take(64).collect() })
}

fn check_version(model: &str, version: &str) -> Result<(), Failure> {
    if version.is_empty() || version == VERSION {
        Ok(())
    } else {
        Err(Failure::UnknownVersion { name: model.to_owned(), version: version.to_owned() })
    }
}

async fn index(State(rest): State<Rest>, request: Request) -> Result<Response, Failure> {
    #[derive(Deserialize, Default)]
    struct Asked {
        #[serde(default)]
        ready: bool,
    }
    #[derive(Serialize)]
    struct Line {
        name: String,
        version: &'static str,
        state: String,
        reason: String,
    }
    let content = collect(request.into_body(), MAX_CONTROL_BYTES).await?;
    let asked: Asked = if content.is_empty() {
        Asked::default()
    } else {
        serde_json::from_slice(&content).map_err(|error| Failure::Body { reason: error.to_string() })?
    };
    let repository = rest.repository;
    let listed = tokio::task::spawn_blocking(move || repository.index(asked.ready)).await;
    let lines: Vec<Line> = listed
        .map_err(|_| Failure::Stopping)?
        .into_iter()
        .map(|model| Line { name: model.name, version: VERSION, state: model.status.to_string(), reason: model.reason })
        .collect();
    Ok(json(&lines))
}

async fn load(State(rest): State<Rest>, Path(model): Path<String>, request: Request) -> Result<Response, Failure> {
    collect(request.into_body(), MAX_CONTROL_BYTES).await?;
    rest.repository.load(&model).await?;
    Ok(body(Bytes::from_static(b"{}")))
}

async fn unload(State(rest): State<Rest>, Path(model): Path<String>, request: Request) -> Result<Response, Failure> {
    collect(request.into_body(), MAX_CONTROL_BYTES).await?;
    rest.repository.unload(&model).await?;
    Ok(body(Bytes::from_static(b"{}")))
}

/// The whole body, if it is within the limit.
async fn collect(mut content: Body, limit: usize) -> Result<Bytes, Failure> {
    match Limited::new(&mut content, limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            discard(content).await;
            Err(Failure::TooLarge { limit })
        }
        Err(error) => Err(Failure::Body { reason: error.to_string() }),
    }
}

/// Reads what a client goes on sending, for a while: a connection closed on unread data loses the answer on its way.
async fn discard(mut content: Body) {
    let reading = async {
        let mut left = MAX_DISCARD_BYTES;
        while let Some(Ok(frame)) = content.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                break;
            }
        }
    };
    // Whether all was read or not, the answer is the same.
    let _ = tokio::time::timeout(DISCARD_TIME, reading).await;
}

fn json<T: Serialize>(value: &T) -> Response {
    match serde_json::to_vec(value) {
        Ok(text) => body(text.into()),
        Err(error) => Failure::Body { reason: error.to_string() }.into_response(),
    }
}

fn body(content: Bytes) -> Response {
    let mut response = Response::new(Body::from(content));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
