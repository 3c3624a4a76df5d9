//! `switchyard server …`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use domain::{Bytes, ServerName};
use messages::scheduler as wire;

use crate::client::scheduler::Scheduler;
use crate::command::{Format, FormatFlag, Installation, SchedulerFlags};
use crate::failure::Error;
use crate::output::status::ServerStatus;
use crate::output::table::{one_line, table};
use crate::output::{self, Output};
use crate::verb::{self, Deadline, wait_for};
use crate::{manifest, wait};

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
    /// Return when the replicas are there
    #[arg(short, long)]
    wait: bool,
    /// How long to wait
    #[arg(short, long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout_secs: u64,
    #[command(flatten)]
    scheduler: SchedulerFlags,
    #[command(flatten)]
    installation: Installation,
}

pub(crate) async fn run(verb: Verb, output: &mut Output) -> Result<(), Error> {
    match verb {
        Verb::List(flags) => list(flags, output).await,
        Verb::Status(flags) => status(flags, output).await,
        Verb::Scale(flags) => scale(flags, output).await,
    }
}

async fn list(flags: List, output: &mut Output) -> Result<(), Error> {
    let mut scheduler = Scheduler::connect(flags.scheduler.address(&flags.installation)?).await?;
    let statuses = scheduler.server_statuses(None).await?;
    let text = match flags.output.format {
        Format::Json => output::as_json(&statuses.iter().map(ServerStatus::from).collect::<Vec<_>>()),
        Format::Text => {
            let rows: Vec<[String; 3]> = statuses.iter().map(row).collect();
            table(["server", "replicas", "models"], &rows)
        }
    };
    Ok(output.line(&text)?)
}

async fn status(flags: Status, output: &mut Output) -> Result<(), Error> {
    ServerName::parse(&flags.name).map_err(verb::Error::Name)?;
    let mut scheduler = Scheduler::connect(flags.scheduler.address(&flags.installation)?).await?;
    let Some(status) = scheduler.server_status(&flags.name).await? else {
        return Err(verb::Error::Unknown { kind: "server", name: flags.name }.into());
    };
    let text = match flags.output.format {
        Format::Json => output::as_json(&ServerStatus::from(&status)),
        Format::Text => as_text(&status),
    };
    Ok(output.line(&text)?)
}

async fn scale(flags: Scale, output: &mut Output) -> Result<(), Error> {
    let mut servers = Vec::new();
    if let Some(file) = &flags.file {
        for server in manifest::servers(file)? {
            let wire = server.to_wire().map_err(|faults| manifest::faulty(&server.metadata.name, faults))?;
            servers.push(wire);
        }
    }
    let mut scheduler = Scheduler::connect(flags.scheduler.address(&flags.installation)?).await?;
    if let (Some(name), Some(replicas)) = (flags.name, flags.replicas) {
        ServerName::parse(&name).map_err(verb::Error::Name)?;
        let Some(status) = scheduler.server_status(&name).await? else {
            return Err(verb::Error::Unknown { kind: "server", name }.into());
        };
        servers.push(resized(&status, replicas));
    }
    let deadline = Deadline::after(flags.timeout_secs);
    let wanted: Vec<_> = servers.iter().map(|server| (server.name.clone(), server.expected_replicas)).collect();
    for server in servers {
        scheduler.notify_server(server).await?;
    }
    for (name, replicas) in wanted {
        let text = if flags.wait {
            wait_for(&format!("server {name}"), deadline, async || {
                Ok(wait::scaled(replicas, scheduler.server_status(&name).await?.as_ref()))
            })
            .await?
        } else {
            format!("{replicas} replicas wanted")
        };
        output.line(&format!("server {name}: {text}"))?;
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

fn row(status: &wire::ServerStatusResponse) -> [String; 3] {
    [status.server_name.clone(), replicas(status), status.num_loaded_model_replicas.to_string()]
}

/// The status for a person.
fn as_text(status: &wire::ServerStatusResponse) -> String {
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

    use super::{as_text, resized, row};
    use crate::output::as_json;
    use crate::output::status::ServerStatus;

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
        assert_eq!(row(&status), ["onnx", "1/2", "4"]);
        assert_eq!(row(&wire::ServerStatusResponse { expected_replicas: -1, ..status.clone() })[1], "1");
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
