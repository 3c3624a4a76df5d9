//! A scheduler in a process of its own, with its counters on a port, so that its memory, its processor time and its
//! commits can be told from those of the clients. The process is this program again, as `bench scheduler`.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use api::agent::agent_service_client::AgentServiceClient;
use api::scheduler::scheduler_client::SchedulerClient;
use harness::{Control, Ports, until};
use runtime::child::Child;
use runtime::health::{self, Health};
use runtime::{OnError, Stop, Tasks, on_signals};
use scheduler::{Config, Listeners};
use tokio::net::TcpListener;
use tonic::transport::{Channel, Endpoint};

use crate::client::{Connection, Question};
use crate::installation::tail;
use crate::{process, program};

/// The word that makes this program a scheduler.
pub(crate) const WORD: &str = "scheduler";

/// It opens its store and binds ports.
const STARTS_WITHIN: Duration = Duration::from_secs(30);
/// Its tasks and its store get less.
const STOPS_WITHIN: Duration = Duration::from_secs(20);

/// One scheduler, always in the same folder and on the same ports.
pub(crate) struct Scheduler {
    folder: PathBuf,
    ports: [u16; 5],
    child: Option<Child>,
}

impl Scheduler {
    /// Does not run yet.
    pub(crate) fn new(folder: &Path, ports: &mut Ports) -> Result<Scheduler> {
        let ports = [ports.free()?, ports.free()?, ports.free()?, ports.free()?, ports.free()?];
        Ok(Scheduler { folder: folder.to_owned(), ports, child: None })
    }

    /// Starts it; the time is when it was executed.
    pub(crate) async fn exec(&mut self) -> Result<Instant> {
        let mut arguments = vec![WORD.to_owned(), self.folder.join("scheduler").display().to_string()];
        arguments.extend(self.ports.iter().map(ToString::to_string));
        let started = Instant::now();
        self.child = Some(program::again(&arguments, &self.folder, &self.log()).await?);
        Ok(started)
    }

    /// Starts it and waits until it answers.
    pub(crate) async fn start(&mut self) -> Result<()> {
        self.exec().await?;
        let answers =
            until(STARTS_WITHIN, "the scheduler answers", async || self.control().version().await.map(|_| ()));
        answers.await.with_context(|| tail(&self.log()))
    }

    fn log(&self) -> PathBuf {
        self.folder.join("scheduler.log")
    }

    pub(crate) fn xds(&self) -> SocketAddr {
        local(self.ports[0])
    }

    pub(crate) fn data_port(&self) -> u16 {
        self.ports[3]
    }

    pub(crate) fn control(&self) -> Control {
        Control::new(local(self.ports[1]))
    }

    /// A client with a connection of its own.
    pub(crate) fn client(&self) -> Result<SchedulerClient<Channel>> {
        Ok(SchedulerClient::new(channel(local(self.ports[1]))?))
    }

    /// A client for agents, with a connection of its own.
    pub(crate) fn agents(&self) -> Result<AgentServiceClient<Channel>> {
        Ok(AgentServiceClient::new(channel(local(self.ports[2]))?))
    }

    pub(crate) fn pid(&self) -> Result<u32> {
        self.child.as_ref().and_then(Child::pid).with_context(|| format!("no scheduler runs: {}", tail(&self.log())))
    }

    /// SIGKILL; the time is when it was dead for sure.
    pub(crate) async fn kill9(&mut self) -> Result<Instant> {
        let pid = self.pid()?;
        process::kill9(pid)?;
        self.child.take().context("it ran")?.wait().await?;
        Ok(Instant::now())
    }

    pub(crate) async fn stop(mut self) -> Result<()> {
        let mut child = self.child.take().context("no scheduler runs")?;
        let status = child.stop(STOPS_WITHIN).await.context("stop the scheduler")?;
        if status.success() { Ok(()) } else { bail!("the scheduler ended with {status}: {}", tail(&self.log())) }
    }

    /// What it has counted.
    pub(crate) async fn counters(&self) -> Result<BTreeMap<String, u64>> {
        let mut connection = Connection::open(local(self.ports[4])).await?;
        let (_, body) = connection.ask(&Question::get("/metrics")).await?;
        let text = String::from_utf8_lossy(&body).into_owned();
        let lines = text.lines().filter(|line| line.starts_with("switchyard_"));
        let pairs = lines.filter_map(|line| line.split_once(' '));
        Ok(pairs.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect())
    }
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn channel(at: SocketAddr) -> Result<Channel> {
    Ok(Endpoint::from_shared(format!("http://{at}"))?.tcp_nodelay(true).connect_lazy())
}

/// The other process: `bench scheduler <folder> <port> <port> <port> <port> <port>`.
pub(crate) async fn run(mut arguments: impl Iterator<Item = String>) -> Result<()> {
    runtime::memory::give_back();
    let folder = arguments.next().context("a folder")?;
    let ports: Vec<u16> = arguments.map(|text| text.parse()).collect::<Result<_, _>>().context("ports")?;
    let [xds, control, agents, data, metrics] = ports.as_slice() else { bail!("five ports") };
    let bind = async |port: u16| TcpListener::bind(local(port)).await.with_context(|| format!("bind {port}"));
    let mut config = Config::new(folder.into());
    config.envoy.address = Ipv4Addr::LOCALHOST.into();
    config.envoy.port = *data;
    config.envoy.access_log = None;
    let stop = Stop::new();
    let tasks = Tasks::new(stop.clone());
    tasks.spawn("signals", OnError::StopProcess, on_signals(stop.clone()));
    let health = Health::new();
    let counters = config.counters.clone();
    health.add_metrics(Arc::new(move |text| counters.write(text)));
    tasks.spawn("health", OnError::StopProcess, health::serve(bind(*metrics).await?, health, stop.clone()));
    let workers = bind(0).await?;
    let listeners =
        Listeners { xds: bind(*xds).await?, control: bind(*control).await?, agents: bind(*agents).await?, workers };
    scheduler::run(config, listeners, stop).await.context("run the scheduler")
}
