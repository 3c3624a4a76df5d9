//! All topologies of one engine: which records concern whom, and what changes when pipelines do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use domain::{PipelineName, Time, TopicOf};

use crate::topology::{Side, Topology};

/// A version of a pipeline, as the scheduler wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// What it does.
    pub topology: Arc<Topology>,
    /// Since when foreign records run under it; `None`: never yet.
    pub active_since: Option<Time>,
}

/// What there is to run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pipelines: BTreeMap<PipelineName, BTreeMap<u32, Version>>,
    /// Who reads records of a pipeline in a topic.
    readers: BTreeMap<TopicOf, BTreeMap<PipelineName, Vec<Reading>>>,
    /// How many sides read a topic, and how many operators write one.
    read: BTreeMap<TopicOf, usize>,
    written: BTreeMap<TopicOf, usize>,
}

/// A side that reads a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) topology: Arc<Topology>,
    pub(crate) operator: usize,
    pub(crate) side: usize,
}

impl Reading {
    pub(crate) fn side(&self) -> &Side {
        &self.topology.operators[self.operator].sides[self.side]
    }
}

/// Topics that are new to a plan, and those that it needs no longer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// To be read from now on.
    pub start: BTreeSet<TopicOf>,
    /// Not to be read any more.
    pub stop: BTreeSet<TopicOf>,
}

impl Plan {
    /// Sets the versions of a pipeline; none: it is gone.
    pub fn set(&mut self, pipeline: &PipelineName, versions: Vec<Version>) -> Change {
        let mut change = Change::default();
        // The new ones first, so that what both need is not let go of in between.
        for version in &versions {
            for topic in version.topology.topics() {
                count_up(&mut self.read, topic).then(|| change.start.insert(topic.clone()));
            }
            for topic in version.topology.sinks() {
                count_up(&mut self.written, topic);
            }
            self.connect(&version.topology);
        }
        let versions: BTreeMap<u32, Version> =
            versions.into_iter().map(|version| (version.topology.version, version)).collect();
        let old = if versions.is_empty() {
            self.pipelines.remove(pipeline)
        } else {
            self.pipelines.insert(pipeline.clone(), versions)
        };
        for version in old.unwrap_or_default().into_values() {
            for topic in version.topology.topics() {
                count_down(&mut self.read, topic).then(|| change.stop.insert(topic.clone()));
            }
            for topic in version.topology.sinks() {
                count_down(&mut self.written, topic);
            }
            self.disconnect(&version.topology);
        }
        let both: Vec<TopicOf> = change.start.intersection(&change.stop).cloned().collect();
        for topic in both {
            change.start.remove(&topic);
            change.stop.remove(&topic);
        }
        change
    }

    fn connect(&mut self, topology: &Arc<Topology>) {
        for (at, operator) in topology.operators.iter().enumerate() {
            for (number, side) in operator.sides.iter().enumerate() {
                let readers = self.readers.entry(side.topic.clone()).or_default();
                let reading = Reading { topology: Arc::clone(topology), operator: at, side: number };
                readers.entry(side.pipeline.clone()).or_default().push(reading);
            }
        }
    }

    fn disconnect(&mut self, topology: &Arc<Topology>) {
        for side in topology.operators.iter().flat_map(|operator| &operator.sides) {
            let Some(readers) = self.readers.get_mut(&side.topic) else { continue };
            if let Some(readings) = readers.get_mut(&side.pipeline) {
                // The same one may have come again with the new versions: take one away, the oldest.
                if let Some(at) = readings.iter().position(|reading| Arc::ptr_eq(&reading.topology, topology)) {
                    readings.remove(at);
                }
                if readings.is_empty() {
                    readers.remove(&side.pipeline);
                }
            }
            if readers.is_empty() {
                self.readers.remove(&side.topic);
            }
        }
    }

    /// Who reads records of that pipeline in that topic.
    pub(crate) fn readers(&self, topic: &TopicOf, pipeline: &PipelineName) -> &[Reading] {
        self.readers.get(topic).and_then(|readers| readers.get(pipeline)).map_or(&[], Vec::as_slice)
    }

    /// One version of a pipeline.
    #[must_use]
    pub fn version(&self, pipeline: &PipelineName, version: u32) -> Option<&Version> {
        self.pipelines.get(pipeline)?.get(&version)
    }

    /// The version under which a foreign record of that time runs.
    #[must_use]
    pub fn active_at(&self, pipeline: &PipelineName, time: Time) -> Option<u32> {
        let versions = self.pipelines.get(pipeline)?;
        let active = |version: &Version| version.active_since.is_some_and(|since| since <= time);
        versions.iter().rev().find(|(_, version)| active(version)).map(|(number, _)| *number)
    }

    /// Some version of the pipeline is there.
    #[must_use]
    pub fn knows(&self, pipeline: &PipelineName) -> bool {
        self.pipelines.contains_key(pipeline)
    }

    /// Topics that somebody reads.
    pub fn topics(&self) -> impl Iterator<Item = &TopicOf> {
        self.read.keys()
    }

    /// Topics that somebody writes.
    pub fn sinks(&self) -> impl Iterator<Item = &TopicOf> {
        self.written.keys()
    }

    /// Pipelines that there are.
    pub fn pipelines(&self) -> impl Iterator<Item = &PipelineName> {
        self.pipelines.keys()
    }
}

/// True: it is the first.
fn count_up(counts: &mut BTreeMap<TopicOf, usize>, topic: &TopicOf) -> bool {
    let count = counts.entry(topic.clone()).or_default();
    *count += 1;
    *count == 1
}

/// True: it was the last.
fn count_down(counts: &mut BTreeMap<TopicOf, usize>, topic: &TopicOf) -> bool {
    let Some(count) = counts.get_mut(topic) else { return false };
    *count -= 1;
    if *count == 0 {
        counts.remove(topic);
        return true;
    }
    false
}
