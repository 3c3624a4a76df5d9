//! What a user says about an experiment: a split of traffic over models or over pipelines, and a copy of it.

use std::collections::BTreeSet;

use crate::{ExperimentName, KubernetesMeta, Subject};

/// Most candidates of one experiment: each of them is a route in every Envoy.
pub const CANDIDATES_MAX: usize = 100;

/// Largest sum of weights, in the unit users choose: room for a share in hundredths, in Envoy's 32 bits.
pub const WEIGHTS_MAX: u64 = 40_000_000;

/// A split of traffic. It has at least one candidate or a mirror, and no name twice (`spec/control-plane.md` §2.17);
/// [`Experiment::check`] says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Experiment {
    /// Identity; requests reach it as `<name>.experiment`.
    pub name: ExperimentName,
    /// The candidate whose plain name leads to the split as well.
    pub default: Option<Subject>,
    /// Who answers.
    pub candidates: Vec<Candidate>,
    /// Who gets copies.
    pub mirror: Option<Mirror>,
    /// Free wish of the caller, kept and given back: sessions are always sticky.
    pub sticky_sessions: Option<bool>,
    /// Present when the declaration came from Kubernetes.
    pub kubernetes: Option<KubernetesMeta>,
}

/// A share of an experiment's traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Who answers.
    pub subject: Subject,
    /// Share among the weights of all candidates, in a unit of the user's.
    pub weight: u32,
}

/// A copy of an experiment's traffic, whose answers nobody sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Who gets the copies.
    pub subject: Subject,
    /// Share of the requests that are copied, 0 to 100.
    pub percent: u32,
}

/// Why an experiment cannot be. Rule: `spec/control-plane.md` §2.17, with weights and percentages checked as well.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadExperiment {
    /// The default is nobody who answers.
    #[error("default: {0} is not among the candidates")]
    DefaultIsNoCandidate(Subject),
    /// Nobody answers and nobody gets copies.
    #[error("candidates: at least one, or a mirror, is needed")]
    Empty,
    /// More than Envoys should carry.
    #[error("candidates: {0} are more than the {CANDIDATES_MAX} that are possible")]
    TooMany(usize),
    /// A name is there twice.
    #[error("candidates: {0} is there more than once among candidates and mirror")]
    Twice(Subject),
    /// No share is left to anybody.
    #[error("candidates: their weights sum to 0, so nobody would answer")]
    NoWeight,
    /// Envoy cannot count so far.
    #[error("candidates: their weights sum to {0}, at most {WEIGHTS_MAX} is possible")]
    TooHeavy(u64),
    /// Models and pipelines do not answer the same requests.
    #[error("candidates: {0} is of another kind than {1}; all are models, or all are pipelines")]
    Mixed(Subject, Subject),
    /// A share above the whole.
    #[error("mirror.percent: {0} is more than 100")]
    Percent(u32),
}

impl Experiment {
    /// The rules that an experiment obeys by itself; the one about defaults of other experiments is the scheduler's.
    pub fn check(&self) -> Result<(), BadExperiment> {
        if let Some(default) = &self.default
            && !self.candidates.iter().any(|candidate| candidate.subject == *default)
        {
            return Err(BadExperiment::DefaultIsNoCandidate(default.clone()));
        }
        if self.candidates.is_empty() && self.mirror.is_none() {
            return Err(BadExperiment::Empty);
        }
        if self.candidates.len() > CANDIDATES_MAX {
            return Err(BadExperiment::TooMany(self.candidates.len()));
        }
        let mut seen = BTreeSet::new();
        if let Some(twice) = self.subjects().find(|subject| !seen.insert((*subject).clone())) {
            return Err(BadExperiment::Twice(twice.clone()));
        }
        if let Some(first) = self.subjects().next()
            && let Some(other) = self.subjects().find(|subject| !same_kind(subject, first))
        {
            return Err(BadExperiment::Mixed(other.clone(), first.clone()));
        }
        let sum: u64 = self.candidates.iter().map(|candidate| u64::from(candidate.weight)).sum();
        if sum == 0 && !self.candidates.is_empty() {
            return Err(BadExperiment::NoWeight);
        }
        if sum > WEIGHTS_MAX {
            return Err(BadExperiment::TooHeavy(sum));
        }
        match &self.mirror {
            Some(mirror) if mirror.percent > 100 => Err(BadExperiment::Percent(mirror.percent)),
            Some(_) | None => Ok(()),
        }
    }

