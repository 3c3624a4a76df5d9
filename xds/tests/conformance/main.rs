//! What every server of the protocol must do, seen by a client over sockets: `cases.yaml` against the server of the example
//! `conformance`, in all four variants (SotW and delta, ADS and a service for each type).
//!
//! That nothing more was sent is not seen by waiting: the answer about a *fence*, another name, must be the next to come.

#![expect(clippy::panic, reason = "a word in the cases that is none is a failed test")]

mod client;

#[path = "../../examples/conformance/server.rs"]
mod server;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use client::{Answer, Client, Mode, Stream, body, kind};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    variants: Vec<Mode>,
    types: Vec<Vec<String>>,
    steps: Vec<Written>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Written {
    Word(Word),
    Step(Box<Step>),
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    /// Nothing more was sent.
    Silence,
    /// The stream is another one from here.
    Reconnect,
}

/// Exactly one of the first six says what is done.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Step {
    put: Option<BTreeMap<String, u32>>,
    remove: Option<Vec<String>>,
    subscribe: Option<Vec<String>>,
    unsubscribe: Option<Vec<String>>,
    /// One response comes, with exactly these.
    response: Option<BTreeMap<String, u32>>,
    /// One response comes, with at least these, whatever their versions.
    some: Option<Vec<String>>,
    /// Which of the case's types; 1 unless it says so.
    r#type: Option<usize>,
    removed: Vec<String>,
    ack: Ack,
    nonce: Nonce,
    initial: BTreeMap<String, u32>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Ack {
    #[default]
    Yes,
    No,
    Nack,
    /// With the type and the names of the case's other type.
    Other,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Nonce {
    #[default]
    Last,
    Foreign,
}

/// The server's second port.
struct Control {
    reading: BufReader<tokio::net::tcp::OwnedReadHalf>,
    writing: tokio::net::tcp::OwnedWriteHalf,
}

impl Control {
    async fn connect(address: SocketAddr) -> Self {
        let (reading, writing) = TcpStream::connect(address).await.expect("connect").into_split();
        Control { reading: BufReader::new(reading), writing }
    }

    async fn say(&mut self, line: &serde_json::Value) -> serde_json::Value {
        self.writing.write_all(format!("{line}\n").as_bytes()).await.expect("write");
        let mut answer = String::new();
        self.reading.read_line(&mut answer).await.expect("read");
        serde_json::from_str(&answer).expect("JSON")
    }

    async fn does(&mut self, line: serde_json::Value) {
        let answer = self.say(&line).await;
        assert_eq!(answer, serde_json::json!({"ok": true}), "{line}");
    }

    async fn put(&mut self, of: &str, name: &str, version: &str) {
        use base64::Engine;
        let value = base64::prelude::BASE64_STANDARD.encode(body(name, version));
        self.does(serde_json::json!({"type": kind(of).type_url(), "name": name, "value": value, "version": version}))
            .await;
    }
}

/// One case, in one variant, for some types, by one way.
struct Run<'a> {
    control: &'a mut Control,
    client: &'a Client,
    stream: Stream,
    mode: Mode,
    types: &'a [String],
    is_aggregated: bool,
    /// What was asked for last, by type.
    asked: BTreeMap<String, BTreeSet<String>>,
    /// What the server calls the state of a type.
    state: BTreeMap<String, String>,
    fences: usize,
}

/// No case uses it.
const FENCE: &str = "fence-";

