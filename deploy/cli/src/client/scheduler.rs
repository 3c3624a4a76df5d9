//! Calls to the scheduler's API.

use std::time::Duration;

use api::scheduler::scheduler_client::SchedulerClient;
use http::uri::Authority;
use messages::scheduler as wire;
use tonic::Request;
use tonic::transport::Channel;

use super::{Error, MAX_MESSAGE, channel, refused};
use crate::address::Address;

/// The scheduler answers from memory after one write; a longer silence is a fault.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Who we say we are; it appears in the scheduler's log.
pub(crate) const SUBSCRIBER: &str = "switchyard cli";

/// A connection to the scheduler.
pub(crate) struct Scheduler {
    client: SchedulerClient<Channel>,
    address: Address,
}

impl Scheduler {
    pub(crate) async fn connect(address: Address) -> Result<Scheduler, Error> {
        Scheduler::connect_as(address, None).await
    }

    /// With another authority than the address, if there is one.
    pub(crate) async fn connect_as(address: Address, authority: Option<&Authority>) -> Result<Scheduler, Error> {
        let client = SchedulerClient::new(channel(&address, authority).await?).max_decoding_message_size(MAX_MESSAGE);
        Ok(Scheduler { client, address })
    }

    pub(crate) async fn load_model(&mut self, model: wire::Model) -> Result<(), Error> {
        let name = model.meta.as_ref().map(|meta| meta.name.clone()).unwrap_or_default();
        let request = timed(wire::LoadModelRequest { model: Some(model) });
        let answer = self.client.load_model(request).await;
        answer.map(drop).map_err(|status| refused(format!("load model {name}"), &self.address, &status))
    }

    pub(crate) async fn unload_model(&mut self, name: &str) -> Result<(), Error> {
        let model = Some(wire::ModelReference { name: name.to_owned(), version: None });
        let answer = self.client.unload_model(timed(wire::UnloadModelRequest { model, kubernetes_meta: None })).await;
        answer.map(drop).map_err(|status| refused(format!("unload model {name}"), &self.address, &status))
    }

    /// The statuses of all models, or of one, sorted by name.
    pub(crate) async fn model_statuses(
        &mut self,
        name: Option<&str>,
        all_versions: bool,
    ) -> Result<Vec<wire::ModelStatusResponse>, Error> {
        let request = wire::ModelStatusRequest {
            subscriber_name: SUBSCRIBER.to_owned(),
            model: name.map(|name| wire::ModelReference { name: name.to_owned(), version: None }),
            all_versions,
        };
        let call = || name.map_or_else(|| "list models".to_owned(), |name| format!("status of model {name}"));
        let failed = |status| refused(call(), &self.address, &status);
        let mut stream = self.client.model_status(timed(request)).await.map_err(failed)?.into_inner();
        let mut statuses = Vec::new();
        while let Some(status) = stream.message().await.map_err(failed)? {
            statuses.push(status);
        }
        statuses.sort_by(|a: &wire::ModelStatusResponse, b| a.model_name.cmp(&b.model_name));
        Ok(statuses)
    }

