//! The machine: its state, the entry point, and what it keeps about each replica so that no decision looks at
//! every model.

use std::collections::{BTreeMap, BTreeSet};

use domain::{Bytes, ModelName, ModelVersionId, ReplicaId, RoutableName, ServerName, Ticket, Time};

use crate::effect::{Effect, Record, Refusal, RouteChange, Status};
use crate::event::{Event, Timer};
use crate::model::{Assignment, Model, is_failed};
use crate::routing::{self, Table};
use crate::server::{Link, Server};
use crate::settle::Retry;

/// How long a lost agent may stay away before its models are placed elsewhere, in milliseconds. An agent that
/// restarts its server or reconnects needs about a second; ten keep a blip from moving models (DESIGN §9).
pub const AGENT_GRACE_MS: u64 = 10_000;

/// How long a drain may take before its caller is told to go on, in milliseconds: half of the 120 s that the
/// compatible manifests give a server to end.
pub const DRAIN_LIMIT_MS: u64 = 60_000;

/// How long a removed model stays listed, in milliseconds: one day, as the compatible system does for pipelines.
pub const TERMINATED_TTL_MS: u64 = 24 * 60 * 60 * 1000;

/// The scheduler's mind. See the crate's documentation.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    pub(crate) models: BTreeMap<ModelName, Model>,
    pub(crate) servers: BTreeMap<ServerName, Server>,
    pub(crate) table: Table,
    /// What is on each replica, kept so that events about a replica cost what it holds.
    pub(crate) residents: BTreeMap<ReplicaId, Residents>,
    /// Models that want more than they have, by the memory they need.
    pub(crate) hungry: BTreeSet<(Bytes, ModelName)>,
    /// Where in `hungry` a model is.
    pub(crate) hunger: BTreeMap<ModelName, Bytes>,
    /// Who waits for a replica to be empty.
    pub(crate) drains: BTreeMap<ReplicaId, Vec<Ticket>>,
    /// Versions that an agent came back without while Envoys may still send requests for them to it.
    pub(crate) missing: BTreeMap<ReplicaId, BTreeSet<ModelVersionId>>,
    /// Replicas that are gone and still hold something.
    pub(crate) gone: BTreeSet<ReplicaId>,
    /// Set when something happened that may let hungry models get more; looked at before an event is done with.
    pub(crate) freed: Option<Retry>,
    /// The last status told, by model.
    pub(crate) told: BTreeMap<ModelName, domain::ModelVersionStatus>,
}

/// What is on one replica.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Residents {
    /// Every assignment that is not over.
    pub(crate) versions: BTreeSet<ModelVersionId>,
    /// Memory that is reserved and not yet in what the agent reports.
    pub(crate) reserved: Bytes,
    /// Assignments that are loaded.
    pub(crate) loaded: u32,
}

impl Machine {
    /// A machine that knows nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The machine as it was when these records were written, with agents and Envoys yet to return. The effects are
    /// every route as it was last published, and the timers that were running.
    #[must_use]
    pub fn restore(models: Vec<Model>, servers: Vec<Server>, now: Time) -> (Self, Vec<Effect>) {
        let mut machine = Self::new();
        let mut out = Vec::new();
        for mut server in servers {
            for (index, replica) in &mut server.replicas {
                replica.link = Link::Unseen;
                let id = ReplicaId { server: server.name.clone(), index: *index };
                out.push(Effect::Wake(now.after(AGENT_GRACE_MS), Timer::AgentGrace(id)));
            }
            machine.servers.insert(server.name.clone(), server);
        }
        let names: Vec<ModelName> = models.iter().map(|model| model.name.clone()).collect();
        for model in models {
            if model.deleted && model.remaining() == 0 {
                let since = model.terminated_at.unwrap_or(now);
                out.push(Effect::Wake(since.after(TERMINATED_TTL_MS), Timer::Forget(model.name.clone())));
            }
            machine.models.insert(model.name.clone(), model);
        }
        for name in names {
            machine.index(&name);
            let route = machine.models.get(&name).and_then(routing::route);
            machine.table.publish(&name, route, &machine.servers, |change| out.push(Effect::Publish(change)));
            if machine.models.get(&name).is_some_and(Model::waits_for_envoy) {
                machine.table.publish_absence(&name, |change| out.push(Effect::Publish(change)));
            }
            if let Some(status) = machine.model_status(&name) {
                machine.told.insert(name, status);
            }
        }
        machine.publish_mesh(&mut out);
        (machine, out)
    }

