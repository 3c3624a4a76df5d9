//! What a pipeline adds to the calls of its models, how many there can be, and what the log under them takes.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use harness::{Control, Model, onnx, until};
use messages::scheduler as wire;
use messages::scheduler::pipeline_version_state::PipelineStatus;
use topic_log::embedded::{Durability, Settings};
use topic_log::{Append, Embedded, Log, NewTopic};

use crate::Size;
use crate::client::{Connection, Question};
use crate::figures::{Times, difference, milliseconds};
use crate::installation::Installation;
use crate::process::memory;
use crate::table::Table;

const READY_WITHIN: Duration = Duration::from_secs(60);
const BODY: &str = r#"{"inputs":[{"name":"INPUT","datatype":"FP32","shape":[4],"data":[1,2,3,4]}]}"#;
const WARM_UP: usize = 50;
/// One request every so often.
const EVERY: Duration = Duration::from_millis(10);

fn step(model: &str, after: Option<&str>) -> wire::PipelineStep {
    wire::PipelineStep {
        name: model.to_owned(),
        inputs: after.map(|after| format!("{after}.outputs.OUTPUT")).into_iter().collect(),
        tensor_map: after.map(|after| (format!("{after}.outputs.OUTPUT"), "INPUT".to_owned())).into_iter().collect(),
        ..wire::PipelineStep::default()
    }
}

/// A chain of these models.
fn chain(name: &str, models: &[&str]) -> wire::Pipeline {
    let after = |at: usize| at.checked_sub(1).and_then(|before| models.get(before)).copied();
    wire::Pipeline {
        name: name.to_owned(),
        steps: models.iter().enumerate().map(|(at, model)| step(model, after(at))).collect(),
        output: Some(wire::PipelineOutput {
            steps: models.last().map(|last| format!("{last}.outputs")).into_iter().collect(),
            ..wire::PipelineOutput::default()
        }),
        ..wire::Pipeline::default()
    }
}

async fn declare(control: &Control, pipeline: wire::Pipeline) -> Result<()> {
    control.client().load_pipeline(wire::LoadPipelineRequest { pipeline: Some(pipeline) }).await?;
    Ok(())
}

async fn is_ready(control: &Control, name: &str) -> Result<()> {
    until(READY_WITHIN, "the pipeline is ready", async || {
        let request = wire::PipelineStatusRequest { name: Some(name.to_owned()), ..Default::default() };
        let mut answers = control.client().pipeline_status(request).await?.into_inner();
        let status = answers.message().await?.context("a status")?;
        let state = status.versions.last().and_then(|version| version.state.clone()).unwrap_or_default();
        ensure!(
            state.status() == PipelineStatus::PipelineReady
                && state.pipeline_gw_status() == PipelineStatus::PipelineReady,
            "{state:?}"
        );
        Ok(())
    })
    .await
}

async fn timed(connection: &mut Connection, question: &Question) -> Result<Duration> {
    let began = Instant::now();
    let (status, body) = connection.ask(question).await?;
    ensure!(status.is_success(), "{status} {body:?}");
    Ok(began.elapsed())
}

pub(crate) async fn run(size: Size) -> Result<()> {
    let models = tempfile::tempdir()?;
    let installation = Installation::start(1).await?;
    let folders = onnx::samples(models.path())?;
    let folder = |name: &str| folders.iter().find(|(known, _)| *known == name).map(|(_, path)| path.clone());
    for name in ["add10", "mul10"] {
        installation.load(&Model::new(name, &folder(name).context("a model")?), name).await?;
    }
    declare(&installation.control, chain("first", &["add10", "mul10"])).await?;
    is_ready(&installation.control, "first").await?;
    latency(&installation, "alone", size).await?;
    throughput(&installation, size).await?;
    log(size).await?;
    many(&installation, &folder("add10").context("a model")?, size).await?;
    installation.stop().await
}

/// The pipeline, and its two calls made directly, in turn.
async fn latency(installation: &Installation, when: &str, size: Size) -> Result<()> {
    let mut connection = Connection::open(installation.inference).await?;
    let direct = ["add10", "mul10"].map(|model| Question::post(&format!("/v2/models/{model}/infer"), BODY));
    let pipeline = Question::post("/v2/pipelines/first/infer", BODY);
    let (mut calls, mut through) = (Times::default(), Times::default());
    let mut ticks = tokio::time::interval(EVERY);
    for round in 0..WARM_UP + size.pick(2_000, 50) {
        ticks.tick().await;
        let mut sum = Duration::ZERO;
        for question in &direct {
            sum += timed(&mut connection, question).await?;
        }
        let took = timed(&mut connection, &pipeline).await?;
        if round >= WARM_UP {
            calls.add(sum);
            through.add(took);
        }
    }
    let mut table = Table::new(&["100 requests/s, two steps", "p50 ms", "p99 ms"]);
    table.row([
        "its two calls, made directly".to_owned(),
        milliseconds(calls.median()),
        milliseconds(calls.quantile(0.99)),
    ]);
    table.row([format!("the pipeline, {when}"), milliseconds(through.median()), milliseconds(through.quantile(0.99))]);
    table.row([
        "added (aim ≤ 2, ≤ 6; the compatible system: 33)".to_owned(),
        difference(through.median(), calls.median()),
        difference(through.quantile(0.99), calls.quantile(0.99)),
    ]);
    table.print();
    println!();
    Ok(())
}

