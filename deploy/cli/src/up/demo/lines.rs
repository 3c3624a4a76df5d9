//! The demo's real pipelines: they read a line of text that may be upside down. The two models that know how are those of
//! the package `rapidocr-onnxruntime` (Apache-2.0), fetched once and never copied into this program; the small graphs
//! between them are ours (`samples/models/ocr`).

use std::path::Path;

use bytes::Bytes;
use crds::Manifest;
use messages::scheduler as wire;
use oip::{Datatype, InferRequest, InferResponse, Tensor, TensorData};
use runtime::wheel;

use super::picture::Picture;
use super::{Calls, Error, milliseconds};
use crate::output::say;

/// The graphs between the models.
const GRAPHS: [(&str, &[u8]); 6] = [
    ("prepare", include_bytes!("../../../../../samples/models/ocr/prepare/model.onnx")),
    ("turn", include_bytes!("../../../../../samples/models/ocr/turn/model.onnx")),
    ("decode", include_bytes!("../../../../../samples/models/ocr/decode/model.onnx")),
    ("route", include_bytes!("../../../../../samples/models/ocr/route/model.onnx")),
    ("keep", include_bytes!("../../../../../samples/models/ocr/keep/model.onnx")),
    ("flip", include_bytes!("../../../../../samples/models/ocr/flip/model.onnx")),
];

/// The models, and their files in the wheel.
const MODELS: [(&str, &str); 2] = [
    ("direction", "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx"),
    ("read", "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx"),
];

const GRAPH_MEMORY: u64 = 1 << 20;
const MODEL_MEMORY: u64 = 64 << 20;

const CHAIN: &str = include_str!("../../../../../samples/pipelines/read-line.yaml");
const BY_ROUTE: &str = include_str!("../../../../../samples/pipelines/read-line-by-route.yaml");

/// A picture, and the text that is on it.
struct Line {
    file: &'static str,
    pgm: &'static [u8],
    text: &'static str,
    /// The step of the conditional form that it goes by, and the one that does not run.
    ways: [&'static str; 2],
}

const LINES: [Line; 2] = [
    Line {
        file: "upright.pgm",
        pgm: include_bytes!("../../../../../samples/models/ocr/pictures/upright.pgm"),
        text: "Departure 18:45",
        ways: ["keep", "flip"],
    },
    Line {
        file: "upside-down.pgm",
        pgm: include_bytes!("../../../../../samples/models/ocr/pictures/upside-down.pgm"),
        text: "Handle with care",
        ways: ["flip", "keep"],
    },
];

/// Columns of the terminal that a picture may take.
const COLUMNS: usize = 76;

pub(super) async fn show(calls: &mut Calls, folder: &Path) -> Result<(), Error> {
    let fetched =
        tokio::task::spawn_blocking(|| wheel::fetch(&wheel::pins::RAPIDOCR, &|progress| say(&format!("  {progress}"))));
    let wheel = fetched.await.map_err(|_| Error::Model("the fetched package"))??;
    for (name, file) in MODELS {
        calls.load(name, &wheel.join(file), MODEL_MEMORY).await?;
    }
    for (name, bytes) in GRAPHS {
        let path = super::write(&folder.join(name), "model.onnx", bytes)?;
        calls.load(name, &path, GRAPH_MEMORY).await?;
    }
    say("  eight models    of a reader for lines of text, loaded on 2 replicas each");
    let took = calls.load_pipeline(pipeline(CHAIN)?).await?;
    say(&format!(
        "  pipeline read-line  prepare, direction, turn (which joins the two), read, decode; ready in {}",
        milliseconds(took)
    ));
    for (position, line) in LINES.iter().enumerate() {
        let picture = Picture::parse(line.pgm).ok_or(Error::Model("a picture"))?;
        let path = super::write(&folder.join("pictures"), line.file, line.pgm)?;
        say(&format!("    picture       {}", path.display()));
        picture.dots(COLUMNS).lines().for_each(|row| say(&format!("      {row}")));
        let request = request(&picture)?;
        let (over, answered) = match position % 2 {
            0 => ("REST", calls.over_rest("read-line.pipeline", &request).await?),
            _ => ("gRPC", calls.over_grpc("read-line.pipeline", request).await?),
        };
        let score = line.read(&answered.response)?;
        let took = milliseconds(answered.took);
        say(&format!("    {over}          it says {:?}, by {:.1} %  ({took})", line.text, score * 100.0));
    }
    let took = calls.load_pipeline(pipeline(BY_ROUTE)?).await?;
    say(&format!("  pipeline read-line-by-route  the same with a condition; ready in {}", milliseconds(took)));
    for line in &LINES {
        let request = request(&Picture::parse(line.pgm).ok_or(Error::Model("a picture"))?)?;
        let answered = calls.over_rest("read-line-by-route.pipeline", &request).await?;
        line.read(&answered.response)?;
        let [taken, other] = line.ways;
        let ran = |step: &str| answered.routes.contains(&format!(":{step}_"));
        if !ran(taken) || ran(other) {
            return Err(Error::Answer { model: "read-line-by-route", what: format!("by way of {}", answered.routes) });
        }
        let took = milliseconds(answered.took);
        say(&format!("    REST          it says {:?}, by way of {taken}; {other} did not run  ({took})", line.text));
    }
    Ok(())
}

fn pipeline(manifest: &str) -> Result<wire::Pipeline, Error> {
    let bad = Error::Model("a manifest of the samples");
    match crds::parse(manifest, "samples").map(|manifests| manifests.into_iter().next()) {
        Ok(Some(Manifest::Pipeline(pipeline))) => pipeline.to_wire().map_err(|_| bad),
        _ => Err(bad),
    }
}

fn request(picture: &Picture) -> Result<InferRequest, Error> {
    let shape = vec![picture.height as i64, picture.width as i64, 3];
    let data = TensorData::Raw(Bytes::from(picture.rgb()));
    let tensor = Tensor::new("image".to_owned(), Datatype::Uint8, shape, data, Default::default());
    let tensor = tensor.map_err(|problem| Error::Request { model: "read-line", cause: problem.to_string() })?;
    Ok(InferRequest { inputs: vec![tensor], ..InferRequest::default() })
}

impl Line {
    /// How sure the answer is, which must have the right text.
    fn read(&self, answer: &InferResponse) -> Result<f32, Error> {
        let output = |name: &str| answer.outputs.iter().find(|output| output.name == name).map(Tensor::raw);
        // A text stands behind its length of four bytes.
        let text = output("text").and_then(|raw| raw.get(4..).map(|text| String::from_utf8_lossy(text).into_owned()));
        let score = output("score").and_then(|raw| raw.first_chunk().map(|raw| f32::from_le_bytes(*raw)));
        match (text, score) {
            (Some(text), Some(score)) if text == self.text => Ok(score),
            (text, score) => {
                let what = format!("{text:?} by {score:?} and not {:?}", self.text);
                Err(Error::Answer { model: "read-line", what })
            }
        }
    }
}
