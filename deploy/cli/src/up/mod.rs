//! `switchyard up`: everything on one machine, in one process and its children.
//!
//! In this process: the scheduler, a launcher that does an operator's work, and an agent for each replica of the
//! built-in server. Children, which die with it: the Envoys and the inference servers. Decides nothing: it puts parts
//! together and tells a person what happens.

mod dataplane;
mod demo;
mod endpoints;
mod envoys;
mod launcher;
mod log_service;
mod ports;
mod replica;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use http::uri::Authority;
use runtime::health::Health;
use runtime::{OnError, Stop, Tasks, TasksFailed, logging, on_signals};
use tokio::net::TcpListener;

use crate::address::{Address, Origin, Target};
use crate::output::say;
use endpoints::Endpoints;
use launcher::{Launcher, Replicas, SERVER};
use ports::Ports;

/// How long all parts together get to end: an Envoy drains for 2 s, an agent stops its server meanwhile.
const STOP_WITHIN: Duration = Duration::from_secs(15);

/// Memory of one replica unless said otherwise: a machine that runs two of them has it.
const MEMORY_MIB: u64 = 1024;

#[derive(Debug, Args)]
#[command(after_help = "Example:
  switchyard up --dir ./switchyard-data --demo
  switchyard up --envoys 2 --replicas 3 --port-base 20000")]
pub(crate) struct Flags {
    /// Folder for everything that is kept; what was declared before comes back
    #[arg(long, value_name = "FOLDER", env = "SWITCHYARD_DIR", default_value = "./switchyard-data")]
    dir: PathBuf,
    /// Number of Envoys, all fed by the one scheduler
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=ports::MOST_ENVOYS as i64))]
    envoys: u16,
    /// Replicas of the built-in server when it is declared for the first time; later `server scale` says how many
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(0..=64))]
    replicas: u32,
    /// Memory for models in each replica, in MiB
    #[arg(long, value_name = "MIB", default_value_t = MEMORY_MIB, value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    replica_memory: u64,
    /// Moves all ports: 9000 becomes this one, 9004 this one + 4, and so on
    #[arg(long, value_name = "PORT", default_value_t = ports::USUAL_BASE)]
    port_base: u16,
    #[command(flatten)]
    dataplane: dataplane::Flags,
    /// Load two real models and a pipeline, and call them
    #[arg(long)]
    demo: bool,
    /// End after the demo, with exit status 0 if all of it went well and 1 if not
    #[arg(long, requires = "demo")]
    exit_after_demo: bool,
}

