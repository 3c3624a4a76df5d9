//! Reads JSON requests and answers; collects everything that is wrong with their fields.
//!
//! Syntax is checked by one pass of the JSON parser, which leaves every field as the text it is; the fields are then
//! read by their own types, `data` by its datatype, wherever in the object it stood.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use super::data;
use crate::{
    datatype::Datatype,
    error::{Error, Problem, Violations, quoted, tensor_field},
    message::{InferRequest, InferResponse, Metadata, RequestedOutput, TensorMetadata},
    parameter::{Parameter, Parameters},
    tensor::{Tensor, TensorData, element_count},
};

/// Where a tensor's binary data is announced.
pub(super) const BINARY_DATA_SIZE: &str = "binary_data_size";

impl InferRequest {
    /// Reads a request body. `json_length` is the value of `Inference-Header-Content-Length`, if the request has it.
    ///
    /// The model's name stands in the path, not in the body: it stays empty.
    ///
    /// # Errors
    /// No JSON (with line and column), or everything that is wrong with the fields.
    pub fn from_json(body: &Bytes, json_length: Option<usize>) -> Result<Self, Error> {
        let (json, binary) = split(body, json_length)?;
        let mut violations = Violations::default();
        let wire = parse(&json, &mut violations)?;
        let mut reader = Reader { body: &json, binary, violations: &mut violations };
        if wire.inputs.is_none() {
            reader.violations.add("inputs", Problem::Missing);
        }
        let inputs = reader.tensors("inputs", wire.inputs);
        let outputs = reader.requested(wire.outputs);
        let message = Self {
            model_name: String::new(),
            model_version: String::new(),
            id: reader.text("id", wire.id).unwrap_or_default(),
            parameters: reader.parameters("parameters", wire.parameters),
            inputs,
            outputs,
        };
        reader.finish();
        violations.finish(message)
    }
}

impl InferResponse {
    /// Reads the body of an answer. `json_length` is the value of `Inference-Header-Content-Length`, if it has one.
    ///
    /// # Errors
    /// No JSON (with line and column), or everything that is wrong with the fields.
    pub fn from_json(body: &Bytes, json_length: Option<usize>) -> Result<Self, Error> {
        let (json, binary) = split(body, json_length)?;
        let mut violations = Violations::default();
        let wire = parse(&json, &mut violations)?;
        let mut reader = Reader { body: &json, binary, violations: &mut violations };
        if wire.outputs.is_none() {
            reader.violations.add("outputs", Problem::Missing);
        }
        let message = Self {
            model_name: reader.text("model_name", wire.model_name).unwrap_or_default(),
            model_version: reader.text("model_version", wire.model_version).unwrap_or_default(),
            id: reader.text("id", wire.id).unwrap_or_default(),
            parameters: reader.parameters("parameters", wire.parameters),
            outputs: reader.tensors("outputs", wire.outputs),
        };
        reader.finish();
        violations.finish(message)
    }
}

#[derive(Deserialize)]
struct MetadataWire {
    name: String,
    #[serde(default)]
    versions: Option<Vec<String>>,
    #[serde(default)]
    platform: Option<String>,
    #[serde(default)]
    inputs: Vec<TensorMetadataWire>,
    #[serde(default)]
    outputs: Vec<TensorMetadataWire>,
}

#[derive(Deserialize)]
struct TensorMetadataWire {
    name: String,
    #[serde(default)]
    datatype: String,
    #[serde(default)]
    shape: Vec<i64>,
}

impl Metadata {
    /// Reads the metadata of a model.
    ///
    /// # Errors
    /// No JSON, or not metadata (with line and column).
    pub fn from_json(body: &[u8]) -> Result<Self, Error> {
        let wire: MetadataWire = serde_json::from_slice(body).map_err(json_error)?;
        let tensors = |list: Vec<TensorMetadataWire>| {
            list.into_iter()
                .map(|t| TensorMetadata { name: t.name, datatype: t.datatype, shape: t.shape })
                .collect::<Vec<_>>()
        };
        Ok(Self {
            name: wire.name,
            versions: wire.versions.unwrap_or_default(),
            platform: wire.platform.unwrap_or_default(),
            inputs: tensors(wire.inputs),
            outputs: tensors(wire.outputs),
        })
    }
}

/// A message whose fields are still text. `null` counts as absent, as clients that serialise empty fields write it.
///
/// `L` is a list of tensors, or the text of it when something is wrong with the list.
#[derive(Deserialize)]
#[serde(expecting = "an object", bound(deserialize = "L: Deserialize<'de>"))]
struct Wire<'a, L> {
    #[serde(borrow, default)]
    model_name: Option<&'a RawValue>,
    #[serde(borrow, default)]
    model_version: Option<&'a RawValue>,
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    parameters: Option<&'a RawValue>,
    #[serde(default = "none")]
    inputs: Option<L>,
    #[serde(default = "none")]
    outputs: Option<L>,
}

