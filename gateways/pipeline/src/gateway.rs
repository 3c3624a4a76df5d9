//! One request, whatever protocol it came by: books a place, writes the entry, waits for the answer.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use dataflow_core::{Branch, Envelope, Failure as Ended, Headers, Left, Request, Root, Slot, name};
use domain::{End, PipelineName, REQUEST_LONGEST_MS, Time, TopicOf, Topics};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use runtime::RequestIds;
use topic_log::{Append, Header, Log};
use worker::now;

use crate::admission::{Admission, Place};
use crate::failure::{ErrorStyle, Failure, Refusal};
use crate::metrics::Metrics;
use crate::pending::Pending;
use crate::pipelines::Pipelines;

/// How long a caller waits unless it says otherwise.
pub(crate) const TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);

/// The header of ours that says otherwise.
pub(crate) const TIMEOUT_HEADER: &str = "switchyard-timeout-ms";

/// Most bytes of `x-…` headers that travel with a request, and how many: models add theirs on the way, and Envoy takes a
/// hundred with its own.
const HEADERS_MAX: usize = 64 << 10;
const HEADERS_COUNT_MAX: usize = 64;

/// What all requests share.
pub(crate) struct Gateway {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) topics: Topics,
    pub(crate) pipelines: Pipelines,
    pub(crate) pending: Pending,
    pub(crate) admission: Admission,
    pub(crate) errors: ErrorStyle,
    pub(crate) metrics: Metrics,
    pub(crate) envoy: String,
    pub(crate) http: Client<HttpConnector, Full<Bytes>>,
    pub(crate) max_message_bytes: usize,
    ids: RequestIds,
    chance: [RandomState; 2],
    count: AtomicU64,
}

/// A request that is understood.
pub(crate) struct Entry {
    pub(crate) pipeline: PipelineName,
    /// `x-…` headers, names in lower case.
    pub(crate) headers: Headers,
    pub(crate) request_id: String,
    pub(crate) timeout: Duration,
    /// An encoded `ModelInferRequest`.
    pub(crate) message: Bytes,
}

/// An answer.
pub(crate) struct Reply {
    /// An encoded `ModelInferResponse`.
    pub(crate) message: Bytes,
    /// `x-…` headers for the caller.
    pub(crate) headers: Headers,
}

/// Tells the workers what is not needed any more when a request ends here.
struct Leaving<'a> {
    gateway: &'a Gateway,
    left: Option<(Left, u32)>,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        let Some((left, partition)) = self.left.take() else { return };
        let topic = self.gateway.topics.name(&TopicOf::Left);
        let (key, headers) = (left.request.root.to_string().into(), left.write());
        let headers = headers.into_iter().map(|(name, value)| Header { name, value }).collect();
        // Appended by the call. If that fails, it is done for nobody.
        drop(self.gateway.log.append(&topic, partition, Append { key, value: Bytes::new(), headers }));
    }
}

impl Gateway {
    pub(crate) fn new(
        log: Arc<dyn Log>,
        config: &crate::Config,
        pipelines: Pipelines,
        pending: Pending,
        http: Client<HttpConnector, Full<Bytes>>,
    ) -> Self {
        Self {
            log,
            topics: config.topics.clone(),
            pipelines,
            pending,
            admission: Admission::new(config.pending_max, config.pending_bytes_max, config.metrics.clone()),
            errors: config.errors,
            metrics: config.metrics.clone(),
            envoy: config.envoy.clone(),
            http,
            max_message_bytes: config.max_message_bytes,
            ids: RequestIds::new(),
            chance: [RandomState::new(), RandomState::new()],
            count: AtomicU64::new(0),
        }
    }

    /// 128 bits that no other gateway has, either: keys of the hash come from the system.
    fn chance(&self) -> u128 {
        let count = (self.count.fetch_add(1, Ordering::Relaxed), now().0);
        let [high, low] = [&self.chance[0], &self.chance[1]].map(|state| u128::from(state.hash_one(count)));
        high << 64 | low
    }

    /// The id of a request: the caller's, or a new one.
    pub(crate) fn request_id(&self, headers: &HeaderMap) -> String {
        let given = headers.get(name::REQUEST_ID).and_then(|id| id.to_str().ok()).filter(|id| !id.is_empty());
        given.map_or_else(|| self.ids.next(), str::to_owned)
    }

