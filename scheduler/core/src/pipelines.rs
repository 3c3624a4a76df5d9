//! What users say about pipelines, which version takes entries, and what they are told.
//!
//! Level-triggered: workers are told what there should be (`workers`), and a pipeline's state is computed from what they
//! say they have applied. A new version takes entries once every engine and model gateway knows it; older ones stay until
//! what entered by them must be over. A change of a model reaches the pipelines that use it by an index.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use domain::{ModelName, PipelineName, PipelineState, Role, RoutableName, Subject, Time};
use xxhash_rust::xxh64::xxh64;

use crate::effect::{Effect, Record, Refusal, Status, declared};
use crate::event::Timer;
use crate::machine::Machine;
use crate::pipeline::{Pipeline, PipelineVersion};
use crate::ring;
use crate::worker::{PipelineOrder, VersionOrder};

/// How long a version that takes no new entries is kept for those that it has, in milliseconds: the longest that a
/// request may take, and the longest window of a join after it.
pub const VERSION_FINISH_MS: u64 = domain::REQUEST_LONGEST_MS + domain::WINDOW_LONGEST_MS;

/// How long after a version was refused by everybody it is tried again, in milliseconds, and how often
/// (`spec/control-plane.md` §2.13).
const RETRY_AFTER_MS: u64 = 60_000;
const RETRIES_MAX: u32 = 10;

/// How far workers are with a pipeline. Not kept on disk: after a restart everybody is told everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The revision that the pipeline last changed at.
    pub(crate) changed: u64,
    /// The revision that each version was announced at.
    announced: BTreeMap<u32, u64>,
    /// How often the latest version was tried again.
    retries: u32,
    /// Envoys may send requests for it.
    routed: bool,
}

impl Machine {
    /// Declares a pipeline, or a new version of it.
    pub(crate) fn apply_pipeline(
        &mut self,
        definition: domain::Pipeline,
        uid: Option<String>,
        now: Time,
        out: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        let way_back = self.way_back(&definition);
        let way_back = way_back.map(|way| format!("input: {way}: what these pipelines answer would go round for ever"));
        let bad: Vec<String> = definition.check().iter().map(ToString::to_string).chain(way_back).collect();
        if !bad.is_empty() {
            return Err(Refusal::BadPipeline(bad.join("; ")));
        }
        let name = definition.name.clone();
        let mut pipeline = match self.pipelines.remove(&name) {
            Some(older) if older.removed && older.terminated_at.is_none() => {
                self.pipelines.insert(name.clone(), older);
                return Err(Refusal::PipelineStillTerminating(name));
            }
            // A removed one that everybody has let go of begins anew.
            Some(older) if !older.removed => older,
            Some(_) | None => {
                self.progress.remove(&name);
                let versions = BTreeMap::new();
                Pipeline { name: name.clone(), versions, removed: false, terminated_at: None }
            }
        };
        self.unuse_parts(&pipeline);
        let generation =
            |definition: &domain::Pipeline| definition.kubernetes.as_ref().map_or(0, |meta| meta.generation);
        let latest = pipeline.latest().map(|(number, version)| (number, version.definition.clone()));
        let same =
            latest.as_ref().filter(|(_, older)| generation(older) > 0 && generation(older) == generation(&definition));
        if let Some((number, older)) = same {
            // What the topics' end should be is no part of what the pipeline does.
            if older.clean_topics_on_delete != definition.clean_topics_on_delete
                && let Some(version) = pipeline.versions.get_mut(number)
            {
                let clean_topics_on_delete = definition.clean_topics_on_delete;
                version.definition = Arc::new(domain::Pipeline { clean_topics_on_delete, ..(**older).clone() });
            }
        } else {
            let number = latest.map_or(1, |(number, _)| number.saturating_add(1));
            let uid = uid.unwrap_or_else(|| unique(&name, number, now));
            // A version that never took entries has nothing to finish.
            pipeline.versions.retain(|_, version| version.active_since.is_some());
            pipeline.versions.insert(
                number,
                PipelineVersion {
                    uid,
                    definition: Arc::new(definition),
                    declared_at: now,
                    active_since: None,
                    active: false,
                    retired_at: None,
                },
            );
            self.progress.entry(name.clone()).or_default().retries = 0;
        }
        self.use_parts(&pipeline);
        out.push(declared(RoutableName::Pipeline(name), true));
        self.put_pipeline(pipeline, out);
        Ok(())
    }

