//! Brings one model to rest after something changed: places its latest version, retires older ones, publishes its
//! route, follows what Envoys have applied, and sends what agents have to be told.
//!
//! Work is proportional to the model's versions and the servers' replicas, never to the number of models.

use std::collections::{BTreeMap, BTreeSet};

use domain::{
    Bytes, Input, Lifecycle, ModelName, ModelVersionStatus, ReplicaId, ReplicaIndex, RoutableName, ServerName, Subject,
    Time, VersionNumber,
};

use crate::effect::{Action, Command, Effect, Record, Status, declared};
use crate::event::Timer;
use crate::machine::{Freed, Machine};
use crate::model::{Assignment, Model, Version};
use crate::placement::{Candidate, Placement, Problem, ServerCandidate, Shortfall, place};
use crate::scaling::Occasion;
use crate::server::Link;
use crate::table::Published;

/// Steps until a model must be at rest: each step moves assignments along the lifecycle, which has fewer states.
const MAX_STEPS: usize = 32;

/// Versions kept for listing when nothing is left of the older ones.
const VERSIONS_KEPT: usize = 10;

/// Whether a version that failed on a replica is tried there again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Retry {
    /// It is not: nothing changed for it.
    Nothing,
    /// It is: something changed that may help.
    Failed,
}

impl Machine {
    /// Brings the model to rest without trying failed replicas again.
    pub(crate) fn settle(&mut self, name: &ModelName, now: Time, out: &mut Vec<Effect>) {
        self.settle_with(name, Retry::Nothing, now, out);
    }

    /// Brings the model to rest.
    pub(crate) fn settle_with(&mut self, name: &ModelName, retry: Retry, now: Time, out: &mut Vec<Effect>) {
        self.unindex(name);
        let Some(mut model) = self.models.remove(name) else { return };
        let before = model.clone();
        self.rest(&mut model, retry, now, out);
        self.put_back(model, &before, now, out);
    }

    /// Changes the model and brings it to rest.
    pub(crate) fn change(&mut self, name: &ModelName, now: Time, out: &mut Vec<Effect>, edit: impl FnOnce(&mut Model)) {
        self.unindex(name);
        let Some(mut model) = self.models.remove(name) else { return };
        let before = model.clone();
        edit(&mut model);
        self.rest(&mut model, Retry::Nothing, now, out);
        self.put_back(model, &before, now, out);
    }

    /// Adds a model that is not known yet and brings it to rest.
    pub(crate) fn add(&mut self, mut model: Model, now: Time, out: &mut Vec<Effect>) {
        let name = model.name.clone();
        out.push(declared(RoutableName::Model(name.clone()), true));
        self.rest(&mut model, Retry::Nothing, now, out);
        out.push(Effect::Write(Record::Model(Box::new(model.clone()))));
        self.models.insert(name.clone(), model);
        self.index(&name);
        self.tell_model(&name, None, out);
    }

    fn put_back(&mut self, model: Model, before: &Model, now: Time, out: &mut Vec<Effect>) {
        let name = model.name.clone();
        if model == *before {
            self.models.insert(name.clone(), model);
            return self.index(&name);
        }
        out.push(Effect::Write(Record::Model(Box::new(model.clone()))));
        if model.terminated_at.is_some() && before.terminated_at.is_none() {
            out.push(Effect::Wake(now.after(self.settings.terminated_ttl_ms), Timer::Forget(name.clone())));
        }
        let reserved = reservations(&model);
        for (replica, memory) in reservations(before) {
            if reserved.get(&replica).is_none_or(|still| *still < memory) {
                self.free(Freed::Memory(replica));
            }
        }
        for (replica, _) in ended(&model).difference(&ended(before)) {
            self.resize(&replica.server, Occasion::Emptied);
        }
        let told = self.latest_status(before);
        self.models.insert(name.clone(), model);
        self.index(&name);
        self.tell_model(&name, told, out);
    }

    /// Tells about the model if there is news, and asks for a larger server if it is short of replicas.
    fn tell_model(&mut self, name: &ModelName, told: Option<ModelVersionStatus>, out: &mut Vec<Effect>) {
        let Some(model) = self.models.get(name) else { return };
        if let Some((server, _)) = model.wish()
            && model.latest().is_some_and(|latest| !latest.shortfall.is_empty())
        {
            self.resize(&server.clone(), Occasion::Short);
        }
        let Some(status) = self.model_status(name) else { return };
        if told.as_ref() != Some(&status) {
            out.push(Effect::Notify(Status::Model(name.clone(), Box::new(status))));
        }
        self.tell_experiments_of(&Subject::Model(name.clone()), out);
        self.tell_pipelines_of(name, out);
    }

