//! Tensors of the protocol ⇄ values of ONNX Runtime. One copy each way.

use std::collections::BTreeMap;

use bytes::Bytes;
use half::{bf16, f16};
use oip::{Datatype, Parameter, Parameters, Tensor, TensorData};
use ort::value::{DynMap, DynSequenceValueType, DynValue, Tensor as OrtTensor};

use crate::{
    failure::Failure,
    signature::{Form, Output, ScoreKeys, datatype},
};

/// The tensor as an input of a session.
pub(crate) fn to_runtime(tensor: Tensor) -> Result<DynValue, Failure> {
    let (name, kind) = (tensor.name.clone(), tensor.datatype());
    let (shape, data) = tensor.into_shape_and_data();
    let refused = |reason: String| Failure::Input { input: name.clone(), reason };
    let raw = match data {
        TensorData::Elements(elements) => {
            let texts = texts(&elements).map_err(refused)?;
            return OrtTensor::from_string_array((shape, texts.as_slice()))
                .map(OrtTensor::into_dyn)
                .map_err(|error| refused(error.to_string()));
        }
        TensorData::Raw(raw) => raw,
    };
    macro_rules! values {
        ($type:ty) => {{
            let chunks = raw.as_chunks::<{ size_of::<$type>() }>().0;
            let values: Vec<$type> = chunks.iter().map(|bytes| <$type>::from_le_bytes(*bytes)).collect();
            OrtTensor::from_array((shape, values)).map(OrtTensor::into_dyn)
        }};
    }
    let value = match kind {
        Datatype::Bool => {
            let values: Vec<bool> = raw.iter().map(|byte| *byte != 0).collect();
            OrtTensor::from_array((shape, values)).map(OrtTensor::into_dyn)
        }
        // A tensor of BYTES always holds elements.
        Datatype::Uint8 | Datatype::Bytes => OrtTensor::from_array((shape, raw.to_vec())).map(OrtTensor::into_dyn),
        Datatype::Uint16 => values!(u16),
        Datatype::Uint32 => values!(u32),
        Datatype::Uint64 => values!(u64),
        Datatype::Int8 => values!(i8),
        Datatype::Int16 => values!(i16),
        Datatype::Int32 => values!(i32),
        Datatype::Int64 => values!(i64),
        Datatype::Fp16 => values!(f16),
        Datatype::Bf16 => values!(bf16),
        Datatype::Fp32 => values!(f32),
        Datatype::Fp64 => values!(f64),
    };
    value.map_err(|error| refused(error.to_string()))
}

/// ONNX strings are UTF-8 without NUL; `ort` takes only owned ones.
fn texts(elements: &[Bytes]) -> Result<Vec<String>, String> {
    elements
        .iter()
        .enumerate()
        .map(|(index, element)| {
            let text = std::str::from_utf8(element)
                .map_err(|_| format!("element {index} is not UTF-8, as ONNX strings are"))?;
            if text.contains('\0') {
                return Err(format!("element {index} contains a NUL, which ONNX strings cannot"));
            }
            Ok(text.to_owned())
        })
        .collect()
}

/// An output of a session as a tensor.
pub(crate) fn from_runtime(output: &Output, value: &DynValue) -> Result<Tensor, Failure> {
    let failed = |reason: String| Failure::Output { output: output.name.clone(), reason };
    match &output.form {
        Form::Tensor { .. } => tensor(&output.name, value),
        Form::ScoreMaps { keys: ScoreKeys::Integers } => scores::<i64>(&output.name, value),
        Form::ScoreMaps { keys: ScoreKeys::Strings } => scores::<String>(&output.name, value),
        Form::Unsupported { what } => Err(format!("is {what}, which no tensor can carry")),
    }
    .map_err(failed)
}

fn tensor(name: &str, value: &DynValue) -> Result<Tensor, String> {
    let element = value.dtype().tensor_type().ok_or_else(|| format!("is {}, not a tensor", value.dtype()))?;
    let kind =
        datatype(element).ok_or_else(|| format!("has elements of {element}, which the protocol has no name for"))?;
    macro_rules! values {
        ($type:ty) => {{
            let (shape, values) = value.try_extract_tensor::<$type>().map_err(|error| error.to_string())?;
            let mut raw = Vec::with_capacity(size_of_val(values));
            values.iter().for_each(|value| raw.extend_from_slice(&value.to_le_bytes()));
            (shape.to_vec(), TensorData::Raw(raw.into()))
        }};
    }
    let (shape, data) = match kind {
        Datatype::Bool => {
            let (shape, values) = value.try_extract_tensor::<bool>().map_err(|error| error.to_string())?;
            (shape.to_vec(), TensorData::Raw(values.iter().map(|value| u8::from(*value)).collect()))
        }
        Datatype::Uint8 => values!(u8),
        Datatype::Uint16 => values!(u16),
        Datatype::Uint32 => values!(u32),
        Datatype::Uint64 => values!(u64),
        Datatype::Int8 => values!(i8),
        Datatype::Int16 => values!(i16),
        Datatype::Int32 => values!(i32),
        Datatype::Int64 => values!(i64),
        Datatype::Fp16 => values!(f16),
        Datatype::Bf16 => values!(bf16),
        Datatype::Fp32 => values!(f32),
        Datatype::Fp64 => values!(f64),
        Datatype::Bytes => {
            let (shape, texts) = value.try_extract_strings().map_err(|error| error.to_string())?;
            (shape.to_vec(), TensorData::Elements(texts.into_iter().map(Bytes::from).collect()))
        }
    };
    // ONNX strings are UTF-8: whoever writes the answer as JSON may show them as they are.
    let parameters = match kind {
        Datatype::Bytes => Parameters::from([("content_type".to_owned(), Parameter::String("str".to_owned()))]),
        _ => Parameters::new(),
    };
    Tensor::new(name, kind, shape, data, parameters).map_err(|problem| problem.to_string())
}

/// Keys of score maps, which ONNX Runtime can give us.
trait Key: Ord + Clone + std::hash::Hash + ort::value::IntoTensorElementType {}
impl Key for i64 {}
impl Key for String {}

/// Score maps as one row for each map, one column for each class, classes in ascending order.
fn scores<K: Key>(name: &str, value: &DynValue) -> Result<Tensor, String> {
    let text = |error: ort::Error| error.to_string();
    let sequence = value.view().downcast::<DynSequenceValueType>().map_err(text)?;
    let maps = sequence.try_extract_sequence::<ort::value::DynMapValueType>().map_err(text)?;
    let rows: Vec<BTreeMap<K, f32>> = maps
        .iter()
        .map(|map: &DynMap| map.try_extract_key_values::<K, f32>().map(|pairs| pairs.into_iter().collect()))
        .collect::<Result<_, _>>()
        .map_err(text)?;
    let empty = BTreeMap::new();
    let first = rows.first().unwrap_or(&empty);
    if let Some(row) = rows.iter().position(|row| !row.keys().eq(first.keys())) {
        return Err(format!("map {row} has other keys than map 0, so they are no table"));
    }
    let classes = first.len();
    let raw: Vec<u8> = rows.iter().flat_map(BTreeMap::values).flat_map(|score| score.to_le_bytes()).collect();
    let side = |length: usize| i64::try_from(length).unwrap_or(i64::MAX);
    let shape = vec![side(rows.len()), side(classes)];
    Tensor::new(name, Datatype::Fp32, shape, TensorData::Raw(raw.into()), Parameters::new())
        .map_err(|problem| problem.to_string())
}
