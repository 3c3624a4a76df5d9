//! What users and agents say about models: declare, remove, report.

use std::collections::{BTreeMap, BTreeSet};

use domain::{
    Bytes, Clock, Input, KubernetesMeta, ModelDefinition, ModelName, ModelVersionId, ReplicaId, RoutableName,
    ServerName, Time, VersionNumber,
};

use crate::effect::{Effect, Refusal, declared};
use crate::event::Outcome;
use crate::few::Few;
use crate::machine::{Freed, Machine, stale};
use crate::model::{Model, Version};
use crate::server::Server;
use crate::settle::Retry;

/// What an agent reported.
pub(crate) struct Report {
    pub(crate) replica: ReplicaId,
    pub(crate) version: ModelVersionId,
    pub(crate) outcome: Outcome,
    pub(crate) fence: Option<Clock>,
    pub(crate) available: Bytes,
}

impl Machine {
    /// A declaration: a new model, a new version, or an edit of the latest one (`spec/control-plane.md` §2.3).
    pub(crate) fn apply_model(
        &mut self,
        definition: ModelDefinition,
        now: Time,
        out: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        let name = definition.name.clone();
        if let Some(model) = self.models.get(&name).filter(|model| model.deleted) {
            let remaining = model.remaining();
            if remaining > 0 {
                return Err(Refusal::StillTerminating(name, remaining));
            }
            let clock = model.clock;
            self.drop_model(&name, out);
            self.changed_models.insert(name.clone());
            self.add(first(definition, clock, now), now, out);
            return Ok(());
        }
        if !self.models.contains_key(&name) {
            self.changed_models.insert(name.clone());
            self.add(first(definition, Clock(0), now), now, out);
            return Ok(());
        }
        self.change(&name, now, out, |model| declare(model, definition, now));
        Ok(())
    }

    /// Removes a model; its record stays until every replica has let go of it.
    pub(crate) fn remove_model(
        &mut self,
        name: &ModelName,
        kubernetes: Option<KubernetesMeta>,
        now: Time,
        out: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        if !self.models.contains_key(name) {
            return Err(Refusal::UnknownModel(name.clone()));
        }
        self.changed_models.insert(name.clone());
        out.push(declared(RoutableName::Model(name.clone()), false));
        self.change(name, now, out, |model| {
            model.deleted = true;
            if let (Some(meta), Some(latest)) = (kubernetes, model.versions.values_mut().next_back()) {
                latest.definition.kubernetes = Some(Box::new(meta));
            }
        });
        Ok(())
    }

    /// What the owner of servers says about their size.
    pub(crate) fn notify_servers(
        &mut self,
        servers: Vec<(ServerName, domain::ServerBounds, bool)>,
        now: Time,
        out: &mut Vec<Effect>,
    ) {
        let names: BTreeSet<ServerName> = servers.iter().map(|(name, _, _)| name.clone()).collect();
        for (name, bounds, shared) in servers {
            let server = self.servers.entry(name.clone()).or_insert_with(|| Server {
                name: name.clone(),
                shared,
                bounds: None,
                replicas: BTreeMap::new(),
            });
            let was_zero = server.is_scaled_to_zero();
            server.bounds = Some(bounds);
            let is_zero = server.is_scaled_to_zero();
            let indexes: Vec<_> = server.replicas.keys().copied().collect();
            self.write_server(&name, out);
            if was_zero != is_zero {
                self.free(Freed::Server(name.clone()));
                for index in indexes {
                    for model in self.models_on(&ReplicaId { server: name.clone(), index }) {
                        self.settle(&model, now, out);
                    }
                }
            }
        }
        self.forget_requests(&names);
    }

