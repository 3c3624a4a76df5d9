//! Random histories of the table and of a simulated Envoy. Whatever happens in between, when everything was said and
//! ACKed the client has what the table has; and on the way it never routes to a cluster that is not usable.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use proptest::prelude::*;
use xds::Kind::{Cluster, Endpoints, Listener, ScopedRoute};
use xds::{Ask, Change, Key, Kind, Mode, Name, Node, Nonce, Request, Response, Session, Table, Time, Version};

use crate::peer::{PATIENCE, resource};

const CLUSTERS: u8 = 4;
const SCOPES: u8 = 6;
/// A body that the simulated client refuses.
const POISON: &str = "poison";

#[derive(Clone, Debug)]
enum Step {
    /// Points a scope at a cluster, which is made if need be.
    Route {
        scope: u8,
        cluster: u8,
    },
    /// A scope that the client refuses.
    Poison {
        scope: u8,
    },
    /// A cluster or its endpoints that the client refuses.
    Spoil {
        cluster: u8,
        kind: Kind,
    },
    RemoveScope {
        scope: u8,
    },
    /// Another body for a cluster that is there.
    Settings {
        cluster: u8,
        body: u8,
    },
    Replicas {
        cluster: u8,
        body: u8,
    },
    /// Removes every cluster without a scope.
    Collect,
    /// The client deals with the oldest response.
    Read,
    ReadAll,
    Reconnect,
}

fn step(poison: bool) -> impl Strategy<Value = Step> {
    let scope = 0..SCOPES;
    let cluster = 0..CLUSTERS;
    prop_oneof![
        6 => (scope.clone(), cluster.clone()).prop_map(|(scope, cluster)| Step::Route { scope, cluster }),
        u32::from(poison) => scope.clone().prop_map(|scope| Step::Poison { scope }),
        u32::from(poison) => (cluster.clone(), prop_oneof![Just(Cluster), Just(Endpoints)])
            .prop_map(|(cluster, kind)| Step::Spoil { cluster, kind }),
        2 => scope.prop_map(|scope| Step::RemoveScope { scope }),
        2 => (cluster.clone(), any::<u8>()).prop_map(|(cluster, body)| Step::Settings { cluster, body }),
        2 => (cluster, any::<u8>()).prop_map(|(cluster, body)| Step::Replicas { cluster, body }),
        3 => Just(Step::Collect),
        8 => Just(Step::Read),
        3 => Just(Step::ReadAll),
        1 => Just(Step::Reconnect),
    ]
}

/// What the client has of one kind.
type Held = BTreeMap<Name, (Version, Vec<u8>)>;

struct World {
    mode: Mode,
    table: Table,
    session: Session,
    now: Time,
    client: BTreeMap<Kind, Held>,
    /// Endpoints the client subscribed to: those of its clusters.
    asked_endpoints: BTreeSet<Name>,
    /// Clusters that wait for their endpoints to come (again).
    warming: BTreeSet<Name>,
    usable: BTreeSet<Name>,
    wire: VecDeque<Response>,
    last: BTreeMap<Kind, Nonce>,
    /// Nothing may be said about the order in SotW after a reconnect: the server does not know what the client has.
    strict: bool,
    /// The server does not know what the client had before and lists in another version.
    came_back: bool,
    /// Makes every body of a cluster a new one. A cluster that turns to what it was while the endpoints of the version
    /// between were lost with the stream, twice, waits for Envoy's fetch timeout; the server cannot know.
    made: u32,
}

fn name(prefix: &str, number: u8) -> String {
    format!("{prefix}{number}")
}

fn session(mode: Mode) -> Session {
    Session::new(mode, Node { id: "envoy".into(), ..Node::default() }, PATIENCE, None)
}

impl World {
    fn new(mode: Mode) -> Self {
        let mut world = World {
            mode,
            table: Table::new(),
            session: session(mode),
            now: Time(0),
            client: Kind::ALL.into_iter().map(|kind| (kind, Held::new())).collect(),
            asked_endpoints: BTreeSet::new(),
            warming: BTreeSet::new(),
            usable: BTreeSet::new(),
            wire: VecDeque::new(),
            last: BTreeMap::new(),
            strict: true,
            came_back: false,
            made: 0,
        };
        world.table.apply(vec![Change::Put(resource(Listener, "http", "http"))]).unwrap();
        world.hello();
        world
    }

