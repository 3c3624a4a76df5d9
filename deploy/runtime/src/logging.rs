//! Log lines to standard error, so that standard output stays what a user asked for. The filter is
//! `SWITCHYARD_LOG` (`info`, `debug,h2=warn`, …), else what the program says.

use std::io::{IsTerminal, stderr};

use tracing::{level_filters::LevelFilter, warn};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// Overrides the program's filter.
pub const FILTER_VARIABLE: &str = "SWITCHYARD_LOG";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people; coloured on a terminal only.
    Text,
    /// One JSON object per line, for log collectors.
    Json,
}

/// Starts logging; a second call changes nothing. A filter that cannot be read is said in the log, not fatal.
pub fn init(format: Format, default_filter: &str) {
    let wished = std::env::var(FILTER_VARIABLE).ok().filter(|text| !text.is_empty());
    let (filter, refused) = filter(wished.as_deref(), default_filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(stderr);
    let layer = match format {
        Format::Text => layer.with_ansi(stderr().is_terminal()).boxed(),
        Format::Json => layer.json().flatten_event(true).boxed(),
    };
    let first = tracing_subscriber::registry().with(layer.with_filter(filter)).try_init().is_ok();
    if let (true, Some(refused)) = (first, refused) {
        warn!(variable = FILTER_VARIABLE, refused, using = default_filter, "log filter cannot be read");
    }
}

/// The filter to use, and the wished one when it cannot be read.
fn filter<'a>(wished: Option<&'a str>, default: &str) -> (EnvFilter, Option<&'a str>) {
    let parse = |text: &str| EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).parse(text);
    match wished.map(|text| (text, parse(text))) {
        Some((_, Ok(filter))) => (filter, None),
        refused => (parse(default).unwrap_or_else(|_| EnvFilter::new("info")), refused.map(|(text, _)| text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wished_filter_wins_when_it_can_be_read() {
        let check = |wished, expected: (&str, Option<&str>)| {
            let (used, refused) = filter(wished, "warn");
            assert_eq!((used.to_string().as_str(), refused), expected);
        };
        check(None, ("warn", None));
        check(Some("debug"), ("debug", None));
        check(Some("=,="), ("warn", Some("=,=")));
    }

    #[test]
    fn second_start_is_harmless() {
        init(Format::Text, "info");
        init(Format::Json, "debug");
    }
}
