//! Workers come and go, own shards, and are told what there should be.
//!
//! Every change of pipelines and models gets a revision; a worker that connects is told everything, and says which
//! revision it works by. Shards are granted to workers that have applied their snapshot (topologies precede grants),
//! after the grant is on disk. Rules: `spec/delivery.md` §1, §6, §7.

use std::collections::{BTreeMap, BTreeSet};

use domain::{ModelName, ModelState, PipelineName, Role, Shard, Time, WorkerId, WorkerName};

use crate::effect::{Effect, Record, RouteChange};
use crate::event::{ConnectionId, Refused, Timer};
use crate::machine::Machine;
use crate::model::Model;
use crate::ring;
use crate::worker::{Address, Holding, ModelOrder, Order, Worker, Workforce};

impl Machine {
    /// A worker's stream begins. It speaks for the worker from now on, whatever spoke for it before.
    pub(crate) fn worker_connected(
        &mut self,
        id: WorkerId,
        connection: ConnectionId,
        address: Option<Address>,
        held: &[Shard],
        now: Time,
        out: &mut Vec<Effect>,
    ) {
        let moved = self.worker(&id).is_none_or(|known| known.address != address);
        let worker = Worker { connection: Some(connection), address, applied: 0, refused: BTreeMap::new() };
        self.workers.entry(id.role).or_default().insert(id.name.clone(), worker);
        let snapshot = self.snapshot(id.role);
        self.order(&id, snapshot, out);
        for shard in held {
            let owned = self.shards.get(&id.role).and_then(|shards| shards.get(&shard.partition));
            let is_owner = owned.is_some_and(|holding| {
                holding.owner.as_ref() == Some(&id.name) && holding.epoch == shard.epoch && !holding.leaving
            });
            if !is_owner {
                self.order(&id, Order::Revoke(*shard), out);
            }
        }
        // What it owned and does not work on any more it gets anew, once it has applied the snapshot.
        let held: BTreeSet<(u32, u64)> = held.iter().map(|shard| (shard.partition, shard.epoch)).collect();
        for (partition, holding) in self.shards.entry(id.role).or_default() {
            if holding.owner.as_ref() == Some(&id.name) {
                holding.leaving = false;
                holding.lapsed = !held.contains(&(*partition, holding.epoch));
            }
        }
        if moved && id.role == Role::PipelineGateway {
            self.write_workforce(id.role, out);
        }
        self.settle_role(id.role, now, out);
    }

    /// A worker's stream ended. It may come back within the grace.
    pub(crate) fn worker_disconnected(
        &mut self,
        id: &WorkerId,
        connection: ConnectionId,
        now: Time,
        out: &mut Vec<Effect>,
    ) {
        let Some(worker) = self.worker_mut(id).filter(|worker| worker.connection == Some(connection)) else { return };
        worker.connection = None;
        worker.applied = 0;
        out.push(Effect::Wake(now.after(self.settings.worker_grace_ms), Timer::WorkerGrace(id.clone())));
        self.settle_role(id.role, now, out);
    }

    /// A worker has been away for too long.
    pub(crate) fn worker_grace_over(&mut self, id: &WorkerId, now: Time, out: &mut Vec<Effect>) {
        if self.worker(id).is_none_or(|worker| worker.connection.is_some()) {
            return;
        }
        self.workers.entry(id.role).or_default().remove(&id.name);
        for holding in self.shards.entry(id.role).or_default().values_mut() {
            if holding.owner.as_ref() == Some(&id.name) {
                (holding.owner, holding.leaving) = (None, false);
            }
        }
        self.write_workforce(id.role, out);
        self.settle_role(id.role, now, out);
    }

