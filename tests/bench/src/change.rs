//! How long a change takes until a request sees it, at N models, against a linear list that is sent whole each time.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use http::StatusCode;

use crate::client::{Connection, Question};
use crate::figures::{Times, milliseconds, ratio};
use crate::mesh::{Mesh, Routing, Target, question};
use crate::table::Table;
use crate::{Size, backend};

const OLD: &str = "old";
const NEW: &str = "new";
/// A change takes milliseconds, a second on a machine that swaps.
const EFFECTIVE_WITHIN: Duration = Duration::from_secs(15);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// To replicas that other models use.
    Route,
    /// To replicas that no model has used.
    RouteAndCluster,
    /// The replicas have moved.
    Endpoints,
}

const KINDS: [(Kind, &str); 3] = [
    (Kind::Route, "a model moves to a known placement set"),
    (Kind::RouteAndCluster, "a model moves to a new placement set"),
    (Kind::Endpoints, "a replica moves to another address"),
];

/// An Envoy, and what a change of it needs.
struct Side {
    mesh: Mesh,
    old: Target,
    new: Target,
    /// A set that one model leads to, for changes of its endpoints.
    moving: Target,
    connection: Connection,
    times: [Times; KINDS.len()],
}

pub(crate) async fn run(size: Size) -> Result<()> {
    let models = size.pick(10_000, 1_000);
    let (old, new) = (backend::start(OLD).await?, backend::start(NEW).await?);
    let mut sides = Vec::new();
    for routing in Routing::BOTH {
        let (mut mesh, first) = Mesh::start(routing, models, old).await?;
        let (target, moving) = (mesh.target(new)?, mesh.target(old)?);
        mesh.lead(models - 2, &moving)?;
        let connection = Connection::open(mesh.address).await?;
        sides.push(Side { mesh, old: first, new: target, moving, connection, times: Default::default() });
    }
    for _ in 0..size.pick(40, 4) {
        for (position, (kind, _)) in KINDS.iter().enumerate() {
            for side in &mut sides {
                let took = side.change(*kind, models, (old, new)).await?;
                side.times.get_mut(position).context("a kind has its times")?.add(took);
            }
        }
    }
    let mut table = Table::new(&[
        "change → effective",
        "models",
        "Switchyard p50 ms",
        "max ms",
        "linear list p50 ms",
        "max ms",
        "ratio of p50",
    ]);
    let [ours, linear] = sides.as_slice() else { anyhow::bail!("two sides are compared") };
    for ((_, name), (ours, linear)) in KINDS.iter().zip(ours.times.iter().zip(&linear.times)) {
        table.row([
            (*name).to_owned(),
            models.to_string(),
            milliseconds(ours.median()),
            milliseconds(ours.longest()),
            milliseconds(linear.median()),
            milliseconds(linear.longest()),
            ratio(linear.median(), ours.median()),
        ]);
    }
    table.print();
    for side in sides {
        side.mesh.stop().await?;
    }
    Ok(())
}

impl Side {
    /// Makes the change, measures it, and takes it back.
    async fn change(&mut self, kind: Kind, models: usize, (old, new): (SocketAddr, SocketAddr)) -> Result<Duration> {
        let number = if kind == Kind::Endpoints { models - 2 } else { models - 1 };
        let question = question(number)?;
        self.until(&question, OLD).await?;
        let started = Instant::now();
        match kind {
            Kind::Route => self.mesh.lead(number, &self.new)?,
            Kind::RouteAndCluster => self.mesh.lead_to_new(number, new)?,
            Kind::Endpoints => self.mesh.move_replica(&self.moving, new)?,
        }
        self.until(&question, NEW).await?;
        let took = started.elapsed();
        match kind {
            Kind::Route | Kind::RouteAndCluster => self.mesh.lead(number, &self.old)?,
            Kind::Endpoints => self.mesh.move_replica(&self.moving, old)?,
        }
        self.until(&question, OLD).await?;
        Ok(took)
    }

    /// Asks until the answer is this one. No answer may be anything but old or new.
    async fn until(&mut self, question: &Question, wanted: &str) -> Result<()> {
        let started = Instant::now();
        loop {
            let (status, body) = self.connection.ask(question).await?;
            ensure!(status == StatusCode::OK && (body == OLD || body == NEW), "a wrong answer: {status} {body:?}");
            if body == wanted {
                return Ok(());
            }
            ensure!(started.elapsed() < EFFECTIVE_WITHIN, "not {wanted} within {EFFECTIVE_WITHIN:?}");
        }
    }
}
