//! Agents that come, go, are missed and leave in good order.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use domain::{
    Bytes, Clock, Input, Lifecycle, ModelName, ModelVersionId, ReplicaConfig, ReplicaId, ReplicaIndex, Ticket, Time,
    VersionNumber,
};

use crate::effect::{Effect, Refusal};
use crate::event::{ConnectionId, HeldModel, Timer};
use crate::few::Few;
use crate::machine::{Freed, Machine};
use crate::model::{Assignment, Model, Version};
use crate::server::{Link, Replica, Server};

/// What an agent says when it subscribes.
pub(crate) struct Arrival {
    pub(crate) connection: ConnectionId,
    pub(crate) shared: bool,
    pub(crate) config: ReplicaConfig,
    pub(crate) held: Vec<HeldModel>,
    pub(crate) available: Bytes,
}

impl Machine {
    /// An agent subscribed: it is there, it is not draining, and what it holds is what it says.
    pub(crate) fn agent_connected(&mut self, id: &ReplicaId, arrival: Arrival, now: Time, out: &mut Vec<Effect>) {
        let Arrival { connection, shared, config, held, available } = arrival;
        let holds: BTreeMap<(ModelName, VersionNumber), HeldModel> =
            held.into_iter().map(|held| ((held.definition.name.clone(), held.number), held)).collect();
        let missing = self.loaded_on(id, |version| !holds.contains_key(&(version.model.clone(), version.number)));
        let server = self.servers.entry(id.server.clone()).or_insert_with(|| Server {
            name: id.server.clone(),
            shared,
            bounds: None,
            replicas: BTreeMap::new(),
        });
        server.shared = shared;
        let link = Link::Connected(connection);
        let catching_up = !missing.is_empty();
        server.replicas.insert(id.index, Replica { config, available, draining: false, catching_up, link });
        self.missing.remove(id);
        if catching_up {
            self.missing.insert(id.clone(), missing);
        }
        self.gone.remove(id);
        self.finish_drain(id, out);
        self.write_server(&id.server, out);
        self.publish_replica(id, out);

        let mut names = self.models_on(id);
        names.extend(holds.keys().map(|(name, _)| name.clone()));
        for name in names {
            let mine = holds.iter().filter(|((model, _), _)| *model == name).map(|((_, number), held)| (*number, held));
            let mine: BTreeMap<VersionNumber, &HeldModel> = mine.collect();
            if self.models.contains_key(&name) {
                self.change(&name, now, out, |model| reconcile(model, id, &mine, now));
            } else if let Some((number, held)) = mine.first_key_value() {
                // The agent knows a model that the store does not: it is taken over as the agent describes it.
                let mut model = Model {
                    name: name.clone(),
                    deleted: false,
                    terminated_at: None,
                    clock: Clock(0),
                    versions: Few::from([(*number, Version::new(held.definition.clone(), now))]),
                };
                reconcile(&mut model, id, &mine, now);
                self.add(model, now, out);
            }
        }
        self.free(Freed::Server(id.server.clone()));
        self.advance_sync(out);
        self.tell_server(&id.server, out);
    }

    /// Versions that are loaded on the replica as far as is known, and that `wanted` takes.
    fn loaded_on(&self, id: &ReplicaId, wanted: impl Fn(&ModelVersionId) -> bool) -> BTreeSet<ModelVersionId> {
        let residents = self.residents.get(id).into_iter().flat_map(|residents| &residents.versions);
        residents.filter(|version| wanted(version) && self.is_loaded(version, id)).cloned().collect()
    }

    fn is_loaded(&self, version: &ModelVersionId, id: &ReplicaId) -> bool {
        let version = self.models.get(&version.model).and_then(|model| model.versions.get(&version.number));
        let here = version.filter(|version| version.server.as_ref() == Some(&id.server));
        here.and_then(|version| version.assignments.get(&id.index)).is_some_and(Assignment::is_loaded)
    }

