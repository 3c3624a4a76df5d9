//! Laws of the publisher, against the table it is published to.

use std::collections::{BTreeMap, BTreeSet};

use domain::{
    Backend, Endpoint, Generation, Health, ModelName, ModelVersionId, PipelineName, PlacementSet, ReplicaId,
    ReplicaIndex, RoutableName, Route, ServerName, Target, Time, VersionNumber,
};
use proptest::prelude::*;
use scheduler::envoy::{News, Publication, Publisher, SET_GRACE_MS, Settings, UNSERVED_AFTER_MS};
use scheduler_core::{Address, RouteChange};
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

fn placed_at(set: &PlacementSet, host: &str) -> RouteChange {
    let RouteChange::Set { set, endpoints: Some(mut endpoints) } = placed(set, false) else { unreachable!() };
    endpoints.iter_mut().for_each(|endpoint| endpoint.host = host.to_owned());
    RouteChange::Set { set, endpoints: Some(endpoints) }
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
    assert_eq!(world.publisher.hear(applied, Time(0)), Some(news));
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
    let hear = |world: &mut World, feedback| world.publisher.hear(feedback, Time(0));
    // What was on its way when the newer one was published still counts for the older.
    assert_eq!(hear(&mut world, Feedback::Applied { key: key.clone(), revision: first }), applied(1));
    let refused = |version| Feedback::Rejected {
        key: scope("iris"),
        version,
        node: "envoy-0".to_owned(),
        message: "no".to_owned(),
    };
    let one_refused = Some(News::Refused { key: scope("iris"), node: "envoy-0".to_owned(), message: "no".to_owned() });
    assert_eq!(hear(&mut world, refused(version)), one_refused);
    assert_eq!(hear(&mut world, Feedback::Applied { key: key.clone(), revision: later }), applied(2));
    assert_eq!(hear(&mut world, Feedback::Released { key: key.clone(), revision: later }), released(2));
    assert_eq!(hear(&mut world, Feedback::Released { key: key.clone(), revision: first }), None);
    // An Envoy that comes later may refuse what is current.
    assert_eq!(hear(&mut world, refused(version)), one_refused);
    // One that all refused.
    let (third, revision) = world.apply(vec![route("iris", 3, &[&one])], 0);
    let rejected = |message: &str| {
        Some(News::Rejected { name: name("iris"), generation: Generation(3), message: message.to_owned() })
    };
    let all_refused = Feedback::Refused { key: key.clone(), revision };
    assert_eq!(hear(&mut world, all_refused.clone()), rejected("no Envoy took its route"), "not the older refusal");
    let version = third.changes.iter().find_map(|change| match change {
        Change::Put(resource) if resource.key() == scope("iris") => Some(resource.version()),
        Change::Put(_) | Change::Remove(_) => None,
    });
    assert_eq!(hear(&mut world, refused(version)), one_refused);
    assert_eq!(hear(&mut world, all_refused), rejected("Envoy envoy-0 refused its route: no"));
    let (_, last) = world.apply(vec![route("iris", 4, &[])], 0);
    assert_eq!(hear(&mut world, Feedback::Released { key: key.clone(), revision: last }), released(4));
    // Forgotten.
    assert_eq!(hear(&mut world, Feedback::Applied { key, revision: last }), None);
    let mesh =
        Feedback::Rejected { key: scope(".mesh"), version: None, node: "envoy-0".to_owned(), message: "no".to_owned() };
    assert!(matches!(hear(&mut world, mesh), Some(News::Refused { .. })));
    assert_eq!(hear(&mut world, Feedback::Connected { streams: 3 }), Some(News::Connected { streams: 3 }));
}

