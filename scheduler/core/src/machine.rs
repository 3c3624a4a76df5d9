//! The machine: its state, the entry point, and what it keeps about each replica so that no decision looks at
//! every model.

use std::collections::{BTreeMap, BTreeSet};

use domain::{
    Bytes, ExperimentName, Generation, ModelName, ModelVersionId, PipelineName, ReplicaId, Role, RoutableName,
    ServerName, Subject, Ticket, Time, WorkerName,
};

use crate::effect::{Effect, Record, Refusal, RouteChange, Status, declared};
use crate::event::{Event, Timer};
use crate::experiment::Experiment;
use crate::hunger::Hunger;
use crate::model::{Assignment, Model};
use crate::pipeline::Pipeline;
use crate::pipelines::Progress;
use crate::routing;
use crate::scaling::Occasion;
use crate::server::{Link, Server};
use crate::settings::Settings;
use crate::sync::Sync;
use crate::table::Table;
use crate::worker::{Address, Holding, Worker, Workforce};

pub(crate) use crate::hunger::Freed;

/// The scheduler's mind. See the crate's documentation.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    pub(crate) settings: Settings,
    pub(crate) models: BTreeMap<ModelName, Model>,
    pub(crate) servers: BTreeMap<ServerName, Server>,
    pub(crate) table: Table,
    /// What is on each replica, kept so that events about a replica cost what it holds.
    pub(crate) residents: BTreeMap<ReplicaId, Residents>,
    pub(crate) experiments: BTreeMap<ExperimentName, Experiment>,
    /// The running experiments that a model or a pipeline is a candidate or the mirror of.
    pub(crate) candidates: BTreeMap<Subject, BTreeSet<ExperimentName>>,
    /// The running experiment that it is the default of.
    pub(crate) defaults: BTreeMap<Subject, ExperimentName>,
    /// Experiments that it was the default of and whose split an Envoy may still use.
    pub(crate) former: BTreeMap<Subject, BTreeSet<ExperimentName>>,
    /// Models that want more than they have.
    pub(crate) hunger: Hunger,
    /// How many models on a server want so many replicas, by their number.
    pub(crate) wishes: BTreeMap<ServerName, BTreeMap<u32, u32>>,
    /// Who waits for a replica to be empty.
    pub(crate) drains: BTreeMap<ReplicaId, Drain>,
    /// Versions that an agent came back without while Envoys may still send requests for them to it.
    pub(crate) missing: BTreeMap<ReplicaId, BTreeSet<ModelVersionId>>,
    /// Models that were settled since the last look at drains and missing versions, while there are any.
    pub(crate) touched: BTreeSet<ModelName>,
    /// Replicas that are gone and still hold something.
    pub(crate) gone: BTreeSet<ReplicaId>,
    /// What may let hungry models get more; looked at before an event is done with.
    pub(crate) freed: BTreeSet<Freed>,
    /// Servers whose size is to be looked at before an event is done with.
    pub(crate) resizes: BTreeSet<(ServerName, Occasion)>,
    /// The sizes that owners of servers have been asked for.
    pub(crate) requested: BTreeMap<ServerName, u32>,
    /// The share of packing that is due, in thousandths.
    pub(crate) packing_due: u32,
    pub(crate) sync: Sync,
    /// The last status told, by experiment.
    pub(crate) told_experiments: BTreeMap<ExperimentName, domain::ExperimentStatus>,
    pub(crate) pipelines: BTreeMap<PipelineName, Pipeline>,
    /// How far workers are with each pipeline.
    pub(crate) progress: BTreeMap<PipelineName, Progress>,
    /// The pipelines whose latest version calls a model.
    pub(crate) step_users: BTreeMap<ModelName, BTreeSet<PipelineName>>,
    /// Pipelines whose latest version another one feeds.
    pub(crate) source_users: BTreeMap<PipelineName, BTreeSet<PipelineName>>,
    /// The last status told, by pipeline.
    pub(crate) told_pipelines: BTreeMap<PipelineName, domain::PipelineVersionStatus>,
    /// Refused versions that wait to be tried again.
    pub(crate) retrying: BTreeSet<(PipelineName, u32)>,
    pub(crate) workers: BTreeMap<Role, BTreeMap<WorkerName, Worker>>,
    pub(crate) shards: BTreeMap<Role, BTreeMap<u32, Holding>>,
    /// Where Envoys find pipeline gateways, as last published.
    pub(crate) gateways: Vec<Address>,
    /// Counts the changes that workers are told of.
    pub(crate) revision: u64,
    /// What workers are to be told of before an event is done with.
    pub(crate) changed_pipelines: BTreeSet<PipelineName>,
    pub(crate) changed_models: BTreeSet<ModelName>,
    /// Pipelines by the revision that workers have to apply before they can go on.
    pub(crate) waiting: BTreeMap<u64, BTreeSet<PipelineName>>,
    /// Models by the revision that model gateways have to apply, and back.
    pub(crate) waiting_models: BTreeMap<u64, BTreeSet<ModelName>>,
    pub(crate) model_waits: BTreeMap<ModelName, u64>,
}

