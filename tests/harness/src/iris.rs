//! Requests to the sample model `iris`, and whether an answer is right.

use anyhow::{Context, Result, ensure};
use messages::inference as pb;

/// One flower, a setosa.
pub const BODY: &str = r#"{"inputs":[{"name":"X","datatype":"FP32","shape":[1,4],"data":[5.1,3.5,1.4,0.2]}],"outputs":[{"name":"label"}]}"#;
const FLOWER: [f32; 4] = [5.1, 3.5, 1.4, 0.2];
/// What the model calls it.
const SETOSA: i64 = 0;

/// The same flower for gRPC, in raw form.
#[must_use]
pub fn message(model: &str) -> pb::ModelInferRequest {
    pb::ModelInferRequest {
        model_name: model.to_owned(),
        inputs: vec![pb::model_infer_request::InferInputTensor {
            name: "X".to_owned(),
            datatype: "FP32".to_owned(),
            shape: vec![1, 4],
            ..Default::default()
        }],
        outputs: vec![pb::model_infer_request::InferRequestedOutputTensor {
            name: "label".to_owned(),
            ..Default::default()
        }],
        raw_input_contents: vec![FLOWER.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>().into()],
        ..Default::default()
    }
}

/// Whether the JSON says setosa.
pub fn check_json(body: &str) -> Result<()> {
    let json: serde_json::Value = serde_json::from_str(body).with_context(|| format!("no JSON: {body}"))?;
    ensure!(json["outputs"][0]["data"] == serde_json::json!([SETOSA]), "a wrong answer: {body}");
    Ok(())
}

/// Whether the message says setosa.
pub fn check_message(answer: &pb::ModelInferResponse) -> Result<()> {
    let typed = answer.outputs.first().and_then(|output| output.contents.as_ref());
    let raw = answer.raw_output_contents.first();
    let label = match (typed, raw) {
        (_, Some(raw)) => raw.as_ref() == SETOSA.to_le_bytes(),
        (Some(contents), None) => contents.int64_contents == [SETOSA],
        (None, None) => false,
    };
    ensure!(label, "a wrong answer: {answer:?}");
    Ok(())
}