#[test]
fn a_route_that_nobody_took_because_of_its_cluster_says_so_and_waits_anew_when_that_changes() {
    let (one, two) = (set(&[0]), set(&[1]));
    let mut world = World::new();
    let changes = vec![placed(&one, false), placed(&two, false), route("iris", 1, &[&one]), route("wine", 1, &[&two])];
    let (publication, revision) = world.apply(changes, 0);
    let endpoints = publication.changes.iter().find_map(|change| match change {
        Change::Put(resource) if resource.kind() == Kind::Endpoints => {
            resource.name().as_str().starts_with("set-").then(|| (resource.key(), resource.version()))
        }
        Change::Put(_) | Change::Remove(_) => None,
    });
    let (key, version) = endpoints.expect("the first set's");
    let (node, message) = ("envoy-0".to_owned(), "no".to_owned());
    let cluster = key.name.clone();
    world.publisher.hear(Feedback::Rejected { key, version: Some(version), node, message }, Time(0));
    let refused = |model: &str, revision| Feedback::Refused { key: scope(model), revision };
    let rejected =
        |model: &str, message: String| News::Rejected { name: name(model), generation: Generation(1), message };
    let why = format!("Envoy envoy-0 refused the endpoints of its cluster {cluster}: no");
    for _ in 0..2 {
        let news = world.publisher.hear(refused("iris", revision), Time(0));
        assert_eq!(news, Some(rejected("iris", why.clone())), "also when it is told again");
    }
    let news = world.publisher.hear(refused("wine", revision), Time(0));
    assert_eq!(news, Some(rejected("wine", "no Envoy took its route".to_owned())), "its cluster was not refused");
    assert_eq!(world.apply(vec![placed(&one, false)], 0).0.gated, [], "nothing has changed");
    let (again, later) = world.apply(vec![placed_at(&one, "10.0.0.2")], 0);
    assert_eq!(again.gated, [scope("iris")]);
    // That the older one was refused is heard late: it says nothing of what it leads to now.
    world.publisher.hear(refused("iris", revision), Time(0));
    let again = world.tick(0);
    assert_eq!(again.gated, [scope("iris")]);
    let news = world.publisher.hear(refused("iris", later), Time(0));
    assert_eq!(news, Some(rejected("iris", "no Envoy took its route".to_owned())), "the text was of other endpoints");
    assert_eq!(world.tick(0).gated, []);
    // Endpoints that Envoys are not told of are no reason, again and again.
    let (again, same) = world.apply(vec![placed_at(&one, "no address")], 0);
    assert_eq!(again.gated, [scope("iris")]);
    world.apply(vec![placed_at(&one, "none either")], 0);
    world.publisher.hear(refused("iris", same), Time(0));
    assert_eq!(world.tick(0).gated, []);
    let (again, last) = world.apply(vec![placed_at(&one, "10.0.0.3")], 0);
    assert_eq!(again.gated, [scope("iris")]);
    let news = world.publisher.hear(Feedback::Applied { key: scope("iris"), revision: last }, Time(0));
    assert_eq!(news, Some(News::Applied { name: name("iris"), generation: Generation(1) }));
    assert_eq!(world.apply(vec![placed_at(&one, "10.0.0.4")], 0).0.gated, [], "it is not waited for twice");
    // Nor when it was taken, leads elsewhere or is gone.
    let (_, second) = world.apply(vec![route("iris", 2, &[&one])], 0);
    world.publisher.hear(refused("iris", second), Time(0));
    world.apply(vec![route("iris", 3, &[])], 0);
    assert_eq!(world.apply(vec![placed_at(&one, "10.0.0.5")], 0).0.gated, []);
}

