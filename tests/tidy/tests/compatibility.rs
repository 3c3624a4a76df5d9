//! `docs/compatibility.md` names tests that exist, and its rows are in order.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the workspace")
}

/// Names of all functions in Rust files below the folder.
fn functions(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("a readable entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        if path.is_dir() && !["target", ".git", "gen", "switchyard-data"].contains(&name.as_str()) {
            functions(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).expect("a readable file");
            let names = text.lines().filter_map(|line| line.split_once("fn ").map(|(_, rest)| rest));
            found.extend(names.filter_map(|rest| rest.split_once('(')).map(|(name, _)| name.trim().to_owned()));
        }
    }
}

/// Number of a row, and the letter of one that stands between two others.
type Row = (u32, String);

/// (heading, row, test) of every row of the tables.
fn rows() -> Vec<(String, Row, String)> {
    let text = std::fs::read_to_string(root().join("docs/compatibility.md")).expect("the table is there");
    let mut heading = String::new();
    let mut rows = Vec::new();
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            title.clone_into(&mut heading);
        }
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        if let [_, row, test, ..] = cells.as_slice()
            && let digits = row.trim_end_matches(|letter: char| letter.is_ascii_lowercase())
            && let Ok(number) = digits.parse()
        {
            let row = (number, row[digits.len()..].to_owned());
            rows.push((heading.clone(), row, test.trim_matches('`').to_owned()));
        }
    }
    rows
}

#[test]
fn every_row_names_a_test_that_exists() {
    let mut known = BTreeSet::new();
    functions(&root(), &mut known);
    let missing: Vec<_> = rows()
        .into_iter()
        .filter(|(_, _, test)| !known.contains(test.rsplit("::").next().unwrap_or_default()))
        .collect();
    assert!(missing.is_empty(), "no such tests: {missing:#?}");
}

#[test]
fn rows_are_in_order_and_there_once() {
    let rows = rows();
    assert!(!rows.is_empty());
    for pair in rows.windows(2) {
        let [(heading, row, _), (next_heading, next, _)] = pair else { continue };
        assert!(heading != next_heading || row < next, "{heading}: row {next:?} comes after row {row:?}");
    }
}
