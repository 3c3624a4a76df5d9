//! `pipeline inspect` and `pipeline tap`: what is in the topics of a pipeline (`spec/user-surface.md` §2.5).

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use clap::Args;
use domain::{End, ModelName, PipelineName, TopicOf, Topics};
use messages::inference::{ModelInferRequest, ModelInferResponse};
use messages::log as wire;
use messages::scheduler as control;
use oip::{InferRequest, InferResponse, TextStyle};
use prost::Message;
use serde_json::{Value, json};

use crate::client::log::Log;
use crate::client::scheduler::Scheduler;
use crate::command::RecordFlags;
use crate::failure::Error;
use crate::output::Output;
use crate::verb;

#[derive(Debug, Args)]
#[command(after_help = "Example:
  switchyard pipeline inspect ocr.read.outputs.chars --request-id d1ldkmqh6t04e1mtk1pg --format json")]
pub(crate) struct Inspect {
    #[command(flatten)]
    query: Query,
    #[command(flatten)]
    records: RecordFlags,
}

/// What is looked for.
#[derive(Debug, Args)]
pub(crate) struct Query {
    /// What to look at: PIPELINE, PIPELINE.inputs, PIPELINE.STEP, PIPELINE.STEP.outputs.TENSOR, …
    pub(crate) expression: String,
    /// Records of each topic, counted from the end
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    offset: u32,
    /// Only records of this request
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
    /// How to show them
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = Shape::Raw)]
    format: Shape,
    /// Cut long values
    #[arg(short, long)]
    truncate: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  switchyard pipeline tap ocr")]
pub(crate) struct Tap {
    /// What to follow, as for `pipeline inspect`
    expression: String,
    /// End after so many records
    #[arg(short, long, value_name = "N")]
    count: Option<u64>,
    #[command(flatten)]
    records: RecordFlags,
}

/// How records are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Shape {
    /// Lines for people.
    Raw,
    /// One JSON document.
    Json,
}

/// Longest value of a truncated record.
const TRUNCATED: usize = 200;

/// What an expression means.
pub(crate) struct Asked {
    pipeline: PipelineName,
    topics: Vec<TopicOf>,
    tensor: Option<String>,
}

pub(crate) async fn inspect(flags: Inspect, output: &mut Output) -> Result<(), Error> {
    let asked = asked(&flags.query.expression, async || flags.records.scheduler().await).await?;
    show(&flags.query, &asked, &Topics::default(), flags.records.log().await?, output).await
}

/// Shows records of topics with these names.
pub(crate) async fn show(
    query: &Query,
    asked: &Asked,
    names: &Topics,
    mut log: Log,
    output: &mut Output,
) -> Result<(), Error> {
    let mut shown = Vec::new();
    for of in &asked.topics {
        let name = names.name(of);
        let known = log.list(&name).await?;
        let partitions = known.iter().find(|topic| topic.name == name).map_or(0, |topic| topic.partitions.len());
        let mut last: VecDeque<wire::Record> = VecDeque::new();
        for partition in (0_u32..).take(partitions) {
            let keep = |record: wire::Record| {
                if is_asked_for(&record, asked, query.request_id.as_deref()) {
                    last.push_back(record);
                }
            };
            log.read(&name, partition, keep).await?;
            last.make_contiguous().sort_by_key(|record| record.time_ms);
            while last.len() > query.offset as usize {
                last.pop_front();
            }
        }
        let messages: Vec<Shown> =
            last.iter().filter_map(|record| message(of, record, asked, query.truncate)).collect();
        if let (Some(tensor), Some(record), true) = (&asked.tensor, last.back(), messages.is_empty()) {
            return Err(verb::Error::NoTensor { tensor: tensor.clone(), held: tensors(of, record).join(", ") }.into());
        }
        shown.push((name, messages));
    }
    let text = match query.format {
        Shape::Json => {
            let topics = shown.iter().map(|(name, messages)| {
                let messages = messages
                    .iter()
                    .map(|(headers, key, value)| json!({"headers": headers, "key": key, "value": value}));
                json!({"name": name, "msgs": messages.collect::<Vec<_>>()})
            });
            json!({"topics": topics.collect::<Vec<_>>()}).to_string()
        }
        Shape::Raw => {
            let topic = |(name, messages): &(String, Vec<Shown>)| {
                let lines = messages.iter().map(|(_, key, value)| format!("Key:\t{key}\nValue:\t{}\n", text(value)));
                format!("Topic:\t{name}\n{}---", lines.collect::<String>())
            };
            shown.iter().map(topic).collect::<Vec<_>>().join("\n")
        }
    };
    Ok(output.line(&text)?)
}