    /// A worker works by a revision.
    pub(crate) fn worker_applied(
        &mut self,
        id: &WorkerId,
        connection: ConnectionId,
        revision: u64,
        refused: Vec<Refused>,
        now: Time,
        out: &mut Vec<Effect>,
    ) {
        let Some(worker) = self.worker(id).filter(|worker| worker.connection == Some(connection)) else { return };
        let (before, was_ready) = (worker.applied, worker.is_ready());
        let applied = before.max(revision.min(self.revision));
        let waiting =
            self.waiting.range(before..=applied).filter(|(at, _)| **at > before).flat_map(|(_, names)| names.clone());
        let names: BTreeSet<PipelineName> = waiting.collect();
        if let Some(worker) = self.worker_mut(id) {
            worker.applied = applied;
            // A refusal stands for its version until the pipeline changes.
            worker.refused.retain(|(name, _), _| !names.contains(name));
            worker
                .refused
                .extend(refused.into_iter().map(|refusal| ((refusal.pipeline, refusal.version), refusal.reason)));
        }
        if !was_ready {
            self.settle_role(id.role, now, out);
            return;
        }
        if id.role == Role::ModelGateway {
            self.advance_models(out);
        }
        for name in names {
            self.settle_pipeline(&name, now, out);
        }
        self.forget_waiting();
    }

    /// A worker has let go of a shard.
    pub(crate) fn worker_released(
        &mut self,
        id: &WorkerId,
        connection: ConnectionId,
        shard: Shard,
        out: &mut Vec<Effect>,
    ) {
        let is_current = self.worker(id).is_some_and(|worker| worker.connection == Some(connection));
        let Some(holding) = self.shards.entry(id.role).or_default().get_mut(&shard.partition) else { return };
        let is_owner = holding.owner.as_ref() == Some(&id.name) && holding.epoch == shard.epoch;
        if is_current && is_owner {
            (holding.owner, holding.leaving) = (None, false);
            self.rebalance(id.role, out);
        }
    }

    /// Whoever is there of a role changed: shards, endpoints, and the state of every pipeline and model.
    fn settle_role(&mut self, role: Role, now: Time, out: &mut Vec<Effect>) {
        if role.owns_shards() {
            self.rebalance(role, out);
        } else {
            self.publish_gateways(out);
        }
        if role == Role::ModelGateway {
            self.advance_models(out);
            let names: Vec<ModelName> = self.models.keys().cloned().collect();
            for name in names {
                self.tell_model_gateways_of(&name, out);
            }
        }
        let names: Vec<PipelineName> = self.pipelines.keys().cloned().collect();
        for name in names {
            self.settle_pipeline(&name, now, out);
        }
        self.forget_waiting();
    }

    /// Gives shards to workers so that all have about the same, moving as few as possible.
    fn rebalance(&mut self, role: Role, out: &mut Vec<Effect>) {
        let shards = self.shards.entry(role).or_default();
        // Workers that are away keep theirs until their grace is over.
        let workers = self.workers.entry(role).or_default();
        let entitled = workers.iter().filter(|(name, worker)| {
            worker.is_ready() || shards.values().any(|holding| holding.owner.as_ref() == Some(*name))
        });
        let entitled: Vec<WorkerName> = entitled.map(|(name, _)| name.clone()).collect();
        let present = shards.iter().filter_map(|(n, holding)| Some((*n, holding.owner.clone()?))).collect();
        let plan = ring::assign(&entitled, self.settings.partitions, &present);
        let (mut orders, mut granted) = (Vec::new(), false);
        for partition in 0..self.settings.partitions {
            let Some(planned) = plan.get(&partition) else { continue };
            let holding = shards.entry(partition).or_default();
            let is_ready = |name: &WorkerName| workers.get(name).is_some_and(Worker::is_ready);
            match &holding.owner {
                Some(owner) if owner == planned && !holding.lapsed => {}
                owner if owner.is_none() || holding.lapsed => {
                    if is_ready(planned) {
                        let (owner, epoch) = (Some(planned.clone()), holding.epoch + 1);
                        *holding = Holding { owner, epoch, ..Holding::default() };
                        orders.push((planned.clone(), Order::Grant(Shard { partition, epoch })));
                        granted = true;
                    }
                }
                Some(owner) if is_ready(owner) && !holding.leaving => {
                    holding.leaving = true;
                    orders.push((owner.clone(), Order::Revoke(Shard { partition, epoch: holding.epoch })));
                }
                Some(_) | None => {}
            }
        }
        if granted {
            self.write_workforce(role, out);
        }
        for (name, order) in orders {
            self.order(&WorkerId { role, name }, order, out);
        }
    }

