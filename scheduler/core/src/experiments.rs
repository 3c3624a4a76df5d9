//! What users say about experiments, and what they are told about them.
//!
//! An experiment has one name of its own and, with a default, splits that model's plain name too. What its names lead to
//! is `routing`'s; a change of a model reaches the experiments that name it by an index, so its cost is the number of
//! those.

use domain::{
    ExperimentName, ExperimentStatus, ModelName, ModelState, PipelineName, PipelineState, RoutableName, Subject, Time,
};

use crate::effect::{Effect, Record, Refusal, Status};
use crate::event::Timer;
use crate::experiment::Experiment;
use crate::machine::Machine;
use crate::routing::Split;

impl Machine {
    /// Starts an experiment, or replaces it.
    pub(crate) fn start_experiment(
        &mut self,
        definition: domain::Experiment,
        out: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        definition.check()?;
        let name = definition.name.clone();
        if let Some(default) = &definition.default
            && let Some(by) = self.defaults.get(default)
            && *by != name
        {
            return Err(Refusal::DefaultTaken { default: default.clone(), by: by.clone() });
        }
        let older = self.experiments.remove(&name);
        if let Some(older) = &older {
            self.unrefer(older);
        }
        let experiment = Experiment::started(definition, older.as_ref());
        self.refer(&experiment);
        self.put_experiment(experiment, out);
        Ok(())
    }

    /// Stops an experiment; it stays listed for a while.
    pub(crate) fn stop_experiment(
        &mut self,
        name: &ExperimentName,
        now: Time,
        out: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        let Some(mut experiment) = self.experiments.remove(name) else {
            return Err(Refusal::UnknownExperiment(name.clone()));
        };
        if !experiment.is_running() {
            self.experiments.insert(name.clone(), experiment);
            return Err(Refusal::StoppedExperiment(name.clone()));
        }
        self.unrefer(&experiment);
        experiment.stop(now);
        out.push(Effect::Wake(now.after(self.settings.terminated_ttl_ms), Timer::ForgetExperiment(name.clone())));
        self.put_experiment(experiment, out);
        Ok(())
    }

    fn put_experiment(&mut self, experiment: Experiment, out: &mut Vec<Effect>) {
        let name = experiment.definition.name.clone();
        let names = experiment.names();
        out.push(Effect::Write(Record::Experiment(Box::new(experiment.clone()))));
        self.experiments.insert(name.clone(), experiment);
        self.publish(&names, None, out);
        // What nothing was ever published for is nothing that Envoys have to let go of.
        self.settle_experiment(&name, out);
        self.told_experiments.remove(&name);
        self.tell_experiment(&name, out);
    }

    /// Notes what the experiment is about.
    pub(crate) fn refer(&mut self, experiment: &Experiment) {
        let name = &experiment.definition.name;
        for subject in experiment.definition.subjects() {
            self.candidates.entry(subject.clone()).or_default().insert(name.clone());
        }
        if let Some(default) = &experiment.definition.default {
            self.defaults.insert(default.clone(), name.clone());
        }
    }

    fn unrefer(&mut self, experiment: &Experiment) {
        let name = &experiment.definition.name;
        for subject in experiment.definition.subjects() {
            if let Some(names) = self.candidates.get_mut(subject) {
                names.remove(name);
                if names.is_empty() {
                    self.candidates.remove(subject);
                }
            }
        }
        if let Some(default) = &experiment.definition.default
            && self.defaults.get(default) == Some(name)
        {
            self.defaults.remove(default);
        }
    }

    /// The names that a change of the subject may change the answer for.
    pub(crate) fn names_of(&self, subject: &Subject) -> Vec<RoutableName> {
        let mut names = vec![RoutableName::from(subject.clone())];
        for name in self.candidates.get(subject).into_iter().flatten() {
            names.push(RoutableName::Experiment(name.clone()));
            let default = self.experiments.get(name).and_then(|experiment| experiment.definition.default.clone());
            names.extend(default.filter(|default| default != subject).map(RoutableName::from));
        }
        names
    }

    /// Tells about every experiment that names the subject, if there is news.
    pub(crate) fn tell_experiments_of(&mut self, subject: &Subject, out: &mut Vec<Effect>) {
        let names: Vec<ExperimentName> = self.candidates.get(subject).into_iter().flatten().cloned().collect();
        for name in names {
            self.tell_experiment(&name, out);
        }
    }

    fn tell_experiment(&mut self, name: &ExperimentName, out: &mut Vec<Effect>) {
        let Some(status) = self.experiment_status(name) else { return };
        if self.told_experiments.get(name) != Some(&status) {
            out.push(Effect::Notify(Status::Experiment(Box::new(status.clone()))));
            self.told_experiments.insert(name.clone(), status);
        }
    }