    /// Sends a request through its pipeline.
    pub(crate) async fn infer(&self, entry: Entry, place: &Place) -> Result<Reply, Refusal> {
        let root = Root(self.chance());
        let id = entry.request_id.clone();
        // Before it is looked up: if the pipeline goes at this moment, this caller hears of it.
        let mut waiting = self.pending.wait(root, entry.pipeline.clone());
        let entrance = self.entrance(&entry.pipeline, root).map_err(|failure| Refusal::early(failure, &id))?;
        let Entrance { version, partition, has_cycles } = entrance;
        // The key first, then the caller's own id, as the compatible system has it.
        let key = format!("{partition}.{}.{id}", entry.pipeline);
        let known = [(name::REQUEST_ID, key.clone()), (name::REQUEST_ID, id), (name::VERSION, version.to_string())];
        let known = known.map(|(name, value)| (name.to_owned(), Bytes::from(value)));
        let refuse = |failure| Refusal { failure, headers: known.to_vec() };
        let milliseconds = u64::try_from(entry.timeout.as_millis()).unwrap_or(u64::MAX);
        let left = entry.timeout.saturating_sub(place.began().elapsed());
        let topic = self.topics.name(&TopicOf::Pipeline(entry.pipeline.clone(), End::Inputs));
        let envelope = Envelope {
            root,
            slot: Slot::of_entry(root),
            branch: Branch::default(),
            deadline: Some(Time(now().0.saturating_add(u64::try_from(left.as_millis()).unwrap_or(u64::MAX)))),
            pipeline: Some(entry.pipeline.clone()),
            version: Some(version),
        };
        let headers = envelope.write(entry.headers, &topic, partition);
        let record = Append {
            key: key.into(),
            value: entry.message,
            headers: headers.into_iter().map(|(name, value)| Header { name, value }).collect(),
        };
        let entered = self.log.append(&topic, partition, record);
        let request = Request { root, pipeline: entry.pipeline };
        let mut leaving = Leaving { gateway: self, left: Some((Left { request, from: 0 }, partition)) };
        // Both limits at once: the log may take its time, too.
        let answered = async {
            let entered = entered.await.map_err(Failure::Log);
            place.drop_body();
            entered?;
            (&mut waiting.answer).await.map_err(|_| Failure::Unloaded)
        };
        let answered = tokio::time::timeout(left, answered).await.unwrap_or(Err(Failure::Deadline(milliseconds)));
        match &answered {
            // What it did until then stays: a step beside the answer may still have to run.
            Ok(answer) if has_cycles => {
                let branch = answer.header(name::BRANCH).and_then(|branch| std::str::from_utf8(branch).ok());
                let returns = branch.and_then(Branch::parse).unwrap_or_default().count;
                leaving.left.iter_mut().for_each(|(left, _)| left.from = returns.saturating_add(1));
            }
            Err(Failure::Unloaded) => {}
            // There is nothing left to do, or everybody knows the deadline.
            Ok(_) | Err(_) => leaving.left = None,
        }
        let record = answered.map_err(refuse)?;
        let headers: Headers = record.headers.into_iter().map(|header| (header.name, header.value)).collect();
        let ended = Ended::of(&headers, &record.value);
        let [key, ..] = known;
        let own = headers.into_iter().filter(|(name, _)| name.starts_with("x-"));
        let headers = [key].into_iter().chain(own).collect();
        match ended {
            Some(ended) => Err(Refusal { failure: Failure::Ended(ended), headers }),
            None => Ok(Reply { message: record.value, headers }),
        }
    }

    /// By which way a request enters the pipeline.
    fn entrance(&self, pipeline: &PipelineName, root: Root) -> Result<Entrance, Failure> {
        let known = self.pipelines.get(pipeline)?;
        let version = known.active.ok_or_else(|| Failure::NotReady(pipeline.clone()))?;
        if !known.has_output {
            return Err(Failure::NoOutput(pipeline.clone()));
        }
        let at = usize::try_from(root.0 % known.entries.len().max(1) as u128).unwrap_or(0);
        let partition = known.entries.get(at).copied().unwrap_or(0);
        Ok(Entrance { version, partition, has_cycles: known.has_cycles })
    }
}

struct Entrance {
    version: u32,
    partition: u32,
    has_cycles: bool,
}

