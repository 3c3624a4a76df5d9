//! The state of a scheduler that does not run: the verbs of `switchyard store …`.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use scheduler::STORE_BYTES;
use scheduler::store::{self, TransferError};

use crate::failure::Error;
use crate::output::Output;

/// An export may hold credentials: it is its owner's alone.
const MODE: u32 = 0o600;

#[derive(Debug, Args)]
#[command(after_help = "Example:
  switchyard store export ./switchyard-data backup.jsonl
  switchyard store import backup.jsonl ./restored")]
pub(crate) struct Group {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Verify a store and every record in it; nothing is changed.
    #[command(after_help = "Example:\n  switchyard store check ./switchyard-data")]
    Check(Folder),
    /// Write everything in a store as text; it may hold credentials.
    #[command(after_help = "Without a file it goes to standard output.

Example:
  switchyard store export ./switchyard-data backup.jsonl")]
    Export(Export),
    /// Fill a new store from an export.
    #[command(after_help = "Example:\n  switchyard store import backup.jsonl ./restored")]
    Import(Import),
}

#[derive(Debug, Args)]
pub(crate) struct Folder {
    /// Folder of the scheduler's state (`--db-path`, or `--dir` of `switchyard up`)
    #[arg(value_name = "FOLDER")]
    dir: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    #[command(flatten)]
    folder: Folder,
    /// File to write; it must not be there yet
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Import {
    /// File that an export wrote
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    folder: Folder,
}

/// Why a store was not looked at or moved.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error(transparent)]
    Transfer(#[from] TransferError),
    #[error("open {path}")]
    File {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
}

pub(crate) fn run(verb: Verb, output: &mut Output) -> Result<(), Error> {
    let told = work(verb)?;
    Ok(output.line(&told)?)
}

/// Does it, and says what was done.
fn work(verb: Verb) -> Result<String, StoreError> {
    Ok(match verb {
        Verb::Check(Folder { dir }) => {
            let found = store::check(&dir, STORE_BYTES)?;
            format!(
                "sound: {} models, {} servers, {} experiments, {} pipelines in {} bytes, schema {}",
                found.models, found.servers, found.experiments, found.pipelines, found.bytes, found.schema
            )
        }
        Verb::Export(Export { folder: Folder { dir }, file: None }) => {
            let mut text = Vec::new();
            store::export(&dir, STORE_BYTES, &mut text)?;
            String::from_utf8_lossy(&text).trim_end().to_owned()
        }
        Verb::Export(Export { folder: Folder { dir }, file: Some(path) }) => {
            let opened = OpenOptions::new().write(true).create_new(true).mode(MODE).open(&path);
            let mut file = opened.map_err(|cause| StoreError::File { path: path.clone(), cause })?;
            let records = store::export(&dir, STORE_BYTES, &mut io::BufWriter::new(&mut file)).inspect_err(|_| {
                // Half an export is none; the first error is the one that counts.
                let _ = std::fs::remove_file(&path);
            })?;
            file.sync_all().map_err(|cause| StoreError::File { path: path.clone(), cause })?;
            format!("{records} records in {}", path.display())
        }
        Verb::Import(Import { file: path, folder: Folder { dir } }) => {
            let file = File::open(&path).map_err(|cause| StoreError::File { path, cause })?;
            let records = store::import(&dir, STORE_BYTES, &mut BufReader::new(file))?;
            format!("{records} records in {}", dir.display())
        }
    })
}
