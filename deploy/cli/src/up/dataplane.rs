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

use super::ports::{self, Ports};
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
    #[arg(long, value_name = "COUNT", env = "SWITCHYARD_PENDING_MAX", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pending_max: u32,
    /// Most bytes of their bodies that are kept until the log has them; at least the largest request, 64 MiB
    #[arg(long, value_name = "BYTES", env = "SWITCHYARD_PENDING_BYTES_MAX", default_value_t = 256 << 20, value_parser = clap::value_parser!(u64).range(MAX_MESSAGE_BYTES as u64..=1 << 40))]
    pending_bytes_max: u64,
    /// Longest call of a model by a pipeline, in milliseconds
    #[arg(long, value_name = "MS", env = "MODELGATEWAY_WORKER_TIMEOUT_MS", default_value_t = 120_000, value_parser = clap::value_parser!(u64).range(1..=86_400_000))]
    model_timeout_ms: u64,
    /// Tell errors of pipelines as the compatible system does: status 400 or code UNKNOWN, and text
    #[arg(long, env = "SWITCHYARD_COMPATIBLE_ERRORS", value_name = "BOOL", action = clap::ArgAction::Set, default_value_t = false, num_args = 0..=1, default_missing_value = "true")]
    compatible_errors: bool,
    /// Pipeline gateways: any number shares the requests
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pipeline_gateways: u16,
    /// Dataflow engines: they share the partitions
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    engines: u16,
    /// Model gateways: they share the partitions
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    model_gateways: u16,
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
    let metrics = (pipeline_gateway::Metrics::default(), ShardCounters::default(), ShardCounters::default());
    let written = metrics.clone();
    health.add_metrics(Arc::new(move |text| {
        written.0.write(text);
        dataflow::write_metrics(&written.1, text);
        model_gateway::write_metrics(&written.2, text);
    }));
    let stop = tasks.stop();
    let topics = Topics::default();
    let worker = |name: String, counters: &ShardCounters| {
        Ok::<_, Error>(WorkerConfig {
            check: health.check(&name),
            name: WorkerName::parse(&name).map_err(|_| Error::Panicked)?,
            schedulers: vec![place.workers.to_string()],
            topics: topics.clone(),
            counters: counters.clone(),
        })
    };
    let mut listeners = Vec::from(ports.pipelines().await?);
    let gateway = listeners[0].local_addr().map_err(Error::Address)?;
    for number in 0..flags.pipeline_gateways {
        if number > 0 {
            listeners = vec![ports::free("a pipeline gateway").await?];
        }
        let name = format!("pipeline-gateway-{number}");
        let config = pipeline_gateway::Config {
            check: health.check(&name),
            name: WorkerName::parse(&name).map_err(|_| Error::Panicked)?,
            schedulers: vec![place.workers.to_string()],
            address: listeners[0].local_addr().map_err(Error::Address)?,
            envoy: place.envoy.to_string(),
            topics: topics.clone(),
            pending_max: usize::try_from(flags.pending_max).unwrap_or(usize::MAX),
            pending_bytes_max: usize::try_from(flags.pending_bytes_max).unwrap_or(usize::MAX),
            max_message_bytes: MAX_MESSAGE_BYTES,
            errors: if flags.compatible_errors { ErrorStyle::Compatible } else { ErrorStyle::Structured },
            metrics: metrics.0.clone(),
        };
        let listeners = std::mem::take(&mut listeners);
        let part = pipeline_gateway::run(config, listeners, Arc::clone(&log), stop.clone());
        tasks.spawn("pipeline-gateway", OnError::StopProcess, part);
    }
    for number in 0..flags.engines {
        let config = worker(format!("engine-{number}"), &metrics.1)?;
        tasks.spawn("dataflow-engine", OnError::StopProcess, dataflow::run(config, Arc::clone(&log), stop.clone()));
    }
    for number in 0..flags.model_gateways {
        let worker = worker(format!("model-gateway-{number}"), &metrics.2)?;
        let call_limit = Duration::from_millis(flags.model_timeout_ms);
        let config = model_gateway::Config { worker, envoy: place.envoy.to_string(), call_limit };
        let part = model_gateway::run(config, Arc::clone(&log), stop.clone());
        tasks.spawn("model-gateway", OnError::StopProcess, part);
    }
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
