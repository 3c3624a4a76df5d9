//! A real Envoy, which can be killed and started again on its ports.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use envoy::{Admin, Binary, Bootstrap, FirstConfiguration};

use crate::binary::switchyard;
use crate::part::kill9;
use crate::ports::{Ports, local};
use crate::rest::Rest;
use crate::scheduler::Scheduler;

/// Envoy needs half a second for its start on a free machine.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// One Envoy, always on the same ports and in the same folder.
#[derive(Debug)]
pub struct Envoy {
    bootstrap: Bootstrap,
    folder: PathBuf,
    binary: Binary,
    process: Option<envoy::Envoy>,
}

impl Envoy {
    /// Does not run yet.
    pub fn new(folder: &Path, ports: &mut Ports, scheduler: &Scheduler, index: usize, binary: Binary) -> Result<Envoy> {
        let folder = folder.join(format!("envoy-{index}"));
        let bootstrap = Bootstrap {
            node_id: format!("envoy-{index}"),
            node_cluster: "e2e".to_owned(),
            listen_address: Ipv4Addr::LOCALHOST.into(),
            data_port: ports.free()?,
            stats_port: ports.free()?,
            admin: Admin::UnixSocket(folder.join("admin.sock")),
            xds: vec![local(scheduler.xds_port).into()],
            first_configuration: FirstConfiguration::Required,
            concurrency: Some(1),
        };
        Ok(Envoy { bootstrap, folder, binary, process: None })
    }

    /// Where clients call.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        local(self.bootstrap.data_port)
    }

    /// Readiness and statistics.
    #[must_use]
    pub fn stats_address(&self) -> SocketAddr {
        local(self.bootstrap.stats_port)
    }

    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.folder.join("envoy.log")
    }

    pub async fn start(&mut self) -> Result<()> {
        let started = envoy::Envoy::start(&self.binary, &self.bootstrap, &self.folder, Some(switchyard())).await;
        let process = self.process.insert(started.context("start Envoy")?);
        process.ready(READY_WITHIN).await.context("wait for Envoy")
    }

    /// SIGKILL. The time is when it was dead for sure.
    pub async fn kill9(&mut self) -> Result<Instant> {
        let mut process = self.process.take().context("this Envoy does not run")?;
        kill9(process.pid().context("this Envoy has ended by itself")?)?;
        process.exited().await?;
        Ok(Instant::now())
    }

    pub async fn stop(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.stop().await.context("stop Envoy")?;
        }
        Ok(())
    }

    /// The running process, for its drain.
    #[must_use]
    pub fn process(&mut self) -> Option<&mut envoy::Envoy> {
        self.process.as_mut()
    }

    /// The counters and gauges whose names match `filter`, a regular expression.
    pub async fn stats(&self, filter: &str) -> Result<BTreeMap<String, u64>> {
        let rest = Rest::new(self.stats_address());
        let answer = rest.get(&format!("/stats?filter={filter}"), &[]).await?;
        let lines = answer.body.lines().filter_map(|line| line.split_once(": "));
        Ok(lines.filter_map(|(name, value)| Some((name.to_owned(), value.trim().parse().ok()?))).collect())
    }
}
