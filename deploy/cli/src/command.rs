//! The command line as clap sees it: the tree of verbs and the flags that several of them share. Flags of one verb
//! are declared beside it.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::address::{self, Address, Place, Target};
use crate::client::log::Log;
use crate::client::scheduler::Scheduler;
use crate::failure::Error;
use crate::{part, up, verb};

/// Serves machine-learning models behind Envoy.
#[derive(Debug, Parser)]
#[command(name = "switchyard", version, about, after_help = EXAMPLE)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

const EXAMPLE: &str = "Example:
  switchyard model load -f samples/iris.yaml --wait
  switchyard model infer iris '{\"inputs\":[{\"name\":\"X\",\"datatype\":\"FP32\",\"shape\":[1,4],\"data\":[5.1,3.5,1.4,0.2]}]}'";

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run everything on this machine.
    Up(Box<up::Flags>),
    /// Load, inspect and call models.
    Model(verb::model::Group),
    /// Load, inspect and call pipelines.
    Pipeline(verb::pipeline::Group),
    /// Split traffic over models or pipelines.
    Experiment(verb::experiment::Group),
    /// Inspect and scale servers.
    Server(verb::server::Group),
    /// See what each Envoy has, what is on its way, and what it refused.
    Envoy(verb::envoy::Group),
    /// Find out where a request for a pipeline stops.
    Doctor(Box<verb::doctor::Flags>),
    /// Declare everything that a file has.
    #[command(after_help = "Documents may be models, pipelines, experiments and servers.

Example:
  switchyard load -f everything.yaml --wait")]
    Load(verb::file::Load),
    /// Remove everything that a file has.
    #[command(
        after_help = "Experiments stop first, then pipelines and models are unloaded; servers are asked to have no replicas.

Example:
  switchyard unload -f everything.yaml --wait"
    )]
    Unload(verb::file::Unload),
    /// Show the state of everything that a file has.
    #[command(after_help = "Example:\n  switchyard status -f everything.yaml --wait")]
    Status(verb::file::Status),
    /// Keep addresses under names, and choose one of them.
    Config(verb::config::Group),
    /// Verify, export and import the state of a scheduler that does not run.
    Store(verb::store::Group),
    /// Run a scheduler.
    Scheduler(part::scheduler::Flags),
    /// Run an agent beside an inference server.
    Agent(part::agent::Flags),
    /// Run the built-in inference server.
    OnnxServer(part::onnx_server::Flags),
    /// Becomes a child process that ends with its parent; for the program itself.
    #[command(hide = true)]
    RunChild {
        /// The parent's process id, `--`, the program and its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, num_args = 0..)]
        arguments: Vec<OsString>,
    },
}

/// How a verb prints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON document, with the field names of the API.
    Json,
}

/// `-o`.
#[derive(Debug, Args)]
pub(crate) struct FormatFlag {
    /// How to print
    #[arg(short = 'o', long = "output", value_name = "FORMAT", default_value = "text")]
    pub(crate) format: Format,
}

/// Where a running installation wrote its addresses.
#[derive(Debug, Args)]
pub(crate) struct Installation {
    /// Folder of the installation started by `switchyard up`; its endpoints.json says where it listens
    #[arg(long, value_name = "FOLDER", env = "SWITCHYARD_DIR", default_value = "./switchyard-data")]
    pub(crate) dir: PathBuf,
}

/// Whether and how long a verb waits for what it asked for.
#[derive(Debug, Args)]
pub(crate) struct WaitFlags {
    /// Return when it has happened
    #[arg(short, long)]
    pub(crate) wait: bool,
    /// How long to wait
    #[arg(short, long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) timeout_secs: u64,
}

/// How to reach the scheduler.
#[derive(Debug, Args)]
pub(crate) struct SchedulerFlags {
    /// Address of the scheduler [else: endpoints.json in --dir, the active config, $SELDON_SCHEDULE_HOST, 127.0.0.1:9004]
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) scheduler_host: Option<String>,
}

/// How to reach the log.
#[derive(Debug, Args)]
pub(crate) struct LogFlags {
    /// Address of the log [else: endpoints.json in --dir, $SWITCHYARD_LOG_HOST, 127.0.0.1:9012]
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) log_host: Option<String>,
}

/// How to reach what knows a pipeline and its records.
#[derive(Debug, Args)]
pub(crate) struct RecordFlags {
    #[command(flatten)]
    pub(crate) log: LogFlags,
    #[command(flatten)]
    pub(crate) scheduler: SchedulerFlags,
    #[command(flatten)]
    pub(crate) installation: Installation,
}

impl RecordFlags {
    /// The log.
    pub(crate) async fn log(&self) -> Result<Log, Error> {
        Ok(Log::connect(self.log.address(&self.installation)?).await?)
    }

    /// The scheduler.
    pub(crate) async fn scheduler(&self) -> Result<Scheduler, Error> {
        Ok(Scheduler::connect(self.scheduler.address(&self.installation)?).await?)
    }
}

impl LogFlags {
    pub(crate) fn address(&self, installation: &Installation) -> Result<Address, address::Error> {
        address::find(Target::Log, self.log_host.as_deref(), Place::Installation(&installation.dir), variable)
    }
}

/// How to reach the models.
#[derive(Debug, Args)]
pub(crate) struct InferenceFlags {
    /// Address of Envoy [else: endpoints.json in --dir, the active config, $SELDON_INFER_HOST, 127.0.0.1:9000]
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) inference_host: Option<String>,
}

impl SchedulerFlags {
    pub(crate) fn address(&self, installation: &Installation) -> Result<Address, address::Error> {
        address::find(
            Target::Scheduler,
            self.scheduler_host.as_deref(),
            Place::Installation(&installation.dir),
            variable,
        )
    }
}

impl InferenceFlags {
    pub(crate) fn address(&self, installation: &Installation) -> Result<Address, address::Error> {
        address::find(
            Target::Inference,
            self.inference_host.as_deref(),
            Place::Installation(&installation.dir),
            variable,
        )
    }
}

/// The environment.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::Cli;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_help_of_every_verb_ends_with_an_example() {
        fn check(command: &mut clap::Command) {
            let help = command.render_help().to_string();
            assert!(help.contains("Example:\n  switchyard "), "{help}");
            for verb in command.get_subcommands_mut().filter(|verb| verb.get_name() != "help" && !verb.is_hide_set()) {
                check(verb);
            }
        }
        check(&mut Cli::command());
    }
}
