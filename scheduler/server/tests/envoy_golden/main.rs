//! What is published in each situation, readable. `UPDATE=1 cargo test -p scheduler --test envoy_golden` writes the files
//! in `golden/` anew; read the difference.

#![expect(clippy::panic, reason = "a test fails by panicking")]

mod text;

use std::collections::BTreeSet;
use std::path::Path;

use domain::{
    Backend, Endpoint, ExperimentName, Generation, Health, MirrorBackend, ModelName, ModelVersionId, PipelineName,
    PlacementSet, ReplicaId, ReplicaIndex, RoutableName, Route, ServerName, Target, Time, VersionNumber,
};
use scheduler::envoy::{Publisher, Settings, UNSERVED_AFTER_MS};
use scheduler_core::{Address, RouteChange};
use xds::{Change, Key, Kind};

fn endpoint(index: u32, health: Health) -> Endpoint {
    let server = ServerName::parse("onnx").expect("a name");
    Endpoint {
        replica: ReplicaId { server, index: ReplicaIndex(index) },
        host: format!("10.0.0.{index}"),
        http_port: 9005,
        grpc_port: 9005,
        health,
    }
}

fn set(endpoints: &[Endpoint]) -> PlacementSet {
    let replicas: BTreeSet<ReplicaId> = endpoints.iter().map(|endpoint| endpoint.replica.clone()).collect();
    PlacementSet::new(replicas).expect("it has replicas")
}

fn placed(endpoints: &[Endpoint]) -> RouteChange {
    RouteChange::Set { set: set(endpoints), endpoints: Some(endpoints.to_vec()) }
}

fn route(backends: &[(u32, &[Endpoint], u32)], log_payloads: bool) -> RouteChange {
    let model = ModelName::parse("iris").expect("a name");
    let backend = |(number, endpoints, weight): &(u32, &[Endpoint], u32)| Backend {
        target: Target::Model {
            version: ModelVersionId { model: model.clone(), number: VersionNumber(*number) },
            set: set(endpoints),
        },
        weight: *weight,
    };
    let route = Route { backends: backends.iter().map(backend).collect(), mirrors: Vec::new(), log_payloads };
    RouteChange::Route { name: RoutableName::Model(model.clone()), generation: Generation(1), route: Some(route) }
}

/// What the changes add to what every Envoy gets.
fn published(changes: Vec<RouteChange>) -> Vec<Change> {
    let mut publisher = Publisher::new(Settings::default());
    let _first = publisher.apply([], Time(0));
    publisher.apply(changes, Time(0)).changes
}

/// What a gRPC client is told that asks for a name after the changes.
fn asked(changes: Vec<RouteChange>, name: &str) -> Vec<Change> {
    let mut publisher = Publisher::new(Settings::default());
    let _all = publisher.apply(changes, Time(0));
    publisher.want(&Key::new(Kind::Listener, name), Time(0)).changes
}

fn check(name: &str, changes: &[Change]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(format!("{name}.txt"));
    let fresh = text::of(changes);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &fresh).expect("write golden file");
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(fresh == golden, "{} differs; read it, then UPDATE=1:\n{fresh}", path.display());
}

#[test]
fn what_every_envoy_gets() {
    let all = Publisher::new(Settings::default()).apply([], Time(0)).changes;
    let (listener, mesh): (Vec<Change>, Vec<Change>) =
        all.into_iter().partition(|change| change.key().kind == Kind::Listener);
    check("listener", &listener);
    check("mesh", &mesh);
}

#[test]
fn plain_model_on_one_replica() {
    let one = [endpoint(0, Health::Healthy)];
    check("one_replica", &published(vec![placed(&one), route(&[(1, &one, 100)], false)]));
}

#[test]
fn plain_model_on_two_replicas() {
    let two = [endpoint(0, Health::Healthy), endpoint(1, Health::Healthy)];
    check("two_replicas", &published(vec![placed(&two), route(&[(1, &two, 100)], true)]));
}

#[test]
fn roll_out() {
    let old = [endpoint(0, Health::Healthy), endpoint(1, Health::Healthy)];
    let new = [endpoint(2, Health::Healthy)];
    let changes = vec![placed(&old), placed(&new), route(&[(1, &old, 66), (2, &new, 34)], false)];
    check("roll_out", &published(changes));
}

