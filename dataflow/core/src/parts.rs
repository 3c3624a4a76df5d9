//! A message of the Open Inference Protocol taken apart into its tensors without looking into them, and put together
//! again (`spec/data-plane.md` §3.2, §6.3). Fields 3, 4 and 5 of requests and answers are the same on the wire; raw
//! contents are field 7 of a request and field 6 of an answer.
//!
//! Parts share the memory of the message; [`Parts::write`] copies every byte once.

use bytes::{BufMut, Bytes, BytesMut};
use messages::inference::ModelInferRequest;
use messages::inference::model_infer_request::InferInputTensor;
use oip::{Datatype, InferRequest};
use prost::Message;

/// Which of the two messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Format {
    /// `ModelInferRequest`
    Request,
    /// `ModelInferResponse`
    Response,
}

/// A message in parts: id, parameters and tensors are kept, names of models and requested outputs are not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// Text of the field `id`.
    pub id: Bytes,
    /// Each entry of the map `parameters`, encoded.
    pub parameters: Vec<Bytes>,
    /// The tensors, in order.
    pub tensors: Vec<Tensor>,
}

/// A tensor that nobody has looked into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// The rest of its message, encoded: datatype, shape, parameters, typed contents.
    body: Bytes,
    /// Its raw contents, if it has those.
    raw: Option<Bytes>,
}

/// Why bytes are no such message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// No protobuf, or none of these fields.
    #[error("it is no protobuf message: {0}")]
    Wire(&'static str),
    /// Raw contents are all or none.
    #[error("it has {tensors} tensors and {raw} raw contents; there must be one for each, or none")]
    RawCount {
        /// Tensors.
        tensors: usize,
        /// Raw contents.
        raw: usize,
    },
    /// Length and shape contradict each other.
    #[error("tensor {name} has {bytes} bytes of raw contents, but its shape needs {expected}")]
    RawLength {
        /// Which tensor.
        name: String,
        /// What it has.
        bytes: usize,
        /// What it should have.
        expected: u64,
    },
    /// A tensor without a datatype that exists, or with a bad shape.
    #[error("tensor {name}: {problem}")]
    Tensor {
        /// Which tensor.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// Wire types.
const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const LENGTH: u8 = 2;
const FIXED32: u8 = 5;

const ID: u64 = 3;
const PARAMETERS: u64 = 4;
const TENSORS: u64 = 5;

impl Format {
    const fn raw(self) -> u64 {
        match self {
            Format::Request => 7,
            Format::Response => 6,
        }
    }
}

/// One field on the wire.
struct Field {
    number: u64,
    /// Bytes of a length-delimited field; `None` for numbers.
    payload: Option<Bytes>,
    /// Tag included.
    start: usize,
    end: usize,
}

struct Fields<'a> {
    message: &'a Bytes,
    at: usize,
}

impl Fields<'_> {
    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0_u64;
        for shift in (0..70).step_by(7) {
            let byte = *self.message.get(self.at).ok_or(Malformed::Wire("it ends inside a number"))?;
            self.at += 1;
            value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed::Wire("a number has no end"))
    }

    fn next(&mut self) -> Result<Option<Field>, Malformed> {
        let start = self.at;
        if start == self.message.len() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let (number, wire_type) = (tag >> 3, u8::try_from(tag & 7).unwrap_or(u8::MAX));
        if number == 0 {
            return Err(Malformed::Wire("a field has the number 0"));
        }
        let mut payload = None;
        let skip = match wire_type {
            VARINT => {
                self.varint()?;
                0
            }
            FIXED64 => 8,
            FIXED32 => 4,
            LENGTH => {
                let length = usize::try_from(self.varint()?).unwrap_or(usize::MAX);
                let end = self.at.checked_add(length).filter(|end| *end <= self.message.len());
                let end = end.ok_or(Malformed::Wire("it ends inside a field"))?;
                payload = Some(self.message.slice(self.at..end));
                length
            }
            _ => return Err(Malformed::Wire("a field has a type that these messages do not use")),
        };
        self.at = self
            .at
            .checked_add(skip)
            .filter(|at| *at <= self.message.len())
            .ok_or(Malformed::Wire("it ends inside a field"))?;
        Ok(Some(Field { number, payload, start, end: self.at }))
    }
}

