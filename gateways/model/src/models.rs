//! The models of this gateway: what the scheduler wants, with their topics.

use std::collections::BTreeSet;
use std::sync::Arc;

use dataflow_core::{Caller, Change, Owner};
use domain::{End, ModelName, Role, TopicOf, Topics};
use topic_log::{Error, Log, NewTopic};
use worker::{Desired, Duty};

use crate::shard::{Calling, ModelShard};

pub(crate) struct Models {
    log: Arc<dyn Log>,
    topics: Topics,
    partitions: u32,
    known: BTreeSet<ModelName>,
    calling: Calling,
}

fn inputs(name: &ModelName) -> TopicOf {
    TopicOf::Model(name.clone(), End::Inputs)
}

fn outputs(name: &ModelName) -> TopicOf {
    TopicOf::Model(name.clone(), End::Outputs)
}

impl Models {
    pub(crate) fn new(log: Arc<dyn Log>, topics: Topics, calling: Calling) -> Self {
        Self { log, topics, partitions: 1, known: BTreeSet::new(), calling }
    }
}

impl Duty for Models {
    const ROLE: Role = Role::ModelGateway;
    const GROUP: &'static str = "seldon-modelgateway";
    const TASKS: [&'static str; 3] = ["model-gateway-link", "model-gateway", "model-gateway-shard"];

    type Work = ModelShard;

    async fn apply(&mut self, desired: Desired) -> Result<Change, Error> {
        self.partitions = desired.partitions.unwrap_or(self.partitions);
        let (mut needed, mut gone, mut void) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        // A pipeline may be there before its models: their inputs are read all the same, so that a request gets an
        // error and not silence.
        let steps = desired.pipelines.iter().flat_map(|pipeline| &pipeline.versions);
        needed.extend(steps.flat_map(|version| &version.definition.steps).map(|step| step.model.clone()));
        for model in desired.models {
            if !model.is_removed {
                needed.insert(model.name);
                continue;
            }
            if model.clean_topics {
                void.insert(model.name.clone());
            }
            gone.insert(model.name);
        }
        if desired.is_snapshot {
            gone.extend(self.known.iter().filter(|name| !needed.contains(*name)).cloned());
        }
        let ends = needed.iter().flat_map(|name| [inputs(name), outputs(name)]).chain([TopicOf::Errors, TopicOf::Left]);
        let topics = ends.map(|of| NewTopic { name: self.topics.name(&of).into(), partitions: self.partitions });
        self.log.create(topics.collect()).await?;
        self.calling.leavers.look();
        let mut change = Change::default();
        for name in needed {
            if self.known.insert(name.clone()) {
                change.start.insert(inputs(&name));
            }
        }
        // A model that is gone is read on: whoever still asks for it gets an error. Only if its topics go, its reading ends.
        for name in gone.intersection(&void) {
            self.known.remove(name);
            change.stop.insert(inputs(name));
        }
        let void = void.iter().flat_map(|name| [inputs(name), outputs(name)]);
        self.log.delete(void.map(|of| self.topics.name(&of).into()).collect()).await?;
        Ok(change)
    }

    fn inputs(&self) -> Vec<TopicOf> {
        self.known.iter().map(inputs).collect()
    }

    fn sinks(&self) -> Vec<TopicOf> {
        self.known.iter().map(outputs).chain([TopicOf::Errors]).collect()
    }

    fn work(&self) -> impl Fn(u32, Owner) -> ModelShard + Send + 'static {
        let (topics, calling) = (self.topics.clone(), self.calling.clone());
        move |partition, owner| ModelShard::new(Caller::new(partition, topics.clone(), owner), calling.clone())
    }
}