    /// Removes a pipeline; it stays listed for a while.
    pub(crate) fn remove_pipeline(&mut self, name: &PipelineName, out: &mut Vec<Effect>) -> Result<(), Refusal> {
        let Some(pipeline) = self.pipelines.get_mut(name) else { return Err(Refusal::UnknownPipeline(name.clone())) };
        match (pipeline.removed, pipeline.terminated_at) {
            (true, Some(_)) => return Err(Refusal::UnknownPipeline(name.clone())),
            (true, None) => return Err(Refusal::PipelineStillTerminating(name.clone())),
            (false, _) => {}
        }
        let mut pipeline = pipeline.clone();
        pipeline.removed = true;
        pipeline.versions.values_mut().for_each(|version| version.active = false);
        self.unuse_parts(&pipeline);
        out.push(declared(RoutableName::Pipeline(name.clone()), false));
        self.put_pipeline(pipeline, out);
        Ok(())
    }

    /// Keeps a pipeline that changed, and has workers told.
    fn put_pipeline(&mut self, pipeline: Pipeline, out: &mut Vec<Effect>) {
        let name = pipeline.name.clone();
        out.push(Effect::Write(Record::Pipeline(Box::new(pipeline.clone()))));
        self.pipelines.insert(name.clone(), pipeline);
        self.tell_fed_by(&name, out);
        self.changed_pipelines.insert(name);
    }

    /// Notes which models the pipeline's latest version uses, and which pipelines.
    fn use_parts(&mut self, pipeline: &Pipeline) {
        self.use_sources(pipeline);
        let steps = pipeline.latest().into_iter().flat_map(|(_, latest)| &latest.definition.steps);
        for step in steps {
            self.step_users.entry(step.model.clone()).or_default().insert(pipeline.name.clone());
        }
    }

    fn unuse_parts(&mut self, pipeline: &Pipeline) {
        self.unuse_sources(pipeline);
        let steps = pipeline.latest().into_iter().flat_map(|(_, latest)| &latest.definition.steps);
        for step in steps {
            if let Some(users) = self.step_users.get_mut(&step.model) {
                users.remove(&pipeline.name);
                if users.is_empty() {
                    self.step_users.remove(&step.model);
                }
            }
        }
    }

    /// The pipelines that changed were announced at this revision.
    pub(crate) fn announced(&mut self, names: &BTreeSet<PipelineName>, revision: u64) {
        for name in names {
            let Some(pipeline) = self.pipelines.get(name) else { continue };
            let progress = self.progress.entry(name.clone()).or_default();
            progress.changed = revision;
            progress.announced.retain(|number, _| pipeline.versions.contains_key(number));
            for number in pipeline.versions.keys() {
                progress.announced.entry(*number).or_insert(revision);
            }
        }
        if !names.is_empty() {
            self.waiting.entry(revision).or_default().extend(names.iter().cloned());
        }
    }

    /// Pipelines that do not say themselves enter by so many partitions from now on. What has entered goes on.
    pub(crate) fn set_partition_factor(&mut self, factor: Option<u32>) {
        if std::mem::replace(&mut self.settings.partition_factor, factor) != factor {
            let pipelines = self.pipelines.values().filter(|pipeline| !pipeline.removed);
            self.changed_pipelines.extend(pipelines.map(|pipeline| pipeline.name.clone()));
        }
    }

    /// What workers are told about a pipeline.
    pub(crate) fn pipeline_order(&self, pipeline: &Pipeline) -> PipelineOrder {
        let versions = pipeline.versions.iter().filter(|_| !pipeline.removed);
        let definition = pipeline.active().or(pipeline.latest()).map(|(_, version)| &version.definition);
        let factor = definition.and_then(|definition| definition.partition_factor);
        let factor = factor.or(self.settings.partition_factor).unwrap_or(self.settings.partitions);
        PipelineOrder {
            name: pipeline.name.clone(),
            versions: versions
                .map(|(number, version)| VersionOrder {
                    number: *number,
                    uid: version.uid.clone(),
                    definition: version.definition.clone(),
                    active_since: version.active_since,
                    active: version.active,
                })
                .collect(),
            clean_topics: pipeline.removed && pipeline.cleans_topics(),
            entries: ring::entries(&pipeline.name, factor, self.settings.partitions),
        }
    }