    /// Everything it leads to, candidates first.
    pub fn subjects(&self) -> impl Iterator<Item = &Subject> {
        let candidates = self.candidates.iter().map(|candidate| &candidate.subject);
        candidates.chain(self.mirror.iter().map(|mirror| &mirror.subject))
    }
}

fn same_kind(one: &Subject, other: &Subject) -> bool {
    std::mem::discriminant(one) == std::mem::discriminant(other)
}

/// An experiment, as shown to users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExperimentStatus {
    /// Which one.
    pub name: ExperimentName,
    /// The Envoys split the traffic as declared.
    pub active: bool,
    /// Every candidate is available.
    pub candidates_ready: bool,
    /// The mirror is available, or there is none.
    pub mirror_ready: bool,
    /// Why, in words a person can act on.
    pub description: String,
    /// Present when the declaration came from Kubernetes.
    pub kubernetes: Option<KubernetesMeta>,
}

#[cfg(test)]
mod tests {
    use super::{BadExperiment, CANDIDATES_MAX, Candidate, Experiment, Mirror};
    use crate::{ExperimentName, ModelName, PipelineName, Subject};

    fn model(name: &str) -> Subject {
        Subject::Model(ModelName::parse(name).expect("a name"))
    }

    fn experiment(default: Option<&str>, candidates: &[(&str, u32)], mirror: Option<(&str, u32)>) -> Experiment {
        let candidates = candidates.iter().map(|(name, weight)| Candidate { subject: model(name), weight: *weight });
        Experiment {
            name: ExperimentName::parse("e").expect("a name"),
            default: default.map(model),
            candidates: candidates.collect(),
            mirror: mirror.map(|(name, percent)| Mirror { subject: model(name), percent }),
            sticky_sessions: None,
            kubernetes: None,
        }
    }

    #[test]
    fn an_experiment_needs_someone_each_once_with_weight() {
        let ok = [
            experiment(Some("a"), &[("a", 50), ("b", 50)], None),
            experiment(None, &[("a", 0), ("b", 1)], Some(("c", 100))),
            experiment(None, &[], Some(("c", 0))),
        ];
        for good in ok {
            assert_eq!(good.check(), Ok(()));
        }
        let many: Vec<String> = (0..=CANDIDATES_MAX).map(|index| format!("m{index}")).collect();
        let many: Vec<(&str, u32)> = many.iter().map(|name| (name.as_str(), 1)).collect();
        let cases = [
            (experiment(Some("c"), &[("a", 1)], Some(("c", 1))), BadExperiment::DefaultIsNoCandidate(model("c"))),
            (experiment(None, &[], None), BadExperiment::Empty),
            (experiment(None, &many, None), BadExperiment::TooMany(CANDIDATES_MAX + 1)),
            (experiment(None, &[("a", 1), ("a", 1)], None), BadExperiment::Twice(model("a"))),
            (experiment(None, &[("a", 1)], Some(("a", 1))), BadExperiment::Twice(model("a"))),
            (experiment(None, &[("a", 0)], None), BadExperiment::NoWeight),
            (experiment(None, &[("a", u32::MAX), ("b", u32::MAX)], None), BadExperiment::TooHeavy(8_589_934_590)),
            (experiment(None, &[("a", 1)], Some(("b", 101))), BadExperiment::Percent(101)),
        ];
        for (bad, error) in cases {
            assert_eq!(bad.check(), Err(error));
        }
        let pipeline = Subject::Pipeline(PipelineName::parse("b").expect("a name"));
        let mut mixed = experiment(None, &[("a", 1)], Some(("b", 1)));
        mixed.mirror = Some(Mirror { subject: pipeline.clone(), percent: 1 });
        assert_eq!(mixed.check(), Err(BadExperiment::Mixed(pipeline, model("a"))));
    }
}
