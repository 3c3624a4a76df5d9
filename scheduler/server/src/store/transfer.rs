//! Looking at a store that no scheduler has open, and moving what is in it: check, export, import.
//!
//! An export is text, a JSON object a line: a head with format and schema, one line for each record (its message of
//! `switchyard.store.v1` in base64, with a summary for people), and an end with their number. It may hold credentials.

use std::fs::File;
use std::io::{BufRead, Write};
use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};

use super::{FOLDER, OpenError, SCHEMA, Store, Table, pages, record};

/// Name of the format, and its version.
const FORMAT: &str = "switchyard-store-export-1";

/// The first schema that there are exports of. Records of the later ones are read as they are.
const EXPORTED: u32 = 2;

/// Longest line that is read: the largest record in base64, and room.
const LONGEST_LINE: usize = 16 << 20;

/// What is in a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Models, removed ones included while they are listed.
    pub models: usize,
    /// Servers.
    pub servers: usize,
    /// Experiments, stopped ones included while they are listed.
    pub experiments: usize,
    /// Pipelines, removed ones included while they are listed.
    pub pipelines: usize,
    /// Number of its format.
    pub schema: u32,
    /// Bytes of its file in use.
    pub bytes: u64,
}

/// Why a store was not moved.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The store cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// There is none.
    #[error("there is no store in {0}")]
    Missing(std::path::PathBuf),
    /// Something is there already.
    #[error("the store in {0} is not empty; import into a new folder")]
    NotEmpty(std::path::PathBuf),
    /// The text cannot be read or written.
    #[error("{0}")]
    Io(&'static str, #[source] std::io::Error),
    /// A line is not what it should be.
    #[error("line {line}: {why}")]
    Line {
        /// Which one, from 1.
        line: usize,
        /// What is wrong with it.
        why: String,
    },
    /// The store did not take it.
    #[error("write the store")]
    Write(#[source] heed::Error),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    format: String,
    schema: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    kind: String,
    name: String,
    /// For people; not read.
    summary: String,
    record: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct End {
    records: usize,
}

fn existing(dir: &Path, map_bytes: u64) -> Result<Store, TransferError> {
    if !dir.join(FOLDER).join("data.mdb").is_file() {
        return Err(TransferError::Missing(dir.to_owned()));
    }
    Ok(Store::open(dir, map_bytes)?)
}

/// Verifies the whole store, structure and every record.
pub fn check(dir: &Path, map_bytes: u64) -> Result<Contents, TransferError> {
    let store = existing(dir, map_bytes)?;
    let kept = store.load()?;
    let file =
        File::open(dir.join(FOLDER).join("data.mdb")).map_err(|cause| TransferError::Io("open its file", cause))?;
    let structure = pages::verify(&file).map_err(|cause| store.bad_file(cause))?;
    Ok(Contents {
        models: kept.models.len(),
        servers: kept.servers.len(),
        experiments: kept.experiments.len(),
        pipelines: kept.pipelines.len(),
        schema: SCHEMA,
        bytes: structure.pages * structure.page_bytes,
    })
}

/// Writes everything as text; how many records there are.
pub fn export(dir: &Path, map_bytes: u64, out: &mut dyn Write) -> Result<usize, TransferError> {
    let store = existing(dir, map_bytes)?;
    let mut write =
        |value: String| writeln!(out, "{value}").map_err(|cause| TransferError::Io("write the export", cause));
    let json = |value: serde_json::Result<String>| value.map_err(|e| TransferError::Io("write the export", e.into()));
    write(json(serde_json::to_string(&Head { format: FORMAT.to_owned(), schema: SCHEMA }))?)?;
    let mut records = 0;
    for (kind, table) in Table::ALL {
        for (name, bytes) in store.records(table)? {
            let summary = record::summary(table, &bytes);
            let line = Line { kind: kind.to_owned(), name, summary, record: BASE64_STANDARD.encode(&bytes) };
            write(json(serde_json::to_string(&line))?)?;
            records += 1;
        }
    }
    write(json(serde_json::to_string(&End { records }))?)?;
    out.flush().map_err(|cause| TransferError::Io("write the export", cause))?;
    Ok(records)
}

/// Fills an empty store from a text, all of it or nothing; how many records there were.
pub fn import(dir: &Path, map_bytes: u64, text: &mut dyn BufRead) -> Result<usize, TransferError> {
    let store = Store::open(dir, map_bytes)?;
    if store.load()? != scheduler_core::Kept::default() {
        return Err(TransferError::NotEmpty(dir.to_owned()));
    }
    let mut records = Vec::new();
    let mut end = None;
    for number in 1.. {
        let bad = |why: String| TransferError::Line { line: number, why };
        let Some(line) = next_line(text).map_err(|why| bad(why.to_string()))? else { break };
        if number == 1 {
            let head: Head =
                serde_json::from_str(&line).map_err(|error| bad(format!("no head of an export: {error}")))?;
            if head.format != FORMAT || !(EXPORTED..=SCHEMA).contains(&head.schema) {
                let Head { format, schema } = head;
                return Err(bad(format!(
                    "{format} with schema {schema}; this version reads {FORMAT} with schemas {EXPORTED} to {SCHEMA}"
                )));
            }
        } else if end.is_some() {
            return Err(bad("something comes after the end".to_owned()));
        } else if let Ok(last) = serde_json::from_str::<End>(&line) {
            end = Some(last.records);
        } else {
            let line: Line = serde_json::from_str(&line).map_err(|error| bad(error.to_string()))?;
            let known = Table::ALL.into_iter().find(|(kind, _)| *kind == line.kind);
            let (_, table) = known.ok_or_else(|| bad(format!("kind: there is no {:?}", line.kind)))?;
            let bytes = BASE64_STANDARD.decode(&line.record).map_err(|error| bad(format!("record: {error}")))?;
            let name = record::name(table, &bytes).map_err(|error| bad(format!("record: {}", chain(&error))))?;
            if name != line.name {
                return Err(bad(format!("name: {:?}, but the record is of {name:?}", line.name)));
            }
            records.push((table, name, bytes));
        }
    }
    let line = records.len() + 2;
    match end {
        Some(count) if count == records.len() => {}
        Some(count) => {
            let why = format!("records: the end says {count}, there are {}", records.len());
            return Err(TransferError::Line { line, why });
        }
        None => return Err(TransferError::Line { line, why: "the end is missing: the file was cut off".to_owned() }),
    }
    store.fill(&records).map_err(TransferError::Write)?;
    Ok(records.len())
}

fn next_line(text: &mut dyn BufRead) -> std::io::Result<Option<String>> {
    let mut line = String::new();
    let read = std::io::Read::take(text, LONGEST_LINE as u64).read_line(&mut line)?;
    if read == LONGEST_LINE {
        return Err(std::io::Error::other(format!("it is longer than {LONGEST_LINE} bytes")));
    }
    Ok((read > 0).then_some(line))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
