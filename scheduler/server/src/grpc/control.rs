//! `seldon.mlops.scheduler.Scheduler`: what operators, command lines and gateways call.
//!
//! Everything that users declare. Gateways and engines of other systems are told that they are not supported: workers
//! speak a protocol of our own (`workers`).

use std::time::Duration;

use api::convert;
use api::scheduler::scheduler_server::Scheduler as Service;
use domain::{ExperimentName, ModelName, PipelineName, ServerName};
use futures_util::{StreamExt, stream};
use messages::chainer;
use messages::scheduler as wire;
use tonic::{Request, Response, Status};

use super::streams::{Answers, Carrier, Pace};
use super::{invalid, rejected};
use crate::handle::Scheduler;

/// How long changes of one server's status are gathered (`spec/control-plane.md` §2.18).
const SERVER_PACE: Pace = Pace(Duration::from_millis(250));

/// Other statuses are told at once.
const NO_PACE: Pace = Pace(Duration::ZERO);

pub(crate) struct Control {
    pub(crate) scheduler: Scheduler,
    pub(crate) carrier: Carrier,
}

fn finite<T: Send + 'static>(answers: Vec<T>) -> Response<Answers<T>> {
    Response::new(stream::iter(answers).map(Ok).boxed())
}

fn foreign(what: &str) -> Status {
    Status::unimplemented(format!("{what} of other systems are not supported"))
}

fn unknown(kind: &str, name: &str) -> Status {
    Status::failed_precondition(format!("{kind} {name:?} is not known"))
}

#[tonic::async_trait]
impl Service for Control {
    type ServerStatusStream = Answers<wire::ServerStatusResponse>;
    type ModelStatusStream = Answers<wire::ModelStatusResponse>;
    type PipelineStatusStream = Answers<wire::PipelineStatusResponse>;
    type ExperimentStatusStream = Answers<wire::ExperimentStatusResponse>;
    type SubscribeServerStatusStream = Answers<wire::ServerStatusResponse>;
    type SubscribeModelStatusStream = Answers<wire::ModelStatusResponse>;
    type SubscribeExperimentStatusStream = Answers<wire::ExperimentStatusResponse>;
    type SubscribePipelineStatusStream = Answers<wire::PipelineStatusResponse>;
    type SubscribeControlPlaneStream = Answers<wire::ControlPlaneResponse>;

    async fn server_notify(
        &self,
        request: Request<wire::ServerNotifyRequest>,
    ) -> Result<Response<wire::ServerNotifyResponse>, Status> {
        let request = request.into_inner();
        let first_sync = request.is_first_sync;
        let servers = request.servers.into_iter().enumerate();
        let servers = servers.map(|(index, notify)| convert::server::notify(index, notify));
        let servers = servers.collect::<Result<Vec<_>, _>>().map_err(|error| invalid(&error))?;
        self.scheduler.notify_servers(servers, first_sync).await.map_err(|error| rejected(&error))?;
        Ok(Response::new(wire::ServerNotifyResponse {}))
    }

    async fn load_model(
        &self,
        request: Request<wire::LoadModelRequest>,
    ) -> Result<Response<wire::LoadModelResponse>, Status> {
        let definition = convert::model::definition(request.into_inner().model.unwrap_or_default());
        let definition = definition.map_err(|error| invalid(&error))?;
        self.scheduler.apply_model(definition).await.map_err(|error| rejected(&error))?;
        Ok(Response::new(wire::LoadModelResponse {}))
    }

    async fn unload_model(
        &self,
        request: Request<wire::UnloadModelRequest>,
    ) -> Result<Response<wire::UnloadModelResponse>, Status> {
        let request = request.into_inner();
        let name = request.model.map(|model| model.name).unwrap_or_default();
        let name = ModelName::parse(&name).map_err(|error| invalid(&convert::Invalid::one("model.name", error)))?;
        let kubernetes = request.kubernetes_meta.map(|meta| convert::model::small_kubernetes("kubernetesMeta", meta));
        let kubernetes = kubernetes.transpose().map_err(|error| invalid(&error))?;
        self.scheduler.remove_model(name, kubernetes).await.map_err(|error| rejected(&error))?;
        Ok(Response::new(wire::UnloadModelResponse {}))
    }

    async fn server_status(
        &self,
        request: Request<wire::ServerStatusRequest>,
    ) -> Result<Response<Self::ServerStatusStream>, Status> {
        let wanted = request.into_inner().name;
        let missing = wanted.clone();
        let statuses = self.scheduler.read(move |machine| match wanted {
            Some(name) => ServerName::parse(&name).ok().and_then(|name| machine.server_status(&name)).map(|s| vec![s]),
            None => Some(machine.servers().filter_map(|server| machine.server_status(&server.name)).collect()),
        });
        let statuses = statuses.await.map_err(|error| rejected(&error))?;
        let statuses = statuses.ok_or_else(|| unknown("server", missing.as_deref().unwrap_or_default()))?;
        Ok(finite(statuses.iter().map(convert::status::server).collect()))
    }

