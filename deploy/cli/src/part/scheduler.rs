//! `switchyard scheduler`. Names of flags are the compatible ones where there are any.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;
use scheduler::envoy::AccessLog;
use scheduler::{Config, Listeners};

use super::{Error, LogFlags, listen};

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
    #[command(flatten)]
    log: LogFlags,
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
        config
    }
}

pub(crate) async fn run(flags: Flags) -> Result<(), Error> {
    flags.log.init();
    super::run(async |stop| {
        let listeners = Listeners {
            xds: listen(flags.listen_host, flags.envoy_port, "--envoy-port").await?,
            control: listen(flags.listen_host, flags.scheduler_port, "--scheduler-port").await?,
            agents: listen(flags.listen_host, flags.agent_port, "--agent-port").await?,
        };
        scheduler::run(flags.config(), listeners, stop).await.map_err(Error::Scheduler)
    })
    .await
}