#[test]
fn a_pipeline_whose_gateways_are_refused_says_so_and_waits_anew_when_they_change() {
    let pipeline = PipelineName::parse("flowers").expect("a name");
    let target = Target::Pipeline(pipeline.clone());
    let route = Route { backends: vec![Backend { target, weight: 100 }], mirrors: Vec::new(), log_payloads: false };
    let name = RoutableName::Pipeline(pipeline);
    let key = scope(&name.to_string());
    let at = |port| RouteChange::Gateways(vec![Address { host: "10.0.0.1".to_owned(), port }]);
    let mut world = World::new();
    let routed = RouteChange::Route { name: name.clone(), generation: Generation(1), route: Some(route) };
    let (_, revision) = world.apply(vec![at(9010), routed], 0);
    let endpoints = Key::new(Kind::Endpoints, "pipeline-gateways");
    let version = world.content().get(&endpoints).copied();
    // What was said last is why: others may have taken the cluster long ago.
    let cluster = Key::new(Kind::Cluster, "pipeline-gateways");
    for (key, message) in [(cluster, "an old one does not know it"), (endpoints, "no")] {
        let (node, message) = ("envoy-0".to_owned(), message.to_owned());
        world.publisher.hear(Feedback::Rejected { key, version, node, message }, Time(0));
    }
    let news = world.publisher.hear(Feedback::Refused { key: key.clone(), revision }, Time(0));
    let message = "Envoy envoy-0 refused the endpoints of its cluster pipeline-gateways: no".to_owned();
    assert_eq!(news, Some(News::Rejected { name, generation: Generation(1), message }));
    assert_eq!(world.apply(vec![at(9011)], 0).0.gated, [key]);
}

#[test]
fn absence_of_a_name_nobody_published_is_told() {
    let mut world = World::new();
    world.apply(Vec::new(), 0);
    let (publication, revision) = world.apply(vec![route("ghost", 1, &[])], 0);
    assert_eq!(publication.gated, [scope("ghost")]);
    let released = Feedback::Released { key: scope("ghost"), revision };
    let news = News::Released { name: name("ghost"), generation: Generation(1) };
    assert_eq!(world.publisher.hear(released, Time(0)), Some(news));
}

fn asked_for(name: &str) -> [Key; 3] {
    let cluster = format!("proxyless/{name}");
    [Key::new(Kind::Listener, name), Key::new(Kind::Cluster, cluster.as_str()), Key::new(Kind::Endpoints, cluster)]
}

impl World {
    fn want(&mut self, key: &Key) -> Publication {
        let publication = self.publisher.want(key, Time(0));
        self.publish(&publication);
        publication
    }

    fn unwant(&mut self, key: &Key, now: u64) -> Publication {
        let publication = self.publisher.unwant(key, Time(now));
        self.publish(&publication);
        publication
    }

    fn has(&self, key: &Key) -> bool {
        self.table.live(key.kind, &key.name).is_some()
    }

    fn versions(&self, keys: &[Key]) -> Vec<Option<Version>> {
        keys.iter().map(|key| self.table.live(key.kind, &key.name).map(|resource| resource.version())).collect()
    }
}

/// Longer than anything waits for.
const LONG: u64 = 600_000;

#[test]
fn what_grpc_clients_ask_for_is_there_as_long_as_they_do_and_a_while_longer() {
    let one = set(&[0]);
    let mut world = World::new();
    world.apply(vec![placed(&one, false), route("iris", 1, &[&one])], 0);
    let keys = asked_for("iris");
    let [listener, cluster, _] = &keys;
    assert!(!keys.iter().any(|key| world.has(key)), "nobody asks for it");
    world.want(listener);
    assert!(keys.iter().all(|key| world.has(key)));
    let hidden = |key: &Key| world.table.live(key.kind, &key.name).expect("live").visibility();
    assert!(keys.iter().all(|key| hidden(key) == xds::Visibility::NamedOnly), "Envoys see nothing of it");
    assert!(world.want(cluster).is_empty(), "all of it is there");
    world.unwant(listener, 0);
    assert!(world.publisher.due().is_none(), "its cluster is asked for");
    world.unwant(cluster, 0);
    let due = world.publisher.due().expect("it is kept for a while");
    world.want(cluster);
    world.tick(due.0);
    assert!(keys.iter().all(|key| world.has(key)), "somebody came back");
    world.unwant(cluster, due.0);
    world.tick(due.0 + LONG);
    assert!(!keys.iter().any(|key| world.has(key)));
    // A cluster alone is asked for first by who comes back.
    world.want(cluster);
    assert!(keys.iter().all(|key| world.has(key)));
    // Envoy's own are no such thing.
    assert!(world.want(&Key::new(Kind::Listener, "http")).is_empty());
    assert!(world.want(&Key::new(Kind::Cluster, "mesh-shared")).is_empty());
}

