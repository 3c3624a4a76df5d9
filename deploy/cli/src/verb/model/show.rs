//! Models as they are shown: one, all of them, and what one takes and gives.

use std::time::Duration;

use domain::ModelName;
use http::uri::Authority;
use messages::scheduler as wire;
use wire::model_status::ModelState;

use crate::address::Address;
use crate::client::inference::Rest;
use crate::client::scheduler::Scheduler;
use crate::command::Format;
use crate::failure::Error;
use crate::output::json::indented;
use crate::output::request;
use crate::output::status::{ModelStatus, model_state, replica_state};
use crate::output::table::{one_line, table};
use crate::output::{self, Output};
use crate::verb;
use crate::voice::Voice;
use crate::wait::latest;

/// How long a server may take to describe a model.
const METADATA_TIMEOUT: Duration = Duration::from_secs(30);

/// All models but those that are gone.
pub(crate) async fn list(
    format: Format,
    voice: Voice,
    scheduler: &mut Scheduler,
    output: &mut Output,
) -> Result<(), Error> {
    voice.request(output, request::list)?;
    let mut statuses = scheduler.model_statuses(None, false).await?;
    statuses.retain(|status| latest(status).is_some_and(|version| !is_terminated(version)));
    let rows = statuses.iter().filter_map(row);
    let text = match (format, voice) {
        (Format::Json, _) => output::as_json(&statuses.iter().map(ModelStatus::from).collect::<Vec<_>>()),
        (Format::Text, Voice::Switchyard) => {
            table(["model", "state", "reason", "version", "replicas"], &rows.collect::<Vec<_>>())
        }
        (Format::Text, Voice::Seldon { .. }) => {
            let rows: Vec<_> = rows.map(|[model, state, reason, ..]| [model, state, reason]).collect();
            table(["model", "state", "reason"], &rows)
        }
    };
    Ok(output.line(&text)?)
}

/// What a model takes and gives, as its server says.
pub(crate) async fn metadata(
    name: &str,
    envoy: Address,
    authority: Option<Authority>,
    voice: Voice,
    output: &mut Output,
) -> Result<(), Error> {
    ModelName::parse(name).map_err(verb::Error::Name)?;
    let body = Rest::new(envoy, METADATA_TIMEOUT).addressed_to(authority).metadata(name).await?;
    Ok(output.line(&indented(&String::from_utf8_lossy(&body), voice.lists()))?)
}

fn is_terminated(version: &wire::ModelVersionStatus) -> bool {
    version.state.as_ref().is_some_and(|state| state.state == ModelState::ModelTerminated as i32)
}

fn row(status: &wire::ModelStatusResponse) -> Option<[String; 5]> {
    let version = latest(status)?;
    let state = version.state.clone().unwrap_or_default();
    Some([
        status.model_name.clone(),
        state_name(state.state),
        state.reason,
        version.version.to_string(),
        replicas(version),
    ])
}

fn state_name(number: i32) -> String {
    model_state(number).map_or_else(|| number.to_string(), str::to_owned)
}

/// Available replicas of the wanted ones.
fn replicas(version: &wire::ModelVersionStatus) -> String {
    let state = version.state.as_ref();
    let available = state.map_or(0, |state| state.available_replicas);
    let deployment = version.model_defn.as_ref().and_then(|model| model.deployment_spec.as_ref());
    let wanted = deployment.map(|deployment| deployment.replicas);
    let known = available.saturating_add(state.map_or(0, |state| state.unavailable_replicas));
    format!("{available}/{}", wanted.unwrap_or(known))
}

