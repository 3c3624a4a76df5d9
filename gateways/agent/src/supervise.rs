//! Keeps the inference server alive and filled: starts it (or waits for it), loads again what was loaded, says Up, and
//! says Down the moment it is gone. Tries for ever; a server that keeps ending is logged and started again.
//!
//! Invariant: `Phase::Up` means the server holds every model of the residency.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::{ModelVersionId, ReplicaId};
use futures_util::{StreamExt, stream};
use runtime::child::{self, Backoff, Child, Output};
use runtime::{Stop, Tasks};
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use crate::config::{Inference, SpawnCommand};
use crate::inference::{self, Control};
use crate::proxy::upstream::{self, Upstream};
use crate::reason::chain;
use crate::repository::Repository;
use crate::residency::{Close, Residency};
use crate::serving::{Phase, Running};

const RESTART_MIN: Duration = Duration::from_millis(100);
const RESTART_MAX: Duration = Duration::from_secs(5);
/// A server that ran this long ended for a new reason.
const RAN_WELL: Duration = Duration::from_secs(30);
/// The first start of the built-in server may fetch its library.
const START_LIMIT: Duration = Duration::from_secs(600);
/// Between two looks whether a starting server is there; it takes some tens of milliseconds.
const START_POLL: Duration = Duration::from_millis(20);
/// Between two looks whether a server that we did not start is still there. Broken connections tell sooner.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// A child that is told to end gets this long, which is a little more than its own drain.
const END_GRACE: Duration = Duration::from_secs(11);
/// Models loaded again at once.
const RELOADS: usize = 4;

pub(crate) struct Supervisor {
    pub(crate) replica: ReplicaId,
    pub(crate) inference: Inference,
    pub(crate) log: PathBuf,
    pub(crate) repository: Arc<Repository>,
    pub(crate) residency: Arc<Residency>,
    pub(crate) phase: watch::Sender<Phase>,
    pub(crate) tasks: Tasks,
    pub(crate) stop: Stop,
}

