//! A stock gRPC client that is its own Envoy, as a process: `grpc-client` in Go, or its like in Python.
//!
//! It sends one message again and again until it is told to end, and says what became of the first call and of all.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use prost::Message;
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};

use crate::iris;
use crate::stack::Stack;

const METHOD: &str = "/inference.GRPCInferenceService/ModelInfer";

/// For a line of it: longer than gRPC's own 15 s for what it is never told.
const SAYS_WITHIN: Duration = Duration::from_secs(30);

/// What became of a client's first call.
#[derive(Clone, Debug, Deserialize)]
pub struct First {
    pub code: String,
    pub ms: f64,
    pub message: String,
}

/// What became of all calls of a client.
#[derive(Clone, Debug, Deserialize)]
pub struct Calls {
    pub calls: u64,
    pub failed: u64,
    pub codes: BTreeMap<String, u64>,
    /// One for each code.
    pub messages: BTreeMap<String, String>,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
    /// Who answered; the client in Python says it.
    #[serde(default)]
    pub models: BTreeMap<String, u64>,
}

/// A client that calls.
#[derive(Debug)]
pub struct Proxyless {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
    log: PathBuf,
}

impl Proxyless {
    /// Calls `xds:///<name>` with so many calls at a time. `program` is the client without arguments.
    pub fn start(stack: &Stack, program: Command, name: &str, concurrency: u32) -> Result<Proxyless> {
        let model = name.split('.').next().unwrap_or(name);
        let message = stack.folder().join(format!("{name}.request"));
        std::fs::write(&message, iris::message(model).encode_to_vec()).context("write the message")?;
        let log = stack.folder().join(format!("client-{name}.log"));
        let bootstrap = json!({
            "xds_servers": [{
                "server_uri": format!("127.0.0.1:{}", stack.scheduler.xds_port),
                "channel_creds": [{"type": "insecure"}],
                "server_features": ["xds_v3"],
            }],
            "node": {"id": format!("client-{name}")},
        });
        let mut command = tokio::process::Command::from(program);
        command
            .env("GRPC_XDS_BOOTSTRAP_CONFIG", bootstrap.to_string())
            .args(["--target", &format!("xds:///{name}"), "--method", METHOD])
            .args(["--message", &message.display().to_string()])
            .args(["--concurrency", &concurrency.to_string(), "--deadline", "20s"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&log).context("make the client's log")?)
            .kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("start {command:?}"))?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().context("the client's output")?;
        Ok(Proxyless { child, stdin, lines: BufReader::new(stdout).lines(), log })
    }

    /// What became of its first call. Once.
    pub async fn first(&mut self) -> Result<First> {
        #[derive(Deserialize)]
        struct Said {
            first: First,
        }
        let line = self.line().await?;
        Ok(serde_json::from_str::<Said>(&line).with_context(|| format!("read {line:?}"))?.first)
    }

    /// A measurement window: the client calls on for this long, and whatever goes wrong in it counts.
    pub async fn window(&self, length: Duration) {
        tokio::time::sleep(length).await;
    }

    /// Ends it. After [`Proxyless::first`].
    pub async fn end(mut self) -> Result<Calls> {
        drop(self.stdin.take());
        let line = self.line().await?;
        let status = self.child.wait().await?;
        ensure!(status.success(), "the client ended with {status}");
        serde_json::from_str(&line).with_context(|| format!("read {line:?}"))
    }

    async fn line(&mut self) -> Result<String> {
        let line = tokio::time::timeout(SAYS_WITHIN, self.lines.next_line()).await;
        let log = || std::fs::read_to_string(&self.log).unwrap_or_default();
        let line = line.with_context(|| format!("the client says nothing\n{}", log()))??;
        line.with_context(|| format!("the client has ended\n{}", log()))
    }
}

impl Calls {
    /// Says it for people.
    #[must_use]
    pub fn summary(&self) -> String {
        let Calls { calls, failed, codes, messages, p50_ms, p99_ms, max_ms, models } = self;
        format!(
            "{calls} calls, {failed} failed, p50 {p50_ms:.1} ms, p99 {p99_ms:.1} ms, max {max_ms:.1} ms, {codes:?} {messages:?} {models:?}"
        )
    }
}