    /// The status of one model; `None` when the scheduler does not know it.
    pub(crate) async fn model_status(&mut self, name: &str) -> Result<Option<wire::ModelStatusResponse>, Error> {
        match self.model_statuses(Some(name), false).await {
            Ok(statuses) => Ok(statuses.into_iter().find(|status| status.model_name == name)),
            Err(error) if error.is_unknown() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The statuses of all servers, or of one, sorted by name.
    pub(crate) async fn server_statuses(
        &mut self,
        name: Option<&str>,
    ) -> Result<Vec<wire::ServerStatusResponse>, Error> {
        let request =
            wire::ServerStatusRequest { subscriber_name: SUBSCRIBER.to_owned(), name: name.map(str::to_owned) };
        let call = || name.map_or_else(|| "list servers".to_owned(), |name| format!("status of server {name}"));
        let failed = |status| refused(call(), &self.address, &status);
        let mut stream = self.client.server_status(timed(request)).await.map_err(failed)?.into_inner();
        let mut statuses = Vec::new();
        while let Some(status) = stream.message().await.map_err(failed)? {
            statuses.push(status);
        }
        statuses.sort_by(|a: &wire::ServerStatusResponse, b| a.server_name.cmp(&b.server_name));
        Ok(statuses)
    }

    /// The status of one server; `None` when the scheduler does not know it.
    pub(crate) async fn server_status(&mut self, name: &str) -> Result<Option<wire::ServerStatusResponse>, Error> {
        match self.server_statuses(Some(name)).await {
            Ok(statuses) => Ok(statuses.into_iter().find(|status| status.server_name == name)),
            Err(error) if error.is_unknown() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Starts an experiment, or replaces it.
    pub(crate) async fn start_experiment(&mut self, experiment: wire::Experiment) -> Result<(), Error> {
        let name = experiment.name.clone();
        let request = timed(wire::StartExperimentRequest { experiment: Some(experiment) });
        let answer = self.client.start_experiment(request).await;
        answer.map(drop).map_err(|status| refused(format!("start experiment {name}"), &self.address, &status))
    }

    pub(crate) async fn stop_experiment(&mut self, name: &str) -> Result<(), Error> {
        let answer = self.client.stop_experiment(timed(wire::StopExperimentRequest { name: name.to_owned() })).await;
        answer.map(drop).map_err(|status| refused(format!("stop experiment {name}"), &self.address, &status))
    }

    /// The statuses of all experiments, or of one, sorted by name.
    pub(crate) async fn experiment_statuses(
        &mut self,
        name: Option<&str>,
    ) -> Result<Vec<wire::ExperimentStatusResponse>, Error> {
        let request =
            wire::ExperimentStatusRequest { subscriber_name: SUBSCRIBER.to_owned(), name: name.map(str::to_owned) };
        let call = || name.map_or_else(|| "list experiments".to_owned(), |name| format!("status of experiment {name}"));
        let failed = |status| refused(call(), &self.address, &status);
        let mut stream = self.client.experiment_status(timed(request)).await.map_err(failed)?.into_inner();
        let mut statuses = Vec::new();
        while let Some(status) = stream.message().await.map_err(failed)? {
            statuses.push(status);
        }
        statuses.sort_by(|a: &wire::ExperimentStatusResponse, b| a.experiment_name.cmp(&b.experiment_name));
        Ok(statuses)
    }

    pub(crate) async fn load_pipeline(&mut self, pipeline: wire::Pipeline) -> Result<(), Error> {
        let name = pipeline.name.clone();
        let answer = self.client.load_pipeline(timed(wire::LoadPipelineRequest { pipeline: Some(pipeline) })).await;
        answer.map(drop).map_err(|status| refused(format!("load pipeline {name}"), &self.address, &status))
    }

    pub(crate) async fn unload_pipeline(&mut self, name: &str) -> Result<(), Error> {
        let answer = self.client.unload_pipeline(timed(wire::UnloadPipelineRequest { name: name.to_owned() })).await;
        answer.map(drop).map_err(|status| refused(format!("unload pipeline {name}"), &self.address, &status))
    }

    /// The statuses of all pipelines, or of one, sorted by name.
    pub(crate) async fn pipeline_statuses(
        &mut self,
        name: Option<&str>,
        all_versions: bool,
    ) -> Result<Vec<wire::PipelineStatusResponse>, Error> {
        let request = wire::PipelineStatusRequest {
            subscriber_name: SUBSCRIBER.to_owned(),
            name: name.map(str::to_owned),
            all_versions,
        };
        let call = || name.map_or_else(|| "list pipelines".to_owned(), |name| format!("status of pipeline {name}"));
        let failed = |status| refused(call(), &self.address, &status);
        let mut stream = self.client.pipeline_status(timed(request)).await.map_err(failed)?.into_inner();
        let mut statuses = Vec::new();
        while let Some(status) = stream.message().await.map_err(failed)? {
            statuses.push(status);
        }
        statuses.sort_by(|a: &wire::PipelineStatusResponse, b| a.pipeline_name.cmp(&b.pipeline_name));
        Ok(statuses)
    }

    /// The status of one pipeline; `None` when the scheduler does not know it.
    pub(crate) async fn pipeline_status(&mut self, name: &str) -> Result<Option<wire::PipelineStatusResponse>, Error> {
        match self.pipeline_statuses(Some(name), false).await {
            Ok(statuses) => Ok(statuses.into_iter().next()),
            Err(error) if error.is_unknown() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Says how large a server should be.
    pub(crate) async fn notify_server(&mut self, server: wire::ServerNotify) -> Result<(), Error> {
        let name = server.name.clone();
        let request = timed(wire::ServerNotifyRequest { servers: vec![server], is_first_sync: false });
        let answer = self.client.server_notify(request).await;
        answer.map(drop).map_err(|status| refused(format!("scale server {name}"), &self.address, &status))
    }
}

fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_TIMEOUT);
    request
}
