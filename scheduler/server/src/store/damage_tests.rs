//! Old stores, damaged ones, and moving what is in them.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use heed::types::{Bytes, Str};
use scheduler_core::{Kept, Record};

use super::tests::{experiment, model, server};
use super::{OpenError, SCHEMA, SCHEMA_KEY, Store, TransferError, check, export, import};

const MAP: u64 = 8 << 20;

/// Damages that are tried; each is one of several kinds at a place of its own.
const DAMAGES: u64 = 3_000;

fn filled(dir: &Path, models: usize) -> Kept {
    let store = Store::open(dir, MAP).expect("opened");
    for first in (0..models).step_by(50) {
        let names = (first..models.min(first + 50)).map(|index| format!("model-{index}"));
        let mut records: Vec<Record> = names.map(|name| Record::Model(Box::new(model(&name)))).collect();
        records.push(Record::Server(Box::new(server())));
        records.push(Record::Experiment(Box::new(experiment())));
        store.commit(&mut records.iter().collect()).expect("committed");
    }
    // Large enough for pages of its own, and pages that are free again.
    let mut large = model("large");
    large.versions.values_mut().for_each(|version| version.shortfall = "x".repeat(30_000));
    store.commit(&mut [Record::Model(Box::new(large.clone()))].iter().collect()).expect("committed");
    let gone = Record::NoModel(model("model-3").name);
    store.commit(&mut [gone, Record::Model(Box::new(large))].iter().collect()).expect("committed");
    store.load().expect("readable")
}

/// Writes a store as an older version of the format did.
fn of_schema(schema: u32, dir: &Path) {
    let golden = match schema {
        1 => include_str!("../../golden/store_records_1.txt"),
        _ => include_str!("../../golden/store_records_2.txt"),
    };
    let folder = dir.join("store");
    std::fs::create_dir_all(&folder).expect("a folder");
    let env = super::open_env(&folder, 1 << 20).expect("opened");
    let mut writer = env.write_txn().expect("a writer");
    let meta = env.create_database::<Str, Bytes>(&mut writer, Some("meta")).expect("made");
    meta.put(&mut writer, SCHEMA_KEY, &schema.to_le_bytes()).expect("written");
    let tables = [("model", "models", "iris"), ("server", "servers", "onnx"), ("experiment", "experiments", "split")];
    for (kind, table, key) in tables.into_iter().take(if schema == 1 { 2 } else { 3 }) {
        let hex = golden.lines().find_map(|line| line.strip_prefix(kind)).expect("a golden record").trim();
        let bytes: Vec<u8> = (0..hex.len() / 2)
            .map(|at| u8::from_str_radix(&hex[at * 2..at * 2 + 2], 16).expect("hexadecimal"))
            .collect();
        let bytes = if schema == 1 { bytes } else { super::seal::seal(key, &bytes) };
        let table = env.create_database::<Str, Bytes>(&mut writer, Some(table)).expect("made");
        table.put(&mut writer, key, &bytes).expect("written");
    }
    writer.commit().expect("committed");
}

#[test]
fn a_store_of_an_older_schema_is_upgraded_and_loses_nothing() {
    for schema in 1..SCHEMA {
        let dir = tempfile::tempdir().expect("a folder");
        of_schema(schema, dir.path());
        let mut expected = model("iris");
        expected.versions.values_mut().for_each(|version| version.short_of_memory = true);
        let experiments = if schema == 1 { Vec::new() } else { vec![super::tests::experiment()] };
        let expected = Kept { models: vec![expected], servers: vec![server()], experiments, ..Kept::default() };
        for _ in 0..2 {
            let store = Store::open(dir.path(), MAP).expect("opened");
            assert_eq!(store.load().expect("readable"), expected, "from schema {schema}");
        }
        assert_eq!(check(dir.path(), MAP).expect("sound").schema, SCHEMA);
    }
}

/// Whatever happens to the file: what is loaded is what was written, or nothing is and the file is as it was.
#[test]
fn no_damage_of_the_file_is_a_crash_or_another_state() {
    let dir = tempfile::tempdir().expect("a folder");
    let expected = filled(dir.path(), 120);
    let path = dir.path().join("store/data.mdb");
    let sound = std::fs::read(&path).expect("readable");
    let (mut refused, mut unharmed) = (0, 0);
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = |end: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % end
    };
    for damage in 0..DAMAGES {
        let mut bytes = sound.clone();
        let length = bytes.len() as u64;
        let at = usize::try_from(next(length)).expect("small");
        let page = at / 4_096 * 4_096;
        match damage % 6 {
            0 => bytes[at] ^= 1 << next(8),
            // The heads of pages are where it hurts.
            1 => bytes[page + usize::try_from(next(64)).expect("small")] = u8::try_from(next(256)).expect("a byte"),
            2 => bytes[page..page + 4_096].fill(0),
            3 => bytes[page..page + 4_096].fill(u8::try_from(next(256)).expect("a byte")),
            4 => bytes.truncate(at),
            _ => {
                let other = usize::try_from(next(length / 4_096)).expect("small") * 4_096;
                bytes.copy_within(other..other + 4_096, page);
            }
        }
        std::fs::write(&path, &bytes).expect("written");
        match Store::open(dir.path(), MAP).and_then(|store| store.load()) {
            Ok(kept) => {
                assert_eq!(kept, expected, "damage {damage} at {at} went unseen");
                unharmed += 1;
            }
            Err(error) => {
                let words = error.to_string();
                assert!(words.contains("nothing was changed") || words.contains("open"), "{words}");
                let after = std::fs::read(&path).expect("readable");
                assert!(
                    matches!(error, OpenError::Unsealed { .. }) || after == bytes,
                    "damage {damage}: it was changed"
                );
                refused += 1;
            }
        }
    }
    assert!(refused > DAMAGES / 4 && unharmed > 0, "{refused} refused, {unharmed} unharmed");
}