    async fn model_status(
        &self,
        request: Request<wire::ModelStatusRequest>,
    ) -> Result<Response<Self::ModelStatusStream>, Status> {
        let request = request.into_inner();
        let all_versions = request.all_versions;
        let wanted = request.model.map(|model| model.name);
        let missing = wanted.clone();
        let statuses = self.scheduler.read(move |machine| {
            let status = |name: &ModelName| {
                let versions = match all_versions {
                    true => machine.version_statuses(name)?,
                    false => vec![machine.model_status(name)?],
                };
                Some(convert::status::model(name, &versions))
            };
            match wanted {
                Some(name) => ModelName::parse(&name).ok().and_then(|name| status(&name)).map(|answer| vec![answer]),
                None => Some(machine.models().filter_map(|model| status(&model.name)).collect()),
            }
        });
        let statuses: Option<Vec<_>> = statuses.await.map_err(|error| rejected(&error))?;
        let statuses = statuses.ok_or_else(|| unknown("model", missing.as_deref().unwrap_or_default()))?;
        Ok(finite(statuses))
    }

    async fn scheduler_status(
        &self,
        _: Request<wire::SchedulerStatusRequest>,
    ) -> Result<Response<wire::SchedulerStatusResponse>, Status> {
        let application_version = env!("CARGO_PKG_VERSION").to_owned();
        Ok(Response::new(wire::SchedulerStatusResponse { application_version }))
    }

    async fn subscribe_server_status(
        &self,
        _: Request<wire::ServerSubscriptionRequest>,
    ) -> Result<Response<Self::SubscribeServerStatusStream>, Status> {
        let (scheduler, reader) = (self.scheduler.clone(), self.scheduler.clone());
        let subscribe = || async move { scheduler.subscribe_servers().await };
        let look = move |about| {
            let reader = reader.clone();
            async move { reader.servers(about).await }
        };
        Ok(self.carrier.carry(false, SERVER_PACE, subscribe, look))
    }

    async fn subscribe_model_status(
        &self,
        request: Request<wire::ModelSubscriptionRequest>,
    ) -> Result<Response<Self::SubscribeModelStatusStream>, Status> {
        if request.into_inner().is_model_gateway {
            return Err(foreign("model gateways"));
        }
        let (scheduler, reader) = (self.scheduler.clone(), self.scheduler.clone());
        let subscribe = || async move { scheduler.subscribe_models().await };
        let look = move |names| {
            let reader = reader.clone();
            async move { reader.models(names).await }
        };
        Ok(self.carrier.carry(true, NO_PACE, subscribe, look))
    }

    async fn subscribe_control_plane(
        &self,
        _: Request<wire::ControlPlaneSubscriptionRequest>,
    ) -> Result<Response<Self::SubscribeControlPlaneStream>, Status> {
        use wire::control_plane_response::Event;
        let message = |event: Event| Ok(wire::ControlPlaneResponse { event: event.into() });
        let mut synchronised = self.carrier.synchronised.clone();
        // Experiments, models and pipelines are asked for when they can be acted on, in this order.
        let later = async move {
            let is_over = synchronised.wait_for(|is| *is).await.is_ok();
            let events = [Event::SendExperiments, Event::SendModels, Event::SendPipelines];
            stream::iter(events.map(message)).take(if is_over { events.len() } else { 0 })
        };
        let events = stream::iter([message(Event::SendServers)]).chain(stream::once(later).flatten());
        let stop = self.carrier.stop.clone();
        let events = events.chain(stream::pending()).take_until(async move { stop.requested().await });
        Ok(Response::new(events.boxed()))
    }

    async fn pipeline_status(
        &self,
        request: Request<wire::PipelineStatusRequest>,
    ) -> Result<Response<Self::PipelineStatusStream>, Status> {
        let request = request.into_inner();
        let (wanted, all_versions) = (request.name, request.all_versions);
        let missing = wanted.clone();
        let statuses = self.scheduler.read(move |machine| {
            let status = |name: &PipelineName| {
                let versions = match all_versions {
                    true => machine.pipeline_statuses(name)?,
                    false => vec![machine.pipeline_status(name)?],
                };
                Some(convert::pipeline::statuses(name, &versions))
            };
            match wanted {
                Some(name) => PipelineName::parse(&name).ok().and_then(|name| status(&name)).map(|answer| vec![answer]),
                None => Some(machine.pipelines().filter_map(|pipeline| status(&pipeline.name)).collect()),
            }
        });
        let statuses: Option<Vec<_>> = statuses.await.map_err(|error| rejected(&error))?;
        let statuses = statuses.ok_or_else(|| unknown("pipeline", missing.as_deref().unwrap_or_default()))?;
        Ok(finite(statuses))
    }

