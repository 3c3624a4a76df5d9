//! What travels in the headers of a record (`spec/delivery.md` §2, `spec/data-plane.md` §0.4).

use bytes::Bytes;
use domain::{PipelineName, Time};

use crate::slot::{Branch, Root, Slot, home, parse_hex};

/// Names and values of a record's headers, in order; names may repeat.
pub type Headers = Vec<(String, Bytes)>;

/// Names of headers of records.
pub mod name {
    /// Whose record it is.
    pub const PIPELINE: &str = "pipeline";
    /// Version of that pipeline, decimal.
    pub const VERSION: &str = "x-pipeline-version";
    /// Present on errors: the model or the pipeline that failed.
    pub const ERRORS: &str = "seldon-pipeline-errors";
    /// What a foreign producer says its payload is.
    pub const INFER_TYPE: &str = "seldon-infer-type";
    /// Identity of the request, free text.
    pub const REQUEST_ID: &str = domain::header::REQUEST_ID;
    /// The routes that it took, in order.
    pub const ROUTE: &str = domain::header::ROUTE;
    /// What all records of a request have in common, 32 hexadecimal digits.
    pub const ROOT: &str = "switchyard-root";
    /// Identity of the emission, 32 hexadecimal digits: foreign readers drop repeats by it.
    pub const SLOT: &str = "switchyard-slot";
    /// Which of several records of a root, `<count>[.<side>…]`.
    pub const BRANCH: &str = "switchyard-branch";
    /// When nobody waits any more, in milliseconds since the epoch.
    pub const DEADLINE: &str = "switchyard-deadline";
    /// Hash of the topic and partition that the record was written for.
    pub const HOME: &str = "switchyard-home";
    /// On inputs of models: `<rows>[/<milliseconds>]` to be called together.
    pub const BATCH: &str = "switchyard-batch";
    /// On errors: the gRPC code, decimal.
    pub const ERROR_CODE: &str = "switchyard-error-code";
    /// On errors: the HTTP status, decimal.
    pub const ERROR_STATUS: &str = "switchyard-error-status";
    /// On errors: the step that failed.
    pub const ERROR_STEP: &str = "switchyard-error-step";
    /// On words about callers that have left: the first return of a cycle that is not needed, decimal.
    pub const FROM: &str = "switchyard-from";
    /// On records that were joined from several pipelines: slots of all sources.
    pub const SOURCES: &str = "switchyard-sources";

    /// Ours, and those that MLServer's drift detectors leave behind: not passed on.
    pub(crate) const DROPPED: [&str; 14] = [
        PIPELINE,
        VERSION,
        INFER_TYPE,
        ROOT,
        SLOT,
        BRANCH,
        DEADLINE,
        HOME,
        BATCH,
        ERROR_CODE,
        ERROR_STATUS,
        ERROR_STEP,
        "x-seldon-alibi-type",
        "x-seldon-alibi-method",
    ];
}

/// A record's own words about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// What its request has in common.
    pub root: Root,
    /// Its identity.
    pub slot: Slot,
    /// Which of several.
    pub branch: Branch,
    /// When nobody waits any more; `None`: nobody waits.
    pub deadline: Option<Time>,
    /// Whose it is; `None`: it does not say.
    pub pipeline: Option<PipelineName>,
    /// Version of that pipeline; `None` for a foreign record.
    pub version: Option<u32>,
}

impl Envelope {
    /// What the headers of a record say. One that does not carry all of ours, or was written for another place, is
    /// foreign: it gets an identity by where it is.
    #[must_use]
    pub fn read(headers: &Headers, topic: &str, incarnation: u64, partition: u32, offset: u64) -> Self {
        let pipeline = text(headers, name::PIPELINE).and_then(|name| PipelineName::parse(name).ok());
        let ours = || -> Option<Self> {
            let at_home = u64::from_str_radix(text(headers, name::HOME)?, 16).ok()?;
            (at_home == home(topic, partition)).then_some(())?;
            Some(Self {
                root: Root(parse_hex(text(headers, name::ROOT)?)?),
                slot: Slot(parse_hex(text(headers, name::SLOT)?)?),
                branch: Branch::parse(text(headers, name::BRANCH)?)?,
                deadline: text(headers, name::DEADLINE).and_then(|at| at.parse().ok()).map(Time),
                pipeline: pipeline.clone(),
                version: text(headers, name::VERSION).and_then(|version| version.parse().ok()),
            })
        };
        ours().unwrap_or_else(|| {
            let root = Root::of_foreign(topic, incarnation, partition, offset);
            let (slot, branch) = (Slot::of_entry(root), Branch::default());
            Self { root, slot, branch, deadline: None, pipeline: pipeline.clone(), version: None }
        })
    }

    /// The headers of a record for that topic and partition: what `others` say beside the envelope, then the envelope.
    #[must_use]
    pub fn write(&self, others: Headers, topic: &str, partition: u32) -> Headers {
        let mut headers = others;
        headers.retain(|(name, _)| !name::DROPPED.contains(&name.as_str()));
        let mut put = |name: &str, value: String| headers.push((name.to_owned(), value.into()));
        if let Some(pipeline) = &self.pipeline {
            put(name::PIPELINE, pipeline.to_string());
        }
        if let Some(version) = self.version {
            put(name::VERSION, version.to_string());
        }
        put(name::ROOT, self.root.to_string());
        put(name::SLOT, self.slot.to_string());
        put(name::BRANCH, self.branch.to_string());
        if let Some(deadline) = self.deadline {
            put(name::DEADLINE, deadline.0.to_string());
        }
        put(name::HOME, format!("{:016x}", home(topic, partition)));
        headers
    }

    /// Nobody waits any more, and has not for a second: clocks differ (`spec/delivery.md` §4).
    #[must_use]
    pub fn is_expired(&self, now: Time) -> bool {
        const GRACE_MS: u64 = 1_000;
        self.deadline.is_some_and(|deadline| deadline.after(GRACE_MS) < now)
    }
}

/// The text of the last header of that name.
pub(crate) fn text<'a>(headers: &'a Headers, name: &str) -> Option<&'a str> {
    let (_, value) = headers.iter().rev().find(|(other, _)| other == name)?;
    std::str::from_utf8(value).ok()
}

/// Adds headers that are not there yet with the same value; of others only `x-…`.
pub(crate) fn union(headers: &mut Headers, others: &Headers) {
    for (name, value) in others {
        let is_new = !headers.iter().any(|(at, of)| at == name && of == value);
        if is_new && name.starts_with("x-") && name != name::VERSION {
            headers.push((name.clone(), value.clone()));
        }
    }
}
