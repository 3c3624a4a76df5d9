//! The demo's useful model: it tells what type a file has by its first and last bytes. It is the one in the package
//! `magika` (Apache-2.0), which is fetched once; its file is never copied into this program.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use oip::{Datatype, InferRequest, InferResponse, Tensor, TensorData};
use runtime::wheel;
use serde::Deserialize;

use super::{Calls, Error, milliseconds};
use crate::output::say;

const MODEL: &str = "file-type";
const FOLDER: &str = "magika/models/standard_v3_3";
const MEMORY_BYTES: u64 = 64 << 20;

/// The model looks at the first and the last kilobyte, without the spaces around them.
const PART: usize = 1024;

/// A part is taken from this much of the file.
const WINDOW: usize = 4096;

/// Stands for "no byte here".
const PADDING: i32 = 256;

/// What the model's configuration says; it lies beside the model.
#[derive(Debug, Deserialize)]
struct Configuration {
    target_labels_space: Vec<String>,
    thresholds: BTreeMap<String, f32>,
    medium_confidence_threshold: f32,
}

/// A content to send.
struct Sample {
    /// What it is, for people.
    what: &'static str,
    content: Vec<u8>,
    /// What the model must say.
    expected: &'static str,
}

pub(super) async fn show(calls: &mut Calls) -> Result<(), Error> {
    let fetched =
        tokio::task::spawn_blocking(|| wheel::fetch(&wheel::pins::MAGIKA, &|progress| say(&format!("  {progress}"))));
    let folder = fetched.await.map_err(|_| Error::Model("the fetched package"))??.join(FOLDER);
    let configuration = read_configuration(&folder.join("config.min.json"))?;
    let model = folder.join("model.onnx");
    let size = model.metadata().map(|file| file.len()).unwrap_or_default();
    let took = calls.load(MODEL, &model, MEMORY_BYTES).await?;
    say(&format!(
        "  model file-type {:.1} MB, tells {} types of files, loaded on 2 replicas in {}",
        size as f64 / 1e6,
        configuration.target_labels_space.len(),
        milliseconds(took)
    ));
    for (position, Sample { what, content, expected }) in samples()?.into_iter().enumerate() {
        // The transports take turns.
        let (over, answered) = match position % 2 {
            0 => ("REST", calls.over_rest(MODEL, &request(&content)?).await?),
            _ => ("gRPC", calls.over_grpc(MODEL, request(&content)?).await?),
        };
        let (label, score) = best(&answered.response, &configuration)?;
        if label != expected {
            return Err(Error::Answer { model: MODEL, what: format!("{what} is {label}") });
        }
        let took = milliseconds(answered.took);
        say(&format!("    {over}          {what} is {label}, by {:.1} %  ({took})", score * 100.0));
    }
    Ok(())
}

fn read_configuration(path: &Path) -> Result<Configuration, Error> {
    let text = std::fs::read(path);
    let text = text.map_err(|cause| Error::File { action: "read", path: path.display().to_string(), cause })?;
    serde_json::from_slice(&text).map_err(|_| Error::Model("config.min.json"))
}

fn samples() -> Result<[Sample; 3], Error> {
    let program = runtime_program()?;
    let python = b"import json\nimport sys\n\n\ndef main(path):\n    with open(path) as file:\n        for line in file:\n            print(json.loads(line)[\"name\"])\n\n\nif __name__ == \"__main__\":\n    main(sys.argv[1])\n";
    let table = b"sepal_length,sepal_width,petal_length,petal_width,species\n5.1,3.5,1.4,0.2,setosa\n7.0,3.2,4.7,1.4,versicolor\n6.3,3.3,6.0,2.5,virginica\n5.8,2.7,5.1,1.9,virginica\n";
    let sample = |what, content, expected| Sample { what, content, expected };
    Ok([
        sample("this program", program, "elf"),
        sample("a text with def main(path)", python.to_vec(), "python"),
        sample("a text with 5.1,3.5,1.4,0.2,setosa", table.to_vec(), "csv"),
    ])
}

