//! `switchyard scheduler`. Names of flags are the compatible ones where there are any.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use runtime::health::Health;
use runtime::{OnError, Tasks};
use scheduler::envoy::AccessLog;
use scheduler::{Config, Listeners, Port, Settings, Target};
use tokio::net::TcpListener;
use tracing::warn;

use super::{Error, LogFlags, STOP_WITHIN, listen};

/// Where Kubernetes tells a pod its namespace.
const SERVICE_ACCOUNT_NAMESPACE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  switchyard scheduler --db-path /var/lib/switchyard/scheduler")]
pub(crate) struct Flags {
    /// Folder for the scheduler's state
    #[arg(long, value_name = "FOLDER", env = "SWITCHYARD_DB_PATH", default_value = "./switchyard-data/scheduler")]
    db_path: PathBuf,
    /// Address to listen on
    #[arg(long, value_name = "IP", env = "SWITCHYARD_LISTEN_HOST", default_value = "0.0.0.0")]
    listen_host: IpAddr,
    /// Port for Envoys (ADS)
    #[arg(long, value_name = "PORT", env = "SWITCHYARD_ENVOY_PORT", default_value_t = 9002)]
    envoy_port: u16,
    /// Port for operators and command lines
    #[arg(long, value_name = "PORT", env = "SWITCHYARD_SCHEDULER_PORT", default_value_t = 9004)]
    scheduler_port: u16,
    /// Port for agents
    #[arg(long, value_name = "PORT", env = "SWITCHYARD_AGENT_PORT", default_value_t = 9005)]
    agent_port: u16,
    /// Port for the workers of the data plane
    #[arg(long, value_name = "PORT", env = "SWITCHYARD_DATAFLOW_PORT", default_value_t = 9008)]
    dataflow_port: u16,
    /// Port for probes (/ready, /live) and /metrics over HTTP
    #[arg(long, value_name = "PORT", env = "SWITCHYARD_HEALTH_PROBE_PORT", default_value_t = 9999)]
    health_probe_port: u16,
    /// Kubernetes namespace; with one, and with nothing stored, placement waits for the first word about servers.
    /// Inside a pod it is read from the service account
    #[arg(long, value_name = "NAME", env = "SWITCHYARD_NAMESPACE")]
    namespace: Option<String>,
    /// How long placement waits so, at most
    #[arg(long, value_name = "SECONDS", env = "SWITCHYARD_SCHEDULER_READY_TIMEOUT_SECONDS", default_value_t = 300)]
    scheduler_ready_timeout_seconds: u64,
    /// How long removed models and stopped experiments stay listed
    #[arg(long, value_name = "SECONDS", env = "SWITCHYARD_DELETED_RESOURCE_TTL_SECONDS", default_value_t = 86_400)]
    deleted_resource_ttl_seconds: u64,
    /// How long a lost agent may stay away before its models are placed elsewhere
    #[arg(long, value_name = "SECONDS", env = "SWITCHYARD_AGENT_GRACE_SECONDS", default_value_t = 10)]
    agent_grace_seconds: u64,
    /// How long a drain may take before its replica may go all the same
    #[arg(long, value_name = "SECONDS", env = "SWITCHYARD_DRAIN_LIMIT_SECONDS", default_value_t = 60)]
    drain_limit_seconds: u64,
    /// Whether owners of servers are asked for more or fewer replicas
    #[arg(long, value_name = "BOOL", env = "SWITCHYARD_ENABLE_SERVER_AUTOSCALING", default_value_t = true, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    enable_server_autoscaling: bool,
    /// Whether models are packed onto fewer replicas although none is empty
    #[arg(long, value_name = "BOOL", env = "SWITCHYARD_SERVER_PACKING_ENABLED", default_value_t = false, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    server_packing_enabled: bool,
    /// In which share of the cases: 0 to 1, or percent above 1 to 100
    #[arg(long, value_name = "SHARE", env = "SWITCHYARD_SERVER_PACKING_PERCENTAGE", default_value = "0.25", value_parser = share)]
    server_packing_percentage: u32,
    /// Partitions of the topics of pipelines and models; how many workers of a role can share the work
    #[arg(long, value_name = "COUNT", env = "KAFKA_DEFAULT_NUM_PARTITIONS", default_value_t = scheduler::PARTITIONS, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    partitions: u32,
    /// File that is watched for pipelines.maxShardCountMultiplier: how many partitions a pipeline's requests enter by
    #[arg(long, value_name = "FILE", env = "SWITCHYARD_SCALING_CONFIG", default_value = "/mnt/scaling/scaling.yaml")]
    scaling_config_path: PathBuf,
    /// Accepted for compatibility; replicas of models are not scaled by themselves
    #[arg(long, value_name = "BOOL", env = "SWITCHYARD_ENABLE_MODEL_AUTOSCALING", default_value_t = false, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    enable_model_autoscaling: bool,
    /// Address that Envoys listen on for requests
    #[arg(long, value_name = "IP", env = "SWITCHYARD_DATA_HOST", default_value = "0.0.0.0")]
    data_host: IpAddr,
    /// Port that Envoys listen on for requests
    #[arg(long, value_name = "PORT", env = "SWITCHYARD_DATA_PORT", default_value_t = 9000, value_parser = clap::value_parser!(u16).range(1..))]
    data_port: u16,
    /// Whether Envoys write an access log
    #[arg(long, value_name = "BOOL", env = "SWITCHYARD_ENABLE_ENVOY_ACCESSLOG", default_value_t = true, action = clap::ArgAction::Set)]
    enable_envoy_accesslog: bool,
    /// Where Envoys write it
    #[arg(
        long,
        value_name = "FILE",
        env = "SWITCHYARD_ENVOY_ACCESSLOG_PATH",
        default_value = "/tmp/envoy-accesslog.txt"
    )]
    envoy_accesslog_path: PathBuf,
    /// Whether requests that went well are in it
    #[arg(long, value_name = "BOOL", env = "SWITCHYARD_INCLUDE_SUCCESSFUL_REQUESTS_ENVOY_ACCESSLOG", default_value_t = false, action = clap::ArgAction::Set)]
    include_successful_requests_envoy_accesslog: bool,
    /// Over how long the streams of Envoys end when the scheduler stops; few end at once
    #[arg(long, value_name = "MILLISECONDS", env = "SWITCHYARD_ENVOY_DRAIN_MS", default_value_t = 2_000)]
    envoy_drain_ms: u64,
    /// How old the stream of an Envoy may become, so that Envoys spread over several schedulers again; 0 is any age
    #[arg(long, value_name = "SECONDS", env = "SWITCHYARD_ENVOY_STREAM_AGE_SECONDS", default_value_t = 0)]
    envoy_stream_age_seconds: u64,
    #[command(flatten)]
    log: LogFlags,
}

