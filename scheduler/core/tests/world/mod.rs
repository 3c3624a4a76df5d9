//! A world around the machine, for tests: agents that hold models, Envoys that acknowledge, a store that survives.
//!
//! The fakes do what the real parts promise and nothing more; faults (loss, reordering, refusal, restart) are the
//! test's to cause. After every event the world checks the invariants.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use domain::{
    Bytes, Candidate, Deployment, ExperimentName, ExperimentStatus, Generation, Lifecycle, Mirror, ModelDefinition,
    ModelName, ModelSpec, ModelState, ModelVersionId, ReplicaConfig, ReplicaId, ReplicaIndex, RoutableName, Route,
    ServerBounds, ServerName, Ticket, Time, VersionNumber,
};
use scheduler_core::{
    Action, Command, ConnectionId, Effect, Event, Experiment, HeldModel, Kept, Machine, Model, Outcome, Record,
    Refusal, RouteChange, Server, Settings, Status, Timer,
};

pub struct World {
    pub machine: Machine,
    pub now: Time,
    pub agents: BTreeMap<ReplicaId, Agent>,
    pub replies: BTreeMap<Ticket, Result<(), Refusal>>,
    pub statuses: Vec<Status>,
    pub commands: Vec<(ReplicaId, Command)>,
    models: BTreeMap<ModelName, Model>,
    servers: BTreeMap<ServerName, Server>,
    experiments: BTreeMap<ExperimentName, Experiment>,
    timers: BTreeSet<(Time, Timer)>,
    asked: BTreeSet<Ticket>,
    pub routes: BTreeMap<RoutableName, EnvoyRoute>,
    connections: u64,
    tickets: u64,
}

/// What the Envoys know of one name: every generation since the last that all of them let go of.
#[derive(Default)]
pub struct EnvoyRoute {
    pub applied: Generation,
    pub released: Generation,
    pub generations: BTreeMap<Generation, Option<Route>>,
}

#[derive(Clone)]
pub struct Agent {
    pub connection: Option<ConnectionId>,
    pub config: ReplicaConfig,
    pub shared: bool,
    pub held: BTreeMap<(ModelName, VersionNumber), ModelDefinition>,
    pub inbox: VecDeque<Command>,
}

impl Agent {
    fn used(&self) -> Bytes {
        self.held.values().fold(Bytes(0), |sum, definition| sum + definition.spec.required_memory(None))
    }

    fn available(&self) -> Bytes {
        self.config.memory.saturating_sub(self.used())
    }
}

pub fn model_name(text: &str) -> ModelName {
    ModelName::parse(text).expect("a model name")
}

