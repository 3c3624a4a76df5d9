//! Laws about histories, checked while they happen: what no state alone can tell.

use std::collections::{BTreeMap, BTreeSet};

use domain::{
    Clock, ExperimentName, Lifecycle, ModelName, ModelVersionStatus, PlacementSet, ReplicaId, RoutableName, Ticket,
};
use scheduler_core::{Action, Effect, Event, Link, Machine, RouteChange, ScalingRequest, Server, Status, Timer};

use super::EnvoyRoute;

/// What was seen so far.
#[derive(Default)]
pub struct Watch {
    told: BTreeMap<ModelName, ModelVersionStatus>,
    sets: BTreeSet<PlacementSet>,
    clocks: BTreeMap<ModelName, Clock>,
    drains: BTreeMap<Ticket, ReplicaId>,
    stopped: BTreeSet<ExperimentName>,
    /// Placement waits; with how many agents it ends, once that was said.
    gate: Option<Option<usize>>,
}

impl Watch {
    /// Placement waits for the first word; nothing may be loaded before it is over.
    pub fn waits(&mut self) {
        self.gate = Some(None);
    }

    pub fn restart(&mut self, machine: &Machine) {
        self.drains.clear();
        self.sets.clear();
        self.told.clear();
        for model in machine.models() {
            if let Some(status) = machine.model_status(&model.name) {
                self.told.insert(model.name.clone(), status);
            }
        }
        self.gate = self.gate.filter(|_| !machine.is_synchronised());
        self.stopped = machine.experiments().filter(|e| !e.is_running()).map(|e| e.definition.name.clone()).collect();
    }

    pub fn before(&mut self, event: &Event, machine: &Machine) {
        match event {
            Event::DrainReplica { replica, ticket } => {
                self.drains.insert(*ticket, replica.clone());
            }
            Event::StartExperiment { definition, .. } => {
                self.stopped.remove(&definition.name);
            }
            Event::StopExperiment { name, .. } if machine.experiment(name).is_some() => {
                self.stopped.insert(name.clone());
            }
            Event::NotifyServers { first_sync: true, servers, .. } if self.gate == Some(None) => {
                let expected = servers.iter().map(|(_, bounds, _)| bounds.expected as usize).sum();
                self.gate = (connected(machine).len() < expected).then_some(Some(expected));
            }
            Event::AgentConnected { replica, .. } => {
                if let Some(Some(expected)) = self.gate {
                    let mut there = connected(machine);
                    there.insert(replica.clone());
                    self.gate = (there.len() < expected).then_some(Some(expected));
                }
            }
            Event::Timer(Timer::FirstSync) => self.gate = None,
            _ => {}
        }
    }

    pub fn effect(&mut self, effect: &Effect, cause: &Event, machine: &Machine) {
        match effect {
            Effect::Notify(Status::Model(name, status)) => {
                self.told.insert(name.clone(), (**status).clone());
            }
            Effect::Notify(Status::Experiment(status)) => {
                assert!(
                    !(status.active && self.stopped.contains(&status.name)),
                    "stopped: {status:?} is told after {cause:?}"
                );
            }
            Effect::Notify(Status::Scaling(ScalingRequest { server, replicas, .. })) => {
                let bounds = machine.server(server).and_then(|server| server.bounds.clone()).expect("declared");
                let least = bounds.min.max(1);
                let most = bounds.max.max(bounds.expected);
                assert!((least..=most).contains(replicas), "scaling: {replicas} of {server} with {bounds:?}");
            }
            Effect::Publish(RouteChange::Set { set, endpoints }) => {
                if endpoints.is_some() {
                    self.sets.insert(set.clone());
                } else {
                    self.sets.remove(set);
                }
            }
            Effect::Publish(RouteChange::Route { name, route, .. }) => {
                for set in route.iter().flat_map(|route| route.sets()) {
                    assert!(self.sets.contains(set), "sets: {name} leads to {set}, which was not announced");
                }
            }
            Effect::Send { command, .. } => {
                let model = &command.version.model;
                let last = self.clocks.insert(model.clone(), command.clock);
                assert!(last.is_none_or(|last| last < command.clock), "fence: {command:?} after {last:?}");
                assert!(
                    command.action == Action::Unload || self.gate.is_none(),
                    "gate: {command:?} before the start is over"
                );
            }
            Effect::Reply(ticket, _) => {
                let Some(replica) = self.drains.remove(ticket) else { return };
                let is_forced = matches!(
                    cause,
                    Event::Timer(Timer::DrainLimit(_) | Timer::AgentGrace(_))
                        | Event::AgentConnected { .. }
                        | Event::AgentDisconnected { .. }
                );
                assert!(is_forced || !still_moves(machine, &replica), "drain: {replica} is let go after {cause:?}");
            }
            _ => {}
        }
    }

