//! What a public name leads to: our own words, before anything of Envoy.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use crate::{ModelVersionId, PipelineName, ReplicaId};

/// Where requests for one routable name go. It has at least one backend, no version twice among the backends, and each
/// set has at least one replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// One backend, or several that share the traffic by weight (two versions during a roll-out, the candidates of an
    /// experiment).
    pub backends: Vec<Backend>,
    /// Who gets copies of the requests.
    pub mirrors: Vec<MirrorBackend>,
    /// Payloads are logged.
    pub log_payloads: bool,
}

/// A share of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// What answers.
    pub target: Target,
    /// Share among the weights of the route; they sum to more than 0 and fit 32 bits. 0 = reached only by a client that
    /// asks for it.
    pub weight: u32,
}

/// Someone who gets copies of a route's requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirrorBackend {
    /// What gets them.
    pub target: Target,
    /// Share of the requests that are copied, 0 to 100.
    pub percent: u32,
}

/// What a share of a route leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A version of a model.
    Model {
        /// Which version.
        version: ModelVersionId,
        /// Where it is loaded.
        set: PlacementSet,
    },
    /// A pipeline, through the pipeline gateways.
    Pipeline(PipelineName),
}

impl Target {
    /// Its name on the wire: `<model>_<version>` or `<pipeline>.pipeline`.
    #[must_use]
    pub fn internal_name(&self) -> String {
        match self {
            Target::Model { version, .. } => version.internal_name(),
            Target::Pipeline(name) => format!("{name}.pipeline"),
        }
    }

    /// The version and where it is loaded, if it is a model.
    #[must_use]
    pub fn model(&self) -> Option<(&ModelVersionId, &PlacementSet)> {
        match self {
            Target::Model { version, set } => Some((version, set)),
            Target::Pipeline(_) => None,
        }
    }

    /// Where it is loaded, if it is a model.
    pub fn set_mut(&mut self) -> Option<&mut PlacementSet> {
        match self {
            Target::Model { set, .. } => Some(set),
            Target::Pipeline(_) => None,
        }
    }
}

impl Route {
    /// The sets it leads to, those of mirrors included.
    pub fn sets(&self) -> impl Iterator<Item = &PlacementSet> {
        self.versions().map(|(_, set)| set)
    }

    /// The versions it leads to with their sets, those of mirrors included.
    pub fn versions(&self) -> impl Iterator<Item = (&ModelVersionId, &PlacementSet)> {
        self.targets().filter_map(Target::model)
    }

    /// Everything it leads to, mirrors included.
    pub fn targets(&self) -> impl Iterator<Item = &Target> {
        let backends = self.backends.iter().map(|backend| &backend.target);
        backends.chain(self.mirrors.iter().map(|mirror| &mirror.target))
    }
}

/// The replicas that serve a version, in order and each once. Everything that runs on the same replicas shares one set,
/// and so one Envoy cluster. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PlacementSet(Arc<[ReplicaId]>);

impl PlacementSet {
    /// The set of these replicas; `None` when there are none.
    #[must_use]
    pub fn new(replicas: BTreeSet<ReplicaId>) -> Option<Self> {
        (!replicas.is_empty()).then(|| Self(replicas.into_iter().collect()))
    }

    /// Its replicas, in order.
    pub fn replicas(&self) -> impl Iterator<Item = &ReplicaId> {
        self.0.iter()
    }

    /// How many replicas it has; never 0.
    #[must_use]
    pub fn size(&self) -> usize {
        self.0.len()
    }

    /// Whether the replica is one of it.
    #[must_use]
    pub fn contains(&self, replica: &ReplicaId) -> bool {
        self.0.binary_search(replica).is_ok()
    }
}

impl fmt::Display for PlacementSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, replica) in self.0.iter().enumerate() {
            let separator = if position == 0 { "" } else { "," };
            write!(f, "{separator}{replica}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for PlacementSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}