    /// Takes in one event and says what follows from it.
    pub fn handle(&mut self, event: Event, now: Time, out: &mut Vec<Effect>) {
        match event {
            Event::ApplyModel { definition, ticket } => {
                let outcome = self.apply_model(*definition, now, out);
                out.push(Effect::Reply(ticket, outcome));
            }
            Event::RemoveModel { name, kubernetes, ticket } => {
                let outcome = self.remove_model(&name, kubernetes, now, out);
                out.push(Effect::Reply(ticket, outcome));
            }
            Event::NotifyServers { servers, ticket } => {
                self.notify_servers(servers, now, out);
                out.push(Effect::Reply(ticket, Ok(())));
            }
            Event::AgentConnected { replica, connection, shared, config, held, available } => {
                let arrival = crate::agents::Arrival { connection, shared, config, held, available };
                self.agent_connected(&replica, arrival, now, out);
            }
            Event::AgentDisconnected { replica, connection } => {
                self.agent_disconnected(&replica, connection, now, out);
            }
            Event::Report { replica, version, outcome, fence, available, ticket } => {
                let report = crate::models::Report { replica, version, outcome, fence, available };
                let outcome = self.report(report, now, out);
                out.push(Effect::Reply(ticket, outcome));
            }
            Event::DrainReplica { replica, ticket } => self.drain_replica(&replica, ticket, now, out),
            Event::RouteApplied { name, generation } => self.route_applied(&name, generation, now, out),
            Event::RouteReleased { name, generation } => self.route_released(&name, generation, now, out),
            Event::RouteRejected { name, generation, message } => {
                let RoutableName::Model(name) = name else { return };
                if let Some(published) = self.table.get_mut(&name)
                    && published.generation == generation
                {
                    published.rejected = Some((generation, message));
                    self.settle(&name, now, out);
                }
            }
            Event::Timer(Timer::AgentGrace(replica)) => self.agent_grace_over(&replica, now, out),
            Event::Timer(Timer::DrainLimit(replica)) => self.finish_drain(&replica, out),
            Event::Timer(Timer::Forget(name)) => self.forget_model(&name, now, out),
        }
        self.feed_hungry(now, out);
        self.forget_empty_replicas(out);
        self.advance_drains(out);
        self.advance_catching_up(out);
    }

    fn route_applied(&mut self, name: &RoutableName, generation: domain::Generation, now: Time, out: &mut Vec<Effect>) {
        let RoutableName::Model(name) = name else { return };
        let Some(published) = self.table.get_mut(name) else { return };
        if generation > published.applied && generation <= published.generation {
            published.applied = generation;
            self.settle(name, now, out);
        }
    }

    fn route_released(
        &mut self,
        name: &RoutableName,
        generation: domain::Generation,
        now: Time,
        out: &mut Vec<Effect>,
    ) {
        let RoutableName::Model(name) = name else { return };
        let Some(published) = self.table.get_mut(name) else { return };
        if generation > published.released && generation <= published.generation {
            published.released = generation;
            published.applied = published.applied.max(generation);
            self.settle(name, now, out);
        }
    }

    /// The model, if it is known.
    #[must_use]
    pub fn model(&self, name: &ModelName) -> Option<&Model> {
        self.models.get(name)
    }

    /// Every model that is known, removed ones included while they are listed.
    pub fn models(&self) -> impl Iterator<Item = &Model> {
        self.models.values()
    }

    /// The server, if it is known.
    #[must_use]
    pub fn server(&self, name: &ServerName) -> Option<&Server> {
        self.servers.get(name)
    }

    /// Every server that is known.
    pub fn servers(&self) -> impl Iterator<Item = &Server> {
        self.servers.values()
    }

    /// Brings what is kept per replica and the hungry index in line with the model.
    pub(crate) fn index(&mut self, name: &ModelName) {
        let Some(model) = self.models.get(name) else { return };
        let mut hungry = None;
        for (number, version) in &model.versions {
            let id = model.version_id(*number);
            for (index, assignment) in version.assignments.iter().filter(|(_, a)| !a.lifecycle.is_over()) {
                let Some(server) = &version.server else { continue };
                let replica = ReplicaId { server: server.clone(), index: *index };
                let residents = self.residents.entry(replica).or_default();
                residents.add(&id, assignment, version.memory());
            }
        }
        if !model.deleted
            && let Some(latest) = model.latest()
            && (!latest.shortfall.is_empty() || latest.count(is_failed) > 0)
        {
            hungry = Some(latest.memory());
        }
        self.set_hunger(name, hungry);
    }

