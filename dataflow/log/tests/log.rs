//! The contract of [`topic_log::Log`], held against every implementation, and what only the embedded one promises.

#[path = "log/conformance.rs"]
mod conformance;
#[path = "log/damage.rs"]
mod damage;
#[path = "log/model.rs"]
mod model;
#[path = "log/retention.rs"]
mod retention;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use topic_log::embedded::Settings;
use topic_log::{Append, Embedded, Header, Log, NewTopic, Record};

/// Small segments, so that every test crosses their borders.
fn settings(folder: &Path) -> Settings {
    Settings { segment_bytes: 4_000, record_bytes: 100_000, ..Settings::new(folder.to_owned()) }
}

fn open(folder: &Path) -> Embedded {
    Embedded::open(settings(folder)).expect("the log opens")
}

fn topic(name: &str, partitions: u32) -> NewTopic {
    NewTopic { name: name.into(), partitions }
}

fn record(text: &str) -> Append {
    Append {
        key: Bytes::from(format!("key of {text}")),
        value: Bytes::from(text.to_owned()),
        headers: vec![Header::text("a", "1"), Header::text("a", text)],
    }
}

async fn append(log: &dyn Log, topic: &str, partition: u32, text: &str) -> u64 {
    log.append(topic, partition, record(text)).await.expect("appended").offset
}

/// All records of a partition from an offset on, and how many were lost among them.
async fn read_all(log: &dyn Log, topic: &str, partition: u32, from: u64) -> (Vec<Record>, u64) {
    let (mut next, mut records, mut lost) = (from, Vec::new(), 0);
    loop {
        let fetched = log.read(topic, partition, next, 1_000).await.expect("read");
        lost += fetched.lost;
        if fetched.records.is_empty() && fetched.next == next {
            return (records, lost);
        }
        next = fetched.next;
        records.extend(fetched.records);
    }
}

async fn values(log: &dyn Log, topic: &str, partition: u32) -> Vec<String> {
    let (records, _) = read_all(log, topic, partition, 0).await;
    records.iter().map(|record| String::from_utf8_lossy(&record.value).into_owned()).collect()
}

fn shared(log: Embedded) -> Arc<dyn Log> {
    Arc::new(log)
}
