//! How long a change takes until a request sees it, at N models, and what of it is on the wire, against a linear list
//! that is sent whole each time.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::client::Connection;
use crate::figures::{Times, median, milliseconds, ratio};
use crate::mesh::Mesh;
use crate::table::Table;
use crate::world::{Shape, question};
use crate::{Size, backend};

const OLD: &str = "old";
const NEW: &str = "new";

/// As many changes of each kind are made to the linear list.
const LINEAR_ROUNDS: usize = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// To replicas that other models use.
    Route,
    /// To replicas that no model has used.
    RouteAndCluster,
    /// The replicas have moved.
    Endpoints,
    /// The same is published again; what is measured is another change after it.
    Nothing,
}

const KINDS: [(Kind, &str); 4] = [
    (Kind::Route, "a model moves to a known placement set"),
    (Kind::RouteAndCluster, "a model moves to a new placement set"),
    (Kind::Endpoints, "a replica moves to another address"),
    (Kind::Nothing, "nothing changes"),
];

/// Measures of one kind of change.
#[derive(Default)]
struct Measured {
    times: Times,
    /// Bytes received by Envoy, with framing and the answers to ACKs.
    bytes: Vec<f64>,
}

/// An Envoy, and what a change of it needs.
struct Side {
    mesh: Mesh,
    old: usize,
    new: usize,
    /// A set that one model leads to, for changes of its endpoints.
    moving: usize,
    connection: Connection,
    measured: [Measured; KINDS.len()],
}

pub(crate) async fn run(size: Size) -> Result<()> {
    let (old, new) = (backend::start(OLD).await?, backend::start(NEW).await?);
    let mut table = Table::new(&[
        "change → effective",
        "models",
        "Switchyard p50 ms",
        "max ms",
        "bytes on the wire",
        "linear list p50 ms",
        "max ms",
        "bytes on the wire",
        "ratio of p50",
    ]);
    for models in size.pick([10_000, 100_000], [200, 1_000]) {
        let mut sides = Vec::new();
        for shape in [Shape::Scopes, Shape::Linear] {
            sides.push(Side::start(shape, models, (old, new)).await?);
        }
        for round in 0..size.pick(40, 4) {
            for (position, (kind, _)) in KINDS.iter().enumerate() {
                // The list of 100,000 takes seconds.
                for side in sides.iter_mut().filter(|side| round < LINEAR_ROUNDS || side.mesh.shape == Shape::Scopes) {
                    let (took, bytes) = side.change(*kind, (old, new)).await?;
                    let measured = side.measured.get_mut(position).context("a kind has its measures")?;
                    measured.times.add(took);
                    measured.bytes.push(bytes);
                }
            }
        }
        let [ours, linear] = sides.as_slice() else { anyhow::bail!("two sides are compared") };
        for ((kind, name), (ours, linear)) in KINDS.iter().zip(ours.measured.iter().zip(&linear.measured)) {
            let is_timed = *kind != Kind::Nothing;
            let time = |time: Duration| if is_timed { milliseconds(time) } else { "–".to_owned() };
            table.row([
                (*name).to_owned(),
                models.to_string(),
                time(ours.times.median()),
                time(ours.times.longest()),
                format!("{:.0}", median(&ours.bytes)),
                time(linear.times.median()),
                time(linear.times.longest()),
                format!("{:.0}", median(&linear.bytes)),
                if is_timed { ratio(linear.times.median(), ours.times.median()) } else { "–".to_owned() },
            ]);
        }
        for side in sides {
            side.mesh.stop().await?;
        }
    }
    table.print();
    Ok(())
}

impl Side {
    async fn start(shape: Shape, models: usize, (old, new): (SocketAddr, SocketAddr)) -> Result<Side> {
        let mut mesh = Mesh::start(shape, models, old).await?;
        let (target, announced) = mesh.world.announce(new)?;
        mesh.publish(announced)?;
        let (moving, announced) = mesh.world.announce(old)?;
        mesh.publish(announced)?;
        let moved = mesh.world.lead([models - 2], moving)?;
        mesh.publish(moved)?;
        let connection = Connection::open(mesh.seat()?.address).await?;
        Ok(Side { mesh, old: 0, new: target, moving, connection, measured: Default::default() })
    }

    /// Makes the change, measures it, and takes it back.
    async fn change(&mut self, kind: Kind, (old, new): (SocketAddr, SocketAddr)) -> Result<(Duration, f64)> {
        let models = self.mesh.world.models();
        let number = if kind == Kind::Endpoints { models - 2 } else { models - 1 };
        let question = question(number)?;
        self.connection.until(&question, OLD, NEW).await?;
        self.mesh.synced(1).await?;
        let before = self.mesh.seat()?.received().await?;
        let started = Instant::now();
        let publication = match kind {
            Kind::Route => self.mesh.world.lead([number], self.new)?,
            Kind::RouteAndCluster => self.mesh.world.lead_to_new(number, new)?,
            Kind::Endpoints => self.mesh.world.move_replica(self.moving, new)?,
            Kind::Nothing => self.mesh.world.lead([number], self.old)?,
        };
        self.mesh.publish(publication)?;
        let (effective, other) = if kind == Kind::Nothing { (OLD, NEW) } else { (NEW, OLD) };
        self.connection.until(&question, effective, other).await?;
        let took = started.elapsed();
        self.mesh.synced(1).await?;
        #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 bytes")]
        let bytes = self.mesh.seat()?.received().await?.saturating_sub(before) as f64;
        let back = match kind {
            Kind::Route | Kind::RouteAndCluster | Kind::Nothing => self.mesh.world.lead([number], self.old)?,
            Kind::Endpoints => self.mesh.world.move_replica(self.moving, old)?,
        };
        self.mesh.publish(back)?;
        self.connection.until(&question, OLD, NEW).await?;
        Ok((took, bytes))
    }
}
