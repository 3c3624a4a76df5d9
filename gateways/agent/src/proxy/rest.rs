//! REST: which paths exist, which model a path means, and the path the server knows it by. Anything not listed here is
//! not passed on, so the server's other paths (its repository above all) cannot be reached.

use std::collections::VecDeque;

use bytes::Bytes;
use domain::header::{INTERNAL_MODEL, MODEL, REFUSED, REQUEST_ID};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use serde_json::json;

use super::body::{Held, Problem, RequestBody, ResponseBody};
use super::upstream::{SendError, strip_hop_headers};
use super::{ANY, Absence, Proxy, Refused};
use crate::reason::chain;
use crate::residency::InUse;
use crate::serving::Running;

/// Paths about the server itself.
const SERVER_PATHS: [&str; 3] = ["/v2", "/v2/health/live", "/v2/health/ready"];
/// What follows a model's name and its version.
const MODEL_PATHS: [&str; 4] = ["", "/ready", "/infer", "/infer_stream"];

/// Why a request is answered here.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("path {path:?}: {reason}")]
    Path { path: String, reason: &'static str },
    #[error(transparent)]
    NotHeld(#[from] Absence),
    #[error(transparent)]
    Body(#[from] Problem),
    #[error("request to {server}")]
    Server {
        server: String,
        #[source]
        cause: SendError,
    },
}

impl Failure {
    fn status(&self) -> StatusCode {
        match self {
            Failure::Path { .. } | Failure::NotHeld(Absence::Known { .. }) => StatusCode::NOT_FOUND,
            Failure::NotHeld(Absence::NotYet { .. }) => StatusCode::SERVICE_UNAVAILABLE,
            Failure::Body(Problem::TooLarge { .. }) => StatusCode::PAYLOAD_TOO_LARGE,
            Failure::Body(_) => StatusCode::BAD_REQUEST,
            Failure::Server { .. } => StatusCode::BAD_GATEWAY,
        }
    }
}

/// What a path is about.
#[derive(Debug, PartialEq, Eq)]
enum Target<'a> {
    Server,
    Model { name: &'a str, rest: &'a str },
}

fn target(path: &str) -> Result<Target<'_>, &'static str> {
    if SERVER_PATHS.contains(&path) {
        return Ok(Target::Server);
    }
    if path.contains('%') {
        return Err("has percent-encoded characters, which no model path needs");
    }
    let Some(rest) = path.strip_prefix("/v2/models/") else {
        return Err("is not served here; models are at /v2/models/<model>/infer");
    };
    let (name, rest) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if !is_segment(name) {
        return Err("names no model");
    }
    let rest = match rest.strip_prefix("/versions/") {
        Some(version) => {
            let (version, rest) = version.split_at(version.find('/').unwrap_or(version.len()));
            if !is_segment(version) {
                return Err("names no version");
            }
            rest
        }
        None => rest,
    };
    if MODEL_PATHS.contains(&rest) {
        Ok(Target::Model { name, rest })
    } else {
        Err("is no operation on a model; there are /infer, /infer_stream, /ready and the model itself")
    }
}

fn is_segment(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    !text.is_empty() && text.bytes().all(is_plain) && !text.bytes().all(|byte| byte == b'.')
}

/// Answers one REST request.
pub(super) async fn call(
    proxy: &Proxy,
    running: &Running,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Refused> {
    let version = request.version();
    let (mut parts, body) = request.into_parts();
    let request_id = proxy.request_id(&mut parts.headers);
    let failed = |failure: &Failure| Ok(failure_response(failure, &request_id));

    let in_use = match resolve(proxy, parts.uri.path(), &parts.headers) {
        Ok(Some((in_use, rest))) => {
            let mut path = String::with_capacity(parts.uri.path().len() + 16);
            path.push_str("/v2/models/");
            path.push_str(in_use.name());
            path.push_str(rest);
            if let Some(query) = parts.uri.query() {
                path.push('?');
                path.push_str(query);
            }
            let path = PathAndQuery::from_maybe_shared(Bytes::from(path)).expect("its parts came from a path");
            parts.uri = path.into();
            Some(in_use)
        }
        Ok(None) => None,
        Err(failure) => {
            tracing::debug!(replica = %proxy.replica, ?request_id, error = %failure, "not passed on");
            return failed(&failure);
        }
    };
    let length = parts.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > proxy.max_message_bytes) {
        return failed(&Problem::TooLarge { limit: proxy.max_message_bytes }.into());
    }
    strip_hop_headers(&mut parts.headers);
    let body = RequestBody::whole(body, proxy.max_message_bytes);
    let fault = body.fault();
    match running.upstream.send_rest(Request::from_parts(parts, body)).await {
        Ok((response, lease)) => {
            let held = Held { _lease: lease, _in_use: in_use };
            let mut response =
                response.map(|inner| ResponseBody::Passed { ahead: VecDeque::new(), inner, _held: held, grpc: None });
            strip_hop_headers(response.headers_mut());
            response.headers_mut().remove(REFUSED);
            response.headers_mut().entry(REQUEST_ID).or_insert(request_id);
            Ok(response)
        }
        Err(error) => {
            if let Some(problem) = fault.get() {
                return failed(&problem.clone().into());
            }
            let model = in_use.as_ref().map(InUse::name);
            tracing::warn!(replica = %proxy.replica, model, ?request_id, error = chain(&error), "request failed");
            match error {
                SendError::NotSent(_) => Refused::answer(version, &request_id),
                SendError::Broken { .. } => failed(&Failure::Server { server: proxy.server(), cause: error }),
            }
        }
    }
}

/// The version that a request means and what follows its name; `None` for the server itself.
fn resolve<'a>(proxy: &Proxy, path: &'a str, headers: &HeaderMap) -> Result<Option<(InUse, &'a str)>, Failure> {
    let target = target(path).map_err(|reason| Failure::Path { path: path.chars().take(200).collect(), reason })?;
    let Target::Model { name, rest } = target else { return Ok(None) };
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let found = match text(INTERNAL_MODEL) {
        Some(internal) => proxy.residency.enter(internal).ok_or(internal),
        None => {
            let by_path = proxy.residency.enter_highest(name);
            by_path.or_else(|| proxy.residency.enter_highest(text(MODEL)?)).ok_or(name)
        }
    };
    match found {
        Ok(in_use) => Ok(Some((in_use, rest))),
        Err(name) => Err(proxy.absence(name).into()),
    }
}

