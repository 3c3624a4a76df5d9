//! Verbs for what a file declares: `switchyard load`, `unload` and `status`, and the flags that the verbs of one kind
//! have in common with them.

use std::path::PathBuf;

use clap::Args;

use super::apply::{self, Tell};
use super::status::{self, Until};
use super::{Deadline, Error as VerbError};
use crate::client::scheduler::Scheduler;
use crate::command::{Format, FormatFlag, InferenceFlags, Installation, SchedulerFlags, WaitFlags};
use crate::failure::Error;
use crate::manifest::{self, Kind, Named};
use crate::output::Output;
use crate::voice::Voice;

#[derive(Debug, Args)]
pub(crate) struct Load {
    /// Manifest with one or more documents; - for standard input
    #[arg(short = 'f', long = "file-path", value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    wait: WaitFlags,
    #[command(flatten)]
    scheduler: SchedulerFlags,
    #[command(flatten)]
    inference: InferenceFlags,
    #[command(flatten)]
    installation: Installation,
}

#[derive(Debug, Args)]
pub(crate) struct Unload {
    /// Manifest with one or more documents; - for standard input
    #[arg(short = 'f', long = "file-path", value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    wait: WaitFlags,
    #[command(flatten)]
    scheduler: SchedulerFlags,
    #[command(flatten)]
    installation: Installation,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Manifest with one or more documents; - for standard input
    #[arg(short = 'f', long = "file-path", value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    wait: WaitFlags,
    #[command(flatten)]
    output: FormatFlag,
    #[command(flatten)]
    scheduler: SchedulerFlags,
    #[command(flatten)]
    installation: Installation,
}

/// One resource by its name, or those of a file.
#[derive(Debug, Args)]
pub(crate) struct NameOrFile {
    /// Name of the resource
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    name: Option<String>,
    /// Manifest of the resources; - for standard input
    #[arg(short = 'f', long = "file-path", value_name = "FILE")]
    file: Option<PathBuf>,
}

impl NameOrFile {
    pub(crate) fn named(self, kind: Kind) -> Result<Vec<Named>, Error> {
        match (self.name, self.file) {
            (Some(name), _) => Ok(vec![Named::checked(kind, name)?]),
            (None, Some(file)) => Ok(manifest::names(&file, Some(kind))?),
            (None, None) => Err(VerbError::NameOrFile { kind }.into()),
        }
    }
}

/// Declares what a file has, of one kind or of any, and waits for it where that is asked for.
pub(crate) async fn load(flags: Load, only: Option<Kind>, output: &mut Output) -> Result<(), Error> {
    let resources = manifest::resources(&flags.file, only)?;
    let envoy = flags.inference.address(&flags.installation)?;
    let mut scheduler = Scheduler::connect(flags.scheduler.address(&flags.installation)?).await?;
    let tell = if flags.wait.wait { Tell::Nothing } else { Tell::Accepted };
    let accepted = apply::declare(resources, tell, Voice::Switchyard, &mut scheduler, output).await?;
    if flags.wait.wait {
        let deadline = Deadline::after(flags.wait.timeout_secs);
        apply::until_in_effect(&accepted, deadline, &mut scheduler, envoy, output).await?;
    }
    Ok(())
}

/// Removes what a file has.
pub(crate) async fn unload(flags: Unload, output: &mut Output) -> Result<(), Error> {
    let resources = manifest::names(&flags.file, None)?;
    let scheduler = Scheduler::connect(flags.scheduler.address(&flags.installation)?).await?;
    remove(resources, &flags.wait, scheduler, output).await
}

/// Removes resources, and waits for their end where that is asked for.
pub(crate) async fn remove(
    resources: Vec<Named>,
    wait: &WaitFlags,
    mut scheduler: Scheduler,
    output: &mut Output,
) -> Result<(), Error> {
    let tell = if wait.wait { Tell::Nothing } else { Tell::Accepted };
    let removed = apply::remove(resources, tell, Voice::Switchyard, &mut scheduler, output).await?;
    if wait.wait {
        apply::until_gone(&removed, Deadline::after(wait.timeout_secs), &mut scheduler, output).await?;
    }
    Ok(())
}

/// Shows the status of what a file has.
pub(crate) async fn status(flags: Status, output: &mut Output) -> Result<(), Error> {
    let resources = manifest::names(&flags.file, None)?;
    let mut scheduler = Scheduler::connect(flags.scheduler.address(&flags.installation)?).await?;
    let deadline = Deadline::after(flags.wait.timeout_secs);
    for (index, what) in resources.iter().enumerate() {
        let status = status::known(what, false, &mut scheduler).await?;
        let status = if flags.wait.wait {
            status::wait_until(what, Until::Ready, deadline, &mut scheduler).await?.unwrap_or(status)
        } else {
            status
        };
        match flags.output.format {
            Format::Json => output.line(&status.json())?,
            Format::Text => {
                if index > 0 {
                    output.line("")?;
                }
                output.line(&status.text())?;
            }
        }
    }
    Ok(())
}
