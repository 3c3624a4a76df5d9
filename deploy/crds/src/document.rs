//! YAML text into plain values, within limits, and the line of any place in it. Knows nothing of resources.
//!
//! Documents are cut apart before they are parsed: a line that starts with `---` or `...` is a marker wherever it
//! stands (YAML forbids it inside scalars), so one broken document hides no other.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fmt;

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::violation::{Path, Problem, Segment};

/// Largest text: about 50,000 models.
pub const MAX_TEXT: usize = 16 << 20;
/// Largest single document; Kubernetes stores no larger resource than 1.5 MiB.
pub(crate) const MAX_DOCUMENT: usize = 1 << 20;
/// Most opening brackets in one document: the parser's time grows with brackets that are open times tokens.
pub(crate) const MAX_BRACKETS: usize = 4096;
/// Deepest nesting; pod specifications need about 15.
pub(crate) const MAX_DEPTH: usize = 48;
/// Memory for the values of one document, in bytes, approximately. Aliases can repeat a text any number of times.
pub(crate) const MAX_EXPANDED: usize = 16 << 20;
/// What a value costs besides its text.
const VALUE_COST: usize = 64;

/// The text of one document.
pub(crate) struct Document<'a> {
    /// Line of its first line in the whole text, counted from 1.
    first_line: usize,
    text: &'a str,
}

/// The documents in `text` that are not empty.
pub(crate) fn split(text: &str) -> Vec<Document<'_>> {
    let mut documents = Vec::new();
    let (mut start, mut first_line, mut offset) = (0, 1, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        if is_marker(line) && offset > start {
            documents.push(Document { first_line, text: &text[start..offset] });
            (start, first_line) = (offset, number + 1);
        }
        offset += line.len();
    }
    documents.push(Document { first_line, text: &text[start..] });
    documents.retain(|document| !document.is_empty());
    documents
}

fn is_marker(line: &str) -> bool {
    let rest = line.strip_prefix("---").or_else(|| line.strip_prefix("..."));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

impl Document<'_> {
    /// Nothing but markers, directives and comments.
    fn is_empty(&self) -> bool {
        self.text.lines().all(|line| {
            let rest = if is_marker(line) { line.get(3..).unwrap_or_default() } else { line }.trim();
            rest.is_empty() || rest.starts_with('#') || line.starts_with('%') || line == "\u{feff}"
        })
    }

    /// The document as a value, empty fields left out; or why not, and in which line.
    pub(crate) fn value(&self) -> Result<Value, (Option<usize>, Problem)> {
        let too_large = |what, limit| Err((Some(self.first_line), Problem::TooLarge { what, limit }));
        if self.text.len() > MAX_DOCUMENT {
            return too_large("the document (bytes)", MAX_DOCUMENT);
        }
        if self.text.bytes().filter(|byte| matches!(byte, b'[' | b'{')).count() > MAX_BRACKETS {
            return too_large("the number of brackets in the document", MAX_BRACKETS);
        }
        let budget = Cell::new(MAX_EXPANDED);
        let tree = Tree { budget: &budget, depth: 0 };
        tree.deserialize(serde_yaml_ng::Deserializer::from_str(self.text)).map_err(|error| {
            let line = error.location().map(|location| self.first_line + location.line().saturating_sub(1));
            let mut text = error.to_string();
            text.truncate(text.find(" at line ").unwrap_or(text.len())); // lines are told once, those of the whole text
            (line, Problem::Syntax(text))
        })
    }

    /// The line, in the whole text, of the key or item at `path`, or of what it would be in when it is missing.
    pub(crate) fn line_of(&self, path: &Path) -> Option<usize> {
        (0..=path.0.len()).rev().find_map(|length| {
            let probe = Probe(path.0.get(..length)?);
            let error = probe.deserialize(serde_yaml_ng::Deserializer::from_str(self.text)).err()?;
            error.location().map(|location| self.first_line + location.line().saturating_sub(1))
        })
    }
}

/// Builds a value, counting what it costs.
#[derive(Clone, Copy)]
struct Tree<'b> {
    budget: &'b Cell<usize>,
    depth: usize,
}

