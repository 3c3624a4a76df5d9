//! What every log does. Each law is a function of a log, so that another implementation is one more line in `laws!`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domain::Time;
use futures_util::FutureExt;
use topic_log::{Append, Bounds, Commit, Error, Header, Log, Reader};

use super::{append, open, read_all, record, shared, topic, values};

macro_rules! laws {
    ($($law:ident),+ $(,)?) => {
        mod embedded {
            $(#[tokio::test]
            async fn $law() {
                let folder = tempfile::tempdir().expect("a folder");
                super::$law(super::shared(super::open(folder.path()))).await;
            })+
        }
    };
}

laws!(
    records_come_back_as_they_were_appended,
    what_does_not_exist_is_named,
    topics_are_made_once_and_listed_by_prefix,
    a_deleted_topic_leaves_nothing_to_the_next_of_its_name,
    a_reader_gives_every_record_once_and_in_order,
    a_paused_partition_holds_nobody_else_up,
    a_dropped_read_loses_nothing,
    progress_is_kept_by_group_topic_and_partition,
    records_are_found_by_time,
);

const PATIENCE: Duration = Duration::from_secs(20);

async fn next(reader: &mut Box<dyn Reader>) -> topic_log::Fetched {
    tokio::time::timeout(PATIENCE, reader.next()).await.expect("records come").expect("the log reads")
}

async fn records_come_back_as_they_were_appended(log: Arc<dyn Log>) {
    log.create(vec![topic("t", 2)]).await.expect("made");
    let odd = Append { key: Bytes::new(), value: Bytes::from_static(&[0, 255, 10]), headers: Vec::new() };
    let large = Append {
        key: Bytes::from_static(b"k"),
        value: Bytes::from(vec![7; 50_000]),
        headers: vec![Header { name: "bytes".into(), value: Bytes::from_static(&[1, 0]) }],
    };
    let appended = [odd, record("x"), large, record("")];
    let mut last = Time(0);
    for (offset, one) in (0_u64..).zip(&appended) {
        let at = log.append("t", 1, one.clone()).await.expect("appended");
        assert_eq!(at.offset, offset);
        assert!(at.time >= last, "time went back");
        last = at.time;
    }
    let (records, lost) = read_all(&*log, "t", 1, 0).await;
    assert_eq!(lost, 0);
    for ((offset, record), one) in (0_u64..).zip(&records).zip(&appended) {
        assert_eq!(record.offset, offset);
        assert_eq!((&record.key, &record.value, &record.headers), (&one.key, &one.value, &one.headers));
    }
    assert_eq!(records.len(), appended.len());
    assert_eq!(records[1].header("a"), Some(&Bytes::from_static(b"x")), "the last header of a name counts");
    assert_eq!(log.bounds("t", 1).await.expect("bounds"), Bounds { start: 0, end: 4 });
    assert_eq!(log.bounds("t", 0).await.expect("bounds"), Bounds { start: 0, end: 0 });
    assert_eq!(read_all(&*log, "t", 1, 3).await.0.len(), 1);
}

async fn what_does_not_exist_is_named(log: Arc<dyn Log>) {
    log.create(vec![topic("t", 2)]).await.expect("made");
    let error = log.append("u", 0, record("x")).await.expect_err("no topic");
    assert!(matches!(&error, Error::NoTopic(name) if &**name == "u"), "{error}");
    let error = log.append("t", 2, record("x")).await.expect_err("no partition");
    assert_eq!(error.to_string(), "topic t has 2 partitions, so none has the number 2");
    let error = log.append("t", 0, record(&"x".repeat(100_000))).await.expect_err("too large");
    assert!(matches!(error, Error::TooLarge { limit: 100_000, .. }), "{error}");
    assert_eq!(append(&*log, "t", 0, "fits").await, 0, "a refused record takes no offset");
    assert!(log.read("u", 0, 0, 1).await.is_err() && log.bounds("t", 9).await.is_err());
    assert!(log.reader().assign(&"u".into(), 0, 0).is_err());
}