/// The status for a person: the latest version first.
pub(crate) fn as_text(status: &wire::ModelStatusResponse) -> String {
    let mut lines = vec![format!("model     {}", status.model_name)];
    if status.deleted {
        lines.push("          is being unloaded".to_owned());
    }
    let mut versions: Vec<_> = status.versions.iter().collect();
    versions.sort_by_key(|version| std::cmp::Reverse(version.version));
    for version in versions {
        let state = version.state.clone().unwrap_or_default();
        lines.push(format!("version   {}", version.version));
        lines.push(format!("state     {}", state_name(state.state)));
        if !state.reason.is_empty() {
            lines.push(format!("reason    {}", state.reason));
        }
        let server = if version.server_name.is_empty() { "none" } else { &version.server_name };
        lines.push(format!("server    {server}"));
        lines.push(format!("replicas  {} available", replicas(version)));
        for (index, replica) in &version.model_replica_state {
            let name = replica_state(replica.state).map_or_else(|| replica.state.to_string(), str::to_owned);
            lines.push(format!("  {index:<7} {name} {}", replica.reason));
        }
    }
    lines.iter().map(|line| one_line(line).trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use messages::scheduler as wire;

    use super::{as_text, row};
    use crate::output::as_json;
    use crate::output::status::ModelStatus;

    fn status() -> wire::ModelStatusResponse {
        let time = Some(prost_types::Timestamp { seconds: 1_767_873_600, nanos: 0 });
        wire::ModelStatusResponse {
            model_name: "iris".to_owned(),
            versions: vec![wire::ModelVersionStatus {
                version: 3,
                server_name: "onnx".to_owned(),
                kubernetes_meta: Some(wire::KubernetesMeta { namespace: String::new(), generation: 7 }),
                model_replica_state: [(
                    0,
                    wire::ModelReplicaStatus { state: 9, reason: String::new(), last_change_timestamp: time },
                )]
                .into(),
                state: Some(wire::ModelStatus {
                    state: 7,
                    reason: "1 of 2 replicas: no memory".to_owned(),
                    available_replicas: 1,
                    unavailable_replicas: 0,
                    last_change_timestamp: time,
                    model_gw_state: 9,
                    model_gw_reason: String::new(),
                }),
                model_defn: Some(wire::Model {
                    meta: Some(wire::MetaData {
                        name: "iris".to_owned(),
                        kubernetes_meta: Some(wire::KubernetesMeta::default()),
                        ..Default::default()
                    }),
                    model_spec: Some(wire::ModelSpec {
                        uri: "/a".to_owned(),
                        memory_bytes: Some(0),
                        storage_config: Some(wire::StorageConfig {
                            config: Some(wire::storage_config::Config::StorageSecretName("s".to_owned())),
                        }),
                        model_spec: Some(wire::model_spec::ModelSpec::Llm(wire::LlmSpec {
                            model_ref: Some("m".to_owned()),
                            pipeline_ref: None,
                        })),
                        ..Default::default()
                    }),
                    deployment_spec: Some(wire::DeploymentSpec {
                        replicas: 2,
                        max_replicas: u32::MAX,
                        ..Default::default()
                    }),
                    stream_spec: None,
                    dataflow_spec: Some(wire::DataflowSpec::default()),
                }),
            }],
            deleted: false,
            keep_topics: false,
            timestamp: 5,
            operation: 1,
        }
    }

    #[test]
    fn json_has_the_names_of_the_api_and_leaves_defaults_out() {
        assert_eq!(
            as_json(&ModelStatus::from(&status())),
            concat!(
                r#"{"modelName":"iris","versions":[{"version":3,"serverName":"onnx","kubernetesMeta":{"generation":"7"},"#,
                r#""modelReplicaState":{"0":{"state":"Available","lastChangeTimestamp":"2026-01-08T12:00:00Z"}},"#,
                r#""state":{"state":"ScheduleFailed","reason":"1 of 2 replicas: no memory","availableReplicas":1,"#,
                r#""lastChangeTimestamp":"2026-01-08T12:00:00Z","modelGwState":"ModelCreate"},"#,
                r#""modelDefn":{"meta":{"name":"iris","kubernetesMeta":{}},"modelSpec":{"uri":"/a","#,
                r#""storageConfig":{"storageSecretName":"s"},"memoryBytes":"0","llm":{"modelRef":"m"}},"#,
                r#""deploymentSpec":{"replicas":2,"maxReplicas":4294967295},"dataflowSpec":{}}}],"#,
                r#""timestamp":"5","operation":"ModelCreate"}"#
            )
        );
        assert_eq!(as_json(&ModelStatus::from(&wire::ModelStatusResponse::default())), "{}");
    }

    #[test]
    fn a_person_reads_state_reason_version_server_and_replicas() {
        assert_eq!(
            as_text(&status()),
            "model     iris\nversion   3\nstate     ScheduleFailed\nreason    1 of 2 replicas: no memory\n\
             server    onnx\nreplicas  1/2 available\n  0       Available"
        );
        let row = row(&status()).expect("a version");
        assert_eq!(row, ["iris", "ScheduleFailed", "1 of 2 replicas: no memory", "3", "1/2"]);
    }
}
