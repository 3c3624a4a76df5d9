//! Laws of the publisher, against the table it is published to.

use std::collections::{BTreeMap, BTreeSet};

use domain::{
    Backend, Endpoint, Generation, Health, ModelName, ModelVersionId, PlacementSet, ReplicaId, ReplicaIndex,
    RoutableName, Route, ServerName, Target, Time, VersionNumber,
};
use proptest::prelude::*;
use scheduler::envoy::{News, Publication, Publisher, SET_GRACE_MS, Settings};
use scheduler_core::RouteChange;
use xds::{Change, Feedback, Key, Kind, Revision, Table, Version};

fn name(model: &str) -> RoutableName {
    RoutableName::Model(ModelName::parse(model).expect("a name"))
}

fn set(indexes: &[u32]) -> PlacementSet {
    let server = ServerName::parse("onnx").expect("a name");
    let replicas: BTreeSet<ReplicaId> =
        indexes.iter().map(|index| ReplicaId { server: server.clone(), index: ReplicaIndex(*index) }).collect();
    PlacementSet::new(replicas).expect("it has replicas")
}

fn placed(set: &PlacementSet, two_ports: bool) -> RouteChange {
    let endpoint = |replica: &ReplicaId| Endpoint {
        replica: replica.clone(),
        host: "10.0.0.1".to_owned(),
        http_port: 9005,
        grpc_port: 9005 + u16::from(two_ports),
        health: Health::Healthy,
    };
    RouteChange::Set { set: set.clone(), endpoints: Some(set.replicas().map(endpoint).collect()) }
}

fn gone(set: &PlacementSet) -> RouteChange {
    RouteChange::Set { set: set.clone(), endpoints: None }
}

fn route(model: &str, generation: u64, sets: &[&PlacementSet]) -> RouteChange {
    let weight = 100 / u32::try_from(sets.len().max(1)).expect("few");
    let backend = |(number, set): (u32, &&PlacementSet)| Backend {
        target: Target::Model {
            version: ModelVersionId { model: ModelName::parse(model).expect("a name"), number: VersionNumber(number) },
            set: (*set).clone(),
        },
        weight,
    };
    let backends: Vec<Backend> = (1..).zip(sets).map(backend).collect();
    let route = (!backends.is_empty()).then_some(Route { backends, mirrors: Vec::new(), log_payloads: false });
    RouteChange::Route { name: name(model), generation: Generation(generation), route }
}

/// A publisher and the table it writes.
struct World {
    publisher: Publisher,
    table: Table,
}

impl World {
    fn new() -> World {
        World { publisher: Publisher::new(Settings::default()), table: Table::new() }
    }

    fn apply(&mut self, changes: Vec<RouteChange>, now: u64) -> (Publication, Revision) {
        let publication = self.publisher.apply(changes, Time(now));
        let revision = self.publish(&publication);
        (publication, revision)
    }

    fn tick(&mut self, now: u64) -> Publication {
        let publication = self.publisher.tick(Time(now));
        self.publish(&publication);
        publication
    }

    fn publish(&mut self, publication: &Publication) -> Revision {
        let revision = self.table.apply(publication.changes.clone()).expect("every reference holds");
        self.publisher.published(revision);
        revision
    }

    /// What is in the table, by key.
    fn content(&self) -> BTreeMap<Key, Version> {
        Kind::ALL.iter().flat_map(|kind| self.table.iter(*kind)).map(|r| (r.key(), r.version())).collect()
    }
}

fn scope(model: &str) -> Key {
    Key::new(Kind::ScopedRoute, model)
}

fn keys(publication: &Publication) -> Vec<(Kind, bool)> {
    publication.changes.iter().map(|change| (change.key().kind, matches!(change, Change::Put(_)))).collect()
}

#[test]
fn same_input_gives_the_same_bytes() {
    let publish = || {
        let (one, two) = (set(&[0]), set(&[1, 2]));
        let changes = [
            placed(&one, false),
            placed(&two, true),
            route("plain", 1, &[&one]),
            route("shared", 1, &[&one, &two]),
            RouteChange::Mesh(Vec::new()),
        ];
        Publisher::new(Settings::default()).apply(changes, Time(0))
    };
    let first = publish();
    for _ in 0..100 {
        assert_eq!(publish(), first);
    }
}

