//! Calls of models through Envoy: protobuf over gRPC, JSON over REST (`spec/data-plane.md` §4.4).

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use dataflow_core::{Call, Failure, Format, Headers, Outcome, Parts};
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::{Ascii, KeyAndValueRef, MetadataKey, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// Envoy is asked again after this long while it refuses connections.
const RECONNECT_AFTER: Duration = Duration::from_millis(100);

/// The server may take so much longer than we wait: our own clock is to decide, and tonic would call it CANCELLED.
const HEAD_START: Duration = Duration::from_millis(500);

/// Envoy takes a hundred headers, its own among them.
const HEADERS_MAX: usize = 80;

const INFER: &str = "/inference.GRPCInferenceService/ModelInfer";

/// Largest answer of a model.
const ANSWER_LARGEST: usize = 1 << 30;

/// A way to all models.
#[derive(Clone)]
pub(crate) struct Client {
    channel: Channel,
    http: HttpClient<HttpConnector, Full<Bytes>>,
    envoy: String,
}

impl Client {
    /// Models behind the Envoy at `host:port`, which need not be there yet.
    pub(crate) fn new(envoy: &str) -> Result<Self, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(format!("http://{envoy}"))?;
        let channel = endpoint.tcp_nodelay(true).connect_timeout(Duration::from_secs(2)).connect_lazy();
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let http = HttpClient::builder(TokioExecutor::new()).build(connector);
        Ok(Self { channel, http, envoy: envoy.to_owned() })
    }

    /// Calls the model with whatever the record holds. Ends within the limit.
    pub(crate) async fn call(&self, call: Call, limit: Duration) -> Outcome {
        let model = call.model.to_string();
        match tokio::time::timeout(limit, self.dispatch(call, limit)).await {
            Ok(outcome) => outcome,
            Err(_) => Outcome::Failed(Failure::new(
                model.as_str(),
                Failure::DEADLINE,
                format!("model {model} did not answer within {} ms", limit.as_millis()),
            )),
        }
    }

    async fn dispatch(&self, call: Call, limit: Duration) -> Outcome {
        let model = call.model.as_str();
        let bad = |text: String| Outcome::Failed(Failure::new(model, Failure::INVALID, text));
        let message = match call.infer_type.as_deref() {
            Some("json/inferModelRequest") => return self.json(model, call.value, &call.headers).await,
            Some("json/inferModelResponse") => return self.converted_json(model, &call.value, &call.headers).await,
            Some("proto/InferModelRequest") => match Parts::detect(&call.value) {
                Ok((Format::Request, _)) => request(model, &call.value),
                Ok((Format::Response, parts)) => Ok(from_parts(model, &parts)),
                Err(error) => return bad(format!("the record is no ModelInferRequest: {error}")),
            },
            Some("proto/InferModelResponse") => match Parts::parse(&call.value, Format::Response) {
                Ok(parts) => Ok(from_parts(model, &parts)),
                Err(error) => return bad(format!("the record is no ModelInferResponse: {error}")),
            },
            Some(other) => return bad(format!("{:?} is no value of {}", other, dataflow_core::name::INFER_TYPE)),
            None => match Parts::detect(&call.value) {
                Ok((Format::Request, _)) => request(model, &call.value),
                Ok((Format::Response, parts)) => Ok(from_parts(model, &parts)),
                Err(_) if looks_like_json(&call.value) => {
                    return self.converted_json(model, &call.value, &call.headers).await;
                }
                Err(error) => return bad(format!("the record is neither a protobuf message nor JSON: {error}")),
            },
        };
        match message {
            Ok(message) => self.grpc(model, message, &call.headers, limit).await,
            Err(error) => bad(format!("the record is no ModelInferRequest: {error}")),
        }
    }

    /// Calls the model with an encoded message.
    pub(crate) async fn grpc(&self, model: &str, message: Bytes, headers: &Headers, limit: Duration) -> Outcome {
        if headers.len() > HEADERS_MAX {
            let text = format!("the record has {} headers x-…, at most {HEADERS_MAX} are passed on", headers.len());
            return Outcome::Failed(Failure::new(model, Failure::INVALID, text));
        }
        loop {
            let mut request = tonic::Request::new(message.clone());
            request.set_timeout(limit + HEAD_START);
            for (name, value) in headers {
                let name = name.parse::<MetadataKey<Ascii>>();
                if let (Ok(name), Ok(value)) = (name, MetadataValue::try_from(value.as_ref())) {
                    request.metadata_mut().append(name, value);
                }
            }
            if let Ok(value) = MetadataValue::try_from(model) {
                request.metadata_mut().insert(domain::header::MODEL, value);
            }
            let mut client = tonic::client::Grpc::new(self.channel.clone())
                .max_decoding_message_size(ANSWER_LARGEST)
                .max_encoding_message_size(usize::MAX);
            let answer = match client.ready().await {
                Ok(()) => client.unary(request, PathAndQuery::from_static(INFER), Raw).await,
                Err(error) => Err(Status::from_error(error.into())),
            };
            match answer {
                Ok(answer) => {
                    let headers = answer.metadata().iter().filter_map(|entry| match entry {
                        KeyAndValueRef::Ascii(name, value) => {
                            Some((name.as_str().to_owned(), Bytes::copy_from_slice(value.as_encoded_bytes())))
                        }
                        KeyAndValueRef::Binary(..) => None,
                    });
                    let headers = headers.filter(|(name, _)| name.starts_with("x-")).collect();
                    return checked(model, answer.into_inner(), headers);
                }
                // Nobody has seen the request: the connection was refused.
                Err(status) if is_refused(&status) => tokio::time::sleep(RECONNECT_AFTER).await,
                Err(status) => {
                    let code = status.code();
                    let failure = Failure {
                        step: model.to_owned(),
                        code: code as i32,
                        status: http_status(code),
                        text: status.message().to_owned(),
                    };
                    return Outcome::Failed(failure);
                }
            }
        }
    }

    /// JSON whose outputs, if it has no inputs, are the inputs.
    async fn converted_json(&self, model: &str, body: &Bytes, headers: &Headers) -> Outcome {
        let bad = |text: String| Outcome::Failed(Failure::new(model, Failure::INVALID, text));
        let mut message: serde_json::Map<String, serde_json::Value> = match serde_json::from_slice(body) {
            Ok(message) => message,
            Err(error) => return bad(format!("the record is neither a protobuf message nor a JSON object: {error}")),
        };
        if message.contains_key("inputs") {
            return self.json(model, body.clone(), headers).await;
        }
        let Some(outputs) = message.remove("outputs") else {
            return bad("the JSON of the record has neither inputs nor outputs".into());
        };
        let inputs = serde_json::json!({ "inputs": outputs });
        self.json(model, inputs.to_string().into(), headers).await
    }

    async fn json(&self, model: &str, body: Bytes, headers: &Headers) -> Outcome {
        let mut request = Request::post(format!("http://{}/v2/models/{model}/infer", self.envoy))
            .header(http::header::CONTENT_TYPE, "application/json")
            .header(domain::header::MODEL, model);
        for (name, value) in headers {
            if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_bytes(value)) {
                request = request.header(name, value);
            }
        }
        let failed = |code: (i32, u16), text: String| Outcome::Failed(Failure::new(model, code, text));
        let request = match request.body(Full::new(body)) {
            Ok(request) => request,
            Err(error) => return failed(Failure::INVALID, error.to_string()),
        };
        let response = match self.http.request(request).await {
            Ok(response) => response,
            Err(error) => return failed(Failure::UNAVAILABLE, format!("Envoy does not answer: {error}")),
        };
        let (head, body) = response.into_parts();
        let body = match Limited::new(body, ANSWER_LARGEST).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => return failed(Failure::UNAVAILABLE, format!("the answer broke off: {error}")),
        };
        if head.status != StatusCode::OK {
            let failure = Failure {
                step: model.to_owned(),
                code: grpc_code(head.status) as i32,
                status: head.status.as_u16().max(400),
                text: String::from_utf8_lossy(&body).into_owned(),
            };
            return Outcome::Failed(failure);
        }
        let headers = head.headers.iter().filter(|(name, _)| name.as_str().starts_with("x-"));
        let headers = headers.map(|(name, value)| (name.to_string(), Bytes::copy_from_slice(value.as_bytes())));
        Outcome::Answer(body, headers.collect())
    }
}

