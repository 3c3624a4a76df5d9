//! What must be true of a run, whatever fails (V1 to V8 of `spec/delivery.md` §10).

use std::collections::{BTreeMap, BTreeSet};

use dataflow_core::{Headers, Root, name};
use domain::{End, PipelineName, TopicOf};

use super::traffic::{as_request, model, numbers};
use super::world::{FLAKY, Stored, World};

fn slot_of(headers: &Headers) -> Option<String> {
    let (_, value) = headers.iter().rev().find(|(header, _)| header == name::SLOT)?;
    Some(String::from_utf8_lossy(value).into_owned())
}

impl World {
    /// The law that was broken, if one was.
    pub(super) fn judge(&self) -> Result<(), String> {
        let of = TopicOf::Pipeline(PipelineName::parse("p").expect("a name"), End::Outputs);
        let topic = self.topic(&of);
        let mut ends: BTreeMap<Root, Vec<&Stored>> = BTreeMap::new();
        for (offset, record) in self.log.get(&topic).into_iter().flatten().enumerate() {
            ends.entry(self.envelope(&topic, offset).root).or_default().push(record);
        }
        for (root, number) in &self.entered {
            // V2.
            let Some(records) = ends.get(root) else {
                return Err(format!("entry {number} has no end"));
            };
            // V1, V4: whoever reads the topic sees one end.
            let slots: BTreeSet<_> = records.iter().map(|record| slot_of(&record.headers)).collect();
            if slots.len() != 1 {
                return Err(format!("entry {number} has {} ends", slots.len()));
            }
            // V5: it is made of its own numbers.
            let expected = 2 * number + 1_001_000;
            for record in records {
                let is_error = record.headers.iter().any(|(header, _)| header == name::ERRORS);
                let is_right = if is_error {
                    expected.is_multiple_of(7) || record.value == FLAKY
                } else {
                    numbers(&as_request(&record.value)) == [expected]
                };
                if !is_right {
                    return Err(format!("entry {number} got the answer of another: {:?}", record.value));
                }
            }
        }
        // V1.
        if let Some(slot) = self.doubled {
            return Err(format!("a repeat of {slot} took effect"));
        }
        // V1: a model's answer takes effect once: answers differ by slot.
        for name in ["a", "b", "c"] {
            let topic = self.topic(&TopicOf::Model(model(name), End::Inputs));
            let mut slots: BTreeMap<Root, BTreeSet<Option<String>>> = BTreeMap::new();
            for (offset, record) in self.log.get(&topic).into_iter().flatten().enumerate() {
                slots.entry(self.envelope(&topic, offset).root).or_default().insert(slot_of(&record.headers));
            }
            if let Some((root, _)) = slots.iter().find(|(_, slots)| slots.len() > 1) {
                return Err(format!("step {name} runs twice for request {root}"));
            }
        }
        Ok(())
    }
}
