//! Which pipelines feed which: none may feed itself by a way round, and one whose source is not there says so.

use std::collections::BTreeSet;

use domain::{ModelName, Origin, PipelineName};

use crate::effect::Effect;
use crate::machine::Machine;
use crate::pipeline::Pipeline;

/// The other pipelines that a definition names, with the step if it is one's.
fn sources(definition: &domain::Pipeline) -> impl Iterator<Item = (&PipelineName, Option<&ModelName>)> {
    let lists = definition.input.iter().flat_map(|input| [&input.inputs, &input.triggers]);
    lists.flat_map(|list| &list.sources).filter_map(|reference| match &reference.origin {
        Origin::Pipeline(pipeline) => Some((pipeline, None)),
        Origin::StepOf(pipeline, step) => Some((pipeline, Some(step))),
        Origin::Own | Origin::Step(_) => None,
    })
}

impl Machine {
    /// The way by which records would come back to the pipeline for ever: nobody waits for them, so no deadline ends it.
    pub(crate) fn way_back(&self, definition: &domain::Pipeline) -> Option<String> {
        let mut seen = BTreeSet::new();
        let mut ways: Vec<Vec<PipelineName>> = vec![Vec::new()];
        let mut from = definition;
        while let Some(way) = ways.pop() {
            if let Some(last) = way.last() {
                if *last == definition.name {
                    let way: Vec<&str> = way.iter().rev().chain([last]).map(PipelineName::as_str).collect();
                    // What names itself at once is bad by itself.
                    return (way.len() > 2).then(|| way.join(" → "));
                }
                let latest = self.pipelines.get(last).filter(|pipeline| !pipeline.removed).and_then(Pipeline::latest);
                match latest {
                    Some((_, latest)) if seen.insert(last.clone()) => from = &latest.definition,
                    Some(_) | None => continue,
                }
            }
            ways.extend(sources(from).map(|(source, _)| [&way[..], std::slice::from_ref(source)].concat()));
        }
        None
    }

    /// What of its sources is not there; they may come later.
    pub(crate) fn missing_sources(&self, definition: &domain::Pipeline) -> Option<String> {
        let missing = sources(definition).filter_map(|(source, step)| {
            let latest = self.pipelines.get(source).filter(|pipeline| !pipeline.removed).and_then(Pipeline::latest);
            match (latest, step) {
                (None, _) => Some(format!("pipeline {source}")),
                (Some((_, latest)), Some(step)) if !latest.definition.steps.iter().any(|of| of.model == *step) => {
                    Some(format!("step {step} of pipeline {source}"))
                }
                (Some(_), _) => None,
            }
        });
        let missing: BTreeSet<String> = missing.collect();
        let missing: Vec<String> = missing.into_iter().collect();
        (!missing.is_empty()).then(|| format!("there is no {} to feed it", missing.join(", no ")))
    }

    /// Notes which pipelines feed its latest version.
    pub(crate) fn use_sources(&mut self, pipeline: &Pipeline) {
        for (source, _) in pipeline.latest().into_iter().flat_map(|(_, latest)| sources(&latest.definition)) {
            self.source_users.entry(source.clone()).or_default().insert(pipeline.name.clone());
        }
    }

    pub(crate) fn unuse_sources(&mut self, pipeline: &Pipeline) {
        for (source, _) in pipeline.latest().into_iter().flat_map(|(_, latest)| sources(&latest.definition)) {
            if let Some(users) = self.source_users.get_mut(source) {
                users.remove(&pipeline.name);
                if users.is_empty() {
                    self.source_users.remove(source);
                }
            }
        }
    }

    /// Tells about every pipeline that this one feeds, if there is news.
    pub(crate) fn tell_fed_by(&mut self, source: &PipelineName, out: &mut Vec<Effect>) {
        let names: Vec<PipelineName> = self.source_users.get(source).into_iter().flatten().cloned().collect();
        for name in names {
            self.tell_pipeline(&name, out);
        }
    }
}
