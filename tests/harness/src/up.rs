//! `switchyard up` in a folder of its own, for scenarios over everything in one process.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::control::{Control, Model, State};
use crate::{Frozen, Part, Ports, Rest, Rpc, Said, Topics, rpc, run, until};

/// Everything starts within this; downloads of parts are done before by whoever builds the cache.
const STARTS_WITHIN: Duration = Duration::from_secs(120);

const LOADS_WITHIN: Duration = Duration::from_secs(30);

/// The manifest of a pipeline.
#[must_use]
pub fn pipeline(name: &str, spec: &serde_json::Value) -> String {
    let meta = serde_json::json!({"name": name});
    serde_json::json!({"apiVersion": "mlops.seldon.io/v1alpha1", "kind": "Pipeline", "metadata": meta, "spec": spec})
        .to_string()
}

/// A running installation.
pub struct Up {
    /// The process.
    pub part: Part,
    folder: tempfile::TempDir,
    ports: Ports,
    pid: Option<u32>,
}

impl Up {
    /// Prepares one; `flags` come after the folder and the ports.
    pub fn new(flags: &[&str]) -> Result<Self> {
        let (folder, ports) = (tempfile::tempdir().context("make a folder")?, Ports::block()?);
        let (dir, base) = (folder.path().join("up").display().to_string(), ports.base().to_string());
        let mut arguments = vec!["up", "--dir", &dir, "--port-base", &base, "--replica-memory", "64"];
        if !flags.contains(&"--replicas") {
            arguments.extend(["--replicas", "1"]);
        }
        arguments.extend(flags);
        Ok(Self { part: Part::new("up", folder.path(), &arguments), folder, ports, pid: None })
    }

    /// With a variable in its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.part = self.part.env(name, value);
        self
    }

    /// Starts it, or starts it again, and waits until it says where it is.
    pub async fn start(&mut self) -> Result<()> {
        self.part.start().await?;
        let old = self.pid;
        let path = self.dir().join("endpoints.json");
        let pid = until(STARTS_WITHIN, "endpoints.json is written", async || {
            let json: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&path)?)?;
            let pid = json["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).context("a pid")?;
            ensure!(Some(pid) != old, "it is the old one");
            Ok(pid)
        });
        let log = self.part.log().to_owned();
        self.pid = Some(tokio::select! {
            pid = pid => pid?,
            ended = self.part.ended(STARTS_WITHIN) => {
                let said = std::fs::read_to_string(&log).unwrap_or_default();
                bail!("it ended with {:?}: {said}", ended?);
            }
        });
        Ok(())
    }

    /// Its folder.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        self.folder.path().join("up")
    }

    /// A folder for files of the scenario.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The port that is usually this one.
    #[must_use]
    pub fn address(&self, usual: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.ports.base() + (usual - 9_000)))
    }

    /// Through Envoy.
    #[must_use]
    pub fn rest(&self) -> Rest {
        Rest::new(self.address(9_000))
    }

    /// Through Envoy.
    #[must_use]
    pub fn rpc(&self) -> Rpc {
        rpc(self.address(9_000))
    }

    /// The scheduler's API.
    #[must_use]
    pub fn control(&self) -> Control {
        Control::new(self.address(9_004))
    }

    /// The inference server of a replica, which stands still until [`Frozen`] is dropped.
    pub fn freeze_replica(&self, replica: u32) -> Result<Frozen> {
        let folder = self.dir().join("replicas").join(format!("{}-{replica}", crate::SERVER));
        Frozen::child(self.pid.context("it does not run")?, &folder.display().to_string())
    }

    /// The process itself, without its children, stands still until [`Frozen`] is dropped.
    pub fn freeze_all(&self) -> Result<Frozen> {
        Frozen::new(self.pid.context("it does not run")?)
    }

    /// The log.
    #[must_use]
    pub fn topics(&self) -> Topics {
        Topics::new(self.address(9_012))
    }

    /// Runs a verb on it.
    pub async fn verb(&self, arguments: &[&str]) -> Result<Said> {
        let dir = self.dir().display().to_string();
        let arguments: Vec<&str> = arguments.iter().copied().chain(["--dir", &dir]).collect();
        run(self.folder.path(), &[], &arguments).await
    }

    /// Declares models, and waits until all are available.
    pub async fn load(&self, models: &[(&str, PathBuf)]) -> Result<()> {
        let control = self.control();
        for (name, folder) in models {
            control.declare(&Model::new(name, folder)).await?;
        }
        for (name, _) in models {
            control.reaches(name, State::ModelAvailable, LOADS_WITHIN).await?;
        }
        Ok(())
    }

    /// Declares a pipeline by its manifest, and waits until it is ready.
    pub async fn pipeline(&self, manifest: &str) -> Result<()> {
        self.declare("pipeline", manifest).await
    }

    /// Declares what is in a manifest by the verb of its kind, and waits for it.
    pub async fn declare(&self, kind: &str, manifest: &str) -> Result<()> {
        let file = self.folder.path().join(format!("{kind}.yaml"));
        std::fs::write(&file, manifest).context("write the manifest")?;
        let verb = if kind == "experiment" { "start" } else { "load" };
        self.verb(&[kind, verb, "-f", &file.display().to_string(), "--wait"]).await?.well()?;
        Ok(())
    }
}
