//! Models as declared: `seldon.mlops.scheduler.Model` and `domain::ModelDefinition`.

use domain::{
    Bytes, Deployment, Explainer, KubernetesMeta, Llm, ModelDefinition, ModelName, ModelSpec, Parameter, RuntimeInfo,
    ServerName, StorageConfig, StreamTopics,
};
use messages::scheduler as wire;
use prost::Message;

use super::Invalid;
use super::server::MOST_REPLICAS;

/// Longest text of one field, in bytes; nothing real is near it, and every definition is kept in memory and sent to
/// agents and subscribers.
const LONGEST_TEXT: usize = 64 * 1024;

/// Most entries in one list of a definition, for the same reason.
const MOST_ENTRIES: usize = 1_000;

/// Longest namespace: what Kubernetes allows for any name.
const LONGEST_NAMESPACE: usize = 253;

/// Largest definition as a message, in bytes. Ten versions of it are kept in one record, and every status carries one;
/// real ones have about 300.
const LARGEST_DEFINITION: usize = 256 * 1024;

/// The definition in a wire model, with everything that is wrong with it.
pub fn definition(model: wire::Model) -> Result<ModelDefinition, Invalid> {
    let mut invalid = Invalid::default();
    // What a server said about it is no part of the definition, also not of its size.
    let runtime = model.model_spec.as_ref().and_then(|spec| spec.model_runtime_info.as_ref());
    let bytes = model.encoded_len().saturating_sub(runtime.map_or(0, Message::encoded_len));
    if bytes > LARGEST_DEFINITION {
        return Err(Invalid::one("model", format!("has {bytes} bytes, at most {LARGEST_DEFINITION} are accepted")));
    }
    let Some(meta) = model.meta else { return Err(Invalid::one("model.meta", "missing")) };
    let Some(spec) = model.model_spec else { return Err(Invalid::one("model.modelSpec", "missing")) };
    let name = match ModelName::parse(&meta.name) {
        Ok(name) => Some(name),
        Err(error) => {
            invalid.add("model.meta.name", error);
            None
        }
    };
    let spec = self::spec(spec, &mut invalid);
    let deployment = model.deployment_spec.unwrap_or_default();
    for (field, replicas) in [("replicas", deployment.replicas), ("minReplicas", deployment.min_replicas)] {
        if replicas > MOST_REPLICAS {
            let reason = format!("is {replicas}, at most {MOST_REPLICAS} are accepted");
            invalid.add(format!("model.deploymentSpec.{field}"), reason);
        }
    }
    let definition = name.map(|name| ModelDefinition {
        name,
        kind: meta.kind.map(String::into_boxed_str),
        label: meta.version.map(String::into_boxed_str),
        kubernetes: meta.kubernetes_meta.map(kubernetes).map(Box::new),
        spec,
        deployment: Deployment {
            replicas: deployment.replicas,
            min_replicas: deployment.min_replicas,
            max_replicas: deployment.max_replicas,
            log_payloads: deployment.log_payloads,
        },
        stream: model
            .stream_spec
            .map(|topics| Box::new(StreamTopics { input: topics.input_topic, output: topics.output_topic })),
        clean_topics_on_delete: model.dataflow_spec.map(|dataflow| dataflow.clean_topics_on_delete),
    });
    match invalid.or(definition)? {
        Some(definition) => Ok(definition),
        None => Err(Invalid::one("model.meta.name", "missing")),
    }
}