    fn rest(&mut self, model: &mut Model, mut retry: Retry, now: Time, out: &mut Vec<Effect>) {
        let names = self.names_of(&Subject::Model(model.name.clone()));
        for step in 0.. {
            debug_assert!(step < MAX_STEPS, "model {} does not come to rest", model.name);
            let before = model.clone();
            self.plan(model, retry, now);
            retire(model, now);
            let published = self.publish(&names, Some(model), out);
            self.follow(model, now);
            self.dispatch(model, now, out);
            for version in model.versions.values_mut() {
                version.was_available |= version.can_take_over();
            }
            retry = Retry::Nothing;
            if (*model == before && !published) || step >= MAX_STEPS {
                break;
            }
        }
        prune(model);
        // An agent that comes back with a removed model brings it back for as long as it takes to unload it again.
        match (model.deleted && model.remaining() == 0, model.terminated_at) {
            (true, None) => model.terminated_at = Some(now),
            (false, Some(_)) => model.terminated_at = None,
            (true, Some(_)) | (false, None) => {}
        }
    }

    /// Places the latest version, or takes everything away when the model is being removed.
    fn plan(&self, model: &mut Model, retry: Retry, now: Time) {
        if model.deleted {
            for version in model.versions.values_mut() {
                version.shortfall.clear();
                leave_all(version, now);
            }
            return;
        }
        if let Some(waits) = self.waits_for() {
            if let Some(latest) = model.versions.values_mut().next_back() {
                latest.shortfall = waits;
            }
            return;
        }
        let Some((number, latest)) = model.versions.iter().next_back() else { return };
        let (number, problem) = (*number, Problem::of(latest));
        let placement = place(&problem, &self.candidates(model, number, retry));
        let moves = match (&latest.server, &placement.server) {
            (Some(from), Some(to)) => from != to && latest.assignments.values().any(|a| !a.lifecycle.is_over()),
            (_, _) => false,
        };
        if moves {
            // A move between servers is a roll-out of its own: the old place serves until the new one does.
            let copy = Version::new(latest.definition.clone(), now);
            model.versions.insert(number.next(), copy);
            return;
        }
        if let Some(latest) = model.versions.get_mut(&number) {
            assign(latest, placement, problem.replicas, retry, now);
        }
    }

    /// Every server as placement sees it for one version of the model. The model itself is not in the index now.
    fn candidates(&self, model: &Model, number: VersionNumber, retry: Retry) -> Vec<ServerCandidate> {
        let Some(version) = model.versions.get(&number) else { return Vec::new() };
        let mut arriving: BTreeMap<ReplicaId, Bytes> = BTreeMap::new();
        for (_, theirs) in model.versions.iter().filter(|(other, _)| **other != number) {
            for index in theirs.assignments.iter().filter(|(_, a)| a.reserves).map(|(index, _)| index) {
                if let Some(server) = &theirs.server {
                    let id = ReplicaId { server: server.clone(), index: *index };
                    *arriving.entry(id).or_default() += theirs.memory();
                }
            }
        }
        let candidate = |server: &ServerName, index: ReplicaIndex, replica: &crate::server::Replica| {
            let id = ReplicaId { server: server.clone(), index };
            let others = self.residents.get(&id).map(|r| r.reserved).unwrap_or_default();
            let own = arriving.get(&id).copied().unwrap_or_default();
            let here = (version.server.as_ref() == Some(server)).then(|| version.assignments.get(&index)).flatten();
            let lifecycle = here.map(|assignment| assignment.lifecycle);
            Candidate {
                index,
                holds: lifecycle
                    .is_some_and(|l| l.is_wanted() || (l == Lifecycle::LoadFailed && retry == Retry::Nothing)),
                open: replica.takes_models(),
                may_stay: replica.keeps_models(),
                free: replica.available.saturating_sub(others + own),
                capabilities: replica.config.capabilities.clone(),
            }
        };
        self.servers
            .values()
            .map(|server| ServerCandidate {
                name: server.name.clone(),
                shared: server.shared,
                scaled_to_zero: server.is_scaled_to_zero(),
                replicas: server.replicas.iter().map(|(index, r)| candidate(&server.name, *index, r)).collect(),
            })
            .collect()
    }