impl Parts {
    /// Takes a message apart. Raw contents are checked against datatypes and shapes.
    pub fn parse(message: &Bytes, format: Format) -> Result<Self, Malformed> {
        let (mut parts, mut raw) = (Self::default(), Vec::new());
        let mut fields = Fields { message, at: 0 };
        while let Some(field) = fields.next()? {
            let Some(payload) = field.payload else {
                if (1..=7).contains(&field.number) {
                    return Err(Malformed::Wire("a field that should be text or a message is a number"));
                }
                continue;
            };
            match field.number {
                ID => parts.id = payload,
                PARAMETERS => parts.parameters.push(payload),
                TENSORS => parts.tensors.push(Tensor::parse(payload)?),
                number if number == format.raw() => raw.push(payload),
                _ => {}
            }
        }
        if !raw.is_empty() {
            if raw.len() != parts.tensors.len() {
                return Err(Malformed::RawCount { tensors: parts.tensors.len(), raw: raw.len() });
            }
            for (tensor, raw) in parts.tensors.iter_mut().zip(raw) {
                tensor.raw = Some(raw);
                tensor.check_raw()?;
            }
        }
        Ok(parts)
    }

    /// Which message the bytes are, when nobody says: a request, unless raw contents can only be an answer's
    /// (`spec/data-plane.md` §4.4).
    pub fn detect(message: &Bytes) -> Result<(Format, Self), Malformed> {
        let mut fields = Fields { message, at: 0 };
        let (mut sixth, mut seventh) = (0_usize, 0_usize);
        while let Some(field) = fields.next()? {
            sixth += usize::from(field.number == 6);
            seventh += usize::from(field.number == 7);
        }
        if sixth > 0
            && seventh == 0
            && let Ok(parts) = Self::parse(message, Format::Response)
        {
            return Ok((Format::Response, parts));
        }
        Ok((Format::Request, Self::parse(message, Format::Request)?))
    }

    /// There is no tensor in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Only the tensors that are wanted, in the order of the message, under their new names. `wanted` is `None` for all.
    ///
    /// A tensor without elements is no data: whoever wants it by name does not get it, and a message in which there is
    /// nothing else is empty. (A graph of ONNX cannot leave an output out, so this is how it chooses a branch.)
    #[must_use]
    pub fn select(mut self, wanted: Option<&[String]>, renamed: &[(String, String)]) -> Self {
        if let Some(wanted) = wanted {
            self.tensors.retain(|tensor| wanted.contains(&tensor.name) && tensor.has_elements());
        } else if !self.tensors.iter().any(Tensor::has_elements) {
            self.tensors.clear();
        }
        for tensor in &mut self.tensors {
            if let Some((_, new)) = renamed.iter().find(|(old, _)| *old == tensor.name) {
                tensor.name.clone_from(new);
            }
        }
        self
    }

    /// All tensors, those of the first before those of the next; id and parameters of the first. If some have raw
    /// contents, all get them.
    pub fn join(all: Vec<Self>) -> Result<Self, Malformed> {
        let tensors = || all.iter().flat_map(|parts| &parts.tensors);
        let is_mixed = tensors().any(|tensor| tensor.raw.is_some()) && tensors().any(|tensor| tensor.raw.is_none());
        let mut all = all.into_iter();
        let mut joined = all.next().unwrap_or_default();
        joined.tensors.extend(all.flat_map(|parts| parts.tensors));
        if is_mixed {
            for tensor in &mut joined.tensors {
                tensor.make_raw()?;
            }
        }
        Ok(joined)
    }

    /// The message, encoded.
    #[must_use]
    pub fn write(&self, format: Format) -> Bytes {
        let mut length = field_length(ID, self.id.len()) * usize::from(!self.id.is_empty());
        length += self.parameters.iter().map(|entry| field_length(PARAMETERS, entry.len())).sum::<usize>();
        for tensor in &self.tensors {
            length += field_length(TENSORS, tensor.length());
            length += tensor.raw.as_ref().map_or(0, |raw| field_length(format.raw(), raw.len()));
        }
        let mut message = BytesMut::with_capacity(length);
        if !self.id.is_empty() {
            put_field(&mut message, ID, &self.id);
        }
        for entry in &self.parameters {
            put_field(&mut message, PARAMETERS, entry);
        }
        for tensor in &self.tensors {
            put_tag(&mut message, TENSORS, tensor.length());
            put_field(&mut message, 1, tensor.name.as_bytes());
            message.put_slice(&tensor.body);
        }
        for raw in self.tensors.iter().filter_map(|tensor| tensor.raw.as_ref()) {
            put_field(&mut message, format.raw(), raw);
        }
        debug_assert_eq!(message.len(), length, "the length was computed beforehand");
        message.freeze()
    }
}

