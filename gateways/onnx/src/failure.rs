//! Why a request fails, and what that is in HTTP and in gRPC: one function for each protocol.

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{StatusCode, header::CONTENT_TYPE};

use crate::{repository, signature};

/// Texts of ONNX Runtime can be long, and a gRPC status travels in a header.
const MAX_REASON: usize = 2000;

#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Failure {
    #[error("model '{name}' is not loaded")]
    NotLoaded { name: String },
    #[error("model '{name}' has the version 1 only, not '{version}'")]
    UnknownVersion { name: String, version: String },
    #[error("no such path: {path}")]
    UnknownPath { path: String },
    #[error("the method {method} is not allowed here")]
    Method { method: http::Method },
    #[error(transparent)]
    Message(#[from] oip::Error),
    #[error(transparent)]
    Mismatch(#[from] signature::Mismatch),
    #[error("header inference-header-content-length: '{value}' is not a number")]
    JsonLength { value: String },
    #[error("message is larger than the limit of {limit} bytes")]
    TooLarge { limit: usize },
    #[error("read the body: {reason}")]
    Body { reason: String },
    #[error("inputs '{input}': {reason}")]
    Input { input: String, reason: String },
    #[error("outputs '{output}': {reason}")]
    Output { output: String, reason: String },
    #[error("model '{model}' refused the inputs: {reason}")]
    Refused { model: String, reason: String },
    #[error("model '{model}' failed: {reason}")]
    Run { model: String, reason: String },
    #[error("model '{model}' has {waiting} requests waiting already")]
    Busy { model: String, waiting: usize },
    #[error("model '{model}' panicked")]
    Panicked { model: String },
    #[error(transparent)]
    Load(#[from] repository::Error),
    #[error("server is stopping")]
    Stopping,
}

enum Kind {
    Invalid,
    NotFound,
    Method,
    TooLarge,
    Busy,
    Internal,
}

impl Failure {
    fn kind(&self) -> Kind {
        match self {
            Self::Message(_)
            | Self::Mismatch(_)
            | Self::JsonLength { .. }
            | Self::Body { .. }
            | Self::Input { .. }
            | Self::Refused { .. } => Kind::Invalid,
            Self::NotLoaded { .. } | Self::UnknownVersion { .. } | Self::UnknownPath { .. } => Kind::NotFound,
            Self::Method { .. } => Kind::Method,
            Self::TooLarge { .. } => Kind::TooLarge,
            Self::Busy { .. } | Self::Stopping => Kind::Busy,
            Self::Output { .. } | Self::Run { .. } | Self::Panicked { .. } => Kind::Internal,
            Self::Load(error) => match error {
                repository::Error::Name { .. }
                | repository::Error::Ambiguous { .. }
                | repository::Error::NoModelFile { .. }
                | repository::Error::Corrupt { .. }
                | repository::Error::UnsupportedInput { .. } => Kind::Invalid,
                repository::Error::NoFolder { .. } | repository::Error::Unknown { .. } => Kind::NotFound,
                repository::Error::Read { .. }
                | repository::Error::Runtime { .. }
                | repository::Error::Panicked { .. } => Kind::Internal,
            },
        }
    }

    fn text(&self) -> String {
        let text = self.to_string();
        match text.char_indices().nth(MAX_REASON) {
            Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
            None => text,
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = match self.kind() {
            Kind::Invalid => StatusCode::BAD_REQUEST,
            Kind::NotFound => StatusCode::NOT_FOUND,
            Kind::Method => StatusCode::METHOD_NOT_ALLOWED,
            Kind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Kind::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        tracing::debug!(status = status.as_u16(), error = %self, "request failed");
        let body = serde_json::json!({ "error": self.text() }).to_string();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
        response
    }
}

impl From<Failure> for tonic::Status {
    fn from(failure: Failure) -> Self {
        let code = match failure.kind() {
            Kind::Invalid => tonic::Code::InvalidArgument,
            Kind::NotFound => tonic::Code::NotFound,
            Kind::Method => tonic::Code::Unimplemented,
            Kind::TooLarge => tonic::Code::ResourceExhausted,
            Kind::Busy => tonic::Code::Unavailable,
            Kind::Internal => tonic::Code::Internal,
        };
        tracing::debug!(code = ?code, error = %failure, "request failed");
        Self::new(code, failure.text())
    }
}
