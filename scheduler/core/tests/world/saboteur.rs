//! Bugs planted on purpose: each changes what goes into or comes out of the machine as a wrong machine would.

use std::collections::{BTreeMap, BTreeSet};

use domain::{Bytes, Clock, Generation, ModelName, ModelVersionStatus, RoutableName, Ticket};
use scheduler_core::{Command, Effect, Event, Record, RouteChange, Status};

/// A bug, with the law that has to catch it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    UnloadsBeforeEnvoysLetGo,
    ForgetsThatExperimentsLeadThere,
    IsAvailableBeforeEnvoysKnow,
    TakesALateAcknowledgementForTheNewest,
    ForgetsAWrite,
    WritesAnOldState,
    ActsBeforeTheCommit,
    AnswersTwice,
    ForgetsAnAnswer,
    IgnoresFences,
    SendsWithoutAFence,
    SendsTwice,
    BelievesInMoreMemory,
    ForgetsToPublish,
    PublishesAReplicaTooMany,
    PublishesWithoutMirrors,
    ForgetsToAnnounceASet,
    WithdrawsASetInUse,
    ForgetsToTell,
    TellsAnOldStatus,
    SaysThatAStoppedExperimentIsActive,
    LetsADrainGoAtOnce,
    DoesNotWaitForTheStart,
    AsksForAHugeServer,
    DrawsLots,
    NeverHearsThatEnvoysLetGo,
    ForgetsItsTimers,
}

/// Stands between the machine and the world.
#[derive(Clone, Debug, Default)]
pub struct Saboteur {
    pub bug: Option<Bug>,
    count: u64,
    statuses: BTreeMap<ModelName, ModelVersionStatus>,
    newest: BTreeMap<RoutableName, Generation>,
    drains: BTreeSet<Ticket>,
    hurried: BTreeSet<Ticket>,
}

impl Saboteur {
    pub fn with(bug: Bug) -> Self {
        Self { bug: Some(bug), ..Self::default() }
    }

    fn every(&mut self, nth: u64) -> bool {
        self.count += 1;
        self.count.is_multiple_of(nth)
    }

    /// What the machine hears instead of the event.
    pub fn events(&mut self, mut event: Event) -> Vec<Event> {
        match (self.bug, &mut event) {
            (Some(Bug::TakesALateAcknowledgementForTheNewest), Event::RouteApplied { name, generation }) => {
                *generation = self.newest.get(name).copied().unwrap_or(*generation);
            }
            (Some(Bug::IgnoresFences), Event::Report { fence, .. }) => *fence = None,
            (
                Some(Bug::BelievesInMoreMemory),
                Event::Report { available, .. } | Event::AgentConnected { available, .. },
            ) => {
                *available = Bytes(1_000_000);
            }
            (Some(Bug::NeverHearsThatEnvoysLetGo), Event::RouteReleased { name, generation }) => {
                return vec![Event::RouteApplied { name: name.clone(), generation: *generation }];
            }
            (Some(Bug::LetsADrainGoAtOnce), Event::DrainReplica { ticket, .. }) => {
                self.drains.insert(*ticket);
            }
            _ => {}
        }
        vec![event]
    }

    /// What comes out of the machine instead of the effects.
    pub fn effects(&mut self, effects: Vec<Effect>) -> Vec<Effect> {
        for effect in &effects {
            if let Effect::Publish(RouteChange::Route { name, generation, .. }) = effect {
                self.newest.insert(name.clone(), *generation);
            }
        }
        let Some(bug) = self.bug else { return effects };
        let mut effects: Vec<Effect> = effects.into_iter().flat_map(|effect| self.effect(bug, effect)).collect();
        for ticket in std::mem::take(&mut self.drains) {
            if self.hurried.insert(ticket) {
                effects.push(Effect::Reply(ticket, Ok(())));
            }
        }
        effects
    }

