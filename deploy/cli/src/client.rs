//! Connections to the scheduler and to Envoy. Each call is made once; who waits asks again.

pub(crate) mod inference;
pub(crate) mod log;
pub(crate) mod scheduler;
pub(crate) mod xds;

use std::time::Duration;

use http::Uri;
use http::uri::Authority;
use tonic::transport::{Channel, Endpoint};

use crate::address::Address;

/// A peer on the same continent connects within a fraction of it; after it a person wants to know.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest answer that is read, and largest request that is sent: what Envoy lets through.
pub(crate) const MAX_MESSAGE: usize = 64 << 20;

/// How a peer is talked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http,
    Grpc,
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot connect to {address}: start one with `switchyard up`, or name another with {flag}", flag = .address.target.flag())]
    Connect {
        address: Address,
        protocol: Protocol,
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("{call}: {code:?}: {message}")]
    Refused { call: String, code: tonic::Code, message: String },
    #[error("{} answered {code}: {}{}", shown(.model), of_step(.step.as_deref()), .error.as_ref().unwrap_or(.body))]
    Http {
        model: String,
        /// The step of a pipeline that failed.
        step: Option<String>,
        code: http::StatusCode,
        /// What came, shortened.
        body: String,
        /// The text of the error object in it.
        error: Option<String>,
    },
    #[error("the connection to {address} cannot be made with authority {authority:?} (--authority)")]
    Authority {
        address: Address,
        authority: Authority,
        #[source]
        cause: http::Error,
    },
    #[error("the answer of {address} cannot be read")]
    Answer {
        address: Address,
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("{address} did not answer within {seconds} s")]
    Slow { address: Address, seconds: u64 },
}

impl Error {
    /// The peer does not know what was asked for.
    pub(crate) fn is_unknown(&self) -> bool {
        use tonic::Code::{FailedPrecondition, NotFound};
        matches!(self, Error::Refused { code: FailedPrecondition | NotFound, .. })
    }

    /// The peer may be back soon.
    pub(crate) fn is_passing(&self) -> bool {
        use tonic::Code::{Cancelled, DeadlineExceeded, Unavailable, Unknown};
        match self {
            Error::Connect { .. } | Error::Answer { .. } | Error::Slow { .. } => true,
            Error::Refused { code, .. } => matches!(code, Cancelled | DeadlineExceeded | Unavailable | Unknown),
            Error::Http { .. } | Error::Authority { .. } => false,
        }
    }
}

/// What is called by that name, for people: pipelines and experiments are called by a suffix.
fn shown(model: &str) -> String {
    match model.rsplit_once('.') {
        Some((name, kind @ ("pipeline" | "experiment"))) => format!("{kind} {name}"),
        _ => format!("model {model}"),
    }
}

fn of_step(step: Option<&str>) -> String {
    step.map(|step| format!("step {step}: ")).unwrap_or_default()
}

/// A gRPC connection; `authority` is what calls on it are addressed to, when that is not the address.
async fn channel(address: &Address, authority: Option<&Authority>) -> Result<Channel, Error> {
    let connect = |cause: tonic::transport::Error| Error::Connect {
        address: address.clone(),
        protocol: Protocol::Grpc,
        cause: cause.into(),
    };
    let endpoint = Endpoint::from_shared(format!("http://{}", address.authority)).map_err(connect)?;
    let endpoint = match authority {
        Some(authority) => {
            let origin = Uri::builder().scheme("http").authority(authority.clone()).path_and_query("/").build();
            endpoint.origin(origin.map_err(|cause| Error::Authority {
                address: address.clone(),
                authority: authority.clone(),
                cause,
            })?)
        }
        None => endpoint,
    };
    endpoint.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true).connect().await.map_err(connect)
}

/// An error status of a call. Text of a connection that broke is for `address`.
fn refused(call: String, address: &Address, status: &tonic::Status) -> Error {
    let at = match status.code() {
        tonic::Code::Unavailable => format!(" ({address})"),
        _ => String::new(),
    };
    let message = crate::output::table::one_line(status.message());
    Error::Refused { call, code: status.code(), message: format!("{message}{at}") }
}
