//! The program `switchyard`: the user's verbs, and the parts that it runs. Decides nothing about models: it reads
//! what is typed, calls a scheduler or Envoy, and says what they said. Called as `seldon` it is the compatible command
//! line (see `seldon`): the same verbs with other flags, words and exit status.
//!
//! Invariants: results go to standard output, everything else to standard error; the exit status is 0 only when what
//! was asked for has happened, 2 for a command line that cannot be understood, else 1.

mod address;
mod client;
mod command;
mod config;
mod failure;
mod manifest;
mod output;
mod part;
mod proto_json;
mod seldon;
mod up;
mod verb;
mod voice;
mod wait;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser as _;
use tokio::runtime::Builder;

use crate::command::{Cli, Verb};
use crate::failure::Error;
use crate::output::Output;
use crate::voice::{SELDON, Voice};

/// Runs the command line `arguments` (the first one is the program's name).
pub fn start(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let called_as = arguments.first().and_then(|program| Path::new(program).file_name());
    if called_as.is_some_and(|name| name == SELDON) {
        return seldon::start(arguments);
    }
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(usage) => {
            // Fails when nobody reads any more; then there is nobody to tell.
            let _ = usage.print();
            return ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(1));
        }
    };
    if let Verb::RunChild { arguments } = cli.verb {
        return part::run_child(arguments);
    }
    match run(cli.verb) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever closed the pipe has read enough (`switchyard model list | head -1`).
        Err(error) if error.is_closed_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(&runtime::chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<(), Error> {
    match verb {
        Verb::Model(model) => block_on(verb::model::run(model.verb, &mut Output::stdout())),
        Verb::Pipeline(pipeline) => block_on(verb::pipeline::run(pipeline.verb, &mut Output::stdout())),
        Verb::Doctor(flags) => block_on(verb::doctor::run(*flags, &mut Output::stdout())),
        Verb::Experiment(experiment) => block_on(verb::experiment::run(experiment.verb, &mut Output::stdout())),
        Verb::Load(flags) => block_on(verb::file::load(flags, None, &mut Output::stdout())),
        Verb::Unload(flags) => block_on(verb::file::unload(flags, &mut Output::stdout())),
        Verb::Status(flags) => block_on(verb::file::status(flags, &mut Output::stdout())),
        Verb::Config(config) => verb::config::run(config.verb, Voice::Switchyard, &mut Output::stdout()),
        Verb::Envoy(envoy) => block_on(verb::envoy::run(envoy.verb, &mut Output::stdout())),
        Verb::Server(server) => block_on(verb::server::run(server.verb, &mut Output::stdout())),
        Verb::Store(store) => verb::store::run(store.verb, &mut Output::stdout()),
        Verb::Up(flags) => serve(up::run(*flags)),
        Verb::Scheduler(flags) => serve(part::scheduler::run(flags)),
        Verb::Agent(flags) => serve(part::agent::run(flags)),
        Verb::OnnxServer(flags) => serve(part::onnx_server::run(flags)),
        Verb::RunChild { .. } => Ok(()), // it has no runtime and an exit status of its own
    }
}

/// A verb: one call after the other.
fn block_on(work: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.map_err(Error::Runtime)?.block_on(work)
}

/// A part: a thread for each core.
fn serve<E>(work: impl Future<Output = Result<(), E>>) -> Result<(), Error>
where
    Error: From<E>,
{
    let runtime = Builder::new_multi_thread().enable_all().build();
    Ok(runtime.map_err(Error::Runtime)?.block_on(work)?)
}