async fn topics_are_made_once_and_listed_by_prefix(log: Arc<dyn Log>) {
    log.create(vec![topic("b.1", 1), topic("a", 3), topic("b.2", 1)]).await.expect("made");
    append(&*log, "a", 2, "kept").await;
    log.create(vec![topic("a", 8), topic("c", 1)]).await.expect("made");
    let names = async |prefix: &str| -> Vec<String> {
        log.topics(prefix).await.expect("listed").iter().map(|topic| topic.name.to_string()).collect()
    };
    assert_eq!(names("").await, ["a", "b.1", "b.2", "c"]);
    assert_eq!(names("b.").await, ["b.1", "b.2"]);
    let a = log.topics("a").await.expect("listed").remove(0);
    assert_eq!(a.partitions, [Bounds::default(), Bounds::default(), Bounds { start: 0, end: 1 }]);
}

async fn a_deleted_topic_leaves_nothing_to_the_next_of_its_name(log: Arc<dyn Log>) {
    log.create(vec![topic("t", 1), topic("other", 1)]).await.expect("made");
    append(&*log, "t", 0, "old").await;
    append(&*log, "other", 0, "kept").await;
    let commit = |topic: &str| Commit { topic: topic.into(), partition: 0, offset: 1, metadata: "m".into() };
    log.commit("g", vec![commit("t"), commit("other")]).await.expect("committed");
    let before = log.topics("t").await.expect("listed").remove(0).incarnation;
    let mut old = log.reader();
    old.assign(&"t".into(), 0, 1).expect("assigned");
    let mut paused = log.reader();
    paused.assign(&"t".into(), 0, 0).expect("assigned");
    paused.pause("t", 0);
    log.delete(vec!["t".into(), "never".into()]).await.expect("deleted");
    assert!(matches!(log.append("t", 0, record("x")).await, Err(Error::NoTopic(_))));
    log.create(vec![topic("t", 1)]).await.expect("made");
    assert_ne!(log.topics("t").await.expect("listed").remove(0).incarnation, before);
    assert_eq!(append(&*log, "t", 0, "new").await, 0);
    assert_eq!(values(&*log, "t", 0).await, ["new"]);
    assert_eq!(log.committed("g", 0).await.expect("progress"), [commit("other")]);
    // A reader of the old one hears that it is gone, once, and nothing of the new one until that is assigned.
    for reader in [&mut old, &mut paused] {
        let gone = tokio::time::timeout(PATIENCE, reader.next()).await.expect("it is said");
        assert!(matches!(&gone, Err(Error::NoTopic(topic)) if **topic == *"t"), "{gone:?}");
        assert!(reader.next().now_or_never().is_none(), "nothing is assigned");
    }
    paused.assign(&"t".into(), 0, 0).expect("assigned");
    assert_eq!(next(&mut paused).await.records[0].value, "new");
    old.assign(&"other".into(), 0, 0).expect("assigned");
    assert_eq!(next(&mut old).await.topic.as_ref(), "other");
    assert_eq!(values(&*log, "other", 0).await, ["kept"]);
}

async fn a_reader_gives_every_record_once_and_in_order(log: Arc<dyn Log>) {
    const EACH: u64 = 300;
    let names: Vec<Arc<str>> = (0..5).map(|n| Arc::from(format!("t{n}"))).collect();
    log.create(names.iter().map(|name| topic(name, 2)).collect()).await.expect("made");
    let mut reader = log.reader();
    let mut writers = Vec::new();
    for name in &names {
        for partition in 0..2 {
            append(&*log, name, partition, "0").await;
            reader.assign(name, partition, 0).expect("assigned");
            let (log, name) = (Arc::clone(&log), Arc::clone(name));
            writers.push(tokio::spawn(async move {
                for number in 1..EACH {
                    append(&*log, &name, partition, &number.to_string()).await;
                    tokio::task::yield_now().await;
                }
            }));
        }
    }
    let mut seen: BTreeMap<(Arc<str>, u32), u64> = BTreeMap::new();
    while seen.len() < 10 || seen.values().any(|count| *count < EACH) {
        let fetched = next(&mut reader).await;
        assert_eq!(fetched.lost, 0);
        let count = seen.entry((fetched.topic, fetched.partition)).or_default();
        for record in fetched.records {
            assert_eq!((record.offset, record.value), (*count, Bytes::from(count.to_string())));
            *count += 1;
        }
        assert_eq!(fetched.next, *count);
    }
    assert!(seen.values().all(|count| *count == EACH));
    for writer in writers {
        writer.await.expect("wrote");
    }
}

