//! Declaring and removing resources, of any kind, and waiting for what that brings about.

use std::time::Duration;

use messages::scheduler as wire;

use crate::address::Address;
use crate::client::inference::Rest;
use crate::client::scheduler::Scheduler;
use runtime::chain;

use crate::failure::Error;
use crate::manifest::{Kind, Named, Resource};
use crate::output::{Output, request, say};
use crate::verb::model::load::until_ready;
use crate::verb::{self, Deadline, wait_for};
use crate::voice::Voice;
use crate::wait::{self, Verdict};

/// How long one look at a model's readiness may take: it says yes or no at once.
const READY_TIMEOUT: Duration = Duration::from_secs(5);

/// What the scheduler has taken in.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) what: Named,
    /// The version of a model or a pipeline; the wanted replicas of a server.
    pub(crate) number: u32,
}

impl Resource {
    pub(crate) fn named(&self) -> Named {
        match self {
            Resource::Experiment(experiment) => Named { kind: Kind::Experiment, name: experiment.name.clone() },
            Resource::Pipeline(pipeline) => Named { kind: Kind::Pipeline, name: pipeline.name.clone() },
            Resource::Model(model) => {
                let name = model.meta.as_ref().map(|meta| meta.name.clone()).unwrap_or_default();
                Named { kind: Kind::Model, name }
            }
            Resource::Server(server) => Named { kind: Kind::Server, name: server.name.clone() },
        }
    }
}

/// Whether what was accepted is told; somebody who waits is told the end only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tell {
    Accepted,
    Nothing,
}

/// Declares every resource, in the order of the file.
pub(crate) async fn declare(
    resources: Vec<Resource>,
    tell: Tell,
    voice: Voice,
    scheduler: &mut Scheduler,
    output: &mut Output,
) -> Result<Vec<Accepted>, Error> {
    let mut accepted = Vec::new();
    for resource in resources {
        let what = resource.named();
        voice.request(output, || request::declare(&resource))?;
        let mut number = 0;
        match resource {
            Resource::Experiment(experiment) => scheduler.start_experiment(*experiment).await?,
            Resource::Model(model) => {
                scheduler.load_model(*model).await?;
                if voice == Voice::Switchyard {
                    // The call answers without a number; the latest version is this one, or one that replaces it.
                    let status = scheduler.model_status(&what.name).await?;
                    number = status.as_ref().and_then(wait::latest).map_or(0, |version| version.version);
                }
            }
            Resource::Pipeline(pipeline) => {
                scheduler.load_pipeline(*pipeline).await?;
                if voice == Voice::Switchyard {
                    let status = scheduler.pipeline_status(&what.name).await?;
                    number = status.as_ref().and_then(wait::latest_pipeline).map_or(0, |state| state.pipeline_version);
                }
            }
            Resource::Server(server) => {
                number = server.expected_replicas;
                scheduler.notify_server(server).await?;
            }
        }
        match (voice, what.kind) {
            (Voice::Seldon { .. }, Kind::Model) => output.line("{}")?,
            (Voice::Seldon { .. }, Kind::Experiment | Kind::Pipeline | Kind::Server) => voice.empty_answer(output)?,
            (Voice::Switchyard, _) if tell == Tell::Nothing => {}
            (Voice::Switchyard, Kind::Model | Kind::Pipeline) => {
                output.line(&format!("{what}: version {number} accepted"))?
            }
            (Voice::Switchyard, Kind::Experiment) => output.line(&format!("{what}: accepted"))?,
            (Voice::Switchyard, Kind::Server) => output.line(&format!("{what}: {number} replicas wanted"))?,
        }
        accepted.push(Accepted { what, number });
    }
    Ok(accepted)
}

