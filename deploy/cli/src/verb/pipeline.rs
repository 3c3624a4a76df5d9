//! Pipelines: the verbs of `switchyard pipeline …`, and how pipelines are shown.

use clap::{Args, Subcommand};
use messages::scheduler as wire;
use wire::pipeline_version_state::PipelineStatus as State;

use super::{file, infer, inspect, model, status};
use crate::client::scheduler::Scheduler;
use crate::command::{Format, FormatFlag, Installation, SchedulerFlags, WaitFlags};
use crate::failure::Error;
use crate::manifest::{Kind, Named};
use crate::output::pipeline::PipelineStatus;
use crate::output::table::{one_line, table};
use crate::output::{self, Output, request};
use crate::voice::Voice;
use crate::wait;

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  switchyard pipeline load -f ocr.yaml --wait")]
pub(crate) struct Group {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Load the pipelines that a file declares, or new versions of them.
    #[command(after_help = "Example:\n  switchyard pipeline load -f ocr.yaml --wait --timeout-secs 30")]
    Load(file::Load),
    /// Unload pipelines.
    Unload(Unload),
    /// Show the state of a pipeline.
    Status(Status),
    /// List all pipelines.
    List(List),
    /// Send a request to a pipeline.
    #[command(after_help = "Example:
  switchyard pipeline infer ocr -f request.json")]
    Infer(Box<model::Infer>),
    /// Show what is in the topics of a pipeline.
    Inspect(Box<inspect::Inspect>),
    /// Follow the records of a pipeline as they come.
    Tap(Box<inspect::Tap>),
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  switchyard pipeline unload ocr --wait")]
pub(crate) struct Unload {
    #[command(flatten)]
    target: file::NameOrFile,
    #[command(flatten)]
    wait: WaitFlags,
    #[command(flatten)]
    scheduler: SchedulerFlags,
    #[command(flatten)]
    installation: Installation,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  switchyard pipeline status ocr -o json | jq -r '.versions[0].state.status'")]
pub(crate) struct Status {
    /// Name of the pipeline
    name: String,
    /// Show older versions too
    #[arg(long)]
    all_versions: bool,
    #[command(flatten)]
    output: FormatFlag,
    #[command(flatten)]
    scheduler: SchedulerFlags,
    #[command(flatten)]
    installation: Installation,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  switchyard pipeline list -o json | jq -r '.[].pipelineName'")]
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
        Verb::Load(flags) => file::load(flags, Some(Kind::Pipeline), output).await,
        Verb::Unload(flags) => {
            let pipelines = flags.target.named(Kind::Pipeline)?;
            let scheduler = Scheduler::connect(flags.scheduler.address(&flags.installation)?).await?;
            file::remove(pipelines, &flags.wait, scheduler, output).await
        }
        Verb::Status(flags) => {
            let what = Named::checked(Kind::Pipeline, flags.name)?;
            let mut scheduler = Scheduler::connect(flags.scheduler.address(&flags.installation)?).await?;
            let status = status::known(&what, flags.all_versions, &mut scheduler).await?;
            Ok(output.line(&flags.output.format.pick(&status))?)
        }
        Verb::List(flags) => {
            let mut scheduler = Scheduler::connect(flags.scheduler.address(&flags.installation)?).await?;
            list(flags.output.format, Voice::Switchyard, &mut scheduler, output).await
        }
        Verb::Infer(flags) => infer::run(flags.plan(infer::of_pipeline)?, Voice::Switchyard, output).await,
        Verb::Inspect(flags) => inspect::inspect(*flags, output).await,
        Verb::Tap(flags) => inspect::tap(*flags, output).await,
    }
}

/// All pipelines; removed ones are hidden from people.
pub(crate) async fn list(
    format: Format,
    voice: Voice,
    scheduler: &mut Scheduler,
    output: &mut Output,
) -> Result<(), Error> {
    voice.request(output, request::list)?;
    let statuses = scheduler.pipeline_statuses(None, false).await?;
    let text = match format {
        Format::Json => output::as_json(&statuses.iter().map(PipelineStatus::from).collect::<Vec<_>>()),
        Format::Text => table(["pipeline", "state", "reason"], &statuses.iter().filter_map(row).collect::<Vec<_>>()),
    };
    Ok(output.line(&text)?)
}

fn row(status: &wire::PipelineStatusResponse) -> Option<[String; 3]> {
    let state = wait::latest_pipeline(status).filter(|state| state.status() != State::PipelineTerminated)?;
    let reasons = [&state.reason, &state.pipeline_gw_reason].into_iter().filter(|reason| !reason.is_empty());
    let reasons: Vec<&str> = reasons.map(String::as_str).collect();
    Some([status.pipeline_name.clone(), state.status().as_str_name().to_owned(), one_line(&reasons.join("; "))])
}

/// The status for a person, version by version.
pub(crate) fn as_text(status: &wire::PipelineStatusResponse) -> String {
    let version = |version: &wire::PipelineWithState| {
        let state = version.state.clone().unwrap_or_default();
        let mut lines = vec![
            format!("pipeline  {}", status.pipeline_name),
            format!("version   {}", state.pipeline_version),
            format!("state     {}", state.status().as_str_name()),
            format!("gateways  {}", state.pipeline_gw_status().as_str_name()),
            format!("models    {}", if state.models_ready { "ready" } else { "not ready" }),
        ];
        let steps = version.pipeline.iter().flat_map(|pipeline| &pipeline.steps);
        lines.extend(steps.map(|step| format!("  {}  {}", step.name, step.inputs.join(", "))));
        for reason in [&state.reason, &state.pipeline_gw_reason].into_iter().filter(|reason| !reason.is_empty()) {
            lines.push(format!("reason    {reason}"));
        }
        lines.iter().map(|line| one_line(line).trim_end().to_owned()).collect::<Vec<_>>().join("\n")
    };
    status.versions.iter().map(version).collect::<Vec<_>>().join("\n\n")
}

#[cfg(test)]
mod tests {
    use messages::scheduler as wire;
    use wire::pipeline_version_state::PipelineStatus as State;