async fn a_paused_partition_holds_nobody_else_up(log: Arc<dyn Log>) {
    let (slow, fast): (Arc<str>, Arc<str>) = ("slow".into(), "fast".into());
    log.create(vec![topic("slow", 1), topic("fast", 1)]).await.expect("made");
    let mut reader = log.reader();
    reader.assign(&slow, 0, 0).expect("assigned");
    reader.assign(&fast, 0, 0).expect("assigned");
    reader.pause("slow", 0);
    append(&*log, "slow", 0, "later").await;
    append(&*log, "fast", 0, "now").await;
    assert_eq!(next(&mut reader).await.topic, fast);
    append(&*log, "fast", 0, "again").await;
    assert_eq!(next(&mut reader).await.topic, fast);
    reader.resume("slow", 0);
    let fetched = next(&mut reader).await;
    assert_eq!((fetched.topic, fetched.records.len()), (slow, 1));
    reader.unassign("fast", 0);
    append(&*log, "fast", 0, "nobody").await;
    append(&*log, "slow", 0, "somebody").await;
    assert_eq!(next(&mut reader).await.topic.as_ref(), "slow");
}

async fn a_dropped_read_loses_nothing(log: Arc<dyn Log>) {
    log.create(vec![topic("t", 1)]).await.expect("made");
    let mut reader = log.reader();
    reader.assign(&"t".into(), 0, 0).expect("assigned");
    for number in 0..100 {
        // Polled once and dropped, with and without a record there.
        let polled = futures_util::FutureExt::now_or_never(reader.next());
        assert!(polled.is_none(), "nothing was appended");
        append(&*log, "t", 0, &number.to_string()).await;
        let fetched = next(&mut reader).await;
        assert_eq!(fetched.records.len(), 1);
    }
    assert!(reader.is_caught_up() || futures_util::FutureExt::now_or_never(reader.next()).is_none());
}

async fn progress_is_kept_by_group_topic_and_partition(log: Arc<dyn Log>) {
    log.create(vec![topic("a", 2), topic("b", 2)]).await.expect("made");
    let commit = |topic: &str, partition, offset, metadata: &str| Commit {
        topic: topic.into(),
        partition,
        offset,
        metadata: metadata.into(),
    };
    let first = vec![commit("a", 0, 1, "one"), commit("a", 1, 2, "two"), commit("b", 0, 3, "")];
    log.commit("g", first).await.expect("committed");
    log.commit("g2", vec![commit("a", 0, 9, "other")]).await.expect("committed");
    log.commit("g", vec![commit("a", 0, 5, "again")]).await.expect("committed");
    let kept = log.committed("g", 0).await.expect("progress");
    assert_eq!(kept, [commit("a", 0, 5, "again"), commit("b", 0, 3, "")]);
    assert_eq!(log.committed("g", 1).await.expect("progress"), [commit("a", 1, 2, "two")]);
    assert_eq!(log.committed("g2", 0).await.expect("progress").len(), 1);
    assert!(log.committed("nobody", 0).await.expect("progress").is_empty());
}

async fn records_are_found_by_time(log: Arc<dyn Log>) {
    log.create(vec![topic("t", 1), topic("noise", 1)]).await.expect("made");
    let mut times = Vec::new();
    for number in 0..400 {
        let at = log.append("t", 0, record(&number.to_string())).await.expect("appended").time;
        append(&*log, "noise", 0, "n").await;
        if number % 40 == 0 {
            // Until the clock shows another millisecond.
            while log.append("noise", 0, record("tick")).await.expect("appended").time == at {}
        }
        times.push(at);
    }
    let probes: Vec<Time> = times.iter().flat_map(|at| [at.before(1), *at, at.after(1)]).collect();
    for probe in probes {
        let expected = times.partition_point(|at| *at < probe) as u64;
        assert_eq!(log.find("t", 0, probe).await.expect("found"), expected, "{probe:?}");
    }
    assert_eq!(log.find("t", 0, Time(0)).await.expect("found"), 0);
    assert_eq!(log.find("t", 0, Time(u64::MAX)).await.expect("found"), 400);
}
