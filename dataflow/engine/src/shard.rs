//! The engine's part in one shard: what `dataflow-core` decides under the plan of the moment.

use std::sync::{Arc, PoisonError, RwLock};

use dataflow_core::{Counters, Emission, EmissionId, Engine, Incoming, Owner, Plan};
use domain::{End, Time, TopicOf};
use worker::{ShardLog, ShardWork, now};

/// All topologies, as shards read them.
pub(crate) type SharedPlan = Arc<RwLock<Plan>>;

pub(crate) struct EngineShard {
    engine: Engine,
    plan: SharedPlan,
    is_paused: bool,
}

impl EngineShard {
    pub(crate) fn new(engine: Engine, plan: SharedPlan) -> Self {
        Self { engine, plan, is_paused: false }
    }
}

impl ShardWork for EngineShard {
    fn owner(&mut self) -> &mut Owner {
        self.engine.owner()
    }

    fn counters(&self) -> Counters {
        self.engine.counters()
    }

    fn take(&mut self, record: Incoming<'_>) {
        let plan = self.plan.read().unwrap_or_else(PoisonError::into_inner);
        self.engine.take(&plan, record, now());
    }

    fn emissions(&mut self) -> Vec<Emission> {
        self.engine.emissions()
    }

    fn acked(&mut self, id: EmissionId) {
        self.engine.acked(id);
    }

    fn refused(&mut self, id: EmissionId, reason: &str) {
        self.engine.refused(id, reason);
    }

    fn tick(&mut self) {
        self.engine.tick(now());
    }

    fn next_timer(&self) -> Option<Time> {
        self.engine.next_timer()
    }

    async fn event(&mut self) {
        // Everything that happens to a pipeline is a record.
        std::future::pending().await
    }

    /// Entries wait while there is too much in hand; what is under way goes on.
    fn make_room(&mut self, log: &mut ShardLog) {
        let is_full = self.engine.is_full();
        if is_full == self.is_paused {
            return;
        }
        self.is_paused = is_full;
        let is_entry = |of: &TopicOf| matches!(of, TopicOf::Pipeline(_, End::Inputs));
        let entries = log.inputs().filter(|(_, of)| is_entry(of));
        let entries: Vec<(Arc<str>, TopicOf)> = entries.map(|(topic, of)| (Arc::clone(topic), of.clone())).collect();
        for (topic, of) in entries {
            if is_full {
                log.pause(&of);
                // No window waits for what is not read on purpose, or none would ever close and make room.
                self.engine.owner().read_up_to(&topic, None);
            } else {
                log.resume(&of);
            }
        }
    }

    fn is_finished(&self) -> bool {
        self.engine.outstanding() == 0
    }
}
