//! Bodies in both directions. A request's body can fail after its headers went to the server: what was wrong with it is
//! kept for the response (`Fault`). A response's body holds what counts as in use until its last byte is out.

use std::collections::VecDeque;
use std::error::Error as StdError;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tonic::{Code, Status};

use super::frames;
use super::messages::Messages;
use super::upstream::Lease;
use crate::residency::InUse;

/// What is wrong with the body of a request.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Problem {
    #[error(transparent)]
    Frames(#[from] frames::Error),
    #[error("the message is no protobuf message of this method: {0}")]
    Malformed(#[from] oip::Malformed),
    #[error("the request has no message")]
    NoMessage,
    #[error("the message does not fit its length field any more")]
    Grown,
    #[error("the body has more than {limit} bytes")]
    TooLarge { limit: usize },
    #[error("requests under way use all the memory for incomplete messages; try again")]
    NoMemory,
    #[error("the client ended its request early")]
    Client(#[source] Arc<hyper::Error>),
}

impl Problem {
    pub(crate) fn code(&self) -> Code {
        match self {
            Problem::Frames(frames::Error::Compressed) => Code::Unimplemented,
            Problem::Frames(frames::Error::TooLarge { .. })
            | Problem::TooLarge { .. }
            | Problem::Grown
            | Problem::NoMemory => Code::ResourceExhausted,
            Problem::Frames(frames::Error::Flag(_) | frames::Error::Truncated)
            | Problem::Malformed(_)
            | Problem::NoMessage => Code::InvalidArgument,
            Problem::Client(_) => Code::Cancelled,
        }
    }
}

/// What was wrong with the body of a request, when it turned out late.
pub(crate) type Fault = Arc<OnceLock<Problem>>;

enum Source {
    /// Passed on as it comes, up to a number of bytes.
    Whole {
        body: Incoming,
        left: usize,
        limit: usize,
    },
    Messages(Messages),
}

/// The body of a request to the server.
pub(crate) struct RequestBody {
    source: Source,
    fault: Fault,
}

impl RequestBody {
    pub(crate) fn whole(body: Incoming, limit: usize) -> Self {
        Self { source: Source::Whole { body, left: limit, limit }, fault: Fault::default() }
    }

    pub(crate) fn messages(messages: Messages) -> Self {
        Self { source: Source::Messages(messages), fault: Fault::default() }
    }

    pub(crate) fn fault(&self) -> Fault {
        Arc::clone(&self.fault)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Problem;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Problem>>> {
        let frame = match &mut self.source {
            Source::Messages(messages) => ready!(messages.poll_piece(context)).map(|piece| piece.map(Frame::data)),
            Source::Whole { body, left, limit } => match ready!(Pin::new(body).poll_frame(context)) {
                Some(Ok(frame)) => {
                    let length = frame.data_ref().map_or(0, Bytes::len);
                    match left.checked_sub(length) {
                        Some(rest) => {
                            *left = rest;
                            Some(Ok(frame))
                        }
                        None => Some(Err(Problem::TooLarge { limit: *limit })),
                    }
                }
                Some(Err(error)) => Some(Err(Problem::Client(Arc::new(error)))),
                None => None,
            },
        };
        if let Some(Err(problem)) = &frame {
            // The first one is the reason; there is no second.
            let _ = self.fault.set(problem.clone());
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Whole { body, .. } => body.is_end_stream(),
            Source::Messages(messages) => messages.is_done(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Whole { body, .. } => body.size_hint(),
            Source::Messages(_) => SizeHint::default(),
        }
    }
}

/// What is kept until a response is out.
pub(crate) struct Held {
    pub(crate) _lease: Option<Lease>,
    pub(crate) _in_use: Option<InUse>,
}

/// How a gRPC response ends.
pub(crate) struct GrpcEnd {
    pub(crate) request_id: HeaderValue,
    pub(crate) fault: Fault,
    /// For people: which server.
    pub(crate) server: String,
}

/// The body of a response to the client.
#[derive(Default)]
pub(crate) enum ResponseBody {
    Text(Option<Bytes>),
    Passed {
        /// What has come already.
        ahead: VecDeque<Frame<Bytes>>,
        inner: Incoming,
        _held: Held,
        grpc: Option<Box<GrpcEnd>>,
    },
    #[default]
    Over,
}

/// A response that broke after its headers were out.
#[derive(Debug)]
pub(crate) struct Broken(hyper::Error);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the inference server broke off its response")
    }
}

impl StdError for Broken {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.0)
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let (frame, grpc) = match &mut *self {
            Self::Over => return Poll::Ready(None),
            Self::Text(text) => return Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Self::Passed { ahead, inner, grpc, .. } => match ahead.pop_front() {
                Some(frame) => (Some(Ok(frame)), grpc),
                None => (ready!(Pin::new(inner).poll_frame(context)), grpc),
            },
        };
        let frame = match (frame, grpc) {
            (Some(Ok(frame)), Some(end)) if frame.is_trailers() => {
                let mut trailers = frame.into_trailers().unwrap_or_default();
                trailers.insert(domain::header::REQUEST_ID, end.request_id.clone());
                Some(Ok(Frame::trailers(trailers)))
            }
            (Some(Err(error)), Some(end)) => Some(Ok(Frame::trailers(end.broken(&error)))),
            (Some(Err(error)), None) => Some(Err(Broken(error))),
            (frame, _) => frame.map(|frame| frame.map_err(Broken)),
        };
        let is_last = frame.as_ref().is_none_or(|frame| frame.as_ref().map_or(true, Frame::is_trailers));
        if is_last {
            // What is in use is free before the client sees the end.
            self.set(Self::Over);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Over => true,
            Self::Text(text) => text.is_none(),
            Self::Passed { ahead, inner, .. } => ahead.is_empty() && inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Over => SizeHint::with_exact(0),
            Self::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, Bytes::len) as u64),
            Self::Passed { inner, grpc: None, .. } => inner.size_hint(),
            Self::Passed { .. } => SizeHint::default(),
        }
    }
}

impl GrpcEnd {
    /// Of a response that broke off.
    pub(crate) fn status(&self, error: &hyper::Error) -> Status {
        match self.fault.get() {
            Some(problem) => Status::new(problem.code(), problem.to_string()),
            None => {
                let reason = crate::reason::chain(error);
                tracing::warn!(server = self.server, request_id = ?self.request_id, reason, "response broke off");
                Status::unavailable(format!("{} broke off its response: {reason}", self.server))
            }
        }
    }

    fn broken(&self, error: &hyper::Error) -> HeaderMap {
        let status = self.status(error);
        let mut trailers = HeaderMap::with_capacity(3);
        if status.add_header(&mut trailers).is_err() {
            trailers.insert("grpc-status", HeaderValue::from(Code::Unavailable as i32));
        }
        trailers.insert(domain::header::REQUEST_ID, self.request_id.clone());
        trailers
    }
}