fn spec(spec: wire::ModelSpec, invalid: &mut Invalid) -> ModelSpec {
    let mut text = |field: &str, value: &str| {
        if value.len() > LONGEST_TEXT {
            invalid.add(field, format!("has {} bytes, at most {LONGEST_TEXT} are accepted", value.len()));
        }
    };
    text("model.modelSpec.uri", &spec.uri);
    for (index, need) in spec.requirements.iter().enumerate() {
        text(&format!("model.modelSpec.requirements[{index}]"), need);
    }
    for (index, parameter) in spec.parameters.iter().enumerate() {
        text(&format!("model.modelSpec.parameters[{index}]"), &parameter.name);
        text(&format!("model.modelSpec.parameters[{index}]"), &parameter.value);
    }
    for (field, entries) in [("requirements", spec.requirements.len()), ("parameters", spec.parameters.len())] {
        if entries > MOST_ENTRIES {
            let reason = format!("has {entries} entries, at most {MOST_ENTRIES} are accepted");
            invalid.add(format!("model.modelSpec.{field}"), reason);
        }
    }
    let server = spec.server.filter(|name| !name.is_empty()).and_then(|name| match ServerName::parse(&name) {
        Ok(name) => Some(name),
        Err(error) => {
            invalid.add("model.modelSpec.server", error);
            None
        }
    });
    let (explainer, llm) = match spec.model_spec {
        Some(wire::model_spec::ModelSpec::Explainer(explainer)) => {
            let (model, pipeline) = (explainer.model_ref, explainer.pipeline_ref);
            (Some(Box::new(Explainer { kind: explainer.r#type, model, pipeline })), None)
        }
        Some(wire::model_spec::ModelSpec::Llm(llm)) => {
            (None, Some(Box::new(Llm { model: llm.model_ref, pipeline: llm.pipeline_ref })))
        }
        None => (None, None),
    };
    ModelSpec {
        uri: spec.uri,
        artifact_version: spec.artifact_version,
        storage: spec.storage_config.and_then(|storage| storage.config).map(|config| {
            Box::new(match config {
                wire::storage_config::Config::StorageSecretName(name) => StorageConfig::SecretName(name),
                wire::storage_config::Config::StorageRcloneConfig(remote) => StorageConfig::Remote(remote),
            })
        }),
        // What was decoded has room for more than there is, and it is kept.
        requirements: spec.requirements.into_boxed_slice().into_vec(),
        memory: spec.memory_bytes.map(Bytes),
        server,
        explainer,
        llm,
        parameters: spec.parameters.into_iter().map(|p| Parameter { name: p.name, value: p.value }).collect(),
    }
}

/// Size of a definition as a message.
#[must_use]
pub fn encoded_bytes(definition: &ModelDefinition) -> usize {
    wire(definition, None).encoded_len()
}

/// The wire model of a definition, with what a server said about it.
#[must_use]
pub fn wire(definition: &ModelDefinition, runtime: Option<RuntimeInfo>) -> wire::Model {
    let spec = &definition.spec;
    let kind = match (&spec.explainer, &spec.llm) {
        (Some(explainer), _) => Some(wire::model_spec::ModelSpec::Explainer(wire::ExplainerSpec {
            r#type: explainer.kind.clone(),
            model_ref: explainer.model.clone(),
            pipeline_ref: explainer.pipeline.clone(),
        })),
        (None, Some(llm)) => Some(wire::model_spec::ModelSpec::Llm(wire::LlmSpec {
            model_ref: llm.model.clone(),
            pipeline_ref: llm.pipeline.clone(),
        })),
        (None, None) => None,
    };
    let storage = spec.storage.as_deref().map(|storage| match storage {
        StorageConfig::SecretName(name) => wire::storage_config::Config::StorageSecretName(name.clone()),
        StorageConfig::Remote(remote) => wire::storage_config::Config::StorageRcloneConfig(remote.clone()),
    });
    let parameters = spec.parameters.iter();
    wire::Model {
        meta: Some(wire::MetaData {
            name: definition.name.to_string(),
            kind: definition.kind.as_deref().map(str::to_owned),
            version: definition.label.as_deref().map(str::to_owned),
            kubernetes_meta: definition.kubernetes.as_deref().map(kubernetes_wire),
        }),
        model_spec: Some(wire::ModelSpec {
            uri: spec.uri.clone(),
            artifact_version: spec.artifact_version,
            storage_config: storage.map(|config| wire::StorageConfig { config: Some(config) }),
            requirements: spec.requirements.clone(),
            memory_bytes: spec.memory.map(|memory| memory.0),
            server: spec.server.as_ref().map(ToString::to_string),
            parameters: parameters
                .map(|p| wire::ParameterSpec { name: p.name.clone(), value: p.value.clone() })
                .collect(),
            model_runtime_info: runtime.map(runtime_wire),
            model_spec: kind,
        }),
        deployment_spec: Some(wire::DeploymentSpec {
            replicas: definition.deployment.replicas,
            min_replicas: definition.deployment.min_replicas,
            max_replicas: definition.deployment.max_replicas,
            log_payloads: definition.deployment.log_payloads,
        }),
        stream_spec: definition
            .stream
            .as_ref()
            .map(|topics| wire::StreamSpec { input_topic: topics.input.clone(), output_topic: topics.output.clone() }),
        dataflow_spec: definition
            .clean_topics_on_delete
            .map(|clean_topics_on_delete| wire::DataflowSpec { clean_topics_on_delete }),
    }
}

/// What a server said about a model it loaded; an empty report says nothing.
#[must_use]
pub fn runtime(info: &wire::ModelRuntimeInfo) -> Option<RuntimeInfo> {
    use wire::model_runtime_info::ModelRuntimeInfo as Info;
    match info.model_runtime_info.as_ref()? {
        Info::Mlserver(settings) => Some(RuntimeInfo::MlServer { workers: settings.parallel_workers }),
        Info::Triton(config) => {
            Some(RuntimeInfo::Triton { instances: config.cpu.first().map(|group| group.instance_count) })
        }
    }
}

/// The way out of [`runtime`].
#[must_use]
pub fn runtime_wire(info: RuntimeInfo) -> wire::ModelRuntimeInfo {
    use wire::model_runtime_info::ModelRuntimeInfo as Info;
    let info = match info {
        RuntimeInfo::MlServer { workers } => Info::Mlserver(wire::MlServerModelSettings { parallel_workers: workers }),
        RuntimeInfo::Triton { instances } => {
            let cpu = instances.into_iter().map(|instance_count| wire::TritonCpu { instance_count });
            Info::Triton(wire::TritonModelConfig { cpu: cpu.collect() })
        }
    };
    wire::ModelRuntimeInfo { model_runtime_info: Some(info) }
}

/// Where a declaration came from.
#[must_use]
pub fn kubernetes(meta: wire::KubernetesMeta) -> KubernetesMeta {
    KubernetesMeta { namespace: meta.namespace, generation: meta.generation }
}

/// [`kubernetes`] where no limit of a whole definition applies; the namespace is kept and told to everybody.
pub fn small_kubernetes(field: &str, meta: wire::KubernetesMeta) -> Result<KubernetesMeta, Invalid> {
    if meta.namespace.len() > LONGEST_NAMESPACE {
        let reason = format!("has {} bytes, at most {LONGEST_NAMESPACE} are accepted", meta.namespace.len());
        return Err(Invalid::one(format!("{field}.namespace"), reason));
    }
    Ok(kubernetes(meta))
}

/// The way out of [`kubernetes`].
#[must_use]
pub fn kubernetes_wire(meta: &KubernetesMeta) -> wire::KubernetesMeta {
    wire::KubernetesMeta { namespace: meta.namespace.clone(), generation: meta.generation }
}

#[cfg(test)]
mod tests {
    use messages::scheduler as wire;

    fn full() -> wire::Model {
        wire::Model {
            meta: Some(wire::MetaData {
                name: "iris".into(),
                kind: Some("Model".into()),
                version: Some("v1".into()),
                kubernetes_meta: Some(wire::KubernetesMeta { namespace: "ns".into(), generation: 3 }),
            }),
            model_spec: Some(wire::ModelSpec {
                uri: "/models/iris".into(),
                artifact_version: Some(2),
                storage_config: Some(wire::StorageConfig {
                    config: Some(wire::storage_config::Config::StorageSecretName("bucket".into())),
                }),
                requirements: vec!["onnx".into(), " spaced ".into()],
                memory_bytes: Some(1024),
                server: Some("onnx".into()),
                parameters: vec![wire::ParameterSpec { name: "a".into(), value: "b".into() }],
                model_runtime_info: None,
                model_spec: Some(wire::model_spec::ModelSpec::Explainer(wire::ExplainerSpec {
                    r#type: "anchor_tabular".into(),
                    model_ref: Some("iris".into()),
                    pipeline_ref: None,
                })),
            }),
            deployment_spec: Some(wire::DeploymentSpec {
                replicas: 2,
                min_replicas: 1,
                max_replicas: u32::MAX,
                log_payloads: true,
            }),
            stream_spec: Some(wire::StreamSpec { input_topic: "in".into(), output_topic: "out".into() }),
            dataflow_spec: Some(wire::DataflowSpec { clean_topics_on_delete: true }),
        }
    }

    #[test]
    fn a_definition_goes_in_and_out_unchanged() {
        let definition = super::definition(full()).expect("valid");
        assert_eq!(super::wire(&definition, None), full());
    }

    #[test]
    fn runtime_info_is_no_part_of_the_definition() {
        let mut loaded = full();
        let spec = loaded.model_spec.as_mut().expect("a spec");
        spec.model_runtime_info = Some(super::runtime_wire(domain::RuntimeInfo::MlServer { workers: 4 }));
        assert_eq!(super::definition(loaded).expect("valid"), super::definition(full()).expect("valid"));
    }

    #[test]
    fn everything_that_is_wrong_is_named() {
        let mut bad = full();
        bad.meta.as_mut().expect("meta").name = "Bad.Name".into();
        let spec = bad.model_spec.as_mut().expect("a spec");
        spec.server = Some("-".into());
        spec.requirements = vec!["x".repeat(super::LONGEST_TEXT + 1)];
        bad.deployment_spec.as_mut().expect("a deployment").replicas = u32::MAX;
        let error = super::definition(bad).expect_err("four things are wrong");
        let fields: Vec<_> = error.violations().iter().map(|violation| violation.field.as_str()).collect();
        let expected = [
            "model.meta.name",
            "model.modelSpec.requirements[0]",
            "model.modelSpec.server",
            "model.deploymentSpec.replicas",
        ];
        assert_eq!(fields, expected);
        assert!(super::definition(wire::Model::default()).is_err());
    }
}
