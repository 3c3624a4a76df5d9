//! How often the log copies a record in memory of its own: by what is allocated for one of 16 MB. One test, because it
//! counts for the whole process. Beside that the system copies it once into its page cache and once out of it.

use std::alloc::System;

use bytes::Bytes;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use topic_log::embedded::Settings;
use topic_log::{Append, Embedded, Log, NewTopic};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const SIZE: usize = 16 << 20;

/// How many times the size of the record was allocated.
fn copies(region: &Region<'_, System>) -> usize {
    (region.change().bytes_allocated + SIZE / 2) / SIZE
}

#[tokio::test]
async fn a_record_is_copied_once_when_it_is_written_and_once_when_it_is_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = Embedded::open(Settings::new(folder.path().to_owned())).expect("it opens");
    log.create(vec![NewTopic { name: "t".into(), partitions: 1 }]).await.expect("made");
    let record = Append { key: Bytes::new(), value: Bytes::from(vec![7; SIZE]), headers: Vec::new() };
    let region = Region::new(ALLOCATOR);
    log.append("t", 0, record).await.expect("appended");
    assert_eq!(copies(&region), 1, "written");
    let region = Region::new(ALLOCATOR);
    let fetched = log.read("t", 0, 0, 1).await.expect("read");
    assert_eq!(copies(&region), 1, "read");
    assert_eq!(fetched.records[0].value.len(), SIZE);
}
