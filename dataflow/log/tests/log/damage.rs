//! Files that end early, are damaged or miss: what is whole stays, what is lost is counted, and nothing else suffers.

use std::fs;
use std::path::{Path, PathBuf};

use topic_log::embedded::{Durability, Settings};
use topic_log::{Embedded, Error, Log};

use super::{append, open, read_all, record, settings, topic, values};

fn segments(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let mut paths: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|found| found == extension)).collect();
    paths.sort();
    paths
}

#[tokio::test]
async fn a_torn_end_costs_only_the_record_that_was_torn() {
    let folder = tempfile::tempdir().expect("a folder");
    let last = {
        let log = open(folder.path());
        log.create(vec![topic("t", 1)]).await.expect("made");
        for text in ["one", "two", "three"] {
            append(&log, "t", 0, text).await;
        }
        segments(folder.path(), "log").pop().expect("a segment")
    };
    let whole = fs::read(&last).expect("readable");
    let third = whole.len() / 3;
    for cut in (whole.len() - third + 1..whole.len()).step_by(7) {
        fs::write(&last, &whole[..cut]).expect("written");
        let log = open(folder.path());
        assert_eq!(values(&log, "t", 0).await, ["one", "two"], "cut at {cut}");
        assert_eq!(append(&log, "t", 0, "new").await, 2);
        assert_eq!(values(&log, "t", 0).await, ["one", "two", "new"]);
    }
}

#[tokio::test]
async fn a_damaged_record_is_lost_alone_and_counted() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = open(folder.path());
    log.create(vec![topic("t", 1), topic("u", 1)]).await.expect("made");
    for number in 0..200 {
        append(&log, "t", 0, &number.to_string()).await;
        append(&log, "u", 0, &number.to_string()).await;
    }
    let first = segments(folder.path(), "log").remove(0);
    let mut bytes = fs::read(&first).expect("readable");
    // The body of the first record.
    bytes[40] ^= 1;
    fs::write(&first, &bytes).expect("written");
    let (records, lost) = read_all(&log, "t", 0, 0).await;
    assert_eq!((records.len(), lost), (199, 1));
    assert_eq!(records[0].offset, 1);
    let (records, lost) = read_all(&log, "u", 0, 0).await;
    assert_eq!((records.len(), lost), (200, 0));
    // A sealed segment that ends early: its index says what is missing.
    drop(log);
    fs::write(&first, &bytes[..bytes.len() / 2]).expect("written");
    let log = open(folder.path());
    let ((t, t_lost), (u, u_lost)) = (read_all(&log, "t", 0, 0).await, read_all(&log, "u", 0, 0).await);
    assert_eq!((t.len() as u64 + t_lost, u.len() as u64 + u_lost), (200, 200));
    assert!(t_lost > 1 && u_lost > 0);
    assert_eq!(append(&log, "t", 0, "goes on").await, 200);
}

#[tokio::test]
async fn an_index_that_is_missing_or_wrong_is_made_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let expected = {
        let log = open(folder.path());
        log.create(vec![topic("t", 2)]).await.expect("made");
        for number in 0..300 {
            append(&log, "t", number % 2, &number.to_string()).await;
        }
        (values(&log, "t", 0).await, values(&log, "t", 1).await)
    };
    // What the sealer had not done when the process ended is done now.
    drop(open(folder.path()));
    let indexes = segments(folder.path(), "idx");
    assert!(indexes.len() > 3);
    fs::remove_file(&indexes[0]).expect("removed");
    fs::write(&indexes[1], b"rubbish").expect("written");
    let mut bytes = fs::read(&indexes[2]).expect("readable");
    let middle = bytes.len() - 30;
    bytes[middle] ^= 1;
    fs::write(&indexes[2], bytes).expect("written");
    let log = open(folder.path());
    assert_eq!((values(&log, "t", 0).await, values(&log, "t", 1).await), expected);
    assert_eq!(segments(folder.path(), "idx").len(), indexes.len());
}

#[tokio::test]
async fn a_missing_segment_is_named_and_nothing_is_changed() {
    let folder = tempfile::tempdir().expect("a folder");
    {
        let log = open(folder.path());
        log.create(vec![topic("t", 1)]).await.expect("made");
        for number in 0..300 {
            append(&log, "t", 0, &number.to_string()).await;
        }
    }
    fs::remove_file(&segments(folder.path(), "log")[1]).expect("removed");
    let before = segments(folder.path(), "log");
    let Err(error) = Embedded::open(settings(folder.path())) else { panic!("it opened") };
    assert!(error.to_string().contains("segment 1 is missing"), "{error}");
    assert_eq!(segments(folder.path(), "log"), before);
}

#[tokio::test]
async fn a_folder_belongs_to_one_process() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = open(folder.path());
    let Err(error) = Embedded::open(settings(folder.path())) else { panic!("it opened") };
    assert!(error.to_string().contains("is it another process's?"), "{error}");
    drop(log);
    open(folder.path());
}

#[tokio::test]
async fn a_full_disk_refuses_appends_and_keeps_what_there_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = open(folder.path());
    log.create(vec![topic("t", 1)]).await.expect("made");
    append(&log, "t", 0, "before").await;
    // The next segment cannot be made: its name is taken by a folder, as a failing disk would refuse it.
    let blocker = folder.path().join("0000000001.log");
    fs::create_dir(&blocker).expect("made");
    let mut refused = None;
    for number in 0..100 {
        if let Err(error) = log.append("t", 0, record(&format!("{number}"))).await {
            refused = Some(error);
            break;
        }
    }
    let error = refused.expect("refused at the border of the segment");
    assert!(matches!(error, Error::Io { .. }) && error.is_transient(), "{error}");
    let kept = values(&log, "t", 0).await;
    fs::remove_dir(&blocker).expect("removed");
    let offset = append(&log, "t", 0, "after").await;
    assert_eq!(offset as usize, kept.len(), "what was refused took no offset");
    assert_eq!(values(&log, "t", 0).await.last().map(String::as_str), Some("after"));
}

#[tokio::test]
async fn with_durability_disk_an_append_waits_for_the_disk() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = Settings { durability: Durability::Disk, ..settings(folder.path()) };
    let log = Embedded::open(disk).expect("the log opens");
    log.create(vec![topic("t", 1)]).await.expect("made");
    let appends: Vec<_> = (0..200).map(|number| log.append("t", 0, record(&number.to_string()))).collect();
    assert_eq!(values(&log, "t", 0).await.len(), 200, "visible before it is safe");
    for (offset, append) in (0_u64..).zip(appends) {
        assert_eq!(append.await.expect("synced").offset, offset);
    }
}
