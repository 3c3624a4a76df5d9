//! A world around the machine, for tests: agents that hold models, Envoys that acknowledge, a store that survives.
//!
//! The fakes do what the real parts promise and nothing more; faults (loss, reordering, refusal, restart) are the
//! test's to cause. After every event the world checks the invariants: those that the machine can tell of itself
//! (`Machine::check`), and those about histories (`watch`). A saboteur may stand between the machine and the world, for
//! tests that want a bug to be caught.

mod agents;
mod envoys;
mod saboteur;
mod watch;
pub mod workers;

use std::collections::{BTreeMap, BTreeSet};

pub use agents::Agent;
use domain::{
    Bytes, Candidate, Deployment, ExperimentName, ExperimentStatus, Generation, Lifecycle, Mirror, ModelDefinition,
    ModelName, ModelSpec, ModelState, ModelVersionId, PipelineName, ReplicaId, ReplicaIndex, Role, RoutableName,
    ServerBounds, ServerName, Subject, Ticket, Time, VersionNumber,
};
pub use envoys::EnvoyRoute;
pub use saboteur::{Bug, Saboteur};
use scheduler_core::{
    Action, Address, Command, Effect, Event, Experiment, Kept, Machine, Model, Pipeline, Record, Refusal, RouteChange,
    Server, Settings, Status, Timer, Workforce,
};
pub use workers::Workers;

pub struct World {
    pub machine: Machine,
    machine_before: Machine,
    pub now: Time,
    pub agents: BTreeMap<ReplicaId, Agent>,
    pub replies: BTreeMap<Ticket, Result<(), Refusal>>,
    pub statuses: Vec<Status>,
    pub commands: Vec<(ReplicaId, Command)>,
    models: BTreeMap<ModelName, Model>,
    servers: BTreeMap<ServerName, Server>,
    experiments: BTreeMap<ExperimentName, Experiment>,
    pipelines: BTreeMap<PipelineName, Pipeline>,
    workforce: BTreeMap<Role, Workforce>,
    pub workers: Workers,
    /// Where Envoys find pipeline gateways.
    pub gateways: Vec<Address>,
    timers: BTreeSet<(Time, Timer)>,
    asked: BTreeSet<Ticket>,
    pub routes: BTreeMap<RoutableName, EnvoyRoute>,
    pub events: u64,
    pub saboteur: Saboteur,
    watch: watch::Watch,
    connections: u64,
    tickets: u64,
}

pub fn model_name(text: &str) -> ModelName {
    ModelName::parse(text).expect("a model name")
}

pub fn pipeline_name(text: &str) -> PipelineName {
    PipelineName::parse(text).expect("a pipeline name")
}

/// `iris`, `ocr.pipeline` or `split.experiment`.
pub fn routable(text: &str) -> RoutableName {
    if let Some(name) = text.strip_suffix(".experiment") {
        return RoutableName::Experiment(ExperimentName::parse(name).expect("an experiment name"));
    }
    RoutableName::from(subject(text))
}

/// `iris` or `ocr.pipeline`.
pub fn subject(text: &str) -> Subject {
    match text.strip_suffix(".pipeline") {
        Some(name) => Subject::Pipeline(pipeline_name(name)),
        None => Subject::Model(model_name(text)),
    }
}

pub fn server_name(text: &str) -> ServerName {
    ServerName::parse(text).expect("a server name")
}

pub fn replica(text: &str) -> ReplicaId {
    let (server, index) = text.split_once('/').expect("server/index");
    ReplicaId { server: server_name(server), index: ReplicaIndex(index.parse().expect("an index")) }
}

pub fn version(model: &str, number: u32) -> ModelVersionId {
    ModelVersionId { model: model_name(model), number: VersionNumber(number) }
}

pub fn definition(name: &str, replicas: u32) -> ModelDefinition {
    ModelDefinition {
        name: model_name(name),
        kind: None,
        label: None,
        kubernetes: None,
        spec: ModelSpec {
            uri: format!("/models/{name}"),
            artifact_version: None,
            storage: None,
            requirements: vec!["onnx".into()],
            memory: Some(Bytes(10)),
            server: None,
            explainer: None,
            llm: None,
            parameters: Vec::new(),
        },
        deployment: Deployment { replicas, min_replicas: 0, max_replicas: 0, log_payloads: false },
        stream: None,
        clean_topics_on_delete: None,
    }
}