/// `iris`, or `split.experiment`.
pub fn routable(text: &str) -> RoutableName {
    match text.strip_suffix(".experiment") {
        Some(name) => RoutableName::Experiment(ExperimentName::parse(name).expect("an experiment name")),
        None => RoutableName::Model(model_name(text)),
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
            now: Time(1_000_000),
            agents: BTreeMap::new(),
            replies: BTreeMap::new(),
            statuses: Vec::new(),
            commands: Vec::new(),
            models: BTreeMap::new(),
            servers: BTreeMap::new(),
            experiments: BTreeMap::new(),
            timers: BTreeSet::new(),
            asked: BTreeSet::new(),
            routes: BTreeMap::new(),
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
        let mut twin = self.machine.clone();
        let mut effects = Vec::new();
        self.machine.handle(event.clone(), self.now, &mut effects);
        if std::env::var_os("SIMULATION_TRACE").is_some() {
            println!("{event:?}\n    -> {effects:?}");
        }
        let mut again = Vec::new();
        twin.handle(event.clone(), self.now, &mut again);
        assert_eq!(effects, again, "I4: {event:?}");
        for effect in effects {
            self.carry_out(effect, &event);
        }
        self.check(&event);
    }

    pub fn check(&self, event: &Event) {
        let violations = self.machine.check();
        assert!(violations.is_empty(), "after {event:?}: {violations:#?}");
        let restless = self.machine.restless(self.now);
        assert!(restless.is_empty(), "I5 after {event:?}: {restless:#?}");
        let kept: Vec<&Model> = self.models.values().collect();
        assert_eq!(kept, self.machine.models().collect::<Vec<_>>(), "the store lags after {event:?}");
        let kept: Vec<&Experiment> = self.experiments.values().collect();
        assert_eq!(kept, self.machine.experiments().collect::<Vec<_>>(), "the store lags after {event:?}");
    }

    fn carry_out(&mut self, effect: Effect, cause: &Event) {
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
            Effect::Publish(RouteChange::Set { .. } | RouteChange::Mesh(_)) => {}
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

    /// I3: no Envoy may still send requests for the version to the replica.
    fn assert_not_routed(&self, replica: &ReplicaId, version: &ModelVersionId, cause: &Event) {
        let key = (version.model.clone(), version.number);
        let answers = self.agents.get(replica).is_some_and(|agent| agent.held.contains_key(&key));
        if !answers {
            return;
        }
        for (name, envoy) in &self.routes {
            for (generation, route) in envoy.generations.range(envoy.released..) {
                let routed = route.iter().flat_map(|route| route.versions());
                let mut hits = routed.filter(|(other, set)| *other == version && set.contains(replica));
                assert!(
                    hits.next().is_none(),
                    "I3: {version} on {replica} unloaded while generation {generation} of {name} routes there, after {cause:?}"
                );
            }
        }
    }

    pub fn apply(&mut self, definition: ModelDefinition) -> Result<(), Refusal> {
        let ticket = self.ticket();
        self.handle(Event::ApplyModel { definition: Box::new(definition), ticket });
        self.replies[&ticket].clone()
    }

    pub fn remove(&mut self, name: &str) -> Result<(), Refusal> {
        let ticket = self.ticket();
        self.handle(Event::RemoveModel { name: model_name(name), kubernetes: None, ticket });
        self.replies[&ticket].clone()
    }

    /// Starts an experiment with these weights.
    pub fn start(
        &mut self,
        name: &str,
        default: Option<&str>,
        candidates: &[(&str, u32)],
        mirror: Option<(&str, u32)>,
    ) -> Result<(), Refusal> {
        let candidates = candidates.iter().map(|(name, weight)| Candidate { model: model_name(name), weight: *weight });
        let definition = domain::Experiment {
            name: ExperimentName::parse(name).expect("an experiment name"),
            default: default.map(model_name),
            candidates: candidates.collect(),
            mirror: mirror.map(|(name, percent)| Mirror { model: model_name(name), percent }),
            sticky_sessions: None,
            kubernetes: None,
        };
        let ticket = self.ticket();
        self.handle(Event::StartExperiment { definition: Box::new(definition), ticket });
        self.replies[&ticket].clone()
    }

    pub fn stop(&mut self, name: &str) -> Result<(), Refusal> {
        let ticket = self.ticket();
        let name = ExperimentName::parse(name).expect("an experiment name");
        self.handle(Event::StopExperiment { name, ticket });
        self.replies[&ticket].clone()
    }

    pub fn experiment(&self, name: &str) -> ExperimentStatus {
        let name = ExperimentName::parse(name).expect("an experiment name");
        self.machine.experiment_status(&name).expect("a known experiment")
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

    pub fn agent(&mut self, id: &str) -> &mut Agent {
        let host = format!("10.0.0.{}", replica(id).index);
        self.agents.entry(replica(id)).or_insert_with(|| Agent {
            connection: None,
            config: ReplicaConfig {
                host,
                http_port: 9000,
                grpc_port: 9000,
                memory: Bytes(100),
                capabilities: BTreeSet::from(["onnx".to_owned()]),
                over_commit_percentage: 0,
            },
            shared: true,
            held: BTreeMap::new(),
            inbox: VecDeque::new(),
        })
    }

    pub fn connect(&mut self, id: &str) {
        self.connections += 1;
        let connection = ConnectionId(self.connections);
        let agent = self.agent(id);
        agent.connection = Some(connection);
        agent.inbox.clear();
        let held = agent.held.iter().map(|((_, number), definition)| HeldModel {
            definition: definition.clone(),
            number: *number,
            runtime: None,
        });
        let event = Event::AgentConnected {
            replica: replica(id),
            connection,
            shared: agent.shared,
            config: agent.config.clone(),
            held: held.collect(),
            available: agent.available(),
        };
        self.handle(event);
    }

    /// The stream ends; what the agent holds stays.
    pub fn disconnect(&mut self, id: &str) {
        let agent = self.agent(id);
        let Some(connection) = agent.connection.take() else { return };
        agent.inbox.clear();
        self.handle(Event::AgentDisconnected { replica: replica(id), connection });
    }

    /// The agent and its server die and forget everything.
    pub fn kill(&mut self, id: &str) {
        self.agent(id).held.clear();
        self.disconnect(id);
    }

    /// The agent does its oldest command; says whether there was one.
    pub fn step(&mut self, id: &str, failure: Option<&str>) -> bool {
        let Some(agent) = self.agents.get_mut(&replica(id)) else { return false };
        let Some(command) = agent.inbox.pop_front() else { return false };
        let key = (command.version.model.clone(), command.version.number);
        let outcome = match (command.action, failure) {
            (Action::Load, None) => {
                agent.held.insert(key, command.definition.clone());
                assert!(agent.used() <= agent.config.memory, "I1: {id} is asked to hold {:?}", agent.held);
                Outcome::Loaded(None)
            }
            (Action::Load, Some(reason)) => Outcome::LoadFailed(reason.to_owned()),
            (Action::Unload, None) => {
                agent.held.remove(&key);
                Outcome::Unloaded
            }
            (Action::Unload, Some(reason)) => {
                agent.held.remove(&key);
                Outcome::UnloadFailed(reason.to_owned())
            }
        };
        let available = agent.available();
        let ticket = self.ticket();
        self.handle(Event::Report {
            replica: replica(id),
            version: command.version,
            outcome,
            fence: Some(command.clock),
            available,
            ticket,
        });
        true
    }

    /// A report with an old clock, which must change nothing (I6).
    pub fn stale_report(&mut self, id: &str, version: ModelVersionId, outcome: Outcome) {
        let before: Vec<Model> = self.machine.models().cloned().collect();
        let ticket = self.ticket();
        let available = Bytes(7);
        let fence = Some(domain::Clock(u64::MAX));
        self.handle(Event::Report { replica: replica(id), version, outcome, fence, available, ticket });
        assert!(matches!(self.replies[&ticket], Err(Refusal::StaleReport { .. })), "I6");
        assert_eq!(before, self.machine.models().cloned().collect::<Vec<_>>(), "I6");
    }

    /// Envoys acknowledge the newest generation of a name.
    pub fn ack(&mut self, name: &str) {
        let name = routable(name);
        let Some(envoy) = self.routes.get_mut(&name) else { return };
        let Some(generation) = envoy.generations.keys().next_back().copied() else { return };
        envoy.applied = generation;
        self.handle(Event::RouteApplied { name, generation });
    }

    /// No Envoy uses anything older than the newest generation of a name.
    pub fn release(&mut self, name: &str) {
        let name = routable(name);
        let Some(envoy) = self.routes.get_mut(&name) else { return };
        let Some(generation) = envoy.generations.keys().next_back().copied() else { return };
        envoy.applied = generation;
        envoy.released = generation;
        envoy.generations.retain(|older, _| *older >= generation);
        self.handle(Event::RouteReleased { name, generation });
    }

    pub fn reject(&mut self, name: &str, message: &str) {
        let name = routable(name);
        let Some(generation) = self.routes.get(&name).and_then(|r| r.generations.keys().next_back().copied()) else {
            return;
        };
        let message = message.to_owned();
        self.handle(Event::RouteRejected { name, generation, message });
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
        // What Envoys route to now is what they had; generations are counted anew.
        for envoy in self.routes.values_mut() {
            let current = envoy.generations.values().next_back().cloned().flatten();
            *envoy = EnvoyRoute { generations: BTreeMap::from([(Generation(0), current)]), ..EnvoyRoute::default() };
        }
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

    /// `version weight% replicas` of each backend of the newest route, or nothing.
    pub fn route(&self, name: &str) -> Vec<String> {
        let newest = self.routes.get(&routable(name)).and_then(|envoy| envoy.generations.values().next_back().cloned());
        let backends = newest.flatten().map(|route| route.backends).unwrap_or_default();
        backends.iter().map(|b| format!("{} {}% {}", b.version.number, b.weight, b.set)).collect()
    }

    /// `model@version weight` of each backend and `+model@version percent` of each mirror of the newest route.
    pub fn split(&self, name: &str) -> Vec<String> {
        let newest = self.routes.get(&routable(name)).and_then(|envoy| envoy.generations.values().next_back().cloned());
        let Some(route) = newest.flatten() else { return Vec::new() };
        let mirrors = route.mirrors.iter().map(|mirror| format!("+{} {}", mirror.version, mirror.percent));
        route.backends.iter().map(|b| format!("{} {}", b.version, b.weight)).chain(mirrors).collect()
    }
}