    /// Moves assignments on that waited for Envoy.
    fn follow(&self, model: &mut Model, now: Time) {
        let own = self.table.get(&RoutableName::Model(model.name.clone()));
        let applied = own.is_some_and(Published::is_applied);
        let rejection = own.and_then(Published::rejection);
        let mut released = true;
        let (mut routed, mut own_routed) = (BTreeSet::new(), BTreeSet::new());
        for (name, published) in self.table.reaching(&model.name) {
            released &= published.is_released();
            let versions = published.route.iter().flat_map(|route| route.versions());
            for (version, set) in versions.filter(|(version, _)| version.model == model.name) {
                let here = || set.replicas().map(|id| (version.number, id.clone()));
                routed.extend(here());
                if matches!(name, RoutableName::Model(own) if *own == model.name) {
                    own_routed.extend(here());
                }
            }
        }
        for (number, version) in &mut model.versions {
            let Some(server) = version.server.clone() else { continue };
            for (index, assignment) in &mut version.assignments {
                let here = (*number, ReplicaId { server: server.clone(), index: *index });
                let in_route = own_routed.contains(&here);
                if let (true, Some(message)) = (in_route, rejection) {
                    assignment.apply(Input::RouteRejected, now);
                    // It may have been refused before, for another reason.
                    if assignment.lifecycle == Lifecycle::LoadedUnavailable && assignment.reason != message {
                        message.clone_into(&mut assignment.reason);
                    }
                } else if in_route && applied {
                    assignment.apply(Input::RouteApplied, now);
                } else if !routed.contains(&here) && released {
                    assignment.apply(Input::RouteReleased, now);
                }
            }
        }
    }

    /// Sends what is waiting to be sent to agents that are there.
    fn dispatch(&self, model: &mut Model, now: Time, out: &mut Vec<Effect>) {
        let name = model.name.clone();
        for (number, version) in &mut model.versions {
            let Some(server) = version.server.clone() else { continue };
            for (index, assignment) in &mut version.assignments {
                let action = match assignment.lifecycle {
                    Lifecycle::LoadRequested => Action::Load,
                    Lifecycle::UnloadRequested => Action::Unload,
                    _ => continue,
                };
                let link = self.servers.get(&server).and_then(|s| s.replicas.get(index)).map(|replica| replica.link);
                let connection = match link {
                    Some(Link::Connected(connection)) => connection,
                    Some(Link::Unseen | Link::Lost) => continue,
                    Some(Link::Gone) | None => {
                        assignment.apply(Input::ReplicaGone, now);
                        continue;
                    }
                };
                model.clock = model.clock.next();
                assignment.clock = model.clock;
                assignment.apply(Input::CommandSent, now);
                out.push(Effect::Send {
                    replica: ReplicaId { server: server.clone(), index: *index },
                    connection,
                    command: Box::new(Command {
                        clock: model.clock,
                        version: domain::ModelVersionId { model: name.clone(), number: *number },
                        definition: version.definition.clone(),
                        runtime: version.runtime,
                        action,
                    }),
                });
            }
        }
    }
}

impl Assignment {
    /// A new assignment of a version to a replica.
    pub(crate) fn requested(now: Time) -> Self {
        let (lifecycle, clock) = (Lifecycle::LoadRequested, domain::Clock(0));
        Self { lifecycle, clock, reserves: true, reason: String::new(), changed_at: now }
    }

    /// Moves along the lifecycle if the input applies; says whether it did.
    pub(crate) fn apply(&mut self, input: Input, now: Time) -> bool {
        let Some(next) = self.lifecycle.next(input) else { return false };
        self.lifecycle = next;
        // A load that was called off may still go on at the agent until it confirms the unload.
        self.reserves = next.is_arriving() || (self.reserves && next.is_leaving());
        self.reason.clear();
        self.changed_at = now;
        true
    }
}

