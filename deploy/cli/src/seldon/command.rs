//! The tree of commands and flags, as the compatible program has it. A flag for a truth value may be given as `--flag`
//! or `--flag=false`, never with a space; of a flag that is given twice the last one counts.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use http::{HeaderName, HeaderValue};

use super::truth;
use crate::verb;
use crate::verb::infer::{Mode, header};
use crate::verb::inspect::Query;

/// Loads, inspects and calls models. The compatible command line of Switchyard.
#[derive(Debug, Parser)]
#[command(name = "seldon", about, args_override_self = true)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Load the resources of a file
    Load(WriteFile),
    /// Unload the resources of a file
    Unload(WriteFile),
    /// Show the status of the resources of a file
    Status(StatusFile),
    /// Models
    Model(Group<Model>),
    /// Pipelines
    Pipeline(Group<Pipeline>),
    /// Experiments
    Experiment(Group<Experiment>),
    /// Servers
    Server(Group<Server>),
    /// Configurations: addresses under names
    Config(Group<Config>),
    /// Print a script that completes commands in a shell
    Completion(Completion),
}

#[derive(Debug, Args)]
pub(super) struct Group<T: Subcommand> {
    #[command(subcommand)]
    pub(super) verb: T,
}

#[derive(Debug, Subcommand)]
pub(super) enum Model {
    /// Load the models of a file
    Load(WriteFile),
    /// Unload a model
    Unload(WriteNamed),
    /// Show the status of a model
    Status(StateOf),
    /// List all models
    List(Control),
    /// Show what a model takes and gives
    Metadata(Metadata),
    /// Send a request to a model
    Infer(Box<Infer>),
}

#[derive(Debug, Subcommand)]
pub(super) enum Experiment {
    /// Start the experiments of a file
    Start(WriteFile),
    /// Stop an experiment
    Stop(WriteNamed),
    /// Show the status of an experiment
    Status(ExperimentStatus),
    /// List all experiments
    List(Control),
}

#[derive(Debug, Subcommand)]
pub(super) enum Server {
    /// Show the status of a server
    Status(ServerStatus),
    /// List all servers
    List(Control),
}

#[derive(Debug, Subcommand)]
pub(super) enum Pipeline {
    /// Load the pipelines of a file
    Load(WriteFile),
    /// Unload a pipeline
    Unload(WriteNamed),
    /// Show the status of a pipeline
    Status(StateOf),
    /// List all pipelines
    List(Control),
    /// Send a request to a pipeline
    Infer(Box<Infer>),
    /// Show what is in the topics of a pipeline
    Inspect(Box<Inspect>),
}

#[derive(Debug, Args)]
pub(super) struct Inspect {
    #[command(flatten)]
    pub(super) query: Query,
    /// Address of the log [else: $SWITCHYARD_LOG_HOST, 0.0.0.0:9012]
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) kafka_broker: Option<String>,
    /// Accepted for compatibility; the log needs no configuration
    #[arg(long, value_name = "FILE", default_value = "", hide_default_value = true)]
    pub(super) kafka_config_path: String,
    /// Namespace in the names of topics
    #[arg(long, value_name = "NAME", env = "POD_NAMESPACE", default_value = "default")]
    pub(super) namespace: String,
    /// How long to wait
    #[arg(short = 'd', long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(super) timeout_secs: u64,
    #[command(flatten)]
    pub(super) control: Control,
}

#[derive(Debug, Subcommand)]
pub(super) enum Config {
    /// List all configurations, or show one
    List { key: Option<String> },
    /// Add a configuration
    Add { key: String, path: PathBuf },
    /// Make a configuration the active one
    Activate { key: String },
    /// Leave no configuration active
    Deactivate { key: String },
    /// Remove a configuration
    Remove { key: String },
}

#[derive(Debug, Args)]
pub(super) struct Completion {
    pub(super) shell: clap_complete::Shell,
}

/// How the scheduler is reached.
#[derive(Debug, Args)]
pub(super) struct Control {
    /// Address of the scheduler [else: the active config, $SELDON_SCHEDULE_HOST, 0.0.0.0:9004]
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) scheduler_host: Option<String>,
    /// Authority (HTTP/2) that calls are addressed to
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(super) authority: String,
    /// Print requests and answers
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, value_parser = truth, action = clap::ArgAction::Set, value_name = "BOOL")]
    pub(super) verbose: bool,
}

/// Says that one knows that Kubernetes is bypassed.
#[derive(Debug, Args)]
pub(super) struct Force {
    /// Do it, although Kubernetes will not know of it [or: SELDON_FORCE_CONTROL_PLANE=true]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, value_parser = truth, action = clap::ArgAction::Set, value_name = "BOOL")]
    pub(super) force: bool,
}

#[derive(Debug, Args)]
pub(super) struct WriteFile {
    /// Manifest with one or more documents; - for standard input
    #[arg(short = 'f', long, value_name = "FILE")]
    pub(super) file_path: PathBuf,
    #[command(flatten)]
    pub(super) force: Force,
    #[command(flatten)]
    pub(super) control: Control,
}