    /// Lets a replica that came back empty be healthy once no Envoy can send it requests for what it does not hold:
    /// each missing version is loaded again, or every Envoy has let go of the routes that led there.
    pub(crate) fn advance_catching_up(&mut self, touched: &BTreeSet<ModelName>, out: &mut Vec<Effect>) {
        let mut waiting = std::mem::take(&mut self.missing);
        waiting.retain(|id, versions| {
            for model in touched {
                let mine: Vec<ModelVersionId> = versions.range(versions_of(model)).cloned().collect();
                for version in mine.iter().filter(|version| !self.is_missed(version, id)) {
                    versions.remove(version);
                }
            }
            if versions.is_empty() {
                let server = self.servers.get_mut(&id.server);
                if let Some(replica) = server.and_then(|server| server.replicas.get_mut(&id.index)) {
                    replica.catching_up = false;
                }
                self.publish_replica(id, out);
            }
            !versions.is_empty()
        });
        self.missing = waiting;
    }

    /// An Envoy may send requests for the version to the replica, which does not hold it.
    fn is_missed(&self, version: &ModelVersionId, id: &ReplicaId) -> bool {
        let mut published = self.table.reaching(&version.model);
        published.any(|(_, published)| !published.is_released()) && !self.is_loaded(version, id)
    }

    /// An agent's stream ended: no new requests at once, other places after a grace period.
    pub(crate) fn agent_disconnected(
        &mut self,
        id: &ReplicaId,
        connection: ConnectionId,
        now: Time,
        out: &mut Vec<Effect>,
    ) {
        let replica = self.servers.get_mut(&id.server).and_then(|server| server.replicas.get_mut(&id.index));
        let Some(replica) = replica.filter(|replica| replica.link == Link::Connected(connection)) else { return };
        replica.link = Link::Lost;
        replica.catching_up = false;
        self.missing.remove(id);
        let was_draining = replica.draining;
        for name in self.models_on(id) {
            self.change(&name, now, out, |model| {
                each_assignment(model, id, |a| {
                    a.apply(Input::CommandLost, now);
                })
            });
        }
        self.publish_replica(id, out);
        self.tell_server(&id.server, out);
        if was_draining || self.settings.agent_grace_ms == 0 {
            self.agent_grace_over(id, now, out);
        } else {
            out.push(Effect::Wake(now.after(self.settings.agent_grace_ms), Timer::AgentGrace(id.clone())));
        }
    }

    /// A lost agent did not come back in time: its models are placed elsewhere, and what nobody else serves stays
    /// routed as a last resort.
    pub(crate) fn agent_grace_over(&mut self, id: &ReplicaId, now: Time, out: &mut Vec<Effect>) {
        let Some(server) = self.servers.get_mut(&id.server) else { return };
        let Some(replica) = server.replicas.get_mut(&id.index) else { return };
        if !matches!(replica.link, Link::Lost | Link::Unseen) {
            return;
        }
        replica.link = Link::Gone;
        self.finish_drain(id, out);
        self.publish_replica(id, out);
        for name in self.models_on(id) {
            self.change(&name, now, out, |model| {
                each_assignment(model, id, |assignment| {
                    if assignment.lifecycle.is_serving() {
                        assignment.apply(Input::Drain, now);
                    } else if assignment.lifecycle != Lifecycle::Draining {
                        assignment.apply(Input::ReplicaGone, now);
                    }
                })
            });
        }
        self.gone.insert(id.clone());
        self.write_server(&id.server, out);
        self.free(Freed::Everything);
    }

    /// Removes the records of replicas that are gone and hold nothing any more.
    pub(crate) fn forget_empty_replicas(&mut self, out: &mut Vec<Effect>) {
        let empty: Vec<ReplicaId> = self.gone.iter().filter(|id| !self.residents.contains_key(*id)).cloned().collect();
        for id in empty {
            self.gone.remove(&id);
            if let Some(server) = self.servers.get_mut(&id.server) {
                server.replicas.remove(&id.index);
            }
            self.write_server(&id.server, out);
            self.publish_replica(&id, out);
        }
    }

    /// A replica wants to leave: its models are placed elsewhere first.
    pub(crate) fn drain_replica(&mut self, id: &ReplicaId, ticket: Ticket, now: Time, out: &mut Vec<Effect>) {
        let replica = self.servers.get_mut(&id.server).and_then(|server| server.replicas.get_mut(&id.index));
        let Some(replica) = replica else {
            out.push(Effect::Reply(ticket, Err(Refusal::UnknownServer(id.server.clone()))));
            return;
        };
        let is_new = !replica.draining;
        replica.draining = true;
        self.drains.entry(id.clone()).or_default().tickets.push(ticket);
        if is_new {
            out.push(Effect::Wake(now.after(self.settings.drain_limit_ms), Timer::DrainLimit(id.clone())));
            self.write_server(&id.server, out);
            for name in self.models_on(id) {
                self.change(&name, now, out, |model| {
                    each_assignment(model, id, |assignment| {
                        assignment.apply(Input::Drain, now);
                    })
                });
            }
            self.publish_replica(id, out);
            self.free(Freed::Everything);
        }
    }

