//! What the scheduler says about one resource of any kind, for people and as JSON, and waiting for it to say something.

use messages::scheduler as wire;
use wire::model_status::ModelState;
use wire::pipeline_version_state::PipelineStatus as PipelineState;

use crate::client;
use crate::client::scheduler::Scheduler;
use crate::command::Format;
use crate::failure::Error;
use crate::manifest::{Kind, Named};
use crate::output::as_json;
use crate::output::experiment::ExperimentStatus;
use crate::output::pipeline::PipelineStatus;
use crate::output::status::{ModelStatus, ServerStatus};
use crate::verb::{self, Deadline, experiment, model, pipeline, server, wait_for};
use crate::wait::{self, Verdict};

/// A status.
#[derive(Clone, Debug)]
pub(crate) enum Status {
    Experiment(wire::ExperimentStatusResponse),
    Model(Box<wire::ModelStatusResponse>),
    Pipeline(Box<wire::PipelineStatusResponse>),
    Server(wire::ServerStatusResponse),
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// A model in this state.
    State(ModelState),
    /// A pipeline whose engines' side is in this state.
    Pipeline(PipelineState),
    /// A model that serves, a pipeline that takes requests, an experiment that is active, a server with the replicas that
    /// are wanted.
    Ready,
}

impl Status {
    /// One line of JSON with the names of the API.
    pub(crate) fn json(&self) -> String {
        match self {
            Status::Experiment(status) => as_json(&ExperimentStatus::from(status)),
            Status::Pipeline(status) => as_json(&PipelineStatus::from(status.as_ref())),
            Status::Model(status) => as_json(&ModelStatus::from(status.as_ref())),
            Status::Server(status) => as_json(&ServerStatus::from(status)),
        }
    }

    /// Lines for a person.
    pub(crate) fn text(&self) -> String {
        match self {
            Status::Experiment(status) => experiment::as_text(status),
            Status::Model(status) => model::as_text(status),
            Status::Pipeline(status) => pipeline::as_text(status),
            Status::Server(status) => server::as_text(status),
        }
    }

    fn verdict(&self, until: Until) -> Verdict {
        match (self, until) {
            (Status::Model(status), Until::State(state)) => wait::in_state(state, status),
            (Status::Pipeline(status), Until::Pipeline(state)) => wait::pipeline_in_state(state, status),
            (Status::Pipeline(status), _) => wait::pipeline_ready(0, Some(status)),
            (Status::Model(status), Until::Ready | Until::Pipeline(_)) => {
                wait::in_state(ModelState::ModelAvailable, status)
            }
            (Status::Experiment(status), _) => wait::active(status),
            (Status::Server(status), _) => {
                wait::scaled(u32::try_from(status.expected_replicas).unwrap_or_default(), Some(status))
            }
        }
    }
}

impl Format {
    pub(crate) fn pick(self, status: &Status) -> String {
        match self {
            Format::Text => status.text(),
            Format::Json => status.json(),
        }
    }
}

/// Asks for a status. An unknown resource is the scheduler's error.
pub(crate) async fn look(
    what: &Named,
    all_versions: bool,
    scheduler: &mut Scheduler,
) -> Result<Option<Status>, client::Error> {
    let name = Some(what.name.as_str());
    Ok(match what.kind {
        Kind::Experiment => scheduler.experiment_statuses(name).await?.pop().map(Status::Experiment),
        Kind::Model => {
            scheduler.model_statuses(name, all_versions).await?.pop().map(|status| Status::Model(Box::new(status)))
        }
        Kind::Pipeline => {
            let status = scheduler.pipeline_statuses(name, all_versions).await?.pop();
            status.map(|status| Status::Pipeline(Box::new(status)))
        }
        Kind::Server => scheduler.server_statuses(name).await?.pop().map(Status::Server),
    })
}

/// The same, and an unknown resource is an error that says where to look.
pub(crate) async fn known(what: &Named, all_versions: bool, scheduler: &mut Scheduler) -> Result<Status, Error> {
    match look(what, all_versions, scheduler).await {
        Ok(Some(status)) => Ok(status),
        Ok(None) => Err(verb::Error::Unknown(what.clone()).into()),
        Err(error) if error.is_unknown() => Err(verb::Error::Unknown(what.clone()).into()),
        Err(error) => Err(error.into()),
    }
}

/// Waits until a resource is as wanted; its last status, unless it is gone as wanted.
pub(crate) async fn wait_until(
    what: &Named,
    until: Until,
    deadline: Deadline,
    scheduler: &mut Scheduler,
) -> Result<Option<Status>, Error> {
    let mut last = None;
    let gone =
        matches!(until, Until::State(ModelState::ModelTerminated) | Until::Pipeline(PipelineState::PipelineTerminated));
    wait_for(what, deadline, async || {
        last = match look(what, false, scheduler).await {
            Ok(status) => status,
            Err(error) if gone && error.is_unknown() => None,
            Err(error) => return Err(error),
        };
        Ok(match &last {
            Some(status) => status.verdict(until),
            None if gone => Verdict::Done("gone".to_owned()),
            None => Verdict::Waiting("the scheduler says nothing about it".to_owned()),
        })
    })
    .await?;
    Ok(last)
}