#[test]
fn first_publication_is_whole_and_later_ones_are_changes() {
    let one = set(&[0]);
    let mut world = World::new();
    world.apply(vec![placed(&one, false), route("iris", 1, &[&one])], 0);
    let content: Vec<String> = world.content().keys().map(ToString::to_string).collect();
    let cluster = content.iter().find(|key| key.contains("set-")).and_then(|key| key.split(' ').nth(1)).expect("one");
    assert_eq!(
        content,
        [
            "Cluster mesh-shared",
            "Cluster pipeline-gateways",
            &format!("Cluster {cluster}"),
            "Endpoints mesh-shared",
            "Endpoints pipeline-gateways",
            &format!("Endpoints {cluster}"),
            "Listener http",
            "ScopedRoute .mesh",
            "ScopedRoute .ready",
            "ScopedRoute iris",
        ]
    );
    let (publication, _) = world.apply(vec![route("other", 1, &[&one])], 0);
    assert_eq!((keys(&publication), publication.gated), (vec![(Kind::ScopedRoute, true)], vec![scope("other")]));
    assert!(world.apply(Vec::new(), 0).0.is_empty());
}

#[test]
fn change_costs_the_same_whatever_the_number_of_models() {
    let (one, two) = (set(&[0]), set(&[1]));
    let mut world = World::new();
    let mut all = vec![placed(&one, false), placed(&two, false)];
    all.extend((0..10_000).map(|index| route(&format!("m-{index}"), 1, &[&one])));
    world.apply(all, 0);
    let (moved, _) = world.apply(vec![route("m-7", 2, &[&two])], 0);
    assert_eq!(keys(&moved), [(Kind::ScopedRoute, true)]);
    let (weakened, _) = world.apply(vec![placed(&one, false)], 0);
    assert_eq!(keys(&weakened), [(Kind::Endpoints, true)]);
}

#[test]
fn unused_set_goes_after_the_grace() {
    let one = set(&[0]);
    let mut world = World::new();
    world.apply(vec![placed(&one, false), route("iris", 1, &[&one])], 0);
    let before = world.content();
    let (publication, _) = world.apply(vec![route("iris", 2, &[]), gone(&one)], 1_000);
    assert_eq!(keys(&publication), [(Kind::ScopedRoute, false)]);
    assert_eq!(world.publisher.due(), Some(Time(1_000 + SET_GRACE_MS)));
    assert!(world.tick(999 + SET_GRACE_MS).is_empty());

    // It comes back in time: nothing changes but the route.
    let revision = world.table.revision();
    world.apply(vec![placed(&one, false)], 2_000);
    assert_eq!((world.publisher.due(), world.table.revision()), (None, revision));
    world.apply(vec![route("iris", 3, &[&one])], 2_000);
    assert_eq!(world.content(), before);

    world.apply(vec![route("iris", 4, &[]), gone(&one)], 3_000);
    let removed = world.tick(3_000 + SET_GRACE_MS);
    assert_eq!(keys(&removed), [(Kind::Cluster, false), (Kind::Endpoints, false)]);
    assert_eq!(world.publisher.due(), None);
}

#[test]
fn set_that_gets_two_ports_takes_its_routes_along() {
    let one = set(&[0]);
    let mut world = World::new();
    world.apply(vec![placed(&one, false), route("a", 5, &[&one]), route("b", 6, &[&one])], 0);
    let (publication, revision) = world.apply(vec![placed(&one, true)], 0);
    let put = |kind| (kind, true);
    let expected =
        [Kind::Cluster, Kind::Endpoints, Kind::Cluster, Kind::Endpoints, Kind::ScopedRoute, Kind::ScopedRoute].map(put);
    assert_eq!(keys(&publication), expected);
    assert_eq!(publication.gated, [scope("a"), scope("b")]);
    let applied = Feedback::Applied { key: scope("b"), revision };
    let news = News::Applied { name: name("b"), generation: Generation(6) };
    assert_eq!(world.publisher.hear(applied), Some(news));
    assert_eq!(keys(&world.tick(SET_GRACE_MS)), [(Kind::Cluster, false), (Kind::Endpoints, false)]);
}