#[derive(Debug, Args)]
pub(super) struct WriteNamed {
    /// Name of the resource
    pub(super) name: Option<String>,
    /// Manifest with one or more documents; - for standard input
    #[arg(short = 'f', long, value_name = "FILE", conflicts_with = "name")]
    pub(super) file_path: Option<PathBuf>,
    #[command(flatten)]
    pub(super) force: Force,
    #[command(flatten)]
    pub(super) control: Control,
}

/// How long is waited.
#[derive(Debug, Args)]
pub(super) struct Timeout {
    /// How long to wait
    #[arg(short, long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(0..=86_400))]
    pub(super) timeout_secs: u64,
}

#[derive(Debug, Args)]
pub(super) struct StatusFile {
    /// Manifest with one or more documents; - for standard input
    #[arg(short = 'f', long, value_name = "FILE")]
    pub(super) file_path: PathBuf,
    /// Wait until all is ready
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, value_parser = truth, action = clap::ArgAction::Set, value_name = "BOOL")]
    pub(super) wait: bool,
    #[command(flatten)]
    pub(super) timeout: Timeout,
    #[command(flatten)]
    pub(super) control: Control,
}

#[derive(Debug, Args)]
pub(super) struct StateOf {
    /// Its name
    pub(super) name: String,
    /// Wait for this state, such as ModelAvailable or PipelineReady
    #[arg(short, long, value_name = "STATE", default_value = "", hide_default_value = true)]
    pub(super) wait: String,
    #[command(flatten)]
    pub(super) timeout: Timeout,
    #[command(flatten)]
    pub(super) control: Control,
}

#[derive(Debug, Args)]
pub(super) struct ExperimentStatus {
    /// Name of the experiment
    pub(super) name: String,
    /// Wait until it is active
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, value_parser = truth, action = clap::ArgAction::Set, value_name = "BOOL")]
    pub(super) wait: bool,
    #[command(flatten)]
    pub(super) timeout: Timeout,
    #[command(flatten)]
    pub(super) control: Control,
}

/// What is printed.
#[derive(Debug, Args)]
pub(super) struct Shown {
    /// Print the request
    #[arg(short = 'r', long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, value_parser = truth, action = clap::ArgAction::Set, value_name = "BOOL")]
    pub(super) show_request: bool,
    /// Print the answer
    #[arg(short = 'o', long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "true", value_parser = truth, action = clap::ArgAction::Set, value_name = "BOOL")]
    pub(super) show_response: bool,
}

#[derive(Debug, Args)]
pub(super) struct ServerStatus {
    /// Name of the server
    pub(super) name: String,
    #[command(flatten)]
    pub(super) shown: Shown,
    #[command(flatten)]
    pub(super) control: Control,
}

/// How models are reached.
#[derive(Debug, Args)]
pub(super) struct Inference {
    /// Address of Envoy [else: the active config, $SELDON_INFER_HOST, 0.0.0.0:9000]
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) inference_host: Option<String>,
    /// Authority that calls are addressed to
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(super) authority: String,
}

#[derive(Debug, Args)]
pub(super) struct Metadata {
    /// Name of the model
    pub(super) name: String,
    #[command(flatten)]
    pub(super) inference: Inference,
}

#[derive(Debug, Args)]
pub(super) struct Infer {
    /// Its name
    pub(super) name: String,
    /// The request, as JSON
    pub(super) data: Option<String>,
    /// File with the request
    #[arg(short = 'f', long, value_name = "FILE", default_value = "", hide_default_value = true)]
    pub(super) file_path: String,
    /// rest or grpc
    #[arg(long, value_name = "MODE", default_value = "rest")]
    pub(super) inference_mode: Mode,
    /// Number of calls
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) iterations: u32,
    /// Call for so many seconds instead
    #[arg(short = 't', long, value_name = "SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=86_400))]
    pub(super) seconds: u64,
    /// Send the stored x-seldon-route, and store the new one
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, value_parser = truth, action = clap::ArgAction::Set, value_name = "BOOL")]
    pub(super) sticky_session: bool,
    /// Print the headers of request (>) and answer (<)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, value_parser = truth, action = clap::ArgAction::Set, value_name = "BOOL")]
    pub(super) show_headers: bool,
    /// A header to send; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = header, action = clap::ArgAction::Append)]
    pub(super) header: Vec<(HeaderName, HeaderValue)>,
    #[command(flatten)]
    pub(super) shown: Shown,
    #[command(flatten)]
    pub(super) inference: Inference,
}

impl From<Config> for verb::config::Verb {
    fn from(verb: Config) -> Self {
        match verb {
            Config::List { key } => verb::config::Verb::List { key },
            Config::Add { key, path } => verb::config::Verb::Add { key, path },
            Config::Activate { key } => verb::config::Verb::Activate { key },
            Config::Deactivate { key } => verb::config::Verb::Deactivate { key },
            Config::Remove { key } => verb::config::Verb::Remove { key },
        }
    }
}
