//! `switchyard model …`: the verbs and their flags. What each does is in a file of its own.

pub(crate) mod load;
mod show;

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;

use clap::{Args, Subcommand};
use http::uri::Authority;

use super::infer::{self, Calls, Mode, Plan, Show};
use super::{Error as VerbError, file, status};
use crate::client::MAX_MESSAGE;
use crate::client::scheduler::Scheduler;
use crate::command::{FormatFlag, InferenceFlags, Installation, SchedulerFlags, WaitFlags, variable};
use crate::config::{self, Session};
use crate::failure::Error;
use crate::manifest::{self, Kind, Named};
use crate::output::Output;
use crate::voice::Voice;

pub(crate) use show::{as_text, list, metadata};

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  switchyard model load -f samples/iris.yaml --wait")]
pub(crate) struct Group {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Load the models that a file declares.
    #[command(after_help = "A relative storageUri without a scheme, such as ./models/iris, is a path beside the file.

Example:
  switchyard model load -f samples/iris.yaml --wait --timeout-secs 30")]
    Load(file::Load),
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
#[command(after_help = "Example:\n  switchyard model unload iris --wait")]
pub(crate) struct Unload {
    #[command(flatten)]
    target: file::NameOrFile,
    #[command(flatten)]
    wait: WaitFlags,
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
    /// Its name
    name: String,
    /// The request, as JSON of the Open Inference Protocol
    #[arg(value_name = "JSON", required_unless_present = "file", conflicts_with = "file")]
    request: Option<String>,
    /// File with the request; - for standard input
    #[arg(short = 'f', long = "file-path", value_name = "FILE")]
    file: Option<PathBuf>,
    /// How to call it
    #[arg(long, value_name = "MODE", default_value = "rest")]
    inference_mode: Mode,
    /// Number of calls; from two on, only a count of the ways that they took is printed
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    iterations: u32,
    /// Call for so long instead, and print only the count
    #[arg(short = 't', long, value_name = "SECONDS", conflicts_with = "iterations", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: Option<u64>,
    /// Go the way that the last sticky call went, and remember the way of this one
    #[arg(short, long)]
    sticky_session: bool,
    /// How long one call may take
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout_secs: u64,
    /// A header to send, besides or instead of those that are sent anyway; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = infer::header)]
    header: Vec<(http::HeaderName, http::HeaderValue)>,
    /// Host that calls are addressed to, when it is not the one of --inference-host
    #[arg(long, value_name = "HOST")]
    authority: Option<Authority>,
    /// Print the headers of request (>) and answer (<) on standard error
    #[arg(long)]
    show_headers: bool,
    /// Print the request
    #[arg(short = 'r', long)]
    show_request: bool,
    #[command(flatten)]
    inference: InferenceFlags,
    #[command(flatten)]
    installation: Installation,
}

pub(crate) async fn run(verb: Verb, output: &mut Output) -> Result<(), Error> {
    match verb {
        Verb::Load(flags) => file::load(flags, Some(Kind::Model), output).await,
        Verb::Unload(flags) => {
            let models = flags.target.named(Kind::Model)?;
            let scheduler = Scheduler::connect(flags.scheduler.address(&flags.installation)?).await?;
            file::remove(models, &flags.wait, scheduler, output).await
        }
        Verb::Status(flags) => {
            let what = Named::checked(Kind::Model, flags.name)?;
            let mut scheduler = Scheduler::connect(flags.scheduler.address(&flags.installation)?).await?;
            let status = status::known(&what, flags.all_versions, &mut scheduler).await?;
            Ok(output.line(&flags.output.format.pick(&status))?)
        }
        Verb::List(flags) => {
            let mut scheduler = Scheduler::connect(flags.scheduler.address(&flags.installation)?).await?;
            list(flags.output.format, Voice::Switchyard, &mut scheduler, output).await
        }
        Verb::Metadata(flags) => {
            metadata(&flags.name, flags.inference.address(&flags.installation)?, None, Voice::Switchyard, output).await
        }
        Verb::Infer(flags) => infer::run(flags.plan(|model| model)?, Voice::Switchyard, output).await,
    }
}

impl Infer {
    /// What the flags ask for of what `target` makes of the name.
    pub(crate) fn plan(self, target: impl FnOnce(String) -> String) -> Result<Plan, Error> {
        let flags = self;
        let body = match (flags.request, flags.file) {
            (Some(request), None) => request,
            (None, Some(file)) => manifest::read(&file, MAX_MESSAGE)?,
            (Some(_), Some(_)) | (None, None) => return Err(VerbError::OneRequest.into()),
        };
        let session = if flags.sticky_session { Some(Session::open(&config::folder(variable)?)) } else { None };
        Ok(Plan {
            model: target(flags.name),
            body: Bytes::from(body),
            mode: flags.inference_mode,
            address: flags.inference.address(&flags.installation)?,
            authority: flags.authority,
            timeout: Duration::from_secs(flags.timeout_secs),
            calls: flags
                .seconds
                .map_or(Calls::Count(flags.iterations), |seconds| Calls::For(Duration::from_secs(seconds))),
            headers: flags.header,
            show: Show { headers: flags.show_headers, request: flags.show_request, response: true },
            session,
        })
    }
}
