//! Fake workers of the data plane: they take orders, apply them when they are told to, and let go of shards.

use std::collections::{BTreeMap, BTreeSet};

use domain::{Role, Shard, WorkerId, WorkerName};
use scheduler_core::{Address, ConnectionId, Event, Order, PipelineOrder, Refused};

use super::World;

/// All workers there are.
#[derive(Default)]
pub struct Workers(BTreeMap<WorkerId, Worker>);

/// One of them.
#[derive(Default)]
pub struct Worker {
    pub connection: Option<ConnectionId>,
    /// What it was told and has not acted on.
    pub inbox: Vec<Order>,
    /// What it works by.
    pub pipelines: BTreeMap<String, PipelineOrder>,
    pub models: BTreeSet<String>,
    pub shards: BTreeSet<Shard>,
    /// What it was told to let go of and has not.
    pub revoked: Vec<Shard>,
}

/// `engine/a`, `model/a` or `gateway/a`.
pub fn worker(text: &str) -> WorkerId {
    let (role, name) = text.split_once('/').expect("role/name");
    let role = match role {
        "engine" => Role::Engine,
        "model" => Role::ModelGateway,
        _ => Role::PipelineGateway,
    };
    WorkerId { role, name: WorkerName::parse(name).expect("a worker name") }
}

impl Workers {
    pub(super) fn take(&mut self, worker: WorkerId, connection: ConnectionId, order: Order) {
        if let Some(worker) = self.0.get_mut(&worker)
            && worker.connection == Some(connection)
        {
            worker.inbox.push(order);
        }
    }

    pub(super) fn cut_off(&mut self) {
        for worker in self.0.values_mut() {
            worker.connection = None;
            worker.inbox.clear();
        }
    }

    pub fn get(&self, name: &str) -> &Worker {
        &self.0[&worker(name)]
    }
}

impl World {
    /// A worker says hello with the shards that it has.
    pub fn join(&mut self, name: &str) {
        let id = worker(name);
        self.connections += 1;
        let connection = ConnectionId(self.connections);
        let known = self.workers.0.entry(id.clone()).or_default();
        known.connection = Some(connection);
        known.inbox.clear();
        let held = known.shards.iter().copied().collect();
        let address = (id.role == Role::PipelineGateway)
            .then(|| Address { host: format!("10.0.1.{}", id.name.as_str().len()), port: 9010 });
        self.handle(Event::WorkerConnected { worker: id, connection, address, held });
    }

    /// A worker loses its stream; `dies` = it loses what it had, too.
    pub fn part(&mut self, name: &str, dies: bool) {
        let id = worker(name);
        let Some(known) = self.workers.0.get_mut(&id) else { return };
        let connection = known.connection.take();
        if dies {
            *known = super::workers::Worker::default();
        }
        if let Some(connection) = connection {
            self.handle(Event::WorkerDisconnected { worker: id, connection });
        }
    }

    /// A worker acts on everything it was told, refusing the pipelines named; says whether there was anything.
    pub fn work(&mut self, name: &str, refuses: &[&str]) -> bool {
        let id = worker(name);
        let Some(known) = self.workers.0.get_mut(&id) else { return false };
        let (orders, connection) = (std::mem::take(&mut known.inbox), known.connection);
        let (mut applied, mut released, mut refused) = (None, Vec::new(), Vec::new());
        let was_busy = !orders.is_empty() || !known.revoked.is_empty();
        for order in orders {
            match order {
                Order::Snapshot { revision, pipelines, models, .. } => {
                    known.pipelines.clear();
                    known.models.clear();
                    note(known, pipelines, models, refuses, &mut refused);
                    applied = Some(revision);
                }
                Order::Change { revision, pipelines, models } => {
                    note(known, pipelines, models, refuses, &mut refused);
                    applied = Some(revision);
                }
                Order::Grant(shard) => {
                    known.shards.insert(shard);
                }
                Order::Revoke(shard) => known.revoked.push(shard),
            }
        }
        for shard in std::mem::take(&mut known.revoked) {
            known.shards.remove(&shard);
            released.push(shard);
        }
        let Some(connection) = connection else { return was_busy };
        if let Some(revision) = applied {
            self.handle(Event::WorkerApplied { worker: id.clone(), connection, revision, refused });
        }
        for shard in released {
            self.handle(Event::WorkerReleased { worker: id.clone(), connection, shard });
        }
        was_busy
    }

    /// All workers act until there is nothing left to do.
    pub fn work_all(&mut self) {
        for round in 0.. {
            assert!(round < 1_000, "workers do not come to rest");
            let names: Vec<WorkerId> = self.workers.0.keys().cloned().collect();
            let busy = names.iter().map(|id| self.work(&text(id), &[])).filter(|was_busy| *was_busy).count();
            if busy == 0 {
                return;
            }
        }
    }

    /// Partitions that each worker of a role works on.
    pub fn owned(&self, role: Role) -> BTreeMap<String, Vec<u32>> {
        let of_role = self.workers.0.iter().filter(|(id, _)| id.role == role);
        of_role.map(|(id, known)| (id.name.to_string(), known.shards.iter().map(|s| s.partition).collect())).collect()
    }
}

fn note(
    known: &mut Worker,
    pipelines: Vec<PipelineOrder>,
    models: Vec<scheduler_core::ModelOrder>,
    refuses: &[&str],
    refused: &mut Vec<Refused>,
) {
    for pipeline in pipelines {
        if refuses.contains(&pipeline.name.as_str()) {
            let latest = pipeline.versions.last().map(|version| version.number);
            refused.extend(latest.map(|version| Refused {
                pipeline: pipeline.name.clone(),
                version,
                reason: "its topic has 4 partitions".to_owned(),
            }));
        }
        if pipeline.versions.is_empty() {
            known.pipelines.remove(pipeline.name.as_str());
        } else {
            known.pipelines.insert(pipeline.name.to_string(), pipeline);
        }
    }
    for model in models {
        if model.removed {
            known.models.remove(model.name.as_str());
        } else {
            known.models.insert(model.name.to_string());
        }
    }
}

fn text(id: &WorkerId) -> String {
    let role = match id.role {
        Role::Engine => "engine",
        Role::ModelGateway => "model",
        Role::PipelineGateway => "gateway",
    };
    format!("{role}/{}", id.name)
}