/// A share of cases in thousandths.
fn share(text: &str) -> Result<u32, String> {
    let number: f64 = text.parse().map_err(|_| format!("{text:?} is no number"))?;
    let share = if number > 1.0 { number / 100.0 } else { number };
    if !(0.0..=1.0).contains(&share) {
        return Err(format!("{text} is neither a share from 0 to 1 nor a percentage up to 100"));
    }
    // In range, see above.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is between 0 and 1000")]
    Ok((share * 1_000.0).round() as u32)
}

impl Flags {
    fn config(&self) -> Config {
        let mut config = Config::new(self.db_path.clone());
        config.envoy.address = self.data_host;
        config.envoy.port = self.data_port;
        config.envoy.access_log = self.enable_envoy_accesslog.then(|| AccessLog {
            path: self.envoy_accesslog_path.clone(),
            include_successful: self.include_successful_requests_envoy_accesslog,
        });
        let milliseconds = |seconds: u64| seconds.saturating_mul(1_000);
        config.decisions = Settings {
            agent_grace_ms: milliseconds(self.agent_grace_seconds),
            drain_limit_ms: milliseconds(self.drain_limit_seconds),
            terminated_ttl_ms: milliseconds(self.deleted_resource_ttl_seconds),
            server_autoscaling: self.enable_server_autoscaling,
            packing: if self.server_packing_enabled { self.server_packing_percentage } else { 0 },
            // Without an operator nobody will ever say which servers there are.
            first_sync_ms: self.namespace().map(|_| milliseconds(self.scheduler_ready_timeout_seconds)),
            partitions: self.partitions,
            ..Settings::default()
        };
        config.envoy_drain = Duration::from_millis(self.envoy_drain_ms);
        let age = Duration::from_secs(self.envoy_stream_age_seconds);
        config.envoy_stream_age = (!age.is_zero()).then_some(age);
        config.scaling = Some(self.scaling_config_path.clone());
        config
    }