    use super::{as_text, row};

    fn status(state: State) -> wire::PipelineStatusResponse {
        let state = wire::PipelineVersionState {
            pipeline_version: 3,
            status: state.into(),
            reason: "no dataflow engine is connected".to_owned(),
            pipeline_gw_status: State::PipelineCreate.into(),
            pipeline_gw_reason: "no pipeline gateway is connected".to_owned(),
            ..Default::default()
        };
        let step = |name: &str, inputs: &[&str]| {
            let inputs = inputs.iter().map(|input| (*input).to_owned()).collect();
            wire::PipelineStep { name: name.to_owned(), inputs, ..Default::default() }
        };
        let steps = vec![step("a", &[]), step("b", &["a.outputs"])];
        let pipeline = Some(wire::Pipeline { name: "p".to_owned(), steps, ..Default::default() });
        let versions = vec![wire::PipelineWithState { pipeline, state: Some(state) }];
        wire::PipelineStatusResponse { pipeline_name: "p".to_owned(), versions, ..Default::default() }
    }

    #[test]
    fn a_person_reads_what_is_missing_and_removed_ones_are_hidden() {
        assert_eq!(
            as_text(&status(State::PipelineCreate)),
            "pipeline  p\nversion   3\nstate     PipelineCreate\ngateways  PipelineCreate\nmodels    not ready\n  a\n  \
             b  a.outputs\nreason    no dataflow engine is connected\nreason    no pipeline gateway is connected"
        );
        let row_of = row(&status(State::PipelineCreate)).expect("a row");
        let reason = "no dataflow engine is connected; no pipeline gateway is connected";
        assert_eq!(row_of, ["p", "PipelineCreate", reason]);
        assert_eq!(row(&status(State::PipelineTerminated)), None);
    }
}