/// Memory that replicas keep for the model.
fn reservations(model: &Model) -> BTreeMap<ReplicaId, Bytes> {
    let mut reserved = BTreeMap::new();
    for (replica, _, version, _) in assignments(model).filter(|(_, _, _, assignment)| assignment.reserves) {
        *reserved.entry(replica).or_default() += version.memory();
    }
    reserved
}

/// Replicas that have let go of a version of the model or could not load it.
fn ended(model: &Model) -> BTreeSet<(ReplicaId, VersionNumber)> {
    let is_over = |a: &Assignment| matches!(a.lifecycle, Lifecycle::Unloaded | Lifecycle::LoadFailed);
    let ended = assignments(model).filter(|(_, _, _, assignment)| is_over(assignment));
    ended.map(|(replica, number, _, _)| (replica, number)).collect()
}

fn assignments(model: &Model) -> impl Iterator<Item = (ReplicaId, VersionNumber, &Version, &Assignment)> {
    let versions =
        model.versions.iter().filter_map(|(number, version)| Some((number, version.server.as_ref()?, version)));
    versions.flat_map(|(number, server, version)| {
        let those = version.assignments.iter();
        those.map(move |(index, a)| (ReplicaId { server: server.clone(), index: *index }, *number, version, a))
    })
}

/// Moves the version's assignments to where the placement wants them.
fn assign(version: &mut Version, placement: Placement, wished: u32, retry: Retry, now: Time) {
    version.shortfall = placement.shortfall.as_ref().map(ToString::to_string).unwrap_or_default();
    version.short_of_memory = placement.shortfall.as_ref().is_some_and(Shortfall::is_of_memory);
    if wished == 0 {
        return leave_all(version, now);
    }
    if placement.server.is_none() {
        // No place at all: what works goes on working (I10).
        release_drained(version, now);
        if version.assignments.values().all(|assignment| assignment.lifecycle.is_over()) {
            version.server = None;
            version.assignments.clear();
        }
        return;
    }
    if placement.server.is_some() && placement.server != version.server {
        version.server.clone_from(&placement.server);
        version.assignments.clear();
    }
    for index in &placement.replicas {
        let assignment = version.assignments.get_or_insert_with(*index, || Assignment::requested(now));
        if assignment.lifecycle != Lifecycle::LoadFailed || retry == Retry::Failed {
            assignment.apply(Input::Place, now);
        }
    }
    for (index, assignment) in &mut version.assignments {
        let is_chosen = placement.replicas.contains(index);
        if !is_chosen && assignment.lifecycle != Lifecycle::Draining {
            assignment.apply(Input::Leave, now);
        }
    }
    release_drained(version, now);
}

/// Lets draining replicas go once another one is available and none is still arriving.
fn release_drained(version: &mut Version, now: Time) {
    let replaced = version.count(|l| l == Lifecycle::Available) > 0 && version.count(Lifecycle::is_arriving) == 0;
    if replaced {
        for assignment in version.assignments.values_mut().filter(|a| a.lifecycle == Lifecycle::Draining) {
            assignment.apply(Input::Leave, now);
        }
    }
}

/// Takes older versions away once the latest one carries the traffic.
fn retire(model: &mut Model, now: Time) {
    let latest = model.latest_number();
    let takes_over = model.latest().is_some_and(|version| version.can_take_over() || version_is_wished_away(version));
    if model.deleted || !takes_over {
        for (_, version) in model.versions.iter_mut().filter(|(number, _)| **number != latest) {
            version.shortfall.clear();
            release_drained(version, now);
        }
        return;
    }
    for (_, version) in model.versions.iter_mut().filter(|(number, _)| **number != latest) {
        version.shortfall.clear();
        leave_all(version, now);
    }
}

/// The user wants no replica of it: nothing older shall answer in its place.
fn version_is_wished_away(version: &Version) -> bool {
    version.definition.deployment.replicas == 0
}

fn leave_all(version: &mut Version, now: Time) {
    for assignment in version.assignments.values_mut() {
        assignment.apply(Input::Leave, now);
    }
}

/// Drops the oldest versions of which nothing is left, beyond those that are kept for listing.
fn prune(model: &mut Model) {
    while model.versions.len() > VERSIONS_KEPT {
        let Some((oldest, version)) = model.versions.iter().next() else { return };
        if version.assignments.values().any(|assignment| !assignment.lifecycle.is_over()) {
            return;
        }
        let oldest = *oldest;
        model.versions.remove(&oldest);
    }
}