    /// Lets a pipeline go on by what workers have applied, and tells if there is news.
    pub(crate) fn settle_pipeline(&mut self, name: &PipelineName, now: Time, out: &mut Vec<Effect>) {
        let Some(pipeline) = self.pipelines.get(name) else { return };
        if pipeline.removed {
            let changed = self.progress.get(name).map_or(0, |progress| progress.changed);
            let gone = Role::ALL.into_iter().all(|role| self.connected(role).all(|worker| worker.applied >= changed));
            if gone && pipeline.terminated_at.is_none() && !self.changed_pipelines.contains(name) {
                let mut pipeline = pipeline.clone();
                pipeline.terminated_at = Some(now);
                let at = now.after(self.settings.terminated_ttl_ms);
                out.push(Effect::Wake(at, Timer::ForgetPipeline(name.clone())));
                out.push(Effect::Write(Record::Pipeline(Box::new(pipeline.clone()))));
                self.pipelines.insert(name.clone(), pipeline);
            }
        } else if let Some((number, latest)) = pipeline.latest() {
            let (state, _) = self.engine_state(pipeline, number);
            if state == PipelineState::Ready && !latest.active && self.is_known_to_model_gateways(name, number) {
                self.activate(name, number, now, out);
            } else if state == PipelineState::Failed {
                self.retry_later(name, number, now, out);
            }
        }
        self.note_gateways(name);
        let names = self.names_of(&Subject::Pipeline(name.clone()));
        self.publish(&names, None, out);
        self.tell_pipeline(name, out);
    }

    /// From now on new entries run under the version; the one before finishes what it has.
    fn activate(&mut self, name: &PipelineName, number: u32, now: Time, out: &mut Vec<Effect>) {
        let Some(pipeline) = self.pipelines.get(name) else { return };
        let mut pipeline = pipeline.clone();
        for (other, version) in &mut pipeline.versions {
            if *other == number {
                version.active = true;
                version.active_since = Some(now);
            } else if version.active {
                version.active = false;
                version.retired_at = Some(now);
                out.push(Effect::Wake(now.after(VERSION_FINISH_MS), Timer::FinishVersion(name.clone(), *other)));
            }
        }
        self.put_pipeline(pipeline, out);
    }

    /// Whoever refused it is asked again after a while: the reason may be gone by then.
    fn retry_later(&mut self, name: &PipelineName, number: u32, now: Time, out: &mut Vec<Effect>) {
        let Some(progress) = self.progress.get_mut(name) else { return };
        if progress.retries < RETRIES_MAX && self.retrying.insert((name.clone(), number)) {
            progress.retries += 1;
            out.push(Effect::Wake(now.after(RETRY_AFTER_MS), Timer::RetryPipeline(name.clone(), number)));
        }
    }

    /// It is time to try a version again that everybody refused.
    pub(crate) fn retry_pipeline(&mut self, name: &PipelineName, number: u32) {
        self.retrying.remove(&(name.clone(), number));
        let Some(pipeline) = self.pipelines.get(name) else { return };
        let is_latest = pipeline.latest().is_some_and(|(latest, _)| latest == number) && !pipeline.removed;
        if is_latest && self.engine_state(pipeline, number).0 == PipelineState::Failed {
            if let Some(progress) = self.progress.get_mut(name) {
                progress.announced.remove(&number);
            }
            self.changed_pipelines.insert(name.clone());
        }
    }

    /// What entered by the version must be over.
    pub(crate) fn finish_version(&mut self, name: &PipelineName, number: u32, now: Time, out: &mut Vec<Effect>) {
        let Some(pipeline) = self.pipelines.get(name) else { return };
        let retired = pipeline.versions.get(&number).and_then(|version| version.retired_at);
        if !pipeline.removed && retired.is_some_and(|at| at.after(VERSION_FINISH_MS) <= now) {
            let mut pipeline = pipeline.clone();
            pipeline.versions.remove(&number);
            self.put_pipeline(pipeline, out);
        }
    }

    /// A removed pipeline has been listed long enough.
    pub(crate) fn forget_pipeline(&mut self, name: &PipelineName, now: Time, out: &mut Vec<Effect>) {
        let ttl = self.settings.terminated_ttl_ms;
        let Some(pipeline) = self.pipelines.get(name) else { return };
        if pipeline.terminated_at.is_some_and(|at| at.after(ttl) <= now) {
            self.pipelines.remove(name);
            self.progress.remove(name);
            self.told_pipelines.remove(name);
            self.table.forget(&RoutableName::Pipeline(name.clone()));
            out.push(Effect::Write(Record::NoPipeline(name.clone())));
        }
    }

