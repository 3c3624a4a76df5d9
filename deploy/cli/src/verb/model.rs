//! `switchyard model …`: the verbs and their flags. What each does is in a file of its own.

mod infer;
pub(crate) mod load;
mod show;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::command::{FormatFlag, InferenceFlags, Installation, SchedulerFlags};
use crate::failure::Error;
use crate::output::Output;

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  switchyard model load -f samples/iris.yaml --wait")]
pub(crate) struct Group {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Load the models that a file declares.
    Load(Load),
    /// Unload models.
    Unload(Unload),
    /// Show the state of a model.
    Status(Status),
    /// List all models.
    List(List),
    /// Show what a model takes and gives.
    Metadata(Metadata),
    /// Send a request to a model.
    Infer(Infer),
}

#[derive(Debug, Args)]
#[command(after_help = "A relative storageUri without a scheme, such as ./models/iris, is a path beside the file.

Example:
  switchyard model load -f samples/iris.yaml --wait --timeout-secs 30")]
pub(crate) struct Load {
    /// Manifest of one or more models; - for standard input
    #[arg(short = 'f', long = "file-path", value_name = "FILE")]
    file: PathBuf,
    /// Return when the models answer through Envoy
    #[arg(short, long)]
    wait: bool,
    /// How long to wait
    #[arg(short, long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout_secs: u64,
    #[command(flatten)]
    scheduler: SchedulerFlags,
    #[command(flatten)]
    inference: InferenceFlags,
    #[command(flatten)]
    installation: Installation,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  switchyard model unload iris --wait")]
pub(crate) struct Unload {
    /// Name of the model
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    name: Option<String>,
    /// Manifest of the models; - for standard input
    #[arg(short = 'f', long = "file-path", value_name = "FILE")]
    file: Option<PathBuf>,
    /// Return when the models are gone
    #[arg(short, long)]
    wait: bool,
    /// How long to wait
    #[arg(short, long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout_secs: u64,
    #[command(flatten)]
    scheduler: SchedulerFlags,
    #[command(flatten)]
    installation: Installation,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  switchyard model status iris -o json | jq -r '.versions[0].state.state'")]
pub(crate) struct Status {
    /// Name of the model
    name: String,
    /// Show older versions too
    #[arg(long)]
    all_versions: bool,
    #[command(flatten)]
    output: FormatFlag,
    #[command(flatten)]
    scheduler: SchedulerFlags,
    #[command(flatten)]
    installation: Installation,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  switchyard model list -o json | jq -r '.[].modelName'")]
pub(crate) struct List {
    #[command(flatten)]
    output: FormatFlag,
    #[command(flatten)]
    scheduler: SchedulerFlags,
    #[command(flatten)]
    installation: Installation,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  switchyard model metadata iris")]
pub(crate) struct Metadata {
    /// Name of the model
    name: String,
    #[command(flatten)]
    inference: InferenceFlags,
    #[command(flatten)]
    installation: Installation,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  switchyard model infer iris '{\"inputs\":[{\"name\":\"X\",\"datatype\":\"FP32\",\"shape\":[1,4],\"data\":[5.1,3.5,1.4,0.2]}]}'")]
pub(crate) struct Infer {
    /// Name of the model
    name: String,
    /// The request, as JSON of the Open Inference Protocol
    #[arg(value_name = "JSON", required_unless_present = "file", conflicts_with = "file")]
    request: Option<String>,
    /// File with the request; - for standard input
    #[arg(short = 'f', long = "file-path", value_name = "FILE")]
    file: Option<PathBuf>,
    /// How to call the model
    #[arg(long, value_name = "MODE", default_value = "rest")]
    inference_mode: infer::Mode,
    /// Number of calls; from two on, only a count of the ways that they took is printed
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    iterations: u32,
    /// How long one call may take
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout_secs: u64,
    /// A header to send, besides or instead of those that are sent anyway; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = infer::header)]
    header: Vec<(http::HeaderName, http::HeaderValue)>,
    /// Print the headers of request (>) and answer (<) on standard error
    #[arg(long)]
    show_headers: bool,
    #[command(flatten)]
    inference: InferenceFlags,
    #[command(flatten)]
    installation: Installation,
}

pub(crate) async fn run(verb: Verb, output: &mut Output) -> Result<(), Error> {
    match verb {
        Verb::Load(load) => load::load(load, output).await,
        Verb::Unload(unload) => load::unload(unload, output).await,
        Verb::Status(status) => show::status(status, output).await,
        Verb::List(list) => show::list(list, output).await,
        Verb::Metadata(metadata) => show::metadata(metadata, output).await,
        Verb::Infer(infer) => infer::infer(infer, output).await,
    }
}
