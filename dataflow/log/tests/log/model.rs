//! Any sequence of calls and restarts gives what lists in memory would give.

use std::collections::BTreeMap;

use proptest::prelude::*;
use topic_log::{Embedded, Log};

use super::{append, open, topic, values};

#[derive(Clone, Debug)]
enum Call {
    Append(u8, u8, u16),
    Delete(u8),
    Reopen,
}

fn call() -> impl Strategy<Value = Call> {
    prop_oneof![
        30 => (0..3_u8, 0..2_u8, 0..900_u16).prop_map(|(topic, partition, length)| Call::Append(topic, partition, length)),
        1 => (0..3_u8).prop_map(Call::Delete),
        2 => Just(Call::Reopen),
    ]
}

fn name(number: u8) -> String {
    format!("t{number}")
}

async fn make(log: &Embedded) {
    log.create((0..3).map(|number| topic(&name(number), 2)).collect()).await.expect("made");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_log_is_a_map_of_lists(calls in prop::collection::vec(call(), 1..120)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let folder = tempfile::tempdir().expect("a folder");
            let mut log = open(folder.path());
            make(&log).await;
            let mut lists: BTreeMap<(u8, u8), Vec<String>> = BTreeMap::new();
            for (number, call) in calls.into_iter().enumerate() {
                match call {
                    Call::Append(topic, partition, length) => {
                        let text = format!("{number}{}", "x".repeat(length.into()));
                        let list = lists.entry((topic, partition)).or_default();
                        let offset = append(&log, &name(topic), partition.into(), &text).await;
                        assert_eq!(offset as usize, list.len());
                        list.push(text);
                    }
                    Call::Delete(topic) => {
                        log.delete(vec![name(topic).as_str().into()]).await.expect("deleted");
                        make(&log).await;
                        lists.retain(|(of, _), _| *of != topic);
                    }
                    Call::Reopen => {
                        drop(log);
                        log = open(folder.path());
                    }
                }
            }
            for topic in 0..3 {
                for partition in 0..2 {
                    let expected = lists.get(&(topic, partition)).cloned().unwrap_or_default();
                    assert_eq!(values(&log, &name(topic), partition.into()).await, expected);
                }
            }
        });
    }
}