    /// Where Envoys find pipeline gateways: those that know what they need, else those that did a moment ago.
    fn publish_gateways(&mut self, out: &mut Vec<Effect>) {
        let workers = || self.workers.get(&Role::PipelineGateway).into_iter().flat_map(BTreeMap::values);
        let ready: Vec<Address> =
            workers().filter(|worker| worker.is_ready()).filter_map(|w| w.address.clone()).collect();
        let endpoints: Vec<Address> =
            if ready.is_empty() { workers().filter_map(|worker| worker.address.clone()).collect() } else { ready };
        if self.gateways != endpoints {
            self.gateways = endpoints;
            out.push(Effect::Publish(RouteChange::Gateways(self.gateways.clone())));
        }
    }

    /// Tells workers what changed since the last call. Each change of a pipeline is looked at again, because nobody may
    /// be there to say that he has applied it.
    pub(crate) fn flush_work(&mut self, now: Time, out: &mut Vec<Effect>) {
        while !self.changed_pipelines.is_empty() || !self.changed_models.is_empty() {
            let (pipelines, models) =
                (std::mem::take(&mut self.changed_pipelines), std::mem::take(&mut self.changed_models));
            self.revision += 1;
            self.announced(&pipelines, self.revision);
            let changed = pipelines.iter().filter_map(|name| self.pipelines.get(name));
            let changed: Vec<_> = changed.map(|pipeline| self.pipeline_order(pipeline)).collect();
            let models: Vec<ModelOrder> = models.iter().map(|name| self.model_order(name)).collect();
            if self.connected(Role::ModelGateway).next().is_some() {
                for model in &models {
                    self.model_waits.insert(model.name.clone(), self.revision);
                    self.waiting_models.entry(self.revision).or_default().insert(model.name.clone());
                }
            }
            for role in Role::ALL {
                let models = if role == Role::ModelGateway { models.clone() } else { Vec::new() };
                if changed.is_empty() && models.is_empty() {
                    continue;
                }
                let order = Order::Change { revision: self.revision, pipelines: changed.clone(), models };
                let names: Vec<WorkerName> =
                    self.workers.get(&role).into_iter().flat_map(BTreeMap::keys).cloned().collect();
                for name in names {
                    self.order(&WorkerId { role, name }, order.clone(), out);
                }
            }
            for name in pipelines {
                self.settle_pipeline(&name, now, out);
            }
            for model in models {
                self.tell_model_gateways_of(&model.name, out);
            }
        }
    }

    fn snapshot(&self, role: Role) -> Order {
        // Removed ones are gone by not being there; only who must delete their topics has to hear of them.
        let listed = self.pipelines.values().filter(|pipeline| !pipeline.removed || pipeline.cleans_topics());
        let models = self
            .models
            .values()
            .filter(|model| role == Role::ModelGateway && (!model.deleted || model.cleans_topics()));
        Order::Snapshot {
            revision: self.revision,
            partitions: self.settings.partitions,
            pipelines: listed.map(|pipeline| self.pipeline_order(pipeline)).collect(),
            models: models.map(|model| self.model_order(&model.name)).collect(),
        }
    }

    fn model_order(&self, name: &ModelName) -> ModelOrder {
        let model = self.models.get(name);
        ModelOrder {
            name: name.clone(),
            removed: model.is_none_or(|model| model.deleted),
            clean_topics: model.is_some_and(|model| model.deleted && model.cleans_topics()),
        }
    }

    fn order(&self, id: &WorkerId, order: Order, out: &mut Vec<Effect>) {
        if let Some(connection) = self.worker(id).and_then(|worker| worker.connection) {
            out.push(Effect::Work { worker: id.clone(), connection, order: Box::new(order) });
        }
    }

    /// Models that every model gateway has heard of by now.
    fn advance_models(&mut self, out: &mut Vec<Effect>) {
        let applied = self.connected(Role::ModelGateway).map(|gateway| gateway.applied).min().unwrap_or(u64::MAX);
        while let Some(entry) = self.waiting_models.first_entry() {
            if *entry.key() > applied {
                break;
            }
            let (revision, names) = entry.remove_entry();
            for name in names {
                if self.model_waits.get(&name) == Some(&revision) {
                    self.model_waits.remove(&name);
                    self.tell_model_gateways_of(&name, out);
                }
            }
        }
    }