    pub fn after(
        &mut self,
        event: &Event,
        before: &Machine,
        machine: &Machine,
        routes: &BTreeMap<RoutableName, EnvoyRoute>,
    ) {
        for model in machine.models() {
            let status = machine.model_status(&model.name).expect("known");
            let told = self.told.get(&model.name);
            assert_eq!(told, Some(&status), "told: after {event:?}");
            let name = RoutableName::Model(model.name.clone());
            let envoys = routes.get(&name);
            let newest = envoys.and_then(|envoy| envoy.generations.values().next_back().cloned()).flatten();
            assert_eq!(newest, machine.leads_to(&name), "I9 outside: {name} after {event:?}");
            for (number, version) in &model.versions {
                let Some(server) = &version.server else { continue };
                for (index, assignment) in &version.assignments {
                    let id = ReplicaId { server: server.clone(), index: *index };
                    let was = lifecycle(before, &model.name, *number, &id);
                    let is = assignment.lifecycle;
                    if is == Lifecycle::Available && was != Some(Lifecycle::Available) {
                        let acked = envoys.and_then(|envoy| envoy.generations.get(&envoy.applied)?.as_ref());
                        let mut leads = acked.into_iter().flat_map(|route| route.versions());
                        let is_known = leads.any(|(other, set)| other.number == *number && set.contains(&id));
                        assert!(is_known, "acked: {} on {id} after {event:?}", model.name);
                    }
                    let leaves = was == Some(Lifecycle::Available) && is == Lifecycle::UnloadEnvoyRequested;
                    let leaves = leaves && machine.server(server).is_some_and(|server| works(server, &id));
                    assert!(
                        !leaves || may_leave(machine, &model.name, *number),
                        "I10: {} version {number} leaves {id} after {event:?}",
                        model.name
                    );
                }
            }
        }
        for experiment in machine.experiments() {
            let name = RoutableName::Experiment(experiment.definition.name.clone());
            let newest = routes.get(&name).and_then(|envoy| envoy.generations.values().next_back().cloned()).flatten();
            assert_eq!(newest, machine.leads_to(&name), "I9 outside: {name} after {event:?}");
        }
    }
}

fn connected(machine: &Machine) -> BTreeSet<ReplicaId> {
    let replicas = machine.servers().flat_map(|server| {
        let there = server.replicas.iter().filter(|(_, replica)| matches!(replica.link, Link::Connected(_)));
        there.map(|(index, _)| ReplicaId { server: server.name.clone(), index: *index })
    });
    replicas.collect()
}

/// The replica's agent is there, it is not being emptied, and its server is to have replicas.
fn works(server: &Server, id: &ReplicaId) -> bool {
    let replica = server.replicas.get(&id.index);
    !server.is_scaled_to_zero() && replica.is_some_and(|r| !r.draining && matches!(r.link, Link::Connected(_)))
}

fn lifecycle(machine: &Machine, model: &ModelName, number: domain::VersionNumber, id: &ReplicaId) -> Option<Lifecycle> {
    let version = machine.model(model)?.versions.get(&number)?;
    (version.server.as_ref() == Some(&id.server)).then(|| version.assignments.get(&id.index))?.map(|a| a.lifecycle)
}

/// Something on the replica waits for another replica that is on its way.
fn still_moves(machine: &Machine, replica: &ReplicaId) -> bool {
    machine.models().any(|model| {
        let drains = |version: &scheduler_core::Version| {
            version.server.as_ref() == Some(&replica.server)
                && version.assignments.get(&replica.index).is_some_and(|a| a.lifecycle == Lifecycle::Draining)
        };
        let arrives = |version: &scheduler_core::Version| version.count(Lifecycle::is_arriving) > 0;
        model.versions.values().any(drains) && model.latest().is_some_and(arrives)
    })
}

/// I10: a working replica leaves only if its model is removed, a newer version has taken over, enough others are wanted
/// in its place, or its server is to have no replicas.
fn may_leave(machine: &Machine, name: &ModelName, number: domain::VersionNumber) -> bool {
    let Some(model) = machine.model(name) else { return true };
    let Some(latest) = model.latest() else { return true };
    let superseded =
        model.latest_number() != number && (latest.can_take_over() || latest.definition.deployment.replicas == 0);
    let wanted = latest.count(Lifecycle::is_wanted);
    let satisfied = model.latest_number() == number && wanted >= latest.definition.deployment.replicas;
    model.deleted || superseded || satisfied
}
