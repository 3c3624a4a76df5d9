//! What finding the route of the last of N models costs Envoy, for N up to 100,000, against a linear list.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use http::StatusCode;

use crate::client::{Connection, Question};
use crate::figures::{Times, median, milliseconds};
use crate::mesh::Mesh;
use crate::table::Table;
use crate::world::{Shape, question};
use crate::{Size, backend, process};

const BODY: &str = "answered";
/// Clients in closed loop: enough to keep the one worker of Envoy busy.
const CONNECTIONS: usize = 4;

/// One Envoy, and what was measured of it.
struct Case {
    mesh: Mesh,
    question: Question,
    per_second: Vec<f64>,
    /// Microseconds of Envoy's processor time for a request.
    cost: Vec<f64>,
    /// One call after another.
    times: Times,
}

pub(crate) async fn run(size: Size) -> Result<()> {
    let backend = backend::start(BODY).await?;
    let ours = size.pick(&[10, 1_000, 10_000, 50_000, 100_000][..], &[10, 1_000]);
    let linear = size.pick(&[1_000, 10_000, 100_000][..], &[1_000]);
    let ours = ours.iter().map(|models| (Shape::Scopes, *models));
    let linear = linear.iter().map(|models| (Shape::Linear, *models));
    let mut cases = Vec::new();
    for (shape, models) in ours.chain(linear) {
        let mesh = Mesh::start(shape, models, backend).await?;
        let question = question(models - 1)?;
        cases.push(Case { mesh, question, per_second: Vec::new(), cost: Vec::new(), times: Times::default() });
    }
    let window = size.pick(Duration::from_millis(400), Duration::from_millis(50));
    for round in 0..size.pick(21, 2) {
        // Each in its turn first, because what was measured before warms and wears the machine.
        let count = cases.len();
        for turn in 0..count {
            let case = cases.get_mut((round + turn) % count).context("a case")?;
            case.load(window, round > 0).await?;
            case.one_by_one(window, round > 0).await?;
        }
    }
    let mut table = Table::new(&[
        "routing",
        "models",
        "requests/s for the last",
        "of N = 10",
        "Envoy CPU µs/request",
        "of N = 10",
        "one by one: p50 ms",
        "p99 ms",
    ]);
    let first = cases.first().context("cases")?;
    let (rate, cost) = (median(&first.per_second), median(&first.cost));
    for case in &cases {
        table.row([
            case.mesh.shape.name().to_owned(),
            case.mesh.world.models().to_string(),
            format!("{:.0}", median(&case.per_second)),
            format!("{:.2}×", median(&case.per_second) / rate),
            format!("{:.0}", median(&case.cost)),
            format!("{:.2}×", median(&case.cost) / cost),
            milliseconds(case.times.median()),
            milliseconds(case.times.quantile(0.99)),
        ]);
    }
    table.print();
    for case in cases {
        case.mesh.stop().await?;
    }
    Ok(())
}

impl Case {
    /// A window of closed loops; the first only warms up.
    async fn load(&mut self, window: Duration, counts: bool) -> Result<()> {
        let seat = self.mesh.seat()?;
        let pid = seat.pid()?;
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            connections.push(Connection::open(seat.address).await?);
        }
        let (before, started) = (process::processor_time(pid)?, Instant::now());
        let clients = connections.into_iter().map(|mut connection| {
            let question = self.question.clone();
            tokio::spawn(async move {
                let mut answers = 0_u32;
                while started.elapsed() < window {
                    ask(&mut connection, &question).await?;
                    answers += 1;
                }
                anyhow::Ok(answers)
            })
        });
        let mut answers = 0;
        for client in clients.collect::<Vec<_>>() {
            answers += client.await.context("a client failed")??;
        }
        let (took, spent) = (started.elapsed(), process::processor_time(pid)?.saturating_sub(before));
        if counts {
            self.per_second.push(f64::from(answers) / took.as_secs_f64());
            self.cost.push(spent.as_secs_f64() * 1e6 / f64::from(answers));
        }
        Ok(())
    }

    async fn one_by_one(&mut self, window: Duration, counts: bool) -> Result<()> {
        let mut connection = Connection::open(self.mesh.seat()?.address).await?;
        let started = Instant::now();
        while started.elapsed() < window {
            let asked = Instant::now();
            ask(&mut connection, &self.question).await?;
            if counts {
                self.times.add(asked.elapsed());
            }
        }
        Ok(())
    }
}

async fn ask(connection: &mut Connection, question: &Question) -> Result<()> {
    let (status, body) = connection.ask(question).await?;
    ensure!(status == StatusCode::OK && body == BODY, "a wrong answer: {status} {body:?}");
    Ok(())
}