fn none<L>() -> Option<L> {
    None
}

type Tensors<'a> = Vec<TensorWire<'a>>;

#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct TensorWire<'a> {
    #[serde(borrow, default)]
    name: Option<&'a RawValue>,
    #[serde(borrow, default)]
    datatype: Option<&'a RawValue>,
    #[serde(borrow, default)]
    shape: Option<&'a RawValue>,
    #[serde(borrow, default)]
    parameters: Option<&'a RawValue>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

fn split(body: &Bytes, json_length: Option<usize>) -> Result<(Bytes, Bytes), Error> {
    match json_length {
        None => Ok((body.clone(), Bytes::new())),
        Some(header) if header <= body.len() => Ok((body.slice(..header), body.slice(header..))),
        Some(header) => {
            let problem = Problem::HeaderLength { header, body: body.len() };
            Err(Error::one("Inference-Header-Content-Length", problem))
        }
    }
}

/// Reads the message in one pass; when that fails, once more to say what is wrong with its lists.
fn parse<'a>(json: &'a [u8], violations: &mut Violations) -> Result<Wire<'a, Tensors<'a>>, Error> {
    if let Ok(wire) = serde_json::from_slice(json) {
        return Ok(wire);
    }
    let wire: Wire<'_, &RawValue> = serde_json::from_slice(json).map_err(json_error)?;
    Ok(Wire {
        model_name: wire.model_name,
        model_version: wire.model_version,
        id: wire.id,
        parameters: wire.parameters,
        inputs: wire.inputs.map(|list| read_list("inputs", list, violations)),
        outputs: wire.outputs.map(|list| read_list("outputs", list, violations)),
    })
}

fn read_list<'a>(list: &str, raw: &'a RawValue, violations: &mut Violations) -> Tensors<'a> {
    serde_json::from_str(raw.get()).unwrap_or_else(|error| {
        // Syntax was checked before, so this is a type: the first item that is no object, or no list at all.
        let problem = if raw.get().starts_with('[') {
            Problem::Json { message: reason(&error) }
        } else {
            wrong_type("an array of objects", Some(raw))
        };
        violations.add(list, problem);
        Vec::new()
    })
}

#[expect(clippy::needless_pass_by_value, reason = "used as the argument of map_err")]
fn json_error(error: serde_json::Error) -> Error {
    Error::one("", Problem::Json { message: quoted_message(&error) })
}

fn quoted_message(error: &serde_json::Error) -> String {
    format!("{} at line {} column {}", reason(error), error.line(), error.column())
}

/// The reason without its position; the parser quotes what it met, which can be long.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let position = format!(" at line {} column {}", error.line(), error.column());
    quoted(text.strip_suffix(&position).unwrap_or(&text))
}

struct Reader<'a> {
    /// The JSON, which BYTES elements are slices of.
    body: &'a Bytes,
    /// Binary data that no tensor has taken yet.
    binary: Bytes,
    violations: &'a mut Violations,
}

