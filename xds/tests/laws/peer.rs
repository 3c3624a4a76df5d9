//! A table and one session, driven by hand. Responses are read as text: `Cluster +a +b -c`, names in order.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use xds::{
    Ask, Change, Key, Kind, Mode, Name, Node, Nonce, OnDemand, Request, Resource, Response, Session, Table, Time,
    Version,
};

pub const PATIENCE: Duration = Duration::from_secs(10);

pub fn resource(kind: Kind, name: &str, body: &str) -> Resource {
    Resource::new(kind, name, Bytes::copy_from_slice(body.as_bytes()))
}

pub fn names(list: &[&str]) -> Vec<Name> {
    list.iter().map(|name| Name::from(*name)).collect()
}

pub fn text(responses: &[Response]) -> Vec<String> {
    responses.iter().map(one).collect()
}

fn one(response: &Response) -> String {
    let mut names: Vec<String> = response.resources.iter().map(|r| format!(" +{}", r.name())).collect();
    names.extend(response.removed.iter().map(|name| format!(" -{name}")));
    names.sort();
    format!("{:?}{}", response.kind, names.concat())
}

/// What the tests take for made on demand.
pub const MADE: OnDemand = OnDemand {
    is: |kind, name| matches!(kind, Kind::Listener | Kind::Cluster) && name.starts_with("made"),
    limit: 100,
    limit_of_stream: 100,
};

pub struct Peer {
    pub table: Table,
    pub session: Session,
    pub now: Time,
    mode: Mode,
    last: BTreeMap<Kind, Nonce>,
    /// SotW: the names of the latest request of a kind, which every ACK repeats.
    asked: BTreeMap<Kind, Vec<Name>>,
}

impl Peer {
    pub fn new(mode: Mode) -> Self {
        let node = Node { id: "envoy-0".into(), ..Node::default() };
        Peer {
            table: Table::new(),
            session: Session::new(mode, node, PATIENCE, None),
            now: Time(1),
            mode,
            last: BTreeMap::new(),
            asked: BTreeMap::new(),
        }
    }

    /// With listeners and clusters that are made on demand, if their names begin so.
    pub fn on_demand(mode: Mode) -> Self {
        let mut peer = Peer::new(mode);
        peer.session = peer.session.on_demand(MADE);
        peer
    }

    /// The same table, a new stream.
    pub fn reconnect_on_demand(&mut self) {
        self.reconnect();
        let node = Node { id: "client-0".into(), ..Node::default() };
        self.session = Session::new(self.mode, node, PATIENCE, None).on_demand(MADE);
    }

    /// The same table, a new stream.
    pub fn reconnect(&mut self) {
        let node = Node { id: "envoy-0".into(), ..Node::default() };
        self.session = Session::new(self.mode, node, PATIENCE, None);
        self.last.clear();
        self.asked.clear();
    }

    pub fn apply(&mut self, changes: Vec<Change>) -> Vec<String> {
        self.table.apply(changes).expect("the test's changes hold together");
        self.poll()
    }

    pub fn put(&mut self, kind: Kind, name: &str, body: &str) -> Vec<String> {
        self.apply(vec![Change::Put(resource(kind, name, body))])
    }

    pub fn remove(&mut self, kind: Kind, name: &str) -> Vec<String> {
        self.apply(vec![Change::Remove(Key::new(kind, name))])
    }

    pub fn poll(&mut self) -> Vec<String> {
        let responses = self.session.poll(&self.table, self.now).expect("the log is short");
        for response in &responses {
            self.last.insert(response.kind, response.nonce);
        }
        text(&responses)
    }

    /// Subscribes without a nonce; in SotW the names are the whole set.
    pub fn ask(&mut self, kind: Kind, list: &[&str]) -> Vec<String> {
        self.asked.insert(kind, names(list));
        let ask = match self.mode {
            Mode::Sotw => Ask::Sotw { names: names(list) },
            Mode::Delta => Ask::Delta { subscribe: names(list), unsubscribe: vec![], initial: vec![] },
        };
        let nonce = self.last.get(&kind).copied().filter(|_| self.mode == Mode::Sotw);
        self.request(Request { kind, nonce, error: None, ask })
    }

    pub fn unsubscribe(&mut self, kind: Kind, list: &[&str]) -> Vec<String> {
        let ask = Ask::Delta { subscribe: vec![], unsubscribe: names(list), initial: vec![] };
        self.request(Request { kind, nonce: None, error: None, ask })
    }

    /// A first request of a client that has these bodies; of endpoints, `endpoints@cluster`.
    pub fn resume(&mut self, kind: Kind, list: &[&str], has: &[(&str, &str)]) -> Vec<String> {
        let version = |body: &str| match body.split_once('@') {
            Some((endpoints, cluster)) => Version::of(endpoints.as_bytes()).under(Version::of(cluster.as_bytes())),
            None => Version::of(body.as_bytes()),
        };
        let initial = has.iter().map(|(name, body)| (Name::from(*name), version(body))).collect();
        let ask = Ask::Delta { subscribe: names(list), unsubscribe: vec![], initial };
        self.request(Request { kind, nonce: None, error: None, ask })
    }

    pub fn ack(&mut self, kind: Kind) -> Vec<String> {
        self.answer(kind, None)
    }

    /// Delta: acknowledges and subscribes in one request.
    pub fn ack_and_ask(&mut self, kind: Kind, list: &[&str]) -> Vec<String> {
        let ask = Ask::Delta { subscribe: names(list), unsubscribe: vec![], initial: vec![] };
        self.request(Request { kind, nonce: self.last.get(&kind).copied(), error: None, ask })
    }

    pub fn nack(&mut self, kind: Kind) -> Vec<String> {
        self.nack_saying(kind, "refused")
    }

    pub fn nack_saying(&mut self, kind: Kind, message: &str) -> Vec<String> {
        self.answer(kind, Some(message.into()))
    }

    pub fn request(&mut self, request: Request) -> Vec<String> {
        self.session.on_request(request, &self.table, self.now).expect("few names");
        self.poll()
    }

    fn answer(&mut self, kind: Kind, error: Option<String>) -> Vec<String> {
        let ask = match self.mode {
            Mode::Sotw => Ask::Sotw { names: self.asked.get(&kind).cloned().unwrap_or_default() },
            Mode::Delta => Ask::Delta { subscribe: vec![], unsubscribe: vec![], initial: vec![] },
        };
        let nonce = self.last.get(&kind).copied();
        assert!(nonce.is_some(), "nothing of {kind:?} to answer");
        self.request(Request { kind, nonce, error, ask })
    }
}
