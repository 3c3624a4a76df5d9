//! The requests of the scheduler's API as JSON, for those who want to see what is sent.

use messages::scheduler as wire;

use super::as_json;
use super::experiment::Experiment;
use super::pipeline::Pipeline;
use super::status::Model;
use crate::client::scheduler::SUBSCRIBER;
use crate::manifest::{Kind, Named, Resource};

/// What declares a resource.
pub(crate) fn declare(resource: &Resource) -> String {
    match resource {
        Resource::Model(model) => format!(r#"{{"model":{}}}"#, as_json(&Model::from(model.as_ref()))),
        Resource::Experiment(experiment) => {
            format!(r#"{{"experiment":{}}}"#, as_json(&Experiment::from(experiment.as_ref())))
        }
        Resource::Pipeline(pipeline) => format!(r#"{{"pipeline":{}}}"#, as_json(&Pipeline::from(pipeline.as_ref()))),
        Resource::Server(server) => format!(r#"{{"servers":[{}]}}"#, notify(server)),
    }
}

/// What removes a resource.
pub(crate) fn remove(resource: &Named) -> String {
    let name = as_json(&resource.name);
    match resource.kind {
        Kind::Model => format!(r#"{{"model":{{"name":{name}}}}}"#),
        Kind::Experiment | Kind::Pipeline => format!(r#"{{"name":{name}}}"#),
        Kind::Server => format!(r#"{{"servers":[{{"name":{name}}}]}}"#),
    }
}

/// What asks for the status of a resource.
pub(crate) fn status(resource: &Named) -> String {
    let (subscriber, name) = (as_json(&SUBSCRIBER), as_json(&resource.name));
    match resource.kind {
        Kind::Model => format!(r#"{{"subscriberName":{subscriber},"model":{{"name":{name}}}}}"#),
        Kind::Experiment | Kind::Pipeline | Kind::Server => {
            format!(r#"{{"subscriberName":{subscriber},"name":{name}}}"#)
        }
    }
}

/// What asks for the statuses of all resources of a kind.
pub(crate) fn list() -> String {
    format!(r#"{{"subscriberName":{}}}"#, as_json(&SUBSCRIBER))
}

fn notify(server: &wire::ServerNotify) -> String {
    let wire::ServerNotify { expected_replicas, min_replicas, max_replicas, .. } = server;
    let name = as_json(&server.name);
    format!(
        r#"{{"name":{name},"expectedReplicas":{expected_replicas},"minReplicas":{min_replicas},"maxReplicas":{max_replicas}}}"#
    )
}

#[cfg(test)]
mod tests {
    use messages::scheduler as wire;

    use super::{declare, list, remove, status};
    use crate::manifest::{Kind, Named, Resource};

    #[test]
    fn requests_have_the_names_of_the_api() {
        let experiment = wire::Experiment {
            name: "e".to_owned(),
            default: Some("a".to_owned()),
            candidates: vec![wire::ExperimentCandidate { name: "a".to_owned(), weight: 2 }],
            mirror: Some(wire::ExperimentMirror { name: "b".to_owned(), percent: 0 }),
            config: None,
            kubernetes_meta: Some(wire::KubernetesMeta::default()),
            resource_type: wire::ResourceType::Pipeline.into(),
        };
        let model = wire::Model {
            meta: Some(wire::MetaData { name: "m".to_owned(), ..Default::default() }),
            ..Default::default()
        };
        let server = wire::ServerNotify { name: "s".to_owned(), max_replicas: u32::MAX, ..Default::default() };
        let named = |kind| Named { kind, name: "x".to_owned() };
        for (text, expected) in [
            (
                declare(&Resource::Experiment(Box::new(experiment))),
                r#"{"experiment":{"name":"e","default":"a","candidates":[{"name":"a","weight":2}],"mirror":{"name":"b"},"kubernetesMeta":{},"resourceType":"PIPELINE"}}"#,
            ),
            (declare(&Resource::Model(Box::new(model))), r#"{"model":{"meta":{"name":"m"}}}"#),
            (
                declare(&Resource::Server(server)),
                r#"{"servers":[{"name":"s","expectedReplicas":0,"minReplicas":0,"maxReplicas":4294967295}]}"#,
            ),
            (remove(&named(Kind::Model)), r#"{"model":{"name":"x"}}"#),
            (remove(&named(Kind::Experiment)), r#"{"name":"x"}"#),
            (status(&named(Kind::Model)), r#"{"subscriberName":"switchyard cli","model":{"name":"x"}}"#),
            (status(&named(Kind::Server)), r#"{"subscriberName":"switchyard cli","name":"x"}"#),
            (list(), r#"{"subscriberName":"switchyard cli"}"#),
        ] {
            assert_eq!(text, expected);
            serde_json::from_str::<serde_json::Value>(&text).expect("JSON");
        }
    }
}