pub(crate) async fn tap(flags: Tap, output: &mut Output) -> Result<(), Error> {
    let asked = asked(&flags.expression, async || flags.records.scheduler().await).await?;
    let mut log = flags.records.log().await?;
    let names = Topics::default();
    let by_name: BTreeMap<String, TopicOf> = asked.topics.iter().map(|of| (names.name(of), of.clone())).collect();
    let mut records = log.follow(by_name.keys().cloned().collect()).await?;
    let mut left = flags.count.unwrap_or(u64::MAX);
    while left > 0 {
        let followed = records.message().await.map_err(|status| verb::Error::Tap(status.message().to_owned()))?;
        let Some(followed) = followed else { break };
        if followed.missed > 0 {
            output.line(&format!("({} records were missed)", followed.missed))?;
        }
        let Some(record) = followed.record.filter(|record| is_asked_for(record, &asked, None)) else { continue };
        let Some(of) = by_name.get(&record.topic) else { continue };
        if let Some((_, key, value)) = message(of, &record, &asked, true) {
            output.line(&format!("{of}  {key}  {}", text(&value)))?;
            left -= 1;
        }
    }
    Ok(())
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Which topics an expression means.
pub(crate) async fn asked(
    expression: &str,
    scheduler: impl AsyncFnOnce() -> Result<Scheduler, Error>,
) -> Result<Asked, Error> {
    let bad = |problem: &str| verb::Error::Expression { text: expression.to_owned(), problem: problem.to_owned() };
    let parts: Vec<&str> = expression.splitn(4, '.').collect();
    let pipeline = PipelineName::parse(parts[0]).map_err(|error| bad(&error.to_string()))?;
    let end = |word: &str| match word {
        "inputs" => Some(End::Inputs),
        "outputs" => Some(End::Outputs),
        _ => None,
    };
    let both = [End::Inputs, End::Outputs];
    let own = |end| TopicOf::Pipeline(pipeline.clone(), end);
    let (topics, tensor): (Vec<TopicOf>, Option<&str>) = match parts[1..] {
        [] => {
            let steps = steps(&scheduler().await?.pipeline_statuses(Some(pipeline.as_str()), false).await?);
            let of_steps = steps.into_iter().flat_map(|step| both.map(|end| TopicOf::Model(step.clone(), end)));
            let first = [own(End::Inputs)].into_iter();
            (first.chain(of_steps).chain([own(End::Outputs), TopicOf::Errors]).collect(), None)
        }
        [word] if end(word).is_some() => (end(word).map(own).into_iter().collect(), None),
        [step] => {
            let step = step_of(&pipeline, step, scheduler).await.map_err(|problem| bad(&problem))?;
            (both.map(|end| TopicOf::Model(step.clone(), end)).into(), None)
        }
        [word, tensor] if end(word).is_some() => (end(word).map(own).into_iter().collect(), Some(tensor)),
        [step, word] | [step, word, _] => {
            let end = end(word).ok_or_else(|| bad("after a step `inputs` or `outputs` must stand"))?;
            let step = step_of(&pipeline, step, scheduler).await.map_err(|problem| bad(&problem))?;
            (vec![TopicOf::Model(step, end)], parts.get(3).copied())
        }
        _ => return Err(bad("it has too many parts").into()),
    };
    Ok(Asked { pipeline, topics, tensor: tensor.map(str::to_owned) })
}

/// All models of pipelines.
fn steps(statuses: &[control::PipelineStatusResponse]) -> Vec<ModelName> {
    let versions = statuses.iter().flat_map(|status| &status.versions);
    let steps = versions.filter_map(|version| version.pipeline.as_ref()).flat_map(|pipeline| &pipeline.steps);
    steps.filter_map(|step| ModelName::parse(&step.name).ok()).collect()
}

/// A step by its name, or what is wrong with that. Of a pipeline that is gone, or while there is nobody to ask, any step's
/// records may be looked at.
async fn step_of(
    pipeline: &PipelineName,
    name: &str,
    scheduler: impl AsyncFnOnce() -> Result<Scheduler, Error>,
) -> Result<ModelName, String> {
    let step = ModelName::parse(name).map_err(|error| error.to_string())?;
    let status = match scheduler().await {
        Ok(mut scheduler) => scheduler.pipeline_status(pipeline.as_str()).await.ok().flatten(),
        Err(_) => None,
    };
    let known = steps(status.as_slice());
    if known.is_empty() || known.contains(&step) {
        return Ok(step);
    }
    let known: Vec<&str> = known.iter().map(ModelName::as_str).collect();
    Err(format!("pipeline {pipeline} has no step {step}, but {}", known.join(", ")))
}

fn header<'a>(record: &'a wire::Record, name: &str) -> Option<&'a [u8]> {
    record.headers.iter().rev().find(|header| header.name == name).map(|header| header.value.as_ref())
}

