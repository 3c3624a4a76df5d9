//! `config …`: addresses under names, one of which may be active. The same in both command lines.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::command::variable;
use crate::config::{self, Registry};
use crate::failure::Error;
use crate::output::Output;
use crate::output::json::indented;
use crate::output::table::table;
use crate::voice::Voice;

#[derive(Debug, Args)]
#[command(after_help = "A configuration is a JSON file, for example
  {\"controlplane\":{\"schedulerHost\":\"models.example:9004\"},\"dataplane\":{\"inferHost\":\"models.example:9000\"}}
and $HOME/.config/seldon/cli/configs.json says which ones there are.

Example:
  switchyard config add lab lab.json
  switchyard config activate lab")]
pub(crate) struct Group {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// List all configurations, or show one.
    #[command(after_help = "Example:\n  switchyard config list")]
    List {
        /// Key of the one to show
        key: Option<String>,
    },
    /// Add a configuration, or give its key another file.
    #[command(after_help = "Example:\n  switchyard config add lab lab.json")]
    Add {
        /// What it is called
        key: String,
        /// Its file
        path: PathBuf,
    },
    /// Make a configuration the active one.
    #[command(after_help = "Example:\n  switchyard config activate lab")]
    Activate {
        /// What it is called
        key: String,
    },
    /// Leave no configuration active.
    #[command(after_help = "Example:\n  switchyard config deactivate lab")]
    Deactivate {
        /// What it is called
        key: String,
    },
    /// Remove a configuration; its file stays.
    #[command(after_help = "Example:\n  switchyard config remove lab")]
    Remove {
        /// What it is called
        key: String,
    },
}

pub(crate) fn run(verb: Verb, voice: Voice, output: &mut Output) -> Result<(), Error> {
    let mut registry = Registry::open(&config::folder(variable)?)?;
    match verb {
        Verb::List { key: Some(key) } => output.line(&indented(registry.text(&key)?.trim_end(), voice.lists()))?,
        Verb::List { key: None } => {
            let active = |active| if active { "*" } else { "" }.to_owned();
            let row = |(key, path, is): (&str, &std::path::Path, bool)| {
                [key.to_owned(), path.display().to_string(), active(is)]
            };
            output.line(&table(["config", "path", "active"], &registry.entries().map(row).collect::<Vec<_>>()))?;
        }
        Verb::Add { key, path } => registry.add(&key, &path)?,
        Verb::Activate { key } => registry.activate(&key)?,
        Verb::Deactivate { key } => registry.deactivate(&key)?,
        Verb::Remove { key } => registry.remove(&key)?,
    }
    Ok(())
}
