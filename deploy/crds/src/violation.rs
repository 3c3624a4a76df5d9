//! What is wrong with a manifest, where, and what to do about it. Knows nothing of any kind of resource.

use std::fmt;

use domain::{BadExperiment, BadName, BadPipeline, BadReference};

use crate::{quantity::BadQuantity, scaling::BadScaling};

/// Something wrong with a value, found without looking at text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where in the document.
    pub path: Path,
    /// What.
    pub problem: Problem,
}

/// A [`Fault`] of a document, with the place in its source.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Violation {
    /// The source as its reader called it, for example a file name.
    pub source_name: String,
    /// Line in the source, counted from 1, when it is known.
    pub line: Option<usize>,
    /// Where in the document; empty for the document as a whole.
    pub path: Path,
    /// What.
    #[source]
    pub problem: Problem,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source_name)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.path.0.is_empty() {
            write!(f, ": {}", self.path)?;
        }
        write!(f, ": {}", self.problem)
    }
}

/// What can be wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The text is no YAML, or YAML with something we do not take.
    #[error("cannot be read as YAML: {0}")]
    Syntax(String),
    /// A limit on what is read.
    #[error("{what} is larger than {limit}")]
    TooLarge {
        /// Of what.
        what: &'static str,
        /// How much is allowed.
        limit: usize,
    },
    /// A text without a single document.
    #[error("there is no document in it")]
    Empty,
    /// A field that the resource does not have.
    #[error("unknown field {name:?}{}", did_you_mean(.like.as_deref()))]
    UnknownField {
        /// As written.
        name: String,
        /// The field it looks like.
        like: Option<&'static str>,
    },
    /// A field without which the resource makes no sense.
    #[error("required field {name:?} is missing")]
    Missing {
        /// Its name.
        name: &'static str,
    },
    /// A value of the wrong type.
    #[error("must be {expected}, but it is {found}")]
    Type {
        /// What is wanted.
        expected: &'static str,
        /// What was found.
        found: &'static str,
    },
    /// A number outside its range.
    #[error("must be between {min} and {max}, but it is {found}")]
    Range {
        /// Smallest allowed.
        min: i64,
        /// Largest allowed.
        max: i64,
        /// As written.
        found: String,
    },
    /// A text outside its choices.
    #[error("must be {}, but it is {found:?}", .allowed.join(" or "))]
    NotOneOf {
        /// The choices.
        allowed: &'static [&'static str],
        /// As written.
        found: String,
    },
    /// Text that must not be empty.
    #[error("must not be empty")]
    EmptyText,
    /// Another version of the API, or another API.
    #[error("must be {expected:?}, but it is {found:?}")]
    ApiVersion {
        /// Ours.
        expected: &'static str,
        /// As written.
        found: String,
    },
    /// A kind that nobody knows.
    #[error("unknown kind {name:?}{}", did_you_mean(.like.as_deref()))]
    UnknownKind {
        /// As written.
        name: String,
        /// The kind it looks like.
        like: Option<&'static str>,
    },
    /// A kind of the API that is not served yet.
    #[error("kind {name} is not in this version yet: use Model, Server, Pipeline or Experiment")]
    NotYet {
        /// As written.
        name: String,
    },
    /// A name that breaks the naming rule.
    #[error(transparent)]
    Name(BadName),
    /// An amount of memory that is none.
    #[error(transparent)]
    Quantity(BadQuantity),
    /// Replica numbers that contradict each other.
    #[error(transparent)]
    Scaling(BadScaling),
    /// An experiment that cannot be.
    #[error(transparent)]
    Experiment(BadExperiment),
    /// A pipeline that cannot be.
    #[error(transparent)]
    Pipeline(#[from] BadPipeline),
    /// A reference of a pipeline that says nothing.
    #[error(transparent)]
    Reference(#[from] BadReference),
    /// Two fields of which one resource can have one only.
    #[error("{0} and {1} exclude each other: a model has one of them or none")]
    Exclusive(&'static str, &'static str),
    /// The end of a long list.
    #[error("{0} more violations are not shown")]
    More(usize),
}

fn did_you_mean(like: Option<&str>) -> String {
    like.map(|like| format!(", did you mean {like:?}?")).unwrap_or_default()
}

/// A place in a document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path(pub Vec<Segment>);

/// One step of a [`Path`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// A field of a mapping.
    Key(String),
    /// An item of a list.
    Index(usize),
}

impl Path {
    /// The path of fields `keys`.
    #[must_use]
    pub fn of(keys: &[&str]) -> Path {
        Path(keys.iter().map(|key| Segment::Key((*key).to_owned())).collect())
    }

    /// This place's field `key`.
    #[must_use]
    pub fn key(&self, key: &str) -> Path {
        self.with(Segment::Key(key.to_owned()))
    }

    /// This place's item `index`.
    #[must_use]
    pub fn index(&self, index: usize) -> Path {
        self.with(Segment::Index(index))
    }

    fn with(&self, segment: Segment) -> Path {
        let mut segments = self.0.clone();
        segments.push(segment);
        Path(segments)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Key(key) if position == 0 => write!(f, "{key}")?,
                Segment::Key(key) => write!(f, ".{key}")?,
                Segment::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// The one of `candidates` that `text` is most likely a misspelling of.
pub(crate) fn like(text: &str, candidates: impl IntoIterator<Item = &'static str>) -> Option<&'static str> {
    /// Longer texts are no misspelling of any field; comparing costs their length squared.
    const LONGEST: usize = 64;
    if text.len() > LONGEST {
        return None;
    }
    let written = text.to_lowercase();
    let near = candidates.into_iter().map(|candidate| (distance(&written, &candidate.to_lowercase()), candidate)).min();
    near.filter(|(distance, candidate)| *distance <= (candidate.len() / 3).max(1)).map(|(_, candidate)| candidate)
}

/// Insertions, deletions, replacements and swaps of neighbours that turn `a` into `b`.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let mut cost = (last[j] + usize::from(x != y)).min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                cost = cost.min(before[j - 1] + 1);
            }
            row.push(cost);
        }
        before = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or(a.len())
}

#[cfg(test)]
mod tests {
    use super::{distance, like};

    #[test]
    fn distance_counts_single_typing_errors() {
        for (a, b, expected) in
            [("", "", 0), ("", "ab", 2), ("abc", "abc", 0), ("abc", "acb", 1), ("kitten", "sitting", 3)]
        {
            assert_eq!(distance(a, b), expected, "{a} {b}");
            assert_eq!(distance(b, a), expected, "{b} {a}");
        }
    }

    #[test]
    fn only_what_looks_like_a_field_is_suggested() {
        let fields = ["storageUri", "server", "memory"];
        for (text, expected) in [
            ("storgeUri", Some("storageUri")),
            ("storageURI", Some("storageUri")),
            ("serevr", Some("server")),
            ("colour", None),
            (&"x".repeat(10_000), None),
        ] {
            assert_eq!(like(text, fields), expected);
        }
    }
}
