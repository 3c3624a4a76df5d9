//! No decision costs more because there are more models. Work is counted, not timed: the allocations of one event and
//! their bytes, which are the same in every run. (A scan that allocates nothing is not seen; those are few, and the
//! storms of `tests/bench` time them.) With `--nocapture` it prints the table; `SWITCHYARD_WORK=100000` sets the
//! largest number of models.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use allocation_counter::measure;
use domain::{
    Bytes, Candidate, Deployment, Experiment, ExperimentName, ModelDefinition, ModelName, ModelSpec, ReplicaConfig,
    ReplicaId, ReplicaIndex, ServerBounds, ServerName, Ticket, Time,
};
use scheduler_core::{Action, ConnectionId, Effect, Event, Machine, Outcome, RouteChange, Settings};

/// The numbers of models that are compared.
const SIZES: [usize; 3] = [100, 1_000, 10_000];
/// Models that wait for something that nobody has, beside the largest number of others.
const HUNGRY: usize = 10_000;
/// Each kind of event is counted so often; the median counts, because a map's node is split now and then.
const ROUNDS: usize = 9;
const SERVERS: usize = 4;
const REPLICAS: u32 = 2;
/// No model is too large.
const MEMORY: Bytes = Bytes(1 << 50);

/// Allocations and bytes of one event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Work {
    allocations: u64,
    bytes: u64,
}

/// A machine, with agents and Envoys that do at once what they are told.
struct Site {
    machine: Machine,
    now: Time,
    tickets: u64,
    connections: u64,
}

impl Site {
    fn new() -> Site {
        let (now, tickets, connections) = (Time(1_000_000), 0, 0);
        let mut site = Site { machine: Machine::new(Settings::default()), now, tickets, connections };
        for server in 0..SERVERS {
            for index in 0..REPLICAS {
                let connected = site.connect(&format!("server-{server}"), index);
                site.run(connected);
            }
        }
        site
    }

    fn with(models: usize, hungry: usize) -> Site {
        let mut site = Site::new();
        for number in 0..models {
            let definition = definition(&format!("model-{number:06}"), &format!("server-{}", number % SERVERS));
            let declared = site.declare(definition);
            site.run(declared);
        }
        for number in 0..hungry {
            let declared = site.declare(definition(&format!("hungry-{number:06}"), "gpu"));
            site.run(declared);
        }
        site
    }

    fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    fn declare(&mut self, definition: ModelDefinition) -> Event {
        Event::ApplyModel { definition: Box::new(definition), ticket: self.ticket() }
    }

    fn connect(&mut self, server: &str, index: u32) -> Event {
        self.connections += 1;
        Event::AgentConnected {
            replica: replica(server, index),
            connection: ConnectionId(self.connections),
            shared: true,
            config: ReplicaConfig {
                host: "10.0.0.1".into(),
                http_port: 9000,
                grpc_port: 9000,
                memory: MEMORY,
                capabilities: BTreeSet::from([server.to_owned()]),
                over_commit_percentage: 0,
            },
            held: Vec::new(),
            available: MEMORY,
        }
    }

    /// What one event leads to, counted.
    fn one(&mut self, event: Event) -> (Work, Vec<Effect>) {
        let mut effects = Vec::with_capacity(64);
        let (machine, now) = (&mut self.machine, self.now);
        let counted = measure(|| machine.handle(event, now, &mut effects));
        (Work { allocations: counted.count_total, bytes: counted.bytes_total }, effects)
    }

    /// One event and all that follows from it.
    fn run(&mut self, event: Event) {
        let mut waiting = VecDeque::from([event]);
        while let Some(event) = waiting.pop_front() {
            let mut effects = Vec::new();
            self.machine.handle(event, self.now, &mut effects);
            waiting.extend(effects.into_iter().flat_map(|effect| self.follows(effect)));
        }
    }

    /// What the world says to an effect.
    fn follows(&mut self, effect: Effect) -> Vec<Event> {
        match effect {
            Effect::Send { replica, command, .. } => {
                let outcome = match command.action {
                    Action::Load => Outcome::Loaded(None),
                    Action::Unload => Outcome::Unloaded,
                };
                let (version, fence, ticket) = (command.version, Some(command.clock), self.ticket());
                vec![Event::Report { replica, version, outcome, fence, available: MEMORY, ticket }]
            }
            Effect::Publish(RouteChange::Route { name, generation, .. }) => {
                vec![Event::RouteApplied { name: name.clone(), generation }, Event::RouteReleased { name, generation }]
            }
            Effect::Publish(_)
            | Effect::Work { .. }
            | Effect::Write(_)
            | Effect::Notify(_)
            | Effect::Reply(..)
            | Effect::Wake(..) => Vec::new(),
        }
    }

