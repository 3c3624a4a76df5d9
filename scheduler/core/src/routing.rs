//! What a public name leads to.
//!
//! Pure, per name; `table` holds the last published answers and is changed name by name, never as a whole (I9: the
//! table equals [`Machine::route`] for every name). Nothing of Envoy is known here.

use std::collections::BTreeMap;

use domain::{
    Backend, Endpoint, Health, MirrorBackend, ModelName, PipelineName, PlacementSet, ReplicaId, RoutableName, Route,
    Subject, Target,
};

use crate::effect::Effect;
use crate::experiment::Experiment;
use crate::machine::Machine;
use crate::model::{Model, Version};
use crate::server::Server;

/// Weights of a model's own route sum to this.
const WHOLE: u32 = 100;

/// What an experiment's names lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Split {
    /// The shares of those candidates that can take requests; absent when nobody can.
    pub(crate) route: Option<Route>,
    /// Candidates that cannot take requests.
    pub(crate) missing: Vec<Subject>,
    /// The mirror, if it cannot take requests.
    pub(crate) missing_mirror: Option<Subject>,
}

impl Machine {
    /// Where requests for the name go now.
    #[must_use]
    pub fn leads_to(&self, name: &RoutableName) -> Option<Route> {
        self.route(name, None)
    }

    /// Where requests for the name go now. `settling` is a model that is taken out of the state while it is changed.
    pub(crate) fn route(&self, name: &RoutableName, settling: Option<&Model>) -> Option<Route> {
        match name {
            RoutableName::Experiment(name) => {
                let experiment = self.experiments.get(name).filter(|experiment| experiment.is_running())?;
                self.split(experiment, settling).route
            }
            RoutableName::Model(name) => self.plain_or_split(&Subject::Model(name.clone()), settling),
            RoutableName::Pipeline(name) => self.plain_or_split(&Subject::Pipeline(name.clone()), settling),
        }
    }

    /// What a plain name leads to: the split of the experiment that it is the default of, if there is one. A candidate
    /// that cannot take requests takes nothing away from the default's plain name.
    fn plain_or_split(&self, subject: &Subject, settling: Option<&Model>) -> Option<Route> {
        let experiment = self.defaults.get(subject).and_then(|experiment| self.experiments.get(experiment));
        let Some(experiment) = experiment else { return self.plain(subject, settling) };
        let split = self.split(experiment, settling);
        if split.missing.is_empty() { split.route } else { self.plain(subject, settling) }
    }

    /// Where requests for the subject go, experiments aside.
    fn plain(&self, subject: &Subject, settling: Option<&Model>) -> Option<Route> {
        match subject {
            Subject::Model(name) => self.find(name, settling).and_then(route),
            Subject::Pipeline(name) => self.pipeline_route(name),
        }
    }

    fn pipeline_route(&self, name: &PipelineName) -> Option<Route> {
        self.pipelines.get(name).filter(|pipeline| self.takes_requests(pipeline))?;
        let backends = vec![Backend { target: Target::Pipeline(name.clone()), weight: WHOLE }];
        Some(Route { backends, mirrors: Vec::new(), log_payloads: false })
    }

    /// The shares of an experiment (`spec/control-plane.md` §2.17): each candidate's is divided again among its versions
    /// while it is in a roll-out.
    pub(crate) fn split(&self, experiment: &Experiment, settling: Option<&Model>) -> Split {
        let definition = &experiment.definition;
        let plain = |subject: &Subject| self.plain(subject, settling);
        let (mut shares, mut missing) = (Vec::new(), Vec::new());
        for candidate in &definition.candidates {
            match plain(&candidate.subject) {
                Some(route) => shares.push((candidate.weight, route)),
                None => missing.push(candidate.subject.clone()),
            }
        }
        let divided = shares.iter().any(|(_, route)| route.backends.len() > 1);
        let mut log_payloads = false;
        let mut backends = Vec::new();
        for (weight, route) in shares {
            log_payloads |= route.log_payloads;
            let share = |backend: Backend| {
                let weight = if divided { weight * backend.weight } else { weight };
                Backend { weight, ..backend }
            };
            backends.extend(route.backends.into_iter().map(share));
        }
        let mut split = Split { route: None, missing, missing_mirror: None };
        let mut mirrors = Vec::new();
        if let Some(mirror) = &definition.mirror {
            // During a roll-out of the mirror, the version that has the most of its traffic gets the copies.
            let target = plain(&mirror.subject).and_then(|route| route.backends.into_iter().max_by_key(|b| b.weight));
            match target {
                Some(Backend { target, .. }) => mirrors.push(MirrorBackend { target, percent: mirror.percent }),
                None => split.missing_mirror = Some(mirror.subject.clone()),
            }
        }
        let answers = backends.iter().any(|backend| backend.weight > 0);
        split.route = answers.then_some(Route { backends, mirrors, log_payloads });
        split
    }