    /// The service account's wins over the flag, as in the compatible system.
    fn namespace(&self) -> Option<String> {
        let mounted = std::fs::read_to_string(SERVICE_ACCOUNT_NAMESPACE).ok();
        let namespace = mounted.or_else(|| self.namespace.clone())?.trim().to_owned();
        (!namespace.is_empty()).then_some(namespace)
    }
}

pub(crate) async fn run(flags: Flags) -> Result<(), Error> {
    flags.log.init();
    runtime::memory::give_back();
    if flags.enable_model_autoscaling {
        warn!("--enable-model-autoscaling has no effect: replicas of models are not scaled by themselves");
    }
    super::run(async |stop| {
        let listeners = Listeners {
            xds: listen(flags.listen_host, flags.envoy_port, "--envoy-port").await?,
            control: listen(flags.listen_host, flags.scheduler_port, "--scheduler-port").await?,
            agents: listen(flags.listen_host, flags.agent_port, "--agent-port").await?,
            workers: listen(flags.listen_host, flags.dataflow_port, "--dataflow-port").await?,
        };
        let probes = listen(flags.listen_host, flags.health_probe_port, "--health-probe-port").await?;
        let config = flags.config();
        let health = Health::new();
        let counters = config.counters.clone();
        health.add_metrics(Arc::new(move |text| counters.write(text)));
        let ports = [
            ("the scheduler API", Port::Driver, &listeners.control),
            ("agents", Port::Driver, &listeners.agents),
            ("workers", Port::Driver, &listeners.workers),
            ("Envoys", Port::Envoys, &listeners.xds),
        ];
        let target =
            |(what, port, socket): (_, _, &TcpListener)| Some(Target { what, at: socket.local_addr().ok()?, port });
        let targets = ports.into_iter().filter_map(target);
        let asking = scheduler::probe(targets.collect(), health.check("scheduler"), stop.clone());
        let tasks = Tasks::new(stop.clone());
        tasks.spawn("health", OnError::StopProcess, runtime::health::serve(probes, health, stop.clone()));
        tasks.spawn("probe", OnError::StopProcess, asking);
        tasks.spawn("memory", OnError::StopProcess, runtime::memory::give_back_in_time(stop.clone()));
        let ended = scheduler::run(config, listeners, stop).await.map_err(Error::Scheduler);
        let others = tasks.finish(STOP_WITHIN).await;
        ended?;
        Ok(others?)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn a_share_is_a_part_of_one_or_a_percentage() {
        for (text, thousandths) in [("0", 0), ("0.25", 250), ("1", 1_000), ("25", 250), ("100", 1_000)] {
            assert_eq!(share(text), Ok(thousandths), "{text}");
        }
        for bad in ["", "x", "-1", "101", "NaN", "inf"] {
            assert!(share(bad).is_err(), "{bad}");
        }
    }
}