fn failure_response(failure: &Failure, request_id: &HeaderValue) -> Response<ResponseBody> {
    let mut response = json_error(failure.status(), &chain(failure), request_id);
    if let Failure::NotHeld(Absence::NotYet { .. }) = failure {
        response.headers_mut().insert(REFUSED, HeaderValue::from_static(ANY));
    }
    response
}

pub(super) fn json_error(status: StatusCode, text: &str, request_id: &HeaderValue) -> Response<ResponseBody> {
    let body = Bytes::from(json!({ "error": text }).to_string());
    let mut response = Response::new(ResponseBody::Text(Some(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(REQUEST_ID, request_id.clone());
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn model_paths_are_cut_at_the_name_and_lose_their_version() {
        let check = |path: &str, name: &str, rest: &str| {
            assert_eq!(target(path), Ok(Target::Model { name, rest }), "{path}");
        };
        check("/v2/models/iris", "iris", "");
        check("/v2/models/iris/ready", "iris", "/ready");
        check("/v2/models/iris/infer", "iris", "/infer");
        check("/v2/models/iris/infer_stream", "iris", "/infer_stream");
        check("/v2/models/iris/versions/1/infer", "iris", "/infer");
        check("/v2/models/iris/versions/1", "iris", "");
        check("/v2/models/my_iris-2.experiment/infer", "my_iris-2.experiment", "/infer");
    }

    #[test]
    fn nothing_else_of_the_server_can_be_reached() {
        for path in ["/v2", "/v2/health/live", "/v2/health/ready"] {
            assert_eq!(target(path), Ok(Target::Server));
        }
        for path in [
            "/",
            "",
            "*",
            "/v2/",
            "/v2/health",
            "/v2/health/live/",
            "/v2/repository/index",
            "/v2/repository/models/iris/unload",
            "/v2/models",
            "/v2/models/",
            "/v2/models//infer",
            "/v2/models/../repository/index",
            "/v2/models/../infer",
            "/v2/models/./infer",
            "/v2/models/iris/../../repository/index",
            "/v2/models/iris/infer/../../../repository/index",
            "/v2/models/iris/versions//infer",
            "/v2/models/iris/versions/../infer",
            "/v2/models/iris/versions/1/versions/2/infer",
            "/v2/models/%69ris/infer",
            "/v2/models/iris%2f..%2f..%2frepository/infer",
            "/v2/models/iris/infer%20",
            "/v2/models/iris/infer/",
            "/v2/models/iris/load",
            "/v2/models/iris;x/infer",
            "/v2//models/iris/infer",
            "/V2/models/iris/infer",
            "/metrics",
        ] {
            assert!(target(path).is_err(), "{path}");
        }
    }
}
