//! What `switchyard up --demo` shows a newcomer: real models and pipelines of them are declared, answer over REST and gRPC
//! through Envoy, and what happened is told in words.

mod file_types;
mod iris;
mod lines;
mod picture;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use messages::scheduler as wire;
use oip::{InferRequest, InferResponse};

use crate::address::Address;
use crate::client::inference::{Grpc, ROUTE_HEADER, Rest, for_json};
use crate::client::scheduler::Scheduler;
use crate::failure::Error as Failure;
use crate::output::say;
use crate::verb::Deadline;
use crate::verb::model::load::until_ready;

/// How long one of the demo's models may take until it answers.
const READY_WITHIN_SECS: u64 = 60;

/// A pipeline is ready within milliseconds.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(10);

/// How long one call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the demo stopped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Call(#[from] Box<Failure>),
    #[error("fetch a model of the demo")]
    Fetch(#[from] runtime::wheel::Error),
    #[error("{action} {path}")]
    File {
        action: &'static str,
        path: String,
        #[source]
        cause: std::io::Error,
    },
    #[error("{0} is not what the demo expects")]
    Model(&'static str),
    #[error("model {model} answered something else than expected: {what}")]
    Answer { model: &'static str, what: String },
    #[error("{pipeline} is not ready: Envoy says {status}")]
    NotReady { pipeline: String, status: http::StatusCode },
    #[error("encode the request for model {model}: {cause}")]
    Request { model: &'static str, cause: String },
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Error::Call(Box::new(failure))
    }
}

impl From<crate::client::Error> for Error {
    fn from(error: crate::client::Error) -> Self {
        Failure::from(error).into()
    }
}

/// Where the demo's calls go.
pub(crate) struct Places {
    pub(crate) scheduler: Address,
    pub(crate) inference: Address,
}

/// The demo's connections.
struct Calls {
    scheduler: Scheduler,
    rest: Rest,
    grpc: Grpc,
}

/// An answer that came through Envoy.
struct Answered {
    response: InferResponse,
    /// What `x-seldon-route` says, in the order of the way.
    routes: String,
    took: Duration,
}

/// Runs the demo; `folder` gets the files of models and pictures that are part of this program.
pub(crate) async fn run(places: Places, folder: &Path) -> Result<(), Error> {
    let mut calls = Calls {
        scheduler: Scheduler::connect(places.scheduler).await?,
        rest: Rest::new(places.inference.clone(), CALL_TIMEOUT),
        grpc: Grpc::connect(places.inference, CALL_TIMEOUT).await?,
    };
    say("\nDemo");
    iris::show(&mut calls, folder).await?;
    file_types::show(&mut calls).await?;
    lines::show(&mut calls, folder).await
}

impl Calls {
    /// Declares the model and waits until it answers through Envoy.
    async fn load(&mut self, name: &str, path: &Path, memory_bytes: u64) -> Result<Duration, Error> {
        let started = Instant::now();
        self.scheduler
            .load_model(wire::Model {
                meta: Some(wire::MetaData { name: name.to_owned(), ..Default::default() }),
                model_spec: Some(wire::ModelSpec {
                    uri: path.display().to_string(),
                    requirements: vec!["onnx".to_owned()],
                    memory_bytes: Some(memory_bytes),
                    ..Default::default()
                }),
                deployment_spec: Some(wire::DeploymentSpec { replicas: 2, min_replicas: 1, ..Default::default() }),
                ..Default::default()
            })
            .await?;
        until_ready(name, 1, Deadline::after(READY_WITHIN_SECS).quietly(), &mut self.scheduler, &self.rest).await?;
        Ok(started.elapsed())
    }

    /// Declares the pipeline and waits until it answers through Envoy.
    async fn load_pipeline(&mut self, pipeline: wire::Pipeline) -> Result<Duration, Error> {
        let (started, name) = (Instant::now(), format!("{}.pipeline", pipeline.name));
        self.scheduler.load_pipeline(pipeline).await?;
        loop {
            let status = self.rest.ready(&name).await?;
            if status.is_success() {
                return Ok(started.elapsed());
            }
            if started.elapsed().as_secs() >= READY_WITHIN_SECS {
                return Err(Error::NotReady { pipeline: name, status });
            }
            tokio::time::sleep(LOOK_AGAIN_AFTER).await;
        }
    }

    /// One request over REST.
    async fn over_rest(&self, model: &'static str, request: &InferRequest) -> Result<Answered, Error> {
        let body = request.to_json(oip::TextStyle::Text, |_| false);
        let started = Instant::now();
        let answer = self.rest.infer(model, for_json(model), body.body).await?;
        let (took, routes) = (started.elapsed(), routes(&answer.headers));
        let body: Bytes = answer.successful(model)?;
        let response = InferResponse::from_json(&body, None);
        let response = response.map_err(|error| Error::Answer { model, what: error.to_string() })?;
        Ok(Answered { response, routes, took })
    }

    /// The same request over gRPC, without any header: Envoy finds the model's name in the message.
    async fn over_grpc(&mut self, model: &'static str, request: InferRequest) -> Result<Answered, Error> {
        let mut message = request.into_proto(oip::Contents::Raw);
        model.clone_into(&mut message.model_name);
        let started = Instant::now();
        let (headers, answer) = self.grpc.infer(http::HeaderMap::new(), message).await?;
        let (took, routes) = (started.elapsed(), routes(&headers));
        let response = InferResponse::from_proto(answer);
        let response = response.map_err(|error| Error::Answer { model, what: error.to_string() })?;
        Ok(Answered { response, routes, took })
    }
}

fn routes(headers: &http::HeaderMap) -> String {
    let routes = headers.get_all(ROUTE_HEADER).iter().filter_map(|route| route.to_str().ok());
    routes.collect::<Vec<_>>().join(",")
}

/// Writes a file that is part of this program; gives its path from the root.
fn write(folder: &Path, name: &str, content: &[u8]) -> Result<PathBuf, Error> {
    let path = folder.join(name);
    let failed = |action| {
        let path = path.display().to_string();
        move |cause| Error::File { action, path, cause }
    };
    std::fs::create_dir_all(folder).map_err(failed("make the folder of"))?;
    std::fs::write(&path, content).map_err(failed("write"))?;
    std::path::absolute(&path).map_err(failed("find"))
}

/// Milliseconds, for people.
fn milliseconds(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1e3)
}