    fn find<'a>(&'a self, name: &ModelName, settling: Option<&'a Model>) -> Option<&'a Model> {
        settling.filter(|model| model.name == *name).or_else(|| self.models.get(name))
    }

    /// Publishes what the names lead to now; says whether anything changed.
    pub(crate) fn publish<'a>(
        &mut self,
        names: impl IntoIterator<Item = &'a RoutableName>,
        settling: Option<&Model>,
        out: &mut Vec<Effect>,
    ) -> bool {
        let mut changed = false;
        for name in names {
            let route = self.route(name, settling);
            let servers = &self.servers;
            let endpoints = |set: &PlacementSet| endpoints(set.replicas(), servers);
            changed |= self.table.publish(name, route, endpoints, |change| out.push(Effect::Publish(change)));
        }
        changed
    }
}

/// Where requests for the model go now, experiments aside.
///
/// The latest version alone once it can take over or nothing else serves; the newest older version that serves
/// until then, sharing by the number of serving replicas with what the latest has (`spec/control-plane.md` §2.9).
#[must_use]
pub fn route(model: &Model) -> Option<Route> {
    if model.deleted {
        return None;
    }
    let (latest_number, latest) = model.versions.iter().next_back()?;
    let log_payloads = latest.definition.deployment.log_payloads;
    let backend = |number, version: &Version, weight| {
        let set = PlacementSet::new(version.serving())?;
        Some(Backend { target: Target::Model { version: model.version_id(number), set }, weight })
    };
    let new = backend(*latest_number, latest, WHOLE);
    let old = match &new {
        Some(_) if latest.can_take_over() => None,
        Some(_) | None => stable(model).and_then(|(number, version)| backend(number, version, WHOLE)),
    };
    let backends = match (old, new) {
        (None, None) => return None,
        (Some(only), None) | (None, Some(only)) => vec![only],
        (Some(mut old), Some(mut new)) => {
            let size = |backend: &Backend| backend.target.model().map_or(0, |(_, set)| set.size());
            let (old_size, new_size) = (size(&old), size(&new));
            let share = WHOLE as usize * old_size / (old_size + new_size);
            old.weight = u32::try_from(share).unwrap_or(WHOLE);
            new.weight = WHOLE - old.weight;
            vec![old, new]
        }
    };
    Some(Route { backends, mirrors: Vec::new(), log_payloads })
}

/// The older version that carries the traffic of a roll-out: the newest that has been available and still serves,
/// else the newest that serves.
pub(crate) fn stable(model: &Model) -> Option<(domain::VersionNumber, &Version)> {
    let older = || model.versions.iter().rev().skip(1).filter(|(_, version)| !version.serving().is_empty());
    let proven = older().find(|(_, version)| version.was_available);
    proven.or_else(|| older().next()).map(|(number, version)| (*number, version))
}

/// Endpoints of a set. Where no replica is well, those that are least unwell are shown as healthy: a last replica
/// keeps its traffic until another is up or it refuses connections (DESIGN §9).
#[must_use]
pub fn endpoints<'a>(
    replicas: impl Iterator<Item = &'a ReplicaId>,
    servers: &BTreeMap<domain::ServerName, Server>,
) -> Vec<Endpoint> {
    let known = replicas.filter_map(|id| {
        let replica = servers.get(&id.server)?.replicas.get(&id.index)?;
        Some(replica.endpoint(id.clone()))
    });
    let mut endpoints: Vec<Endpoint> = known.collect();
    let best = endpoints.iter().map(|endpoint| endpoint.health).min();
    for endpoint in &mut endpoints {
        if Some(endpoint.health) == best {
            endpoint.health = Health::Healthy;
        }
    }
    endpoints
}
