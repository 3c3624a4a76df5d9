//! `doctor`: asks every hop that a request for a pipeline takes, in order, and says where it stops.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use domain::{End, ModelName, PipelineName, TopicOf, Topics};
use http::header::{HeaderName, HeaderValue};
use messages::scheduler::pipeline_version_state::PipelineStatus as State;
use tokio::time::{Instant, timeout_at};

use crate::client::inference::{Rest, for_json};
use crate::client::log::Log;
use crate::client::scheduler::Scheduler;
use crate::command::{InferenceFlags, RecordFlags};
use runtime::chain;

use crate::failure::Error;
use crate::output::Output;
use crate::verb::{self, infer};

/// How long the probe may take.
const PROBE_WITHIN: Duration = Duration::from_secs(10);

/// After an answer, records of it that are still on their way come within this.
const RECORDS_WITHIN: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
#[command(after_help = "Example:
  switchyard doctor ocr
  switchyard doctor iris-twice '{\"inputs\":[{\"name\":\"X\",\"datatype\":\"FP32\",\"shape\":[1,4],\"data\":[5.1,3.5,1.4,0.2]}]}'")]
pub(crate) struct Flags {
    /// The pipeline
    pipeline: String,
    /// A request to send through it as a probe; without one only the parts are asked
    request: Option<String>,
    #[command(flatten)]
    inference: InferenceFlags,
    #[command(flatten)]
    records: RecordFlags,
}

pub(crate) async fn run(flags: Flags, output: &mut Output) -> Result<(), Error> {
    let pipeline = PipelineName::parse(&flags.pipeline).map_err(verb::Error::from)?;
    let scheduler_address = flags.records.scheduler.address(&flags.records.installation)?;
    let shown = scheduler_address.to_string();
    let mut scheduler = Scheduler::connect(scheduler_address).await?;
    output.line(&format!("ok    {shown} answers"))?;
    let statuses = scheduler.pipeline_statuses(Some(pipeline.as_str()), false).await?;
    let version = statuses.iter().flat_map(|status| &status.versions).next_back();
    let Some(version) = version else { return stop(output, &format!("pipeline {pipeline} is not declared")) };
    let state = version.state.clone().unwrap_or_default();
    if state.status() != State::PipelineReady || state.pipeline_gw_status() != State::PipelineReady {
        let reasons = format!("{} {}", state.reason, state.pipeline_gw_reason);
        return stop(output, &format!("pipeline {pipeline} is {}: {}", state.status().as_str_name(), reasons.trim()));
    }
    output.line(&format!(
        "ok    pipeline {pipeline} version {} is with the engines and the gateways",
        state.pipeline_version
    ))?;
    let steps = version.pipeline.iter().flat_map(|pipeline| &pipeline.steps);
    let steps: Vec<ModelName> = steps.filter_map(|step| ModelName::parse(&step.name).ok()).collect();
    let rest = Rest::new(flags.inference.address(&flags.records.installation)?, PROBE_WITHIN);
    for step in &steps {
        match rest.ready(step.as_str()).await {
            Ok(status) if status.is_success() => {
                output.line(&format!("ok    step {step} is ready, asked through Envoy"))?
            }
            Ok(status) => return stop(output, &format!("step {step} is not ready: Envoy says {status}")),
            Err(error) => return stop(output, &format!("step {step} cannot be asked: {}", chain(&error))),
        }
    }
    let Some(request) = flags.request else {
        return Ok(output.line("ok    every part is ready; give a request to see it pass")?);
    };
    let mut log = flags.records.log().await?;
    probe(&pipeline, &steps, request.into(), &rest, &mut log, output).await
}

fn stop(output: &mut Output, reason: &str) -> Result<(), Error> {
    output.line(&format!("STOP  {reason}"))?;
    Err(verb::Error::Unwell.into())
}

/// Sends the request and watches which topics it reaches.
async fn probe(
    pipeline: &PipelineName,
    steps: &[ModelName],
    body: Bytes,
    rest: &Rest,
    log: &mut Log,
    output: &mut Output,
) -> Result<(), Error> {
    let names = Topics::default();
    let mut hops = vec![(TopicOf::Pipeline(pipeline.clone(), End::Inputs), "the pipeline gateway")];
    for step in steps {
        hops.push((TopicOf::Model(step.clone(), End::Inputs), "the dataflow engine"));
        hops.push((TopicOf::Model(step.clone(), End::Outputs), "the model gateway"));
    }
    hops.push((TopicOf::Pipeline(pipeline.clone(), End::Outputs), "the dataflow engine"));
    let topics = hops.iter().map(|(of, _)| names.name(of)).chain([names.name(&TopicOf::Errors)]);
    let mut records = log.follow(topics.collect()).await?;
    let id = format!("doctor-{}", std::process::id());
    let called = infer::of_pipeline(pipeline.to_string());
    let mut headers = for_json(&called);
    let value = HeaderValue::from_str(&id).map_err(|_| verb::Error::Unwell)?;
    headers.insert(HeaderName::from_static(domain::header::REQUEST_ID), value);
    let mut seen: BTreeSet<String> = BTreeSet::new();
    let answer = {
        let calling = rest.infer(&called, headers, body);
        tokio::pin!(calling);
        let mut answer = None;
        let mut until = Instant::now() + PROBE_WITHIN;
        loop {
            tokio::select! {
                called = &mut calling, if answer.is_none() => {
                    answer = Some(called);
                    until = Instant::now() + RECORDS_WITHIN;
                }
                followed = timeout_at(until, records.message()) => {
                    let Ok(Ok(Some(followed))) = followed else { break };
                    let record = followed.record.unwrap_or_default();
                    let is_ours = record.headers.iter().any(|header| header.name == domain::header::REQUEST_ID && header.value == id.as_bytes());
                    if is_ours {
                        seen.insert(record.topic);
                    }
                }
            }
        }
        answer
    };
    for (of, who) in &hops {
        let is_seen = seen.contains(&names.name(of));
        let word = if is_seen { "ok  " } else { "none" };
        output.line(&format!("{word}  {of}  (written by {who})"))?;
    }
    match answer {
        Some(Ok(answer)) if answer.status.is_success() => Ok(output.line("ok    the answer came back through Envoy")?),
        Some(Ok(answer)) => {
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            stop(output, &format!("the answer is {}: {text}", answer.status))
        }
        Some(Err(error)) => stop(output, &format!("no answer: {}", chain(&error))),
        None => stop(output, &format!("no answer within {} s", PROBE_WITHIN.as_secs())),
    }
}
