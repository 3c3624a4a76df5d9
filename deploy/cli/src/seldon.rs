//! The compatible command line: what the program is when it is called as `seldon`. Its verbs are those of `verb`; here
//! are its flags, its guard and its way of ending.
//!
//! Invariants: the exit status is 0 or 255; an error is one `Error: …` on standard error; without `--force` nothing is
//! written to a scheduler.

mod command;
mod control;
mod infer;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

use crate::command::variable;
use crate::manifest::Kind;
use crate::output::{self, Output};
use crate::voice::{Voice, compatible};
use crate::{block_on, failure, verb};

use command::{Cli, Verb};

/// The exit status of every error: the compatible program ends with -1.
const FAILED: u8 = 255;
/// Means `--force`.
const FORCE: &str = "SELDON_FORCE_CONTROL_PLANE";
/// What every write says first, on standard output as scripts expect.
const WARNING: &str = "Warning: this goes to the scheduler directly, so Kubernetes does not know of it";

/// What only this command line refuses.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("--namespace")]
    Namespace(#[source] domain::BadTopicPart),
    #[error("nothing came of it within {0} s (--timeout-secs)")]
    TooSlow(u64),
    #[error("{FORCE} is {text:?}: it must be true or false")]
    Force { text: String },
    #[error("{text:?} (--wait) is no state of a {kind}: it must be one of {}", .known.join(", "))]
    State { kind: Kind, text: String, known: Vec<&'static str> },
}

/// Runs the command line `arguments` (the first one is the program's name).
pub(crate) fn start(arguments: Vec<OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(usage) if usage.exit_code() == 0 => {
            // Help. When nobody reads any more, there is nobody to tell.
            let _ = usage.print();
            return ExitCode::SUCCESS;
        }
        Err(usage) => {
            let text = usage.render().to_string();
            let text = match usage.kind() {
                clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                    format!("a sub-command is missing\n\n{text}")
                }
                _ => text.strip_prefix("error: ").unwrap_or(&text).to_owned(),
            };
            output::complain(text.trim_end());
            return ExitCode::from(FAILED);
        }
    };
    match run(cli.verb) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever closed the pipe has read enough.
        Err(error) if error.is_closed_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(&compatible(&error));
            ExitCode::from(FAILED)
        }
    }
}

fn run(verb: Verb) -> Result<(), failure::Error> {
    let output = &mut Output::stdout();
    match verb {
        Verb::Load(flags) => block_on(control::load(flags, None, output)),
        Verb::Unload(flags) => block_on(control::unload_file(flags, output)),
        Verb::Status(flags) => block_on(control::status_file(flags, output)),
        Verb::Model(group) => block_on(control::model(group.verb, output)),
        Verb::Experiment(group) => block_on(control::experiment(group.verb, output)),
        Verb::Server(group) => block_on(control::server(group.verb, output)),
        Verb::Pipeline(group) => block_on(control::pipeline(group.verb, output)),
        Verb::Config(group) => verb::config::run(group.verb.into(), Voice::Seldon { verbose: false }, output),
        Verb::Completion(flags) => {
            let mut command = Cli::command();
            let mut script = Vec::new();
            clap_complete::generate(flags.shell, &mut command, "seldon", &mut script);
            Ok(output.line(String::from_utf8_lossy(&script).trim_end())?)
        }
    }
}

/// Whether a write may go on; says that it bypasses Kubernetes either way.
fn may_write(force: bool, output: &mut Output) -> Result<bool, failure::Error> {
    let force = force
        || match variable(FORCE).filter(|text| !text.is_empty()) {
            Some(text) => truth(&text).map_err(|_| Error::Force { text: text.chars().take(64).collect() })?,
            None => false,
        };
    if force {
        output.line(WARNING)?;
    } else {
        output.line(&format!("{WARNING}. Nothing was done; do it with --force or {FORCE}=true"))?;
    }
    Ok(force)
}

