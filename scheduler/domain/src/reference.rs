//! How pipelines name data: the inputs or outputs of a step, of the pipeline itself or of another pipeline.
//!
//! Grammar: `spec/user-surface.md` §1.2; defaults: `spec/control-plane.md` §2.16.

use crate::{ModelName, PipelineName};

/// Longest accepted name of a tensor.
const TENSOR_LONGEST: usize = 1_000;

/// Which end of a model or a pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    /// What goes in.
    Inputs,
    /// What comes out.
    Outputs,
}

impl End {
    /// `inputs` or `outputs`, as in references and in names of topics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            End::Inputs => "inputs",
            End::Outputs => "outputs",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [End::Inputs, End::Outputs].into_iter().find(|end| end.as_str() == text)
    }
}

/// Whose data a reference names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// The pipeline that the reference stands in.
    Own,
    /// A step of that pipeline.
    Step(ModelName),
    /// Another pipeline.
    Pipeline(PipelineName),
    /// A step of another pipeline.
    StepOf(PipelineName, ModelName),
}

/// Data of one end, whole or one tensor of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// Whose data.
    pub origin: Origin,
    /// Which end of it.
    pub end: End,
    /// The one tensor that is meant; `None` is all of them.
    pub tensor: Option<String>,
}

/// Why a text is no reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no reference: {problem}")]
pub struct BadReference {
    text: String,
    problem: String,
}

impl Reference {
    /// A reference inside the pipeline `own`: `<step>`, `<step>.inputs|outputs[.<tensor>]`, or the same with the
    /// pipeline's name. A bare step is its outputs, the bare pipeline its inputs.
    pub fn inside(text: &str, own: &PipelineName) -> Result<Self, BadReference> {
        let bad = |problem: String| BadReference { text: shown(text), problem };
        let parts = split(text, 3).map_err(bad)?;
        let origin = if parts[0] == own.as_str() {
            Origin::Own
        } else {
            Origin::Step(ModelName::parse(parts[0]).map_err(|error| bad(error.to_string()))?)
        };
        let end = match parts.get(1) {
            Some(word) => End::parse(word).ok_or_else(|| bad(not_an_end(word)))?,
            None if origin == Origin::Own => End::Inputs,
            None => End::Outputs,
        };
        Ok(Self { origin, end, tensor: parts.get(2).map(|tensor| (*tensor).to_owned()) })
    }

    /// A reference to another pipeline: `<pipeline>[.inputs|outputs[.<tensor>]]` or
    /// `<pipeline>.step.<step>[.inputs|outputs[.<tensor>]]`. Without an end the outputs are meant.
    pub fn outside(text: &str) -> Result<Self, BadReference> {
        let bad = |problem: String| BadReference { text: shown(text), problem };
        let parts = split(text, 5).map_err(bad)?;
        let pipeline = PipelineName::parse(parts[0]).map_err(|error| bad(error.to_string()))?;
        let (origin, rest) = match parts.get(1) {
            Some(&"step") => {
                let Some(step) = parts.get(2) else { return Err(bad("the name of a step must follow `step`".into())) };
                let step = ModelName::parse(step).map_err(|error| bad(error.to_string()))?;
                (Origin::StepOf(pipeline, step), &parts[3..])
            }
            _ => (Origin::Pipeline(pipeline), &parts[1..]),
        };
        let end = match rest.first() {
            Some(word) => End::parse(word).ok_or_else(|| bad(not_an_end(word)))?,
            None => End::Outputs,
        };
        if rest.len() > 2 {
            return Err(bad("it has too many parts after the name of the tensor".into()));
        }
        Ok(Self { origin, end, tensor: rest.get(1).map(|tensor| (*tensor).to_owned()) })
    }

    /// The reference in full, as the pipeline `own` would write it.
    #[must_use]
    pub fn full(&self, own: &PipelineName) -> String {
        let origin = match &self.origin {
            Origin::Own => own.to_string(),
            Origin::Step(step) => step.to_string(),
            Origin::Pipeline(pipeline) => pipeline.to_string(),
            Origin::StepOf(pipeline, step) => format!("{pipeline}.step.{step}"),
        };
        match &self.tensor {
            Some(tensor) => format!("{origin}.{}.{tensor}", self.end.as_str()),
            None => format!("{origin}.{}", self.end.as_str()),
        }
    }
}

fn shown(text: &str) -> String {
    text.chars().take(TENSOR_LONGEST).collect()
}

fn not_an_end(word: &str) -> String {
    format!("{:?} stands where `inputs` or `outputs` must stand", shown(word))
}

/// The dotted parts, none of them blank.
fn split(text: &str, most: usize) -> Result<Vec<&str>, String> {
    if text.trim().is_empty() {
        return Err("it is blank".into());
    }
    if text.len() > 4 * TENSOR_LONGEST {
        return Err("it is too long".into());
    }
    let parts: Vec<&str> = text.split('.').collect();
    if parts.iter().any(|part| part.trim().is_empty()) {
        return Err("a part between its dots is blank".into());
    }
    if parts.len() > most {
        return Err(format!("it has {} dotted parts, at most {most} are possible", parts.len()));
    }
    if parts.last().is_some_and(|last| last.len() > TENSOR_LONGEST) {
        return Err(format!("the name of its tensor has more than {TENSOR_LONGEST} bytes"));
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::Reference;
    use crate::PipelineName;

    fn own() -> PipelineName {
        PipelineName::parse("p").expect("a name")
    }

    #[test]
    fn references_inside_are_completed() {
        let cases = [
            ("a", "a.outputs"),
            ("p", "p.inputs"),
            ("a.inputs", "a.inputs"),
            ("a.outputs.T_0", "a.outputs.T_0"),
            ("p.inputs.X", "p.inputs.X"),
        ];
        for (text, full) in cases {
            let reference = Reference::inside(text, &own()).expect("a reference");
            assert_eq!(reference.full(&own()), full);
        }
        for bad in ["", " ", ".a", "a.", "a.foo", "a..x", "a.step.b", "a.outputs.x.y", "A", "a b.outputs"] {
            let error = Reference::inside(bad, &own()).expect_err("no reference").to_string();
            assert!(error.starts_with(&format!("{bad:?} is no reference: ")), "{error}");
        }
    }

    #[test]
    fn references_outside_are_completed() {
        let cases = [
            ("q", "q.outputs"),
            ("q.inputs", "q.inputs"),
            ("q.outputs.T", "q.outputs.T"),
            ("q.step.s", "q.step.s.outputs"),
            ("q.step.s.inputs", "q.step.s.inputs"),
            ("q.step.s.outputs.T", "q.step.s.outputs.T"),
        ];
        for (text, full) in cases {
            let reference = Reference::outside(text).expect("a reference");
            assert_eq!(reference.full(&own()), full);
        }
        for bad in
            ["", ".q", "q.", "q.foo", "q.step", "q.step.s.foo", "q.outputs.a.b", "q.step.s.outputs.a.b", "q.step."]
        {
            assert!(Reference::outside(bad).is_err(), "{bad}");
        }
    }
}