impl World {
    pub fn new() -> Self {
        Self {
            machine: Machine::new(Settings::default()),
            machine_before: Machine::new(Settings::default()),
            now: Time(1_000_000),
            agents: BTreeMap::new(),
            replies: BTreeMap::new(),
            statuses: Vec::new(),
            commands: Vec::new(),
            models: BTreeMap::new(),
            servers: BTreeMap::new(),
            experiments: BTreeMap::new(),
            pipelines: BTreeMap::new(),
            workforce: BTreeMap::new(),
            workers: Workers::default(),
            gateways: Vec::new(),
            timers: BTreeSet::new(),
            asked: BTreeSet::new(),
            routes: BTreeMap::new(),
            events: 0,
            saboteur: Saboteur::default(),
            watch: watch::Watch::default(),
            connections: 0,
            tickets: 0,
        }
    }

    /// A world with the server `onnx`, replicas of 100 bytes, all connected.
    pub fn with_replicas(count: u32) -> Self {
        let mut world = Self::new();
        world.notify("onnx", count);
        for index in 0..count {
            world.connect(&format!("onnx/{index}"));
        }
        world
    }

    pub fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.asked.insert(ticket);
        ticket
    }

    /// Hands an event to the machine, carries out the effects and checks the invariants.
    pub fn handle(&mut self, event: Event) {
        for event in self.saboteur.events(event) {
            self.handle_one(event);
        }
    }

    fn handle_one(&mut self, event: Event) {
        self.events += 1;
        let effects = self.decide(&event);
        self.watch.before(&event, &self.machine_before);
        let follow = self.saboteur.follow(&effects);
        for effect in effects {
            self.carry_out(effect, &event);
        }
        self.check(&event);
        for event in follow {
            self.handle_one(event);
        }
    }

    /// Lets the machine decide, twice (I4).
    fn decide(&mut self, event: &Event) -> Vec<Effect> {
        self.machine_before = self.machine.clone();
        let mut twin = self.machine.clone();
        let mut effects = Vec::new();
        self.machine.handle(event.clone(), self.now, &mut effects);
        if std::env::var_os("SIMULATION_TRACE").is_some() {
            println!("{event:?}\n    -> {effects:?}");
        }
        let mut again = Vec::new();
        twin.handle(event.clone(), self.now, &mut again);
        self.saboteur.again(&mut again);
        assert_eq!(effects, again, "I4: {event:?}");
        self.saboteur.effects(effects)
    }

    /// The scheduler dies after it has decided about an event: before the commit nothing of it was there, after it the
    /// writes are, and nothing else came out.
    pub fn crash_at(&mut self, event: Event, after_commit: bool) {
        let effects = self.decide(&event);
        for effect in effects {
            let is_write = matches!(effect, Effect::Write(_));
            if (is_write && after_commit) || self.saboteur.leaks(&effect) {
                self.carry_out(effect, &event);
            }
        }
        self.restart();
    }

    pub fn check(&mut self, event: &Event) {
        let violations = self.machine.check();
        assert!(violations.is_empty(), "after {event:?}: {violations:#?}");
        let restless = self.machine.restless(self.now);
        assert!(restless.is_empty(), "I5 after {event:?}: {restless:#?}");
        let kept: Vec<&Model> = self.models.values().collect();
        assert_eq!(kept, self.machine.models().collect::<Vec<_>>(), "the store lags after {event:?}");
        let kept: Vec<&Experiment> = self.experiments.values().collect();
        assert_eq!(kept, self.machine.experiments().collect::<Vec<_>>(), "the store lags after {event:?}");
        let kept: Vec<&Pipeline> = self.pipelines.values().collect();
        assert_eq!(kept, self.machine.pipelines().collect::<Vec<_>>(), "the store lags after {event:?}");
        self.watch.after(event, &self.machine_before, &self.machine, &self.routes);
    }

    fn carry_out(&mut self, effect: Effect, cause: &Event) {
        self.watch.effect(&effect, cause, &self.machine);
        match effect {
            Effect::Write(Record::Model(model)) => {
                self.models.insert(model.name.clone(), *model);
            }
            Effect::Write(Record::NoModel(name)) => {
                self.models.remove(&name);
            }
            Effect::Write(Record::Server(server)) => {
                self.servers.insert(server.name.clone(), *server);
            }
            Effect::Write(Record::Experiment(experiment)) => {
                self.experiments.insert(experiment.definition.name.clone(), *experiment);
            }
            Effect::Write(Record::NoExperiment(name)) => {
                self.experiments.remove(&name);
            }
            Effect::Send { replica, connection, command } => {
                if command.action == Action::Unload {
                    self.assert_not_routed(&replica, &command.version, cause);
                }
                self.commands.push((replica.clone(), (*command).clone()));
                if let Some(agent) = self.agents.get_mut(&replica)
                    && agent.connection == Some(connection)
                {
                    agent.inbox.push_back(*command);
                }
            }
            Effect::Publish(RouteChange::Route { name, generation, route }) => {
                self.routes.entry(name).or_default().generations.insert(generation, route);
            }
            Effect::Write(Record::Pipeline(pipeline)) => {
                self.pipelines.insert(pipeline.name.clone(), *pipeline);
            }
            Effect::Write(Record::NoPipeline(name)) => {
                self.pipelines.remove(&name);
            }
            Effect::Write(Record::Workforce(workforce)) => {
                self.workforce.insert(workforce.role, *workforce);
            }
            Effect::Work { worker, connection, order } => self.workers.take(worker, connection, *order),
            Effect::Publish(RouteChange::Gateways(gateways)) => self.gateways = gateways,
            Effect::Publish(RouteChange::Set { .. } | RouteChange::Mesh(_) | RouteChange::Declared { .. }) => {}
            Effect::Notify(status) => self.statuses.push(status),
            Effect::Reply(ticket, outcome) => {
                assert!(self.asked.contains(&ticket), "I7: {ticket} was never asked");
                assert!(self.replies.insert(ticket, outcome).is_none(), "I7: {ticket} has two replies");
            }
            Effect::Wake(at, timer) => {
                self.timers.insert((at, timer));
            }
        }
    }

    pub fn apply(&mut self, definition: ModelDefinition) -> Result<(), Refusal> {
        let ticket = self.ticket();
        self.handle(Event::ApplyModel { definition: Box::new(definition), ticket });
        self.replies.get(&ticket).cloned().expect("I7: there is no answer")
    }

    pub fn remove(&mut self, name: &str) -> Result<(), Refusal> {
        let ticket = self.ticket();
        self.handle(Event::RemoveModel { name: model_name(name), kubernetes: None, ticket });
        self.replies.get(&ticket).cloned().expect("I7: there is no answer")
    }

    /// Starts an experiment with these weights.
    pub fn start(
        &mut self,
        name: &str,
        default: Option<&str>,
        candidates: &[(&str, u32)],
        mirror: Option<(&str, u32)>,
    ) -> Result<(), Refusal> {
        let candidates = candidates.iter().map(|(name, weight)| Candidate { subject: subject(name), weight: *weight });
        let definition = domain::Experiment {
            name: ExperimentName::parse(name).expect("an experiment name"),
            default: default.map(subject),
            candidates: candidates.collect(),
            mirror: mirror.map(|(name, percent)| Mirror { subject: subject(name), percent }),
            sticky_sessions: None,
            kubernetes: None,
        };
        let ticket = self.ticket();
        self.handle(Event::StartExperiment { definition: Box::new(definition), ticket });
        self.replies.get(&ticket).cloned().expect("I7: there is no answer")
    }

    pub fn stop(&mut self, name: &str) -> Result<(), Refusal> {
        let ticket = self.ticket();
        let name = ExperimentName::parse(name).expect("an experiment name");
        self.handle(Event::StopExperiment { name, ticket });
        self.replies.get(&ticket).cloned().expect("I7: there is no answer")
    }

    pub fn experiment(&self, name: &str) -> ExperimentStatus {
        let name = ExperimentName::parse(name).expect("an experiment name");
        self.machine.experiment_status(&name).expect("a known experiment")
    }

    /// A machine with an empty store that waits for the first word about servers.
    pub fn waiting(settings: Settings, saboteur: Saboteur) -> Self {
        let mut world = Self::new();
        world.saboteur = saboteur;
        let waits = settings.first_sync_ms.is_some();
        let settings = match world.saboteur.bug {
            Some(Bug::DoesNotWaitForTheStart) => Settings { first_sync_ms: None, ..settings },
            _ => settings,
        };
        let (machine, effects) = Machine::restore(settings, Kept::default(), world.now);
        world.machine = machine;
        for effect in effects {
            if let Effect::Wake(at, timer) = effect {
                world.timers.insert((at, timer));
            }
        }
        if waits {
            world.watch.waits();
        }
        world
    }

    /// Says how large all servers are; the first time that is all there are.
    pub fn declare(&mut self, servers: &[(&str, u32, u32, u32)], first_sync: bool) {
        let bounds = |(name, expected, min, max): &(&str, u32, u32, u32)| {
            (server_name(name), ServerBounds { expected: *expected, min: *min, max: *max, kubernetes: None }, true)
        };
        let ticket = self.ticket();
        self.handle(Event::NotifyServers { servers: servers.iter().map(bounds).collect(), first_sync, ticket });
    }

    pub fn notify(&mut self, server: &str, expected: u32) {
        let bounds = ServerBounds { expected, min: 0, max: 0, kubernetes: None };
        let ticket = self.ticket();
        self.handle(Event::NotifyServers {
            servers: vec![(server_name(server), bounds, true)],
            first_sync: false,
            ticket,
        });
    }

    pub fn drain(&mut self, id: &str) -> Ticket {
        let ticket = self.ticket();
        self.handle(Event::DrainReplica { replica: replica(id), ticket });
        ticket
    }

    /// Lets time pass and fires what is due.
    pub fn pass(&mut self, milliseconds: u64) {
        let end = self.now.after(milliseconds);
        while let Some((at, timer)) = self.timers.first().cloned().filter(|(at, _)| *at <= end) {
            self.timers.remove(&(at, timer.clone()));
            self.now = self.now.max(at);
            self.handle(Event::Timer(timer));
        }
        self.now = end;
    }

    /// The scheduler dies and comes back from its store; agents and Envoys keep what they have.
    pub fn restart(&mut self) {
        let kept = Kept {
            models: self.models.values().cloned().collect(),
            servers: self.servers.values().cloned().collect(),
            experiments: self.experiments.values().cloned().collect(),
            pipelines: self.pipelines.values().cloned().collect(),
            workforce: self.workforce.values().cloned().collect(),
        };
        let (machine, effects) = Machine::restore(self.machine.settings().clone(), kept, self.now);
        self.machine = machine;
        self.timers.clear();
        // Requests in flight are lost with the process; their callers see the connection break.
        self.asked.retain(|ticket| self.replies.contains_key(ticket));
        for agent in self.agents.values_mut() {
            agent.connection = None;
            agent.inbox.clear();
        }
        self.workers.cut_off();
        // What Envoys route to now is what they had; generations are counted anew.
        for envoy in self.routes.values_mut() {
            let current = envoy.generations.values().next_back().cloned().flatten();
            *envoy = EnvoyRoute { generations: BTreeMap::from([(Generation(0), current)]), ..EnvoyRoute::default() };
        }
        self.watch.restart(&self.machine);
        self.machine_before = self.machine.clone();
        let cause = Event::Timer(Timer::Forget(model_name("restart")));
        for effect in effects {
            self.carry_out(effect, &cause);
        }
        self.check(&cause);
    }

    /// Tickets that are still without a reply (I7: only drains may take their time).
    pub fn open_tickets(&self) -> Vec<Ticket> {
        self.asked.iter().filter(|ticket| !self.replies.contains_key(*ticket)).copied().collect()
    }

    /// Everything that can go well does, until nothing is left to do.
    pub fn run(&mut self) {
        for _ in 0..1_000 {
            let mut busy = false;
            for id in self.agents.keys().map(ToString::to_string).collect::<Vec<_>>() {
                while self.step(&id, None) {
                    busy = true;
                }
            }
            for name in self.routes.keys().map(ToString::to_string).collect::<Vec<_>>() {
                let envoy = &self.routes[&routable(&name)];
                if envoy.generations.keys().next_back().is_some_and(|newest| envoy.released < *newest) {
                    self.ack(&name);
                    self.release(&name);
                    busy = true;
                }
            }
            if !busy {
                return;
            }
        }
        unreachable!("the world does not come to rest");
    }

    pub fn state(&self, name: &str) -> ModelState {
        self.machine.model_status(&model_name(name)).expect("a known model").state
    }

    pub fn reason(&self, name: &str) -> String {
        self.machine.model_status(&model_name(name)).expect("a known model").reason
    }

    /// `version@replica: lifecycle` of everything that is not over, in order.
    pub fn assignments(&self, name: &str) -> Vec<String> {
        let model = self.machine.model(&model_name(name)).expect("a known model");
        let mut lines = Vec::new();
        for (number, version) in &model.versions {
            for (index, assignment) in &version.assignments {
                if !assignment.lifecycle.is_over() {
                    let server = version.server.as_ref().map(ToString::to_string).unwrap_or_default();
                    lines.push(format!("{number}@{server}/{index}: {:?}", assignment.lifecycle));
                }
            }
        }
        lines
    }

    pub fn lifecycle(&self, name: &str, number: u32, index: u32) -> Option<Lifecycle> {
        let model = self.machine.model(&model_name(name))?;
        let assignment = model.versions.get(&VersionNumber(number))?.assignments.get(&ReplicaIndex(index))?;
        Some(assignment.lifecycle)
    }
}