    /// Takes the model out of what is kept per replica; to be followed by a change and [`Machine::index`].
    pub(crate) fn unindex(&mut self, name: &ModelName) {
        let Some(model) = self.models.get(name) else { return };
        for (number, version) in &model.versions {
            let id = model.version_id(*number);
            for (index, assignment) in version.assignments.iter().filter(|(_, a)| !a.lifecycle.is_over()) {
                let Some(server) = &version.server else { continue };
                let replica = ReplicaId { server: server.clone(), index: *index };
                if let Some(residents) = self.residents.get_mut(&replica) {
                    residents.remove(&id, assignment, version.memory());
                    if residents.versions.is_empty() {
                        self.residents.remove(&replica);
                    }
                }
            }
        }
    }

    fn set_hunger(&mut self, name: &ModelName, hungry: Option<Bytes>) {
        if let Some(before) = self.hunger.remove(name) {
            self.hungry.remove(&(before, name.clone()));
        }
        if let Some(memory) = hungry {
            self.hunger.insert(name.clone(), memory);
            self.hungry.insert((memory, name.clone()));
        }
    }

    /// Names of the models with something on the replica.
    pub(crate) fn models_on(&self, replica: &ReplicaId) -> BTreeSet<ModelName> {
        let residents = self.residents.get(replica);
        residents.into_iter().flat_map(|r| r.versions.iter().map(|id| id.model.clone())).collect()
    }

    /// Publishes the sets that a replica is in anew: its address or its health changed.
    pub(crate) fn publish_replica(&self, replica: &ReplicaId, out: &mut Vec<Effect>) {
        for set in self.table.sets_of(replica) {
            let endpoints = routing::endpoints(set.replicas(), &self.servers);
            out.push(Effect::Publish(RouteChange::Set { set: set.clone(), endpoints: Some(endpoints) }));
        }
        self.publish_mesh(out);
    }

    fn publish_mesh(&self, out: &mut Vec<Effect>) {
        let replicas: Vec<ReplicaId> = self
            .servers
            .values()
            .flat_map(|server| {
                let present = server.replicas.iter().filter(|(_, replica)| replica.link != Link::Gone);
                present.map(|(index, _)| ReplicaId { server: server.name.clone(), index: *index })
            })
            .collect();
        out.push(Effect::Publish(RouteChange::Mesh(routing::endpoints(replicas.iter(), &self.servers))));
    }

    pub(crate) fn write_server(&self, name: &ServerName, out: &mut Vec<Effect>) {
        if let Some(server) = self.servers.get(name) {
            out.push(Effect::Write(Record::Server(Box::new(server.clone()))));
            self.tell_server(name, out);
        }
    }

    pub(crate) fn tell_server(&self, name: &ServerName, out: &mut Vec<Effect>) {
        if let Some(status) = self.server_status(name) {
            out.push(Effect::Notify(Status::Server(Box::new(status))));
        }
    }

    fn forget_model(&mut self, name: &ModelName, now: Time, out: &mut Vec<Effect>) {
        let expired = self.models.get(name).is_some_and(|model| {
            model.terminated_at.is_some_and(|at| at.after(TERMINATED_TTL_MS) <= now) && model.remaining() == 0
        });
        if expired {
            self.drop_model(name, out);
            self.table.forget(name);
        }
    }

    /// Removes the model and all that is kept about it.
    pub(crate) fn drop_model(&mut self, name: &ModelName, out: &mut Vec<Effect>) {
        self.unindex(name);
        self.set_hunger(name, None);
        self.models.remove(name);
        self.told.remove(name);
        out.push(Effect::Write(Record::NoModel(name.clone())));
    }
}

impl Residents {
    fn add(&mut self, id: &ModelVersionId, assignment: &Assignment, memory: Bytes) {
        self.versions.insert(id.clone());
        if assignment.reserves {
            self.reserved += memory;
        }
        if assignment.is_loaded() {
            self.loaded += 1;
        }
    }

    fn remove(&mut self, id: &ModelVersionId, assignment: &Assignment, memory: Bytes) {
        self.versions.remove(id);
        if assignment.reserves {
            self.reserved = self.reserved.saturating_sub(memory);
        }
        if assignment.is_loaded() {
            self.loaded = self.loaded.saturating_sub(1);
        }
    }
}

/// Why a report about a model nobody knows is stale.
pub(crate) fn stale(report: &crate::models::Report, why: &str) -> Refusal {
    Refusal::StaleReport { version: report.version.clone(), replica: report.replica.clone(), why: why.to_owned() }
}
