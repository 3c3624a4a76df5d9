//! Protobuf messages ⇄ the normal form: raw and typed contents.
//!
//! FP16 and BF16 have no typed field of their own; they are read from and written to `fp32_contents`.

use bytes::{BufMut, Bytes, BytesMut};
use half::{bf16, f16};
use messages::inference::{
    InferTensorContents, ModelInferRequest, ModelInferResponse, ModelMetadataResponse, model_infer_request,
    model_infer_response, model_metadata_response,
};

use crate::{
    datatype::Datatype,
    error::{Error, Problem, Violations, tensor_field},
    message::{InferRequest, InferResponse, Metadata, RequestedOutput, TensorMetadata},
    parameter::{self, Parameters},
    tensor::{Tensor, TensorData, element_count},
};

/// How tensors are written into a protobuf message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contents {
    /// Into `raw_*_contents`; copies nothing but BYTES.
    Raw,
    /// Into the typed fields of each tensor.
    Typed,
}

impl InferRequest {
    /// Reads a protobuf request; raw tensors share the memory of the message.
    ///
    /// # Errors
    /// Everything that is wrong with the tensors.
    pub fn from_proto(message: ModelInferRequest) -> Result<Self, Error> {
        let mut violations = Violations::default();
        let tensors = message.inputs.into_iter().map(|t| ProtoTensor {
            name: t.name,
            datatype: t.datatype,
            shape: t.shape,
            parameters: t.parameters,
            contents: t.contents,
        });
        let inputs = read_tensors("inputs", tensors, message.raw_input_contents, &mut violations);
        violations.finish(Self {
            model_name: message.model_name,
            model_version: message.model_version,
            id: message.id,
            parameters: parameter::from_proto(message.parameters),
            inputs,
            outputs: message
                .outputs
                .into_iter()
                .map(|o| RequestedOutput { name: o.name, parameters: parameter::from_proto(o.parameters) })
                .collect(),
        })
    }

    /// The request as a protobuf message.
    #[must_use]
    pub fn into_proto(self, contents: Contents) -> ModelInferRequest {
        let mut raw = Vec::new();
        let inputs = self
            .inputs
            .into_iter()
            .map(|tensor| {
                let t = write_tensor(tensor, contents, &mut raw);
                model_infer_request::InferInputTensor {
                    name: t.name,
                    datatype: t.datatype,
                    shape: t.shape,
                    parameters: t.parameters,
                    contents: t.contents,
                }
            })
            .collect();
        ModelInferRequest {
            model_name: self.model_name,
            model_version: self.model_version,
            id: self.id,
            parameters: parameter::to_proto(self.parameters),
            inputs,
            outputs: self
                .outputs
                .into_iter()
                .map(|o| model_infer_request::InferRequestedOutputTensor {
                    name: o.name,
                    parameters: parameter::to_proto(o.parameters),
                })
                .collect(),
            raw_input_contents: raw,
        }
    }
}

impl InferResponse {
    /// Reads a protobuf answer; raw tensors share the memory of the message.
    ///
    /// # Errors
    /// Everything that is wrong with the tensors.
    pub fn from_proto(message: ModelInferResponse) -> Result<Self, Error> {
        let mut violations = Violations::default();
        let tensors = message.outputs.into_iter().map(|t| ProtoTensor {
            name: t.name,
            datatype: t.datatype,
            shape: t.shape,
            parameters: t.parameters,
            contents: t.contents,
        });
        let outputs = read_tensors("outputs", tensors, message.raw_output_contents, &mut violations);
        violations.finish(Self {
            model_name: message.model_name,
            model_version: message.model_version,
            id: message.id,
            parameters: parameter::from_proto(message.parameters),
            outputs,
        })
    }

    /// The answer as a protobuf message.
    #[must_use]
    pub fn into_proto(self, contents: Contents) -> ModelInferResponse {
        let mut raw = Vec::new();
        let outputs = self
            .outputs
            .into_iter()
            .map(|tensor| {
                let t = write_tensor(tensor, contents, &mut raw);
                model_infer_response::InferOutputTensor {
                    name: t.name,
                    datatype: t.datatype,
                    shape: t.shape,
                    parameters: t.parameters,
                    contents: t.contents,
                }
            })
            .collect();
        ModelInferResponse {
            model_name: self.model_name,
            model_version: self.model_version,
            id: self.id,
            parameters: parameter::to_proto(self.parameters),
            outputs,
            raw_output_contents: raw,
        }
    }
}

impl Metadata {
    /// Reads the protobuf form.
    #[must_use]
    pub fn from_proto(message: ModelMetadataResponse) -> Self {
        let tensors = |list: Vec<model_metadata_response::TensorMetadata>| {
            list.into_iter()
                .map(|t| TensorMetadata { name: t.name, datatype: t.datatype, shape: t.shape })
                .collect::<Vec<_>>()
        };
        Self {
            name: message.name,
            versions: message.versions,
            platform: message.platform,
            inputs: tensors(message.inputs),
            outputs: tensors(message.outputs),
        }
    }

