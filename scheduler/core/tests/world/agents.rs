//! Fake agents: they hold models, do their commands when they are let, and report; faults are the test's to cause.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use domain::{Bytes, ModelDefinition, ModelName, ModelVersionId, ReplicaConfig, Ticket, VersionNumber};
use scheduler_core::{Action, Command, ConnectionId, Event, HeldModel, Model, Outcome, Refusal};

use super::{World, replica};

#[derive(Clone)]
pub struct Agent {
    pub connection: Option<ConnectionId>,
    pub config: ReplicaConfig,
    pub shared: bool,
    pub held: BTreeMap<(ModelName, VersionNumber), ModelDefinition>,
    pub inbox: VecDeque<Command>,
    /// It says the clock of a command in its report; foreign agents do not.
    pub echoes_fences: bool,
    /// What it reported last.
    pub said: Option<(Event, Ticket)>,
}

impl Agent {
    fn used(&self) -> Bytes {
        self.held.values().fold(Bytes(0), |sum, definition| sum + definition.spec.required_memory(None))
    }

    fn available(&self) -> Bytes {
        self.config.memory.saturating_sub(self.used())
    }
}

impl World {
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
            echoes_fences: true,
            said: None,
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
        let (available, echoes) = (agent.available(), agent.echoes_fences);
        let fence = echoes.then_some(command.clock);
        let ticket = self.ticket();
        let event = Event::Report { replica: replica(id), version: command.version, outcome, fence, available, ticket };
        if let Some(agent) = self.agents.get_mut(&replica(id)) {
            agent.said = Some((event.clone(), ticket));
        }
        self.handle(event);
        true
    }

    /// The agent does its newest command first; commands about different models may overtake each other.
    pub fn overtake(&mut self, id: &str) {
        let Some(agent) = self.agents.get_mut(&replica(id)) else { return };
        let Some(last) = agent.inbox.back() else { return };
        let model = last.version.model.clone();
        if agent.inbox.iter().filter(|command| command.version.model == model).count() == 1 {
            agent.inbox.rotate_right(1);
        }
        self.step(id, None);
    }

    /// The agent carries its oldest command out, and its stream breaks before it can say so.
    pub fn swallow(&mut self, id: &str) {
        let Some(agent) = self.agents.get_mut(&replica(id)) else { return };
        let Some(command) = agent.inbox.pop_front() else { return };
        let key = (command.version.model.clone(), command.version.number);
        match command.action {
            Action::Load => {
                agent.held.insert(key, command.definition.clone());
            }
            Action::Unload => {
                agent.held.remove(&key);
            }
        }
        self.disconnect(id);
    }

    /// The agent says once more what it said last. What was dealt with changes nothing (I6).
    pub fn repeat(&mut self, id: &str) {
        let Some((said, _)) = self.agents.get(&replica(id)).and_then(|agent| agent.said.clone()) else { return };
        let Event::Report { replica: at, version, outcome, fence, available, .. } = said else { return };
        // Without a fence a repeat cannot be told from news where it happens to fit.
        if fence.is_none() {
            return;
        }
        let before: Vec<Model> = self.machine.models().cloned().collect();
        let ticket = self.ticket();
        self.handle(Event::Report { replica: at, version, outcome, fence, available, ticket });
        let after: Vec<Model> = self.machine.models().cloned().collect();
        if self.replies.get(&ticket).is_some_and(Result::is_err) {
            assert_eq!(before, after, "I6: a repeated report changed something");
        }
    }

    /// A report with an old clock, which must change nothing (I6).
    pub fn stale_report(&mut self, id: &str, version: ModelVersionId, outcome: Outcome) {
        let before: Vec<Model> = self.machine.models().cloned().collect();
        let ticket = self.ticket();
        let available = Bytes(7);
        let fence = Some(domain::Clock(u64::MAX));
        self.handle(Event::Report { replica: replica(id), version, outcome, fence, available, ticket });
        let reply = self.replies.get(&ticket).expect("I7: there is no answer");
        assert!(matches!(reply, Err(Refusal::StaleReport { .. })), "I6: {reply:?}");
        assert_eq!(before, self.machine.models().cloned().collect::<Vec<_>>(), "I6");
    }
}
