//! The pipelines of this engine: what the scheduler wants, compiled, with the topics that it needs.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};

use dataflow_core::{Change, Engine, Owner, Plan, Topology, Version};
use domain::{End, PipelineName, Role, TopicOf, Topics};
use topic_log::{Error, Log, NewTopic};
use worker::{Desired, Duty, PipelineWish};

use crate::shard::{EngineShard, SharedPlan};

pub(crate) struct Pipelines {
    log: Arc<dyn Log>,
    topics: Topics,
    partitions: u32,
    plan: SharedPlan,
}

impl Pipelines {
    pub(crate) fn new(log: Arc<dyn Log>, topics: Topics) -> Self {
        Self { log, topics, partitions: 1, plan: SharedPlan::default() }
    }

    /// Compiled, or the same one as before if nothing about it changed.
    fn version(&self, name: &PipelineName, wish: &worker::VersionWish) -> Version {
        let known = self.read().version(name, wish.number).map(|known| Arc::clone(&known.topology));
        let topology = Topology::compile(&wish.definition, wish.number);
        let topology = known.filter(|known| **known == topology).unwrap_or_else(|| Arc::new(topology));
        Version { topology, active_since: wish.active_since }
    }

    /// Makes the topics that are not there; the log knows which.
    async fn make(&self, needed: BTreeSet<TopicOf>) -> Result<(), Error> {
        let new = needed.iter().map(|of| NewTopic { name: self.topics.name(of).into(), partitions: self.partitions });
        self.log.create(new.collect()).await
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Plan> {
        self.plan.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Duty for Pipelines {
    const ROLE: Role = Role::Engine;
    const GROUP: &'static str = "seldon-dataflow";
    const TASKS: [&'static str; 3] = ["engine-link", "engine", "engine-shard"];

    type Work = EngineShard;

    async fn apply(&mut self, mut desired: Desired) -> Result<Change, Error> {
        if let Some(partitions) = desired.partitions {
            self.partitions = partitions;
        }
        if desired.is_snapshot {
            // The topic of errors is read whatever pipelines there are.
            self.make(BTreeSet::from([TopicOf::Errors])).await?;
            let wished: BTreeSet<PipelineName> = desired.pipelines.iter().map(|wish| wish.name.clone()).collect();
            let known: Vec<PipelineName> = self.read().pipelines().cloned().collect();
            let gone = known.into_iter().filter(|name| !wished.contains(name));
            desired.pipelines.extend(gone.map(|name| PipelineWish {
                name,
                versions: Vec::new(),
                clean_topics: false,
                entries: Vec::new(),
            }));
        }
        let mut needed = BTreeSet::new();
        let mut wishes = Vec::new();
        for wish in desired.pipelines {
            let versions: Vec<Version> =
                wish.versions.iter().map(|version| self.version(&wish.name, version)).collect();
            if !versions.is_empty() {
                // What clients and their pipelines expect to be there, whoever reads it.
                needed.insert(TopicOf::Pipeline(wish.name.clone(), End::Inputs));
                needed.insert(TopicOf::Pipeline(wish.name.clone(), End::Outputs));
            }
            for topology in versions.iter().map(|version| &version.topology) {
                needed.extend(topology.topics().cloned());
                needed.extend(topology.sinks().cloned());
            }
            wishes.push((wish.name, versions, wish.clean_topics));
        }
        self.make(needed).await?;
        let mut all = Change::default();
        let mut void = Vec::new();
        {
            let mut plan = self.plan.write().unwrap_or_else(PoisonError::into_inner);
            for (name, versions, clean) in wishes {
                if versions.is_empty() && clean {
                    let ends = [End::Inputs, End::Outputs];
                    void.extend(ends.map(|end| TopicOf::Pipeline(name.clone(), end)));
                }
                let change = plan.set(&name, versions);
                for topic in change.start {
                    all.stop.remove(&topic);
                    all.start.insert(topic);
                }
                for topic in change.stop {
                    // One that is new to this call was never read.
                    if !all.start.remove(&topic) {
                        all.stop.insert(topic);
                    }
                }
            }
        }
        if desired.is_snapshot {
            all.start.insert(TopicOf::Errors);
        }
        self.log.delete(void.iter().map(|of| self.topics.name(of).into()).collect()).await?;
        Ok(all)
    }

    fn inputs(&self) -> Vec<TopicOf> {
        self.read().topics().cloned().chain([TopicOf::Errors]).collect()
    }

    fn sinks(&self) -> Vec<TopicOf> {
        let plan = self.read();
        let outputs = plan.pipelines().map(|name| TopicOf::Pipeline(name.clone(), End::Outputs));
        let sinks: BTreeSet<TopicOf> = plan.sinks().cloned().chain(outputs).collect();
        sinks.into_iter().collect()
    }

    fn work(&self) -> impl Fn(u32, Owner) -> EngineShard + Send + 'static {
        let (topics, plan) = (self.topics.clone(), Arc::clone(&self.plan));
        move |partition, owner| EngineShard::new(Engine::new(partition, topics.clone(), owner), Arc::clone(&plan))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use domain::{PipelineName, Topics};
    use topic_log::embedded::Settings;
    use topic_log::{Embedded, Log};
    use worker::{Desired, Duty, PipelineWish};

    use super::Pipelines;

    #[tokio::test]
    async fn to_remove_what_is_not_known_is_done_at_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let log: Arc<dyn Log> = Arc::new(Embedded::open(Settings::new(folder.path().to_owned())).expect("it opens"));
        let mut pipelines = Pipelines::new(Arc::clone(&log), Topics::default());
        let name = PipelineName::parse("nobody").expect("a name");
        let wish = PipelineWish { name, versions: Vec::new(), clean_topics: true, entries: Vec::new() };
        let desired = Desired { pipelines: vec![wish], ..Desired::default() };
        let change = pipelines.apply(desired).await.expect("nothing to do is done");
        assert_eq!((change.start, change.stop), (BTreeSet::new(), BTreeSet::new()));
        assert!(log.topics("").await.expect("topics").is_empty());
    }
}
