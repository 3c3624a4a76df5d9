//! An installation: a scheduler, the replicas of the built-in server, Envoys, all in one folder.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::agent::Agent;
use crate::binary::{self, Said};
use crate::control::Control;
use crate::envoy::Envoy;
use crate::load::{Load, Target};
use crate::ports::Ports;
use crate::rest::Rest;
use crate::rpc::{Rpc, rpc};
use crate::scheduler::Scheduler;
use crate::{SERVER, logs, samples};

/// Until all replicas are there; everything that has to be fetched is there before.
const STARTS_WITHIN: Duration = Duration::from_secs(30);

/// How large a stack is.
#[derive(Clone, Debug)]
pub struct Shape {
    pub replicas: u32,
    pub envoys: usize,
    /// Of each replica.
    pub memory: &'static str,
}

impl Default for Shape {
    fn default() -> Self {
        Shape { replicas: 2, envoys: 1, memory: "64Mi" }
    }
}

/// A running installation. Dropping it kills what is left of it.
#[derive(Debug)]
pub struct Stack {
    pub scheduler: Scheduler,
    pub agents: Vec<Agent>,
    pub envoys: Vec<Envoy>,
    pub ports: Ports,
    folder: TempDir,
    memory: &'static str,
    runtime_library: PathBuf,
    expected: Vec<String>,
    more_logs: Vec<PathBuf>,
}

impl Stack {
    /// The parts, of which none runs.
    pub(crate) fn build(shape: &Shape) -> Result<Stack> {
        let say = |progress| println!("{progress}");
        let binary = envoy::find(&say).context("find Envoy")?;
        let runtime_library = onnx_server::find_library(&say).context("find ONNX Runtime")?;
        let folder = tempfile::Builder::new().prefix("switchyard-e2e-").tempdir()?;
        let mut ports = Ports::block()?;
        let scheduler = Scheduler::new(folder.path(), &mut ports)?;
        let envoys = (0..shape.envoys)
            .map(|index| Envoy::new(folder.path(), &mut ports, &scheduler, index, binary.clone()))
            .collect::<Result<Vec<_>>>()?;
        let (memory, expected, more_logs) = (shape.memory, Vec::new(), Vec::new());
        let agents = Vec::new();
        let mut stack =
            Stack { scheduler, agents, envoys, ports, folder, memory, runtime_library, expected, more_logs };
        for _ in 0..shape.replicas {
            stack.new_agent()?;
        }
        Ok(stack)
    }

    /// Starts all parts and waits until they are ready.
    pub(crate) async fn start(&mut self) -> Result<()> {
        self.scheduler.start().await?;
        let control = self.control();
        let replicas = u32::try_from(self.agents.len())?;
        control.scale(SERVER, replicas).await?;
        for agent in &mut self.agents {
            agent.part.start().await?;
        }
        futures_util::future::try_join_all(self.envoys.iter_mut().map(Envoy::start)).await?;
        control.has_replicas(SERVER, i32::try_from(replicas)?, STARTS_WITHIN).await
    }

    /// Stops all parts that run, intake first.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        futures_util::future::try_join_all(self.envoys.iter_mut().map(Envoy::stop)).await?;
        let agents = self.agents.iter_mut().map(|agent| &mut agent.part);
        let parts = agents.chain([&mut self.scheduler.part]).filter(|part| part.pid().is_some());
        let ended = futures_util::future::try_join_all(parts.map(async |part| {
            let status = part.stop().await?;
            ensure!(status.success(), "{} ended with {status}", part.name());
            Ok(())
        }));
        ended.await.map(|_| ())
    }

    fn new_agent(&mut self) -> Result<usize> {
        let position = self.agents.len();
        let index = u32::try_from(position)?;
        let folder = self.folder.path();
        let agent = Agent::new(folder, &mut self.ports, &self.scheduler, index, self.memory, &self.runtime_library)?;
        self.agents.push(agent);
        Ok(position)
    }

    /// Starts one more replica; returns its position in `agents`.
    pub async fn add_agent(&mut self) -> Result<usize> {
        let position = self.new_agent()?;
        self.agents[position].part.start().await?;
        Ok(position)
    }

    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    #[must_use]
    pub fn control(&self) -> Control {
        self.scheduler.control()
    }

    /// REST by the first Envoy.
    #[must_use]
    pub fn rest(&self) -> Rest {
        Rest::new(self.envoys[0].address())
    }

    /// gRPC by the first Envoy.
    #[must_use]
    pub fn rpc(&self) -> Rpc {
        rpc(self.envoys[0].address())
    }

    /// Load on `models`, by every Envoy in turn: target i goes by Envoy i modulo their number.
    #[must_use]
    pub fn load(&self, models: &[&str], rate: u32) -> Load {
        let target = |model: &str, envoy: &Envoy| Target { envoy: envoy.address(), model: model.to_owned() };
        let targets = models.iter().flat_map(|model| self.envoys.iter().map(move |envoy| target(model, envoy)));
        Load::start(targets.collect(), rate)
    }

    /// Runs a verb of the program against this stack, in the folder of the repository.
    pub async fn switchyard(&self, arguments: &[&str]) -> Result<Said> {
        let environment = [
            ("SWITCHYARD_DIR", self.folder.path().join("no-installation").display().to_string()),
            ("SELDON_SCHEDULE_HOST", self.scheduler.address()),
            ("SELDON_INFER_HOST", self.envoys.first().map(|envoy| envoy.address().to_string()).unwrap_or_default()),
        ];
        binary::run(&samples::root(), &environment, arguments).await
    }

    /// A warning or error that has this in it is part of the scenario.
    pub fn expect_log(&mut self, texts: &[&str]) {
        self.expected.extend(texts.iter().map(|text| (*text).to_owned()));
    }

    /// One more log to look into.
    pub fn watch_log(&mut self, log: &Path) {
        self.more_logs.push(log.to_owned());
    }

    fn logs(&self) -> Vec<PathBuf> {
        let agents = self.agents.iter().flat_map(|agent| [agent.part.log().to_owned(), agent.server_log()]);
        let envoys = self.envoys.iter().map(Envoy::log);
        let all = [self.scheduler.part.log().to_owned()].into_iter().chain(agents).chain(envoys);
        all.chain(self.more_logs.iter().cloned()).filter(|log| log.is_file()).collect()
    }

    /// Warnings and errors that nobody expects.
    pub(crate) fn troubles(&self) -> Vec<String> {
        let lines = self.logs().into_iter().flat_map(|log| logs::troubles(&log, &self.expected));
        lines.map(|line| format!("{}: {}", line.log.display(), line.text)).collect()
    }

    /// The ends of all logs.
    pub(crate) fn tails(&self) -> String {
        self.logs().iter().map(|log| logs::tail(log)).collect()
    }

    /// Leaves the folder behind, for whoever looks for the reason.
    pub(crate) fn keep_folder(&mut self) {
        self.folder.disable_cleanup(true);
    }
}