    /// Revisions that everybody who is there has applied are nothing to wait for.
    fn forget_waiting(&mut self) {
        let workers = self.workers.values().flat_map(BTreeMap::values);
        let connected = workers.filter(|worker| worker.connection.is_some());
        let applied = connected.map(|worker| worker.applied).min().unwrap_or(self.revision);
        self.waiting = self.waiting.split_off(&(applied + 1));
    }

    /// The model gateways' side of a model (`spec/control-plane.md` §2.13).
    pub(crate) fn model_gateway_state(&self, model: &Model) -> ModelState {
        let waits = self.model_waits.contains_key(&model.name) || self.changed_models.contains(&model.name);
        match (model.deleted, self.ready(Role::ModelGateway).next().is_some()) {
            (true, true) if waits => ModelState::Terminating,
            (true, _) => ModelState::Terminated,
            (false, false) => ModelState::Create,
            (false, true) if waits => ModelState::Progressing,
            (false, true) => ModelState::Available,
        }
    }

    /// What the model gateways say about a model changed.
    fn tell_model_gateways_of(&mut self, name: &ModelName, out: &mut Vec<Effect>) {
        if let Some(status) = self.model_status(name) {
            out.push(Effect::Notify(crate::effect::Status::Model(name.clone(), Box::new(status))));
        }
        self.tell_pipelines_of(name, out);
    }

    /// Workers of a role with a stream.
    pub(crate) fn connected(&self, role: Role) -> impl Iterator<Item = &Worker> {
        let workers = self.workers.get(&role).into_iter().flat_map(BTreeMap::values);
        workers.filter(|worker| worker.connection.is_some())
    }

    /// Workers of a role that work by what they were told.
    pub(crate) fn ready(&self, role: Role) -> impl Iterator<Item = &Worker> {
        self.connected(role).filter(|worker| worker.is_ready())
    }

    fn worker(&self, id: &WorkerId) -> Option<&Worker> {
        self.workers.get(&id.role)?.get(&id.name)
    }

    fn worker_mut(&mut self, id: &WorkerId) -> Option<&mut Worker> {
        self.workers.get_mut(&id.role)?.get_mut(&id.name)
    }

    fn write_workforce(&self, role: Role, out: &mut Vec<Effect>) {
        out.push(Effect::Write(Record::Workforce(Box::new(self.workforce(role)))));
    }

    fn workforce(&self, role: Role) -> Workforce {
        let workers = self.workers.get(&role).into_iter().flatten();
        let gateways = workers.filter_map(|(name, worker)| Some((name.clone(), worker.address.clone()?)));
        let shards = self.shards.get(&role).cloned().unwrap_or_default();
        Workforce { role, gateways: gateways.collect(), shards }
    }

    /// Takes in what the store knows about workers; all of them are away, and their grace runs.
    pub(crate) fn restore_workers(&mut self, workforce: Vec<Workforce>, now: Time, out: &mut Vec<Effect>) {
        for Workforce { role, gateways, shards } in workforce {
            let owners = shards.values().filter_map(|holding| holding.owner.clone()).map(|name| (name, None));
            let gateways = gateways.into_iter().map(|(name, address)| (name, Some(address)));
            let known: BTreeMap<WorkerName, Option<Address>> = owners.chain(gateways).collect();
            for (name, address) in known {
                let id = WorkerId { role, name };
                out.push(Effect::Wake(now.after(self.settings.worker_grace_ms), Timer::WorkerGrace(id.clone())));
                let worker = Worker { connection: None, address, applied: 0, refused: BTreeMap::new() };
                self.workers.entry(role).or_default().insert(id.name, worker);
            }
            self.shards.insert(role, shards);
        }
        self.publish_gateways(out);
    }

    /// Who owns which shard of a role, for those who look.
    #[must_use]
    pub fn shards(&self, role: Role) -> BTreeMap<u32, Holding> {
        self.shards.get(&role).cloned().unwrap_or_default()
    }
}
