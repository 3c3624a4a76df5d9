//! What a gateway says of a request whose caller has left, or has its answer while a cycle goes on: nobody waits for what
//! its pipeline still does.
//!
//! The same as a deadline that is over (`spec/delivery.md` §4); other pipelines that its records reach are not concerned.

use bytes::Bytes;
use domain::PipelineName;

use crate::envelope::{Headers, name, text};
use crate::slot::{Root, parse_hex};

/// A request in its pipeline.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    /// What all its records have in common.
    pub root: Root,
    /// The pipeline that was to answer.
    pub pipeline: PipelineName,
}

/// What is not needed any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// Of which request.
    pub request: Request,
    /// From which return of its cycle on: what comes before, a step beside the answer, has its effect.
    pub from: u32,
}

impl Left {
    /// The headers of the record that says so.
    #[must_use]
    pub fn write(&self) -> Headers {
        let header = |name: &str, value: String| (name.to_owned(), Bytes::from(value));
        vec![
            header(name::PIPELINE, self.request.pipeline.to_string()),
            header(name::ROOT, self.request.root.to_string()),
            header(name::FROM, self.from.to_string()),
        ]
    }

    /// What such a record says.
    #[must_use]
    pub fn read(headers: &Headers) -> Option<Self> {
        let pipeline = PipelineName::parse(text(headers, name::PIPELINE)?).ok()?;
        let root = Root(parse_hex(text(headers, name::ROOT)?)?);
        Some(Self { request: Request { root, pipeline }, from: text(headers, name::FROM)?.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use domain::PipelineName;

    use super::{Left, Request};
    use crate::slot::Root;

    #[test]
    fn what_is_written_is_read() {
        let request = Request { root: Root(7), pipeline: PipelineName::parse("p").expect("a name") };
        let left = Left { request, from: 3 };
        let headers = left.write();
        assert_eq!(Left::read(&headers), Some(left));
        for missing in 0..headers.len() {
            let mut headers = headers.clone();
            headers.remove(missing);
            assert_eq!(Left::read(&headers), None);
        }
    }
}
