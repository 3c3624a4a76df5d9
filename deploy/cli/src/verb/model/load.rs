//! `model load` and `model unload`, and waiting for what they asked for.

use std::time::Duration;

use domain::ModelName;

use super::{Load, Unload};
use crate::client::inference::Rest;
use crate::client::scheduler::Scheduler;
use crate::failure::Error;
use crate::manifest;
use crate::output::Output;
use crate::verb::{self, Deadline, wait_for};
use crate::wait::{self, Verdict};

/// How long one look at a model's readiness may take: it says yes or no at once.
const READY_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) async fn load(load: Load, output: &mut Output) -> Result<(), Error> {
    let models = manifest::models(&load.file)?;
    let mut wires = Vec::new();
    for model in models {
        let wire = model.to_wire().map_err(|faults| manifest::faulty(&model.metadata.name, faults))?;
        wires.push((model.metadata.name, wire));
    }
    let envoy = load.inference.address(&load.installation)?;
    let mut scheduler = Scheduler::connect(load.scheduler.address(&load.installation)?).await?;
    let mut accepted = Vec::new();
    for (name, wire) in wires {
        scheduler.load_model(wire).await?;
        // The call answers without a number; the latest version is this one, or one that replaces it.
        let status = scheduler.model_status(&name).await?;
        let version = status.as_ref().and_then(wait::latest).map_or(0, |version| version.version);
        if !load.wait {
            output.line(&format!("model {name}: version {version} accepted"))?;
        }
        accepted.push((name, version));
    }
    if !load.wait {
        return Ok(());
    }
    let deadline = Deadline::after(load.timeout_secs);
    let rest = Rest::new(envoy, READY_TIMEOUT);
    for (name, version) in accepted {
        let text = until_ready(&name, version, deadline, &mut scheduler, &rest).await?;
        output.line(&format!("model {name}: {text}"))?;
    }
    Ok(())
}

/// Waits until the scheduler says that the version serves, and then until it answers through Envoy.
pub(crate) async fn until_ready(
    name: &str,
    version: u32,
    deadline: Deadline,
    scheduler: &mut Scheduler,
    rest: &Rest,
) -> Result<String, Error> {
    let what = format!("model {name}");
    let mut asleep = false;
    let text = wait_for(&what, deadline, async || {
        let status = scheduler.model_status(name).await?;
        asleep = status.as_ref().is_some_and(|status| !wait::takes_requests(status));
        Ok(wait::loaded(version, status.as_ref()))
    })
    .await?;
    if !asleep {
        wait_for(&what, deadline, async || {
            Ok(match rest.ready(name).await? {
                code if code.is_success() => Verdict::Done(String::new()),
                code => Verdict::Waiting(format!("loaded; through Envoy it is not ready yet ({code})")),
            })
        })
        .await?;
    }
    Ok(text)
}

pub(super) async fn unload(unload: Unload, output: &mut Output) -> Result<(), Error> {
    let names = match (unload.name, unload.file) {
        (Some(name), _) => vec![name],
        (None, Some(file)) => manifest::model_names(&file)?,
        (None, None) => Vec::new(), // clap asks for one of them
    };
    for name in &names {
        ModelName::parse(name).map_err(verb::Error::Name)?;
    }
    let mut scheduler = Scheduler::connect(unload.scheduler.address(&unload.installation)?).await?;
    for name in &names {
        scheduler.unload_model(name).await?;
    }
    let deadline = Deadline::after(unload.timeout_secs);
    for name in names {
        if unload.wait {
            wait_for(&format!("model {name}"), deadline, async || {
                Ok(wait::unloaded(scheduler.model_status(&name).await?.as_ref()))
            })
            .await?;
            output.line(&format!("model {name}: unloaded"))?;
        } else {
            output.line(&format!("model {name}: unload accepted"))?;
        }
    }
    Ok(())
}
