//! A real Envoy with a bootstrap that somebody else wrote, of which nothing is known but its ports.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use envoy::Binary;
use http::StatusCode;
use runtime::child::{Child, Command, Output};

use crate::binary::switchyard;
use crate::ports::local;
use crate::rest::Rest;
use crate::stack::Stack;
use crate::until::until;

/// Envoy needs a fifth of a second for its start, and up to 15 s for what nobody answers; the machine may be busy.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// It ends at SIGTERM.
const STOPS_WITHIN: Duration = Duration::from_secs(5);

/// One Envoy.
#[derive(Debug)]
pub struct Foreign {
    pub name: String,
    binary: Binary,
    folder: PathBuf,
    data_port: u16,
    admin_port: u16,
    child: Option<Child>,
}

impl Foreign {
    /// `bootstrap` may say `XDS_PORT`, `ADMIN_PORT`, and `DATA_PORT` if it asks for a port; else it gets the scheduler's.
    /// Its log is looked into as all others are. Does not run yet.
    pub fn new(stack: &mut Stack, bootstrap: &Path) -> Result<Foreign> {
        let name = bootstrap.file_stem().context("a file name")?.to_string_lossy().into_owned();
        let text = std::fs::read_to_string(bootstrap).with_context(|| format!("read {}", bootstrap.display()))?;
        let admin_port = stack.ports.free()?;
        let asks = text.contains("DATA_PORT");
        let data_port = if asks { stack.ports.free()? } else { stack.scheduler.data_port };
        let ports = [("XDS_PORT", stack.scheduler.xds_port), ("ADMIN_PORT", admin_port), ("DATA_PORT", data_port)];
        let text = ports.iter().fold(text, |text, (word, port)| text.replace(word, &port.to_string()));
        let folder = stack.folder().join(&name);
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join("bootstrap.yaml"), text)?;
        stack.watch_log(&folder.join("envoy.log"));
        let binary = envoy::find(&|progress| println!("{progress}")).context("find Envoy")?;
        Ok(Foreign { name, binary, folder, data_port, admin_port, child: None })
    }

    /// Where clients call.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        local(self.data_port)
    }

    /// Starts it, waits until it is live, and says how long that took.
    pub async fn start(&mut self) -> Result<Duration> {
        let output = || Output::File(self.folder.join("envoy.log"));
        let command = Command::new(&self.binary.path)
            .arg("-c")
            .arg(self.folder.join("bootstrap.yaml"))
            .args(["--disable-hot-restart", "--concurrency", "1"])
            .launcher(switchyard());
        let began = Instant::now();
        self.child = Some(command.stdout(output()).stderr(output()).spawn().await.context("start Envoy")?);
        let admin = Rest::new(local(self.admin_port));
        until(READY_WITHIN, "Envoy is live", async || {
            let answer = admin.get("/ready", &[]).await?;
            ensure!(answer.status == StatusCode::OK, "{}", answer.body.trim());
            Ok(())
        })
        .await?;
        Ok(began.elapsed())
    }

    /// SIGTERM.
    pub async fn stop(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.stop(STOPS_WITHIN).await.with_context(|| format!("stop {}", self.name))?;
        }
        Ok(())
    }
}