    /// Takes in the pipelines of the store.
    pub(crate) fn restore_pipelines(&mut self, pipelines: Vec<Pipeline>, now: Time, out: &mut Vec<Effect>) {
        for pipeline in pipelines {
            let name = pipeline.name.clone();
            if let Some(since) = pipeline.terminated_at {
                let at = since.after(self.settings.terminated_ttl_ms).max(now);
                out.push(Effect::Wake(at, Timer::ForgetPipeline(name.clone())));
            }
            for (number, version) in &pipeline.versions {
                if let Some(at) = version.retired_at {
                    let at = at.after(VERSION_FINISH_MS).max(now);
                    out.push(Effect::Wake(at, Timer::FinishVersion(name.clone(), *number)));
                }
            }
            if !pipeline.removed {
                self.use_parts(&pipeline);
                out.push(declared(RoutableName::Pipeline(name.clone()), true));
            }
            self.pipelines.insert(name, pipeline);
        }
        let names: BTreeSet<PipelineName> = self.pipelines.keys().cloned().collect();
        self.announced(&names, self.revision);
        for name in names {
            let is_active = self.pipelines.get(&name).is_some_and(|pipeline| pipeline.active().is_some());
            if let Some(progress) = self.progress.get_mut(&name) {
                progress.routed = is_active;
            }
            self.publish([&RoutableName::Pipeline(name.clone())], None, out);
            if let Some(status) = self.pipeline_status(&name) {
                self.told_pipelines.insert(name, status);
            }
        }
    }

    /// Tells about every pipeline that uses the model, if there is news.
    pub(crate) fn tell_pipelines_of(&mut self, model: &ModelName, out: &mut Vec<Effect>) {
        let names: Vec<PipelineName> = self.step_users.get(model).into_iter().flatten().cloned().collect();
        for name in names {
            self.tell_pipeline(&name, out);
        }
    }

    /// Tells if there is news.
    pub(crate) fn tell_pipeline(&mut self, name: &PipelineName, out: &mut Vec<Effect>) {
        let Some(status) = self.pipeline_status(name) else { return };
        if self.told_pipelines.get(name) != Some(&status) {
            out.push(Effect::Notify(Status::Pipeline(Box::new(status.clone()))));
            self.told_pipelines.insert(name.clone(), status);
            self.tell_experiments_of(&Subject::Pipeline(name.clone()), out);
        }
    }

    /// The pipeline, if it is known.
    #[must_use]
    pub fn pipeline(&self, name: &PipelineName) -> Option<&Pipeline> {
        self.pipelines.get(name)
    }

    /// Every pipeline that is known, removed ones included while they are listed.
    pub fn pipelines(&self) -> impl Iterator<Item = &Pipeline> {
        self.pipelines.values()
    }

    pub(crate) fn announced_at(&self, name: &PipelineName, number: u32) -> u64 {
        let announced = self.progress.get(name).and_then(|progress| progress.announced.get(&number));
        announced.copied().unwrap_or(u64::MAX)
    }

    fn is_known_to_model_gateways(&self, name: &PipelineName, number: u32) -> bool {
        let announced = self.announced_at(name, number);
        self.ready(Role::ModelGateway).all(|gateway| gateway.applied >= announced)
    }

    /// Requests for the pipeline can be taken: a version takes entries, and every gateway has known one. What has a route
    /// keeps it while a newer version is passed round, and while gateways come back.
    pub(crate) fn takes_requests(&self, pipeline: &Pipeline) -> bool {
        let routed = self.progress.get(&pipeline.name).is_some_and(|progress| progress.routed);
        !pipeline.removed && pipeline.active().is_some() && routed
    }

    /// Notes when every gateway that takes requests knows the version that takes entries.
    fn note_gateways(&mut self, name: &PipelineName) {
        let is_active =
            self.pipelines.get(name).is_some_and(|pipeline| !pipeline.removed && pipeline.active().is_some());
        let changed = self.progress.get(name).map_or(0, |progress| progress.changed);
        let mut gateways = self.ready(Role::PipelineGateway).peekable();
        let known = gateways.peek().is_some() && gateways.all(|gateway| gateway.applied >= changed);
        drop(gateways);
        let is_told = !self.changed_pipelines.contains(name);
        if let Some(progress) = self.progress.get_mut(name) {
            progress.routed = is_active && (progress.routed || (known && is_told));
        }
    }
}

/// An identity in the usual form of 20 characters, made of what no other version shares.
fn unique(name: &PipelineName, number: u32, now: Time) -> String {
    const DIGITS: [char; 32] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j', 'k', 'l',
        'm', 'n', 'o', 'p', 'q', 'r', 's', 't', 'u', 'v',
    ];
    let half = |seed: u64| {
        let hash = xxh64(format!("{name}\0{number}\0{}", now.0).as_bytes(), seed);
        (0..10).map(move |place| DIGITS[((hash >> (5 * place)) & 31) as usize])
    };
    half(0).chain(half(1)).collect()
}
