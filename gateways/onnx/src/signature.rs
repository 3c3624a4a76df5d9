//! What a model takes and gives, and whether a request fits it. Decides without touching ONNX Runtime.

use std::{collections::BTreeSet, fmt};

use oip::{Datatype, InferRequest, Metadata, TensorMetadata};
use ort::value::{Outlet, TensorElementType, ValueType};

/// What the metadata names as the thing that runs the model.
const PLATFORM: &str = "onnx";
/// The one version a loaded model has.
pub(crate) const VERSION: &str = "1";
/// A dimension that varies.
const DYNAMIC: i64 = -1;
/// More problems than these are not told: the first few explain the rest.
const MAX_PROBLEMS: usize = 8;

#[derive(Debug)]
pub(crate) struct Signature {
    pub(crate) inputs: Vec<Input>,
    pub(crate) outputs: Vec<Output>,
}

#[derive(Debug, PartialEq)]
pub(crate) struct Input {
    pub(crate) name: String,
    pub(crate) datatype: Datatype,
    /// Empty when the model does not say: ONNX Runtime gives a scalar and an unknown rank the same way.
    pub(crate) shape: Vec<i64>,
}

#[derive(Debug, PartialEq)]
pub(crate) struct Output {
    pub(crate) name: String,
    pub(crate) form: Form,
}

