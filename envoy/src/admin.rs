//! Requests to the admin interface of an Envoy, each over a connection of its own.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::bootstrap::{Admin, STATS_PREFIX};

/// The admin interface answers from Envoy's main thread, which a large configuration can keep busy for seconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// The answers we ask for are a few lines to a few kB.
const ANSWER_BYTES: usize = 4 << 20;

#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error("connect to the admin interface of Envoy")]
    Connect(#[source] io::Error),
    #[error("ask the admin interface of Envoy for {path}")]
    Exchange { path: String, source: hyper::Error },
    #[error("read the answer of Envoy's admin interface to {path} (at most {ANSWER_BYTES} bytes)")]
    Answer { path: String },
    #[error("the admin interface of Envoy has not answered {path} within {ANSWER_WITHIN:?}")]
    Late { path: String },
    #[error("the admin interface of Envoy answered {path} with {status}")]
    Refused { path: String, status: StatusCode },
    #[error("the statistics of Envoy are not as expected")]
    Statistics(#[source] serde_json::Error),
}

/// What clients have open at this moment, without the statistics port and the admin interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Open {
    pub connections: u64,
    pub requests: u64,
}

impl Admin {
    /// What Envoy says about itself: `LIVE`, `DRAINING`, `PRE_INITIALIZING` or `INITIALIZING`.
    pub(crate) async fn state(&self) -> Result<String, AdminError> {
        // 200 for LIVE, 503 for the others: the words say more.
        let (_, text) = self.ask(Method::GET, "/ready").await?;
        Ok(text.trim().to_owned())
    }

    pub(crate) async fn command(&self, path: &str) -> Result<(), AdminError> {
        match self.ask(Method::POST, path).await? {
            (status, _) if status.is_success() => Ok(()),
            (status, _) => Err(AdminError::Refused { path: path.to_owned(), status }),
        }
    }

    pub(crate) async fn open(&self) -> Result<Open, AdminError> {
        let path = "/stats?format=json&filter=%5Ehttp%5C..*%5C.downstream_(rq%7Ccx)_active$";
        match self.ask(Method::GET, path).await? {
            (StatusCode::OK, text) => parse_open(&text).map_err(AdminError::Statistics),
            (status, _) => Err(AdminError::Refused { path: path.to_owned(), status }),
        }
    }

    async fn ask(&self, method: Method, path: &str) -> Result<(StatusCode, String), AdminError> {
        let request = Request::builder().method(method).uri(path).header(HOST, "admin").body(Empty::<Bytes>::new());
        let request = request.expect("the parts are ours and valid");
        let answered = async {
            match self {
                Self::Port(port) => {
                    let stream = TcpStream::connect(("127.0.0.1", *port)).await.map_err(AdminError::Connect)?;
                    exchange(stream, request, path).await
                }
                Self::UnixSocket(socket) => {
                    let stream = UnixStream::connect(socket).await.map_err(AdminError::Connect)?;
                    exchange(stream, request, path).await
                }
            }
        };
        let late = |_| AdminError::Late { path: path.to_owned() };
        tokio::time::timeout(ANSWER_WITHIN, answered).await.map_err(late)?
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Empty<Bytes>>,
    path: &str,
) -> Result<(StatusCode, String), AdminError> {
    let failed = |source| AdminError::Exchange { path: path.to_owned(), source };
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let answered = async {
        let response = sender.send_request(request).await.map_err(failed)?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_BYTES).collect().await.map_err(|error| {
            let error = match error.downcast::<hyper::Error>() {
                Ok(error) => return failed(*error),
                Err(error) => error,
            };
            debug_assert!(error.is::<LengthLimitError>(), "a body fails with one or the other");
            AdminError::Answer { path: path.to_owned() }
        })?;
        Ok((head.status, String::from_utf8_lossy(&body.to_bytes()).into_owned()))
    };
    // The connection only has to be driven: its end, good or bad, shows in the answer, which may still be read then.
    let driven = async {
        let _ = connection.await;
        std::future::pending::<Result<_, AdminError>>().await
    };
    tokio::select! {
        answer = answered => answer,
        never = driven => never,
    }
}

fn parse_open(text: &str) -> Result<Open, serde_json::Error> {
    let statistics: serde_json::Value = serde_json::from_str(text)?;
    let mut open = Open::default();
    for statistic in statistics["stats"].as_array().into_iter().flatten() {
        let name = statistic["name"].as_str().unwrap_or_default();
        let value = statistic["value"].as_u64().unwrap_or_default();
        let Some((prefix, gauge)) = name.strip_prefix("http.").and_then(|name| name.rsplit_once('.')) else { continue };
        match gauge {
            _ if prefix == "admin" || prefix == STATS_PREFIX => {}
            "downstream_cx_active" => open.connections = open.connections.saturating_add(value),
            "downstream_rq_active" => open.requests = open.requests.saturating_add(value),
            _ => {}
        }
    }
    Ok(open)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_clients_have_open_is_counted() {
        let text = r#"{"stats":[{"name":"http.admin.downstream_rq_active","value":1},
            {"name":"http.stats.downstream_cx_active","value":2},{"name":"http.in.downstream_cx_active","value":3},
            {"name":"http.in.downstream_rq_active","value":4},{"name":"http.in.b.downstream_rq_active","value":5},
            {"histograms":{}}]}"#;
        assert_eq!(parse_open(text).unwrap(), Open { connections: 3, requests: 9 });
        assert_eq!(parse_open("{}").unwrap(), Open::default());
        assert!(parse_open("no such handler").is_err());
    }
}