impl Reader<'_> {
    fn finish(self) {
        if !self.binary.is_empty() {
            self.violations.add("", Problem::BinaryLeft { left: self.binary.len() });
        }
    }

    fn typed<T: DeserializeOwned>(&mut self, field: &str, wants: &'static str, raw: Option<&RawValue>) -> Option<T> {
        let value = serde_json::from_str(raw?.get());
        self.violations.keep(field, value.map_err(|_| wrong_type(wants, raw)))
    }

    fn text(&mut self, field: &str, raw: Option<&RawValue>) -> Option<String> {
        self.typed(field, "a string", raw)
    }

    fn tensors(&mut self, list: &str, wires: Option<Tensors<'_>>) -> Vec<Tensor> {
        wires
            .unwrap_or_default()
            .into_iter()
            .enumerate()
            .filter_map(|(index, wire)| self.tensor(list, index, wire))
            .collect()
    }

    fn requested(&mut self, wires: Option<Tensors<'_>>) -> Vec<RequestedOutput> {
        wires
            .unwrap_or_default()
            .into_iter()
            .enumerate()
            .filter_map(|(index, wire)| {
                let name = self.name("outputs", index, wire.name)?;
                let field = format!("{} parameters", tensor_field("outputs", index, &name));
                Some(RequestedOutput { parameters: self.parameters(&field, wire.parameters), name })
            })
            .collect()
    }

    fn name(&mut self, list: &str, index: usize, raw: Option<&RawValue>) -> Option<String> {
        // The paths of fields are made only where something is wrong, but for the few tensors a message has it is cheap.
        let field = format!("{list}[{index}].name");
        if raw.is_none() {
            self.violations.add(field, Problem::Missing);
            return None;
        }
        self.text(&field, raw)
    }

    fn tensor(&mut self, list: &str, index: usize, wire: TensorWire<'_>) -> Option<Tensor> {
        let name = self.name(list, index, wire.name)?;
        let field = tensor_field(list, index, &name);
        let datatype = self.datatype(&field, wire.datatype);
        let shape = self.shape(&field, wire.shape);
        let mut parameters = match wire.parameters {
            Some(_) => self.parameters(&format!("{field} parameters"), wire.parameters),
            None => Parameters::new(),
        };
        let binary = match parameters.remove(BINARY_DATA_SIZE) {
            Some(size) => Some(self.take_binary(&field, &size)?),
            None => None,
        };
        let (datatype, shape) = (datatype?, shape?);
        let data = match (wire.data, binary) {
            (Some(_), Some(_)) => Err(Problem::BothContents { typed: "data" }),
            (None, Some(raw)) => Ok(TensorData::Raw(raw)),
            (Some(text), None) => {
                element_count(&shape).and_then(|wants| data::read(text.get(), self.body, datatype, &shape, wants))
            }
            (None, None) => {
                self.violations.add(format!("{field} data"), Problem::Missing);
                return None;
            }
        };
        let tensor = data.and_then(|data| Tensor::new(name, datatype, shape, data, parameters));
        self.violations.keep(&field, tensor)
    }

    fn datatype(&mut self, field: &str, raw: Option<&RawValue>) -> Option<Datatype> {
        let Some(raw) = raw else {
            self.violations.add(format!("{field} datatype"), Problem::Missing);
            return None;
        };
        let Ok(name) = serde_json::from_str::<Cow<'_, str>>(raw.get()) else {
            self.violations.add(format!("{field} datatype"), wrong_type("a string", Some(raw)));
            return None;
        };
        let datatype = Datatype::parse(&name).ok_or_else(|| Problem::UnknownDatatype { name: quoted(&name) });
        self.violations.keep(field, datatype)
    }

    fn shape(&mut self, field: &str, raw: Option<&RawValue>) -> Option<Vec<i64>> {
        let Some(raw) = raw else {
            self.violations.add(format!("{field} shape"), Problem::Missing);
            return None;
        };
        match serde_json::from_str(raw.get()) {
            Ok(shape) => Some(shape),
            Err(_) => {
                let problem = wrong_type("an array of whole numbers that fit 64 bits", Some(raw));
                self.violations.add(format!("{field} shape"), problem);
                None
            }
        }
    }

    fn take_binary(&mut self, field: &str, size: &Parameter) -> Option<Bytes> {
        let Parameter::Int(wants) = size else {
            let problem = Problem::WrongType { wants: "a whole number", found: quoted(&format!("{size:?}")) };
            self.violations.add(format!("{field} parameters.{BINARY_DATA_SIZE}"), problem);
            return None;
        };
        match usize::try_from(*wants).ok().filter(|size| *size <= self.binary.len()) {
            Some(size) => Some(self.binary.split_to(size)),
            None => {
                self.violations.add(field, Problem::BinaryShort { wants: *wants, left: self.binary.len() });
                // What follows cannot be told apart any more.
                self.binary.clear();
                None
            }
        }
    }

    fn parameters(&mut self, field: &str, raw: Option<&RawValue>) -> Parameters {
        let Some(raw) = raw else { return Parameters::new() };
        let Ok(map) = serde_json::from_str::<std::collections::BTreeMap<String, &RawValue>>(raw.get()) else {
            self.violations.add(field, wrong_type("an object", Some(raw)));
            return Parameters::new();
        };
        let mut parameters = Parameters::new();
        for (name, raw) in map {
            match parameter(raw.get()) {
                Some(Some(value)) => {
                    parameters.insert(name, value);
                }
                Some(None) => {}
                None => {
                    let wants = "a string, a truth value or a number";
                    self.violations.add(format!("{field}.{}", quoted(&name)), wrong_type(wants, Some(raw)));
                }
            }
        }
        parameters
    }
}

/// The value of a parameter; `Some(None)` for null, `None` for what cannot be one.
fn parameter(text: &str) -> Option<Option<Parameter>> {
    Some(Some(match text.as_bytes().first()? {
        b'n' => return Some(None),
        b't' => Parameter::Bool(true),
        b'f' => Parameter::Bool(false),
        b'"' => Parameter::String(serde_json::from_str(text).ok()?),
        b'[' | b'{' => return None,
        _ => match text.parse() {
            Ok(value) => Parameter::Int(value),
            Err(_) => Parameter::Double(text.parse().ok().filter(|value: &f64| value.is_finite())?),
        },
    }))
}

fn wrong_type(wants: &'static str, raw: Option<&RawValue>) -> Problem {
    Problem::WrongType { wants, found: quoted(raw.map_or("nothing", RawValue::get)) }
}
