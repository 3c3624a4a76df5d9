//! The demo's small model: three kinds of iris, told apart by four measures of the flower.

use std::path::Path;

use bytes::Bytes;
use messages::scheduler as wire;
use oip::{Datatype, InferRequest, InferResponse, Tensor, TensorData};

use super::{Answered, Calls, Error, milliseconds};
use crate::output::say;

const MODEL: &str = "iris";

/// What its pipeline is called by.
const PIPELINE: &str = "flowers.pipeline";

/// Trained on the real iris data by `samples/models/iris/train.py`.
const FILE: &[u8] = include_bytes!("../../../../../samples/models/iris/model.onnx");

const MEMORY_BYTES: u64 = 1 << 20;

/// Three flowers of the data set, one of each kind: length and width of sepal and petal in cm.
const FLOWERS: [([f32; 4], &str); 3] =
    [([5.1, 3.5, 1.4, 0.2], "setosa"), ([7.0, 3.2, 4.7, 1.4], "versicolor"), ([6.3, 3.3, 6.0, 2.5], "virginica")];

pub(super) async fn show(calls: &mut Calls, folder: &Path) -> Result<(), Error> {
    let path = super::write(&folder.join("iris"), "model.onnx", FILE)?;
    let took = calls.load(MODEL, &path, MEMORY_BYTES).await?;
    say(&format!(
        "  model iris      {} bytes, loaded on 2 replicas and routed by Envoy in {}",
        FILE.len(),
        milliseconds(took)
    ));
    let Answered { response, took, .. } = calls.over_rest(MODEL, &request()?).await?;
    say(&format!("    REST          {}  ({})", species(&response)?, milliseconds(took)));
    let Answered { response, took, .. } = calls.over_grpc(MODEL, request()?).await?;
    say(&format!("    gRPC          {}  ({})", species(&response)?, milliseconds(took)));
    let took = calls.load_pipeline(pipeline()).await?;
    say(&format!("  pipeline flowers  iris, of whose answer only the label is kept; ready in {}", milliseconds(took)));
    let Answered { response, took, .. } = calls.over_rest(PIPELINE, &request()?).await?;
    say(&format!("    REST          {}  ({}, every step in the log)", species(&response)?, milliseconds(took)));
    Ok(())
}

/// The model as a pipeline of one step, which answers with one of its tensors.
fn pipeline() -> wire::Pipeline {
    wire::Pipeline {
        name: "flowers".to_owned(),
        steps: vec![wire::PipelineStep { name: MODEL.to_owned(), ..wire::PipelineStep::default() }],
        output: Some(wire::PipelineOutput {
            steps: vec![format!("{MODEL}.outputs.label")],
            ..wire::PipelineOutput::default()
        }),
        ..wire::Pipeline::default()
    }
}

fn request() -> Result<InferRequest, Error> {
    let bytes: Vec<u8> =
        FLOWERS.iter().flat_map(|(measures, _)| measures).flat_map(|value| value.to_le_bytes()).collect();
    let shape = vec![FLOWERS.len() as i64, 4];
    let data = TensorData::Raw(Bytes::from(bytes));
    let tensor = Tensor::new("X".to_owned(), Datatype::Fp32, shape, data, Default::default());
    let tensor = tensor.map_err(|problem| Error::Request { model: MODEL, cause: problem.to_string() })?;
    Ok(InferRequest { inputs: vec![tensor], ..InferRequest::default() })
}

/// The kinds in an answer, which must be the right ones.
fn species(answer: &InferResponse) -> Result<String, Error> {
    let unexpected = |what: String| Error::Answer { model: MODEL, what };
    let label = answer.outputs.iter().find(|output| output.name == "label");
    let label = label.map(Tensor::raw).ok_or_else(|| unexpected("there is no output label".to_owned()))?;
    let labels = label.chunks_exact(8).map(|bytes| bytes.try_into().map_or(i64::MAX, i64::from_le_bytes));
    let kinds: Vec<&str> = labels
        .map(|label| usize::try_from(label).ok().and_then(|label| FLOWERS.get(label)).map_or("?", |(_, kind)| *kind))
        .collect();
    if kinds != FLOWERS.map(|(_, kind)| kind) {
        return Err(unexpected(format!("{kinds:?}")));
    }
    Ok(format!("three flowers are {}", kinds.join(", ")))
}
