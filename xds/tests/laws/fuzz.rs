//! Clients that say anything in any order: requests of every kind with known, unknown, empty and star names, ACKs, NACKs and
//! nonces of nobody. The session never panics and keeps to what every client may rely on.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use xds::{Ask, Change, Key, Kind, Mode, Name, Node, Nonce, Request, Response, Session, Table, Time, Version};

use crate::peer::resource;

const PATIENCE: Duration = Duration::from_secs(5);
const NAMES: [&str; 6] = ["a", "b", "c", "nobody", "", "*"];

#[derive(Clone, Debug)]
enum Step {
    Request {
        kind: usize,
        nonce: WhichNonce,
        error: bool,
        subscribe: Vec<usize>,
        unsubscribe: Vec<usize>,
        has: Vec<(usize, u8)>,
    },
    Put {
        kind: usize,
        name: usize,
        body: u8,
    },
    Remove {
        kind: usize,
        name: usize,
    },
    Wait {
        ms: u64,
    },
}

#[derive(Clone, Copy, Debug)]
enum WhichNonce {
    None,
    Last,
    /// Of another kind.
    Other,
    Foreign,
}

fn step() -> impl Strategy<Value = Step> {
    let names = || prop::collection::vec(0..NAMES.len(), 0..4);
    let nonce = prop_oneof![
        1 => Just(WhichNonce::None),
        3 => Just(WhichNonce::Last),
        1 => Just(WhichNonce::Other),
        1 => Just(WhichNonce::Foreign)
    ];
    let request = (
        0..Kind::COUNT,
        nonce,
        prop::bool::weighted(0.2),
        names(),
        names(),
        prop::collection::vec((0..NAMES.len(), 0_u8..3), 0..3),
    );
    prop_oneof![
        5 => request.prop_map(|(kind, nonce, error, subscribe, unsubscribe, has)| {
            Step::Request { kind, nonce, error, subscribe, unsubscribe, has }
        }),
        2 => (0..Kind::COUNT, 0..4_usize, 0_u8..3).prop_map(|(kind, name, body)| Step::Put { kind, name, body }),
        1 => (0..Kind::COUNT, 0..4_usize).prop_map(|(kind, name)| Step::Remove { kind, name }),
        1 => (0..10_000_u64).prop_map(|ms| Step::Wait { ms }),
    ]
}

/// What the client knows of the session: the last nonce of each kind, and which response of it is not answered.
#[derive(Default)]
struct Watch {
    last: BTreeMap<Kind, Nonce>,
    nonces: BTreeSet<String>,
    open: BTreeSet<Kind>,
    /// All names that were ever asked for, and whether a wildcard could be meant.
    named: BTreeMap<Kind, BTreeSet<Name>>,
    may_be_wild: BTreeSet<Kind>,
}

impl Watch {
    fn check(&mut self, mode: Mode, responses: &[Response]) {
        for response in responses {
            let kind = response.kind;
            assert!(self.open.insert(kind), "two responses of {kind:?} are in flight");
            assert!(self.nonces.insert(response.nonce.to_string()), "a nonce was given twice");
            self.last.insert(kind, response.nonce);
            let names: Vec<&Name> = response.resources.iter().map(|resource| resource.name()).collect();
            let distinct: BTreeSet<&Name> = names.iter().copied().chain(&response.removed).collect();
            assert_eq!(distinct.len(), names.len() + response.removed.len(), "a name comes twice: {response:?}");
            assert!(mode == Mode::Delta || response.removed.is_empty(), "SotW cannot say it");
            assert!(response.resources.iter().all(|resource| resource.kind() == kind));
            let named = self.named.get(&kind);
            let is_asked = |name: &&Name| named.is_some_and(|named| named.contains(*name));
            assert!(self.may_be_wild.contains(&kind) || distinct.iter().all(is_asked), "nobody asked: {response:?}");
        }
    }
}

fn run(mode: Mode, steps: Vec<Step>) {
    let (mut table, mut now, mut watch) = (Table::new(), Time(0), Watch::default());
    let mut session = Session::new(mode, Node { id: "n".into(), ..Node::default() }, PATIENCE, None);
    let name = |index: usize| Name::from(NAMES[index]);
    for step in steps {
        match step {
            Step::Request { kind, nonce, error, subscribe, unsubscribe, has } => {
                let kind = Kind::ALL[kind];
                let other = watch.last.iter().find(|(of, _)| **of != kind).map(|(_, nonce)| *nonce);
                let nonce = match nonce {
                    WhichNonce::None => None,
                    WhichNonce::Last => watch.last.get(&kind).copied(),
                    WhichNonce::Other => other,
                    WhichNonce::Foreign => Some(Nonce::FOREIGN),
                };
                if nonce.is_some() && nonce == watch.last.get(&kind).copied() {
                    watch.open.remove(&kind);
                }
                let names: Vec<Name> = subscribe.into_iter().map(name).collect();
                if names.is_empty() || names.iter().any(|name| name.as_str() == "*") {
                    watch.may_be_wild.insert(kind);
                }
                watch.named.entry(kind).or_default().extend(names.iter().cloned());
                let initial: Vec<(Name, Version)> =
                    has.into_iter().map(|(index, body)| (name(index), Version::of(&[body]))).collect();
                watch.named.entry(kind).or_default().extend(initial.iter().map(|(name, _)| name.clone()));
                let ask = match mode {
                    Mode::Sotw => Ask::Sotw { names },
                    Mode::Delta => Ask::Delta {
                        subscribe: names,
                        unsubscribe: unsubscribe.into_iter().map(name).collect(),
                        initial,
                    },
                };
                let error = error.then(|| "no".to_owned());
                session.on_request(Request { kind, nonce, error, ask }, &table, now).expect("few names");
            }
            Step::Put { kind, name, body } => {
                let text = char::from(body).to_string();
                table.apply(vec![Change::Put(resource(Kind::ALL[kind], NAMES[name], &text))]).expect("no references");
            }
            Step::Remove { kind, name } => {
                table.apply(vec![Change::Remove(Key::new(Kind::ALL[kind], NAMES[name]))]).expect("no references");
            }
            Step::Wait { ms } => now = Time(now.0 + ms),
        }
        let responses = session.poll(&table, now).expect("the log is short");
        watch.check(mode, &responses);
        let again = session.poll(&table, now).expect("the log is short");
        assert!(again.is_empty(), "a second look found more: {again:?}");
        // Nothing that is said of it can fail either.
        for kind in Kind::ALL {
            let _standing = session.standing(&Key::new(kind, "a"), &table);
        }
        let _status = (session.status(), session.due(), session.take_rejections());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sotw_clients_may_say_anything(steps in prop::collection::vec(step(), 1..40)) {
        run(Mode::Sotw, steps);
    }

    #[test]
    fn delta_clients_may_say_anything(steps in prop::collection::vec(step(), 1..40)) {
        run(Mode::Delta, steps);
    }
}
