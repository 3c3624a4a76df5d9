//! `switchyard onnx-server`: the built-in inference server.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;
use onnx_server::Config;

use super::{Error, LogFlags, listen};

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  switchyard onnx-server --model-folder samples/models --port 8080")]
pub(crate) struct Flags {
    /// Folder of which every sub-folder is a model that can be loaded by its name
    #[arg(long, value_name = "FOLDER", env = "SWITCHYARD_MODEL_FOLDER")]
    model_folder: PathBuf,
    /// Address to listen on
    #[arg(long, value_name = "IP", env = "SWITCHYARD_ONNX_HOST", default_value = "127.0.0.1")]
    host: IpAddr,
    /// Port for REST and gRPC
    #[arg(long, value_name = "PORT", env = "SWITCHYARD_ONNX_PORT", default_value_t = 8080)]
    port: u16,
    /// Threads that one run of a model may use
    #[arg(long, value_name = "N", env = "SWITCHYARD_ONNX_INTRA_THREADS", value_parser = threads)]
    intra_threads: Option<usize>,
    /// Runs of one model at the same time; each costs the memory of the model again
    #[arg(long, value_name = "N", env = "SWITCHYARD_ONNX_INSTANCES_PER_MODEL", value_parser = threads)]
    instances_per_model: Option<usize>,
    /// Library of ONNX Runtime [else: found on this machine, or fetched once]
    #[arg(long, value_name = "FILE")]
    runtime_library: Option<PathBuf>,
    #[command(flatten)]
    log: LogFlags,
}

/// More threads than any machine that we know has cores.
const MAX_THREADS: usize = 1024;

fn threads(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=MAX_THREADS).contains(number));
    number.ok_or_else(|| format!("must be a number from 1 to {MAX_THREADS}"))
}

impl Flags {
    fn config(&self) -> Config {
        let mut config = Config::new(&self.model_folder);
        config.intra_threads = self.intra_threads.unwrap_or(config.intra_threads);
        config.instances_per_model = self.instances_per_model.unwrap_or(config.instances_per_model);
        config.runtime_library.clone_from(&self.runtime_library);
        config
    }
}

pub(crate) async fn run(flags: Flags) -> Result<(), Error> {
    flags.log.init();
    super::run(async |stop| {
        let listener = listen(flags.host, flags.port, "--port").await?;
        onnx_server::run(flags.config(), listener, stop).await.map_err(Error::OnnxServer)
    })
    .await
}