    /// The first requests of a stream, in the order in which Envoy sends them.
    fn hello(&mut self) {
        self.request(Cluster, None, None, vec![], vec![], self.versions(Cluster));
        if !self.asked_endpoints.is_empty() {
            let names: Vec<Name> = self.asked_endpoints.iter().cloned().collect();
            self.request(Endpoints, None, None, names, vec![], self.versions(Endpoints));
        }
        self.request(Listener, None, None, vec![], vec![], self.versions(Listener));
        self.request(ScopedRoute, None, None, vec![], vec![], self.versions(ScopedRoute));
    }

    fn versions(&self, kind: Kind) -> HashMap<Name, Version> {
        self.client[&kind].iter().map(|(name, (version, _))| (name.clone(), *version)).collect()
    }

    fn request(
        &mut self,
        kind: Kind,
        nonce: Option<Nonce>,
        error: Option<String>,
        subscribe: Vec<Name>,
        unsubscribe: Vec<Name>,
        initial: HashMap<Name, Version>,
    ) {
        let ask = match self.mode {
            Mode::Delta => Ask::Delta { subscribe, unsubscribe, initial: initial.into_iter().collect() },
            Mode::Sotw => {
                let names = match kind {
                    Endpoints => self.asked_endpoints.iter().cloned().collect(),
                    _ => vec![],
                };
                Ask::Sotw { names }
            }
        };
        self.session.on_request(Request { kind, nonce, error, ask }, &self.table, self.now).unwrap();
        self.poll();
    }

    fn poll(&mut self) {
        for response in self.session.poll(&self.table, self.now).unwrap() {
            let names: Vec<&Name> = response.resources.iter().map(|r| r.name()).chain(&response.removed).collect();
            let distinct: BTreeSet<&Name> = names.iter().copied().collect();
            assert_eq!(distinct.len(), names.len(), "duplicates in {response:?}");
            let waiting = self.wire.iter().filter(|other| other.kind == response.kind).count();
            assert_eq!(waiting, 0, "two responses of a kind in flight");
            self.wire.push_back(response);
        }
    }

    fn apply(&mut self, changes: Vec<Change>) {
        self.table.apply(changes).unwrap();
        self.poll();
    }

