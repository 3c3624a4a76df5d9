//! Commands that talk to the scheduler.

use std::time::Duration;

use domain::Topics;
use http::uri::Authority;
use messages::scheduler::model_status::ModelState;
use messages::scheduler::pipeline_version_state::PipelineStatus as PipelineState;

use super::command::{Control, Experiment, Inspect, Model, Pipeline, Server, StatusFile, WriteFile, WriteNamed};
use super::{Error as SeldonError, infer, may_write};
use crate::address::{self, Place, Target};
use crate::client::log::Log;
use crate::client::scheduler::Scheduler;
use crate::command::{Format, variable};
use crate::failure::Error;
use crate::manifest::{self, Kind, Named};
use crate::output::{Output, request};
use crate::verb::apply::{self, Tell};
use crate::verb::infer::of_pipeline;
use crate::verb::status::{self, Status, Until};
use crate::verb::{
    Deadline, Error as VerbError, experiment as experiments, inspect, model as models, pipeline as pipelines,
    server as servers,
};
use crate::voice::Voice;

impl Control {
    fn voice(&self) -> Voice {
        Voice::Seldon { verbose: self.verbose }
    }

    async fn connect(&self) -> Result<Scheduler, Error> {
        let place = Place::Seldon;
        let address = address::find(Target::Scheduler, self.scheduler_host.as_deref(), place, variable)?;
        Ok(Scheduler::connect_as(address, authority(&self.authority)?.as_ref()).await?)
    }
}

/// The authority in a flag's text, which is empty when there is none.
pub(super) fn authority(text: &str) -> Result<Option<Authority>, Error> {
    if text.is_empty() {
        return Ok(None);
    }
    Ok(Some(text.parse().map_err(|_| VerbError::Authority { text: text.chars().take(256).collect() })?))
}

/// Declares what a file has, of one kind or of any.
pub(super) async fn load(flags: WriteFile, only: Option<Kind>, output: &mut Output) -> Result<(), Error> {
    if !may_write(flags.force.force, output)? {
        return Ok(());
    }
    let resources = manifest::resources(&flags.file_path, only)?;
    let mut scheduler = flags.control.connect().await?;
    apply::declare(resources, Tell::Accepted, flags.control.voice(), &mut scheduler, output).await.map(drop)
}

pub(super) async fn unload_file(flags: WriteFile, output: &mut Output) -> Result<(), Error> {
    if !may_write(flags.force.force, output)? {
        return Ok(());
    }
    remove(manifest::names(&flags.file_path, None)?, &flags.control, output).await
}

async fn unload(flags: WriteNamed, kind: Kind, output: &mut Output) -> Result<(), Error> {
    let (name, file) = (flags.name, flags.file_path);
    if name.is_none() && file.is_none() {
        return Err(VerbError::NameOrFile { kind }.into());
    }
    if !may_write(flags.force.force, output)? {
        return Ok(());
    }
    let mut resources = Vec::new();
    if let Some(name) = name {
        resources.push(Named::checked(kind, name)?);
    }
    if let Some(file) = file {
        resources.extend(manifest::names(&file, Some(kind))?);
    }
    remove(resources, &flags.control, output).await
}

async fn remove(resources: Vec<Named>, control: &Control, output: &mut Output) -> Result<(), Error> {
    let mut scheduler = control.connect().await?;
    apply::remove(resources, Tell::Accepted, control.voice(), &mut scheduler, output).await.map(drop)
}

pub(super) async fn status_file(flags: StatusFile, output: &mut Output) -> Result<(), Error> {
    let resources = manifest::names(&flags.file_path, None)?;
    let mut scheduler = flags.control.connect().await?;
    let until = flags.wait.then_some((Until::Ready, flags.timeout.timeout_secs));
    for what in resources {
        let status = ask(&what, until, flags.control.voice(), &mut scheduler, output).await?;
        output.line(&status.map_or_else(|| "{}".to_owned(), |status| status.json()))?;
    }
    Ok(())
}

/// The status of a resource, at once or when it is as wanted.
async fn ask(
    what: &Named,
    until: Option<(Until, u64)>,
    voice: Voice,
    scheduler: &mut Scheduler,
    output: &mut Output,
) -> Result<Option<Status>, Error> {
    voice.request(output, || request::status(what))?;
    match until {
        Some((until, seconds)) => status::wait_until(what, until, Deadline::after(seconds).quietly(), scheduler).await,
        None => Ok(status::look(what, false, scheduler).await?),
    }
}

pub(super) async fn model(verb: Model, output: &mut Output) -> Result<(), Error> {
    match verb {
        Model::Load(flags) => load(flags, Some(Kind::Model), output).await,
        Model::Unload(flags) => unload(flags, Kind::Model, output).await,
        Model::Status(flags) => {
            let what = Named::checked(Kind::Model, flags.name)?;
            let until = if flags.wait.is_empty() { None } else { Some(Until::State(model_state(&flags.wait)?)) };
            let waited = until.is_some();
            let until = until.map(|until| (until, flags.timeout.timeout_secs));
            let mut scheduler = flags.control.connect().await?;
            let status = ask(&what, until, flags.control.voice(), &mut scheduler, output).await?;
            // Who waits for a state is told nothing more.
            let text = status.filter(|_| !waited).map_or_else(|| "{}".to_owned(), |status| status.json());
            Ok(output.line(&text)?)
        }
        Model::List(control) => {
            models::list(Format::Text, control.voice(), &mut control.connect().await?, output).await
        }
        Model::Metadata(flags) => {
            let envoy = infer::address(&flags.inference)?;
            let authority = authority(&flags.inference.authority)?;
            models::metadata(&flags.name, envoy, authority, Voice::Seldon { verbose: false }, output).await
        }
        Model::Infer(flags) => infer::run(*flags, |model| model, output).await,
    }
}