    /// The protobuf form.
    #[must_use]
    pub fn into_proto(self) -> ModelMetadataResponse {
        let tensors = |list: Vec<TensorMetadata>| {
            list.into_iter()
                .map(|t| model_metadata_response::TensorMetadata {
                    name: t.name,
                    datatype: t.datatype,
                    shape: t.shape,
                    parameters: Default::default(),
                })
                .collect::<Vec<_>>()
        };
        ModelMetadataResponse {
            name: self.name,
            versions: self.versions,
            platform: self.platform,
            inputs: tensors(self.inputs),
            outputs: tensors(self.outputs),
            parameters: Default::default(),
        }
    }
}

/// Input and output tensors have the same fields but different types.
struct ProtoTensor {
    name: String,
    datatype: String,
    shape: Vec<i64>,
    parameters: std::collections::BTreeMap<String, messages::inference::InferParameter>,
    contents: Option<InferTensorContents>,
}

fn read_tensors(
    list: &str,
    tensors: impl ExactSizeIterator<Item = ProtoTensor>,
    raw: Vec<Bytes>,
    violations: &mut Violations,
) -> Vec<Tensor> {
    let is_raw = !raw.is_empty();
    if is_raw && raw.len() != tensors.len() {
        let field = if list == "inputs" { "raw_input_contents" } else { "raw_output_contents" };
        violations.add(field, Problem::RawCount { has: raw.len(), tensors: tensors.len() });
        return Vec::new();
    }
    let mut raw = raw.into_iter();
    tensors
        .enumerate()
        .filter_map(|(index, tensor)| {
            let raw = raw.next();
            // The field's name is made only when there is something to say about it.
            let name = tensor.name.clone();
            read_tensor(tensor, raw).map_err(|problem| violations.add(tensor_field(list, index, &name), problem)).ok()
        })
        .collect()
}

fn read_tensor(tensor: ProtoTensor, raw: Option<Bytes>) -> Result<Tensor, Problem> {
    let Some(datatype) = Datatype::parse(&tensor.datatype) else {
        return Err(Problem::UnknownDatatype { name: crate::error::quoted(&tensor.datatype) });
    };
    let parameters: Parameters = parameter::from_proto(tensor.parameters);
    let contents = tensor.contents.unwrap_or_default();
    let data = match raw {
        Some(raw) => match filled(&contents) {
            Some(typed) => return Err(Problem::BothContents { typed }),
            None => TensorData::Raw(raw),
        },
        None => read_typed(datatype, &tensor.shape, contents)?,
    };
    Tensor::new(tensor.name, datatype, tensor.shape, data, parameters)
}

fn write_tensor(tensor: Tensor, contents: Contents, raw: &mut Vec<Bytes>) -> ProtoTensor {
    let datatype = tensor.datatype();
    let typed = match contents {
        Contents::Raw => {
            raw.push(tensor.raw());
            None
        }
        Contents::Typed => Some(write_typed(datatype, tensor.data())),
    };
    ProtoTensor {
        datatype: datatype.name().to_owned(),
        parameters: parameter::to_proto(tensor.parameters.clone()),
        contents: typed,
        name: tensor.name.clone(),
        shape: tensor.into_shape_and_data().0,
    }
}

/// The typed field that carries a datatype.
const fn typed_field(datatype: Datatype) -> &'static str {
    match datatype {
        Datatype::Bool => "bool_contents",
        Datatype::Int8 | Datatype::Int16 | Datatype::Int32 => "int_contents",
        Datatype::Int64 => "int64_contents",
        Datatype::Uint8 | Datatype::Uint16 | Datatype::Uint32 => "uint_contents",
        Datatype::Uint64 => "uint64_contents",
        Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 => "fp32_contents",
        Datatype::Fp64 => "fp64_contents",
        Datatype::Bytes => "bytes_contents",
    }
}

/// The names of the typed fields that are not empty.
fn filled_fields(contents: &InferTensorContents) -> impl Iterator<Item = &'static str> {
    [
        ("bool_contents", contents.bool_contents.is_empty()),
        ("int_contents", contents.int_contents.is_empty()),
        ("int64_contents", contents.int64_contents.is_empty()),
        ("uint_contents", contents.uint_contents.is_empty()),
        ("uint64_contents", contents.uint64_contents.is_empty()),
        ("fp32_contents", contents.fp32_contents.is_empty()),
        ("fp64_contents", contents.fp64_contents.is_empty()),
        ("bytes_contents", contents.bytes_contents.is_empty()),
    ]
    .into_iter()
    .filter_map(|(name, is_empty)| (!is_empty).then_some(name))
}

fn filled(contents: &InferTensorContents) -> Option<&'static str> {
    filled_fields(contents).next()
}