/// A replica that is being emptied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Drain {
    /// Who waits.
    pub(crate) tickets: Vec<Ticket>,
    /// Models on it that can still move away. Complete once [`Drain::is_begun`].
    pub(crate) moving: BTreeSet<ModelName>,
    /// Everything on it has been looked at.
    pub(crate) is_begun: bool,
}

/// What a store kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Its models.
    pub models: Vec<Model>,
    /// Its servers.
    pub servers: Vec<Server>,
    /// Its experiments.
    pub experiments: Vec<Experiment>,
    /// Its pipelines.
    pub pipelines: Vec<Pipeline>,
    /// What it knows about workers, by role.
    pub workforce: Vec<Workforce>,
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
    /// A machine that knows nothing and waits for nobody.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        // 0 stands for a worker that has not applied anything.
        Self { settings, revision: 1, ..Self::default() }
    }

    /// The machine as it was when these records were written, with agents and Envoys yet to return. The effects are
    /// every route as it was last published, and the timers that were running. With nothing kept it waits for the first
    /// word about servers, if the settings say so.
    #[must_use]
    pub fn restore(settings: Settings, kept: Kept, now: Time) -> (Self, Vec<Effect>) {
        let mut machine = Self::new(settings);
        let mut out = Vec::new();
        if kept == Kept::default()
            && let Some(limit) = machine.settings.first_sync_ms
        {
            machine.sync = Sync::Waiting;
            out.push(Effect::Wake(now.after(limit), Timer::FirstSync));
        }
        for mut server in kept.servers {
            for (index, replica) in &mut server.replicas {
                replica.link = Link::Unseen;
                let id = ReplicaId { server: server.name.clone(), index: *index };
                out.push(Effect::Wake(now.after(machine.settings.agent_grace_ms), Timer::AgentGrace(id)));
            }
            machine.servers.insert(server.name.clone(), server);
        }
        let names: Vec<ModelName> = kept.models.iter().map(|model| model.name.clone()).collect();
        for model in kept.models {
            if model.deleted && model.remaining() == 0 {
                let since = model.terminated_at.unwrap_or(now);
                let at = since.after(machine.settings.terminated_ttl_ms);
                out.push(Effect::Wake(at, Timer::Forget(model.name.clone())));
            }
            machine.models.insert(model.name.clone(), model);
        }
        machine.restore_experiments(kept.experiments, now, &mut out);
        for name in names {
            machine.index(&name);
            let is_declared = machine.models.get(&name).is_some_and(|model| !model.deleted);
            let routable = RoutableName::Model(name);
            if is_declared {
                out.push(declared(routable.clone(), true));
            }
            machine.publish([&routable], None, &mut out);
            let RoutableName::Model(name) = &routable else { continue };
            if machine.models.get(name).is_some_and(Model::waits_for_envoy) {
                machine.table.publish_absence(&routable, |change| out.push(Effect::Publish(change)));
            }
        }
        machine.restore_workers(kept.workforce, now, &mut out);
        machine.restore_pipelines(kept.pipelines, now, &mut out);
        machine.publish_experiments(&mut out);
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
            Event::StartExperiment { definition, ticket } => {
                let outcome = self.start_experiment(*definition, out);
                out.push(Effect::Reply(ticket, outcome));
            }
            Event::StopExperiment { name, ticket } => {
                let outcome = self.stop_experiment(&name, now, out);
                out.push(Effect::Reply(ticket, outcome));
            }
            Event::ApplyPipeline { definition, uid, ticket } => {
                let outcome = self.apply_pipeline(*definition, uid, now, out);
                out.push(Effect::Reply(ticket, outcome));
            }
            Event::RemovePipeline { name, ticket } => {
                let outcome = self.remove_pipeline(&name, out);
                out.push(Effect::Reply(ticket, outcome));
            }
            Event::WorkerConnected { worker, connection, address, held } => {
                self.worker_connected(worker, connection, address, &held, now, out);
            }
            Event::WorkerDisconnected { worker, connection } => {
                self.worker_disconnected(&worker, connection, now, out);
            }
            Event::WorkerApplied { worker, connection, revision, refused } => {
                self.worker_applied(&worker, connection, revision, refused, now, out);
            }
            Event::WorkerReleased { worker, connection, shard } => {
                self.worker_released(&worker, connection, shard, out);
            }
            Event::NotifyServers { servers, first_sync, ticket } => {
                let expected = servers.iter().map(|(_, bounds, _)| u64::from(bounds.expected)).sum();
                self.notify_servers(servers, now, out);
                if first_sync {
                    self.first_sync(expected, out);
                }
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
            Event::PartitionFactor(factor) => self.set_partition_factor(factor),
            Event::RouteRejected { name, generation, message } => {
                if let Some(published) = self.table.get_mut(&name)
                    && published.generation == generation
                {
                    published.rejected = Some(Box::new((generation, message)));
                    self.name_moved(&name, now, out);
                }
            }
            Event::Timer(Timer::AgentGrace(replica)) => self.agent_grace_over(&replica, now, out),
            Event::Timer(Timer::DrainLimit(replica)) => self.finish_drain(&replica, out),
            Event::Timer(Timer::Forget(name)) => self.forget_model(&name, now, out),
            Event::Timer(Timer::ForgetExperiment(name)) => self.forget_experiment(&name, now, out),
            Event::Timer(Timer::WorkerGrace(worker)) => self.worker_grace_over(&worker, now, out),
            Event::Timer(Timer::FinishVersion(name, number)) => self.finish_version(&name, number, now, out),
            Event::Timer(Timer::RetryPipeline(name, number)) => self.retry_pipeline(&name, number),
            Event::Timer(Timer::ForgetPipeline(name)) => self.forget_pipeline(&name, now, out),
            Event::Timer(Timer::FirstSync) => self.end_sync(out),
        }
        self.feed_hungry(now, out);
        self.forget_empty_replicas(out);
        let touched = std::mem::take(&mut self.touched);
        self.advance_drains(&touched, out);
        self.advance_catching_up(&touched, out);
        self.advance_scaling(out);
        self.flush_work(now, out);
    }

    fn route_applied(&mut self, name: &RoutableName, generation: Generation, now: Time, out: &mut Vec<Effect>) {
        let Some(published) = self.table.get_mut(name) else { return };
        if generation > published.generation {
            return;
        }
        // What it leads to may have been mended.
        let was_rejected = published.rejected.take_if(|rejected| rejected.0 <= generation).is_some();
        if generation > published.applied || was_rejected {
            published.applied = published.applied.max(generation);
            self.name_moved(name, now, out);
        }
    }

    fn route_released(&mut self, name: &RoutableName, generation: Generation, now: Time, out: &mut Vec<Effect>) {
        let Some(published) = self.table.get(name) else { return };
        if generation > published.released && generation <= published.generation {
            let others = self.table.others(name);
            self.table.release(name, generation);
            self.name_moved(name, now, out);
            for model in others {
                self.settle(&model, now, out);
            }
        }
    }

    /// Envoys did something with what was published under the name.
    fn name_moved(&mut self, name: &RoutableName, now: Time, out: &mut Vec<Effect>) {
        if let RoutableName::Model(model) = name {
            self.settle(model, now, out);
        }
        if let RoutableName::Pipeline(pipeline) = name {
            self.tell_pipeline(pipeline, out);
        }
        self.experiment_name_moved(name, out);
    }

    /// What the installation has set.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
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
        for (number, version) in &model.versions {
            let id = model.version_id(*number);
            for (index, assignment) in version.assignments.iter().filter(|(_, a)| !a.lifecycle.is_over()) {
                let Some(server) = &version.server else { continue };
                let replica = ReplicaId { server: server.clone(), index: *index };
                let residents = self.residents.entry(replica).or_default();
                residents.add(&id, assignment, version.memory());
            }
        }
        self.hunger.note(model);
        if !self.drains.is_empty() || !self.missing.is_empty() {
            self.touched.insert(name.clone());
        }
        if let Some((server, wish)) = model.wish() {
            *self.wishes.entry(server.clone()).or_default().entry(wish).or_insert(0) += 1;
        }
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
        if let Some((server, wish)) = model.wish()
            && let Some(wishes) = self.wishes.get_mut(server)
            && let Some(count) = wishes.get_mut(&wish)
        {
            *count -= 1;
            if *count == 0 {
                wishes.remove(&wish);
            }
            if wishes.is_empty() {
                self.wishes.remove(server);
            }
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

    pub(crate) fn publish_mesh(&self, out: &mut Vec<Effect>) {
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
            let ttl = self.settings.terminated_ttl_ms;
            model.terminated_at.is_some_and(|at| at.after(ttl) <= now) && model.remaining() == 0
        });
        if expired {
            self.drop_model(name, out);
            self.table.forget(&RoutableName::Model(name.clone()));
        }
    }

    /// Removes the model and all that is kept about it.
    pub(crate) fn drop_model(&mut self, name: &ModelName, out: &mut Vec<Effect>) {
        self.unindex(name);
        self.hunger.forget(name);
        self.models.remove(name);
        self.model_waits.remove(name);
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