#[test]
fn scope_of_a_declared_name_stays_when_nobody_serves_it_and_goes_with_the_name() {
    let one = set(&[0]);
    let declared = |is| RouteChange::Declared { name: name("iris"), is };
    let scopes = |publication: &Publication| -> Vec<(Key, bool)> {
        let of = |change: &Change| (change.key(), matches!(change, Change::Put(_)));
        publication.changes.iter().map(of).filter(|(key, _)| key.kind == Kind::ScopedRoute).collect()
    };
    let (put, removed) = ([(scope("iris"), true)], [(scope("iris"), false)]);
    let mut world = World::new();
    world.apply(Vec::new(), 0);
    // Before anything serves it there is no generation to tell of, and nothing is said as long as it may be served soon.
    let (publication, _) = world.apply(vec![declared(true)], 0);
    assert!(publication.is_empty() && world.publisher.due() == Some(Time(UNSERVED_AFTER_MS)), "{publication:?}");
    let publication = world.tick(UNSERVED_AFTER_MS);
    assert!(scopes(&publication) == put && publication.gated.is_empty(), "{publication:?}");
    let waiting = world.versions(&[scope("iris")]);
    let (publication, _) = world.apply(vec![declared(false)], 0);
    assert!(scopes(&publication) == removed && publication.gated.is_empty(), "{publication:?}");
    // Declared and served at once: one scope, not two.
    let (publication, _) = world.apply(vec![declared(true), placed(&one, false), route("iris", 1, &[&one])], 0);
    assert_eq!(scopes(&publication), put);
    assert_ne!(world.versions(&[scope("iris")]), waiting);
    let (publication, revision) = world.apply(vec![route("iris", 2, &[])], 0);
    assert!(scopes(&publication) == put && publication.gated == [scope("iris")], "{publication:?}");
    assert_eq!(world.versions(&[scope("iris")]), waiting);
    let released = |revision| Feedback::Released { key: scope("iris"), revision };
    let told = Some(News::Released { name: name("iris"), generation: Generation(2) });
    // Whoever waits for the last generation is told of it, also when the name has gone meanwhile.
    let (publication, later) = world.apply(vec![declared(false)], 0);
    assert!(scopes(&publication) == removed && publication.gated == [scope("iris")], "{publication:?}");
    assert!(later > revision && world.publisher.hear(released(later), Time(0)) == told);
}

#[test]
fn grpc_clients_are_told_endpoints_and_nothing_else_of_a_roll_out() {
    let (old, new) = (set(&[0, 1]), set(&[2]));
    let mut world = World::new();
    world.apply(vec![placed(&old, false), route("iris", 1, &[&old])], 0);
    let keys = asked_for("iris");
    world.want(&keys[0]);
    let before = world.versions(&keys);
    world.apply(vec![placed(&new, false), route("iris", 2, &[&old, &new])], 0);
    let during = world.versions(&keys);
    let (publication, _) = world.apply(vec![route("iris", 3, &[&new]), gone(&old)], 0);
    let after = world.versions(&keys);
    assert!(before[..2] == during[..2] && during[..2] == after[..2], "{before:?} {during:?} {after:?}");
    assert!(before[2] != during[2] && during[2] != after[2], "{before:?} {during:?} {after:?}");
    assert_eq!(publication.gated, [scope("iris"), keys[2].clone()], "who has them is waited for");
    // A replica is lost: no route changes, nobody is waited for.
    let lost = RouteChange::Set { set: new.clone(), endpoints: Some(Vec::new()) };
    let (publication, _) = world.apply(vec![lost], 0);
    assert!(publication.gated.is_empty() && world.versions(&keys)[2] != after[2]);
}