/// Why a life of the server ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("find a free port for the inference server")]
    Port(#[source] io::Error),
    #[error("start the inference server")]
    Start(#[source] child::Error),
    #[error("the inference server ended ({status}); its output is in {}", .log.display())]
    Exited { status: ExitStatus, log: PathBuf },
    #[error("wait for the inference server")]
    Wait(#[source] io::Error),
    #[error("the inference server was not live within {START_LIMIT:?}")]
    NotLive,
    #[error("connect to the inference server")]
    Connect(#[source] upstream::ConnectError),
    #[error(transparent)]
    NoAnswer(inference::Error),
    #[error("the inference server lost models: {models:?}")]
    Forgot { models: Vec<String> },
    #[error("stopping")]
    Stopping,
}

/// Where a server listens.
#[derive(Clone, Copy)]
struct Address {
    http: SocketAddr,
    grpc: SocketAddr,
}

impl Supervisor {
    pub(crate) async fn run(self) -> Result<(), Infallible> {
        let mut backoff = Backoff::new(RESTART_MIN, RESTART_MAX);
        let mut life = 0;
        loop {
            life += 1;
            let started = Instant::now();
            let ended = self.live(life).await;
            self.phase.send_replace(Phase::Down);
            if matches!(ended, Ended::Stopping) {
                return Ok(());
            }
            warn!(replica = %self.replica, life, reason = chain(&ended), "inference server is down");
            if started.elapsed() > RAN_WELL {
                backoff.reset();
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.next_delay()) => {}
                () = self.stop.requested() => return Ok(()),
            }
        }
    }

    /// One life of the server.
    async fn live(&self, life: u64) -> Ended {
        match &self.inference {
            Inference::Attached { http, grpc } => {
                let address = Address { http: *http, grpc: *grpc };
                let mut nobody = None;
                self.attend(life, address, &mut nobody).await
            }
            Inference::Spawn(command) => {
                let address = match free_address().await {
                    Ok(address) => Address { http: address, grpc: address },
                    Err(error) => return Ended::Port(error),
                };
                let mut child = match self.command(command, address.http).spawn().await {
                    Ok(child) => Some(child),
                    Err(error) => return Ended::Start(error),
                };
                let ended = self.attend(life, address, &mut child).await;
                // Nobody is sent there while it ends.
                self.phase.send_replace(Phase::Down);
                if let Some(mut child) = child {
                    // Why it ended is known already.
                    let _ = child.stop(END_GRACE).await;
                }
                ended
            }
        }
    }

    /// Brings the server up and stays until it is gone.
    async fn attend(&self, life: u64, address: Address, child: &mut Option<Child>) -> Ended {
        let broken = Arc::new(Notify::new());
        let control = Control::new(address.grpc);
        let up = async {
            let running = self.bring_up(life, address, control.clone(), &broken).await?;
            info!(replica = %self.replica, life, address = %address.grpc, "inference server is up");
            self.phase.send_replace(Phase::Up(Arc::new(running)));
            match self.inference {
                Inference::Attached { .. } => Err(self.watch(&control, &broken).await),
                Inference::Spawn(_) => pending().await,
            }
        };
        tokio::select! {
            // What is cut off here is done again in the next life.
            () = self.stop.requested() => Ended::Stopping,
            ended = self.ended(child) => ended,
            ended = up => match ended {
                Ok(never) => never,
                Err(ended) => ended,
            },
        }
    }

    async fn ended(&self, child: &mut Option<Child>) -> Ended {
        let Some(child) = child else { return pending().await };
        match child.wait().await {
            Ok(status) => Ended::Exited { status, log: self.log.clone() },
            Err(error) => Ended::Wait(error),
        }
    }

    async fn bring_up(
        &self,
        life: u64,
        address: Address,
        control: Control,
        broken: &Arc<Notify>,
    ) -> Result<Running, Ended> {
        self.wait_live(&control).await?;
        let loaded = match self.inference {
            Inference::Attached { .. } => control.loaded().await.map_err(Ended::NoAnswer)?,
            Inference::Spawn(_) => BTreeSet::new(),
        };
        if life == 1 {
            self.unload_foreign(&control, &loaded).await?;
        }
        self.reload(&control, &loaded).await?;
        let upstream = Upstream::connect(address.http, address.grpc, Arc::clone(broken), self.tasks.clone());
        let upstream = upstream.await.map_err(Ended::Connect)?;
        Ok(Running { life, control, upstream })
    }

    async fn wait_live(&self, control: &Control) -> Result<(), Ended> {
        let live = async {
            while !matches!(control.live().await, Ok(true)) {
                tokio::time::sleep(START_POLL).await;
            }
        };
        match self.inference {
            // We did not start it, so we cannot start it again either: wait as long as it takes.
            Inference::Attached { .. } => live.await,
            Inference::Spawn(_) => tokio::time::timeout(START_LIMIT, live).await.map_err(|_| Ended::NotLive)?,
        }
        Ok(())
    }

    /// An agent starts with nothing; what an earlier one left in the server would only take memory.
    async fn unload_foreign(&self, control: &Control, loaded: &BTreeSet<String>) -> Result<(), Ended> {
        let ours = loaded.iter().filter_map(|name| ModelVersionId::from_internal_name(name).map(|id| (name, id)));
        for (name, _) in ours.filter(|(_, id)| self.residency.get(id).is_none()) {
            match control.unload(name).await {
                Ok(()) => info!(replica = %self.replica, model = name, "unloaded what an earlier agent left"),
                Err(error) if error.is_no_answer() => return Err(Ended::NoAnswer(error)),
                Err(error) => warn!(replica = %self.replica, error = chain(&error), "left in the server"),
            }
        }
        Ok(())
    }

    /// Loads what was loaded; what the server does not take any more is forgotten, and the scheduler hears of it.
    async fn reload(&self, control: &Control, loaded: &BTreeSet<String>) -> Result<(), Ended> {
        let missing = self.residency.all().into_iter().filter(|resident| !loaded.contains(&resident.name));
        let loads = missing.map(|resident| {
            let control = control.clone();
            async move { (control.load(&resident.name).await, resident) }
        });
        let mut loads = stream::iter(loads).buffer_unordered(RELOADS);
        while let Some((outcome, resident)) = loads.next().await {
            match outcome {
                Ok(()) => info!(replica = %self.replica, model = %resident.id, "loaded again"),
                Err(error) if error.is_no_answer() => return Err(Ended::NoAnswer(error)),
                Err(error) => {
                    warn!(replica = %self.replica, model = %resident.id, error = chain(&error), "not loaded again");
                    self.residency.close(&resident.id, Close::ByForce);
                    let (repository, id) = (Arc::clone(&self.repository), resident.id.clone());
                    // Files that stay are replaced by the next load, or cleared by the next start.
                    let _ = tokio::task::spawn_blocking(move || repository.remove(&id)).await;
                }
            }
        }
        Ok(())
    }

    /// Watches a server that is not our child: a broken connection may be a restart, which forgets models.
    async fn watch(&self, control: &Control, broken: &Notify) -> Ended {
        loop {
            let is_broken = tokio::select! {
                () = broken.notified() => true,
                () = tokio::time::sleep(PROBE_EVERY) => false,
            };
            if is_broken {
                let loaded = match control.loaded().await {
                    Ok(loaded) => loaded,
                    Err(error) => return Ended::NoAnswer(error),
                };
                let listed = self.residency.listed().into_iter();
                let models: Vec<String> =
                    listed.map(|held| held.name.clone()).filter(|name| !loaded.contains(name)).collect();
                if !models.is_empty() {
                    return Ended::Forgot { models };
                }
            } else if let Err(error) = control.live().await {
                return Ended::NoAnswer(error);
            }
        }
    }

    fn command(&self, command: &SpawnCommand, address: SocketAddr) -> child::Command {
        let models = self.repository.models().display().to_string();
        let port = address.port().to_string();
        let filled = |text: &String| text.replace("{port}", &port).replace("{models}", &models);
        let mut child = child::Command::new(&command.program)
            .args(command.arguments.iter().map(filled))
            .stdout(Output::File(self.log.clone()))
            .stderr(Output::File(self.log.clone()));
        for (name, value) in &command.environment {
            child = child.env(name, filled(value));
        }
        if let Some(launcher) = &command.launcher {
            child = child.launcher(launcher);
        }
        child
    }
}

/// A port that was free a moment ago. When somebody else takes it meanwhile, the server does not start, and the next
/// start gets another one.
async fn free_address() -> io::Result<SocketAddr> {
    tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?.local_addr()
}