    /// Tells those who wait for a drain when nothing is left that could still move. Looks at what was touched, and once
    /// at everything on a replica.
    pub(crate) fn advance_drains(&mut self, touched: &BTreeSet<ModelName>, out: &mut Vec<Effect>) {
        let mut drains = std::mem::take(&mut self.drains);
        for (id, drain) in &mut drains {
            let all = (!drain.is_begun).then(|| self.models_on(id));
            drain.is_begun = true;
            for name in all.as_ref().unwrap_or(touched) {
                if self.models.get(name).is_some_and(|model| moves(model, id)) {
                    drain.moving.insert(name.clone());
                } else {
                    drain.moving.remove(name);
                }
            }
        }
        let over: Vec<ReplicaId> =
            drains.iter().filter(|(_, drain)| drain.moving.is_empty()).map(|(id, _)| id.clone()).collect();
        self.drains = drains;
        for id in over {
            self.finish_drain(&id, out);
        }
    }

    /// Tells those who wait for a drain that it is over.
    pub(crate) fn finish_drain(&mut self, id: &ReplicaId, out: &mut Vec<Effect>) {
        for ticket in self.drains.remove(id).unwrap_or_default().tickets {
            out.push(Effect::Reply(ticket, Ok(())));
        }
    }
}

/// Every version that the model can have.
fn versions_of(model: &ModelName) -> RangeInclusive<ModelVersionId> {
    let version = |number| ModelVersionId { model: model.clone(), number: VersionNumber(number) };
    version(0)..=version(u32::MAX)
}

/// Whether something of the model on the draining replica can still move away.
fn moves(model: &Model, id: &ReplicaId) -> bool {
    model.versions.values().any(|version| {
        let here = (version.server.as_ref() == Some(&id.server)).then(|| version.assignments.get(&id.index)).flatten();
        match here.map(|assignment| assignment.lifecycle) {
            // It goes once another replica serves. Without one, and with none coming, it cannot move.
            Some(Lifecycle::Draining) => {
                let others = |number: &Version| number.count(|l| l.is_wanted()) > 0;
                others(version) || model.latest().is_some_and(others)
            }
            Some(lifecycle) => !lifecycle.is_over(),
            None => false,
        }
    })
}

/// Brings the model in line with what the agent says it holds of it.
fn reconcile(model: &mut Model, id: &ReplicaId, held: &BTreeMap<VersionNumber, &HeldModel>, now: Time) {
    for (number, held) in held {
        let version = model.versions.get_or_insert_with(*number, || Version::new(held.definition.clone(), now));
        version.runtime = version.runtime.or(held.runtime);
        let elsewhere = version.server.as_ref().is_some_and(|server| *server != id.server);
        if elsewhere && version.assignments.values().any(|assignment| !assignment.lifecycle.is_over()) {
            continue;
        }
        if version.server.as_ref() != Some(&id.server) {
            version.server = Some(id.server.clone());
            version.assignments.clear();
        }
        version.assignments.get_or_insert_with(id.index, || Assignment::requested(now));
    }
    for (number, version) in &mut model.versions {
        if version.server.as_ref() != Some(&id.server) {
            continue;
        }
        let Some(assignment) = version.assignments.get_mut(&id.index) else { continue };
        assignment.apply(Input::CommandLost, now);
        let input = if held.contains_key(number) { Input::AgentHas } else { Input::AgentLacks };
        if input == Input::AgentHas && assignment.lifecycle == Lifecycle::Draining {
            assignment.apply(Input::Place, now); // it has come back from a drain or from the dead
        }
        assignment.apply(input, now);
        assignment.reserves = assignment.lifecycle.is_arriving(); // the rest is in what it just reported as free
    }
}

fn each_assignment(model: &mut Model, id: &ReplicaId, mut act: impl FnMut(&mut Assignment)) {
    for version in model.versions.values_mut() {
        if version.server.as_ref() == Some(&id.server)
            && let Some(assignment) = version.assignments.get_mut(&ReplicaIndex(id.index.0))
        {
            act(assignment);
        }
    }
}
