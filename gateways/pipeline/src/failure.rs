//! Why a request has no answer, and what that is in HTTP and in gRPC: one function for each protocol.

use axum::body::Body;
use axum::response::Response;
use dataflow_core::{Failure as Ended, Headers};
use domain::PipelineName;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

use crate::gateway::shown;

/// How errors of pipelines are told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ErrorStyle {
    /// With the status and the step of the failure.
    #[default]
    Structured,
    /// As the compatible system does: 400 and UNKNOWN with `<step> : <text>`.
    Compatible,
}

/// A status of gRPC travels in a header.
const TEXT_LONGEST: usize = 4_000;

#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("no pipeline is named: send the header seldon-model: <name>.pipeline")]
    NoTarget,
    #[error("{0:?} is no pipeline: the header seldon-model must be <name>.pipeline")]
    BadTarget(String),
    #[error("{0} is not served: pipelines infer and tell whether they are ready, and have no metadata")]
    NotServed(String),
    #[error("there is no pipeline {0}")]
    Unknown(PipelineName),
    #[error("the gateway starts and does not know yet which pipelines there are")]
    Starting,
    #[error("pipeline {0} is not ready")]
    NotReady(PipelineName),
    #[error("pipeline {0} has no output, so it answers nobody; write to its inputs topic instead")]
    NoOutput(PipelineName),
    #[error(transparent)]
    Message(#[from] oip::Error),
    #[error("{header}: {value:?} {problem}")]
    Header { header: &'static str, value: String, problem: &'static str },
    #[error("the headers x-… have {bytes} bytes together, at most {limit} are taken")]
    Headers { bytes: usize, limit: usize },
    #[error("there are {count} headers x-…, at most {limit} are taken")]
    HeaderCount { count: usize, limit: usize },
    #[error("read the body: {0}")]
    Body(String),
    #[error("the message is larger than the limit of {0} bytes")]
    TooLarge(usize),
    #[error("the body was not there within {0} ms")]
    SlowBody(u128),
    #[error("{0} requests wait for their answers already")]
    Full(usize),
    #[error("the bodies of requests under way have {0} bytes together, more are not kept")]
    Bytes(usize),
    #[error("the log does not take the request: {0}")]
    Log(topic_log::Error),
    #[error("no answer within {0} ms")]
    Deadline(u64),
    #[error("{}", .0.text)]
    Ended(Ended),
    #[error("the answer of pipeline {pipeline} is no valid message: {reason}")]
    Answer { pipeline: PipelineName, reason: String },
    #[error("the steps cannot be asked whether they are ready: {0}")]
    Steps(String),
    #[error("the pipeline was unloaded while the request was under way")]
    Unloaded,
}

/// A failure, and what else the caller is told: its request's id, and the version and routes as far as it came.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) failure: Failure,
    pub(crate) headers: Headers,
}

impl Refusal {
    /// Before there was a version.
    pub(crate) fn early(failure: Failure, id: &str) -> Self {
        let headers = vec![(dataflow_core::name::REQUEST_ID.to_owned(), id.to_owned().into())];
        Self { failure, headers }
    }

    pub(crate) fn into_response(self, style: ErrorStyle) -> Response {
        let mut response = self.failure.to_response(style);
        response.headers_mut().extend(shown(self.headers));
        response
    }

    pub(crate) fn into_status(self, style: ErrorStyle) -> Status {
        let mut status = self.failure.to_status(style);
        let mut metadata = std::mem::take(status.metadata_mut()).into_headers();
        metadata.extend(shown(self.headers));
        *status.metadata_mut() = MetadataMap::from_headers(metadata);
        status
    }
}

impl Failure {
    fn codes(&self) -> (Code, u16) {
        match self {
            Self::NoTarget | Self::BadTarget(_) | Self::Header { .. } | Self::Body(_) | Self::Message(_) => {
                (Code::InvalidArgument, 400)
            }
            Self::Headers { .. } | Self::HeaderCount { .. } => (Code::InvalidArgument, 431),
            Self::NotServed(_) | Self::Unknown(_) => (Code::NotFound, 404),
            Self::NoOutput(_) => (Code::FailedPrecondition, 422),
            Self::TooLarge(_) => (Code::ResourceExhausted, 413),
            Self::Log(topic_log::Error::TooLarge { .. }) => (Code::ResourceExhausted, 413),
            Self::Full(_) | Self::Bytes(_) => (Code::ResourceExhausted, 429),
            Self::Starting | Self::NotReady(_) | Self::Log(_) | Self::Unloaded => (Code::Unavailable, 503),
            // One status for the time that is over, wherever it went.
            Self::SlowBody(_) | Self::Deadline(_) => (Code::DeadlineExceeded, 504),
            Self::Ended(ended) => (Code::from_i32(ended.code), ended.status),
            Self::Answer { .. } | Self::Steps(_) => (Code::Internal, 500),
        }
    }

    fn step(&self) -> &str {
        match self {
            Self::Ended(ended) => &ended.step,
            _ => "",
        }
    }

    /// The label of the metric `seldon_pipeline_infer_total`.
    pub(crate) fn status(&self) -> u16 {
        self.codes().1
    }

    pub(crate) fn code(&self) -> Code {
        self.codes().0
    }

    pub(crate) fn to_response(&self, style: ErrorStyle) -> Response {
        if let (ErrorStyle::Compatible, Self::Ended(ended)) = (style, self) {
            let mut response = Response::new(Body::from(format!("{} : {}", ended.step, ended.text)));
            *response.status_mut() = StatusCode::BAD_REQUEST;
            return response;
        }
        let (code, status) = self.codes();
        let body = serde_json::json!({ "error": self.to_string(), "step": self.step(), "code": name(code) });
        let mut response = Response::new(Body::from(body.to_string()));
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }

    pub(crate) fn to_status(&self, style: ErrorStyle) -> Status {
        let shown = |text: String| text.chars().take(TEXT_LONGEST).collect::<String>();
        if let (ErrorStyle::Compatible, Self::Ended(ended)) = (style, self) {
            return Status::unknown(shown(format!("{} : {}", ended.step, ended.text)));
        }
        let mut status = Status::new(self.code(), shown(self.to_string()));
        if let Ok(step) = self.step().parse()
            && !self.step().is_empty()
        {
            status.metadata_mut().insert(dataflow_core::name::ERROR_STEP, step);
        }
        status
    }
}

/// As gRPC writes it.
pub(crate) fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