    /// An Envoy acknowledged or let go of something under the name.
    pub(crate) fn experiment_name_moved(&mut self, name: &RoutableName, out: &mut Vec<Effect>) {
        let subject = match name {
            RoutableName::Experiment(name) => {
                self.experiment_moved(&name.clone(), out);
                return;
            }
            RoutableName::Model(name) => Subject::Model(name.clone()),
            RoutableName::Pipeline(name) => Subject::Pipeline(name.clone()),
        };
        if let Some(name) = self.defaults.get(&subject).cloned() {
            self.experiment_moved(&name, out);
        }
        // The plain name may have been split by an experiment that has stopped or has another default now.
        let former: Vec<ExperimentName> = self.former.get(&subject).into_iter().flatten().cloned().collect();
        for name in former {
            self.settle_experiment(&name, out);
        }
    }

    fn experiment_moved(&mut self, name: &ExperimentName, out: &mut Vec<Effect>) {
        self.settle_experiment(name, out);
        self.tell_experiment(name, out);
    }

    /// Notes when Envoys have let go of what an experiment was before.
    fn settle_experiment(&mut self, name: &ExperimentName, out: &mut Vec<Effect>) {
        let Some(experiment) = self.experiments.get(name) else { return };
        let (former, names) = (experiment.former_defaults.clone(), experiment.names());
        let released = names.iter().all(|name| self.table.get(name).is_none_or(super::table::Published::is_released));
        for subject in former {
            if released {
                if let Some(names) = self.former.get_mut(&subject) {
                    names.remove(name);
                    if names.is_empty() {
                        self.former.remove(&subject);
                    }
                }
            } else {
                self.former.entry(subject).or_default().insert(name.clone());
            }
        }
        let Some(experiment) = self.experiments.get_mut(name).filter(|_| released) else { return };
        if experiment.settled() {
            out.push(Effect::Write(Record::Experiment(Box::new(experiment.clone()))));
        }
    }

    /// A stopped experiment has been listed long enough.
    pub(crate) fn forget_experiment(&mut self, name: &ExperimentName, now: Time, out: &mut Vec<Effect>) {
        let ttl = self.settings.terminated_ttl_ms;
        let expired = |at: Time| at.after(ttl) <= now;
        let Some(experiment) = self.experiments.get(name) else { return };
        if experiment.stopped_at.is_some_and(expired) {
            for subject in experiment.former_defaults.clone() {
                if let Some(names) = self.former.get_mut(&subject) {
                    names.remove(name);
                }
            }
            self.experiments.remove(name);
            self.told_experiments.remove(name);
            self.table.forget(&RoutableName::Experiment(name.clone()));
            out.push(Effect::Write(Record::NoExperiment(name.clone())));
        }
    }

    /// Takes in the experiments of the store; models are there already.
    pub(crate) fn restore_experiments(&mut self, experiments: Vec<Experiment>, now: Time, out: &mut Vec<Effect>) {
        for experiment in experiments {
            let name = experiment.definition.name.clone();
            if let Some(since) = experiment.stopped_at {
                let at = since.after(self.settings.terminated_ttl_ms).max(now);
                out.push(Effect::Wake(at, Timer::ForgetExperiment(name.clone())));
            } else {
                self.refer(&experiment);
            }
            let has_run = experiment.is_running() || !experiment.lingering.is_empty();
            for known in experiment.names().iter().filter(|_| has_run) {
                self.table.may_lead_to(known, models(experiment.may_lead_to()));
            }
            for subject in &experiment.former_defaults {
                self.former.entry(subject.clone()).or_default().insert(name.clone());
            }
            self.experiments.insert(name, experiment);
        }
    }

    /// Publishes what the experiments' names lead to, at the start.
    pub(crate) fn publish_experiments(&mut self, out: &mut Vec<Effect>) {
        let names: Vec<RoutableName> = self.experiments.values().flat_map(Experiment::names).collect();
        self.publish(&names, None, out);
        for experiment in self.experiments.values() {
            let has_run = experiment.is_running() || !experiment.lingering.is_empty();
            for name in experiment.names().iter().filter(|_| has_run) {
                self.table.publish_absence(name, |change| out.push(Effect::Publish(change)));
            }
        }
        let names: Vec<ExperimentName> = self.experiments.keys().cloned().collect();
        for name in names {
            if let Some(status) = self.experiment_status(&name) {
                self.told_experiments.insert(name, status);
            }
        }
    }

