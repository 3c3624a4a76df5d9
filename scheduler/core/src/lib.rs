//! Every decision of the scheduler, as one deterministic machine: events in, effects out.
//!
//! [`Machine::handle`] does no I/O, asks no clock and draws no random number; the same events give the same effects
//! (invariant I4). The process around it (`scheduler`) makes effects durable before it lets them out.
//!
//! Where a rule lives: `models` (declare, remove, reports), `agents` (connect, loss, drain), `placement` (where a
//! version runs), `settle` (roll-out, retirement, commands), `routing` (what a name leads to), `status` (what users
//! are told), `check` (the invariants).

mod agents;
mod check;
mod effect;
mod event;
mod machine;
mod model;
mod models;
mod placement;
mod routing;
mod server;
mod settle;
mod status;

pub use check::Violation;
pub use effect::{Action, Command, Effect, Record, Refusal, RouteChange, Status};
pub use event::{ConnectionId, Event, HeldModel, Outcome, Timer};
pub use machine::{AGENT_GRACE_MS, DRAIN_LIMIT_MS, Machine, TERMINATED_TTL_MS};
pub use model::{Assignment, Model, Version};
pub use placement::{Candidate, Exclusion, Placement, Problem, ServerCandidate, Shortfall, place};
pub use server::{Link, Replica, Server};
