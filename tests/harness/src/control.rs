//! The scheduler API, with the words that scenarios use.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use api::scheduler::scheduler_client::SchedulerClient;
use messages::scheduler as wire;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use crate::until::until;

pub use wire::model_status::ModelState as State;

const SUBSCRIBER: &str = "e2e";
/// A call to a scheduler that was killed must not hang.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// A model to declare.
#[derive(Clone, Debug)]
pub struct Model(pub wire::Model);

impl Model {
    /// One replica of what is in `folder`.
    #[must_use]
    pub fn new(name: &str, folder: &Path) -> Model {
        Model(wire::Model {
            meta: Some(wire::MetaData { name: name.to_owned(), ..Default::default() }),
            model_spec: Some(wire::ModelSpec {
                uri: folder.display().to_string(),
                requirements: vec![crate::SERVER.to_owned()],
                memory_bytes: Some(1 << 16),
                ..Default::default()
            }),
            deployment_spec: Some(wire::DeploymentSpec { replicas: 1, ..Default::default() }),
            ..Default::default()
        })
    }

    /// The sample model `iris` under this name.
    #[must_use]
    pub fn iris(name: &str) -> Model {
        Model::new(name, &crate::sample("iris"))
    }

    #[must_use]
    pub fn replicas(mut self, replicas: u32) -> Model {
        self.0.deployment_spec.get_or_insert_default().replicas = replicas;
        self
    }

    #[must_use]
    pub fn memory(mut self, bytes: u64) -> Model {
        self.0.model_spec.get_or_insert_default().memory_bytes = Some(bytes);
        self
    }
}

/// A client of the scheduler.
#[derive(Clone, Debug)]
pub struct Control {
    client: SchedulerClient<Channel>,
}

impl Control {
    #[must_use]
    pub fn new(address: SocketAddr) -> Control {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address makes a URL");
        let channel = endpoint.connect_timeout(ANSWERS_WITHIN).timeout(ANSWERS_WITHIN).connect_lazy();
        Control { client: SchedulerClient::new(channel) }
    }

    /// For calls that this type has no word for.
    #[must_use]
    pub fn client(&self) -> SchedulerClient<Channel> {
        self.client.clone()
    }

    pub async fn version(&self) -> Result<String> {
        let answer = self.client().scheduler_status(wire::SchedulerStatusRequest::default()).await?;
        Ok(answer.into_inner().application_version)
    }

    /// Declares a model: it is on the scheduler's disk when this returns.
    pub async fn declare(&self, model: &Model) -> Result<(), tonic::Status> {
        self.client().load_model(wire::LoadModelRequest { model: Some(model.0.clone()) }).await.map(|_| ())
    }

    pub async fn remove(&self, name: &str) -> Result<(), tonic::Status> {
        let model = wire::ModelReference { name: name.to_owned(), ..Default::default() };
        let request = wire::UnloadModelRequest { model: Some(model), ..Default::default() };
        self.client().unload_model(request).await.map(|_| ())
    }

    /// How large a server should be.
    pub async fn scale(&self, server: &str, replicas: u32) -> Result<()> {
        let server = wire::ServerNotify {
            name: server.to_owned(),
            expected_replicas: replicas,
            shared: true,
            ..Default::default()
        };
        let request = wire::ServerNotifyRequest { servers: vec![server], is_first_sync: true };
        self.client().server_notify(request).await.map(|_| ()).context("notify the scheduler of a server")
    }

    /// What is known of a model's versions, oldest first; nothing when the model is not known.
    pub async fn versions(&self, name: &str) -> Result<Vec<wire::ModelVersionStatus>> {
        let model = wire::ModelReference { name: name.to_owned(), ..Default::default() };
        let subscriber_name = SUBSCRIBER.to_owned();
        let request = wire::ModelStatusRequest { subscriber_name, model: Some(model), all_versions: true };
        let answer = match self.client().model_status(request).await {
            Ok(mut answers) => answers.get_mut().message().await?,
            Err(status) if status.code() == Code::FailedPrecondition => None,
            Err(status) => return Err(status.into()),
        };
        Ok(answer.map(|answer| answer.versions).unwrap_or_default())
    }

    /// The latest version of a model, in short: number, state, replicas that serve, reason.
    pub async fn latest(&self, name: &str) -> Result<(u32, State, u32, String)> {
        let versions = self.versions(name).await?;
        let version = versions.last().with_context(|| format!("model {name} is not known"))?;
        let status = version.state.clone().unwrap_or_default();
        let state = State::try_from(status.state).unwrap_or(State::Unknown);
        Ok((version.version, state, status.available_replicas, status.reason))
    }

    /// Every model that is not being removed, with the replicas that serve its latest version.
    pub async fn models(&self) -> Result<BTreeMap<String, u32>> {
        let subscriber_name = SUBSCRIBER.to_owned();
        let request = wire::ModelStatusRequest { subscriber_name, ..Default::default() };
        let mut answers = self.client().model_status(request).await?.into_inner();
        let mut models = BTreeMap::new();
        while let Some(answer) = answers.message().await? {
            if answer.deleted {
                continue;
            }
            let status = answer.versions.last().and_then(|version| version.state.as_ref());
            models.insert(answer.model_name, status.map_or(0, |status| status.available_replicas));
        }
        Ok(models)
    }

    pub async fn server(&self, name: &str) -> Result<wire::ServerStatusResponse> {
        let request = wire::ServerStatusRequest { subscriber_name: SUBSCRIBER.to_owned(), name: Some(name.to_owned()) };
        let mut answers = self.client().server_status(request).await?.into_inner();
        answers.message().await?.context("the scheduler said nothing about the server")
    }

    /// Waits until the latest version of a model serves on `replicas`.
    pub async fn serves(&self, name: &str, replicas: u32, within: Duration) -> Result<u32> {
        until(within, &format!("model {name} serves on {replicas} replicas"), async || {
            match self.latest(name).await? {
                (version, _, available, _) if available == replicas => Ok(version),
                state => bail!("{state:?}"),
            }
        })
        .await
    }

    /// Waits until the latest version of a model is in `state`, and returns the reason that is told with it.
    pub async fn reaches(&self, name: &str, state: State, within: Duration) -> Result<String> {
        until(within, &format!("model {name} is {}", state.as_str_name()), async || match self.latest(name).await? {
            (_, reached, _, reason) if reached == state => Ok(reason),
            other => bail!("{other:?}"),
        })
        .await
    }

    /// Waits until a model is not known any more, or only as terminated.
    pub async fn is_gone(&self, name: &str, within: Duration) -> Result<()> {
        until(within, &format!("model {name} is gone"), async || {
            let versions = self.versions(name).await?;
            let left = versions.iter().filter_map(|version| version.state.as_ref());
            let left: Vec<_> = left.filter(|status| status.state != State::ModelTerminated as i32).collect();
            if left.is_empty() { Ok(()) } else { bail!("{left:?}") }
        })
        .await
    }

    /// Waits until `replicas` of a server are there.
    pub async fn has_replicas(&self, server: &str, replicas: i32, within: Duration) -> Result<()> {
        until(within, &format!("server {server} has {replicas} replicas"), async || {
            match self.server(server).await?.available_replicas {
                available if available == replicas => Ok(()),
                available => bail!("{available} replicas"),
            }
        })
        .await
    }
}
