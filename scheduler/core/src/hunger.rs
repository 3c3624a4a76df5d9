//! Models that want more than they have, found by what would help them, so that a little memory that becomes free does
//! not cost a look at every model that waits for something else.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use domain::{Bytes, ModelName, ReplicaId, ServerName};

use crate::model::{Model, is_failed};
use crate::placement::Problem;
use crate::server::Server;

/// What a place must offer whatever its memory. Few of these are distinct, however many models there are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Class {
    requirements: BTreeSet<String>,
    is_explainer: bool,
    server: Option<ServerName>,
}

/// The hungry models.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hunger {
    classes: BTreeMap<Arc<Class>, Waiting>,
    places: BTreeMap<ModelName, Place>,
}

/// Hungry models of one class.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Waiting {
    /// Those that memory alone would help, by what one more replica needs.
    for_memory: BTreeSet<(Bytes, ModelName)>,
    /// The others.
    for_more: BTreeSet<ModelName>,
}

/// Where a model waits.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    class: Arc<Class>,
    memory: Option<Bytes>,
}

/// Something that may let hungry models get more.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Freed {
    /// Anything may be possible now, and what failed is tried again.
    Everything,
    /// The server has a replica more that takes models; what failed is tried again.
    Server(ServerName),
    /// Memory of a replica.
    Memory(ReplicaId),
}

impl Class {
    fn of(problem: &Problem) -> Self {
        let Problem { requirements, is_explainer, server, .. } = problem;
        Self { requirements: requirements.clone(), is_explainer: *is_explainer, server: server.clone() }
    }

    /// Whether the server could be a place, judged by what the class asks for.
    fn fits(&self, server: &Server) -> bool {
        let is_allowed = self.server.as_ref().map_or(server.shared, |wanted| *wanted == server.name);
        let problem = Problem {
            replicas: 1,
            memory: Bytes(0),
            requirements: self.requirements.clone(),
            is_explainer: self.is_explainer,
            server: None,
        };
        let offers = |capabilities: &BTreeSet<String>| problem.lacks(capabilities).is_empty();
        is_allowed && server.replicas.values().any(|replica| offers(&replica.config.capabilities))
    }
}

impl Hunger {
    /// Notes whether the model is hungry, and for what.
    pub(crate) fn note(&mut self, model: &Model) {
        self.forget(&model.name);
        let Some(latest) = model.latest().filter(|_| !model.deleted) else { return };
        if latest.shortfall.is_empty() && latest.count(is_failed) == 0 {
            return;
        }
        let class = Class::of(&Problem::of(latest));
        let class = self.classes.get_key_value(&class).map_or_else(|| Arc::new(class), |(known, _)| known.clone());
        let waiting = self.classes.entry(class.clone()).or_default();
        let memory = latest.short_of_memory.then(|| latest.memory());
        match memory {
            Some(memory) => waiting.for_memory.insert((memory, model.name.clone())),
            None => waiting.for_more.insert(model.name.clone()),
        };
        self.places.insert(model.name.clone(), Place { class, memory });
    }

    /// The model is not hungry any more.
    pub(crate) fn forget(&mut self, name: &ModelName) {
        let Some(Place { class, memory }) = self.places.remove(name) else { return };
        let Some(waiting) = self.classes.get_mut(&class) else { return };
        match memory {
            Some(memory) => waiting.for_memory.remove(&(memory, name.clone())),
            None => waiting.for_more.remove(name),
        };
        if waiting.for_memory.is_empty() && waiting.for_more.is_empty() {
            self.classes.remove(&class);
        }
    }

    /// Every hungry model, those that need little first.
    pub(crate) fn all(&self) -> Vec<ModelName> {
        self.classes.values().flat_map(Waiting::by_need).collect()
    }

    /// Those that the server could help, those that need little first.
    pub(crate) fn for_server(&self, server: &Server) -> Vec<ModelName> {
        let fitting = self.classes.iter().filter(|(class, _)| class.fits(server));
        fitting.flat_map(|(_, waiting)| waiting.by_need()).collect()
    }

    /// Classes whose models memory on the server may help.
    pub(crate) fn classes_for(&self, server: &Server) -> Vec<Arc<Class>> {
        let waiting = self.classes.iter().filter(|(_, waiting)| !waiting.for_memory.is_empty());
        waiting.filter(|(class, _)| class.fits(server)).map(|(class, _)| class.clone()).collect()
    }

    /// The model of the class that needs least, after one that was looked at.
    pub(crate) fn next(&self, class: &Class, after: Option<&(Bytes, ModelName)>) -> Option<(Bytes, ModelName)> {
        let waiting = &self.classes.get(class)?.for_memory;
        let next = match after {
            Some(last) => waiting.range((Bound::Excluded(last), Bound::Unbounded)).next(),
            None => waiting.first(),
        };
        next.cloned()
    }
}

impl Waiting {
    fn by_need(&self) -> impl Iterator<Item = ModelName> + '_ {
        self.for_memory.iter().map(|(_, name)| name).chain(&self.for_more).cloned()
    }
}
