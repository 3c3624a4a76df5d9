//! Wire types to domain types and back. The way in names every field that is wrong; the way out cannot fail.

pub mod agent;
pub mod experiment;
pub mod model;
pub mod pipeline;
pub mod server;
pub mod status;
pub mod worker;

use std::fmt;

/// A message that is not what it should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Invalid(Vec<Violation>);

/// One thing that is wrong with a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Path of the field, as in the protobuf file.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

impl Invalid {
    /// A message with one thing wrong.
    pub fn one(field: impl Into<String>, reason: impl ToString) -> Self {
        Self(vec![Violation { field: field.into(), reason: reason.to_string() }])
    }

    /// Everything that is wrong.
    #[must_use]
    pub fn violations(&self) -> &[Violation] {
        &self.0
    }

    /// Adds one more thing.
    pub(crate) fn add(&mut self, field: impl Into<String>, reason: impl ToString) {
        self.0.push(Violation { field: field.into(), reason: reason.to_string() });
    }

    /// Adds all of the other's.
    pub(crate) fn extend(&mut self, other: Invalid) {
        self.0.extend(other.0);
    }

    /// `value` when nothing is wrong.
    pub(crate) fn or<T>(self, value: T) -> Result<T, Invalid> {
        if self.0.is_empty() { Ok(value) } else { Err(self) }
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, violation) in self.0.iter().enumerate() {
            let separator = if position == 0 { "" } else { "; " };
            write!(f, "{separator}{}: {}", violation.field, violation.reason)?;
        }
        Ok(())
    }
}

impl std::error::Error for Invalid {}