    /// What an agent says about a command. Compared with the fence, or with the expected state (I6).
    pub(crate) fn report(&mut self, report: Report, now: Time, out: &mut Vec<Effect>) -> Result<(), Refusal> {
        let name = report.version.model.clone();
        let version = self.models.get(&name).and_then(|model| model.versions.get(&report.version.number));
        let Some(version) = version else { return Err(stale(&report, "the version is not known")) };
        let on_server = version.server.as_ref() == Some(&report.replica.server);
        let assignment = on_server.then(|| version.assignments.get(&report.replica.index)).flatten();
        let Some(assignment) = assignment else { return Err(stale(&report, "the version is not assigned there")) };
        if report.fence.is_some_and(|fence| fence != assignment.clock) {
            return Err(stale(&report, &format!("the last command has clock {}", assignment.clock)));
        }
        let input = match report.outcome {
            Outcome::Loaded(_) => Input::ReportLoaded,
            Outcome::LoadFailed(_) => Input::ReportLoadFailed,
            Outcome::Unloaded => Input::ReportUnloaded,
            Outcome::UnloadFailed(_) => Input::ReportUnloadFailed,
        };
        if assignment.lifecycle.next(input).is_none() {
            return Err(stale(&report, &format!("the replica is in state {:?}", assignment.lifecycle)));
        }
        let Report { replica, version: id, outcome, available, .. } = report;
        self.set_available(&replica, available, out);
        self.change(&name, now, out, |model| {
            let Some(version) = model.versions.get_mut(&id.number) else { return };
            let Some(assignment) = version.assignments.get_mut(&replica.index) else { return };
            assignment.apply(input, now);
            match outcome {
                Outcome::Loaded(runtime) => version.runtime = version.runtime.or(runtime),
                Outcome::LoadFailed(reason) | Outcome::UnloadFailed(reason) => assignment.reason = reason,
                Outcome::Unloaded => {}
            }
        });
        self.tell_server(&replica.server, out);
        Ok(())
    }

    /// Notes that hungry models may get more now.
    pub(crate) fn free(&mut self, freed: Freed) {
        self.freed.insert(freed);
    }

    /// Tries the models again that want more than they have, smallest need first, until nothing more is freed.
    pub(crate) fn feed_hungry(&mut self, now: Time, out: &mut Vec<Effect>) {
        while let Some(freed) = self.freed.pop_first() {
            match freed {
                Freed::Everything => {
                    self.freed.clear();
                    self.retry(self.hunger.all(), now, out);
                }
                Freed::Server(name) => {
                    let names = self.servers.get(&name).map(|server| self.hunger.for_server(server));
                    self.retry(names.unwrap_or_default(), now, out);
                }
                Freed::Memory(replica) => self.feed_memory(&replica, now, out),
            }
        }
    }

    fn retry(&mut self, names: Vec<ModelName>, now: Time, out: &mut Vec<Effect>) {
        for name in names {
            self.settle_with(&name, Retry::Failed, now, out);
        }
    }

    fn feed_memory(&mut self, replica: &ReplicaId, now: Time, out: &mut Vec<Effect>) {
        let server = self.servers.get(&replica.server);
        for class in server.map(|server| self.hunger.classes_for(server)).unwrap_or_default() {
            let mut last = None;
            while let Some(next) = self.hunger.next(&class, last.as_ref()) {
                if next.0 > self.free_memory(replica) {
                    break;
                }
                self.settle(&next.1, now, out);
                last = Some(next);
            }
        }
    }

    /// The memory of a replica that is free for models; nothing if it takes none.
    fn free_memory(&self, id: &ReplicaId) -> Bytes {
        let server = self.servers.get(&id.server);
        let replica = server.and_then(|server| server.replicas.get(&id.index)).filter(|replica| replica.takes_models());
        let reserved = self.residents.get(id).map(|residents| residents.reserved).unwrap_or_default();
        replica.map_or(Bytes(0), |replica| replica.available.saturating_sub(reserved))
    }

    fn set_available(&mut self, id: &ReplicaId, available: Bytes, out: &mut Vec<Effect>) {
        let Some(server) = self.servers.get_mut(&id.server) else { return };
        let Some(replica) = server.replicas.get_mut(&id.index) else { return };
        if replica.available != available {
            let grows = replica.available < available;
            replica.available = available;
            self.write_server(&id.server, out);
            if grows {
                self.free(Freed::Memory(id.clone()));
            }
        }
    }
}

fn first(definition: ModelDefinition, clock: Clock, now: Time) -> Model {
    let generation = definition.kubernetes.as_ref().map_or(0, |meta| meta.generation);
    let number = VersionNumber(u32::try_from(generation).unwrap_or(0).max(1));
    Model {
        name: definition.name.clone(),
        deleted: false,
        terminated_at: None,
        clock,
        versions: Few::from([(number, Version::new(definition, now))]),
    }
}

/// A different spec is a new version; everything else edits the latest one.
fn declare(model: &mut Model, definition: ModelDefinition, now: Time) {
    let number = model.latest_number();
    let Some(latest) = model.versions.get_mut(&number) else { return };
    if latest.definition == definition {
        return;
    }
    if latest.definition.spec == definition.spec {
        latest.definition = definition;
        latest.edited_at = now;
    } else {
        model.versions.insert(number.next(), Version::new(definition, now));
    }
}