fn is_asked_for(record: &wire::Record, asked: &Asked, request_id: Option<&str>) -> bool {
    let of_pipeline = header(record, "pipeline") == Some(asked.pipeline.as_str().as_bytes());
    // An answer says `<key>,<id>`, and the key ends with the id: each may be given. Foreign records have only keys.
    let of_request = request_id.is_none_or(|given| {
        let (given, key) = (given.as_bytes(), record.key.as_ref());
        let of_key = key.splitn(3, |byte| *byte == b'.').nth(2);
        let ids = header(record, domain::header::REQUEST_ID).into_iter().chain(of_key);
        given == key || ids.into_iter().any(|id| given == id || given == [key, b",", id].concat())
    });
    of_pipeline && of_request
}

/// Names of the tensors of a record.
fn tensors(of: &TopicOf, record: &wire::Record) -> Vec<String> {
    let value = decoded(of, &record.value).unwrap_or_default();
    let lists = ["inputs", "outputs"].iter().filter_map(|list| value[*list].as_array());
    lists.flatten().filter_map(|tensor| tensor["name"].as_str()).map(str::to_owned).collect()
}

/// Headers, key and value of a record.
type Shown = (BTreeMap<String, String>, String, Value);

/// A record for people; none if it does not hold the tensor that is asked for.
fn message(of: &TopicOf, record: &wire::Record, asked: &Asked, truncate: bool) -> Option<Shown> {
    let headers = record.headers.iter().map(|header| (header.name.clone(), lossy(&header.value))).collect();
    let mut value = decoded(of, &record.value).unwrap_or_else(|| Value::String(lossy(&record.value)));
    if let Some(tensor) = &asked.tensor {
        let list = ["inputs", "outputs"].into_iter().find(|list| value[*list].is_array())?;
        let found = value[list].as_array()?.iter().find(|found| found["name"] == tensor.as_str())?.clone();
        value = json!({ list: [found] });
    }
    if truncate && value.to_string().len() > TRUNCATED {
        value = Value::String(format!("{}…", value.to_string().chars().take(TRUNCATED).collect::<String>()));
    }
    Some((headers, lossy(&record.key), value))
}

/// A message of the protocol as JSON.
fn decoded(of: &TopicOf, value: &Bytes) -> Option<Value> {
    let body = match of {
        TopicOf::Model(_, End::Inputs) | TopicOf::Pipeline(_, End::Inputs) => {
            let message = ModelInferRequest::decode(value.clone()).ok()?;
            InferRequest::from_proto(message).ok()?.to_json(TextStyle::Text, |_| false)
        }
        TopicOf::Model(_, End::Outputs) | TopicOf::Pipeline(_, End::Outputs) => {
            let message = ModelInferResponse::decode(value.clone()).ok()?;
            InferResponse::from_proto(message).ok()?.to_json(TextStyle::Text, |_| false)
        }
        TopicOf::Errors | TopicOf::Left => return None,
    };
    serde_json::from_slice(&body.body).ok()
}

fn lossy(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
