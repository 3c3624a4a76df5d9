//! How long a declared model takes until it answers through Envoy, beyond what its inference server needs to load it.
//! The server alone is another process of the same program, asked to load the same file, in turn.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use harness::{Model, Rpc, iris, rpc, sample, until};
use messages::inference::{RepositoryModelLoadRequest, ServerReadyRequest};
use runtime::child::Child;
use tempfile::TempDir;

use crate::client::{Connection, Question};
use crate::figures::{Times, difference, milliseconds, ratio};
use crate::installation::{Installation, is_ready, tail};
use crate::table::Table;
use crate::{Size, program};

const CLIENTS: usize = 8;
/// Between two looks whether a model answers: a tight loop would take the processor from what it waits for.
const LOOK_EVERY: Duration = Duration::from_millis(1);
const LOADS_WITHIN: Duration = Duration::from_secs(30);
const ALL_LOAD_WITHIN: Duration = Duration::from_secs(50);
/// A thousand times this is less than a replica has.
const MEMORY: u64 = 64 << 10;

/// An inference server that nobody else uses.
struct Alone {
    client: Rpc,
    child: Child,
    _folder: TempDir,
}

pub(crate) async fn run(size: Size) -> Result<()> {
    let (one_by_one, together) = (size.pick(100, 10), size.pick(1_000, 40));
    let mut installation = Installation::start(1).await?;
    let port = installation.ports.free()?;
    let singles: Vec<String> = (0..one_by_one).map(|number| format!("single-{number}")).collect();
    let many: Vec<String> = (0..together).map(|number| format!("many-{number}")).collect();
    let mut alone = Alone::start(port, singles.iter().chain(&many)).await?;

    let (mut routable, mut loaded) = (Times::default(), Times::default());
    let mut connection = Connection::open(installation.inference).await?;
    for name in &singles {
        loaded.add(alone.load(name).await?);
        routable.add(until_answered(&installation, name, &mut connection).await?);
    }
    let mut table = Table::new(&["one model after another", "p50 ms", "p99 ms"]);
    let mut row = |name: &str, times: &Times| {
        table.row([name.to_owned(), milliseconds(times.median()), milliseconds(times.quantile(0.99))]);
    };
    row("the inference server alone: RepositoryModelLoad", &loaded);
    row("LoadModel → answers through Envoy", &routable);
    let p99 = 0.99;
    table.row([
        "beyond the server (aim ≤ 10)".to_owned(),
        difference(routable.median(), loaded.median()),
        difference(routable.quantile(p99), loaded.quantile(p99)),
    ]);
    table.print();

    let bare = alone.load_all(&many).await?;
    let (available, answered) = load_all(&installation, &many).await?;
    println!();
    let mut table = Table::new(&["models by 8 clients", "models", "s", "ratio to the server alone"]);
    for (name, time) in [
        ("the inference server alone: RepositoryModelLoad", bare),
        ("LoadModel → all available", available),
        ("LoadModel → all have answered through Envoy", answered),
    ] {
        table.row([name.to_owned(), together.to_string(), format!("{:.2}", time.as_secs_f64()), ratio(time, bare)]);
    }
    table.print();
    alone.child.stop(LOADS_WITHIN).await.context("stop the inference server")?;
    installation.stop().await
}

impl Alone {
    /// Its folder has the sample model under each name.
    async fn start(port: u16, names: impl Iterator<Item = &String>) -> Result<Alone> {
        let folder = tempfile::Builder::new().prefix("switchyard-bench-").tempdir()?;
        let models = folder.path().join("models");
        for name in names {
            let model = models.join(name);
            std::fs::create_dir_all(&model).with_context(|| format!("make {}", model.display()))?;
            std::fs::copy(sample("iris").join("model.onnx"), model.join("model.onnx")).context("copy the model")?;
        }
        let (port_text, models) = (port.to_string(), models.display().to_string());
        let log = folder.path().join("server.log");
        let arguments = ["onnx-server", "--port", &port_text, "--model-folder", &models];
        let child = program::start(&arguments, folder.path(), &log).await?;
        let client = rpc(SocketAddr::from(([127, 0, 0, 1], port)));
        let ready = until(LOADS_WITHIN, "the inference server is ready", async || {
            let answer = client.clone().server_ready(ServerReadyRequest::default()).await;
            answer.with_context(|| tail(&log))
        });
        ready.await?;
        Ok(Alone { client, child, _folder: folder })
    }

    async fn load(&mut self, name: &str) -> Result<Duration> {
        let started = Instant::now();
        load(self.client.clone(), name).await?;
        Ok(started.elapsed())
    }

    async fn load_all(&self, names: &[String]) -> Result<Duration> {
        let started = Instant::now();
        let loads = stream::iter(names).map(|name| load(self.client.clone(), name));
        loads.buffer_unordered(CLIENTS).try_collect::<()>().await?;
        Ok(started.elapsed())
    }
}

async fn load(mut client: Rpc, name: &str) -> Result<()> {
    let request = RepositoryModelLoadRequest { model_name: name.to_owned(), ..Default::default() };
    client.repository_model_load(request).await.with_context(|| format!("load {name}")).map(|_| ())
}

/// Declares a model, asks until it is ready, and calls it.
async fn until_answered(installation: &Installation, name: &str, connection: &mut Connection) -> Result<Duration> {
    let (model, ready) = (Model::iris(name).memory(MEMORY), is_ready(name));
    let started = Instant::now();
    installation.control.declare(&model).await?;
    loop {
        let (status, body) = connection.ask(&ready).await?;
        if status.is_success() {
            break;
        }
        ensure!(started.elapsed() < LOADS_WITHIN, "{name} is not ready within {LOADS_WITHIN:?}: {status} {body:?}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    answers(name, connection).await?;
    Ok(started.elapsed())
}

async fn answers(name: &str, connection: &mut Connection) -> Result<()> {
    let question = Question::post(&format!("/v2/models/{name}/infer"), iris::BODY);
    let (status, body) = connection.ask(&question).await?;
    ensure!(status.is_success(), "{name}: {status} {body:?}");
    iris::check_json(&String::from_utf8_lossy(&body))
}

/// Declares all models by several clients; how long until all are available, and until each has answered once.
async fn load_all(installation: &Installation, names: &[String]) -> Result<(Duration, Duration)> {
    let started = Instant::now();
    let declared = stream::iter(names).map(|name| async move {
        installation.control.declare(&Model::iris(name).memory(MEMORY)).await.with_context(|| format!("declare {name}"))
    });
    declared.buffer_unordered(CLIENTS).try_collect::<()>().await?;
    until(ALL_LOAD_WITHIN, "all models are available", async || {
        let models = installation.control.models().await?;
        let waiting = names.iter().filter(|name| models.get(*name).is_none_or(|replicas| *replicas == 0)).count();
        ensure!(waiting == 0, "{waiting} of {} are not", names.len());
        Ok(())
    })
    .await?;
    let available = started.elapsed();
    let clients = names.chunks(names.len().div_ceil(CLIENTS)).map(|names| async move {
        let mut connection = Connection::open(installation.inference).await?;
        for name in names {
            answers(name, &mut connection).await?;
        }
        Ok::<(), anyhow::Error>(())
    });
    futures_util::future::try_join_all(clients).await?;
    Ok((available, started.elapsed()))
}
