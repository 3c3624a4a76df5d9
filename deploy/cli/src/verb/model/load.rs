//! When a loaded model answers.

use crate::client::inference::Rest;
use crate::client::scheduler::Scheduler;
use crate::failure::Error;
use crate::manifest::{Kind, Named};
use crate::verb::{Deadline, wait_for};
use crate::wait::{self, Verdict};

/// Waits until the scheduler says that the version serves, and then until it answers through Envoy.
pub(crate) async fn until_ready(
    name: &str,
    version: u32,
    deadline: Deadline,
    scheduler: &mut Scheduler,
    rest: &Rest,
) -> Result<String, Error> {
    let what = Named { kind: Kind::Model, name: name.to_owned() };
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