impl Tensor {
    fn parse(message: Bytes) -> Result<Self, Malformed> {
        let mut fields = Fields { message: &message, at: 0 };
        let (mut name, mut kept) = (Bytes::new(), Vec::new());
        let mut from = 0;
        while let Some(field) = fields.next()? {
            if field.number == 1 {
                name = field.payload.ok_or(Malformed::Wire("the name of a tensor is a number"))?;
                kept.push(from..field.start);
                from = field.end;
            }
        }
        kept.push(from..message.len());
        kept.retain(|range| !range.is_empty());
        let body = match kept.as_slice() {
            [] => Bytes::new(),
            [one] => message.slice(one.clone()),
            several => several.iter().flat_map(|range| &message[range.clone()]).copied().collect::<Vec<u8>>().into(),
        };
        let name = String::from_utf8(name.to_vec()).map_err(|_| Malformed::Wire("the name of a tensor is no UTF-8"))?;
        Ok(Self { name, body, raw: None })
    }

    fn length(&self) -> usize {
        field_length(1, self.name.len()) + self.body.len()
    }

    fn problem(&self, problem: impl Into<String>) -> Malformed {
        Malformed::Tensor { name: self.name.clone(), problem: problem.into() }
    }

    /// No dimension of its shape is 0.
    fn has_elements(&self) -> bool {
        const SHAPE: u64 = 3;
        let mut fields = Fields { message: &self.body, at: 0 };
        while let Ok(Some(field)) = fields.next() {
            if field.number != SHAPE {
                continue;
            }
            // Packed, or each dimension for itself: the last byte of a number is the one without the upper bit, and a
            // number is 0 if it is one byte that is 0.
            let is_zero = match &field.payload {
                Some(packed) => packed
                    .iter()
                    .enumerate()
                    .any(|(at, byte)| *byte == 0 && at.checked_sub(1).is_none_or(|before| packed[before] < 0x80)),
                None => self.body.get(field.end - 1) == Some(&0) && field.end - field.start == 2,
            };
            if is_zero {
                return false;
            }
        }
        true
    }

    /// Raw contents are as long as datatype and shape say.
    fn check_raw(&self) -> Result<(), Malformed> {
        let Some(raw) = &self.raw else { return Ok(()) };
        // Only small fields are left beside raw contents, so this copies little.
        let message = self.decode()?;
        let datatype = Datatype::parse(&message.datatype);
        let datatype = datatype.ok_or_else(|| self.problem(format!("there is no datatype {:?}", message.datatype)))?;
        let Some(width) = datatype.width() else { return Ok(()) };
        let elements =
            message.shape.iter().try_fold(1_u64, |product, size| product.checked_mul(u64::try_from(*size).ok()?));
        let expected = elements.and_then(|elements| elements.checked_mul(width as u64));
        let expected = expected.ok_or_else(|| self.problem(format!("its shape {:?} is impossible", message.shape)))?;
        if raw.len() as u64 == expected {
            Ok(())
        } else {
            Err(Malformed::RawLength { name: self.name.clone(), bytes: raw.len(), expected })
        }
    }

    fn decode(&self) -> Result<InferInputTensor, Malformed> {
        InferInputTensor::decode(self.body.clone()).map_err(|_| self.problem("its message is no tensor"))
    }

    /// Moves typed contents to raw ones.
    fn make_raw(&mut self) -> Result<(), Malformed> {
        if self.raw.is_some() {
            return Ok(());
        }
        let tensor = InferInputTensor { name: self.name.clone(), ..self.decode()? };
        let request = ModelInferRequest { inputs: vec![tensor], ..ModelInferRequest::default() };
        let request = InferRequest::from_proto(request).map_err(|error| self.problem(error.to_string()))?;
        let mut message = request.into_proto(oip::Contents::Raw);
        let mut tensor = message.inputs.pop().ok_or_else(|| self.problem("it cannot be converted"))?;
        tensor.name.clear();
        self.raw = message.raw_input_contents.pop();
        self.body = tensor.encode_to_vec().into();
        Ok(())
    }
}

fn varint_length(value: u64) -> usize {
    let bits = 64 - value.max(1).leading_zeros() as usize;
    bits.div_ceil(7)
}

fn put_varint(message: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        // The lowest seven bits, and one that says that more follow.
        message.put_u8(u8::try_from(value & 0x7f).unwrap_or(0) | 0x80);
        value >>= 7;
    }
    message.put_u8(u8::try_from(value).unwrap_or(0));
}

fn field_length(number: u64, length: usize) -> usize {
    varint_length(number << 3) + varint_length(length as u64) + length
}

fn put_tag(message: &mut BytesMut, number: u64, length: usize) {
    put_varint(message, number << 3 | u64::from(LENGTH));
    put_varint(message, length as u64);
}

fn put_field(message: &mut BytesMut, number: u64, payload: &[u8]) {
    put_tag(message, number, payload.len());
    message.put_slice(payload);
}
