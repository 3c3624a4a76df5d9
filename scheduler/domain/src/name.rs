//! Names that users choose. A value of these types obeys its rule.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// Longest accepted name: what fits a DNS label with room for `-<index>` (Kubernetes object names build on it).
const LONGEST: usize = 253;

/// Why a text is no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} name {text:?} must match {rule} and have at most {LONGEST} characters: {problem}")]
pub struct BadName {
    kind: &'static str,
    text: String,
    rule: &'static str,
    problem: &'static str,
}

/// Rule: `spec/control-plane.md` §2.3 (lower case, digits, inner hyphens; no dot, no underscore).
fn check(kind: &'static str, text: &str) -> Result<(), BadName> {
    let bad = |problem| {
        let (text, rule) = (text.chars().take(LONGEST + 1).collect(), "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$");
        Err(BadName { kind, text, rule, problem })
    };
    if text.is_empty() {
        return bad("it is empty");
    }
    if text.len() > LONGEST {
        return bad("it is too long");
    }
    if text.starts_with('-') || text.ends_with('-') {
        return bad("it starts or ends with a hyphen");
    }
    if !text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        return bad("it has a character that is not a lower-case letter, a digit or a hyphen");
    }
    Ok(())
}

/// Experiments and workers are not bound to the rule for models (`spec/control-plane.md` §2.3): whatever Kubernetes allows
/// as a name is one, and letters of both cases and underscores beside it. Headers and route names must stay readable.
fn check_free(kind: &'static str, text: &str) -> Result<(), BadName> {
    let bad = |problem| {
        let (text, rule) = (text.chars().take(LONGEST + 1).collect(), "^[A-Za-z0-9]([-A-Za-z0-9._]*[A-Za-z0-9])?$");
        Err(BadName { kind, text, rule, problem })
    };
    let is_inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    let ends = text.bytes().next().zip(text.bytes().next_back());
    match ends {
        None => bad("it is empty"),
        Some(_) if text.len() > LONGEST => bad("it is too long"),
        Some(_) if !text.bytes().all(is_inner) => {
            bad("it has a character that is not a letter, a digit, a hyphen, a dot or an underscore")
        }
        Some((first, last)) if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric() => Ok(()),
        Some(_) => bad("it starts or ends with something else than a letter or a digit"),
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $kind:literal, $check:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Arc<str>);

        impl $type {
            /// The name in `text`, or why it is none.
            pub fn parse(text: &str) -> Result<Self, BadName> {
                $check($kind, text).map(|()| Self(text.into()))
            }

            /// The text of the name.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The text of the name, not copied.
            #[must_use]
            pub fn shared(&self) -> Arc<str> {
                self.0.clone()
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name!(
    /// What a user calls a model.
    ModelName,
    "model",
    check
);
name!(
    /// What a user calls a server.
    ServerName,
    "server",
    check
);
name!(
    /// What a user calls an experiment.
    ExperimentName,
    "experiment",
    check_free
);

name!(
    /// What a user calls a pipeline.
    PipelineName,
    "pipeline",
    check
);

name!(
    /// What a worker of the data plane calls itself; unique within its role.
    WorkerName,
    "worker",
    check_free
);

/// A name that a request can be routed by: `iris`, `<pipeline>.pipeline` or `<experiment>.experiment`. No model's name
/// has a dot, so the kinds cannot collide.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RoutableName {
    /// A model by its plain name.
    Model(ModelName),
    /// A pipeline.
    Pipeline(PipelineName),
    /// An experiment.
    Experiment(ExperimentName),
}

impl fmt::Display for RoutableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RoutableName::Model(name) => name.fmt(f),
            RoutableName::Pipeline(name) => write!(f, "{name}.pipeline"),
            RoutableName::Experiment(name) => write!(f, "{name}.experiment"),
        }
    }
}

/// What an experiment can be about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// A model.
    Model(ModelName),
    /// A pipeline.
    Pipeline(PipelineName),
}

impl Subject {
    /// Its plain name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Subject::Model(name) => name.as_str(),
            Subject::Pipeline(name) => name.as_str(),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<Subject> for RoutableName {
    fn from(subject: Subject) -> Self {
        match subject {
            Subject::Model(name) => RoutableName::Model(name),
            Subject::Pipeline(name) => RoutableName::Pipeline(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ExperimentName, LONGEST, ModelName};

    #[test]
    fn a_name_is_lower_case_digits_and_inner_hyphens() {
        let longest = "a".repeat(LONGEST);
        for good in ["a", "0", "iris", "a-b", "a--b", "7-seas", longest.as_str()] {
            assert_eq!(ModelName::parse(good).expect("a good name").as_str(), good);
        }
        let too_long = "a".repeat(LONGEST + 1);
        for bad in ["", "-a", "a-", "A", "Bad.Name", "a_b", "a b", "ü", "a/b", too_long.as_str()] {
            let error = ModelName::parse(bad).expect_err("a bad name").to_string();
            assert!(error.starts_with("model name "), "{error}");
        }
    }

    #[test]
    fn an_experiments_name_may_also_have_capitals_dots_and_underscores_inside() {
        for good in ["a", "A", "Exp_1.two", "experiment-sample"] {
            assert_eq!(ExperimentName::parse(good).expect("a good name").as_str(), good);
        }
        let too_long = "a".repeat(LONGEST + 1);
        for bad in ["", ".a", "a.", "-", "a b", "a:b", "ü", "a/b", "a\n", too_long.as_str()] {
            let error = ExperimentName::parse(bad).expect_err("a bad name").to_string();
            assert!(error.starts_with("experiment name "), "{error}");
        }
    }
}