#[test]
fn experiment_with_a_mirror() {
    let (one, two) = ([endpoint(0, Health::Healthy)], [endpoint(1, Health::Healthy)]);
    let version = |model: &str, number| ModelVersionId {
        model: ModelName::parse(model).expect("a name"),
        number: VersionNumber(number),
    };
    let backend = |model, endpoints: &[Endpoint], weight| Backend {
        target: Target::Model { version: version(model, 1), set: set(endpoints) },
        weight,
    };
    let mirror = MirrorBackend { target: Target::Model { version: version("shadow", 3), set: set(&two) }, percent: 20 };
    let split = Route {
        backends: vec![backend("iris", &one, 8), backend("rose", &two, 2)],
        mirrors: vec![mirror],
        log_payloads: false,
    };
    let name = RoutableName::Experiment(ExperimentName::parse("split").expect("a name"));
    let split = RouteChange::Route { name, generation: Generation(1), route: Some(split) };
    check("experiment", &published(vec![placed(&one), placed(&two), split]));
}

#[test]
fn pipelines_and_their_gateways() {
    let name = PipelineName::parse("ocr").expect("a name");
    let backends = vec![Backend { target: Target::Pipeline(name.clone()), weight: 100 }];
    let route = Some(Route { backends, mirrors: Vec::new(), log_payloads: false });
    let gateway = |host: &str, port| Address { host: host.to_owned(), port };
    // Their order is no change, and one that Envoy could not be told of costs the others nothing.
    let gateways = vec![gateway("10.0.0.2", 9010), gateway("10.0.0.1", 9010), gateway("gateway-3", 9010)];
    let name = RoutableName::Pipeline(name);
    let changes = vec![RouteChange::Gateways(gateways), RouteChange::Route { name, generation: Generation(1), route }];
    check("pipeline", &published(changes));
}

/// The last resort is decided elsewhere: a set of lost replicas comes here as healthy ones, as in `two_replicas`.
#[test]
fn replicas_that_leave_or_are_lost() {
    let set = [endpoint(0, Health::Healthy), endpoint(1, Health::Draining), endpoint(2, Health::Unhealthy)];
    let changes = published(vec![placed(&set)]);
    let endpoints: Vec<Change> = changes.into_iter().filter(|change| change.key().kind == Kind::Endpoints).collect();
    check("leaving_and_lost", &endpoints);
}

#[test]
fn foreign_agent_with_two_ports() {
    let mut foreign = [endpoint(0, Health::Healthy)];
    foreign[0].grpc_port = 9500;
    let changes =
        published(vec![placed(&foreign), route(&[(1, &foreign, 100)], false), RouteChange::Mesh(foreign.to_vec())]);
    check("two_ports", &changes);
}

#[test]
fn names_that_are_declared_and_not_served() {
    let declared = |name| RouteChange::Declared { name, is: true };
    let model = RoutableName::Model(ModelName::parse("iris").expect("a name"));
    let pipeline = RoutableName::Pipeline(PipelineName::parse("ocr").expect("a name"));
    let mut publisher = Publisher::new(Settings::default());
    let _first = publisher.apply([], Time(0));
    let at_once = publisher.apply([declared(model), declared(pipeline)], Time(0));
    assert!(at_once.is_empty(), "they may be served soon");
    check("unserved", &publisher.tick(Time(UNSERVED_AFTER_MS)).changes);
}

#[test]
fn grpc_client_of_a_model_in_a_roll_out() {
    let old = [endpoint(0, Health::Healthy), endpoint(1, Health::Draining)];
    let mut new = [endpoint(0, Health::Healthy), endpoint(2, Health::Unhealthy)];
    // A foreign agent.
    new[1].grpc_port = 9500;
    let changes = vec![placed(&old), placed(&new), route(&[(1, &old, 50), (2, &new, 50)], false)];
    check("grpc_roll_out", &asked(changes, "iris"));
}

#[test]
fn grpc_client_of_a_name_that_leads_nowhere() {
    check("grpc_unknown", &asked(Vec::new(), "iris"));
    let name = RoutableName::Model(ModelName::parse("iris").expect("a name"));
    let declared = RouteChange::Declared { name, is: true };
    check("grpc_without_replicas", &asked(vec![declared.clone()], "iris"));
    let removed =
        RouteChange::Declared { name: RoutableName::Model(ModelName::parse("iris").expect("a name")), is: false };
    assert!(asked(vec![declared, removed], "iris") == asked(Vec::new(), "iris"), "a removed model is unknown");
    check("grpc_experiment", &asked(Vec::new(), "split.experiment"));
}

#[test]
fn grpc_client_of_a_pipeline() {
    let name = PipelineName::parse("ocr").expect("a name");
    let backends = vec![Backend { target: Target::Pipeline(name.clone()), weight: 100 }];
    let route = Some(Route { backends, mirrors: Vec::new(), log_payloads: false });
    let gateways = vec![Address { host: "10.0.0.2".to_owned(), port: 9010 }];
    let name = RoutableName::Pipeline(name);
    let changes = vec![RouteChange::Gateways(gateways), RouteChange::Route { name, generation: Generation(1), route }];
    check("grpc_pipeline", &asked(changes, "ocr.pipeline"));
}
