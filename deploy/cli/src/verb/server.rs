//! Servers: the verbs of `switchyard server …`, and how servers are shown.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use domain::Bytes;
use messages::scheduler as wire;

use crate::client::scheduler::Scheduler;
use crate::command::{Format, FormatFlag, Installation, SchedulerFlags, WaitFlags};
use crate::failure::Error;
use crate::manifest::{self, Kind, Named, Resource};
use crate::output::status::ServerStatus;
use crate::output::table::{one_line, table};
use crate::output::{self, Output, request};
use crate::verb::apply::{self, Accepted, Tell};
use crate::verb::status::{self, Status as AnyStatus};
use crate::verb::{self, Deadline};
use crate::voice::Voice;

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  switchyard server list")]
pub(crate) struct Group {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// List all servers.
    List(List),
    /// Show the replicas of a server.
    Status(Status),
    /// Say how many replicas a server should have.
    Scale(Scale),
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  switchyard server list -o json | jq -r '.[].serverName'")]
pub(crate) struct List {
    #[command(flatten)]
    output: FormatFlag,
    #[command(flatten)]
    scheduler: SchedulerFlags,
    #[command(flatten)]
    installation: Installation,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  switchyard server status onnx")]
pub(crate) struct Status {
    /// Name of the server
    name: String,
    #[command(flatten)]
    output: FormatFlag,
    #[command(flatten)]
    scheduler: SchedulerFlags,
    #[command(flatten)]
    installation: Installation,
}

#[derive(Debug, Args)]
#[command(after_help = "With -f, the server has the size and the bounds that the manifest says.

Example:
  switchyard server scale onnx --replicas 2 --wait")]
pub(crate) struct Scale {
    /// Name of the server
    #[arg(required_unless_present = "file", conflicts_with = "file", requires = "replicas")]
    name: Option<String>,
    /// Wanted replicas
    #[arg(long, value_name = "N", conflicts_with = "file", value_parser = clap::value_parser!(u32).range(0..=i64::from(i32::MAX)))]
    replicas: Option<u32>,
    /// Manifest of one or more servers; - for standard input
    #[arg(short = 'f', long = "file-path", value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    wait: WaitFlags,
    #[command(flatten)]
    scheduler: SchedulerFlags,
    #[command(flatten)]
    installation: Installation,
}

pub(crate) async fn run(verb: Verb, output: &mut Output) -> Result<(), Error> {
    match verb {
        Verb::List(flags) => {
            let mut scheduler = Scheduler::connect(flags.scheduler.address(&flags.installation)?).await?;
            list(flags.output.format, Voice::Switchyard, &mut scheduler, output).await
        }
        Verb::Status(flags) => {
            let what = Named::checked(Kind::Server, flags.name)?;
            let mut scheduler = Scheduler::connect(flags.scheduler.address(&flags.installation)?).await?;
            let status = status::known(&what, false, &mut scheduler).await?;
            Ok(output.line(&flags.output.format.pick(&status))?)
        }
        Verb::Scale(flags) => scale(flags, output).await,
    }
}

/// All servers.
pub(crate) async fn list(
    format: Format,
    voice: Voice,
    scheduler: &mut Scheduler,
    output: &mut Output,
) -> Result<(), Error> {
    voice.request(output, request::list)?;
    let statuses = scheduler.server_statuses(None).await?;
    let text = match format {
        Format::Json => output::as_json(&statuses.iter().map(ServerStatus::from).collect::<Vec<_>>()),
        Format::Text => {
            let rows: Vec<[String; 3]> = statuses.iter().map(|status| row(status, voice)).collect();
            table(["server", "replicas", "models"], &rows)
        }
    };
    Ok(output.line(&text)?)
}

async fn scale(flags: Scale, output: &mut Output) -> Result<(), Error> {
    let from_file = flags.file.as_deref().map(|file| manifest::resources(file, Some(Kind::Server))).transpose()?;
    let mut scheduler = Scheduler::connect(flags.scheduler.address(&flags.installation)?).await?;
    let servers = match (from_file, flags.name, flags.replicas) {
        (Some(servers), ..) => servers,
        (None, Some(name), Some(replicas)) => {
            let what = Named::checked(Kind::Server, name)?;
            let status = status::known(&what, false, &mut scheduler).await?;
            let AnyStatus::Server(status) = status else { return Err(verb::Error::Unknown(what).into()) };
            vec![Resource::Server(resized(&status, replicas))]
        }
        (None, ..) => return Err(verb::Error::NameOrFile { kind: Kind::Server }.into()),
    };
    let tell = if flags.wait.wait { Tell::Nothing } else { Tell::Accepted };
    let accepted = apply::declare(servers, tell, Voice::Switchyard, &mut scheduler, output).await?;
    if flags.wait.wait {
        let deadline = Deadline::after(flags.wait.timeout_secs);
        for Accepted { what, number } in accepted {
            let text = apply::until_scaled(&what, number, deadline, &mut scheduler).await?;
            output.line(&format!("{what}: {text}"))?;
        }
    }
    Ok(())
}

/// The server with another size; its bounds stay as they are.
fn resized(status: &wire::ServerStatusResponse, replicas: u32) -> wire::ServerNotify {
    wire::ServerNotify {
        name: status.server_name.clone(),
        expected_replicas: replicas,
        shared: false, // counts for an unknown server only
        kubernetes_meta: status.kubernetes_meta.clone(),
        min_replicas: status.min_replicas(),
        max_replicas: status.max_replicas(),
    }
}

/// Available replicas of the wanted ones, when anybody said how many are wanted.
fn replicas(status: &wire::ServerStatusResponse) -> String {
    match status.expected_replicas {
        wanted if wanted >= 0 => format!("{}/{wanted}", status.available_replicas),
        _ => status.available_replicas.to_string(),
    }
}

fn row(status: &wire::ServerStatusResponse, voice: Voice) -> [String; 3] {
    let replicas = match voice {
        Voice::Switchyard => replicas(status),
        Voice::Seldon { .. } => status.available_replicas.to_string(),
    };
    [status.server_name.clone(), replicas, status.num_loaded_model_replicas.to_string()]
}

/// The status in one line.
pub(crate) fn summary(status: &wire::ServerStatusResponse) -> String {
    let (replicas, models) = (status.available_replicas, status.num_loaded_model_replicas);
    one_line(&format!("server {}: {replicas} replicas, {models} models", status.server_name))
}

/// The status for a person.
pub(crate) fn as_text(status: &wire::ServerStatusResponse) -> String {
    let mut lines = vec![
        format!("server    {}", one_line(&status.server_name)),
        format!("replicas  {} available", replicas(status)),
        format!("models    {}", status.num_loaded_model_replicas),
    ];
    let mut resources: Vec<_> = status.resources.iter().collect();
    resources.sort_by_key(|replica| replica.replica_idx);
    lines.extend(resources.iter().map(|replica| {
        let (free, total) = (Bytes(replica.available_memory_bytes), Bytes(replica.total_memory_bytes));
        format!("  {:<7} {} models, {free} of {total} free", replica.replica_idx, replica.num_loaded_models)
    }));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use messages::scheduler as wire;

    use super::{as_text, resized, row, summary};
    use crate::output::as_json;
    use crate::output::status::ServerStatus;
    use crate::voice::Voice;

    #[test]
    fn a_server_is_shown_with_its_replicas() {
        let status = wire::ServerStatusResponse {
            server_name: "onnx".to_owned(),
            resources: vec![wire::ServerReplicaResources {
                replica_idx: 1,
                total_memory_bytes: 1 << 30,
                available_memory_bytes: 1 << 29,
                num_loaded_models: 4,
                over_commit_percentage: 10,
            }],
            expected_replicas: 2,
            available_replicas: 1,
            num_loaded_model_replicas: 4,
            min_replicas: Some(1),
            max_replicas: Some(3),
            ..Default::default()
        };
        let notify = resized(&status, 3);
        assert_eq!((notify.expected_replicas, notify.min_replicas, notify.max_replicas), (3, 1, 3));
        let status = wire::ServerStatusResponse { r#type: 1, ..status };
        let ours = Voice::Switchyard;
        assert_eq!(row(&status, ours), ["onnx", "1/2", "4"]);
        assert_eq!(row(&status, Voice::Seldon { verbose: false }), ["onnx", "1", "4"]);
        assert_eq!(row(&wire::ServerStatusResponse { expected_replicas: -1, ..status.clone() }, ours)[1], "1");
        assert_eq!(summary(&status), "server onnx: 1 replicas, 4 models");
        assert_eq!(
            as_text(&status),
            "server    onnx\nreplicas  1/2 available\nmodels    4\n  1       4 models, 512 MiB of 1 GiB free"
        );
        assert_eq!(
            as_json(&ServerStatus::from(&status)),
            concat!(
                r#"{"serverName":"onnx","resources":[{"replicaIdx":1,"totalMemoryBytes":"1073741824","#,
                r#""availableMemoryBytes":"536870912","numLoadedModels":4,"overCommitPercentage":10}],"#,
                r#""expectedReplicas":2,"availableReplicas":1,"numLoadedModelReplicas":4,"type":"StatusUpdate"}"#
            )
        );
    }
}
