//! What can be wrong with a message: a list of violations, each of which names its field.
//!
//! Invariant: the list is not empty, and neither it nor its text grows with the message.

use std::fmt;

use crate::{datatype::Datatype, tensor::MAX_RANK};

/// More violations than this are not collected: they repeat themselves, and the text travels in a status header.
pub(crate) const MAX_VIOLATIONS: usize = 8;
/// Longer names and values are cut in error texts.
const MAX_QUOTED: usize = 64;
/// More dimensions than this are not printed.
const MAX_DIMENSIONS: usize = 12;

/// A message that is not valid, with everything that is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .violations.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct Error {
    violations: Vec<Violation>,
}

impl Error {
    /// What is wrong, in the order of the message; never empty.
    #[must_use]
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    pub(crate) fn one(field: impl Into<String>, problem: Problem) -> Self {
        Self { violations: vec![Violation { field: field.into(), problem }] }
    }
}

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The field as a user would write it, such as `inputs[0] 'x'`; empty for the message as a whole.
    pub field: String,
    /// What is wrong with it.
    pub problem: Problem,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            write!(f, "{}", self.problem)
        } else {
            write!(f, "{}: {}", self.field, self.problem)
        }
    }
}

/// What can be wrong with a field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Not JSON, or a field of the wrong JSON type; the text has line and column.
    #[error("not valid JSON: {message}")]
    Json {
        /// The reason with line and column.
        message: String,
    },
    /// A required field is not there.
    #[error("missing")]
    Missing,
    /// A field has the wrong JSON type.
    #[error("wants {wants}, found {found}")]
    WrongType {
        /// The type the field has to have.
        wants: &'static str,
        /// The beginning of what is there.
        found: String,
    },
    /// A datatype nobody knows.
    #[error("unknown datatype '{name}', the known ones are {}", Datatype::ALL.map(Datatype::name).join(", "))]
    UnknownDatatype {
        /// The name as sent.
        name: String,
    },
    /// A dimension below zero.
    #[error("shape {} has the negative dimension {dimension}", shape_text(.shape))]
    NegativeDimension {
        /// The whole shape.
        shape: Vec<i64>,
        /// The offending dimension.
        dimension: i64,
    },
    /// The number of elements or bytes is beyond what this machine can count.
    #[error("shape {} has more elements than can be counted", shape_text(.shape))]
    ShapeOverflow {
        /// The whole shape.
        shape: Vec<i64>,
    },
    /// Too many dimensions.
    #[error("shape has {rank} dimensions, at most {MAX_RANK} are supported")]
    RankTooHigh {
        /// The number of dimensions.
        rank: usize,
    },
    /// The shape wants another number of elements than there are.
    #[error("shape {} wants {wants} elements, data has {has}", shape_text(.shape))]
    ElementCount {
        /// The shape.
        shape: Vec<i64>,
        /// Elements the shape wants.
        wants: usize,
        /// Elements there are.
        has: usize,
    },
    /// The raw contents have another length than datatype and shape want.
    #[error("shape {} of {datatype} wants {wants} bytes, raw data has {has}", shape_text(.shape))]
    RawLength {
        /// The shape.
        shape: Vec<i64>,
        /// The datatype.
        datatype: Datatype,
        /// Bytes wanted.
        wants: usize,
        /// Bytes there are.
        has: usize,
    },
    /// Raw BYTES contents that end inside an element.
    #[error("raw BYTES data ends inside element {index}: {need} bytes needed, {left} left")]
    RawElement {
        /// Which element.
        index: usize,
        /// Bytes it needs, its length prefix included.
        need: usize,
        /// Bytes that are left.
        left: usize,
    },
    /// An element that the datatype cannot hold.
    #[error("element {index} is {value}, which {datatype} cannot hold")]
    Element {
        /// Index in row-major order.
        index: usize,
        /// The element as sent.
        value: String,
        /// The datatype.
        datatype: Datatype,
    },
    /// A tensor with typed and raw contents.
    #[error("has both {typed} and raw contents, send one of them")]
    BothContents {
        /// The typed field.
        typed: &'static str,
    },
    /// Typed contents in a field that belongs to another datatype.
    #[error("{datatype} is carried in {wants}, but {found} is filled")]
    WrongContents {
        /// The datatype.
        datatype: Datatype,
        /// The field of this datatype.
        wants: &'static str,
        /// The field that is filled.
        found: &'static str,
    },
    /// Raw contents for another number of tensors than there are.
    #[error("{has} raw contents for {tensors} tensors, every tensor needs one")]
    RawCount {
        /// Raw contents.
        has: usize,
        /// Tensors.
        tensors: usize,
    },
    /// The JSON part is said to be longer than the body.
    #[error("the JSON part is said to have {header} bytes, the body has {body}")]
    HeaderLength {
        /// The length in the header.
        header: usize,
        /// The length of the body.
        body: usize,
    },
    /// Binary data ends before the tensor does.
    #[error("binary_data_size is {wants}, the body has {left} bytes left")]
    BinaryShort {
        /// The size as sent.
        wants: i64,
        /// What is left.
        left: usize,
    },
    /// Binary data that no tensor claims.
    #[error("{left} bytes of binary data belong to no tensor")]
    BinaryLeft {
        /// How many.
        left: usize,
    },
}

pub(crate) fn shape_text(shape: &[i64]) -> String {
    let mut dimensions: Vec<String> = shape.iter().take(MAX_DIMENSIONS).map(ToString::to_string).collect();
    if shape.len() > MAX_DIMENSIONS {
        dimensions.push(format!("… {} more", shape.len() - MAX_DIMENSIONS));
    }
    format!("[{}]", dimensions.join(","))
}

/// The text itself, or its beginning when it is long.
pub(crate) fn quoted(text: &str) -> String {
    match text.char_indices().nth(MAX_QUOTED) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// How a tensor is called in error texts: `inputs[0] 'x'`.
pub(crate) fn tensor_field(list: &str, index: usize, name: &str) -> String {
    if name.is_empty() { format!("{list}[{index}]") } else { format!("{list}[{index}] '{}'", quoted(name)) }
}

/// Collects violations while a message is read.
#[derive(Debug, Default)]
pub(crate) struct Violations(Vec<Violation>);

impl Violations {
    pub(crate) fn add(&mut self, field: impl Into<String>, problem: Problem) {
        if self.0.len() < MAX_VIOLATIONS {
            self.0.push(Violation { field: field.into(), problem });
        }
    }

    /// The value, or a note why there is none.
    pub(crate) fn keep<T>(&mut self, field: &str, value: Result<T, Problem>) -> Option<T> {
        value.map_err(|problem| self.add(field, problem)).ok()
    }

    pub(crate) fn finish<T>(self, value: T) -> Result<T, Error> {
        if self.0.is_empty() { Ok(value) } else { Err(Error { violations: self.0 }) }
    }
}
