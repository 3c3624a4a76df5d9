//! Writes JSON bodies, with binary data behind them for the tensors that are wanted so.
//!
//! Numbers are written so that reading them gives the same value; NaN and the infinities as strings.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::{BufMut, Bytes, BytesMut};
use half::{bf16, f16};
use serde::Serialize;

use super::{
    data::{INFINITY, NAN, NEGATIVE_INFINITY},
    read::BINARY_DATA_SIZE,
};
use crate::{
    datatype::Datatype,
    message::{InferRequest, InferResponse, Metadata, TensorMetadata},
    parameter::{Parameter, Parameters},
    tensor::{Tensor, TensorData},
};

/// The tensor parameter that says how BYTES elements stand in JSON.
const CONTENT_TYPE: &str = "content_type";
const BASE64: &str = "base64";
/// Room reserved for one number.
const NUMBER_WIDTH: usize = 8;

/// A body and where its JSON ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonBody {
    /// The bytes to send.
    pub body: Bytes,
    /// The value of `Inference-Header-Content-Length`; `None` when there is no binary data and no header to send.
    pub json_length: Option<usize>,
}

/// How BYTES elements become JSON strings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextStyle {
    /// As text; a tensor with an element that is not UTF-8 as base64, marked by its parameter `content_type`.
    Text,
    /// As base64, unless the tensor's parameter `content_type` is `str` or `datetime`.
    Base64,
}

impl InferRequest {
    /// The body of a request; tensors for which `binary` is true follow the JSON as raw data.
    #[must_use]
    pub fn to_json(&self, style: TextStyle, binary: impl Fn(&str) -> bool) -> JsonBody {
        let mut writer = Writer::new(style, capacity(&self.inputs));
        writer.open();
        writer.text_unless_empty("id", &self.id);
        writer.parameters(&self.parameters, None);
        writer.tensors("inputs", &self.inputs, binary);
        if !self.outputs.is_empty() {
            writer.key("outputs");
            writer.list(&self.outputs, |writer, output| {
                writer.open();
                writer.text("name", &output.name);
                writer.parameters(&output.parameters, None);
                writer.close();
            });
        }
        writer.finish()
    }
}

impl InferResponse {
    /// The body of an answer; tensors for which `binary` is true (see [`InferRequest::wants_binary`]) follow the JSON.
    #[must_use]
    pub fn to_json(&self, style: TextStyle, binary: impl Fn(&str) -> bool) -> JsonBody {
        let mut writer = Writer::new(style, capacity(&self.outputs));
        writer.open();
        writer.text("model_name", &self.model_name);
        writer.text_unless_empty("model_version", &self.model_version);
        writer.text_unless_empty("id", &self.id);
        writer.parameters(&self.parameters, None);
        writer.tensors("outputs", &self.outputs, binary);
        writer.finish()
    }
}

impl Metadata {
    /// The body of a metadata answer.
    #[must_use]
    pub fn to_json(&self) -> Bytes {
        let mut writer = Writer::new(TextStyle::Text, 0);
        writer.open();
        writer.text("name", &self.name);
        writer.value("versions", &self.versions);
        writer.text("platform", &self.platform);
        for (key, tensors) in [("inputs", &self.inputs), ("outputs", &self.outputs)] {
            writer.key(key);
            writer.list(tensors, |writer, tensor: &TensorMetadata| {
                writer.open();
                writer.text("name", &tensor.name);
                writer.text("datatype", &tensor.datatype);
                writer.value("shape", &tensor.shape);
                writer.close();
            });
        }
        writer.finish().body
    }
}

fn capacity(tensors: &[Tensor]) -> usize {
    tensors.iter().map(|tensor| tensor.element_count() * NUMBER_WIDTH).sum()
}

struct Writer {
    style: TextStyle,
    json: Vec<u8>,
    binary: Option<BytesMut>,
}

impl Writer {
    fn new(style: TextStyle, capacity: usize) -> Self {
        const ENVELOPE: usize = 256;
        Self { style, json: Vec::with_capacity(capacity + ENVELOPE), binary: None }
    }

    fn open(&mut self) {
        self.json.push(b'{');
    }

    fn close(&mut self) {
        self.json.push(b'}');
    }

    fn key(&mut self, key: &str) {
        if self.json.last() != Some(&b'{') {
            self.json.push(b',');
        }
        self.json.push(b'"');
        self.json.extend_from_slice(key.as_bytes());
        self.json.extend_from_slice(b"\":");
    }

    fn put<T: Serialize + ?Sized>(&mut self, value: &T) {
        serde_json::to_writer(&mut self.json, value).expect("numbers, strings and lists of them always serialise");
    }

    fn value<T: Serialize + ?Sized>(&mut self, key: &str, value: &T) {
        self.key(key);
        self.put(value);
    }

    fn text(&mut self, key: &str, text: &str) {
        self.value(key, text);
    }

    fn text_unless_empty(&mut self, key: &str, text: &str) {
        if !text.is_empty() {
            self.text(key, text);
        }
    }

