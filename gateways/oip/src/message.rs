//! The messages in their normal form. Any combination of values is valid; tensors check themselves.

use crate::{
    parameter::{Parameter, Parameters},
    tensor::Tensor,
};

/// A request for inference.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct InferRequest {
    /// The model; JSON has it in the path, so it is empty after reading JSON.
    pub model_name: String,
    /// The version of the model, empty for any.
    pub model_version: String,
    /// The client's identifier of the request, empty for none.
    pub id: String,
    /// Parameters of the whole request.
    pub parameters: Parameters,
    /// The input tensors.
    pub inputs: Vec<Tensor>,
    /// The outputs asked for; empty means all.
    pub outputs: Vec<RequestedOutput>,
}

/// An output a client asks for.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RequestedOutput {
    /// Its name.
    pub name: String,
    /// Its parameters.
    pub parameters: Parameters,
}

/// An answer to an inference request.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct InferResponse {
    /// The model that answered.
    pub model_name: String,
    /// Its version.
    pub model_version: String,
    /// The request's identifier.
    pub id: String,
    /// Parameters of the whole answer.
    pub parameters: Parameters,
    /// The output tensors.
    pub outputs: Vec<Tensor>,
}

/// What a model takes and gives.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Metadata {
    /// The model.
    pub name: String,
    /// Its versions.
    pub versions: Vec<String>,
    /// What runs it.
    pub platform: String,
    /// What it takes.
    pub inputs: Vec<TensorMetadata>,
    /// What it gives.
    pub outputs: Vec<TensorMetadata>,
}

/// Name, datatype and shape of an input or output. The datatype is text: servers say what the protocol has no word for.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TensorMetadata {
    /// Its name.
    pub name: String,
    /// Its datatype, such as `FP32`.
    pub datatype: String,
    /// Its shape, -1 for a dimension that varies.
    pub shape: Vec<i64>,
}

impl InferRequest {
    /// Whether the client wants the output `name` as binary data behind the JSON (`binary_data` of the output, else
    /// `binary_data_output` of the request).
    #[must_use]
    pub fn wants_binary(&self, name: &str) -> bool {
        let own = self.outputs.iter().find(|output| output.name == name).and_then(|o| o.parameters.get("binary_data"));
        let all = self.parameters.get("binary_data_output");
        matches!(own.or(all), Some(Parameter::Bool(true)))
    }
}