#[test]
fn feedback_is_told_by_name_and_generation() {
    let one = set(&[0]);
    let mut world = World::new();
    let (_, first) = world.apply(vec![placed(&one, false), route("iris", 1, &[&one])], 0);
    let (second, later) = world.apply(vec![route("iris", 2, &[&one, &one])], 0);
    let version = second.changes.iter().find_map(|change| match change {
        Change::Put(resource) if resource.key() == scope("iris") => Some(resource.version()),
        Change::Put(_) | Change::Remove(_) => None,
    });
    let key = scope("iris");
    let applied = |generation| Some(News::Applied { name: name("iris"), generation: Generation(generation) });
    let released = |generation| Some(News::Released { name: name("iris"), generation: Generation(generation) });
    let hear = |world: &mut World, feedback| world.publisher.hear(feedback);
    // What was on its way when the newer one was published still counts for the older.
    assert_eq!(hear(&mut world, Feedback::Applied { key: key.clone(), revision: first }), applied(1));
    let refused = |version| Feedback::Rejected {
        key: scope("iris"),
        version,
        node: "envoy-0".to_owned(),
        message: "no".to_owned(),
    };
    let rejected = News::Rejected {
        name: name("iris"),
        generation: Generation(2),
        node: "envoy-0".to_owned(),
        message: "no".to_owned(),
    };
    assert_eq!(hear(&mut world, refused(version)), Some(rejected.clone()));
    assert_eq!(hear(&mut world, Feedback::Applied { key: key.clone(), revision: later }), applied(2));
    assert_eq!(hear(&mut world, Feedback::Released { key: key.clone(), revision: later }), released(2));
    assert_eq!(hear(&mut world, Feedback::Released { key: key.clone(), revision: first }), None);
    // An Envoy that comes later may refuse what is current.
    assert_eq!(hear(&mut world, refused(version)), Some(rejected));
    let (_, last) = world.apply(vec![route("iris", 3, &[])], 0);
    assert_eq!(hear(&mut world, Feedback::Released { key: key.clone(), revision: last }), released(3));
    // Forgotten.
    assert_eq!(hear(&mut world, Feedback::Applied { key, revision: last }), None);
    let mesh =
        Feedback::Rejected { key: scope(".mesh"), version: None, node: "envoy-0".to_owned(), message: "no".to_owned() };
    assert!(matches!(hear(&mut world, mesh), Some(News::Refused { .. })));
    assert_eq!(hear(&mut world, Feedback::Connected { streams: 3 }), Some(News::Connected { streams: 3 }));
}

#[test]
fn absence_of_a_name_nobody_published_is_told() {
    let mut world = World::new();
    world.apply(Vec::new(), 0);
    let (publication, revision) = world.apply(vec![route("ghost", 1, &[])], 0);
    assert_eq!(publication.gated, [scope("ghost")]);
    let released = Feedback::Released { key: scope("ghost"), revision };
    let news = News::Released { name: name("ghost"), generation: Generation(1) };
    assert_eq!(world.publisher.hear(released), Some(news));
}

/// The sets and models of a random history.
const SETS: [&[u32]; 4] = [&[0], &[1], &[0, 1], &[2]];
const MODELS: [&str; 3] = ["a", "b", "c"];

#[derive(Clone, Debug)]
enum Step {
    Lead(usize, Vec<usize>),
    Ports(usize, bool),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..MODELS.len(), prop::collection::btree_set(0..SETS.len(), 0..3))
            .prop_map(|(model, sets)| Step::Lead(model, sets.into_iter().collect())),
        1 => (0..SETS.len(), any::<bool>()).prop_map(|(set, two)| Step::Ports(set, two)),
        2 => (0..2 * SET_GRACE_MS).prop_map(Step::Pass),
    ]
}

proptest! {
    /// No history leaves a reference without its end, and after the grace the table is what a new publisher would
    /// have made of the present.
    #[test]
    fn table_depends_on_the_present_only(steps in prop::collection::vec(step(), 0..40)) {
        let mut world = World::new();
        let mut now = 0;
        let mut ports = [false; SETS.len()];
        let mut routes: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        let used = |routes: &BTreeMap<usize, Vec<usize>>| -> BTreeSet<usize> { routes.values().flatten().copied().collect() };
        let lead = |model: usize, generation, sets: &[usize]| {
            let sets: Vec<PlacementSet> = sets.iter().map(|index| set(SETS[*index])).collect();
            route(MODELS[model], generation, &sets.iter().collect::<Vec<_>>())
        };
        for (generation, step) in (1..).zip(steps) {
            match step {
                Step::Lead(model, sets) => {
                    let before = used(&routes);
                    routes.insert(model, sets.clone());
                    let after = used(&routes);
                    let mut changes: Vec<RouteChange> =
                        after.difference(&before).map(|index| placed(&set(SETS[*index]), ports[*index])).collect();
                    changes.push(lead(model, generation, &sets));
                    changes.extend(before.difference(&after).map(|index| gone(&set(SETS[*index]))));
                    world.apply(changes, now);
                }
                Step::Ports(index, two) => {
                    ports[index] = two;
                    if used(&routes).contains(&index) {
                        world.apply(vec![placed(&set(SETS[index]), two)], now);
                    }
                }
                Step::Pass(milliseconds) => {
                    now += milliseconds;
                    world.tick(now);
                }
            }
        }
        world.apply(Vec::new(), now);
        world.tick(now + SET_GRACE_MS);
        let mut fresh = World::new();
        let mut changes: Vec<RouteChange> =
            used(&routes).iter().map(|index| placed(&set(SETS[*index]), ports[*index])).collect();
        changes.extend(routes.iter().map(|(model, sets)| lead(*model, 1, sets)));
        fresh.apply(changes, 0);
        prop_assert_eq!(world.content(), fresh.content());
    }
}
