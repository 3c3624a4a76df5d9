//! The whole process is killed every few seconds while pipelines are called, and in a long run stands still once for
//! longer than an owner may: nothing is lost, doubled or mixed up.
//!
//! What counts is what the log says afterwards: every entry that it took has its answer there, or nobody waited any more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use harness::{Rest, Up, onnx, until};
use prost::Message;
use topic_log::embedded::Settings;
use topic_log::{Embedded, Log, Record};

const RATE: u64 = 200;
/// From one kill to the next.
const EVERY: Duration = Duration::from_secs(4);
/// How long a caller waits; longer than a restart takes.
const TIMEOUT_MS: u64 = 4_000;

/// Seconds of the test command; `PIPELINE_KILL_SECONDS` makes it longer.
const SECONDS: u64 = 20;
/// From this length on the process stands still once in the middle, for longer than a quarter of the repeat window.
const LONG: u64 = 60;
const STANDS_STILL: Duration = Duration::from_secs(33);

const PIPELINE: &str = r#"{"apiVersion": "mlops.seldon.io/v1alpha1", "kind": "Pipeline", "metadata": {"name": "p"}, "spec": {
  "steps": [{"name": "add10"}, {"name": "mul10"},
    {"name": "add20", "inputs": ["add10.outputs.OUTPUT"], "tensorMap": {"add10.outputs.OUTPUT": "INPUT"}}],
  "output": {"steps": ["mul10", "add20"]}}}"#;

#[derive(Default)]
struct Tally {
    answered: AtomicU64,
    failed: AtomicU64,
    wrong: AtomicU64,
    late: AtomicU64,
    /// Told that there is no such pipeline or model, which is never true here.
    unknown: AtomicU64,
    /// What the last of them was told.
    told: Mutex<String>,
    /// The process stands still, and its clock with it.
    stands_still: AtomicBool,
}

/// One request with a number of its own: × 10, and + 10 + 20.
async fn call(rest: &Rest, number: u64, tally: &Tally) {
    let body = format!(r#"{{"inputs":[{{"name":"INPUT","datatype":"FP32","shape":[1],"data":[{number}]}}]}}"#);
    let timeout = TIMEOUT_MS.to_string();
    let began = Instant::now();
    let stood_still = tally.stands_still.load(Ordering::Relaxed);
    let answer = rest.post("/v2/pipelines/p/infer", &[("switchyard-timeout-ms", &timeout)], body).await;
    // The gateway's own clock decides; a second for the way.
    let stood_still = stood_still || tally.stands_still.load(Ordering::Relaxed);
    if !stood_still && began.elapsed() > Duration::from_millis(TIMEOUT_MS + 1_000) {
        tally.late.fetch_add(1, Ordering::Relaxed);
    }
    if let Some(answer) = answer.as_ref().ok().filter(|answer| answer.status == 404) {
        tally.unknown.fetch_add(1, Ordering::Relaxed);
        *tally.told.lock().unwrap_or_else(PoisonError::into_inner) = format!("{answer:?}");
    }
    let Some(answer) = answer.ok().filter(|answer| answer.status == 200) else {
        tally.failed.fetch_add(1, Ordering::Relaxed);
        return;
    };
    let data = answer.json().ok().map(|json| {
        let number = |at: usize| json["outputs"][at]["data"][0].as_f64();
        (number(0), number(1))
    });
    #[expect(clippy::cast_precision_loss, reason = "numbers of requests are small")]
    let number = number as f64;
    let is_right = data == Some((Some(number * 10.0), Some(number + 30.0)));
    let count = if is_right { &tally.answered } else { &tally.wrong };
    count.fetch_add(1, Ordering::Relaxed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_doubled_or_mixed_up_when_the_process_is_killed_again_and_again() -> Result<()> {
    let length = std::env::var("PIPELINE_KILL_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(SECONDS);
    let mut up = Up::new(&[])?;
    up.start().await?;
    up.load(&onnx::samples(up.folder())?).await?;
    up.pipeline(PIPELINE).await?;
    let (tally, stop) = (Arc::new(Tally::default()), Arc::new(AtomicBool::new(false)));
    let (rest, shared, stopped) = (up.rest(), Arc::clone(&tally), Arc::clone(&stop));
    let load = tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_micros(1_000_000 / RATE));
        let mut running = tokio::task::JoinSet::new();
        let mut number = 1;
        while !stopped.load(Ordering::Relaxed) {
            ticks.tick().await;
            let (rest, tally) = (rest.clone().within(Duration::from_millis(TIMEOUT_MS + 3_000)), Arc::clone(&shared));
            running.spawn(async move { call(&rest, number, &tally).await });
            number += 1;
        }
        while running.join_next().await.is_some() {}
        number - 1
    });
    let began = Instant::now();
    let (mut kills, mut is_to_stand_still) = (0, length >= LONG);
    while began.elapsed() < Duration::from_secs(length) {
        tokio::time::sleep(EVERY / 2).await;
        up.part.kill9().await?;
        kills += 1;
        up.start().await?;
        tokio::time::sleep(EVERY / 2).await;
        if is_to_stand_still && began.elapsed() * 2 > Duration::from_secs(length) {
            is_to_stand_still = false;
            tally.stands_still.store(true, Ordering::Relaxed);
            let frozen = up.freeze_all()?;
            tokio::time::sleep(STANDS_STILL).await;
            drop(frozen);
            until(Duration::from_secs(30), "the shards are taken over again", async || {
                let log = std::fs::read_to_string(up.part.log()).context("read the log")?;
                ensure!(log.contains("stood still"), "nobody has noticed");
                Ok(())
            })
            .await?;
            tally.stands_still.store(false, Ordering::Relaxed);
        }
    }
    stop.store(true, Ordering::Relaxed);
    let sent = load.await.context("the load")?;
    // What was under way has ended with its time.
    let check = up.rest();
    until(Duration::from_secs(20), "it answers at the end", async || {
        let body = r#"{"inputs":[{"name":"INPUT","datatype":"FP32","shape":[1],"data":[0]}]}"#;
        let answer = check.post("/v2/pipelines/p/infer", &[], body).await?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.body);
        Ok(())
    })
    .await?;
    up.part.stop().await?;
    let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
    let log = Embedded::open(Settings::new(up.dir().join("log")))?;
    let found = judge(&log).await?;
    println!(
        "{kills} kills, {sent} requests: {} answered, {} failed, {} wrong, {} late; in the log {} entries, {} answers, {} \
         repeats written, {} errors, {} without an answer in time",
        count(&tally.answered),
        count(&tally.failed),
        count(&tally.wrong),
        count(&tally.late),
        found.entries,
        found.answers,
        found.repeats,
        found.errors,
        found.expired
    );
    ensure!(count(&tally.wrong) == 0, "an answer of another request");
    let told = tally.told.lock().unwrap_or_else(PoisonError::into_inner).clone();
    ensure!(count(&tally.unknown) == 0, "{} times what is declared was unknown: {told}", count(&tally.unknown));
    ensure!(count(&tally.late) == 0, "an answer after its time");
    ensure!(count(&tally.answered) * 4 > sent, "most requests between the kills are answered");
    ensure!(found.lost.is_empty(), "entries without an end: {:?}", found.lost);
    ensure!(found.doubled.is_empty(), "requests with two ends: {:?}", found.doubled);
    Ok(())
}

