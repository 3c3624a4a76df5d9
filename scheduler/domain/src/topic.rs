//! Names of topics, made here and nowhere else (`spec/data-plane.md` §4.1).

use std::fmt;
use std::sync::Arc;

use crate::{End, ModelName, Origin, PipelineName, Reference};

/// What all names of topics begin with unless something else is set.
pub const TOPIC_PREFIX: &str = "seldon";

/// Most characters of a topic's name that Kafka takes.
pub const TOPIC_LONGEST: usize = 249;

/// What all topics of one installation begin with: `<prefix>.<namespace>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Topics {
    prefix: Arc<str>,
    namespace: Arc<str>,
}

/// Why a text cannot begin the names of topics.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?} must match [A-Za-z0-9._-]+")]
pub struct BadTopicPart {
    what: &'static str,
    text: String,
}

/// What a topic is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TopicOf {
    /// One end of a model.
    Model(ModelName, End),
    /// One end of a pipeline.
    Pipeline(PipelineName, End),
    /// The errors of all models and pipelines.
    Errors,
    /// Requests whose callers have left.
    Left,
}

impl Topics {
    /// Names that begin with this prefix and namespace.
    pub fn new(prefix: &str, namespace: &str) -> Result<Self, BadTopicPart> {
        let check = |what, text: &str| {
            let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
            let fine = !text.is_empty() && text.bytes().all(fits);
            if fine { Ok(()) } else { Err(BadTopicPart { what, text: text.chars().take(TOPIC_LONGEST).collect() }) }
        };
        check("topicPrefix", prefix)?;
        check("namespace", namespace)?;
        Ok(Self { prefix: prefix.into(), namespace: namespace.into() })
    }

    /// The name of a topic.
    #[must_use]
    pub fn name(&self, of: &TopicOf) -> String {
        format!("{}.{}.{of}", self.prefix, self.namespace)
    }

    /// The inverse of [`Topics::name`]; `None` for a topic that is not one of ours.
    #[must_use]
    pub fn parse(&self, topic: &str) -> Option<TopicOf> {
        let rest = topic.strip_prefix(&*self.prefix)?.strip_prefix('.')?;
        let rest = rest.strip_prefix(&*self.namespace)?.strip_prefix('.')?;
        let parts: Vec<&str> = rest.split('.').collect();
        let end = |text: &str| [End::Inputs, End::Outputs].into_iter().find(|end| end.as_str() == text);
        let of = match parts[..] {
            ["model", name, word] => TopicOf::Model(ModelName::parse(name).ok()?, end(word)?),
            ["pipeline", name, word] => TopicOf::Pipeline(PipelineName::parse(name).ok()?, end(word)?),
            ["errors", "errors"] => TopicOf::Errors,
            ["requests", "left"] => TopicOf::Left,
            _ => return None,
        };
        Some(of)
    }
}

impl Default for Topics {
    fn default() -> Self {
        Self { prefix: TOPIC_PREFIX.into(), namespace: "default".into() }
    }
}

impl TopicOf {
    /// Where the data that a reference in the pipeline `own` names are found.
    #[must_use]
    pub fn of(reference: &Reference, own: &PipelineName) -> Self {
        match &reference.origin {
            Origin::Own => TopicOf::Pipeline(own.clone(), reference.end),
            Origin::Pipeline(pipeline) => TopicOf::Pipeline(pipeline.clone(), reference.end),
            Origin::Step(step) | Origin::StepOf(_, step) => TopicOf::Model(step.clone(), reference.end),
        }
    }
}

impl fmt::Display for TopicOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TopicOf::Model(name, end) => write!(f, "model.{name}.{}", end.as_str()),
            TopicOf::Pipeline(name, end) => write!(f, "pipeline.{name}.{}", end.as_str()),
            TopicOf::Errors => f.write_str("errors.errors"),
            TopicOf::Left => f.write_str("requests.left"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{TopicOf, Topics};
    use crate::{End, ModelName, PipelineName};

    #[test]
    fn names_of_topics_go_there_and_back() {
        let (model, pipeline) = (ModelName::parse("m").expect("a name"), PipelineName::parse("p").expect("a name"));
        let topics = Topics::new("a.b", "ns").expect("a prefix");
        let cases = [
            (TopicOf::Model(model, End::Inputs), "a.b.ns.model.m.inputs"),
            (TopicOf::Pipeline(pipeline, End::Outputs), "a.b.ns.pipeline.p.outputs"),
            (TopicOf::Errors, "a.b.ns.errors.errors"),
            (TopicOf::Left, "a.b.ns.requests.left"),
        ];
        for (of, name) in cases {
            assert_eq!(topics.name(&of), name);
            assert_eq!(topics.parse(name), Some(of));
        }
        for other in
            ["", "a.b.ns", "a.b.ns.model.m", "a.b.ns.model.m.foo", "a.b.ns.model.m.inputs.x", "a.b.other.errors.errors"]
        {
            assert_eq!(topics.parse(other), None, "{other}");
        }
        assert_eq!(Topics::default().name(&TopicOf::Errors), "seldon.default.errors.errors");
    }

    #[test]
    fn a_prefix_with_another_character_is_refused() {
        for (prefix, namespace) in [("", "ns"), ("a b", "ns"), ("a", "ü"), ("a/b", "ns")] {
            let error = Topics::new(prefix, namespace).expect_err("refused").to_string();
            assert!(error.contains("must match [A-Za-z0-9._-]+"), "{error}");
        }
    }
}
