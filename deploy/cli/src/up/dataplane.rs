//! What runs pipelines on one machine: the embedded log, and a pipeline gateway, an engine and a model gateway on it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use domain::{Topics, WorkerName};
use pipeline_gateway::ErrorStyle;
use runtime::health::Health;
use runtime::{OnError, Stop, Tasks};
use topic_log::embedded::{Durability, Settings};
use topic_log::{Embedded, Log};
use worker::{ShardCounters, WorkerConfig};

use super::ports::Ports;
use super::{Error, log_service};

/// Largest request and answer of a pipeline, what Envoy's stream windows are made for.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// How often old segments of the log are looked for.
const RETAIN_EVERY: Duration = Duration::from_secs(30);

/// How it is run.
#[derive(Debug, clap::Args)]
pub(super) struct Flags {
    /// Partitions of the topics of a new installation; one that exists keeps its own
    #[arg(long, value_name = "COUNT", env = "KAFKA_DEFAULT_NUM_PARTITIONS", default_value_t = scheduler::PARTITIONS, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(super) partitions: u32,
    /// When a record of the log counts as safe: when it survives the end of the process, or a power cut too
    #[arg(long, value_name = "WHEN", env = "SWITCHYARD_LOG_DURABILITY", value_enum, default_value_t)]
    log_durability: LogDurability,
    /// Most requests for pipelines that wait for their answers at a time; a waiting one costs about a kilobyte
    #[arg(long, value_name = "COUNT", env = "SWITCHYARD_PENDING_MAX", default_value_t = 10_000)]
    pending_max: usize,
    /// Longest call of a model by a pipeline, in milliseconds
    #[arg(long, value_name = "MS", env = "MODELGATEWAY_WORKER_TIMEOUT_MS", default_value_t = 120_000, value_parser = clap::value_parser!(u64).range(1..=86_400_000))]
    model_timeout_ms: u64,
    /// Tell errors of pipelines as the compatible system does: status 400 or code UNKNOWN, and text
    #[arg(long, env = "SWITCHYARD_COMPATIBLE_ERRORS", value_name = "BOOL", action = clap::ArgAction::Set, default_value_t = false, num_args = 0..=1, default_missing_value = "true")]
    compatible_errors: bool,
}

#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum LogDurability {
    #[default]
    Process,
    Disk,
}

/// What it stands on.
pub(super) struct Place<'a> {
    pub(super) dir: &'a Path,
    /// The scheduler's port for workers.
    pub(super) workers: SocketAddr,
    /// The Envoy by which models are called.
    pub(super) envoy: SocketAddr,
}

/// What it is reached by.
pub(super) struct DataPlane {
    pub(super) gateway: SocketAddr,
    pub(super) log: SocketAddr,
}

pub(super) async fn start(
    flags: &Flags,
    place: Place<'_>,
    ports: Ports,
    health: &Health,
    tasks: &Tasks,
) -> Result<DataPlane, Error> {
    let folder = place.dir.join("log");
    let durability = match flags.log_durability {
        LogDurability::Process => Durability::Process,
        LogDurability::Disk => Durability::Disk,
    };
    let path = folder.clone();
    let open = move || Embedded::open(Settings { durability, ..Settings::new(folder) });
    let embedded = tokio::task::spawn_blocking(open).await.map_err(|_| Error::Panicked)??;
    let topics = embedded.topics("").await?.into_iter();
    if let Some(found) = topics.map(|topic| topic.partitions.len()).find(|found| *found != flags.partitions as usize) {
        return Err(Error::Partitions { path, found, wanted: flags.partitions });
    }
    tasks.spawn("log-retention", OnError::Log, retain(embedded.clone(), tasks.stop().clone()));
    let log: Arc<dyn Log> = Arc::new(embedded);
    let log_listener = ports.log().await?;
    let log_address = log_listener.local_addr().map_err(Error::Address)?;
    tasks.spawn("log", OnError::StopProcess, log_service::serve(Arc::clone(&log), log_listener, tasks.clone()));
    let listeners = ports.pipelines().await?;
    let gateway = listeners[0].local_addr().map_err(Error::Address)?;
    let (topics, schedulers, envoy) = (Topics::default(), vec![place.workers.to_string()], place.envoy.to_string());
    let name = |text| WorkerName::parse(text).map_err(|_| Error::Panicked);
    let metrics = (pipeline_gateway::Metrics::default(), ShardCounters::default(), ShardCounters::default());
    let written = metrics.clone();
    health.add_metrics(Arc::new(move |text| {
        written.0.write(text);
        dataflow::write_metrics(&written.1, text);
        model_gateway::write_metrics(&written.2, text);
    }));
    let config = pipeline_gateway::Config {
        name: name("pipeline-gateway-0")?,
        schedulers: schedulers.clone(),
        address: gateway,
        envoy: envoy.clone(),
        topics: topics.clone(),
        pending_max: flags.pending_max,
        max_message_bytes: MAX_MESSAGE_BYTES,
        errors: if flags.compatible_errors { ErrorStyle::Compatible } else { ErrorStyle::Structured },
        metrics: metrics.0,
        check: health.check("pipeline-gateway"),
    };
    let stop = tasks.stop();
    let part = pipeline_gateway::run(config, listeners.into(), Arc::clone(&log), stop.clone());
    tasks.spawn("pipeline-gateway", OnError::StopProcess, part);
    let config = WorkerConfig {
        name: name("engine-0")?,
        schedulers: schedulers.clone(),
        topics: topics.clone(),
        counters: metrics.1,
        check: health.check("engine"),
    };
    tasks.spawn("dataflow-engine", OnError::StopProcess, dataflow::run(config, Arc::clone(&log), stop.clone()));
    let (counters, check) = (metrics.2, health.check("model-gateway"));
    let worker = WorkerConfig { name: name("model-gateway-0")?, schedulers, topics, counters, check };
    let config = model_gateway::Config { worker, envoy, call_limit: Duration::from_millis(flags.model_timeout_ms) };
    tasks.spawn("model-gateway", OnError::StopProcess, model_gateway::run(config, log, stop.clone()));
    Ok(DataPlane { gateway, log: log_address })
}

async fn retain(log: Embedded, stop: Stop) -> Result<(), topic_log::Error> {
    loop {
        tokio::select! {
            () = stop.requested() => return Ok(()),
            () = tokio::time::sleep(RETAIN_EVERY) => {}
        }
        let log = log.clone();
        let retained = tokio::task::spawn_blocking(move || log.retain()).await;
        if let Ok(Err(error)) = retained {
            tracing::warn!(%error, "old segments of the log cannot be removed");
        }
    }
}
