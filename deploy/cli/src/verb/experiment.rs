//! Experiments: the verbs of `switchyard experiment …`, and how experiments are shown.

use clap::{Args, Subcommand};
use messages::scheduler as wire;

use super::apply::{self, Tell};
use super::{file, status};
use crate::client::scheduler::Scheduler;
use crate::command::{Format, FormatFlag, Installation, SchedulerFlags};
use crate::failure::Error;
use crate::manifest::{Kind, Named};
use crate::output::experiment::ExperimentStatus;
use crate::output::table::{one_line, table};
use crate::output::{self, Output, request};
use crate::voice::Voice;

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  switchyard experiment start -f split.yaml --wait")]
pub(crate) struct Group {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Start the experiments that a file declares, or replace them.
    #[command(after_help = "Requests go to NAME.experiment, and to the name of the default if there is one.

Example:
  switchyard experiment start -f split.yaml --wait
  switchyard model infer split.experiment -f request.json -i 100")]
    Start(file::Load),
    /// Stop experiments.
    Stop(Stop),
    /// Show the state of an experiment.
    Status(Status),
    /// List all experiments; stopped ones stay for a day.
    List(List),
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  switchyard experiment stop split")]
pub(crate) struct Stop {
    #[command(flatten)]
    target: file::NameOrFile,
    #[command(flatten)]
    scheduler: SchedulerFlags,
    #[command(flatten)]
    installation: Installation,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  switchyard experiment status split -o json | jq .active")]
pub(crate) struct Status {
    /// Name of the experiment
    name: String,
    #[command(flatten)]
    output: FormatFlag,
    #[command(flatten)]
    scheduler: SchedulerFlags,
    #[command(flatten)]
    installation: Installation,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  switchyard experiment list -o json | jq -r '.[].experimentName'")]
pub(crate) struct List {
    #[command(flatten)]
    output: FormatFlag,
    #[command(flatten)]
    scheduler: SchedulerFlags,
    #[command(flatten)]
    installation: Installation,
}

pub(crate) async fn run(verb: Verb, output: &mut Output) -> Result<(), Error> {
    match verb {
        Verb::Start(flags) => file::load(flags, Some(Kind::Experiment), output).await,
        Verb::Stop(flags) => {
            let experiments = flags.target.named(Kind::Experiment)?;
            let mut scheduler = Scheduler::connect(flags.scheduler.address(&flags.installation)?).await?;
            apply::remove(experiments, Tell::Accepted, Voice::Switchyard, &mut scheduler, output).await.map(drop)
        }
        Verb::Status(flags) => {
            let what = Named::checked(Kind::Experiment, flags.name)?;
            let mut scheduler = Scheduler::connect(flags.scheduler.address(&flags.installation)?).await?;
            let status = status::known(&what, false, &mut scheduler).await?;
            Ok(output.line(&flags.output.format.pick(&status))?)
        }
        Verb::List(flags) => {
            let mut scheduler = Scheduler::connect(flags.scheduler.address(&flags.installation)?).await?;
            list(flags.output.format, Voice::Switchyard, &mut scheduler, output).await
        }
    }
}

/// All experiments that the scheduler keeps, stopped ones too.
pub(crate) async fn list(
    format: Format,
    voice: Voice,
    scheduler: &mut Scheduler,
    output: &mut Output,
) -> Result<(), Error> {
    voice.request(output, request::list)?;
    let statuses = scheduler.experiment_statuses(None).await?;
    let rows = statuses.iter().map(row);
    let text = match (format, voice) {
        (Format::Json, _) => output::as_json(&statuses.iter().map(ExperimentStatus::from).collect::<Vec<_>>()),
        (Format::Text, Voice::Switchyard) => table(["experiment", "active", "reason"], &rows.collect::<Vec<_>>()),
        (Format::Text, Voice::Seldon { .. }) => {
            let rows: Vec<_> = rows.map(|[name, active, _]| [name, active]).collect();
            table(["experiment", "active"], &rows)
        }
    };
    Ok(output.line(&text)?)
}

fn row(status: &wire::ExperimentStatusResponse) -> [String; 3] {
    [status.experiment_name.clone(), status.active.to_string(), status.status_description.clone()]
}

/// The status for a person.
pub(crate) fn as_text(status: &wire::ExperimentStatusResponse) -> String {
    let ready = |ready| if ready { "ready" } else { "not ready" };
    let mut lines = vec![
        format!("experiment  {}", status.experiment_name),
        format!("active      {}", if status.active { "yes" } else { "no" }),
        format!("candidates  {}", ready(status.candidates_ready)),
        format!("mirror      {}", ready(status.mirror_ready)),
    ];
    if !status.status_description.is_empty() {
        lines.push(format!("reason      {}", status.status_description));
    }
    lines.iter().map(|line| one_line(line)).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use messages::scheduler as wire;

    use super::{as_text, row};

    #[test]
    fn a_person_reads_whether_it_is_active_and_why_not() {
        let status = wire::ExperimentStatusResponse {
            experiment_name: "e".to_owned(),
            mirror_ready: true,
            status_description: "model a is not known".to_owned(),
            ..Default::default()
        };
        assert_eq!(
            as_text(&status),
            "experiment  e\nactive      no\ncandidates  not ready\nmirror      ready\nreason      model a is not known"
        );
        assert_eq!(row(&status), ["e", "false", "model a is not known"]);
    }
}