#[test]
fn a_name_that_becomes_known_and_unknown_changes_for_grpc_clients() {
    let one = set(&[0]);
    let declared = |is| RouteChange::Declared { name: name("iris"), is };
    let mut world = World::new();
    world.apply(Vec::new(), 0);
    let keys = asked_for("iris");
    world.want(&keys[0]);
    let unknown = world.versions(&keys);
    world.apply(vec![declared(true)], 0);
    let waiting = world.versions(&keys);
    assert!(waiting[0] != unknown[0] && waiting[1..] == unknown[1..]);
    world.apply(vec![placed(&one, false), route("iris", 1, &[&one])], 0);
    let there = world.versions(&keys);
    assert!(there[..2] == waiting[..2] && there[2] != waiting[2]);
    world.apply(vec![declared(false), route("iris", 2, &[]), gone(&one)], 0);
    assert_eq!(world.versions(&keys), unknown);
}

#[test]
fn an_older_route_is_released_when_grpc_clients_have_let_go_of_it_too() {
    let (old, new) = (set(&[0]), set(&[1]));
    let mut world = World::new();
    world.apply(vec![placed(&old, false), placed(&new, false), route("iris", 1, &[&old])], 0);
    let [listener, _, endpoints] = asked_for("iris");
    world.want(&listener);
    let released = |key: &Key, revision| Feedback::Released { key: key.clone(), revision };
    let told = |generation| Some(News::Released { name: name("iris"), generation: Generation(generation) });
    let hear = |world: &mut World, key: &Key, revision, now| world.publisher.hear(released(key, revision), Time(now));
    let later = |world: &mut World| {
        world.tick(world.publisher.due().expect("something is due").0);
        world.publisher.take_news()
    };
    // Envoys first, then clients, a moment after they know.
    let (_, second) = world.apply(vec![route("iris", 2, &[&new])], 0);
    assert_eq!(hear(&mut world, &scope("iris"), second, 0), None);
    assert_eq!(hear(&mut world, &endpoints, second, 100), None);
    assert_eq!(later(&mut world), told(2).into_iter().collect::<Vec<_>>());
    // The other way round.
    let (_, third) = world.apply(vec![route("iris", 3, &[&old])], 1_000);
    assert_eq!(hear(&mut world, &endpoints, second, 1_000), None, "that was an older one");
    assert_eq!(hear(&mut world, &endpoints, third, 1_000), None);
    assert_eq!(later(&mut world), []);
    assert_eq!(hear(&mut world, &scope("iris"), third, 2_000), told(3));
    // Clients that refuse it are not waited for for ever.
    let (_, fourth) = world.apply(vec![route("iris", 4, &[&new])], LONG);
    assert_eq!(hear(&mut world, &scope("iris"), fourth, LONG), None);
    world.tick(2 * LONG);
    assert_eq!(world.publisher.take_news(), told(4).into_iter().collect::<Vec<_>>());
    // Nor when nobody asks for the name any more.
    let (_, fifth) = world.apply(vec![route("iris", 5, &[&old])], 2 * LONG);
    assert_eq!(hear(&mut world, &scope("iris"), fifth, 2 * LONG), None);
    world.unwant(&listener, 2 * LONG);
    world.tick(3 * LONG);
    assert_eq!(world.publisher.take_news(), told(5).into_iter().collect::<Vec<_>>());
}

#[test]
fn names_that_nobody_asks_for_any_more_are_bounded() {
    let mut world = World::new();
    world.apply(Vec::new(), 0);
    let listener = |number: u32| Key::new(Kind::Listener, format!("n{number}"));
    for number in 0..30_000 {
        world.want(&listener(number));
        world.unwant(&listener(number), 0);
    }
    assert!(world.table.iter(Kind::Listener).count() < 11_000);
    // Those that are asked for leave room for the others to be kept.
    for number in 100_000..120_000 {
        world.want(&listener(number));
    }
    let kept = listener(0);
    world.want(&kept);
    world.unwant(&kept, 0);
    assert!(world.has(&kept), "its client may come back");
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