/// A truth value in any of the ways that the compatible program reads.
fn truth(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("it must be true or false".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::command::Cli;
    use super::truth;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn truth_is_read_as_the_compatible_program_reads_it() {
        for text in ["1", "t", "T", "true", "TRUE", "True"] {
            assert_eq!(truth(text), Ok(true));
        }
        for text in ["0", "f", "F", "false", "FALSE", "False"] {
            assert_eq!(truth(text), Ok(false));
        }
        for text in ["", "yes", "tRUE", "2"] {
            assert!(truth(text).is_err(), "{text}");
        }
    }

    /// Every command with its flags: long, short, default, and `!` where the flag is required.
    #[test]
    fn every_command_and_flag_of_the_compatible_program_is_there() {
        let control = "scheduler-host authority= verbose/v=false";
        let write = format!("file-path/f! force=false {control}");
        let by_name = format!("NAME file-path/f force=false {control}");
        let infer = "inference-host";
        let calls = format!(
            "NAME! DATA file-path/f= inference-mode=rest {infer} iterations/i=1 seconds/t=0 sticky-session/s=false \
             show-headers=false header show-request/r=false show-response/o=true authority="
        );
        let expected = [
            ("load", write.clone()),
            ("unload", write.clone()),
            ("status", format!("file-path/f! wait/w=false timeout-secs/t=5 {control}")),
            ("model load", write.clone()),
            ("model unload", by_name.clone()),
            ("model status", format!("NAME! wait/w= timeout-secs/t=5 {control}")),
            ("model list", control.to_owned()),
            ("model metadata", format!("NAME! {infer} authority=")),
            ("model infer", calls.clone()),
            ("pipeline load", write.clone()),
            ("pipeline unload", by_name.clone()),
            ("pipeline status", format!("NAME! wait/w= timeout-secs/t=5 {control}")),
            ("pipeline list", control.to_owned()),
            ("pipeline infer", calls),
            (
                "pipeline inspect",
                format!(
                    "EXPRESSION! offset=1 request-id format=raw truncate/t=false kafka-broker kafka-config-path= \
                     namespace=default timeout-secs/d=5 {control}"
                ),
            ),
            ("experiment start", write),
            ("experiment stop", by_name),
            ("experiment status", format!("NAME! wait/w=false timeout-secs/t=5 {control}")),
            ("experiment list", control.to_owned()),
            ("server status", format!("NAME! show-request/r=false show-response/o=true {control}")),
            ("server list", control.to_owned()),
            ("config list", "KEY".to_owned()),
            ("config add", "KEY! PATH!".to_owned()),
            ("config activate", "KEY!".to_owned()),
            ("config deactivate", "KEY!".to_owned()),
            ("config remove", "KEY!".to_owned()),
            ("completion", "SHELL!".to_owned()),
        ];
        let mut root = Cli::command();
        root.build();
        for (path, flags) in &expected {
            let mut command = &root;
            for word in path.split(' ') {
                command = command.find_subcommand(word).unwrap_or_else(|| unreachable!("{path} is missing"));
            }
            let shown =
                command.get_arguments().filter(|argument| !argument.is_hide_set() && argument.get_id() != "help");
            let mut found: Vec<String> = shown.map(describe).collect();
            let mut wanted: Vec<String> = flags.split_whitespace().map(str::to_owned).collect();
            found.sort();
            wanted.sort();
            assert_eq!(found, wanted, "{path}");
        }
        let leaves = |command: &clap::Command| {
            let groups = command.get_subcommands().filter(|command| command.get_name() != "help");
            groups.map(|group| group.get_subcommands().filter(|c| c.get_name() != "help").count().max(1)).sum::<usize>()
        };
        assert_eq!(leaves(&root), expected.len(), "no other commands");
    }

    fn describe(argument: &clap::Arg) -> String {
        let name = match argument.get_long() {
            Some(long) => long.to_owned(),
            None => argument.get_id().to_string().to_uppercase(),
        };
        let short = argument.get_short().map(|short| format!("/{short}")).unwrap_or_default();
        let default = argument.get_default_values().first().map(|value| format!("={}", value.to_string_lossy()));
        let required = if argument.is_required_set() { "!" } else { "" };
        format!("{name}{short}{required}{}", default.unwrap_or_default())
    }
}