    fn list<T>(&mut self, items: &[T], write: impl Fn(&mut Self, &T)) {
        self.json.push(b'[');
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                self.json.push(b',');
            }
            write(self, item);
        }
        self.json.push(b']');
    }

    fn parameters(&mut self, parameters: &Parameters, own: Option<(&str, Parameter)>) {
        if parameters.is_empty() && own.is_none() {
            return;
        }
        self.key("parameters");
        self.open();
        let own_name = own.as_ref().map(|(name, _)| *name);
        let given = parameters.iter().filter(|(name, _)| Some(name.as_str()) != own_name);
        for (name, value) in given.map(|(name, value)| (name.as_str(), value)).chain(own.iter().map(|(n, v)| (*n, v))) {
            if self.json.last() != Some(&b'{') {
                self.json.push(b',');
            }
            self.put(name);
            self.json.push(b':');
            match value {
                Parameter::Bool(value) => self.put(value),
                Parameter::Int(value) => self.put(value),
                Parameter::Double(value) => self.put(value),
                Parameter::String(value) => self.put(value),
            }
        }
        self.close();
    }

    fn tensors(&mut self, key: &str, tensors: &[Tensor], binary: impl Fn(&str) -> bool) {
        self.key(key);
        self.json.push(b'[');
        for (index, tensor) in tensors.iter().enumerate() {
            if index > 0 {
                self.json.push(b',');
            }
            self.tensor(tensor, binary(&tensor.name));
        }
        self.json.push(b']');
    }

    fn tensor(&mut self, tensor: &Tensor, binary: bool) {
        self.open();
        self.text("name", &tensor.name);
        self.value("shape", tensor.shape());
        self.text("datatype", tensor.datatype().name());
        if binary {
            let raw = tensor.raw();
            let size = Parameter::Int(i64::try_from(raw.len()).unwrap_or(i64::MAX));
            self.parameters(&tensor.parameters, Some((BINARY_DATA_SIZE, size)));
            self.binary.get_or_insert_default().put(raw);
        } else {
            match tensor.data() {
                TensorData::Raw(raw) => {
                    self.parameters(&tensor.parameters, None);
                    self.key("data");
                    self.numbers(tensor.datatype(), raw);
                }
                TensorData::Elements(elements) => self.strings(&tensor.parameters, elements),
            }
        }
        self.close();
    }

    fn strings(&mut self, parameters: &Parameters, elements: &[Bytes]) {
        let content_type = match parameters.get(CONTENT_TYPE) {
            Some(Parameter::String(content_type)) => content_type.as_str(),
            _ => "",
        };
        let is_text = match self.style {
            TextStyle::Text => true,
            TextStyle::Base64 => matches!(content_type, "str" | "datetime"),
        };
        let texts: Option<Vec<&str>> =
            if is_text { elements.iter().map(|e| std::str::from_utf8(e).ok()).collect() } else { None };
        if let Some(texts) = texts {
            self.parameters(parameters, None);
            self.value("data", &texts);
            return;
        }
        let mark = is_text.then(|| (CONTENT_TYPE, Parameter::String(BASE64.to_owned())));
        self.parameters(parameters, mark);
        self.key("data");
        self.list(elements, |writer, element| writer.put(&STANDARD.encode(element)));
    }

    fn numbers(&mut self, datatype: Datatype, raw: &[u8]) {
        macro_rules! integers {
            ($type:ty) => {{
                for bytes in raw.as_chunks::<{ size_of::<$type>() }>().0 {
                    self.put(&<$type>::from_le_bytes(*bytes));
                    self.json.push(b',');
                }
            }};
        }
        macro_rules! floats {
            ($type:ty, $print:ty) => {{
                for bytes in raw.as_chunks::<{ size_of::<$type>() }>().0 {
                    let value = <$print>::from(<$type>::from_le_bytes(*bytes));
                    if value.is_finite() {
                        self.put(&value);
                    } else {
                        self.put(not_finite(value.into()));
                    }
                    self.json.push(b',');
                }
            }};
        }
        self.json.push(b'[');
        match datatype {
            Datatype::Bool => {
                for byte in raw {
                    self.put(&(*byte != 0));
                    self.json.push(b',');
                }
            }
            // BYTES never has raw data; as numbers they would at least be its bytes.
            Datatype::Uint8 | Datatype::Bytes => integers!(u8),
            Datatype::Uint16 => integers!(u16),
            Datatype::Uint32 => integers!(u32),
            Datatype::Uint64 => integers!(u64),
            Datatype::Int8 => integers!(i8),
            Datatype::Int16 => integers!(i16),
            Datatype::Int32 => integers!(i32),
            Datatype::Int64 => integers!(i64),
            Datatype::Fp16 => floats!(f16, f32),
            Datatype::Bf16 => floats!(bf16, f32),
            Datatype::Fp32 => floats!(f32, f32),
            Datatype::Fp64 => floats!(f64, f64),
        }
        if self.json.last() == Some(&b',') {
            self.json.pop();
        }
        self.json.push(b']');
    }

    fn finish(mut self) -> JsonBody {
        self.close();
        match self.binary {
            None => JsonBody { body: self.json.into(), json_length: None },
            Some(binary) => {
                let json_length = Some(self.json.len());
                self.json.extend_from_slice(&binary);
                JsonBody { body: self.json.into(), json_length }
            }
        }
    }
}

fn not_finite(value: f64) -> &'static str {
    if value.is_nan() {
        NAN
    } else if value > 0.0 {
        INFINITY
    } else {
        NEGATIVE_INFINITY
    }
}
