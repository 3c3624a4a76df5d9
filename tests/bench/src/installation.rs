//! A running `switchyard up` in a folder of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use harness::{Control, Ports, until};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use runtime::child::Child;
use tempfile::TempDir;
use tokio::net::UnixStream;

use crate::client::{Connection, Question};
use crate::{process, program};

/// A second on a free machine, when everything foreign was fetched before.
const STARTS_WITHIN: Duration = Duration::from_secs(60);
/// Its parts get less.
const STOPS_WITHIN: Duration = Duration::from_secs(20);
/// A model loads in milliseconds.
const LOADS_WITHIN: Duration = Duration::from_secs(30);

pub(crate) struct Installation {
    pub(crate) pid: u32,
    pub(crate) inference: SocketAddr,
    pub(crate) control: Control,
    child: Child,
    folder: TempDir,
    pub(crate) ports: Ports,
}

impl Installation {
    pub(crate) async fn start(replicas: u32) -> Result<Installation> {
        let folder = tempfile::Builder::new().prefix("switchyard-bench-").tempdir()?;
        let ports = Ports::block()?;
        let (base, replicas) = (ports.base().to_string(), replicas.to_string());
        let data = folder.path().join("data").display().to_string();
        let arguments = ["up", "--dir", &data, "--port-base", &base, "--replicas", &replicas];
        let log = folder.path().join("up.log");
        let mut child = program::start(&arguments, folder.path(), &log).await?;
        let pid = child.pid().context("switchyard up has ended")?;
        let file = folder.path().join("data/endpoints.json");
        let written = until(STARTS_WITHIN, "switchyard up is ready", async || {
            std::fs::read(&file).with_context(|| format!("{}: {}", file.display(), tail(&log)))
        });
        let text = tokio::select! {
            text = written => text?,
            status = child.wait() => bail!("switchyard up ended with {}: {}", status?, tail(&log)),
        };
        let endpoints: serde_json::Value = serde_json::from_slice(&text).context("endpoints.json")?;
        let address = |name: &str| -> Result<SocketAddr> {
            let text = endpoints.get(name).and_then(serde_json::Value::as_str);
            text.and_then(|text| text.parse().ok()).with_context(|| format!("{name} in endpoints.json"))
        };
        let control = Control::new(address("scheduler")?);
        Ok(Installation { pid, inference: address("inference")?, control, child, folder, ports })
    }

    /// Declares a model of one replica and waits until Envoy leads to it.
    pub(crate) async fn load(&self, model: &harness::Model, name: &str) -> Result<()> {
        self.control.declare(model).await?;
        let question = &is_ready(name);
        let mut connection = Connection::open(self.inference).await?;
        until(LOADS_WITHIN, "the model answers", async || {
            let (status, body) = connection.ask(question).await?;
            ensure!(status.is_success(), "{status} {body:?}");
            Ok(())
        })
        .await
    }

    /// The ports of the inference servers.
    pub(crate) fn inference_servers(&self) -> Result<Vec<SocketAddr>> {
        let children = process::children(self.pid)?;
        let ports = children.iter().filter(|child| child.name() == "onnx-server").map(|child| {
            let port = child.flag("--port").and_then(|text| text.parse().ok());
            port.map(|port: u16| SocketAddr::from(([127, 0, 0, 1], port))).context("--port of an onnx-server")
        });
        ports.collect()
    }

    /// Where Envoy finds the agents.
    pub(crate) async fn agents(&self) -> Result<Vec<SocketAddr>> {
        let text = clusters(&self.folder.path().join("data/envoys/0/admin.sock")).await?;
        let lines = text.lines().filter(|line| line.starts_with("set-"));
        let mut agents: Vec<SocketAddr> = lines.filter_map(|line| line.split("::").nth(1)?.parse().ok()).collect();
        agents.sort_unstable();
        agents.dedup();
        Ok(agents)
    }

    pub(crate) async fn stop(mut self) -> Result<()> {
        let status = self.child.stop(STOPS_WITHIN).await.context("stop switchyard up")?;
        ensure!(status.success(), "switchyard up ended with {status}: {}", tail(&self.folder.path().join("up.log")));
        Ok(())
    }
}

/// Asks whether a model is ready. Envoy closes a connection when it answers before a request's body has come, as it
/// does for models that it does not know; this question has no body.
pub(crate) fn is_ready(name: &str) -> Question {
    Question::get(&format!("/v2/models/{name}/ready"))
}

/// What Envoy's admin interface says of its clusters.
async fn clusters(socket: &Path) -> Result<String> {
    let stream = UnixStream::connect(socket).await.context("connect to Envoy's admin interface")?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = http::Request::get("/clusters").header("host", "admin").body(Empty::<bytes::Bytes>::new())?;
    let body = sender.send_request(request).await?.into_body().collect().await?.to_bytes();
    Ok(String::from_utf8_lossy(&body).into_owned())
}

/// The end of a log, for whoever looks for the reason.
pub(crate) fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(15)..).unwrap_or_default().join("\n")
}
