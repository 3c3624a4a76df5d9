//! Storms: what happens when very much comes at once, with fake agents that speak the real protocol to a scheduler
//! that is a process of its own.

pub(crate) mod loads;
pub(crate) mod restart;
pub(crate) mod resubscribe;
pub(crate) mod subscribers;

use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::{StreamExt, TryStreamExt, stream};
use harness::Ports;
use messages::scheduler as wire;
use tempfile::TempDir;

use crate::fake::MODEL_BYTES;
use crate::scheduler::Scheduler;

/// Clients that declare models, each with a connection of its own and one call at a time.
const CLIENTS: usize = 8;
/// Above every limit that is measured here.
const WITHIN: Duration = Duration::from_secs(300);

/// A scheduler with a folder and ports.
struct Site {
    scheduler: Scheduler,
    ports: Ports,
    folder: TempDir,
}

impl Site {
    async fn start() -> Result<Site> {
        let folder = tempfile::Builder::new().prefix("switchyard-bench-").tempdir()?;
        let mut ports = Ports::block()?;
        let mut scheduler = Scheduler::new(folder.path(), &mut ports)?;
        scheduler.start().await?;
        Ok(Site { scheduler, ports, folder })
    }
}

/// Model `number` for a capability, as people declare them.
fn model(number: usize, requirement: &str) -> wire::Model {
    named(&format!("model-{number:06}"), requirement)
}

fn named(name: &str, requirement: &str) -> wire::Model {
    wire::Model {
        meta: Some(wire::MetaData { name: name.to_owned(), ..Default::default() }),
        model_spec: Some(wire::ModelSpec {
            uri: format!("gs://models/production/{name}"),
            requirements: vec![requirement.to_owned()],
            memory_bytes: Some(MODEL_BYTES),
            ..Default::default()
        }),
        deployment_spec: Some(wire::DeploymentSpec { replicas: 1, ..Default::default() }),
        ..Default::default()
    }
}

/// Declares models by [`CLIENTS`] clients, each of which waits for its answer before its next.
async fn declare(scheduler: &Scheduler, models: Vec<wire::Model>) -> Result<()> {
    let shares = models.chunks(models.len().div_ceil(CLIENTS).max(1)).map(<[wire::Model]>::to_vec);
    let clients = shares.map(|share| async move {
        let mut client = scheduler.client()?;
        for model in share {
            client.load_model(wire::LoadModelRequest { model: Some(model) }).await.context("declare a model")?;
        }
        anyhow::Ok(())
    });
    stream::iter(clients).buffer_unordered(CLIENTS).try_collect().await
}