#[derive(Debug, PartialEq)]
pub(crate) enum Form {
    Tensor {
        datatype: Datatype,
        shape: Vec<i64>,
    },
    /// One map of class to score for each row, as skl2onnx writes classifiers by default; given as FP32 [rows, classes].
    ScoreMaps {
        keys: ScoreKeys,
    },
    Unsupported {
        what: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum ScoreKeys {
    Integers,
    Strings,
}

/// An input no request can fill.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("input '{name}' is {what}, only tensors of the protocol's datatypes can be sent")]
pub(crate) struct UnsupportedInput {
    pub(crate) name: String,
    pub(crate) what: String,
}

/// Everything about a request that does not fit the model.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub(crate) struct Mismatch(Vec<Problem>);

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum Problem {
    #[error("inputs '{name}': unknown, the model takes {takes}")]
    UnknownInput { name: String, takes: String },
    #[error("inputs '{name}': missing, the model takes {takes}")]
    MissingInput { name: String, takes: String },
    #[error("inputs '{name}': given twice")]
    DuplicateInput { name: String },
    #[error("inputs '{name}': datatype is {is}, the model takes {wants}")]
    Datatype { name: String, is: Datatype, wants: Datatype },
    #[error("inputs '{name}': shape {is:?} has {} dimensions, the model takes {wants:?}", .is.len())]
    Rank { name: String, is: Vec<i64>, wants: Vec<i64> },
    #[error("inputs '{name}': shape {is:?} does not fit, the model takes {wants:?}")]
    Shape { name: String, is: Vec<i64>, wants: Vec<i64> },
    #[error("outputs '{name}': unknown, the model gives {gives}")]
    UnknownOutput { name: String, gives: String },
    #[error("outputs '{name}': asked for twice")]
    DuplicateOutput { name: String },
    #[error("outputs '{name}': is {what}, which no tensor can carry")]
    UnsupportedOutput { name: String, what: String },
}

impl Signature {
    pub(crate) fn new(inputs: &[Outlet], outputs: &[Outlet]) -> Result<Self, UnsupportedInput> {
        let inputs = inputs
            .iter()
            .map(|outlet| match form(outlet.dtype()) {
                Form::Tensor { datatype, shape } => Ok(Input { name: outlet.name().to_owned(), datatype, shape }),
                Form::ScoreMaps { .. } | Form::Unsupported { .. } => {
                    Err(UnsupportedInput { name: outlet.name().to_owned(), what: outlet.dtype().to_string() })
                }
            })
            .collect::<Result<_, _>>()?;
        let outputs = outputs
            .iter()
            .map(|outlet| Output { name: outlet.name().to_owned(), form: form(outlet.dtype()) })
            .collect();
        Ok(Self { inputs, outputs })
    }

    /// Whether the request fits; says everything that does not.
    pub(crate) fn check(&self, request: &InferRequest) -> Result<(), Mismatch> {
        let mut problems = Vec::new();
        let mut seen = BTreeSet::new();
        for tensor in &request.inputs {
            if problems.len() >= MAX_PROBLEMS {
                break;
            }
            let name = || shortened(&tensor.name);
            let Some(input) = self.inputs.iter().find(|input| input.name == tensor.name) else {
                problems.push(Problem::UnknownInput { name: name(), takes: list(&self.inputs) });
                continue;
            };
            if !seen.insert(&tensor.name) {
                problems.push(Problem::DuplicateInput { name: name() });
                continue;
            }
            if tensor.datatype() != input.datatype {
                problems.push(Problem::Datatype { name: name(), is: tensor.datatype(), wants: input.datatype });
            }
            let (is, wants) = (tensor.shape(), input.shape.as_slice());
            if wants.is_empty() {
                continue;
            }
            if is.len() != wants.len() {
                problems.push(Problem::Rank { name: name(), is: is.to_vec(), wants: wants.to_vec() });
            } else if is.iter().zip(wants).any(|(is, wants)| *wants != DYNAMIC && is != wants) {
                problems.push(Problem::Shape { name: name(), is: is.to_vec(), wants: wants.to_vec() });
            }
        }
        for input in &self.inputs {
            if problems.len() < MAX_PROBLEMS && !request.inputs.iter().any(|tensor| tensor.name == input.name) {
                problems.push(Problem::MissingInput { name: input.name.clone(), takes: list(&self.inputs) });
            }
        }
        let mut asked = BTreeSet::new();
        for output in &request.outputs {
            if problems.len() >= MAX_PROBLEMS {
                break;
            }
            let name = shortened(&output.name);
            match self.outputs.iter().find(|known| known.name == output.name).map(|known| &known.form) {
                None => problems.push(Problem::UnknownOutput { name, gives: list(&self.outputs) }),
                Some(_) if !asked.insert(&output.name) => problems.push(Problem::DuplicateOutput { name }),
                Some(Form::Unsupported { what }) => {
                    problems.push(Problem::UnsupportedOutput { name, what: what.clone() });
                }
                Some(Form::Tensor { .. } | Form::ScoreMaps { .. }) => {}
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(Mismatch(problems)) }
    }

    /// The outputs to give: those asked for, in that order; else all that a tensor can carry.
    pub(crate) fn chosen(&self, request: &InferRequest) -> Vec<&Output> {
        if request.outputs.is_empty() {
            let can_give = |output: &&Output| !matches!(output.form, Form::Unsupported { .. });
            return self.outputs.iter().filter(can_give).collect();
        }
        let known = |name: &str| self.outputs.iter().find(|output| output.name == name);
        request.outputs.iter().filter_map(|asked| known(&asked.name)).collect()
    }

    pub(crate) fn metadata(&self, name: &str) -> Metadata {
        let tensor = |name: &str, datatype: Datatype, shape: &[i64]| TensorMetadata {
            name: name.to_owned(),
            datatype: datatype.name().to_owned(),
            shape: shape.to_vec(),
        };
        Metadata {
            name: name.to_owned(),
            versions: vec![VERSION.to_owned()],
            platform: PLATFORM.to_owned(),
            inputs: self.inputs.iter().map(|i| tensor(&i.name, i.datatype, &i.shape)).collect(),
            outputs: self
                .outputs
                .iter()
                .filter_map(|output| match &output.form {
                    Form::Tensor { datatype, shape } => Some(tensor(&output.name, *datatype, shape)),
                    Form::ScoreMaps { .. } => Some(tensor(&output.name, Datatype::Fp32, &[DYNAMIC, DYNAMIC])),
                    Form::Unsupported { .. } => None,
                })
                .collect(),
        }
    }
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {:?}", self.name, self.datatype, self.shape)
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

fn list<T: fmt::Display>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Names in requests are the client's: their beginning is enough to find them.
fn shortened(name: &str) -> String {
    const MAX_NAME: usize = 64;
    match name.char_indices().nth(MAX_NAME) {
        Some((end, _)) => format!("{}…", name.get(..end).unwrap_or_default()),
        None => name.to_owned(),
    }
}

fn form(kind: &ValueType) -> Form {
    match kind {
        ValueType::Tensor { ty, shape, .. } => match datatype(*ty) {
            Some(datatype) => Form::Tensor { datatype, shape: shape.to_vec() },
            None => Form::Unsupported { what: kind.to_string() },
        },
        ValueType::Sequence(inner) => match **inner {
            ValueType::Map { key: TensorElementType::Int64, value: TensorElementType::Float32 } => {
                Form::ScoreMaps { keys: ScoreKeys::Integers }
            }
            ValueType::Map { key: TensorElementType::String, value: TensorElementType::Float32 } => {
                Form::ScoreMaps { keys: ScoreKeys::Strings }
            }
            ValueType::Map { .. } | ValueType::Tensor { .. } | ValueType::Sequence(_) | ValueType::Optional(_) => {
                Form::Unsupported { what: kind.to_string() }
            }
        },
        ValueType::Map { .. } | ValueType::Optional(_) => Form::Unsupported { what: kind.to_string() },
    }
}

/// The protocol's name for an element type of ONNX Runtime; it has none for complex numbers, 8- and 4-bit floats.
pub(crate) fn datatype(kind: TensorElementType) -> Option<Datatype> {
    Some(match kind {
        TensorElementType::Bool => Datatype::Bool,
        TensorElementType::Uint8 => Datatype::Uint8,
        TensorElementType::Uint16 => Datatype::Uint16,
        TensorElementType::Uint32 => Datatype::Uint32,
        TensorElementType::Uint64 => Datatype::Uint64,
        TensorElementType::Int8 => Datatype::Int8,
        TensorElementType::Int16 => Datatype::Int16,
        TensorElementType::Int32 => Datatype::Int32,
        TensorElementType::Int64 => Datatype::Int64,
        TensorElementType::Float16 => Datatype::Fp16,
        TensorElementType::Bfloat16 => Datatype::Bf16,
        TensorElementType::Float32 => Datatype::Fp32,
        TensorElementType::Float64 => Datatype::Fp64,
        TensorElementType::String => Datatype::Bytes,
        _ => return None,
    })
}
