//! Load: so many requests a second, whatever becomes of the earlier ones, REST and gRPC in turn, and what became of
//! each of them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use http::StatusCode;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval};

use crate::iris;
use crate::rest::Rest;
use crate::rpc::{Rpc, rpc};

/// Longer ones count as failures.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
/// Failures that a report shows.
const SHOWN: usize = 10;

/// Where requests go: a model, by an Envoy. The model is the sample `iris` under any name.
#[derive(Clone, Debug)]
pub struct Target {
    pub envoy: SocketAddr,
    pub model: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Rest,
    Grpc,
}

/// A right answer.
#[derive(Clone, Debug)]
pub struct Answered {
    /// The way it came, `:iris_1:`.
    pub route: String,
}

/// What became of one request.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub started: Instant,
    pub took: Duration,
    /// Index of its target.
    pub target: usize,
    pub protocol: Protocol,
    /// A right answer, or what was wrong.
    pub result: Result<Answered, String>,
}

/// Requests that are being sent.
#[derive(Debug)]
pub struct Load {
    started: Instant,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Vec<Outcome>>,
}

/// What became of all of them.
#[derive(Debug)]
pub struct Traffic {
    pub lasted: Duration,
    pub outcomes: Vec<Outcome>,
}

impl Load {
    /// `rate` requests a second, to the targets in turn, half of them REST.
    #[must_use]
    pub fn start(targets: Vec<Target>, rate: u32) -> Load {
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(generate(targets, rate, stopped));
        Load { started: Instant::now(), stop, task }
    }

    /// A measurement window: the load goes on for this long, and whatever goes wrong in it counts.
    pub async fn window(&self, length: Duration) {
        tokio::time::sleep(length).await;
    }

    /// Ends it and waits for the last answers.
    pub async fn stop(self) -> Result<Traffic> {
        let lasted = self.started.elapsed();
        let _it_has_ended_already = self.stop.send(());
        Ok(Traffic { lasted, outcomes: self.task.await.context("the load")? })
    }
}

async fn generate(targets: Vec<Target>, rate: u32, mut stopped: oneshot::Receiver<()>) -> Vec<Outcome> {
    let mut clients = BTreeMap::new();
    for target in &targets {
        clients
            .entry(target.envoy)
            .or_insert_with(|| (Rest::new(target.envoy).within(ANSWERS_WITHIN), rpc(target.envoy)));
    }
    let mut ticks = interval(Duration::from_secs(1) / rate.max(1));
    // A late tick is made up for: the rate is kept.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (mut calls, mut outcomes, mut number) = (JoinSet::new(), Vec::new(), 0);
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            _ = ticks.tick() => {}
        }
        let protocol = if number % 2 == 0 { Protocol::Rest } else { Protocol::Grpc };
        let index = number / 2 % targets.len();
        number += 1;
        let Some(target) = targets.get(index).cloned() else { break };
        let Some((rest, rpc)) = clients.get(&target.envoy).cloned() else { break };
        calls.spawn(async move {
            let started = Instant::now();
            let result = match protocol {
                Protocol::Rest => by_rest(&rest, &target.model).await,
                Protocol::Grpc => by_grpc(rpc, &target.model).await,
            };
            let result = result.map_err(|error| format!("{error:#}"));
            Outcome { started, took: started.elapsed(), target: index, protocol, result }
        });
        while let Some(outcome) = calls.try_join_next() {
            outcomes.extend(outcome);
        }
    }
    outcomes.extend(calls.join_all().await);
    outcomes
}

async fn by_rest(rest: &Rest, model: &str) -> Result<Answered> {
    let answer = rest.infer(model, iris::BODY).await?;
    ensure!(answer.status == StatusCode::OK, "{} {}", answer.status, answer.body);
    iris::check_json(&answer.body)?;
    Ok(Answered { route: answer.header("x-seldon-route").to_owned() })
}

async fn by_grpc(mut rpc: Rpc, model: &str) -> Result<Answered> {
    let answer = tokio::time::timeout(ANSWERS_WITHIN, rpc.model_infer(iris::message(model))).await;
    let answer = answer.context("no answer in time")??;
    iris::check_message(answer.get_ref())?;
    let route = answer.metadata().get("x-seldon-route").and_then(|value| value.to_str().ok()).unwrap_or_default();
    Ok(Answered { route: route.to_owned() })
}

impl Traffic {
    #[must_use]
    pub fn failures(&self) -> Vec<&Outcome> {
        self.outcomes.iter().filter(|outcome| outcome.result.is_err()).collect()
    }

    /// Failures of requests that began after a moment.
    #[must_use]
    pub fn failures_begun_after(&self, moment: Instant) -> Vec<&Outcome> {
        self.failures().into_iter().filter(|outcome| outcome.started > moment).collect()
    }

    /// Every route that answered, with the number of answers.
    #[must_use]
    pub fn routes(&self) -> BTreeMap<String, usize> {
        let mut routes = BTreeMap::new();
        for answered in self.outcomes.iter().filter_map(|outcome| outcome.result.as_ref().ok()) {
            *routes.entry(answered.route.clone()).or_default() += 1;
        }
        routes
    }

    /// Says it for people.
    #[must_use]
    pub fn summary(&self) -> String {
        let slowest = self.outcomes.iter().map(|outcome| outcome.took).max().unwrap_or_default();
        let (total, failed) = (self.outcomes.len(), self.failures().len());
        let rate = total as f64 / self.lasted.as_secs_f64().max(0.001);
        format!("{total} requests at {rate:.0}/s, {failed} failed, the slowest took {} ms", slowest.as_millis())
    }

    /// No request may have failed.
    pub fn none_failed(&self) -> Result<()> {
        self.only_failed("no request may fail", |_| false)
    }

    /// Only requests that `excused` accepts may have failed.
    pub fn only_failed(&self, law: &str, excused: impl Fn(&Outcome) -> bool) -> Result<()> {
        ensure!(!self.outcomes.is_empty(), "there was no load");
        let wrong: Vec<&Outcome> = self.failures().into_iter().filter(|outcome| !excused(outcome)).collect();
        let mut text = String::new();
        let first = self.outcomes.iter().map(|outcome| outcome.started).min();
        for outcome in wrong.iter().take(SHOWN) {
            let at = first.map(|first| outcome.started.duration_since(first)).unwrap_or_default();
            let reason = outcome.result.as_ref().err().map(String::as_str).unwrap_or_default();
            let (protocol, target, took) = (outcome.protocol, outcome.target, outcome.took);
            let _ = write!(text, "\n  after {at:?}, {protocol:?} to target {target}, took {took:?}: {reason}");
        }
        ensure!(wrong.is_empty(), "{law}, and {} did ({}):{text}", wrong.len(), self.summary());
        Ok(())
    }
}
