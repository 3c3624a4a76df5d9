//! One keep-alive HTTP/1.1 connection, as plain as it gets: what is measured is the other side.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Far above any answer's time; a longer one hangs.
const ANSWERS_WITHIN: Duration = Duration::from_secs(15);

pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    host: HeaderValue,
}

/// What is asked for, ready to be sent many times.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) body: Bytes,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Result<Connection> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true).context("set TCP_NODELAY")?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.context("begin HTTP/1.1")?;
        // Ends with the sender; what goes wrong is told to the sender.
        tokio::spawn(connection);
        let host = HeaderValue::from_str(&address.to_string()).context("an address makes a header")?;
        Ok(Connection { sender, host })
    }

    pub(crate) async fn ask(&mut self, question: &Question) -> Result<(StatusCode, Bytes)> {
        let mut request = Request::new(Full::new(question.body.clone()));
        *request.method_mut() = question.method.clone();
        *request.uri_mut() = question.path.parse().context("the path")?;
        request.headers_mut().insert(header::HOST, self.host.clone());
        request.headers_mut().extend(question.headers.iter().cloned());
        let answered = async {
            self.sender.ready().await.context("the connection was closed")?;
            let response = self.sender.send_request(request).await.context("no answer")?;
            let status = response.status();
            let body = response.into_body().collect().await.context("half an answer")?.to_bytes();
            Ok((status, body))
        };
        tokio::time::timeout(ANSWERS_WITHIN, answered).await.with_context(|| format!("{}: hangs", question.path))?
    }
}

impl Connection {
    /// Asks until the answer is the wanted one. No answer may be anything but that or the other.
    pub(crate) async fn until(&mut self, question: &Question, wanted: &str, other: &str) -> Result<()> {
        let started = Instant::now();
        loop {
            let (status, body) = self.ask(question).await?;
            ensure!(status == StatusCode::OK && (body == wanted || body == other), "a wrong answer: {status} {body:?}");
            if body == wanted {
                return Ok(());
            }
            ensure!(started.elapsed() < ANSWERS_WITHIN, "not {wanted} within {ANSWERS_WITHIN:?}");
        }
    }
}

impl Question {
    pub(crate) fn get(path: &str) -> Question {
        Question { method: Method::GET, path: path.to_owned(), headers: Vec::new(), body: Bytes::new() }
    }

    pub(crate) fn post(path: &str, body: &'static str) -> Question {
        let content_type = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Question {
            method: Method::POST,
            path: path.to_owned(),
            headers: vec![content_type],
            body: Bytes::from_static(body.as_bytes()),
        }
    }

    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Result<Question> {
        let value = HeaderValue::from_str(value).context("a header's value")?;
        self.headers.push((HeaderName::from_static(name), value));
        Ok(self)
    }
}