fn read_typed(datatype: Datatype, shape: &[i64], contents: InferTensorContents) -> Result<TensorData, Problem> {
    let field = typed_field(datatype);
    if let Some(found) = filled_fields(&contents).find(|name| *name != field) {
        return Err(Problem::WrongContents { datatype, wants: field, found });
    }
    let wants = element_count(shape)?;
    let count = |has: usize| {
        if has == wants { Ok(()) } else { Err(Problem::ElementCount { shape: shape.to_vec(), wants, has }) }
    };
    let bad = |index: usize, value: String| Problem::Element { index, value, datatype };

    /// Narrow integers travel in 32 bits and have to fit.
    macro_rules! narrowed {
        ($values:expr, $type:ty) => {{
            count($values.len())?;
            let mut raw = BytesMut::with_capacity($values.len() * size_of::<$type>());
            for (index, value) in $values.into_iter().enumerate() {
                let value = <$type>::try_from(value).map_err(|_| bad(index, value.to_string()))?;
                raw.extend_from_slice(&value.to_le_bytes());
            }
            raw
        }};
    }
    macro_rules! wide {
        ($values:expr) => {{
            count($values.len())?;
            let mut raw = BytesMut::with_capacity(size_of_val($values.as_slice()));
            for value in $values {
                raw.extend_from_slice(&value.to_le_bytes());
            }
            raw
        }};
    }
    macro_rules! halved {
        ($type:ty) => {{
            count(contents.fp32_contents.len())?;
            let mut raw = BytesMut::with_capacity(contents.fp32_contents.len() * 2);
            for (index, value) in contents.fp32_contents.into_iter().enumerate() {
                let half = <$type>::from_f32(value);
                if half.is_infinite() && value.is_finite() {
                    return Err(bad(index, value.to_string()));
                }
                raw.extend_from_slice(&half.to_le_bytes());
            }
            raw
        }};
    }

    let raw = match datatype {
        Datatype::Bool => {
            count(contents.bool_contents.len())?;
            let mut raw = BytesMut::with_capacity(contents.bool_contents.len());
            contents.bool_contents.into_iter().for_each(|value| raw.put_u8(u8::from(value)));
            raw
        }
        Datatype::Uint8 => narrowed!(contents.uint_contents, u8),
        Datatype::Uint16 => narrowed!(contents.uint_contents, u16),
        Datatype::Uint32 => wide!(contents.uint_contents),
        Datatype::Uint64 => wide!(contents.uint64_contents),
        Datatype::Int8 => narrowed!(contents.int_contents, i8),
        Datatype::Int16 => narrowed!(contents.int_contents, i16),
        Datatype::Int32 => wide!(contents.int_contents),
        Datatype::Int64 => wide!(contents.int64_contents),
        Datatype::Fp16 => halved!(f16),
        Datatype::Bf16 => halved!(bf16),
        Datatype::Fp32 => wide!(contents.fp32_contents),
        Datatype::Fp64 => wide!(contents.fp64_contents),
        Datatype::Bytes => {
            count(contents.bytes_contents.len())?;
            return Ok(TensorData::Elements(contents.bytes_contents));
        }
    };
    Ok(TensorData::Raw(raw.freeze()))
}

fn write_typed(datatype: Datatype, data: &TensorData) -> InferTensorContents {
    let mut contents = InferTensorContents::default();
    let raw = match data {
        TensorData::Elements(elements) => {
            contents.bytes_contents.clone_from(elements);
            return contents;
        }
        TensorData::Raw(raw) => raw,
    };
    macro_rules! values {
        ($type:ty) => {
            raw.as_chunks::<{ size_of::<$type>() }>().0.iter().map(|bytes| <$type>::from_le_bytes(*bytes))
        };
    }
    match datatype {
        Datatype::Bool => contents.bool_contents = raw.iter().map(|byte| *byte != 0).collect(),
        Datatype::Uint8 => contents.uint_contents = values!(u8).map(u32::from).collect(),
        Datatype::Uint16 => contents.uint_contents = values!(u16).map(u32::from).collect(),
        Datatype::Uint32 => contents.uint_contents = values!(u32).collect(),
        Datatype::Uint64 => contents.uint64_contents = values!(u64).collect(),
        Datatype::Int8 => contents.int_contents = values!(i8).map(i32::from).collect(),
        Datatype::Int16 => contents.int_contents = values!(i16).map(i32::from).collect(),
        Datatype::Int32 => contents.int_contents = values!(i32).collect(),
        Datatype::Int64 => contents.int64_contents = values!(i64).collect(),
        Datatype::Fp16 => contents.fp32_contents = values!(f16).map(f16::to_f32).collect(),
        Datatype::Bf16 => contents.fp32_contents = values!(bf16).map(bf16::to_f32).collect(),
        Datatype::Fp32 => contents.fp32_contents = values!(f32).collect(),
        Datatype::Fp64 => contents.fp64_contents = values!(f64).collect(),
        // A tensor of BYTES always holds elements.
        Datatype::Bytes => contents.bytes_contents = vec![raw.clone()],
    }
    contents
}
