//! The parts that this program can be: each is a library, and here are its flags and how its process starts and
//! ends. Flags win over the environment, the environment over defaults.

pub(crate) mod agent;
pub(crate) mod onnx_server;
pub(crate) mod scheduler;

use std::ffi::OsString;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use runtime::{OnError, Stop, Tasks, TasksFailed, logging, on_signals};
use tokio::net::TcpListener;
use tracing::info;

use crate::output;

/// How long the task that waits for signals gets to end; it ends at once.
const STOP_WITHIN: Duration = Duration::from_secs(1);

/// Why a part does not run, or no longer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("listen on {address} ({flag})")]
    Listen {
        address: SocketAddr,
        flag: &'static str,
        #[source]
        cause: io::Error,
    },
    #[error(transparent)]
    Flags(#[from] agent::BadFlags),
    #[error("the scheduler ended")]
    Scheduler(#[source] ::scheduler::Error),
    #[error("the agent ended")]
    Agent(#[source] ::agent::Error),
    #[error("the inference server ended")]
    OnnxServer(#[source] ::onnx_server::Error),
    #[error(transparent)]
    Tasks(#[from] TasksFailed),
}

/// How a part logs.
#[derive(Debug, Args)]
pub(crate) struct LogFlags {
    /// Form of log lines, on standard error; what is logged is said by $SWITCHYARD_LOG, for example debug
    #[arg(long, value_name = "FORM", env = "SWITCHYARD_LOG_FORMAT", default_value = "text")]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl LogFlags {
    fn init(&self) {
        let format = match self.log_format {
            LogFormat::Text => logging::Format::Text,
            LogFormat::Json => logging::Format::Json,
        };
        logging::init(format, "info");
    }
}

/// Runs `part` until it ends; SIGINT and SIGTERM ask it to.
async fn run<F>(part: impl FnOnce(Stop) -> F) -> Result<(), Error>
where
    F: Future<Output = Result<(), Error>>,
{
    let stop = Stop::new();
    let tasks = Tasks::new(stop.clone());
    tasks.spawn("signals", OnError::StopProcess, on_signals(stop.clone()));
    let ended = part(stop).await;
    let signals = tasks.finish(STOP_WITHIN).await;
    ended?;
    Ok(signals?)
}

/// A socket at `host` and `port`; port 0 is any free one.
async fn listen(host: IpAddr, port: u16, flag: &'static str) -> Result<TcpListener, Error> {
    let address = SocketAddr::new(host, port);
    let failed = |cause| Error::Listen { address, flag, cause };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    info!(%address, flag, "listening");
    Ok(listener)
}

/// Becomes another program, as a child that ends with its parent; returns only when it cannot.
pub(crate) fn run_child(arguments: Vec<OsString>) -> ExitCode {
    match runtime::child::run_child(arguments) {
        Ok(never) => match never {},
        Err(error) => {
            output::complain(&runtime::chain(&error));
            ExitCode::from(u8::try_from(runtime::child::NOT_EXECUTED).unwrap_or(u8::MAX))
        }
    }
}