    /// Counts one event of each kind.
    fn round(&mut self, round: usize, work: &mut BTreeMap<&'static str, Vec<Work>>) {
        let mut note = |kind, counted| work.entry(kind).or_default().push(counted);
        let name = format!("new-{round}");

        let declared = self.declare(definition(&name, "server-1"));
        let (counted, effects) = self.one(declared);
        note("declare a model", counted);
        let follows = |site: &mut Site, effects: Vec<Effect>| -> Vec<Event> {
            effects.into_iter().flat_map(|effect| site.follows(effect)).collect()
        };
        let report = only(follows(self, effects));
        let (counted, effects) = self.one(report);
        note("an agent's report", counted);
        let events = follows(self, effects);
        for (kind, event) in ["Envoys applied it", "Envoys let go of the older"].into_iter().zip(events) {
            let (counted, effects) = self.one(event);
            note(kind, counted);
            assert!(follows(self, effects).is_empty(), "{kind}: nothing more follows");
        }

        let connected = self.connect("idle", 0);
        let (counted, _) = self.one(connected);
        note("an agent comes with nothing", counted);
        let gone = Event::AgentDisconnected { replica: replica("idle", 0), connection: ConnectionId(self.connections) };
        let (counted, _) = self.one(gone);
        note("it goes", counted);

        let bounds = ServerBounds { expected: REPLICAS, min: 0, max: 0, kubernetes: None };
        let servers = vec![(server("server-0"), bounds, true)];
        let ticket = self.ticket();
        let (counted, _) = self.one(Event::NotifyServers { servers, first_sync: false, ticket });
        note("a server's size", counted);

        let started = self.experiment(round);
        let (counted, effects) = self.one(started);
        note("start an experiment", counted);
        for event in follows(self, effects) {
            self.run(event);
        }

        let machine = &self.machine;
        let counted = measure(|| drop(machine.model_status(&model(&name))));
        note("the status of one", Work { allocations: counted.count_total, bytes: counted.bytes_total });

        let ticket = self.ticket();
        let (counted, effects) = self.one(Event::RemoveModel { name: model(&name), kubernetes: None, ticket });
        note("remove a model", counted);
        for event in follows(self, effects) {
            self.run(event);
        }
    }

    fn experiment(&mut self, round: usize) -> Event {
        let candidate = |number: usize| Candidate {
            subject: domain::Subject::Model(model(&format!("model-{number:06}"))),
            weight: 50,
        };
        let definition = Experiment {
            name: ExperimentName::parse(&format!("split-{round}")).expect("a name"),
            default: None,
            candidates: vec![candidate(round * 2), candidate(round * 2 + 1)],
            mirror: None,
            sticky_sessions: None,
            kubernetes: None,
        };
        Event::StartExperiment { definition: Box::new(definition), ticket: self.ticket() }
    }

    /// The median work of each kind of event.
    fn work(mut self) -> BTreeMap<&'static str, Work> {
        let mut rounds = BTreeMap::new();
        for round in 0..ROUNDS {
            self.round(round, &mut rounds);
        }
        let median = |mut counted: Vec<Work>| {
            counted.sort_unstable();
            counted[counted.len() / 2]
        };
        rounds.into_iter().map(|(kind, counted)| (kind, median(counted))).collect()
    }
}

fn only(mut events: Vec<Event>) -> Event {
    assert_eq!(events.len(), 1, "{events:?}");
    events.remove(0)
}

fn model(name: &str) -> ModelName {
    ModelName::parse(name).expect("a model name")
}

fn server(name: &str) -> ServerName {
    ServerName::parse(name).expect("a server name")
}

fn replica(name: &str, index: u32) -> ReplicaId {
    ReplicaId { server: server(name), index: ReplicaIndex(index) }
}

fn definition(name: &str, requirement: &str) -> ModelDefinition {
    ModelDefinition {
        name: model(name),
        kind: None,
        label: None,
        kubernetes: None,
        spec: ModelSpec {
            uri: format!("/models/{name}"),
            artifact_version: None,
            storage: None,
            requirements: vec![requirement.to_owned()],
            memory: Some(Bytes(10)),
            server: None,
            explainer: None,
            llm: None,
            parameters: Vec::new(),
        },
        deployment: Deployment { replicas: 1, ..Deployment::default() },
        stream: None,
        clean_topics_on_delete: None,
    }
}

/// At most half as much again, and a node of a map or two.
fn is_flat(few: Work, many: Work) -> bool {
    many.allocations <= few.allocations * 3 / 2 + 8 && many.bytes <= few.bytes * 3 / 2 + 4_096
}

#[test]
fn work_for_an_event_does_not_grow_with_the_number_of_models() {
    let largest = std::env::var("SWITCHYARD_WORK").ok().and_then(|text| text.parse().ok());
    let sizes: Vec<usize> = SIZES.into_iter().chain(largest).collect();
    let mut columns: Vec<(String, BTreeMap<&str, Work>)> = Vec::new();
    for models in &sizes {
        columns.push((format!("{models} models"), Site::with(*models, 0).work()));
    }
    let most = sizes.last().copied().unwrap_or_default();
    columns.push((format!("{most} and {HUNGRY} hungry"), Site::with(most, HUNGRY).work()));

    let titles: Vec<&str> = columns.iter().map(|(title, _)| title.as_str()).collect();
    println!(
        "| allocations (bytes) of one event | {} |\n| --- |{}",
        titles.join(" | "),
        " ---: |".repeat(titles.len())
    );
    let (_, base) = columns.first().expect("a size");
    let mut grows = Vec::new();
    for (kind, few) in base {
        let works: Vec<Work> = columns.iter().map(|(_, work)| work[kind]).collect();
        let cells: Vec<String> = works.iter().map(|work| format!("{} ({})", work.allocations, work.bytes)).collect();
        println!("| {kind} | {} |", cells.join(" | "));
        grows
            .extend(works.iter().filter(|many| !is_flat(*few, **many)).map(|many| format!("{kind}: {few:?} {many:?}")));
    }
    assert!(grows.is_empty(), "work grows with the number of models: {grows:#?}");
}
