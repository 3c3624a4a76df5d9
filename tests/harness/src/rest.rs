//! REST as any client does it: keep-alive, and nothing is tried again behind the test's back.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

/// Far above what any request of the tests takes; a longer one hangs.
const ANSWERS_WITHIN: Duration = Duration::from_secs(15);

/// An answer with its whole body.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: String,
}

impl Answer {
    /// A header's value; the empty text when there is none.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_str(&self.body).with_context(|| format!("no JSON: {} {}", self.status, self.body))
    }

    /// The text in `{"error": …}`.
    pub fn error(&self) -> Result<String> {
        let json = self.json()?;
        let text = json.get("error").and_then(serde_json::Value::as_str);
        Ok(text.with_context(|| format!("no error: {} {}", self.status, self.body))?.to_owned())
    }
}

/// A client of one address.
#[derive(Clone, Debug)]
pub struct Rest {
    address: SocketAddr,
    client: Client<HttpConnector, Full<Bytes>>,
    within: Duration,
}

impl Rest {
    #[must_use]
    pub fn new(address: SocketAddr) -> Rest {
        let client = Client::builder(TokioExecutor::new()).retry_canceled_requests(false).build_http();
        Rest { address, client, within: ANSWERS_WITHIN }
    }

    /// For calls that take long.
    #[must_use]
    pub fn within(mut self, limit: Duration) -> Rest {
        self.within = limit;
        self
    }

    pub async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Result<Answer> {
        self.send(Method::GET, path, headers, Bytes::new()).await
    }

    pub async fn post(&self, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Result<Answer> {
        self.send(Method::POST, path, headers, body.into()).await
    }

    /// Calls a model by its path, without a header of ours.
    pub async fn infer(&self, model: &str, body: impl Into<Bytes>) -> Result<Answer> {
        self.post(&format!("/v2/models/{model}/infer"), &[("content-type", "application/json")], body).await
    }

    pub async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Bytes) -> Result<Answer> {
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body)).context("build the request")?;
        let answered = async {
            let (head, body) = self.client.request(request).await.context("no answer")?.into_parts();
            let body = body.collect().await.context("half an answer")?.to_bytes();
            let body = String::from_utf8_lossy(&body).into_owned();
            anyhow::Ok(Answer { status: head.status, headers: head.headers, body })
        };
        tokio::time::timeout(self.within, answered).await.with_context(|| format!("{path}: no answer in time"))?
    }
}