#[test]
fn files_that_are_no_store_are_refused_with_words() {
    for (content, words) in [(&b""[..], "empty"), (b"hello", "too short"), (&[7; 9_000], "does not begin like one")] {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(dir.path().join("store")).expect("a folder");
        std::fs::write(dir.path().join("store/data.mdb"), content).expect("written");
        let error = Store::open(dir.path(), MAP).err().expect("refused");
        let cause = std::error::Error::source(&error).expect("a cause").to_string();
        assert!(cause.contains(words), "{error}: {cause}");
        assert_eq!(std::fs::read(dir.path().join("store/data.mdb")).expect("readable"), content);
    }
}

#[test]
fn an_export_is_imported_whole_and_exported_again_as_the_same_text() {
    let (from, to) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let expected = filled(from.path(), 120);
    let mut text = Vec::new();
    let count = export(from.path(), MAP, &mut text).expect("exported");
    assert_eq!(count, expected.models.len() + expected.servers.len() + expected.experiments.len());
    assert_eq!(import(to.path(), MAP, &mut text.as_slice()).expect("imported"), count);
    assert_eq!(Store::open(to.path(), MAP).expect("opened").load().expect("readable"), expected);
    let mut again = Vec::new();
    export(to.path(), MAP, &mut again).expect("exported");
    assert_eq!(String::from_utf8(again), String::from_utf8(text.clone()));
    let error = import(to.path(), MAP, &mut text.as_slice()).expect_err("it is full");
    assert!(matches!(error, TransferError::NotEmpty(_)), "{error}");
}

#[test]
fn a_wrong_export_names_its_line_and_leaves_nothing() {
    let from = tempfile::tempdir().expect("a folder");
    filled(from.path(), 4);
    let mut text = Vec::new();
    export(from.path(), MAP, &mut text).expect("exported");
    let text = String::from_utf8(text).expect("text");
    let lines: Vec<&str> = text.lines().collect();
    let cut = lines[..lines.len() - 1].join("\n");
    let cases = [
        (String::new(), "the end is missing"),
        (cut, "the end is missing"),
        (text.replacen(&format!("\"schema\":{SCHEMA}"), "\"schema\":9", 1), "line 1: "),
        (text.replacen("\"kind\":\"model\"", "\"kind\":\"pod\"", 1), "line 2: kind: there is no \"pod\""),
        (text.replacen("\"summary\"", "\"summery\"", 1), "line 2: unknown field `summery`"),
        (text.replacen("\"name\":\"large\"", "\"name\":\"small\"", 1), "line 2: name: "),
        (text.replacen("\"record\":\"", "\"record\":\"!", 1), "line 2: record: "),
        (text.clone() + "{}\n", "something comes after the end"),
        (text.replacen(lines[2], "", 1).replace("\n\n", "\n"), "the end says"),
    ];
    for (wrong, words) in cases {
        let to = tempfile::tempdir().expect("a folder");
        let error = import(to.path(), MAP, &mut wrong.as_bytes()).expect_err("wrong").to_string();
        assert!(error.contains(words), "{words:?} is not in {error:?}");
        assert_eq!(Store::open(to.path(), MAP).expect("opened").load().expect("readable"), Kept::default());
    }
    let nowhere = tempfile::tempdir().expect("a folder");
    assert!(matches!(check(nowhere.path(), MAP), Err(TransferError::Missing(_))));
}

#[test]
fn a_checked_store_is_as_it_was() {
    let dir = tempfile::tempdir().expect("a folder");
    let expected = filled(dir.path(), 20);
    let contents = check(dir.path(), MAP).expect("sound");
    assert_eq!((contents.models, contents.servers, contents.experiments), (expected.models.len(), 1, 1));
    assert!(contents.bytes > 30_000);
    let file = File::options().write(true).open(dir.path().join("store/data.mdb")).expect("opened");
    file.write_all_at(&[0xFF; 64], 16).expect("written");
    assert!(matches!(check(dir.path(), MAP), Err(TransferError::Open(OpenError::BadFile { .. }))));
}
