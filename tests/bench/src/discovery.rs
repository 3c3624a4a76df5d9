//! A discovery server in a process of its own, so that its memory and its processor time can be told from those of its
//! clients: a peer, or this program again, as `bench discovery`. That has the real publisher and the real server, and takes one JSON
//! object a line: `{"fill": n, "sets": n}` and `{"lead": [model, set]}`, each applied before it is answered.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use harness::Ports;
use runtime::child::Child;
use scheduler::envoy::Publication;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tonic::transport::server::TcpIncoming;
use xds::{Ads, Change, Config};

use crate::installation::tail;
use crate::program;
use crate::world::{Shape, World, settings};

/// The word that makes this program a discovery server.
pub(crate) const WORD: &str = "discovery";

/// It binds two ports.
const STARTS_WITHIN: Duration = Duration::from_secs(30);
const STOPS_WITHIN: Duration = Duration::from_secs(20);

/// Models whose routes are published together.
const FILLED_AT_ONCE: usize = 100;

/// The backend of all sets; nobody calls it.
const BACKEND: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9);

/// What serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Ours,
    /// The caches of go-control-plane.
    Linear,
    Mux,
    Snapshot,
}

impl Source {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Source::Ours => "Switchyard",
            Source::Linear => "go-control-plane, linear cache",
            Source::Mux => "go-control-plane, mux cache",
            Source::Snapshot => "go-control-plane, snapshot cache",
        }
    }

    fn cache(self) -> Option<&'static str> {
        match self {
            Source::Ours => None,
            Source::Linear => Some("linear"),
            Source::Mux => Some("mux"),
            Source::Snapshot => Some("snapshot"),
        }
    }
}

/// A server that is told what to serve over a port.
pub(crate) struct Server {
    pub(crate) xds: SocketAddr,
    child: Child,
    control: Lines,
    /// A peer is told resources and not what they are made of.
    world: Option<World>,
    folder: TempDir,
    _ports: Ports,
}

/// One JSON object a line, each answered by one.
struct Lines {
    reading: BufReader<OwnedReadHalf>,
    writing: OwnedWriteHalf,
}

impl Server {
    /// It serves the scopes of so many models when this returns.
    pub(crate) async fn start(source: Source, models: usize, sets: usize) -> Result<Server> {
        let folder = tempfile::Builder::new().prefix("switchyard-bench-").tempdir()?;
        let mut ports = Ports::block()?;
        let mut local = || anyhow::Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, ports.free()?)));
        let (xds, control) = (local()?, local()?);
        let log = folder.path().join("server.log");
        let child = match source.cache() {
            None => {
                program::again(&[WORD.to_owned(), xds.to_string(), control.to_string()], folder.path(), &log).await?
            }
            Some(cache) => {
                let peer = tokio::task::spawn_blocking(|| harness::go::program("control-plane")).await??;
                let arguments = ["--cache", cache, "--xds", &xds.to_string(), "--control", &control.to_string()];
                program::run(&peer, &arguments, folder.path(), &log).await?
            }
        };
        let mut stream = None;
        let listens = harness::until(STARTS_WITHIN, "the discovery server listens", async || {
            stream = Some(TcpStream::connect(control).await?);
            Ok(())
        });
        listens.await.with_context(|| tail(&log))?;
        let stream = stream.context("it listens")?;
        stream.set_nodelay(true)?;
        let (reading, writing) = stream.into_split();
        let control = Lines { reading: BufReader::new(reading), writing };
        let mut server = Server { xds, child, control, world: None, folder, _ports: ports };
        match source {
            Source::Ours => server.tell(&json!({ "fill": models, "sets": sets })).await?,
            Source::Linear | Source::Mux | Source::Snapshot => {
                let mut world = World::new(Shape::Scopes, settings(1), models, sets, BACKEND)?;
                let _not_scopes = world.sets()?;
                let text: String = lines(&world.routes(0..models)?).map(|line| format!("{line}\n")).collect();
                let path = server.folder.path().join("scopes.jsonl");
                std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
                server.tell(&json!({ "load": path })).await?;
                server.world = Some(world);
            }
        }
        Ok(server)
    }

    /// The line by which a model leads to another set.
    pub(crate) fn change(&mut self, model: usize, set: usize) -> Result<Value> {
        match &mut self.world {
            None => Ok(json!({ "lead": [model, set] })),
            Some(world) => lines(&world.lead([model], set)?).next().context("a scope changes"),
        }
    }

    /// Says something and waits until it is done.
    pub(crate) async fn tell(&mut self, line: &Value) -> Result<()> {
        self.say(line).await?;
        self.done().await
    }

    pub(crate) async fn say(&mut self, line: &Value) -> Result<()> {
        self.control.writing.write_all(format!("{line}\n").as_bytes()).await.context("talk to the discovery server")
    }

    pub(crate) async fn done(&mut self) -> Result<()> {
        let mut answer = String::new();
        self.control.reading.read_line(&mut answer).await.context("hear the discovery server")?;
        let answer: Value = serde_json::from_str(&answer).with_context(|| format!("an answer: {answer:?}"))?;
        ensure!(answer["ok"] == true, "the discovery server answers {answer}");
        Ok(())
    }

    pub(crate) fn pid(&self) -> Result<u32> {
        self.child.pid().context("the discovery server has ended")
    }

    pub(crate) async fn stop(mut self) -> Result<()> {
        self.child.stop(STOPS_WITHIN).await.context("stop the discovery server").map(|_| ())
    }
}

