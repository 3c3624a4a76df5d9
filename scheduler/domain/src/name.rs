//! Names that users choose. A value of these types obeys its rule.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// Longest accepted name: what fits a DNS label with room for `-<index>` (Kubernetes object names build on it).
const LONGEST: usize = 253;

/// Why a text is no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{kind} name {text:?} must match ^[a-z0-9]([-a-z0-9]*[a-z0-9])?$ and have at most {LONGEST} characters: {problem}"
)]
pub struct BadName {
    kind: &'static str,
    text: String,
    problem: &'static str,
}

/// Rule: `spec/control-plane.md` §2.3 (lower case, digits, inner hyphens; no dot, no underscore).
fn check(kind: &'static str, text: &str) -> Result<(), BadName> {
    let bad = |problem| Err(BadName { kind, text: text.chars().take(LONGEST + 1).collect(), problem });
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

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Arc<str>);

        impl $type {
            /// The name in `text`, or why it is none.
            pub fn parse(text: &str) -> Result<Self, BadName> {
                check($kind, text).map(|()| Self(text.into()))
            }

            /// The text of the name.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
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
    "model"
);
name!(
    /// What a user calls a server.
    ServerName,
    "server"
);

/// A name that a request can be routed by: `iris`, later also `<pipeline>.pipeline` and `<experiment>.experiment`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RoutableName {
    /// A model by its plain name.
    Model(ModelName),
}

impl fmt::Display for RoutableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RoutableName::Model(name) => name.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{LONGEST, ModelName};

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
}
