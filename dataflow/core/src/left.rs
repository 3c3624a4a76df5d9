//! What a gateway says of a request whose caller has left: nobody waits for what its pipeline still does.
//!
//! The same as a deadline that is over (`spec/delivery.md` §4); other pipelines that its records reach are not concerned.

use domain::PipelineName;

use crate::envelope::{Headers, name, text};
use crate::slot::{Root, parse_hex};

/// A request in its pipeline.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Left {
    /// What all its records have in common.
    pub root: Root,
    /// The pipeline that was to answer.
    pub pipeline: PipelineName,
}

impl Left {
    /// The headers of the record that says so.
    #[must_use]
    pub fn write(&self) -> Headers {
        let header = |name: &str, value: String| (name.to_owned(), value.into());
        vec![header(name::PIPELINE, self.pipeline.to_string()), header(name::ROOT, self.root.to_string())]
    }

    /// What such a record says.
    #[must_use]
    pub fn read(headers: &Headers) -> Option<Self> {
        let pipeline = PipelineName::parse(text(headers, name::PIPELINE)?).ok()?;
        Some(Self { root: Root(parse_hex(text(headers, name::ROOT)?)?), pipeline })
    }
}

#[cfg(test)]
mod tests {
    use domain::PipelineName;

    use super::Left;
    use crate::slot::Root;

    #[test]
    fn what_is_written_is_read() {
        let left = Left { root: Root(7), pipeline: PipelineName::parse("p").expect("a name") };
        let headers = left.write();
        assert_eq!(Left::read(&headers), Some(left));
        for missing in 0..headers.len() {
            let mut headers = headers.clone();
            headers.remove(missing);
            assert_eq!(Left::read(&headers), None);
        }
    }
}
