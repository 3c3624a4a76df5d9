//! What finding a model's route costs Envoy, for the first and the last of N models, against a linear list.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use http::StatusCode;

use crate::client::{Connection, Question};
use crate::figures::median;
use crate::mesh::{Mesh, Routing, question};
use crate::table::Table;
use crate::{Size, backend, process};

const BODY: &str = "answered";
/// Clients in closed loop: enough to keep the one worker of Envoy busy.
const CONNECTIONS: usize = 4;

/// One Envoy and one model, and what was measured of them.
struct Case {
    mesh: usize,
    /// First or last.
    position: &'static str,
    question: Question,
    per_second: Vec<f64>,
    /// Microseconds of Envoy's processor time for a request.
    cost: Vec<f64>,
}

pub(crate) async fn run(size: Size) -> Result<()> {
    let backend = backend::start(BODY).await?;
    let mut table = Table::new(&[
        "routing",
        "models",
        "asked for",
        "requests/s",
        "Envoy CPU µs/request",
        "CPU ratio to Switchyard's last model",
    ]);
    for models in size.pick([1_000, 10_000], [200, 1_000]) {
        let mut meshes = Vec::new();
        for routing in Routing::BOTH {
            meshes.push(Mesh::start(routing, models, backend).await?.0);
        }
        let mut cases = Vec::new();
        for mesh in 0..meshes.len() {
            for (position, number) in [("first", 0), ("last", models - 1)] {
                let question = question(number)?;
                cases.push(Case { mesh, position, question, per_second: Vec::new(), cost: Vec::new() });
            }
        }
        for round in 0..size.pick(12, 2) {
            for case in &mut cases {
                let mesh = meshes.get(case.mesh).context("a case has its Envoy")?;
                measure(case, mesh, size.pick(Duration::from_millis(400), Duration::from_millis(100)), round > 0)
                    .await?;
            }
        }
        let ours = cases.iter().find(|case| case.mesh == 0 && case.position == "last").context("our last model")?;
        let base = median(&ours.cost);
        for case in &cases {
            let routing = meshes.get(case.mesh).context("a case has its Envoy")?.routing;
            let cost = median(&case.cost);
            table.row([
                routing.name().to_owned(),
                models.to_string(),
                case.position.to_owned(),
                format!("{:.0}", median(&case.per_second)),
                format!("{cost:.0}"),
                format!("{:.2}×", cost / base),
            ]);
        }
        for mesh in meshes {
            mesh.stop().await?;
        }
    }
    table.print();
    Ok(())
}

/// One round of one case; the first round of each only warms up.
async fn measure(case: &mut Case, mesh: &Mesh, window: Duration, counts: bool) -> Result<()> {
    let pid = mesh.envoy_pid()?;
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(Connection::open(mesh.address).await?);
    }
    let (before, started) = (process::processor_time(pid)?, Instant::now());
    let clients = connections.into_iter().map(|mut connection| {
        let question = case.question.clone();
        tokio::spawn(async move {
            let mut answers = 0_u32;
            while started.elapsed() < window {
                let (status, body) = connection.ask(&question).await?;
                ensure!(status == StatusCode::OK && body == BODY, "a wrong answer: {status} {body:?}");
                answers += 1;
            }
            Ok(answers)
        })
    });
    let mut answers = 0;
    for client in clients.collect::<Vec<_>>() {
        answers += client.await.context("a client failed")??;
    }
    let (took, spent) = (started.elapsed(), process::processor_time(pid)?.saturating_sub(before));
    if counts {
        case.per_second.push(f64::from(answers) / took.as_secs_f64());
        case.cost.push(spent.as_secs_f64() * 1e6 / f64::from(answers));
    }
    Ok(())
}
