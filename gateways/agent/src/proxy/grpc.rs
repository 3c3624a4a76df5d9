//! gRPC: which methods exist, which model a call means, and the name the server knows it by, put into every message.

use std::collections::VecDeque;

use bytes::Bytes;
use domain::header::{INTERNAL_MODEL, MODEL, REFUSED, REQUEST_ID};
use http::{HeaderMap, HeaderValue, Request, Response, Version, header};
use http_body::Frame;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tonic::Status;
use tonic::metadata::MetadataValue;

use super::body::{GrpcEnd, Held, Problem, RequestBody, ResponseBody};
use super::messages::Messages;
use super::upstream::{SendError, strip_hop_headers};
use super::{ANY, Absence, Proxy, Refused};
use crate::reason::chain;
use crate::residency::InUse;
use crate::serving::Running;

const CONTENT_TYPE: &str = "application/grpc";
/// As much of an answer as a client's usual window takes at once.
const HELD_BACK: usize = 64 << 10;
/// Pieces of it; more are no small answer, whatever they hold.
const PIECES_HELD_BACK: usize = 64;
const SERVICE: &str = "/inference.GRPCInferenceService/";

/// Whether a request is a gRPC call.
pub(super) fn is_call<B>(request: &Request<B>) -> bool {
    let content_type = request.headers().get(header::CONTENT_TYPE);
    request.version() == Version::HTTP_2
        && content_type.is_some_and(|value| value.as_bytes().starts_with(CONTENT_TYPE.as_bytes()))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    /// About the server: passed on as it is.
    Server,
    /// One message about a model.
    Model,
    /// Messages about a model, in both directions.
    Stream,
}

fn method(path: &str) -> Option<Method> {
    match path.strip_prefix(SERVICE)? {
        "ServerLive" | "ServerReady" | "ServerMetadata" => Some(Method::Server),
        "ModelInfer" | "ModelMetadata" | "ModelReady" => Some(Method::Model),
        "ModelStreamInfer" => Some(Method::Stream),
        _ => None,
    }
}

/// Answers one gRPC call.
pub(super) async fn call(
    proxy: &Proxy,
    running: &Running,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Refused> {
    let version = request.version();
    let (mut parts, body) = request.into_parts();
    let request_id = proxy.request_id(&mut parts.headers);
    let failed = |status: Status| Ok(failure_response(status, &request_id));

    let Some(method) = method(parts.uri.path()) else {
        let path: String = parts.uri.path().chars().take(200).collect();
        return failed(Status::unimplemented(format!("method {path:?} is not served here")));
    };
    let (body, in_use) = match prepare(proxy, method, &parts.headers, body).await {
        Ok(prepared) => prepared,
        Err(status) => {
            tracing::debug!(replica = %proxy.replica, ?request_id, error = status.message(), "not passed on");
            return failed(status);
        }
    };
    if in_use.is_some() {
        // The messages change their length.
        parts.headers.remove(header::CONTENT_LENGTH);
    }
    strip_hop_headers(&mut parts.headers);
    let fault = body.fault();
    match running.upstream.send_grpc(Request::from_parts(parts, body)).await {
        Ok((response, lease)) => {
            let held = Held { _lease: Some(lease), _in_use: in_use };
            let end = GrpcEnd { request_id: request_id.clone(), fault, server: proxy.server() };
            let (head, mut inner) = response.into_parts();
            let ahead = match method {
                Method::Model => hold_back(&mut inner).await,
                Method::Server | Method::Stream => Ok(VecDeque::new()),
            };
            let ahead = match ahead {
                Ok(ahead) => ahead,
                Err(error) => return failed(end.status(&error)),
            };
            let grpc = Some(Box::new(end));
            let mut response = Response::from_parts(head, ResponseBody::Passed { ahead, inner, _held: held, grpc });
            response.headers_mut().insert(REQUEST_ID, request_id);
            response.headers_mut().remove(REFUSED);
            Ok(response)
        }
        Err(error) => {
            if let Some(problem) = fault.get() {
                return failed(refusal(problem));
            }
            let model = in_use.as_ref().map(InUse::name);
            tracing::warn!(replica = %proxy.replica, model, ?request_id, error = chain(&error), "call failed");
            match error {
                SendError::NotSent(_) => Refused::answer(version, &request_id),
                SendError::Broken { .. } => {
                    failed(Status::unavailable(format!("call to {}: {}", proxy.server(), chain(&error))))
                }
            }
        }
    }
}

/// The body for the server, and the version it is about.
async fn prepare(
    proxy: &Proxy,
    method: Method,
    headers: &HeaderMap,
    body: Incoming,
) -> Result<(RequestBody, Option<InUse>), Status> {
    if method == Method::Server {
        return Ok((RequestBody::whole(body, proxy.max_message_bytes), None));
    }
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let not_held = |name: &str| match proxy.absence(name) {
        absence @ Absence::Known { .. } => Status::not_found(absence.to_string()),
        absence @ Absence::NotYet { .. } => {
            let mut status = Status::unavailable(absence.to_string());
            status.metadata_mut().insert(REFUSED, MetadataValue::from_static(ANY));
            status
        }
    };
    let mut messages = Messages::new(body, proxy.max_message_bytes, proxy.budget.clone());
    let internal = text(INTERNAL_MODEL);
    let known = match internal {
        Some(name) => Some(proxy.residency.enter(name).ok_or_else(|| not_held(name))?),
        None => None,
    };
    // A stream whose model is known is opened at once: its client may wait for that before it sends anything.
    let first = match (method, &known) {
        (Method::Stream, Some(_)) => None,
        (Method::Server | Method::Model | Method::Stream, _) => {
            let first = messages.first().await.map_err(|problem| refusal(&problem))?;
            if first.is_none() && method == Method::Model {
                return Err(refusal(&Problem::NoMessage));
            }
            first
        }
    };
    let in_use = match known {
        Some(known) => known,
        None => {
            let named = match &first {
                Some(first) => oip::peek_model_name(first).map_err(|error| refusal(&error.into()))?,
                None => "",
            };
            let name = if named.is_empty() { text(MODEL).unwrap_or_default() } else { named };
            if name.is_empty() {
                let text = format!("model_name is empty and there is no {INTERNAL_MODEL} or {MODEL} in the metadata");
                return Err(Status::failed_precondition(text));
            }
            proxy.residency.enter_highest(name).ok_or_else(|| not_held(name))?
        }
    };
    messages.begin(in_use.name(), first).map_err(|problem| refusal(&problem))?;
    Ok((RequestBody::messages(messages), Some(in_use)))
}

/// What comes of an answer that is small, up to its end, and the beginning of a larger one. A client may try a call again
/// as long as it has seen nothing of an answer, so the head waits until there is no more that can break off.
async fn hold_back(answer: &mut Incoming) -> Result<VecDeque<Frame<Bytes>>, hyper::Error> {
    let (mut frames, mut length) = (VecDeque::new(), 0);
    while length <= HELD_BACK && frames.len() < PIECES_HELD_BACK {
        let Some(frame) = answer.frame().await.transpose()? else { break };
        length += frame.data_ref().map_or(0, Bytes::len);
        frames.push_back(frame);
    }
    Ok(frames)
}

fn refusal(problem: &Problem) -> Status {
    Status::new(problem.code(), chain(problem))
}

fn failure_response(status: Status, request_id: &HeaderValue) -> Response<ResponseBody> {
    let mut response = status.into_http::<ResponseBody>();
    response.headers_mut().insert(REQUEST_ID, request_id.clone());
    response
}