/// The first and the last bytes of this program, which is all that the model looks at.
fn runtime_program() -> Result<Vec<u8>, Error> {
    use std::io::{Read, Seek, SeekFrom};
    let failed = |cause| Error::File { action: "read", path: "this program".to_owned(), cause };
    let mut file = std::env::current_exe().and_then(std::fs::File::open).map_err(failed)?;
    let mut content = vec![0; WINDOW];
    file.read_exact(&mut content).map_err(failed)?;
    file.seek(SeekFrom::End(-(WINDOW as i64))).map_err(failed)?;
    file.read_to_end(&mut content).map_err(failed)?;
    Ok(content)
}

/// The model's input: the first kilobyte padded on its right, the last one padded on its left.
fn input(content: &[u8]) -> Vec<i32> {
    let first = content[..content.len().min(WINDOW)].trim_ascii_start();
    let last = content[content.len().saturating_sub(WINDOW)..].trim_ascii_end();
    let (first, last) = (&first[..first.len().min(PART)], &last[last.len().saturating_sub(PART)..]);
    let padding = |part: &[u8]| std::iter::repeat_n(PADDING, PART - part.len());
    let bytes = |part: &[u8]| part.iter().map(|byte| i32::from(*byte)).collect::<Vec<_>>();
    bytes(first).into_iter().chain(padding(first)).chain(padding(last)).chain(bytes(last)).collect()
}

fn request(content: &[u8]) -> Result<InferRequest, Error> {
    let bytes: Vec<u8> = input(content).into_iter().flat_map(i32::to_le_bytes).collect();
    let data = TensorData::Raw(Bytes::from(bytes));
    let tensor = Tensor::new("bytes".to_owned(), Datatype::Int32, vec![1, 2 * PART as i64], data, Default::default());
    let tensor = tensor.map_err(|problem| Error::Request { model: MODEL, cause: problem.to_string() })?;
    Ok(InferRequest { inputs: vec![tensor], ..InferRequest::default() })
}

/// The most likely type, if it is likely enough.
fn best<'a>(answer: &InferResponse, configuration: &'a Configuration) -> Result<(&'a str, f32), Error> {
    let scores = answer.outputs.first().map(Tensor::raw).ok_or(Error::Model("the answer"))?;
    let scores = scores.chunks_exact(4).map(|bytes| bytes.try_into().map_or(f32::NAN, f32::from_le_bytes));
    let labels = configuration.target_labels_space.iter();
    let best = labels.zip(scores).max_by(|(_, a), (_, b)| a.total_cmp(b)).ok_or(Error::Model("the answer"))?;
    let (label, score) = best;
    let threshold = configuration.thresholds.get(label).copied();
    if score < threshold.unwrap_or(configuration.medium_confidence_threshold) {
        return Err(Error::Answer { model: MODEL, what: format!("{label}, but only by {score}") });
    }
    Ok((label, score))
}

#[cfg(test)]
mod tests {
    use super::{PADDING, PART, input};

    #[test]
    fn a_short_content_is_padded_on_the_outer_sides() {
        let input = input(b"  hi  ");
        assert_eq!(input.len(), 2 * PART);
        assert_eq!(&input[..4], [i32::from(b'h'), i32::from(b'i'), 32, 32]);
        assert_eq!(input[6], PADDING);
        assert_eq!(&input[2 * PART - 4..], [32, 32, i32::from(b'h'), i32::from(b'i')]);
    }

    #[test]
    fn of_a_long_content_only_its_ends_count() {
        let content: Vec<u8> = (0..100_000_u32).map(|position| (position % 251) as u8 + 1).collect();
        let input = input(&content);
        assert_eq!(input[0], i32::from(content[0]));
        assert_eq!(input[2 * PART - 1], i32::from(content[content.len() - 1]));
        assert!(!input.contains(&PADDING));
    }
}