/// Waits for each: a model answers through Envoy, an experiment splits traffic, a pipeline takes requests, a server has
/// its replicas.
pub(crate) async fn until_in_effect(
    accepted: &[Accepted],
    deadline: Deadline,
    scheduler: &mut Scheduler,
    envoy: Address,
    output: &mut Output,
) -> Result<(), Error> {
    let rest = Rest::new(envoy, READY_TIMEOUT);
    for Accepted { what, number } in accepted {
        let text = match what.kind {
            Kind::Model => until_ready(&what.name, *number, deadline, scheduler, &rest).await?,
            Kind::Experiment => {
                wait_for(what, deadline, async || {
                    let statuses = scheduler.experiment_statuses(Some(&what.name)).await?;
                    let gone = || Verdict::Failed("it is not known any more".to_owned());
                    Ok(statuses.first().map_or_else(gone, wait::active))
                })
                .await?
            }
            Kind::Pipeline => {
                wait_for(what, deadline, async || {
                    Ok(wait::pipeline_ready(*number, scheduler.pipeline_status(&what.name).await?.as_ref()))
                })
                .await?
            }
            Kind::Server => until_scaled(what, *number, deadline, scheduler).await?,
        };
        output.line(&format!("{what}: {text}"))?;
    }
    Ok(())
}

/// Waits until a server has so many replicas.
pub(crate) async fn until_scaled(
    what: &Named,
    replicas: u32,
    deadline: Deadline,
    scheduler: &mut Scheduler,
) -> Result<String, Error> {
    wait_for(what, deadline, async || Ok(wait::scaled(replicas, scheduler.server_status(&what.name).await?.as_ref())))
        .await
}

/// Removes every resource: experiments before what they lead to, pipelines before their models, models before servers. A server
/// is not forgotten; it is asked to have no replicas. One that cannot be removed keeps no other one from it; the first
/// reason is the result then.
pub(crate) async fn remove(
    mut resources: Vec<Named>,
    tell: Tell,
    voice: Voice,
    scheduler: &mut Scheduler,
    output: &mut Output,
) -> Result<Vec<Named>, Error> {
    resources.sort_by_key(|what| what.kind); // a stable sort, and kinds are in this order
    let mut failed = None;
    for what in &resources {
        voice.request(output, || request::remove(what))?;
        match remove_one(what, scheduler).await {
            Ok(told) => {
                voice.empty_answer(output)?;
                let is_waited_for = matches!(what.kind, Kind::Model | Kind::Pipeline);
                if voice == Voice::Switchyard && (tell == Tell::Accepted || !is_waited_for) {
                    output.line(&format!("{what}: {told}"))?;
                }
            }
            Err(error) if failed.is_none() => failed = Some(error),
            Err(error) => say(&format!("{what}: {}", chain(&error))),
        }
    }
    failed.map_or(Ok(resources), Err)
}

/// Removes a resource; what a person is told of it.
async fn remove_one(what: &Named, scheduler: &mut Scheduler) -> Result<&'static str, Error> {
    Ok(match what.kind {
        Kind::Experiment => {
            scheduler.stop_experiment(&what.name).await?;
            "stopped"
        }
        Kind::Pipeline => {
            scheduler.unload_pipeline(&what.name).await?;
            "unload accepted"
        }
        Kind::Model => {
            // The scheduler takes a second removal for the first one; whoever asks should know that it changes nothing.
            if scheduler.model_status(&what.name).await?.is_some_and(|status| status.deleted) {
                return Err(verb::Error::Leaving(what.clone()).into());
            }
            scheduler.unload_model(&what.name).await?;
            "unload accepted"
        }
        Kind::Server => {
            scheduler.notify_server(without_replicas(&what.name)).await?;
            "0 replicas wanted"
        }
    })
}

/// Waits until the models and pipelines among the resources are gone.
pub(crate) async fn until_gone(
    resources: &[Named],
    deadline: Deadline,
    scheduler: &mut Scheduler,
    output: &mut Output,
) -> Result<(), Error> {
    for what in resources.iter().filter(|what| matches!(what.kind, Kind::Model | Kind::Pipeline)) {
        wait_for(what, deadline, async || {
            Ok(match what.kind {
                Kind::Pipeline => wait::pipeline_gone(scheduler.pipeline_status(&what.name).await?.as_ref()),
                _ => wait::unloaded(scheduler.model_status(&what.name).await?.as_ref()),
            })
        })
        .await?;
        output.line(&format!("{what}: unloaded"))?;
    }
    Ok(())
}

fn without_replicas(name: &str) -> wire::ServerNotify {
    wire::ServerNotify { name: name.to_owned(), max_replicas: u32::MAX, ..Default::default() }
}
