//! The form of a resource as data, and every way in which a value differs from it. The types in `model` and `server`
//! have the same form (a test holds them together); reading into them directly would stop at the first difference.
//! Not a schema language: only what our resources need.

use serde_json::Value;

use crate::violation::{Fault, Path, Problem, like};

/// What a value must be.
#[derive(Debug)]
pub(crate) enum Shape {
    /// Text.
    Text,
    /// Text that says something.
    FilledText,
    /// One of these texts.
    OneOf(&'static [&'static str]),
    /// `true` or `false`.
    Flag,
    /// A whole number in a range.
    Integer(i64, i64),
    /// A number or text.
    NumberOrText,
    /// Items of one shape.
    List(&'static Shape),
    /// These fields and no others.
    Object(&'static [Field]),
    /// Any keys, all with text.
    TextMap,
    /// An object of which only its owner knows the fields.
    AnyObject,
    /// Whatever there is.
    Any,
}

/// One field of an object.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) required: bool,
    pub(crate) shape: Shape,
}

/// A field that may be absent.
pub(crate) const fn optional(name: &'static str, shape: Shape) -> Field {
    Field { name, required: false, shape }
}

/// A field that must be there.
pub(crate) const fn required(name: &'static str, shape: Shape) -> Field {
    Field { name, required: true, shape }
}

/// Replica numbers and other 32-bit counts.
pub(crate) const COUNT: Shape = Shape::Integer(0, i32::MAX as i64);

impl Shape {
    /// Adds every difference of `value` to `faults`.
    pub(crate) fn check(&self, value: &Value, path: &Path, faults: &mut Vec<Fault>) {
        let mut wrong = |expected| {
            let problem = Problem::Type { expected, found: kind(value) };
            faults.push(Fault { path: path.clone(), problem });
        };
        match (self, value) {
            (Shape::Text, Value::String(_))
            | (Shape::Flag, Value::Bool(_))
            | (Shape::NumberOrText, Value::String(_) | Value::Number(_))
            | (Shape::AnyObject, Value::Object(_))
            | (Shape::Any, _) => {}
            (Shape::FilledText, Value::String(text)) => {
                if text.trim().is_empty() {
                    faults.push(Fault { path: path.clone(), problem: Problem::EmptyText });
                }
            }
            (Shape::OneOf(allowed), Value::String(text)) => {
                if !allowed.contains(&text.as_str()) {
                    let problem = Problem::NotOneOf { allowed, found: text.clone() };
                    faults.push(Fault { path: path.clone(), problem });
                }
            }
            (Shape::Integer(min, max), Value::Number(number)) if !number.is_f64() => {
                if !number.as_i64().is_some_and(|number| (*min..=*max).contains(&number)) {
                    let problem = Problem::Range { min: *min, max: *max, found: number.to_string() };
                    faults.push(Fault { path: path.clone(), problem });
                }
            }
            (Shape::List(shape), Value::Array(items)) => {
                for (index, item) in items.iter().enumerate() {
                    shape.check(item, &path.index(index), faults);
                }
            }
            (Shape::TextMap, Value::Object(entries)) => {
                for (key, value) in entries {
                    Shape::Text.check(value, &path.key(key), faults);
                }
            }
            (Shape::Object(fields), Value::Object(entries)) => {
                for (key, value) in entries {
                    match fields.iter().find(|field| field.name == key) {
                        Some(field) => field.shape.check(value, &path.key(key), faults),
                        None => {
                            let like = like(key, fields.iter().map(|field| field.name));
                            let problem = Problem::UnknownField { name: key.clone(), like };
                            faults.push(Fault { path: path.key(key), problem });
                        }
                    }
                }
                let missing = fields.iter().filter(|field| field.required && !entries.contains_key(field.name));
                faults.extend(missing.map(|field| {
                    let problem = Problem::Missing { name: field.name };
                    Fault { path: path.clone(), problem }
                }));
            }
            (Shape::Text | Shape::FilledText | Shape::OneOf(_), _) => {
                wrong("text (put it in quotes when it looks like a number)")
            }
            (Shape::Flag, _) => wrong("true or false"),
            (Shape::Integer(..), _) => wrong("a whole number"),
            (Shape::NumberOrText, _) => wrong("a number or text"),
            (Shape::List(_), _) => wrong("a list"),
            (Shape::Object(_) | Shape::TextMap | Shape::AnyObject, _) => wrong("a mapping"),
        }
    }
}

/// What a user would call a value.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "empty",
        Value::Bool(_) => "true or false",
        Value::Number(number) if number.is_f64() => "a number with a fraction",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}