#[derive(Default)]
struct Found {
    entries: usize,
    answers: usize,
    repeats: usize,
    errors: usize,
    expired: usize,
    lost: Vec<String>,
    doubled: Vec<String>,
}

async fn read(log: &Embedded, topic: &str) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    let partitions = log.topics(topic).await?.first().context("no topic")?.partitions.len();
    for partition in 0..u32::try_from(partitions)? {
        let mut next = 0;
        loop {
            let fetched = log.read(topic, partition, next, 1 << 20).await?;
            ensure!(fetched.lost == 0, "records are lost");
            if fetched.records.is_empty() {
                break;
            }
            next = fetched.next;
            records.extend(fetched.records);
        }
    }
    Ok(records)
}

fn text(record: &Record, header: &str) -> Option<String> {
    record.header(header).map(|value| String::from_utf8_lossy(value).into_owned())
}

/// The first number of each tensor.
fn numbers(value: &Bytes) -> Result<Vec<f32>> {
    let message = messages::inference::ModelInferResponse::decode(value.clone())?;
    let first = |raw: &Bytes| raw.first_chunk().map(|chunk| f32::from_le_bytes(*chunk)).context("no number");
    message.raw_output_contents.iter().map(first).collect()
}

/// Compares what came in with what went out.
async fn judge(log: &Embedded) -> Result<Found> {
    let mut found = Found::default();
    let mut ends: BTreeMap<String, Vec<Record>> = BTreeMap::new();
    for record in read(log, "seldon.default.pipeline.p.outputs").await? {
        ends.entry(text(&record, "switchyard-root").context("root")?).or_default().push(record);
    }
    let last = ends.values().flatten().map(|record| record.time.0).max().unwrap_or(0);
    for entry in read(log, "seldon.default.pipeline.p.inputs").await? {
        found.entries += 1;
        let root = text(&entry, "switchyard-root").context("root")?;
        let deadline: u64 = text(&entry, "switchyard-deadline").context("deadline")?.parse()?;
        let Some(records) = ends.get(&root) else {
            // Nobody waited any more when its turn came; as long as there was a turn.
            if deadline < last {
                found.expired += 1
            } else {
                found.lost.push(root)
            }
            continue;
        };
        let slots: BTreeSet<_> = records.iter().map(|record| text(record, "switchyard-slot")).collect();
        found.repeats += records.len() - slots.len();
        if slots.len() > 1 {
            found.doubled.push(root);
            continue;
        }
        let end = &records[0];
        if end.header("seldon-pipeline-errors").is_some() {
            found.errors += 1;
            continue;
        }
        found.answers += 1;
        let message = messages::inference::ModelInferRequest::decode(entry.value.clone())?;
        let raw = message.raw_input_contents.first().context("raw")?;
        let asked = raw.first_chunk().map(|chunk| f32::from_le_bytes(*chunk)).context("a number")?;
        ensure!(numbers(&end.value)? == [asked * 10.0, asked + 30.0], "{asked}: {:?}", numbers(&end.value));
    }
    Ok(found)
}