async fn throughput(installation: &Installation, size: Size) -> Result<()> {
    const CLIENTS: usize = 32;
    let length = size.pick(Duration::from_secs(5), Duration::from_millis(300));
    let answered = Arc::new(AtomicU64::new(0));
    let mut clients = tokio::task::JoinSet::new();
    let began = Instant::now();
    for _ in 0..CLIENTS {
        let (address, answered) = (installation.inference, Arc::clone(&answered));
        clients.spawn(async move {
            let mut connection = Connection::open(address).await?;
            let question = Question::post("/v2/pipelines/first/infer", BODY);
            while began.elapsed() < length {
                timed(&mut connection, &question).await?;
                answered.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<_, anyhow::Error>(())
        });
    }
    while let Some(client) = clients.join_next().await {
        client??;
    }
    #[expect(clippy::cast_precision_loss, reason = "few requests")]
    let rate = answered.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64();
    println!(
        "{rate:.0} requests/s of {CLIENTS} clients through the two steps (aim ≥ 500; the compatible system: 18).\n"
    );
    Ok(())
}

/// Appends of 1 kB by two tasks, and the way from an append to its reader.
async fn log(size: Size) -> Result<()> {
    let mut table = Table::new(&["embedded log, records of 1 kB", "appends/s", "hop p50 ms", "hop p99 ms"]);
    for (name, durability) in [("survives the process", Durability::Process), ("durability: disk", Durability::Disk)] {
        let folder = tempfile::tempdir()?;
        let log = Embedded::open(Settings { durability, ..Settings::new(folder.path().to_owned()) })?;
        log.create(vec![NewTopic { name: "t".into(), partitions: 8 }]).await?;
        let record =
            Append { key: Bytes::from_static(b"key"), value: Bytes::from(vec![7; 1_000]), headers: Vec::new() };
        let count = size.pick(200_000, 2_000);
        let began = Instant::now();
        let mut writers = tokio::task::JoinSet::new();
        for partition in 0..2 {
            let (log, record) = (log.clone(), record.clone());
            writers.spawn(async move {
                // So many are under way at once: a group shares one sync.
                for _ in 0..count / 2 / 100 {
                    let group: Vec<_> = (0..100).map(|_| log.append("t", partition, record.clone())).collect();
                    for append in group {
                        append.await?;
                    }
                }
                Ok::<_, topic_log::Error>(())
            });
        }
        while let Some(writer) = writers.join_next().await {
            writer??;
        }
        let rate = f64::from(count) / began.elapsed().as_secs_f64();
        let mut reader = log.reader();
        reader.assign(&"t".into(), 7, 0)?;
        let mut hops = Times::default();
        for _ in 0..size.pick(5_000, 100) {
            let began = Instant::now();
            let safe = log.append("t", 7, record.clone());
            let fetched = reader.next().await?;
            ensure!(fetched.records.len() == 1);
            hops.add(began.elapsed());
            safe.await?;
        }
        table.row([
            name.to_owned(),
            format!("{rate:.0}"),
            milliseconds(hops.median()),
            milliseconds(hops.quantile(0.99)),
        ]);
    }
    table.print();
    println!("\nAim for a hop: p50 ≤ 0.3 ms.\n");
    Ok(())
}

/// Many pipelines over some models, and the first one among them.
async fn many(installation: &Installation, folder: &Path, size: Size) -> Result<()> {
    let (pipelines, models) = (size.pick(10_000, 100), size.pick(100, 5));
    let before = memory(installation.pid)?.resident;
    for model in 0..models {
        installation.control.declare(&Model::new(&format!("m{model}"), folder)).await?;
    }
    let began = Instant::now();
    let next = Arc::new(AtomicU64::new(0));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (control, next) = (installation.control.clone(), Arc::clone(&next));
        clients.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= pipelines {
                    return Ok::<_, anyhow::Error>(());
                }
                let names: Vec<String> = (0..3).map(|at| format!("m{}", (number + at) % models)).collect();
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                declare(&control, chain(&format!("p{number}"), &names)).await?;
            }
        });
    }
    while let Some(client) = clients.join_next().await {
        client??;
    }
    is_ready(&installation.control, &format!("p{}", pipelines - 1)).await?;
    let all = began.elapsed();
    let mut ready = Times::default();
    for number in 0..size.pick(100, 5) {
        let name = format!("one-more-{number}");
        let began = Instant::now();
        declare(&installation.control, chain(&name, &["m0", "m1", "m2"])).await?;
        is_ready(&installation.control, &name).await?;
        ready.add(began.elapsed());
    }
    let after = memory(installation.pid)?.resident;
    println!(
        "{pipelines} pipelines of 3 steps over {models} models: all declared and ready after {:.1} s; one more is ready \
         after p50 {} ms, p99 {} ms (aim ≤ 1,000); the process has {} MB, {} MB before (aim ≤ 400).\n",
        all.as_secs_f64(),
        milliseconds(ready.median()),
        milliseconds(ready.quantile(0.99)),
        after / 1_000,
        before / 1_000
    );
    latency(installation, "among them", size).await
}
