//! Models as the tests declare them.

use messages::scheduler as wire;

/// A declaration to be sent.
#[derive(Clone, Debug)]
pub struct Draft(wire::Model);

impl Draft {
    /// One replica of 10 bytes on whatever offers `onnx`.
    pub fn of(name: &str) -> Draft {
        Draft(wire::Model {
            meta: Some(wire::MetaData { name: name.into(), ..Default::default() }),
            model_spec: Some(wire::ModelSpec {
                uri: format!("/models/{name}"),
                memory_bytes: Some(10),
                requirements: vec!["onnx".into()],
                ..Default::default()
            }),
            deployment_spec: Some(wire::DeploymentSpec { replicas: 1, ..Default::default() }),
            ..Default::default()
        })
    }

    pub fn wire(&self) -> wire::Model {
        self.0.clone()
    }

    pub fn spec(mut self, edit: impl FnOnce(&mut wire::ModelSpec)) -> Draft {
        edit(self.0.model_spec.as_mut().unwrap());
        self
    }

    pub fn uri(self, uri: &str) -> Draft {
        self.spec(|spec| spec.uri = uri.into())
    }

    pub fn memory(self, bytes: u64) -> Draft {
        self.spec(|spec| spec.memory_bytes = Some(bytes))
    }

    pub fn needs(self, requirements: &[&str]) -> Draft {
        self.spec(|spec| spec.requirements = requirements.iter().map(|&need| need.to_owned()).collect())
    }

    pub fn server(self, name: &str) -> Draft {
        self.spec(|spec| spec.server = Some(name.into()))
    }

    pub fn replicas(mut self, replicas: u32) -> Draft {
        self.0.deployment_spec.as_mut().unwrap().replicas = replicas;
        self
    }

    pub fn at_least(mut self, replicas: u32) -> Draft {
        self.0.deployment_spec.as_mut().unwrap().min_replicas = replicas;
        self
    }

    pub fn cleans_topics(mut self) -> Draft {
        self.0.dataflow_spec = Some(wire::DataflowSpec { clean_topics_on_delete: true });
        self
    }

    pub fn generation(mut self, generation: i64) -> Draft {
        let meta = wire::KubernetesMeta { namespace: "test".into(), generation };
        self.0.meta.as_mut().unwrap().kubernetes_meta = Some(meta);
        self
    }
}

/// What a server says about a model with so many workers.
pub fn workers(parallel_workers: u32) -> wire::ModelRuntimeInfo {
    use wire::model_runtime_info::ModelRuntimeInfo::Mlserver;
    let settings = wire::MlServerModelSettings { parallel_workers };
    wire::ModelRuntimeInfo { model_runtime_info: Some(Mlserver(settings)) }
}