    fn cluster(&mut self, cluster: u8) -> Vec<Change> {
        let name = name("c", cluster);
        if self.table.live(Cluster, &Name::from(&*name)).is_some() {
            return vec![];
        }
        self.made += 1;
        let body = format!("new {}", self.made);
        vec![Change::Put(resource(Cluster, &name, &body)), Change::Put(resource(Endpoints, &name, "new"))]
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Route { scope, cluster } => {
                let mut changes = self.cluster(cluster);
                let target = name("c", cluster);
                let scope = resource(ScopedRoute, &name("s", scope), &target);
                changes.push(Change::Put(scope.requires([Key::new(Cluster, &*target)])));
                self.apply(changes);
            }
            Step::Poison { scope } => self.apply(vec![Change::Put(resource(ScopedRoute, &name("s", scope), POISON))]),
            Step::Spoil { cluster, kind } => {
                let mut changes = self.cluster(cluster);
                changes.push(Change::Put(resource(kind, &name("c", cluster), POISON)));
                self.apply(changes);
            }
            Step::RemoveScope { scope } => self.apply(vec![Change::Remove(Key::new(ScopedRoute, name("s", scope)))]),
            Step::Settings { cluster, body } => self.edit(Cluster, cluster, body),
            Step::Replicas { cluster, body } => self.edit(Endpoints, cluster, body),
            Step::Collect => {
                let used: BTreeSet<Key> =
                    self.table.iter(ScopedRoute).flat_map(|scope| scope.required().to_vec()).collect();
                let unused: Vec<Name> = self
                    .table
                    .iter(Cluster)
                    .map(|cluster| cluster.name().clone())
                    .filter(|name| !used.contains(&Key { kind: Cluster, name: name.clone() }))
                    .collect();
                let both =
                    |name: Name| [Cluster, Endpoints].map(|kind| Change::Remove(Key { kind, name: name.clone() }));
                self.apply(unused.into_iter().flat_map(both).collect());
            }
            Step::Read => self.read(),
            Step::ReadAll => {
                while !self.wire.is_empty() {
                    self.read();
                }
            }
            Step::Reconnect => {
                self.wire.clear();
                self.last.clear();
                self.session = session(self.mode);
                self.came_back = true;
                self.strict &= self.mode == Mode::Delta;
                // Envoy has subscribed to the endpoints of every cluster it took in, sent or not.
                self.asked_endpoints = self.client[&Cluster].keys().cloned().collect();
                self.hello();
            }
        }
        self.check();
    }

    fn edit(&mut self, kind: Kind, cluster: u8, body: u8) {
        let name = name("c", cluster);
        if self.table.live(kind, &Name::from(&*name)).is_some() {
            self.made += 1;
            let body = format!("{body} {}", self.made);
            self.apply(vec![Change::Put(resource(kind, &name, &body))]);
        }
    }

    /// Takes the oldest response as Envoy does: all of it or, when it refuses something, nothing of it.
    fn read(&mut self) {
        let Some(response) = self.wire.pop_front() else { return };
        let kind = response.kind;
        self.last.insert(kind, response.nonce);
        if response.resources.iter().any(|resource| resource.body() == POISON.as_bytes()) {
            self.request(kind, Some(response.nonce), Some("refused".into()), vec![], vec![], HashMap::new());
            return;
        }
        let full = self.mode == Mode::Sotw && kind.is_root();
        let had = self.client[&kind].clone();
        let has = self.client.entry(kind).or_default();
        if full {
            has.clear();
        }
        let wanted = |resource: &&std::sync::Arc<xds::Resource>| {
            kind != Endpoints || self.asked_endpoints.contains(resource.name())
        };
        for resource in response.resources.iter().filter(wanted) {
            has.insert(resource.name().clone(), (resource.version(), resource.body().to_vec()));
        }
        for name in &response.removed {
            has.remove(name);
        }
        let has = has.clone();
        match kind {
            Cluster => self.warmed(&had, &has),
            Endpoints => {
                for resource in response.resources.iter() {
                    self.warming.remove(resource.name());
                    if self.client[&Cluster].contains_key(resource.name()) {
                        self.usable.insert(resource.name().clone());
                    }
                }
            }
            _ => {}
        }
        self.check();
        self.request(kind, Some(response.nonce), None, vec![], vec![], HashMap::new());
        self.subscribe_endpoints();
    }

    fn warmed(&mut self, had: &Held, has: &Held) {
        let changed = has.iter().filter(|(name, cluster)| had.get(*name) != Some(cluster));
        self.warming.extend(changed.map(|(name, _)| name.clone()));
        self.warming.retain(|name| has.contains_key(name));
        self.usable.retain(|name| has.contains_key(name));
        let gone: Vec<Name> = had.keys().filter(|name| !has.contains_key(*name)).cloned().collect();
        for name in gone {
            self.client.entry(Endpoints).or_default().remove(&name);
        }
    }

    /// Envoy subscribes to the endpoints of its clusters, after the ACK of the clusters.
    fn subscribe_endpoints(&mut self) {
        let wanted: BTreeSet<Name> = self.client[&Cluster].keys().cloned().collect();
        let new: Vec<Name> = wanted.difference(&self.asked_endpoints).cloned().collect();
        let old: Vec<Name> = self.asked_endpoints.difference(&wanted).cloned().collect();
        if new.is_empty() && old.is_empty() {
            return;
        }
        self.asked_endpoints = wanted;
        let nonce = self.last.get(&Endpoints).copied().filter(|_| self.mode == Mode::Sotw);
        self.request(Endpoints, nonce, None, new, old, HashMap::new());
    }

    /// No scope of the client points at a cluster that is not usable there.
    fn check(&self) {
        if !self.strict {
            return;
        }
        for (scope, (_, body)) in &self.client[&ScopedRoute] {
            let cluster = String::from_utf8(body.clone()).unwrap();
            assert!(self.usable.contains(&*cluster), "{scope} points at {cluster}; usable: {:?}", self.usable);
        }
    }

    /// The client has what the table has, or refused it as it is there.
    fn has(&self, kind: Kind, name: &Name) -> bool {
        let wanted = &self.table_as_held(kind)[name];
        wanted.1 != POISON.as_bytes() && self.client[&kind].get(name) == Some(wanted)
    }

    /// Reads everything, and lets the time pass that the server may wait.
    fn settle(&mut self) {
        for _ in 0..3 {
            self.run(Step::ReadAll);
            self.now = self.now.after(PATIENCE);
            self.poll();
        }
        assert!(self.wire.is_empty());
    }

    fn table_as_held(&self, kind: Kind) -> Held {
        let held = |resource: &std::sync::Arc<xds::Resource>| {
            let cluster = self.table.live(Cluster, resource.name()).filter(|_| kind == Endpoints);
            let version = cluster.map_or(resource.version(), |cluster| resource.version().under(cluster.version()));
            (resource.name().clone(), (version, resource.body().to_vec()))
        };
        self.table.iter(kind).map(held).collect()
    }
}

