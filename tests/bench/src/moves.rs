//! Changes while requests are under way: many at once, and one model that moves again and again, to a new cluster or by
//! its endpoints alone. No answer may be missing or wrong.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use http::StatusCode;
use tokio::task::JoinHandle;

use crate::client::{Connection, Question};
use crate::figures::{Times, milliseconds};
use crate::mesh::Mesh;
use crate::table::Table;
use crate::world::{Shape, question};
use crate::{Size, backend};

const OLD: &str = "old";
const NEW: &str = "new";
const SETS: usize = 20;
/// Connections that ask one after another for as long as changes are made.
const CONNECTIONS: usize = 4;
/// Requests that are under way before the first change.
const WARM_UP: Duration = Duration::from_millis(300);

/// Requests under way.
struct Load {
    over: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Result<Heard>>>,
    began: Instant,
}

/// What they were answered.
#[derive(Default)]
struct Heard {
    times: Times,
    failed: Vec<String>,
}

pub(crate) async fn run(size: Size) -> Result<()> {
    let models = size.pick(100_000, 1_000);
    let (old, new) = (backend::start(OLD).await?, backend::start(NEW).await?);
    let mut mesh = Mesh::serve(Shape::Scopes, models, SETS, old).await?;
    mesh.add_envoys(1, 1).await?;
    mesh.synced(1).await?;
    let mut table = Table::new(&[
        "changes under load",
        "models",
        "changes",
        "each effective after p50 ms",
        "all effective after ms",
        "requests/s meanwhile",
        "p99 ms",
        "slowest ms",
        "failed",
    ]);
    let quiet = Load::start(mesh.seat()?.address, &question(0)?).await?;
    tokio::time::sleep(size.pick(Duration::from_secs(3), WARM_UP)).await;
    table.row(quiet.row("nothing", models, 0, "–".to_owned(), "–".to_owned()).await?);
    table.row(burst(&mut mesh, size, new).await?);
    for way in [Way::NewCluster, Way::Endpoints] {
        table.row(moves(&mut mesh, way, size, (old, new)).await?);
    }
    table.print();
    println!(
        "\nClosed loop over {CONNECTIONS} connections; one worker of Envoy, which shares 2 cores with everything else."
    );
    mesh.stop().await
}

/// Many models move to a known set, each by a publication of its own, while others are asked.
async fn burst(mesh: &mut Mesh, size: Size, new: SocketAddr) -> Result<[String; 9]> {
    let (models, changes) = (mesh.world.models(), size.pick(1_000, 100));
    let (target, announced) = mesh.world.announce(new)?;
    mesh.publish(announced)?;
    mesh.synced(1).await?;
    let address = mesh.seat()?.address;
    let mut connection = Connection::open(address).await?;
    let load = Load::start(address, &question(0)?).await?;
    tokio::time::sleep(WARM_UP).await;
    let started = Instant::now();
    for number in models - changes..models {
        let moved = mesh.world.lead([number], target)?;
        mesh.publish(moved)?;
    }
    // They take effect in their order: when the last has, all have.
    connection.until(&question(models - 1)?, NEW, OLD).await?;
    let took = started.elapsed();
    for number in models - changes..models {
        let (status, body) = connection.ask(&question(number)?).await?;
        ensure!(status == StatusCode::OK && body == NEW, "model {number} is answered {status} {body:?} after the last");
    }
    load.row(&format!("{changes} models move at once"), models, changes, "–".to_owned(), milliseconds(took)).await
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    NewCluster,
    Endpoints,
}

/// The model that is asked for moves to and fro.
async fn moves(mesh: &mut Mesh, way: Way, size: Size, (old, new): (SocketAddr, SocketAddr)) -> Result<[String; 9]> {
    let (models, count, number) = (mesh.world.models(), size.pick(100, 6), 1);
    let (mut set, announced) = mesh.world.announce(old)?;
    mesh.publish(announced)?;
    let moved = mesh.world.lead([number], set)?;
    mesh.publish(moved)?;
    let question = question(number)?;
    let address = mesh.seat()?.address;
    let mut connection = Connection::open(address).await?;
    connection.until(&question, OLD, OLD).await?;
    let load = Load::start(address, &question).await?;
    tokio::time::sleep(WARM_UP).await;
    let (mut times, started) = (Times::default(), Instant::now());
    for turn in 0..count {
        let (backend, wanted, other) = if turn % 2 == 0 { (new, NEW, OLD) } else { (old, OLD, NEW) };
        let began = Instant::now();
        match way {
            Way::NewCluster => {
                let moved = mesh.world.lead_to_new(number, backend)?;
                mesh.publish(moved)?;
                // At once, so that nothing but the order that the session keeps protects the requests under way.
                let gone = mesh.world.retire(set)?;
                mesh.publish(gone)?;
                set = mesh.world.led_by(number)?;
            }
            Way::Endpoints => {
                let moved = mesh.world.move_replica(set, backend)?;
                mesh.publish(moved)?;
            }
        }
        connection.until(&question, wanted, other).await?;
        times.add(began.elapsed());
    }
    let took = started.elapsed();
    let name = match way {
        Way::NewCluster => "the model asked for moves to a new cluster, its old one goes",
        Way::Endpoints => "its replica moves: endpoints alone",
    };
    load.row(name, models, count, milliseconds(times.median()), milliseconds(took)).await
}

impl Load {
    async fn start(address: SocketAddr, question: &Question) -> Result<Load> {
        let over = Arc::new(AtomicBool::new(false));
        let mut clients = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut connection = Connection::open(address).await?;
            let (over, question) = (Arc::clone(&over), question.clone());
            clients.push(tokio::spawn(async move {
                let mut heard = Heard::default();
                while !over.load(Ordering::Relaxed) {
                    let asked = Instant::now();
                    let (status, body) = connection.ask(&question).await?;
                    heard.times.add(asked.elapsed());
                    if status != StatusCode::OK || (body != OLD && body != NEW) {
                        heard.failed.push(format!("{status} {body:?}"));
                    }
                }
                anyhow::Ok(heard)
            }));
        }
        Ok(Load { over, clients, began: Instant::now() })
    }

    /// Ends it. A row of the table.
    async fn row(self, name: &str, models: usize, changes: usize, each: String, all: String) -> Result<[String; 9]> {
        self.over.store(true, Ordering::Relaxed);
        let mut heard = Heard::default();
        for client in self.clients {
            let one = client.await.context("a client failed")??;
            heard.times.extend(&one.times);
            heard.failed.extend(one.failed);
        }
        let took = self.began.elapsed();
        ensure!(heard.failed.is_empty(), "{} requests failed: {:?}", heard.failed.len(), heard.failed.first());
        #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 requests")]
        let rate = heard.times.count() as f64 / took.as_secs_f64();
        Ok([
            name.to_owned(),
            models.to_string(),
            changes.to_string(),
            each,
            all,
            format!("{rate:.0}"),
            milliseconds(heard.times.quantile(0.99)),
            milliseconds(heard.times.longest()),
            heard.failed.len().to_string(),
        ])
    }
}