impl Tree<'_> {
    fn pay<E: serde::de::Error>(self, text: usize) -> Result<(), E> {
        let left = self.budget.get().checked_sub(VALUE_COST + text);
        let left =
            left.ok_or_else(|| E::custom(format_args!("with its aliases it needs over {MAX_EXPANDED} bytes")))?;
        self.budget.set(left);
        Ok(())
    }

    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth >= MAX_DEPTH {
            return Err(E::custom(format_args!("it is nested deeper than {MAX_DEPTH} levels")));
        }
        Ok(Tree { depth: self.depth + 1, ..self })
    }
}

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Value;
    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text, a number, true, false, a list or a mapping, without a tag")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Value, E> {
        self.pay(0).map(|()| Value::Null)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Value, E> {
        self.pay(0).map(|()| Value::Bool(value))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Value, E> {
        self.pay(0).map(|()| Value::from(value))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
        self.pay(0).map(|()| Value::from(value))
    }

    fn visit_i128<E: serde::de::Error>(self, value: i128) -> Result<Value, E> {
        Err(E::custom(format_args!("the number {value} is too large")))
    }

    fn visit_u128<E: serde::de::Error>(self, value: u128) -> Result<Value, E> {
        Err(E::custom(format_args!("the number {value} is too large")))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        self.pay(0)?;
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number must be finite"))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Value, E> {
        self.pay(value.len()).map(|()| Value::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        self.pay(0)?;
        let inner = self.deeper()?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(inner)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        self.pay(0)?;
        let inner = self.deeper()?;
        let mut map = Map::new();
        let mut seen = BTreeSet::new();
        while let Some(key) = entries.next_key_seed(Key(&mut seen))? {
            self.pay(key.len())?;
            let value = entries.next_value_seed(inner)?;
            if !value.is_null() {
                map.insert(key, value); // as in Kubernetes, an empty field is an absent one
            }
        }
        Ok(Value::Object(map))
    }
}

/// A field name: text only, where YAML allows anything, and each only once.
struct Key<'s>(&'s mut BTreeSet<String>);

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = String;
    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = String;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name (put it in quotes when it looks like a number)")
    }
    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<String, E> {
        if self.0.insert(name.to_owned()) {
            Ok(name.to_owned())
        } else {
            Err(E::custom(format_args!("field {name:?} is there twice")))
        }
    }
}

/// Walks to a place and fails there: the parser adds the line to the failure.
#[derive(Clone, Copy)]
struct Probe<'p>(&'p [Segment]);

impl Probe<'_> {
    fn here<E: serde::de::Error>() -> E {
        E::custom("here")
    }

    /// A value that ends the walk, at its place or before it.
    fn leaf<E: serde::de::Error>(self) -> Result<(), E> {
        if self.0.is_empty() { Err(Self::here()) } else { Ok(()) }
    }
}

impl<'de> DeserializeSeed<'de> for Probe<'_> {
    type Value = ();
    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Probe<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        self.leaf()
    }

    fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<(), E> {
        self.leaf()
    }

    fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<(), E> {
        self.leaf()
    }

    fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<(), E> {
        self.leaf()
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<(), E> {
        self.leaf()
    }

    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<(), E> {
        self.leaf()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Some((first, rest)) = self.0.split_first() else { return Err(Self::here()) };
        let mut index = 0;
        loop {
            let more = match first {
                Segment::Index(wanted) if *wanted == index => items.next_element_seed(Probe(rest))?.is_some(),
                Segment::Index(_) | Segment::Key(_) => items.next_element::<IgnoredAny>()?.is_some(),
            };
            if !more {
                return Ok(());
            }
            index += 1;
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let Some((first, rest)) = self.0.split_first() else { return Err(Self::here()) };
        let wanted = KeyProbe { wanted: first, last: rest.is_empty() };
        while let Some(found) = entries.next_key_seed(wanted)? {
            if found {
                entries.next_value_seed(Probe(rest))?;
            } else {
                entries.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

/// Whether a key is the wanted one; fails at it when the path ends there.
#[derive(Clone, Copy)]
struct KeyProbe<'p> {
    wanted: &'p Segment,
    last: bool,
}

impl<'de> DeserializeSeed<'de> for KeyProbe<'_> {
    type Value = bool;
    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for KeyProbe<'_> {
    type Value = bool;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }
    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<bool, E> {
        let found = matches!(self.wanted, Segment::Key(wanted) if wanted == name);
        if found && self.last { Err(Probe::here()) } else { Ok(found) }
    }
}
