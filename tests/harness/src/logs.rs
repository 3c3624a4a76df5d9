//! What the parts have written: lines that somebody should look at, and the end of every log when a test fails.

use std::path::{Path, PathBuf};

/// Lines of each log that are shown when a scenario fails.
const TAIL_LINES: usize = 40;

/// A line that is a warning or worse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub log: PathBuf,
    pub text: String,
}

/// The warnings and errors in a log that contain none of the expected texts.
#[must_use]
pub fn troubles(log: &Path, expected: &[String]) -> Vec<Line> {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let odd = text.lines().filter(|line| is_trouble(line) && !expected.iter().any(|known| line.contains(known)));
    odd.map(|line| Line { log: log.to_owned(), text: line.to_owned() }).collect()
}

/// Our lines are `<time> <LEVEL> <target>: …`, Envoy's `[<time>][<process>][<level>][…] …`.
fn is_trouble(line: &str) -> bool {
    let level = match line.strip_prefix('[') {
        Some(rest) => rest.split("][").nth(2).unwrap_or_default(),
        None => line.split_whitespace().nth(1).unwrap_or_default(),
    };
    matches!(level, "WARN" | "ERROR" | "warning" | "error" | "critical") || line.contains(" panicked at ")
}

/// The end of a log, for people.
pub(crate) fn tail(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let shown = lines.get(lines.len().saturating_sub(TAIL_LINES)..).unwrap_or_default();
    format!("--- {} ({} lines)\n{}\n", log.display(), lines.len(), shown.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::is_trouble;

    #[test]
    fn a_line_is_trouble_by_its_level_and_not_by_its_words() {
        for line in [
            "2026-01-02T03:04:05.678901Z  WARN agent::supervise: inference server is down",
            "2026-01-02T03:04:05.678901Z ERROR scheduler: x",
            "[2026-01-02 03:04:05.678][12][warning][config] [source/a.cc:1] x",
            "[2026-01-02 03:04:05.678][12][critical][main] x",
            "thread 'driver' (7) panicked at scheduler/server/src/driver.rs:1:2:",
        ] {
            assert!(is_trouble(line), "{line}");
        }
        for line in [
            "2026-01-02T03:04:05.678901Z  INFO agent: WARN is a word",
            "[2026-01-02 03:04:05.678][12][info][config] [source/a.cc:1] warning: error",
            "",
        ] {
            assert!(!is_trouble(line), "{line}");
        }
    }
}