    /// The experiment, if it is known.
    #[must_use]
    pub fn experiment(&self, name: &ExperimentName) -> Option<&Experiment> {
        self.experiments.get(name)
    }

    /// Every experiment that is known, stopped ones included while they are listed.
    pub fn experiments(&self) -> impl Iterator<Item = &Experiment> {
        self.experiments.values()
    }

    /// Status of an experiment.
    #[must_use]
    pub fn experiment_status(&self, name: &ExperimentName) -> Option<ExperimentStatus> {
        let experiment = self.experiments.get(name)?;
        let definition = &experiment.definition;
        let candidates_ready = definition.candidates.iter().all(|candidate| self.is_ready(&candidate.subject));
        let mirror_ready = definition.mirror.as_ref().is_none_or(|mirror| self.is_ready(&mirror.subject));
        let (active, description) = self.progress(experiment);
        let kubernetes = definition.kubernetes.clone();
        Some(ExperimentStatus { name: name.clone(), active, candidates_ready, mirror_ready, description, kubernetes })
    }

    /// Whether the Envoys split the traffic as declared, and why, in words.
    fn progress(&self, experiment: &Experiment) -> (bool, String) {
        if !experiment.is_running() {
            return (false, "the experiment is stopped".to_owned());
        }
        let split = self.split(experiment, None);
        if let Some(text) = self.lack(experiment, &split) {
            return (false, text);
        }
        let names = [
            Some(RoutableName::Experiment(experiment.definition.name.clone())),
            experiment.definition.default.clone().map(RoutableName::from),
        ];
        for name in names.into_iter().flatten() {
            let Some(published) = self.table.get(&name) else { continue };
            if let Some(message) = published.rejection() {
                return (false, format!("the route of {name} was refused: {message}"));
            }
            if !published.is_applied() {
                return (false, format!("waiting for every Envoy to apply the route of {name}"));
            }
        }
        (true, "the experiment is active".to_owned())
    }

    /// What keeps an experiment from being routed as declared.
    fn lack(&self, experiment: &Experiment, split: &Split) -> Option<String> {
        let because = |subject: &Subject| match subject {
            Subject::Model(model) => self.why_no_model(model),
            Subject::Pipeline(pipeline) => self.why_no_pipeline(pipeline),
        };
        if !split.missing.is_empty() {
            let missing: Vec<String> = split.missing.iter().map(because).collect();
            let rest = match &experiment.definition.default {
                Some(default) => format!("; the plain name {default} is not split meanwhile"),
                None => String::new(),
            };
            return Some(format!("{}{rest}", missing.join("; ")));
        }
        if let Some(mirror) = &split.missing_mirror {
            return Some(format!("no copies are sent: {}", because(mirror)));
        }
        split.route.is_none().then(|| "there is no candidate that would answer".to_owned())
    }

    /// Its own name can be called: a model is available, or both sides of a pipeline are ready.
    fn is_ready(&self, subject: &Subject) -> bool {
        match subject {
            Subject::Model(model) => self.model_state(model) == Some(ModelState::Available),
            Subject::Pipeline(pipeline) => self.pipeline_status(pipeline).is_some_and(|status| {
                status.state == PipelineState::Ready && status.gateway_state == PipelineState::Ready
            }),
        }
    }

    fn why_no_model(&self, model: &ModelName) -> String {
        match self.model_status(model) {
            None => format!("model {model} is not known"),
            Some(status) if status.deleted => format!("model {model} is removed"),
            Some(status) if status.reason.is_empty() => format!("model {model} has no replica that takes requests"),
            Some(status) => format!("model {model} has no replica that takes requests: {}", status.reason),
        }
    }

    fn why_no_pipeline(&self, pipeline: &PipelineName) -> String {
        match self.pipeline_status(pipeline) {
            None => format!("pipeline {pipeline} is not known"),
            Some(status) if matches!(status.state, PipelineState::Terminating | PipelineState::Terminated) => {
                format!("pipeline {pipeline} is removed")
            }
            Some(status) => {
                let reasons = [status.reason, status.gateway_reason].into_iter().filter(|reason| !reason.is_empty());
                let reasons: Vec<String> = reasons.collect();
                format!("pipeline {pipeline} does not take requests: {}", reasons.join("; "))
            }
        }
    }
}

/// Those of the subjects that are models: only they are unloaded.
fn models<'a>(subjects: impl Iterator<Item = &'a Subject> + 'a) -> impl Iterator<Item = ModelName> + 'a {
    subjects.filter_map(|subject| match subject {
        Subject::Model(model) => Some(model.clone()),
        Subject::Pipeline(_) => None,
    })
}
