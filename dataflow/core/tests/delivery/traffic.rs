//! The pipeline of the simulation, and the messages that go through it: every request is a number.

use bytes::Bytes;
use dataflow_core::{Format, Parts};
use domain::{Combination, ModelName, Pipeline, PipelineName, PipelineOutput, Reference, Step, TensorMap};
use messages::inference::ModelInferRequest;
use messages::inference::model_infer_request::InferInputTensor;
use prost::Message;

use super::world::WINDOW_MS;

pub fn model(name: &str) -> ModelName {
    ModelName::parse(name).expect("a name")
}

pub fn pipeline() -> Pipeline {
    let name = PipelineName::parse("p").expect("a name");
    let from = |text: &str| Reference::inside(text, &name).expect("a reference");
    let taken = |inputs: &[&str]| Combination {
        sources: inputs.iter().map(|text| from(text)).collect(),
        window_ms: Some(WINDOW_MS),
        ..Combination::default()
    };
    let step = |model_name: &str, inputs: &[&str]| Step::new(model(model_name), taken(inputs));
    let tensor_map = TensorMap::from([(from("b.outputs.x"), "y".to_owned())]);
    let joined = Step { tensor_map, ..step("c", &["a.outputs.x", "b.outputs.x"]) };
    let output = PipelineOutput { steps: taken(&["c"]), tensor_map: TensorMap::new() };
    Pipeline { output: Some(output), ..Pipeline::new(name.clone(), vec![step("a", &[]), step("b", &[]), joined]) }
}

pub fn message(values: &[(&str, u64)]) -> Bytes {
    let tensor = |(name, _): &(&str, u64)| InferInputTensor {
        name: (*name).to_owned(),
        datatype: "UINT64".to_owned(),
        shape: vec![1],
        ..InferInputTensor::default()
    };
    let raw = values.iter().map(|(_, value)| Bytes::from(value.to_le_bytes().to_vec()));
    let request = ModelInferRequest {
        inputs: values.iter().map(tensor).collect(),
        raw_input_contents: raw.collect(),
        ..ModelInferRequest::default()
    };
    request.encode_to_vec().into()
}

/// The numbers of a request.
pub fn numbers(value: &Bytes) -> Vec<u64> {
    let request = ModelInferRequest::decode(value.clone()).expect("a request");
    let number = |raw: &Bytes| u64::from_le_bytes(raw.as_ref().try_into().expect("eight bytes"));
    request.raw_input_contents.iter().map(number).collect()
}

/// An answer as a request, which has the same tensors.
pub fn as_request(value: &Bytes) -> Bytes {
    Parts::parse(value, Format::Response).expect("an answer").write(Format::Request)
}