    fn effect(&mut self, bug: Bug, effect: Effect) -> Vec<Effect> {
        match (bug, &effect) {
            (Bug::ForgetsAWrite, Effect::Write(_)) if self.every(7) => Vec::new(),
            (Bug::WritesAnOldState, Effect::Write(Record::Model(model))) if self.every(5) => {
                let mut old = model.clone();
                old.clock = Clock(old.clock.0.saturating_sub(1));
                vec![Effect::Write(Record::Model(old))]
            }
            (Bug::AnswersTwice, Effect::Reply(..)) if self.every(5) => vec![effect.clone(), effect],
            (Bug::ForgetsAnAnswer, Effect::Reply(..)) if self.every(9) => Vec::new(),
            (Bug::LetsADrainGoAtOnce, Effect::Reply(ticket, _)) if self.drains.remove(ticket) => {
                self.hurried.insert(*ticket);
                vec![effect]
            }
            (Bug::LetsADrainGoAtOnce, Effect::Reply(ticket, _)) if self.hurried.contains(ticket) => Vec::new(),
            (Bug::SendsWithoutAFence, Effect::Send { replica, connection, command }) => {
                let command = Box::new(Command { clock: Clock(0), ..(**command).clone() });
                vec![Effect::Send { replica: replica.clone(), connection: *connection, command }]
            }
            (Bug::SendsTwice, Effect::Send { .. }) if self.every(3) => vec![effect.clone(), effect],
            (Bug::ForgetsToPublish, Effect::Publish(RouteChange::Route { .. })) if self.every(5) => Vec::new(),
            (Bug::PublishesAReplicaTooMany, Effect::Publish(RouteChange::Route { name, generation, route })) => {
                let mut route = route.clone();
                if let Some(backend) = route.iter_mut().flat_map(|route| &mut route.backends).next() {
                    backend.weight += 1;
                }
                let (name, generation) = (name.clone(), *generation);
                vec![Effect::Publish(RouteChange::Route { name, generation, route })]
            }
            (Bug::PublishesWithoutMirrors, Effect::Publish(RouteChange::Route { name, generation, route })) => {
                let mut route = route.clone();
                route.iter_mut().for_each(|route| route.mirrors.clear());
                let (name, generation) = (name.clone(), *generation);
                vec![Effect::Publish(RouteChange::Route { name, generation, route })]
            }
            (Bug::ForgetsToAnnounceASet, Effect::Publish(RouteChange::Set { endpoints: Some(_), .. }))
                if self.every(3) =>
            {
                Vec::new()
            }
            (Bug::WithdrawsASetInUse, Effect::Publish(RouteChange::Set { set, endpoints: Some(_) })) => {
                let gone = RouteChange::Set { set: set.clone(), endpoints: None };
                vec![effect, Effect::Publish(gone)]
            }
            (Bug::ForgetsToTell, Effect::Notify(Status::Model(..))) if self.every(5) => Vec::new(),
            (Bug::TellsAnOldStatus, Effect::Notify(Status::Model(name, status))) => {
                let old = self.statuses.insert(name.clone(), (**status).clone());
                vec![Effect::Notify(Status::Model(name.clone(), Box::new(old.unwrap_or((**status).clone()))))]
            }
            (Bug::SaysThatAStoppedExperimentIsActive, Effect::Notify(Status::Experiment(status))) => {
                let mut status = status.clone();
                status.active = true;
                vec![Effect::Notify(Status::Experiment(status))]
            }
            (Bug::AsksForAHugeServer, Effect::Notify(Status::Scaling(request))) => {
                let mut request = request.clone();
                request.replicas = request.replicas.wrapping_sub(9);
                vec![Effect::Notify(Status::Scaling(request))]
            }
            (Bug::ForgetsItsTimers, Effect::Wake(..)) => Vec::new(),
            _ => vec![effect],
        }
    }

    /// What the same event gives for the second time.
    pub fn again(&mut self, effects: &mut [Effect]) {
        if self.bug == Some(Bug::DrawsLots) && effects.len() > 1 && self.every(11) {
            effects.reverse();
        }
    }

    /// What a wrong machine tells itself after these effects.
    pub fn follow(&mut self, effects: &[Effect]) -> Vec<Event> {
        let mut events = Vec::new();
        for effect in effects {
            match (self.bug, effect) {
                (Some(Bug::UnloadsBeforeEnvoysLetGo), Effect::Publish(RouteChange::Route { name, generation, .. })) => {
                    events.push(Event::RouteReleased { name: name.clone(), generation: *generation })
                }
                (
                    Some(Bug::ForgetsThatExperimentsLeadThere),
                    Effect::Publish(RouteChange::Route {
                        name: name @ RoutableName::Experiment(_), generation, ..
                    }),
                ) => events.push(Event::RouteReleased { name: name.clone(), generation: *generation }),
                (
                    Some(Bug::IsAvailableBeforeEnvoysKnow),
                    Effect::Publish(RouteChange::Route { name, generation, .. }),
                ) => events.push(Event::RouteApplied { name: name.clone(), generation: *generation }),
                _ => {}
            }
        }
        events
    }

    /// Whether the effect comes out although the scheduler died before it could.
    pub fn leaks(&self, effect: &Effect) -> bool {
        self.bug == Some(Bug::ActsBeforeTheCommit) && matches!(effect, Effect::Send { .. })
    }
}
