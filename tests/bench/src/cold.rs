//! Envoys that begin with nothing: until they serve all of N models, what they hold then, what coming back costs, and how
//! long several take for one change; against a linear list and a cluster for each model.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::client::Connection;
use crate::figures::{Times, mega, milliseconds};
use crate::mesh::Mesh;
use crate::process::{processor_time, resident};
use crate::table::Table;
use crate::world::{Shape, question};
use crate::{Size, backend};

const OLD: &str = "old";
const NEW: &str = "new";
/// Placement sets that the models share.
const SETS: usize = 20;
/// An Envoy gives back each second what it does not need any more.
const GIVEN_BACK_AFTER: Duration = Duration::from_secs(5);
/// Envoys that are fed at once.
const FLEET: usize = 8;

pub(crate) async fn run(size: Size) -> Result<()> {
    let (old, new) = (backend::start(OLD).await?, backend::start(NEW).await?);
    let mut table = Table::new(&[
        "a cold Envoy",
        "models",
        "serves the last after s",
        "resident MB (MiB)",
        "a moment later",
        "received MB",
        "back after a restart of the server: bytes, all framing",
        "CPU of the server ms",
        "CPU of Envoy ms",
    ]);
    let shapes = [
        (Shape::Scopes, size.pick(10_000, 200)),
        (Shape::Scopes, size.pick(100_000, 1_000)),
        (Shape::Linear, size.pick(10_000, 200)),
        (Shape::Linear, size.pick(100_000, 1_000)),
        (Shape::Clusters, size.pick(10_000, 200)),
    ];
    for (shape, models) in shapes {
        table.row(cold(shape, models, old, size).await?);
    }
    table.print();
    println!(
        "\n{SETS} placement sets; time, memory and the return are medians of {} Envoys. A moment is 5 s.",
        rounds(size)
    );
    fleet(size, old, new).await
}

fn rounds(size: Size) -> usize {
    size.pick(3, 1)
}

/// One row.
async fn cold(shape: Shape, models: usize, old: SocketAddr, size: Size) -> Result<[String; 9]> {
    let (mut times, mut received) = (Times::default(), Vec::new());
    let (mut memory, mut later) = (Vec::new(), Vec::new());
    let (mut again, mut server, mut client) = (Vec::new(), Times::default(), Times::default());
    for _ in 0..rounds(size) {
        let mut mesh = Mesh::serve(shape, models, SETS, old).await?;
        mesh.add_envoys(1, 1).await?;
        mesh.synced(1).await?;
        let seat = mesh.seat()?;
        times.add(seat.served_after);
        let pid = seat.pid()?;
        memory.push(resident(pid)?.0);
        received.push(seat.received().await?);
        tokio::time::sleep(GIVEN_BACK_AFTER).await;
        later.push(resident(pid)?.0);

        mesh.restart_server().await?;
        let (of_server, of_client) = (mesh.processor_time().await?, processor_time(pid)?);
        mesh.open().await?;
        mesh.synced(1).await?;
        server.add(mesh.processor_time().await?.saturating_sub(of_server));
        client.add(processor_time(pid)?.saturating_sub(of_client));
        again.push(mesh.seat()?.received().await?.saturating_sub(*received.last().context("received")?));
        let resources: u64 = mesh.streams().iter().map(|stream| stream.counters.resources).sum();
        // Endpoints are always told again to whoever may have lost them.
        ensure!(shape == Shape::Clusters || resources == 0, "{resources} resources were sent again");
        mesh.stop().await?;
    }
    for numbers in [&mut memory, &mut later, &mut received, &mut again] {
        numbers.sort_unstable();
    }
    let middle = |numbers: &[u64]| numbers.get(numbers.len() / 2).copied().context("a measure");
    Ok([
        shape.name().to_owned(),
        models.to_string(),
        format!("{:.2}", times.median().as_secs_f64()),
        with_mebi(middle(&memory)?),
        with_mebi(middle(&later)?),
        mega(middle(&received)?),
        middle(&again)?.to_string(),
        milliseconds(server.median()),
        milliseconds(client.median()),
    ])
}

fn with_mebi(bytes: u64) -> String {
    format!("{} ({})", mega(bytes), bytes >> 20)
}

/// Several Envoys on one server: all begin at once, then each change is waited for on all of them.
async fn fleet(size: Size, old: SocketAddr, new: SocketAddr) -> Result<()> {
    let models = size.pick(10_000, 200);
    let count = size.pick(FLEET, 2);
    let mut mesh = Mesh::serve(Shape::Scopes, models, SETS, old).await?;
    mesh.add_envoys(count, 1).await?;
    mesh.synced(count).await?;
    let served = mesh.seats().iter().map(|seat| seat.served_after).max().context("Envoys")?;
    let (target, announced) = mesh.world.announce(new)?;
    mesh.publish(announced)?;
    let number = models - 1;
    let question = question(number)?;
    let mut connections = Vec::new();
    for seat in mesh.seats() {
        connections.push(Connection::open(seat.address).await?);
    }
    let mut times = Times::default();
    for turn in 0..size.pick(100, 4) {
        mesh.synced(count).await?;
        let (set, wanted, other) = if turn % 2 == 0 { (target, NEW, OLD) } else { (number % SETS, OLD, NEW) };
        let started = Instant::now();
        let moved = mesh.world.lead([number], set)?;
        mesh.publish(moved)?;
        // One after the other: each shows it at the latest when it is asked last.
        for connection in &mut connections {
            connection.until(&question, wanted, other).await?;
        }
        times.add(started.elapsed());
    }
    let mut table =
        Table::new(&["Envoys", "models", "all serve the last after s", "one change on all: p50 ms", "max ms"]);
    table.row([
        count.to_string(),
        models.to_string(),
        format!("{:.2}", served.as_secs_f64()),
        milliseconds(times.median()),
        milliseconds(times.longest()),
    ]);
    println!();
    table.print();
    mesh.stop().await
}
