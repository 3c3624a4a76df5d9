//! Every decision of the scheduler, as one deterministic machine: events in, effects out.
//!
//! [`Machine::handle`] does no I/O, asks no clock and draws no random number; the same events give the same effects
//! (invariant I4). The process around it (`scheduler`) makes effects durable before it lets them out.
//!
//! Where a rule lives: `models` (declare, remove, reports), `experiments` (start, stop), `pipelines` (declare, remove,
//! versions), `feeds` (which pipeline feeds which), `workers` (who is there, shards, what they are told), `ring` (who owns what), `agents` (connect, loss, drain),
//! `placement` (where a version runs), `settle` (roll-out, retirement, commands), `hunger` (who is tried again when),
//! `scaling` (how large servers should be), `sync` (the start), `routing` (what a name leads to), `table` (what of it is
//! published and applied), `status` and `pipeline_status` (what users are told), `check` (the invariants).

mod agents;
mod check;
mod effect;
mod event;
mod experiment;
mod experiments;
mod feeds;
mod few;
mod hunger;
mod machine;
mod model;
mod models;
mod pipeline;
mod pipeline_status;
mod pipelines;
mod placement;
mod ring;
mod routing;
mod scaling;
mod server;
mod settings;
mod settle;
mod status;
mod sync;
mod table;
mod worker;
mod workers;

pub use check::Violation;
pub use effect::{Action, Command, Effect, Record, Refusal, RouteChange, ScalingRequest, Status};
pub use event::{ConnectionId, Event, HeldModel, Outcome, Refused, Timer};
pub use experiment::Experiment;
pub use few::Few;
pub use machine::{Kept, Machine};
pub use model::{Assignment, Model, Version};
pub use pipeline::{Pipeline, PipelineVersion};
pub use pipelines::VERSION_FINISH_MS;
pub use placement::{Candidate, Exclusion, Placement, Problem, ServerCandidate, Shortfall, place};
pub use ring::{assign, entries};
pub use server::{Link, Replica, Server};
pub use settings::{AGENT_GRACE_MS, DRAIN_LIMIT_MS, PARTITIONS, Settings, TERMINATED_TTL_MS, WORKER_GRACE_MS};
pub use worker::{Address, Holding, ModelOrder, Order, PipelineOrder, VersionOrder, Workforce};