/// Why it does not run, or no longer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Port(#[from] ports::Error),
    #[error("make folder {path}")]
    Folder {
        path: PathBuf,
        #[source]
        cause: std::io::Error,
    },
    #[error("write {path}")]
    Write {
        path: PathBuf,
        #[source]
        cause: std::io::Error,
    },
    #[error("find ONNX Runtime")]
    OnnxRuntime(#[from] onnx_server::FindError),
    #[error("find Envoy")]
    FindEnvoy(#[from] envoy::FindError),
    #[error("start Envoy {number}")]
    StartEnvoy {
        number: u16,
        #[source]
        cause: envoys::Error,
    },
    #[error("open the log")]
    Log(#[from] topic_log::Error),
    #[error(
        "the topics in {path} have {found} partitions and not {wanted}: start with --partitions {found}, or elsewhere with another --dir"
    )]
    Partitions { path: PathBuf, found: usize, wanted: u32 },
    #[error("start server {SERVER}")]
    Launcher(#[from] launcher::Error),
    #[error("a thread that looked for a part died")]
    Panicked,
    #[error("the demo failed")]
    Demo(#[from] demo::Error),
    #[error(transparent)]
    Tasks(#[from] TasksFailed),
    #[error("read the address of a socket of our own")]
    Address(#[source] std::io::Error),
    #[error("the process was asked to stop while it started")]
    Stopped,
}

/// Parts that come from elsewhere.
struct Foreign {
    runtime_library: PathBuf,
    envoy: envoy::Binary,
}

/// Where it listens.
struct Sockets {
    control: SocketAddr,
    agents: SocketAddr,
    xds: SocketAddr,
    workers: SocketAddr,
    health: SocketAddr,
}

/// Runs until Ctrl-C, SIGTERM or the failure of a part.
pub(crate) async fn run(flags: Flags) -> Result<(), Error> {
    logging::init(logging::Format::Text, "warn");
    let started = Instant::now();
    let stop = Stop::new();
    let tasks = Tasks::new(stop.clone());
    tasks.spawn("signals", OnError::StopProcess, on_signals(stop.clone()));
    let outcome = tokio::select! {
        outcome = start(&flags, &tasks, started) => outcome,
        () = stop.requested() => Err(Error::Stopped),
    };
    let outcome = match outcome {
        Ok(endpoints) if flags.exit_after_demo => {
            drop(endpoints);
            Ok(())
        }
        Ok(endpoints) => {
            stop.requested().await;
            drop(endpoints);
            say("\nstopping");
            Ok(())
        }
        Err(error) => Err(error),
    };
    match (tasks.finish(STOP_WITHIN).await, outcome) {
        // A part that failed explains whatever else went wrong.
        (Err(failed @ TasksFailed::Failed { .. }), _) => Err(failed.into()),
        (ended, Err(Error::Stopped)) => Ok(ended?),
        (_, Err(error)) => Err(error),
        (ended, Ok(())) => Ok(ended?),
    }
}

/// Starts everything and shows it. What it gives must be kept for as long as the process runs.
async fn start(flags: &Flags, tasks: &Tasks, started: Instant) -> Result<endpoints::File, Error> {
    let dir = std::path::absolute(&flags.dir).map_err(|cause| Error::Folder { path: flags.dir.clone(), cause })?;
    say(&format!("Switchyard {}: models behind Envoy on this machine", env!("CARGO_PKG_VERSION")));
    say(&format!("  state           {}", dir.display()));
    let foreign = find_foreign().await?;
    say(&format!("  ONNX Runtime    {}", foreign.runtime_library.display()));
    say(&format!("  Envoy           {} ({})", foreign.envoy.version, foreign.envoy.path.display()));

    let ports = Ports::new(flags.port_base)?;
    let health = Health::new();
    let sockets = start_scheduler(flags, &dir, ports, &health, tasks).await?;
    let launcher = start_replicas(flags, &dir, &sockets, foreign.runtime_library, &health).await?;
    tasks.spawn("launcher", OnError::StopProcess, launcher.follow(tasks.stop().clone()));
    let inference = start_envoys(flags, &dir, ports, sockets.xds, &foreign.envoy, &health, tasks).await?;
    let first = inference.first().copied().unwrap_or(flags.port_base);
    let envoy = SocketAddr::from(([127, 0, 0, 1], first));
    let place = dataplane::Place { dir: &dir, workers: sockets.workers, envoy };
    let dataplane = dataplane::start(&flags.dataplane, place, ports, &health, tasks).await?;
    let endpoints = Endpoints {
        scheduler: sockets.control.to_string(),
        inference: format!("127.0.0.1:{first}"),
        envoys: inference.iter().map(|port| format!("127.0.0.1:{port}")).collect(),
        log: dataplane.log.to_string(),
        xds: sockets.xds.to_string(),
        health: sockets.health.to_string(),
        pid: std::process::id(),
    };
    let file = endpoints.write(&dir).map_err(|cause| Error::Write { path: dir.clone(), cause })?;
    say(&format!("ready after {:.1} s", started.elapsed().as_secs_f64()));
    say(&format!("  inference       http://{}  (REST and gRPC, through Envoy)", endpoints.envoys.join(", http://")));
    say(&format!("  scheduler API   {}", endpoints.scheduler));
    say(&format!(
        "  pipelines       {}  (gateway, engine and model gateway on the log in {})",
        dataplane.gateway,
        dir.join("log").display()
    ));
    say(&format!("  log             {}", endpoints.log));
    say(&format!("  health          http://{}/ready and /metrics", endpoints.health));
    if flags.demo {
        let places = demo::Places {
            scheduler: address(Target::Scheduler, sockets.control)?,
            inference: address(Target::Inference, SocketAddr::from(([127, 0, 0, 1], first)))?,
        };
        demo::run(places, &dir.join("demo")).await?;
    }
    if !flags.exit_after_demo {
        next_steps(flags);
    }
    Ok(file)
}

/// Finds or fetches what is not ours, both at once.
async fn find_foreign() -> Result<Foreign, Error> {
    let library = tokio::task::spawn_blocking(|| onnx_server::find_library(&|progress| say(&format!("  {progress}"))));
    let envoy = tokio::task::spawn_blocking(|| envoy::find(&|progress| say(&format!("  {progress}"))));
    let (library, envoy) = (library.await, envoy.await);
    Ok(Foreign { runtime_library: library.map_err(|_| Error::Panicked)??, envoy: envoy.map_err(|_| Error::Panicked)?? })
}

/// Starts the scheduler and the port for health and metrics.
async fn start_scheduler(
    flags: &Flags,
    dir: &Path,
    ports: Ports,
    health: &Health,
    tasks: &Tasks,
) -> Result<Sockets, Error> {
    let listeners = scheduler::Listeners {
        xds: ports.xds().await?,
        control: ports.control().await?,
        agents: ports.agents().await?,
        workers: ports.workers().await?,
    };
    let health_listener = ports.health().await?;
    let sockets = Sockets {
        control: local(&listeners.control)?,
        agents: local(&listeners.agents)?,
        xds: local(&listeners.xds)?,
        workers: local(&listeners.workers)?,
        health: local(&health_listener)?,
    };
    let mut config = scheduler::Config::new(dir.to_owned());
    config.decisions.partitions = flags.dataplane.partitions;
    config.envoy.access_log =
        config.envoy.access_log.map(|log| scheduler::envoy::AccessLog { path: dir.join("envoy-accesslog.txt"), ..log });
    let counters = config.counters.clone();
    health.add_metrics(Arc::new(move |text| counters.write(text)));
    // Its sockets are open, so others may call it now; if it cannot start, its failure is what the process ends with.
    tasks.spawn("scheduler", OnError::StopProcess, scheduler::run(config, listeners, tasks.stop().clone()));
    tasks.spawn(
        "health",
        OnError::StopProcess,
        runtime::health::serve(health_listener, health.clone(), tasks.stop().clone()),
    );
    Ok(sockets)
}

async fn start_replicas(
    flags: &Flags,
    dir: &Path,
    sockets: &Sockets,
    library: PathBuf,
    health: &Health,
) -> Result<Launcher, Error> {
    let program = std::env::current_exe().map_err(|cause| Error::Folder { path: "this program".into(), cause })?;
    let mut launcher = Launcher {
        checks: launcher::Checks {
            scheduler: health.check("scheduler"),
            server: health.check(format!("server-{SERVER}")),
        },
        control: sockets.control,
        agents: sockets.agents,
        replicas: Replicas {
            program,
            folder: dir.join("replicas"),
            memory_bytes: flags.replica_memory << 20,
            runtime_library: library,
        },
        running: BTreeMap::new(),
    };
    launcher.start(flags.replicas).await?;
    say(&format!("  replicas        {} of server {SERVER}", launcher.running.len()));
    Ok(launcher)
}

/// Starts the Envoys; gives their ports for inference.
async fn start_envoys(
    flags: &Flags,
    dir: &Path,
    ports: Ports,
    xds: SocketAddr,
    binary: &envoy::Binary,
    health: &Health,
    tasks: &Tasks,
) -> Result<Vec<u16>, Error> {
    let mut inference = Vec::new();
    for number in 0..flags.envoys {
        let folder = dir.join("envoys").join(number.to_string());
        let (data_port, stats_port) = (ports.inference(number)?, ports.statistics(number)?);
        let plan = envoys::Plan {
            binary: binary.clone(),
            bootstrap: envoys::bootstrap(number, data_port, stats_port, xds, &folder),
            folder,
            check: health.check(format!("envoy-{number}")),
        };
        let envoy = envoys::start(&plan).await.map_err(|cause| Error::StartEnvoy { number, cause })?;
        tasks.spawn("envoy", OnError::Log, envoys::keep_running(plan, envoy, tasks.stop().clone()));
        inference.push(data_port);
    }
    Ok(inference)
}

fn local(listener: &TcpListener) -> Result<SocketAddr, Error> {
    listener.local_addr().map_err(Error::Address)
}

/// An address of this process, as the verbs' clients want it.
fn address(target: Target, socket: SocketAddr) -> Result<Address, Error> {
    let authority: Authority = socket.to_string().parse().map_err(|_| Error::Panicked)?;
    Ok(Address { target, authority, origin: Origin::Default })
}

fn next_steps(flags: &Flags) {
    let dir = match flags.dir.to_str() {
        Some("./switchyard-data") => String::new(),
        _ => format!(" --dir {}", flags.dir.display()),
    };
    say("\nTry next, in another terminal:");
    say(&format!("  switchyard model list{dir}"));
    say(&format!("  switchyard model load -f samples/iris.yaml --wait{dir}"));
    say(&format!("  switchyard server scale {SERVER} --replicas 3 --wait{dir}"));
    say(&format!(
        "  curl -d '{{\"inputs\":[{{\"name\":\"X\",\"datatype\":\"FP32\",\"shape\":[1,4],\"data\":[5.1,3.5,1.4,0.2]}}]}}' http://127.0.0.1:{}/v2/models/iris/infer",
        flags.port_base
    ));
    say("\nCtrl-C ends it; what was declared comes back with the next `switchyard up`.");
}