/// An answer that is one.
fn checked(model: &str, answer: Bytes, headers: Headers) -> Outcome {
    match Parts::parse(&answer, Format::Response) {
        Ok(_) => Outcome::Answer(answer, headers),
        Err(error) => {
            let text = format!("the answer of model {model} is no valid ModelInferResponse: {error}");
            Outcome::Failed(Failure::new(model, Failure::INTERNAL, text))
        }
    }
}

/// A request with the model's name in front.
fn request(model: &str, message: &Bytes) -> Result<Bytes, oip::Malformed> {
    let rewritten = oip::rewrite_model_name(message, model)?;
    let mut out = Vec::with_capacity(rewritten.len() + 3);
    out.put_slice(&rewritten.head);
    // Field 2, the version: "1".
    out.put_slice(b"\x12\x01\x31");
    rewritten.rest.iter().for_each(|piece| out.put_slice(piece));
    Ok(out.into())
}

fn from_parts(model: &str, parts: &Parts) -> Bytes {
    // What a request is made of carries no name, so it goes in front.
    let body = parts.write(Format::Request);
    request(model, &body).unwrap_or(body)
}

fn looks_like_json(value: &Bytes) -> bool {
    value.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{')
}

/// The connection was refused, so nobody has seen the request.
fn is_refused(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            return io.kind() == std::io::ErrorKind::ConnectionRefused;
        }
        source = cause.source();
    }
    false
}

/// HTTP's word for a code of gRPC.
pub(crate) fn http_status(code: Code) -> u16 {
    match code {
        Code::Ok => 200,
        Code::InvalidArgument | Code::OutOfRange => 400,
        Code::Unauthenticated => 401,
        Code::PermissionDenied => 403,
        Code::NotFound | Code::Unimplemented => 404,
        Code::AlreadyExists | Code::Aborted => 409,
        Code::FailedPrecondition => 422,
        Code::ResourceExhausted => 429,
        Code::Cancelled => 499,
        Code::Unknown | Code::Internal | Code::DataLoss => 500,
        Code::Unavailable => 503,
        Code::DeadlineExceeded => 504,
    }
}

fn grpc_code(status: StatusCode) -> Code {
    match status.as_u16() {
        400 => Code::InvalidArgument,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::NotFound,
        409 => Code::Aborted,
        422 => Code::FailedPrecondition,
        429 => Code::ResourceExhausted,
        499 => Code::Cancelled,
        503 => Code::Unavailable,
        504 => Code::DeadlineExceeded,
        500..=599 => Code::Internal,
        _ => Code::Unknown,
    }
}

/// Messages as they are.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }
    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}