    async fn experiment_status(
        &self,
        request: Request<wire::ExperimentStatusRequest>,
    ) -> Result<Response<Self::ExperimentStatusStream>, Status> {
        let wanted = request.into_inner().name;
        let missing = wanted.clone();
        let statuses = self.scheduler.read(move |machine| {
            let status = |name: &ExperimentName| machine.experiment_status(name);
            match wanted {
                Some(name) => ExperimentName::parse(&name).ok().and_then(|name| status(&name)).map(|s| vec![s]),
                None => Some(machine.experiments().filter_map(|known| status(&known.definition.name)).collect()),
            }
        });
        let statuses: Option<Vec<_>> = statuses.await.map_err(|error| rejected(&error))?;
        let statuses = statuses.ok_or_else(|| unknown("experiment", missing.as_deref().unwrap_or_default()))?;
        Ok(finite(statuses.iter().map(convert::experiment::status).collect()))
    }

    async fn subscribe_pipeline_status(
        &self,
        request: Request<wire::PipelineSubscriptionRequest>,
    ) -> Result<Response<Self::SubscribePipelineStatusStream>, Status> {
        if request.into_inner().is_pipeline_gateway {
            return Err(foreign("pipeline gateways"));
        }
        let (scheduler, reader) = (self.scheduler.clone(), self.scheduler.clone());
        let subscribe = || async move { scheduler.subscribe_pipelines().await };
        let look = move |names| {
            let reader = reader.clone();
            async move { reader.pipelines(names).await }
        };
        Ok(self.carrier.carry(true, NO_PACE, subscribe, look))
    }

    async fn subscribe_experiment_status(
        &self,
        _: Request<wire::ExperimentSubscriptionRequest>,
    ) -> Result<Response<Self::SubscribeExperimentStatusStream>, Status> {
        let (scheduler, reader) = (self.scheduler.clone(), self.scheduler.clone());
        let subscribe = || async move { scheduler.subscribe_experiments().await };
        let look = move |names| {
            let reader = reader.clone();
            async move { reader.experiments(names).await }
        };
        Ok(self.carrier.carry(true, NO_PACE, subscribe, look))
    }

    async fn load_pipeline(
        &self,
        request: Request<wire::LoadPipelineRequest>,
    ) -> Result<Response<wire::LoadPipelineResponse>, Status> {
        let pipeline = request.into_inner().pipeline.unwrap_or_default();
        let uid = Some(pipeline.uid.clone()).filter(|uid| !uid.is_empty());
        let definition = convert::pipeline::definition(pipeline).map_err(|error| invalid(&error))?;
        self.scheduler.apply_pipeline(definition, uid).await.map_err(|error| rejected(&error))?;
        Ok(Response::new(wire::LoadPipelineResponse {}))
    }

    async fn unload_pipeline(
        &self,
        request: Request<wire::UnloadPipelineRequest>,
    ) -> Result<Response<wire::UnloadPipelineResponse>, Status> {
        let name = request.into_inner().name;
        let name = PipelineName::parse(&name).map_err(|error| invalid(&convert::Invalid::one("name", error)))?;
        self.scheduler.remove_pipeline(name).await.map_err(|error| rejected(&error))?;
        Ok(Response::new(wire::UnloadPipelineResponse {}))
    }

    async fn start_experiment(
        &self,
        request: Request<wire::StartExperimentRequest>,
    ) -> Result<Response<wire::StartExperimentResponse>, Status> {
        let definition = convert::experiment::definition(request.into_inner().experiment.unwrap_or_default());
        let definition = definition.map_err(|error| invalid(&error))?;
        self.scheduler.start_experiment(definition).await.map_err(|error| rejected(&error))?;
        Ok(Response::new(wire::StartExperimentResponse {}))
    }

    async fn stop_experiment(
        &self,
        request: Request<wire::StopExperimentRequest>,
    ) -> Result<Response<wire::StopExperimentResponse>, Status> {
        let name = request.into_inner().name;
        let name = ExperimentName::parse(&name).map_err(|error| invalid(&convert::Invalid::one("name", error)))?;
        self.scheduler.stop_experiment(name).await.map_err(|error| rejected(&error))?;
        Ok(Response::new(wire::StopExperimentResponse {}))
    }

    async fn pipeline_status_event(
        &self,
        _: Request<chainer::PipelineUpdateStatusMessage>,
    ) -> Result<Response<chainer::PipelineUpdateStatusResponse>, Status> {
        Err(foreign("gateways and engines"))
    }

    async fn model_status_event(
        &self,
        _: Request<wire::ModelUpdateStatusMessage>,
    ) -> Result<Response<wire::ModelUpdateStatusResponse>, Status> {
        Err(foreign("model gateways"))
    }
}