pub(super) async fn pipeline(verb: Pipeline, output: &mut Output) -> Result<(), Error> {
    match verb {
        Pipeline::Load(flags) => load(flags, Some(Kind::Pipeline), output).await,
        Pipeline::Unload(flags) => unload(flags, Kind::Pipeline, output).await,
        Pipeline::Status(flags) => {
            let what = Named::checked(Kind::Pipeline, flags.name)?;
            let until = if flags.wait.is_empty() { None } else { Some(Until::Pipeline(pipeline_state(&flags.wait)?)) };
            let until = until.map(|until| (until, flags.timeout.timeout_secs));
            let mut scheduler = flags.control.connect().await?;
            let status = ask(&what, until, flags.control.voice(), &mut scheduler, output).await?;
            Ok(output.line(&status.map_or_else(|| "{}".to_owned(), |status| status.json()))?)
        }
        Pipeline::List(control) => {
            pipelines::list(Format::Text, control.voice(), &mut control.connect().await?, output).await
        }
        Pipeline::Infer(flags) => infer::run(*flags, of_pipeline, output).await,
        Pipeline::Inspect(flags) => inspect(&flags, output).await,
    }
}

async fn inspect(flags: &Inspect, output: &mut Output) -> Result<(), Error> {
    let names = Topics::new(domain::TOPIC_PREFIX, &flags.namespace).map_err(SeldonError::Namespace)?;
    let looking = async {
        let asked = inspect::asked(&flags.query.expression, async || flags.control.connect().await).await?;
        let address = address::find(Target::Log, flags.kafka_broker.as_deref(), Place::Seldon, variable)?;
        inspect::show(&flags.query, &asked, &names, Log::connect(address).await?, output).await
    };
    let limit = Duration::from_secs(flags.timeout_secs);
    tokio::time::timeout(limit, looking).await.map_err(|_| SeldonError::TooSlow(flags.timeout_secs))?
}

/// The numbers of an enumeration of the API, which have no gaps.
fn numbers<T: TryFrom<i32>>() -> impl Iterator<Item = T> {
    (0..=i32::from(u8::MAX)).map_while(|number| T::try_from(number).ok())
}

/// A state of a model by its name.
fn model_state(text: &str) -> Result<ModelState, SeldonError> {
    ModelState::from_str_name(text).ok_or_else(|| SeldonError::State {
        kind: Kind::Model,
        text: text.chars().take(64).collect(),
        known: numbers().map(|state: ModelState| state.as_str_name()).collect(),
    })
}

/// A state of a pipeline by its name.
fn pipeline_state(text: &str) -> Result<PipelineState, SeldonError> {
    PipelineState::from_str_name(text).ok_or_else(|| SeldonError::State {
        kind: Kind::Pipeline,
        text: text.chars().take(64).collect(),
        known: numbers().map(|state: PipelineState| state.as_str_name()).collect(),
    })
}

pub(super) async fn experiment(verb: Experiment, output: &mut Output) -> Result<(), Error> {
    match verb {
        Experiment::Start(flags) => load(flags, Some(Kind::Experiment), output).await,
        Experiment::Stop(flags) => unload(flags, Kind::Experiment, output).await,
        Experiment::Status(flags) => {
            let what = Named::checked(Kind::Experiment, flags.name)?;
            let until = flags.wait.then_some((Until::Ready, flags.timeout.timeout_secs));
            let mut scheduler = flags.control.connect().await?;
            let status = ask(&what, until, flags.control.voice(), &mut scheduler, output).await?;
            Ok(output.line(&status.map_or_else(|| "{}".to_owned(), |status| status.json()))?)
        }
        Experiment::List(control) => {
            experiments::list(Format::Text, control.voice(), &mut control.connect().await?, output).await
        }
    }
}

pub(super) async fn server(verb: Server, output: &mut Output) -> Result<(), Error> {
    match verb {
        Server::Status(flags) => {
            let what = Named::checked(Kind::Server, flags.name)?;
            let verbose = flags.control.verbose || flags.shown.show_request;
            let mut scheduler = flags.control.connect().await?;
            let status = ask(&what, None, Voice::Seldon { verbose }, &mut scheduler, output).await?;
            let text = match status {
                Some(Status::Server(status)) if !flags.shown.show_response => servers::summary(&status),
                Some(status) => status.json(),
                None => "{}".to_owned(),
            };
            Ok(output.line(&text)?)
        }
        Server::List(control) => {
            servers::list(Format::Text, control.voice(), &mut control.connect().await?, output).await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{model_state, pipeline_state};

    #[test]
    fn a_state_that_is_none_is_refused_with_those_that_are() {
        assert!(model_state("ModelAvailable").is_ok() && model_state("ModelTerminated").is_ok());
        assert!(pipeline_state("PipelineReady").is_ok() && pipeline_state("PipelineTerminated").is_ok());
        let error = pipeline_state("ModelAvailable").expect_err("no state").to_string();
        assert!(error.contains("of a pipeline") && error.contains("PipelineReady"), "{error}");
        let error = model_state("Available").expect_err("no state").to_string();
        assert!(
            error.contains("--wait") && error.contains("ModelAvailable") && error.contains("ScheduleFailed"),
            "{error}"
        );
    }
}