impl Run<'_> {
    async fn step(&mut self, step: &Written) {
        let step = match step {
            Written::Word(Word::Silence) => return self.fence().await,
            Written::Word(Word::Reconnect) => {
                let of = (!self.is_aggregated).then(|| self.types[0].as_str());
                self.stream = self.client.open(self.mode, of).await;
                return self.asked.clear();
            }
            Written::Step(step) => step,
        };
        let of = &self.types[step.r#type.unwrap_or(1) - 1];
        if let Some(put) = &step.put {
            for (name, version) in put {
                self.control.put(of, name, &version.to_string()).await;
                self.state.insert(of.clone(), version.to_string());
            }
        }
        for name in step.remove.iter().flatten() {
            self.control.does(serde_json::json!({"type": kind(of).type_url(), "name": name, "value": null})).await;
            self.state.remove(of);
        }
        if let Some(names) = &step.subscribe {
            let foreign = matches!(step.nonce, Nonce::Foreign);
            match self.mode {
                // What is stale is not said.
                Mode::Sotw if foreign => {}
                Mode::Sotw => drop(self.asked.insert(of.clone(), names.iter().cloned().collect())),
                Mode::Delta => self.asked.entry(of.clone()).or_default().extend(names.iter().cloned()),
            }
            let initial = step.initial.iter().map(|(name, version)| (name.clone(), version.to_string())).collect();
            self.stream.subscribe(of, names, &[], initial, foreign).await;
        }
        if let Some(names) = &step.unsubscribe {
            let asked = self.asked.entry(of.clone()).or_default();
            asked.retain(|name| !names.contains(name));
            self.stream.subscribe(of, &[], names, BTreeMap::new(), false).await;
        }
        if let Some(expected) = &step.response {
            let answer = self.next(of).await;
            let expected: BTreeMap<String, String> =
                expected.iter().map(|(name, version)| (name.clone(), version.to_string())).collect();
            let found: BTreeMap<String, String> =
                answer.resources.clone().into_iter().filter(|(name, _)| !name.starts_with(FENCE)).collect();
            assert_eq!(found, expected, "{answer:?}");
            assert_eq!(answer.removed, step.removed.iter().cloned().collect(), "{answer:?}");
            self.answer(of, &answer, step.ack).await;
        }
        if let Some(names) = &step.some {
            let answer = self.next(of).await;
            assert!(names.iter().all(|name| answer.resources.contains_key(name)), "{names:?} in {answer:?}");
            self.answer(of, &answer, Ack::Yes).await;
        }
    }

    /// The next response, which must be about that type.
    async fn next(&mut self, of: &str) -> Answer {
        let answer = self.stream.next().await;
        assert_eq!(answer.type_url, kind(of).type_url(), "{answer:?}");
        if let Some(state) = self.state.get(of) {
            assert_eq!(&answer.version, state, "version_info of {answer:?}");
        }
        answer
    }

    async fn answer(&mut self, of: &str, answer: &Answer, ack: Ack) {
        let as_type = match ack {
            Ack::Other => self.types.iter().find(|other| *other != of).map_or(of, String::as_str),
            Ack::Yes | Ack::No | Ack::Nack => of,
        };
        let names: Vec<String> = self.asked.get(as_type).into_iter().flatten().cloned().collect();
        if ack != Ack::No {
            self.stream.answer(as_type, &answer.nonce, &names, ack == Ack::Nack).await;
        }
    }

    /// The next thing to come of the first type is what is asked for here, and nothing else.
    async fn fence(&mut self) {
        self.fences += 1;
        let of = self.types[0].clone();
        if kind(&of) == xds::Kind::Runtime {
            // Every name of it is there.
            return;
        }
        let name = format!("{FENCE}{}", self.fences);
        let asked = self.asked.entry(of.clone()).or_default();
        let is_root = kind(&of).is_root();
        let is_wildcard = is_root && (asked.is_empty() || asked.contains("*"));
        let is_full = self.mode == Mode::Sotw && is_root;
        // A name that there is not is answered as well, but for SotW of what is no full state.
        let is_there = is_wildcard || (self.mode == Mode::Sotw && !is_root);
        if is_there {
            self.control.put(&of, &name, &name).await;
            self.state.insert(of.clone(), name.clone());
        }
        let before = asked.clone();
        if !is_wildcard {
            asked.insert(name.clone());
            let names: Vec<String> = match self.mode {
                Mode::Sotw => asked.iter().cloned().collect(),
                Mode::Delta => vec![name.clone()],
            };
            self.stream.subscribe(&of, &names, &[], BTreeMap::new(), false).await;
        }
        let answer = self.next(&of).await;
        let is_answer = answer.resources.contains_key(&name) == is_there;
        let is_answer = is_answer && answer.removed.contains(&name) == (self.mode == Mode::Delta && !is_there);
        assert!(is_answer, "instead of {name} came {answer:?}");
        let wanted = |found: &&String| is_full && (is_wildcard || before.contains(*found));
        let more: Vec<&String> = answer.resources.keys().filter(|found| **found != name && !wanted(found)).collect();
        assert!(more.is_empty(), "nobody asked for {more:?}: {answer:?}");
        self.answer(&of, &answer, Ack::Yes).await;
    }
}

async fn start() -> (SocketAddr, SocketAddr) {
    let (xds, control) = (TcpListener::bind("127.0.0.1:0").await, TcpListener::bind("127.0.0.1:0").await);
    let (xds, control) = (xds.expect("a port"), control.expect("a port"));
    let addresses = (xds.local_addr().expect("an address"), control.local_addr().expect("an address"));
    tokio::spawn(server::serve(xds, control));
    addresses
}

#[tokio::test]
async fn every_case_holds_in_every_variant() {
    let (xds, control) = start().await;
    let cases: Vec<Case> = serde_yaml_ng::from_str(include_str!("cases.yaml")).expect("cases");
    let client = Client::connect(xds).await;
    let mut control = Control::connect(control).await;
    let (mut runs, mut kinds) = (0, BTreeSet::new());
    for case in &cases {
        for mode in &case.variants {
            for types in &case.types {
                let ways: &[bool] = if types.len() == 1 { &[true, false] } else { &[true] };
                for is_aggregated in ways.iter().copied() {
                    println!("{}: {mode:?}, {types:?}, aggregated: {is_aggregated}", case.name);
                    control.does(serde_json::json!({"clear": true})).await;
                    let of = (!is_aggregated).then(|| types[0].as_str());
                    let stream = client.open(*mode, of).await;
                    let (asked, state) = (BTreeMap::new(), BTreeMap::new());
                    let (control, client, mode) = (&mut control, &client, *mode);
                    let mut run = Run { control, client, stream, mode, types, is_aggregated, asked, state, fences: 0 };
                    for step in &case.steps {
                        run.step(step).await;
                    }
                    run.fence().await;
                    runs += 1;
                    kinds.extend(types.iter().cloned());
                }
            }
        }
    }
    println!("{} cases, {runs} runs", cases.len());
    assert_eq!(kinds.len(), xds::Kind::COUNT, "every type is there: {kinds:?}");
}

#[tokio::test]
async fn bad_lines_are_told_and_cost_nothing() {
    let (_, control) = start().await;
    let mut control = Control::connect(control).await;
    let url = xds::Kind::Cluster.type_url();
    let cases = [
        (serde_json::json!([]), "no such object"),
        (serde_json::json!({}), "type: is missing"),
        (serde_json::json!({"type": "x"}), "type: \"x\" is not served"),
        (serde_json::json!({"type": url}), "name: is missing"),
        (serde_json::json!({"type": url, "name": "a", "value": "%"}), "value: no base64"),
        (serde_json::json!({"type": url, "name": "a", "vaule": "%"}), "vaule"),
        (serde_json::json!({"clear": true, "name": "a"}), "clear: "),
    ];
    for (line, problem) in cases {
        let answer = control.say(&line).await;
        assert!(answer["error"].as_str().is_some_and(|error| error.contains(problem)), "{line}: {answer}");
    }
    control.put("CDS", "a", "1").await;
}
