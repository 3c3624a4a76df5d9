//! What every source file of this repository looks like.

use std::path::{Path, PathBuf};

/// Above this something else is hiding in a file.
const LONGEST_FILE: usize = 500;

/// Folders that are never read: build output, generated code, and what a run of command one leaves.
const LEFT_OUT: &[&str] = &["target", ".git", "gen", "switchyard-data"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the workspace")
}

fn files(dir: &Path, extensions: &[&str], found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a readable folder") {
        let path = entry.expect("a readable entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        if path.is_dir() {
            if !LEFT_OUT.contains(&name.as_str()) {
                files(&path, extensions, found);
            }
        } else if path.extension().is_some_and(|extension| extensions.iter().any(|wanted| extension == *wanted)) {
            found.push(path);
        }
    }
}

fn rust_files() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    files(&root(), &["rs"], &mut found);
    found.into_iter().map(|path| (path.clone(), std::fs::read_to_string(path).expect("a readable file"))).collect()
}

/// The lines that ship: before the file's own test module, in a `src` folder that is not below `tests`.
fn production(path: &Path, text: &str) -> Vec<(usize, String)> {
    let relative = path.strip_prefix(root()).expect("a path of ours");
    if relative.starts_with("tests") || relative.components().any(|part| part.as_os_str() == "tests") {
        return Vec::new();
    }
    let lines = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]"));
    lines.enumerate().map(|(index, line)| (index + 1, line.to_owned())).collect()
}

fn check(rule: &str, is_wrong: impl Fn(&Path, &str) -> bool) {
    let mut wrong = Vec::new();
    for (path, text) in rust_files() {
        for (number, line) in production(&path, &text) {
            if is_wrong(&path, line.trim()) {
                wrong.push(format!("{}:{number}: {}", path.display(), line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "{rule}:\n{}", wrong.join("\n"));
}

#[test]
fn every_file_says_what_it_is() {
    let silent: Vec<PathBuf> =
        rust_files().into_iter().filter(|(_, text)| !text.starts_with("//!")).map(|(path, _)| path).collect();
    assert!(silent.is_empty(), "files without a //! at their top: {silent:#?}");
}

#[test]
fn no_file_hides_something_else() {
    let long: Vec<(PathBuf, usize)> = rust_files()
        .into_iter()
        .map(|(path, text)| (path.clone(), production(&path, &text).len()))
        .filter(|(_, lines)| *lines > LONGEST_FILE)
        .collect();
    assert!(long.is_empty(), "split these by noun: {long:#?}");
}

#[test]
fn no_module_is_named_for_what_it_is_not() {
    let vague = ["utils", "util", "common", "helpers", "types", "misc", "prelude"];
    let bad: Vec<PathBuf> = rust_files()
        .into_iter()
        .map(|(path, _)| path)
        .filter(|path| path.file_stem().is_some_and(|stem| vague.iter().any(|name| stem == *name)))
        .collect();
    assert!(bad.is_empty(), "find the noun that owns these functions: {bad:#?}");
}

#[test]
fn lints_are_expected_with_a_reason_and_never_allowed() {
    check("write #[expect(lint, reason = \"..\")]", |_, line| {
        line.starts_with("#[allow(") || line.starts_with("#![allow(")
    });
}

#[test]
fn only_the_opening_of_lmdb_and_the_allocators_thresholds_are_unsafe() {
    const HOMES: [&str; 3] =
        ["scheduler/server/src/store/mod.rs", "dataflow/log/src/embedded/catalog.rs", "deploy/runtime/src/memory.rs"];
    check("the only unsafe is the opening of LMDB, and the thresholds of the allocator", |path, line| {
        line.contains("unsafe {") && !HOMES.iter().any(|home| path.ends_with(home))
    });
}

#[test]
fn nothing_is_spawned_past_the_supervised_tasks() {
    // `runtime` is what supervises; `xds` stands below it and owns one task that ends with its last handle.
    let exempt = [root().join("deploy/runtime"), root().join("xds")];
    check("spawn through runtime::Tasks", |path, line| {
        line.contains("tokio::spawn(") && !exempt.iter().any(|folder| path.starts_with(folder))
    });
}

#[test]
fn nothing_is_left_to_do_without_an_issue() {
    let words = ["TO".to_owned() + "DO", "FIX".to_owned() + "ME", "X".repeat(3)];
    check("say it in an issue", move |_, line| words.iter().any(|word| line.contains(word.as_str())));
}

#[test]
fn no_test_is_ignored_and_none_sleeps() {
    let mut wrong = Vec::new();
    for (path, text) in rust_files() {
        let relative = path.strip_prefix(root()).expect("a path of ours").to_owned();
        let in_tests = relative.components().any(|part| part.as_os_str() == "tests");
        for (index, line) in text.lines().enumerate() {
            let ignored = line.trim_start().starts_with("#[ignore");
            let sleeps = in_tests && line.contains("thread::sleep(") && !line.contains("// poll");
            if ignored || sleeps {
                wrong.push(format!("{}:{}: {}", relative.display(), index + 1, line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "wait for a state with a deadline instead:\n{}", wrong.join("\n"));
}

#[test]
fn nothing_names_the_machine_it_was_written_on() {
    let mut found = Vec::new();
    files(&root(), &["rs", "md", "toml", "yaml", "yml", "sh", "py", "proto", "json", "go", "mod"], &mut found);
    let machine = ["/wo".to_owned() + "rk/", "/ro".to_owned() + "ot/"];
    let mut wrong = Vec::new();
    for path in found {
        let text = std::fs::read_to_string(&path).expect("a readable file");
        for (index, line) in text.lines().enumerate() {
            if machine.iter().any(|word| line.contains(word.as_str())) {
                wrong.push(format!("{}:{}: {line}", path.display(), index + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "paths of one machine:\n{}", wrong.join("\n"));
}