fn mode() -> impl Strategy<Value = Mode> {
    prop_oneof![Just(Mode::Delta), Just(Mode::Sotw)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_client_ends_with_what_the_table_has(mode in mode(), steps in prop::collection::vec(step(false), 1..60)) {
        let mut world = World::new(mode);
        for step in steps {
            world.run(step);
        }
        world.settle();
        for kind in [Cluster, Endpoints, Listener, ScopedRoute] {
            prop_assert_eq!(&world.client[&kind], &world.table_as_held(kind), "{:?}", kind);
        }
        prop_assert_eq!(&world.warming, &BTreeSet::new(), "endpoints followed every send of their cluster");
        let revision = Some(world.table.revision());
        for status in world.session.status() {
            prop_assert_eq!((status.settled, status.held, status.pending), (revision, 0, 0), "{:?}", status);
        }
    }

    /// Or what waits for a cluster that is refused, and was never usable.
    #[test]
    fn only_what_is_refused_is_missing(mode in mode(), steps in prop::collection::vec(step(true), 1..60)) {
        let mut world = World::new(mode);
        // Who refuses goes on with what it had, and that is kept for it.
        world.strict = mode == Mode::Delta;
        for step in steps {
            world.run(step);
        }
        world.settle();
        for kind in [Cluster, Endpoints, Listener, ScopedRoute] {
            for (name, wanted) in world.table_as_held(kind) {
                let standing = world.session.standing(&Key { kind, name: name.clone() }, &world.table);
                let scopes_cluster = Name::from(String::from_utf8_lossy(&wanted.1).into_owned());
                // A cluster that was usable before it was refused still is.
                let lacks = |kind: Kind| !world.has(kind, &scopes_cluster);
                let is_usable = !world.came_back && world.usable.contains(&scopes_cluster);
                let waits = kind == ScopedRoute
                    && world.table.live(Cluster, &scopes_cluster).is_some()
                    && (lacks(Endpoints) || (lacks(Cluster) && !is_usable));
                match standing {
                    xds::Standing::Applied(_) => prop_assert!(world.has(kind, &name), "{kind:?} {name}"),
                    xds::Standing::Rejected(_) => prop_assert!(wanted.1 == POISON.as_bytes() || waits, "{kind:?} {name}"),
                    xds::Standing::Foreign => prop_assert_eq!(kind, Endpoints, "{}: its cluster is refused", name),
                    xds::Standing::Outstanding => prop_assert!(false, "{kind:?} {name} is still waited for"),
                }
            }
        }
        // What is gone may be kept for what was refused, and in an answer that says everything for who came back.
        let refused = world.session.status().iter().map(|status| status.quarantined).sum::<usize>();
        let says_all = mode == Mode::Sotw && world.came_back;
        for kind in [Cluster, Listener, ScopedRoute].into_iter().filter(|_| refused == 0 && !says_all) {
            let is_gone = |name: &Name| world.table.live(kind, name).is_none();
            let left: Vec<&Name> = world.client[&kind].keys().filter(|name| is_gone(name)).collect();
            prop_assert_eq!(left, Vec::<&Name>::new(), "{:?}", kind);
        }
        let revision = Some(world.table.revision());
        for status in world.session.status() {
            prop_assert_eq!((status.settled, status.pending), (revision, 0), "{:?}", status);
        }
    }
}
