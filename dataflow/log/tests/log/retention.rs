//! What goes and what stays.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use domain::Time;
use topic_log::embedded::Settings;
use topic_log::{Commit, Embedded, Log};

use super::{append, read_all, settings, topic};

static NOW: AtomicU64 = AtomicU64::new(1_000_000);

fn clock() -> Time {
    Time(NOW.load(Ordering::Relaxed))
}

#[tokio::test]
async fn segments_go_when_they_are_old_and_nobody_needs_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = || Settings {
        clock,
        keep: Duration::from_secs(100),
        keep_at_least: Duration::from_secs(10),
        ..settings(folder.path())
    };
    let log = Embedded::open(settings()).expect("the log opens");
    log.create(vec![topic("read", 1), topic("unread", 1)]).await.expect("made");
    for number in 0..200 {
        append(&log, "read", 0, &number.to_string()).await;
    }
    append(&log, "unread", 0, "x").await;
    let commit = |offset| vec![Commit { topic: "read".into(), partition: 0, offset, metadata: String::new() }];
    log.commit("g", commit(0)).await.expect("committed");
    NOW.fetch_add(50_000, Ordering::Relaxed);
    assert_eq!(log.retain().expect("retention"), 0, "nothing is old");
    NOW.fetch_add(60_000, Ordering::Relaxed);
    assert_eq!(log.retain().expect("retention"), 0, "the group has not read it");
    log.commit("g", commit(150)).await.expect("committed");
    sealed(folder.path(), &log).await;
    let before = log.bytes();
    let gone = log.retain().expect("retention");
    assert!(gone > 0 && log.bytes() == before - gone);
    let bounds = log.bounds("read", 0).await.expect("bounds");
    assert!((1..=150).contains(&bounds.start) && bounds.end == 200, "{bounds:?}");
    let (records, lost) = read_all(&log, "read", 0, 0).await;
    assert_eq!((records[0].offset, lost), (bounds.start, bounds.start), "what is gone is counted");
    // Offsets go on after everything has gone, also after a restart.
    log.commit("g", commit(200)).await.expect("committed");
    append(&log, "unread", 0, &"y".repeat(4_000)).await;
    append(&log, "unread", 0, &"z".repeat(4_000)).await;
    NOW.fetch_add(200_000, Ordering::Relaxed);
    sealed(folder.path(), &log).await;
    log.retain().expect("retention");
    drop(log);
    let log = Embedded::open(settings()).expect("the log opens");
    assert_eq!(append(&log, "read", 0, "new").await, 200);
    assert_eq!(read_all(&log, "read", 0, 0).await, (read_all(&log, "read", 0, 200).await.0, 200));
}

/// Waits until every segment but the last has its index.
async fn sealed(folder: &std::path::Path, log: &Embedded) {
    let count = |extension: &str| {
        let entries = std::fs::read_dir(folder).expect("a folder").filter_map(Result::ok);
        entries.filter(|entry| entry.path().extension().is_some_and(|found| found == extension)).count()
    };
    let began = std::time::Instant::now();
    while count("idx") + 1 < count("log") {
        assert!(began.elapsed() < Duration::from_secs(20), "not sealed: {} bytes", log.bytes());
        tokio::task::yield_now().await;
    }
}