/// The pipeline that a request is for: Envoy's word, else the client's, else the path's.
pub(crate) fn target(headers: &HeaderMap, path: Option<&str>) -> Result<PipelineName, Failure> {
    let last = |name: &str| headers.get_all(name).iter().next_back().and_then(|value| value.to_str().ok());
    let named = last(domain::header::INTERNAL_MODEL).or_else(|| last(domain::header::MODEL));
    let (text, name) = match (named, path) {
        (Some(text), _) => (text, text.strip_suffix(".pipeline")),
        (None, Some(path)) => (path, Some(path)),
        (None, None) => return Err(Failure::NoTarget),
    };
    let name = name.and_then(|name| PipelineName::parse(name).ok());
    name.ok_or_else(|| Failure::BadTarget(text.chars().take(256).collect()))
}

/// The `x-…` headers of a request, with its id.
pub(crate) fn travelling(headers: &HeaderMap, id: &str) -> Result<Headers, Failure> {
    let kept = headers.iter().filter(|(name, _)| {
        let name = name.as_str();
        name.starts_with("x-") && name != name::VERSION && name != name::REQUEST_ID
    });
    let mut kept: Headers =
        kept.map(|(name, value)| (name.as_str().to_owned(), Bytes::copy_from_slice(value.as_bytes()))).collect();
    kept.push((name::REQUEST_ID.to_owned(), id.to_owned().into()));
    let bytes = kept.iter().map(|(name, value)| name.len() + value.len()).sum();
    if kept.len() > HEADERS_COUNT_MAX {
        return Err(Failure::HeaderCount { count: kept.len(), limit: HEADERS_COUNT_MAX });
    }
    if bytes > HEADERS_MAX {
        return Err(Failure::Headers { bytes, limit: HEADERS_MAX });
    }
    Ok(kept)
}

/// Headers of an answer, whichever it is, as HTTP has them.
pub(crate) fn shown(headers: Headers) -> HeaderMap {
    let parsed = headers
        .into_iter()
        .filter_map(|(name, value)| Some((name.parse::<HeaderName>().ok()?, HeaderValue::from_bytes(&value).ok()?)));
    let mut shown = HeaderMap::new();
    for (name, value) in parsed {
        shown.append(name, value);
    }
    shown
}

/// How long the caller waits.
pub(crate) fn timeout(headers: &HeaderMap) -> Result<Duration, Failure> {
    let Some(value) = headers.get(TIMEOUT_HEADER) else { return Ok(grpc_timeout(headers).unwrap_or(TIMEOUT_DEFAULT)) };
    let text = value.to_str().unwrap_or_default();
    let bad = || Failure::Header {
        header: TIMEOUT_HEADER,
        value: text.chars().take(100).collect(),
        problem: "is no number of milliseconds from 1 to 600000",
    };
    let milliseconds: u64 = text.parse().map_err(|_| bad())?;
    if (1..=REQUEST_LONGEST_MS).contains(&milliseconds) { Ok(Duration::from_millis(milliseconds)) } else { Err(bad()) }
}

/// `grpc-timeout`: at most eight digits and a unit.
fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = digits.parse().ok()?;
    let timeout = match unit {
        "H" => Duration::from_secs(number.saturating_mul(3_600)),
        "M" => Duration::from_secs(number.saturating_mul(60)),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    };
    Some(timeout.min(Duration::from_millis(REQUEST_LONGEST_MS)))
}

/// What became of a question about readiness.
pub(crate) enum Readiness {
    Ready,
    /// The first step that is not.
    NotReady(String),
}

impl Gateway {
    /// All steps of the pipeline are ready, by their own account through Envoy (`spec/data-plane.md` §5.7).
    pub(crate) async fn readiness(&self, name: &PipelineName) -> Result<Readiness, Failure> {
        let known = self.pipelines.get(name)?;
        if known.active.is_none() {
            return Ok(Readiness::NotReady(format!("pipeline {name}")));
        }
        for step in &known.steps {
            let request = http::Request::get(format!("http://{}/v2/models/{step}/ready", self.envoy))
                .header(domain::header::MODEL, step.as_str())
                .body(Full::new(Bytes::new()))
                .map_err(|error| Failure::Steps(error.to_string()))?;
            let answer = self.http.request(request).await.map_err(|error| Failure::Steps(error.to_string()))?;
            if !answer.status().is_success() {
                return Ok(Readiness::NotReady(format!("step {step}")));
            }
        }
        Ok(Readiness::Ready)
    }
}
