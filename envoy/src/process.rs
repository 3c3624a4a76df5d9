//! One running Envoy: its start in a folder of its own (`bootstrap.yaml`, `envoy.log`), its readiness, drain and end.
//! It is not restarted here: whoever supervises it waits for `exited` and starts another one.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use runtime::child::{self, Child, Command, Output};
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{info, warn};

use crate::admin::Open;
use crate::{Admin, AdminError, Binary, Bootstrap, BootstrapError};

/// How often readiness and open requests are asked for: an answer costs Envoy well below a millisecond.
const ASK_EVERY: Duration = Duration::from_millis(20);
/// Idle connections do not end by themselves. When no request has been open this long after the drain began, clients
/// have had their answer and there is nothing to wait for.
const QUIET: Duration = Duration::from_millis(500);
/// Envoy ends at SIGTERM within milliseconds; this is for a machine that swaps.
const STOP_WITHIN: Duration = Duration::from_secs(5);
/// The filter that reads gRPC messages writes ten lines of level info about each of them.
const QUIET_COMPONENTS: &str = "misc:warning";
/// How much of the end of the log is read, and shown, when Envoy ends too early.
const TAIL_BYTES: u64 = 16 << 10;
const TAIL_LINES: usize = 15;

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    #[error("port {port} of {address} is needed for {purpose} and taken by another process (find it: ss -ltnp)")]
    PortTaken { port: u16, address: IpAddr, purpose: &'static str },
    #[error("open port {port} of {address} for {purpose}")]
    Port { port: u16, address: IpAddr, purpose: &'static str, source: io::Error },
    #[error("{action} {path:?}")]
    File { action: &'static str, path: PathBuf, source: io::Error },
    #[error("start Envoy")]
    Child(#[from] child::Error),
}

#[derive(Debug, thiserror::Error)]
pub enum ReadyError {
    #[error("envoy ended with {status} before it was ready; the end of {log:?}:\n{tail}")]
    Ended { status: ExitStatus, log: PathBuf, tail: String },
    #[error("envoy was not ready within {within:?}: its state is {state}{}; its log is {log:?}", hint(state))]
    Late { within: Duration, state: String, log: PathBuf },
    #[error("wait for Envoy")]
    Wait(#[source] io::Error),
}

fn hint(state: &str) -> &'static str {
    match state {
        "PRE_INITIALIZING" | "INITIALIZING" => " (it waits for clusters and listeners from the scheduler)",
        _ => "",
    }
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Requests still open at the end of the grace; None when Envoy could not be asked any more.
    pub requests_cut: Option<u64>,
    pub status: ExitStatus,
}

/// A running Envoy. Dropping it kills the process.
#[derive(Debug)]
pub struct Envoy {
    child: Child,
    admin: Admin,
    log: PathBuf,
    /// Where in the log, which is appended to, this run begins.
    log_start: u64,
}

impl Envoy {
    /// Starts it in `folder`, which is created. `launcher` is for programs that do not answer the verb `run-child`
    /// themselves (see `runtime::child`).
    pub async fn start(
        binary: &Binary,
        bootstrap: &Bootstrap,
        folder: &Path,
        launcher: Option<&Path>,
    ) -> Result<Self, StartError> {
        let yaml = bootstrap.yaml()?;
        check_ports(bootstrap)?;
        let file = |action, path: &Path| {
            let path = path.to_owned();
            move |source| StartError::File { action, path, source }
        };
        let folder = std::path::absolute(folder).map_err(file("find", folder))?;
        fs::create_dir_all(&folder).map_err(file("create", &folder))?;
        let (config, log) = (folder.join("bootstrap.yaml"), folder.join("envoy.log"));
        fs::write(&config, yaml).map_err(file("write", &config))?;
        if let Admin::UnixSocket(socket) = &bootstrap.admin {
            remove_stale(socket).map_err(file("remove", socket))?;
        }
        let log_start = log.metadata().map(|found| found.len()).unwrap_or_default();
        // Without hot restart there is no shared memory, which a killed Envoy would leave behind, and any number of
        // Envoys run side by side.
        let mut command = Command::new(&binary.path)
            .arg("-c")
            .arg(&config)
            .args(["--disable-hot-restart", "--drain-strategy", "immediate"])
            .args(["--component-log-level", QUIET_COMPONENTS])
            .current_dir(&folder)
            .stdout(Output::File(log.clone()))
            .stderr(Output::File(log.clone()));
        if let Some(threads) = bootstrap.concurrency {
            command = command.args(["--concurrency", &threads.to_string()]);
        }
        if let Some(launcher) = launcher {
            command = command.launcher(launcher);
        }
        let child = command.spawn().await?;
        info!(pid = child.pid(), version = %binary.version, folder = %folder.display(), "envoy started");
        Ok(Self { child, admin: bootstrap.admin.clone(), log, log_start })
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.pid()
    }

    pub fn log(&self) -> &Path {
        &self.log
    }

    /// What Envoy says about itself: `LIVE`, `DRAINING`, `PRE_INITIALIZING` or `INITIALIZING`.
    pub async fn state(&self) -> Result<String, AdminError> {
        self.admin.state().await
    }

    /// Waits until it is `LIVE`: it has its first clusters and listeners and has opened its ports. Cancel-safe.
    pub async fn ready(&mut self, within: Duration) -> Result<(), ReadyError> {
        let deadline = Instant::now() + within;
        let mut state = "unknown".to_owned();
        loop {
            match timeout_at(deadline, self.admin.state()).await {
                Ok(Ok(now)) if now == "LIVE" => return Ok(()),
                Ok(Ok(now)) => state = now,
                // Right after the start nobody listens there.
                Ok(Err(_)) => {}
                Err(_) => return Err(ReadyError::Late { within, state, log: self.log.clone() }),
            }
            tokio::select! {
                status = self.child.wait() => {
                    let status = status.map_err(ReadyError::Wait)?;
                    return Err(ReadyError::Ended { status, log: self.log.clone(), tail: self.log_tail() });
                }
                () = sleep(ASK_EVERY) => {}
            }
        }
    }

    /// Resolves when the process has ended, for whatever reason. Cancel-safe.
    pub async fn exited(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// `/ready` says 503 from now on, and every answer tells its client to close the connection. Ports stay open, so
    /// that whoever has not noticed yet is still served.
    pub async fn begin_drain(&self) -> Result<(), AdminError> {
        self.admin.command("/healthcheck/fail").await?;
        self.admin.command("/drain_listeners?graceful").await
    }

    /// Drains, waits until clients have what they asked for or the grace is over, and stops it.
    pub async fn drain(&mut self, grace: Duration) -> io::Result<Drained> {
        let deadline = Instant::now() + grace;
        let requests_cut = match timeout_at(deadline, self.begin_drain()).await {
            Ok(Ok(())) => self.quiet(deadline).await,
            Ok(Err(error)) => {
                warn!(%error, "envoy stops without a drain");
                None
            }
            Err(_) => None,
        };
        let status = self.stop().await?;
        Ok(Drained { requests_cut, status })
    }

    /// SIGTERM, which cuts what is open; SIGKILL should that not help.
    pub async fn stop(&mut self) -> io::Result<ExitStatus> {
        self.child.stop(STOP_WITHIN).await
    }

    /// The requests still open when the deadline has come or all is quiet.
    async fn quiet(&self, deadline: Instant) -> Option<u64> {
        let mut quiet_since = None;
        loop {
            let open = self.admin.open().await.ok()?;
            let now = Instant::now();
            let quiet = match open {
                Open { connections: 0, requests: 0 } => return Some(0),
                Open { requests: 0, .. } => now.duration_since(*quiet_since.get_or_insert(now)) >= QUIET,
                Open { .. } => {
                    quiet_since = None;
                    false
                }
            };
            if quiet || now >= deadline {
                return Some(open.requests);
            }
            sleep(ASK_EVERY).await;
        }
    }

    /// The last lines this run has written to its log.
    fn log_tail(&self) -> String {
        read_tail(&self.log, self.log_start).unwrap_or_else(|error| format!("(cannot be read: {error})"))
    }
}

/// Envoy would say it late (the inference port opens after the scheduler's answer) and only in its log.
fn check_ports(bootstrap: &Bootstrap) -> Result<(), StartError> {
    let listen = bootstrap.listen_address;
    check_port(listen, bootstrap.data_port, "inference requests")?;
    check_port(listen, bootstrap.stats_port, "Envoy's readiness and statistics")?;
    match bootstrap.admin {
        Admin::Port(port) => check_port(Ipv4Addr::LOCALHOST.into(), port, "Envoy's admin interface"),
        Admin::UnixSocket(_) => Ok(()),
    }
}

fn check_port(address: IpAddr, port: u16, purpose: &'static str) -> Result<(), StartError> {
    match TcpListener::bind(SocketAddr::new(address, port)) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(StartError::PortTaken { port, address, purpose }),
        Err(source) => Err(StartError::Port { port, address, purpose, source }),
    }
}

/// What an Envoy that was killed has left.
fn remove_stale(socket: &Path) -> io::Result<()> {
    match fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn read_tail(path: &Path, start: u64) -> io::Result<String> {
    let mut file = File::open(path)?;
    let end = file.metadata()?.len();
    file.seek(SeekFrom::Start(start.max(end.saturating_sub(TAIL_BYTES))))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<_> = text.lines().collect();
    Ok(lines.get(lines.len().saturating_sub(TAIL_LINES)..).unwrap_or_default().join("\n"))
}
