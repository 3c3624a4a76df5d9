//! Experiments as declared: `seldon.mlops.scheduler.Experiment` and `domain::Experiment`.

use domain::{
    BadName, Candidate, Experiment, ExperimentName, ExperimentStatus, Mirror, ModelName, PipelineName, Subject,
};
use messages::scheduler as wire;

use super::{Invalid, model};

/// The experiment in a message, with everything that is wrong with its fields. Rules between experiments are the
/// scheduler's.
pub fn definition(experiment: wire::Experiment) -> Result<Experiment, Invalid> {
    let mut invalid = Invalid::default();
    let kind = experiment.resource_type();
    if experiment.candidates.len() > domain::CANDIDATES_MAX {
        let error = domain::BadExperiment::TooMany(experiment.candidates.len());
        return Err(Invalid::one("experiment", error));
    }
    let mut subject = |field: String, name: &str| match subject(kind, name) {
        Ok(subject) => Some(subject),
        Err(error) => {
            invalid.add(field, error);
            None
        }
    };
    let default = experiment.default.as_deref().filter(|name| !name.is_empty());
    let default = default.and_then(|name| subject("experiment.default".to_owned(), name));
    let mut candidates = Vec::with_capacity(experiment.candidates.len());
    for (index, candidate) in experiment.candidates.iter().enumerate() {
        let subject = subject(format!("experiment.candidates[{index}].name"), &candidate.name);
        candidates.extend(subject.map(|subject| Candidate { subject, weight: candidate.weight }));
    }
    let mirror = experiment.mirror.as_ref().and_then(|mirror| {
        let subject = subject("experiment.mirror.name".to_owned(), &mirror.name);
        subject.map(|subject| Mirror { subject, percent: mirror.percent })
    });
    let kubernetes = experiment.kubernetes_meta;
    let kubernetes = kubernetes.map(|meta| model::small_kubernetes("experiment.kubernetesMeta", meta)).transpose();
    let kubernetes = kubernetes.unwrap_or_else(|error| {
        invalid.extend(error);
        None
    });
    let name = match ExperimentName::parse(&experiment.name) {
        Ok(name) => name,
        Err(error) => {
            invalid.add("experiment.name", error);
            return Err(invalid);
        }
    };
    let sticky_sessions = experiment.config.map(|config| config.sticky_sessions);
    let definition = Experiment { name, default, candidates, mirror, sticky_sessions, kubernetes };
    let definition = invalid.or(definition)?;
    match definition.check() {
        Ok(()) => Ok(definition),
        Err(error) => Err(Invalid::one("experiment", error)),
    }
}

/// The way out of [`definition`].
#[must_use]
pub fn wire(experiment: &Experiment) -> wire::Experiment {
    let candidate = |candidate: &Candidate| wire::ExperimentCandidate {
        name: candidate.subject.to_string(),
        weight: candidate.weight,
    };
    wire::Experiment {
        name: experiment.name.to_string(),
        default: experiment.default.as_ref().map(ToString::to_string),
        candidates: experiment.candidates.iter().map(candidate).collect(),
        mirror: experiment
            .mirror
            .as_ref()
            .map(|mirror| wire::ExperimentMirror { name: mirror.subject.to_string(), percent: mirror.percent }),
        config: experiment.sticky_sessions.map(|sticky_sessions| wire::ExperimentConfig { sticky_sessions }),
        kubernetes_meta: experiment.kubernetes.as_ref().map(model::kubernetes_wire),
        resource_type: match experiment.subjects().next() {
            Some(Subject::Pipeline(_)) => wire::ResourceType::Pipeline.into(),
            Some(Subject::Model(_)) | None => wire::ResourceType::Model.into(),
        },
    }
}

/// What an experiment of the kind means by a name.
pub fn subject(kind: wire::ResourceType, name: &str) -> Result<Subject, BadName> {
    match kind {
        wire::ResourceType::Model => ModelName::parse(name).map(Subject::Model),
        wire::ResourceType::Pipeline => PipelineName::parse(name).map(Subject::Pipeline),
    }
}

/// Status of an experiment.
#[must_use]
pub fn status(status: &ExperimentStatus) -> wire::ExperimentStatusResponse {
    wire::ExperimentStatusResponse {
        experiment_name: status.name.to_string(),
        active: status.active,
        candidates_ready: status.candidates_ready,
        mirror_ready: status.mirror_ready,
        status_description: status.description.clone(),
        kubernetes_meta: status.kubernetes.as_ref().map(model::kubernetes_wire),
    }
}

#[cfg(test)]
mod tests {
    use messages::scheduler as wire;

    fn experiment() -> wire::Experiment {
        let candidate = |name: &str, weight| wire::ExperimentCandidate { name: name.into(), weight };
        wire::Experiment {
            name: "split".into(),
            default: Some("a".into()),
            candidates: vec![candidate("a", 8), candidate("b", 2)],
            mirror: Some(wire::ExperimentMirror { name: "c".into(), percent: 20 }),
            config: Some(wire::ExperimentConfig { sticky_sessions: true }),
            kubernetes_meta: Some(wire::KubernetesMeta { namespace: "ml".into(), generation: 3 }),
            resource_type: wire::ResourceType::Model.into(),
        }
    }

    #[test]
    fn an_experiment_comes_out_as_it_went_in() {
        let read = super::definition(experiment()).expect("valid");
        assert_eq!(super::wire(&read), experiment());
        let pipelines = wire::Experiment { resource_type: wire::ResourceType::Pipeline.into(), ..experiment() };
        let read = super::definition(pipelines.clone()).expect("valid");
        assert_eq!(super::wire(&read), pipelines);
    }

    #[test]
    fn every_wrong_field_is_named() {
        let mut bad = experiment();
        bad.name = "-".into();
        bad.default = Some("A".into());
        bad.candidates[1].name = "b.c".into();
        bad.mirror = Some(wire::ExperimentMirror { name: String::new(), percent: 1 });
        let error = super::definition(bad).expect_err("invalid").to_string();
        for field in ["name", "default", "candidates[1].name", "mirror.name"] {
            assert!(error.contains(&format!("experiment.{field}: ")), "{field} is not in {error}");
        }
        let mut bad = experiment();
        bad.default = Some("c".into());
        let error = super::definition(bad).expect_err("invalid").to_string();
        assert_eq!(error, "experiment: default: c is not among the candidates");
    }
}
