//! What users are told about pipelines: the dataflow engines' side, the pipeline gateways' side, and their models
//! (`spec/control-plane.md` §2.16). Computed from what workers say they have applied; nothing of it is kept.

use domain::{ModelName, ModelState, PipelineName, PipelineState, PipelineVersionStatus, Role, RoutableName};

use crate::machine::Machine;
use crate::pipeline::Pipeline;

/// Most models that a reason names.
const NAMED_MAX: usize = 5;

impl Machine {
    /// Status of the latest version of a pipeline.
    #[must_use]
    pub fn pipeline_status(&self, name: &PipelineName) -> Option<PipelineVersionStatus> {
        let pipeline = self.pipelines.get(name)?;
        let (number, _) = pipeline.latest()?;
        self.pipeline_version_status(pipeline, number)
    }

    /// Status of every version of a pipeline that is kept, oldest first.
    #[must_use]
    pub fn pipeline_statuses(&self, name: &PipelineName) -> Option<Vec<PipelineVersionStatus>> {
        let pipeline = self.pipelines.get(name)?;
        Some(pipeline.versions.keys().filter_map(|number| self.pipeline_version_status(pipeline, *number)).collect())
    }

    fn pipeline_version_status(&self, pipeline: &Pipeline, number: u32) -> Option<PipelineVersionStatus> {
        let version = pipeline.versions.get(&number)?;
        let (state, mut reason) = self.engine_state(pipeline, number);
        let (gateway_state, gateway_reason) = self.gateway_state(pipeline, number);
        let is_available = |model: &ModelName| {
            self.model_state(model) == Some(ModelState::Available)
                && self.models.get(model).is_some_and(|model| self.model_gateway_state(model) == ModelState::Available)
        };
        let steps = version.definition.steps.iter().map(|step| &step.model);
        let missing: Vec<&str> = steps.filter(|model| !is_available(model)).map(ModelName::as_str).collect();
        // It is ready all the same; what it still needs may come later.
        if state == PipelineState::Ready && reason.is_empty() {
            let sources = self.missing_sources(&version.definition);
            let models = || match missing[..] {
                [] => String::new(),
                [model] => format!("model {model} is not available"),
                [ref first @ .., last] if missing.len() <= NAMED_MAX => {
                    format!("models {} and {last} are not available", first.join(", "))
                }
                [..] => format!("{} models are not available", missing.len()),
            };
            reason = sources.unwrap_or_else(models);
        }
        let times = [Some(version.declared_at), version.active_since, version.retired_at, pipeline.terminated_at];
        Some(PipelineVersionStatus {
            name: pipeline.name.clone(),
            number,
            uid: version.uid.clone(),
            definition: version.definition.clone(),
            state,
            reason,
            gateway_state,
            gateway_reason,
            models_ready: missing.is_empty(),
            changed_at: times.into_iter().flatten().max().unwrap_or(version.declared_at),
        })
    }

    /// The dataflow engines' side of a version, and why.
    pub(crate) fn engine_state(&self, pipeline: &Pipeline, number: u32) -> (PipelineState, String) {
        if let Some(ending) = ending(pipeline, number) {
            return (ending, String::new());
        }
        let announced = self.announced_at(&pipeline.name, number);
        let engines: Vec<_> = self.ready(Role::Engine).collect();
        if engines.is_empty() {
            let coming = self.connected(Role::Engine).count();
            return match coming {
                0 => (PipelineState::Create, "no dataflow engine is connected".to_owned()),
                _ => (PipelineState::Creating, format!("{coming} dataflow engines are starting")),
            };
        }
        let unknown = engines.iter().filter(|engine| engine.applied < announced).count();
        if unknown > 0 {
            let ready = engines.len() - unknown;
            return (PipelineState::Creating, format!("{ready}/{} dataflow engines ready", engines.len()));
        }
        let key = (pipeline.name.clone(), number);
        let refusals: Vec<&str> =
            engines.iter().filter_map(|engine| engine.refused.get(&key)).map(String::as_str).collect();
        match refusals.first() {
            None => (PipelineState::Ready, String::new()),
            Some(why) if refusals.len() == engines.len() => (PipelineState::Failed, (*why).to_owned()),
            Some(why) => {
                let ready = engines.len() - refusals.len();
                (PipelineState::Ready, format!("{ready}/{} dataflow engines ready: {why}", engines.len()))
            }
        }
    }

    /// The pipeline gateways' side of a version, and why.
    fn gateway_state(&self, pipeline: &Pipeline, number: u32) -> (PipelineState, String) {
        if let Some(ending) = ending(pipeline, number) {
            return (ending, String::new());
        }
        let gateways = self.connected(Role::PipelineGateway).count();
        if gateways == 0 {
            return (PipelineState::Create, "no pipeline gateway is connected".to_owned());
        }
        let is_active = pipeline.versions.get(&number).is_some_and(|version| version.active);
        if !is_active {
            return (
                PipelineState::Creating,
                "the version takes no requests before the dataflow engines have it".to_owned(),
            );
        }
        let changed = self.progress.get(&pipeline.name).map_or(0, |progress| progress.changed);
        let ready = self.ready(Role::PipelineGateway).filter(|gateway| gateway.applied >= changed).count();
        if ready < gateways {
            return (PipelineState::Creating, format!("{ready}/{gateways} pipeline gateways ready"));
        }
        match self.table.get(&RoutableName::Pipeline(pipeline.name.clone())) {
            Some(published) if published.rejection().is_some() => {
                let why = published.rejection().unwrap_or_default();
                (PipelineState::Failed, format!("the route was refused: {why}"))
            }
            Some(published) if published.is_applied() => (PipelineState::Ready, String::new()),
            Some(_) | None => (PipelineState::Creating, "waiting for every Envoy to apply the route".to_owned()),
        }
    }
}

/// The state of a version that is on its way out, or gone.
fn ending(pipeline: &Pipeline, number: u32) -> Option<PipelineState> {
    let version = pipeline.versions.get(&number)?;
    match (pipeline.removed, pipeline.terminated_at, version.retired_at) {
        (true, Some(_), _) => Some(PipelineState::Terminated),
        (true, None, _) | (false, _, Some(_)) => Some(PipelineState::Terminating),
        (false, _, None) => None,
    }
}