/// A publication as peers are told it.
fn lines(publication: &Publication) -> impl Iterator<Item = Value> {
    publication.changes.iter().filter_map(|change| match change {
        Change::Put(resource) => Some(json!({
            "type": resource.kind().type_url(),
            "name": resource.name().as_str(),
            "version": resource.version_text(),
            "value": BASE64_STANDARD.encode(resource.body()),
        })),
        Change::Remove(_) => None,
    })
}

/// The other process: `bench discovery <address> <address>`.
pub(crate) async fn run(arguments: impl Iterator<Item = String>) -> Result<()> {
    runtime::memory::give_back();
    let addresses: Vec<SocketAddr> =
        arguments.map(|text| text.parse()).collect::<Result<_, _>>().context("addresses")?;
    let [xds, control] = addresses.as_slice() else { bail!("two addresses") };
    let (ads, mut feedback) = Ads::new(Config::default());
    let server = tonic::transport::Server::builder().add_routes(ads.routes());
    let discovery = TcpListener::bind(xds).await.context("bind the port for discovery")?;
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(discovery).with_nodelay(Some(true))));
    tokio::spawn(async move { while feedback.recv().await.is_some() {} });
    let control = TcpListener::bind(control).await.context("bind the port for control")?;
    let (stream, _) = control.accept().await.context("accept")?;
    stream.set_nodelay(true)?;
    let (reading, mut writing) = stream.into_split();
    let mut lines = BufReader::new(reading).lines();
    let mut world = None;
    while let Some(line) = lines.next_line().await.context("read a line")? {
        let done = serde_json::from_str(&line).context("a line").and_then(|line| apply(&ads, &mut world, &line));
        let answer = match done {
            Ok(()) => json!({ "ok": true }),
            Err(error) => json!({ "error": format!("{error:#}") }),
        };
        writing.write_all(format!("{answer}\n").as_bytes()).await.context("answer")?;
    }
    Ok(())
}

fn apply(ads: &Ads, world: &mut Option<World>, line: &Value) -> Result<()> {
    let number = |value: &Value| value.as_u64().and_then(|value| usize::try_from(value).ok()).context("a number");
    if let Some(lead) = line.get("lead") {
        let world = world.as_mut().context("fill comes first")?;
        let publication = world.lead([number(&lead[0])?], number(&lead[1])?)?;
        return publish(ads, world, publication);
    }
    let (models, sets) = (number(&line["fill"])?, number(&line["sets"])?);
    let world = world.insert(World::new(Shape::Scopes, settings(1), models, sets, BACKEND)?);
    let first = world.sets()?;
    publish(ads, world, first)?;
    ads.open(false);
    // As people declare them, some at a time.
    for from in (0..models).step_by(FILLED_AT_ONCE) {
        let some = world.routes(from..models.min(from + FILLED_AT_ONCE))?;
        publish(ads, world, some)?;
    }
    Ok(())
}

fn publish(ads: &Ads, world: &mut World, publication: Publication) -> Result<()> {
    let revision = ads.publish(publication.changes, publication.gated).context("publish")?;
    world.published(revision);
    Ok(())
}
