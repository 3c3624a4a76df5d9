//! End to end: real Envoys, real inference servers, every part a process of its own, and what users were promised.
//!
//! A scenario prints what it measured (`--nocapture` shows it) and fails on a warning in any log that it does not
//! expect by name. Those about minutes-long calls are in `long.rs`.

mod bad_input;
mod cli;
mod cli_seldon;
mod experiments;
mod first_light;
mod foreign;
mod kill;
mod partial;
mod pipeline_callers;
mod pipeline_kills;
mod pipeline_life;
mod pipeline_records;
mod pipeline_topics;
mod pipeline_trouble;
mod pipeline_workers;
mod pipelines;
mod proxyless;
mod rollout;
mod thousand;
mod up;

use std::time::Duration;

/// Load of the scenarios that are about load, in requests a second.
const RATE: u32 = 200;

/// A load of a small model takes some tens of milliseconds; the machine may be busy.
const LOADS_WITHIN: Duration = Duration::from_secs(20);
