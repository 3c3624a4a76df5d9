//! When waiting is over: pure functions from a status to a verdict. Asking again and again is the verbs' business.

use messages::scheduler as wire;
use wire::model_status::ModelState;
use wire::pipeline_version_state::PipelineStatus as PipelineState;

use crate::manifest::Named;
use crate::output::status::model_state;
use crate::output::table::one_line;

/// What a status means to somebody who waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Not yet; the text says what is going on.
    Waiting(String),
    /// It has happened; the text says what.
    Done(String),
    /// It will not happen.
    Failed(String),
}

/// Why waiting ended without what was waited for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{what}: {reason}")]
    Failed { what: Named, reason: String },
    #[error("{what}: still waiting after {seconds} s (--timeout-secs): {last}")]
    Timeout { what: Named, seconds: u64, last: String },
}

/// The latest version in a status.
pub(crate) fn latest(status: &wire::ModelStatusResponse) -> Option<&wire::ModelVersionStatus> {
    status.versions.iter().max_by_key(|version| version.version)
}

/// Whether version `wanted` of a model, or a newer one, has been loaded. A model without capacity is waited for, since
/// servers may come; one that failed is not.
pub(crate) fn loaded(wanted: u32, status: Option<&wire::ModelStatusResponse>) -> Verdict {
    let Some(status) = status else { return Verdict::Failed("it has been unloaded".to_owned()) };
    let Some(version) = latest(status).filter(|version| version.version >= wanted) else {
        return Verdict::Waiting(format!("version {wanted} is not known yet"));
    };
    let text = describe(version);
    let state = version.state.as_ref().map_or(0, |state| state.state);
    match ModelState::try_from(state) {
        Ok(ModelState::ModelAvailable | ModelState::ModelScaledDown) => Verdict::Done(text),
        Ok(ModelState::ModelFailed) => Verdict::Failed(text),
        Ok(
            ModelState::ModelTerminating
            | ModelState::ModelTerminated
            | ModelState::ModelTerminateFailed
            | ModelState::ModelTerminate,
        ) => Verdict::Failed(format!("it is being unloaded: {text}")),
        Ok(
            ModelState::Unknown | ModelState::ModelProgressing | ModelState::ScheduleFailed | ModelState::ModelCreate,
        )
        | Err(_) => Verdict::Waiting(text),
    }
}

/// Whether a loaded model answers requests: not one that was scaled to nothing.
pub(crate) fn takes_requests(status: &wire::ModelStatusResponse) -> bool {
    let state = latest(status).and_then(|version| version.state.as_ref()).map_or(0, |state| state.state);
    ModelState::try_from(state) == Ok(ModelState::ModelAvailable)
}

/// Whether a model is gone; `None` = the scheduler does not know it (any more).
pub(crate) fn unloaded(status: Option<&wire::ModelStatusResponse>) -> Verdict {
    let Some(status) = status else { return Verdict::Done("unloaded".to_owned()) };
    let Some(version) = latest(status) else { return Verdict::Done("unloaded".to_owned()) };
    let text = describe(version);
    let state = version.state.as_ref().map_or(0, |state| state.state);
    match ModelState::try_from(state) {
        Ok(ModelState::ModelTerminated) => Verdict::Done("unloaded".to_owned()),
        Ok(ModelState::ModelTerminateFailed) => Verdict::Failed(text),
        _ if !status.deleted => Verdict::Failed(format!("it has been loaded again: {text}")),
        _ => Verdict::Waiting(text),
    }
}

/// Whether a server has `wanted` replicas; `None` = the scheduler does not know it.
pub(crate) fn scaled(wanted: u32, status: Option<&wire::ServerStatusResponse>) -> Verdict {
    let available = status.map_or(0, |status| status.available_replicas);
    let text = format!("{available} of {wanted} replicas are available");
    if i64::from(available) == i64::from(wanted) { Verdict::Done(text) } else { Verdict::Waiting(text) }
}

/// Whether the latest version of a model is in a state.
pub(crate) fn in_state(wanted: ModelState, status: &wire::ModelStatusResponse) -> Verdict {
    let Some(version) = latest(status) else { return Verdict::Waiting("no version is known yet".to_owned()) };
    let text = describe(version);
    match version.state.as_ref() {
        Some(state) if state.state == wanted as i32 => Verdict::Done(text),
        Some(_) | None => Verdict::Waiting(text),
    }
}

/// The latest version in the status of a pipeline.
pub(crate) fn latest_pipeline(status: &wire::PipelineStatusResponse) -> Option<&wire::PipelineVersionState> {
    let states = status.versions.iter().filter_map(|version| version.state.as_ref());
    states.max_by_key(|state| state.pipeline_version)
}

/// Whether version `wanted` of a pipeline, or a newer one, answers requests. Workers and models that are missing are waited
/// for, since they may come; a version that all of them refused is not, although the scheduler will ask them again.
pub(crate) fn pipeline_ready(wanted: u32, status: Option<&wire::PipelineStatusResponse>) -> Verdict {
    let Some(status) = status else { return Verdict::Failed("it has been unloaded".to_owned()) };
    let Some(state) = latest_pipeline(status).filter(|state| state.pipeline_version >= wanted) else {
        return Verdict::Waiting(format!("version {wanted} is not known yet"));
    };
    let text = describe_pipeline(state);
    match (state.status(), state.pipeline_gw_status()) {
        (PipelineState::PipelineReady, PipelineState::PipelineReady) if state.models_ready => Verdict::Done(text),
        (PipelineState::PipelineFailed, _) | (_, PipelineState::PipelineFailed) => Verdict::Failed(text),
        (PipelineState::PipelineTerminating | PipelineState::PipelineTerminated, _) => {
            Verdict::Failed(format!("it is being unloaded: {text}"))
        }
        _ => Verdict::Waiting(text),
    }
}

/// Whether the latest version of a pipeline is in a state on the engines' side.
pub(crate) fn pipeline_in_state(wanted: PipelineState, status: &wire::PipelineStatusResponse) -> Verdict {
    let Some(state) = latest_pipeline(status) else { return Verdict::Waiting("no version is known yet".to_owned()) };
    let text = describe_pipeline(state);
    if state.status() == wanted { Verdict::Done(text) } else { Verdict::Waiting(text) }
}

/// Whether a pipeline is gone; `None` = the scheduler does not know it (any more).
pub(crate) fn pipeline_gone(status: Option<&wire::PipelineStatusResponse>) -> Verdict {
    match status.and_then(latest_pipeline) {
        None => Verdict::Done("unloaded".to_owned()),
        Some(state) => match state.status() {
            PipelineState::PipelineTerminated => Verdict::Done("unloaded".to_owned()),
            PipelineState::PipelineTerminating => Verdict::Waiting(describe_pipeline(state)),
            _ => Verdict::Failed(format!("it has been loaded again: {}", describe_pipeline(state))),
        },
    }
}

/// A version of a pipeline in one line.
pub(crate) fn describe_pipeline(state: &wire::PipelineVersionState) -> String {
    let names = [state.status().as_str_name(), state.pipeline_gw_status().as_str_name()];
    let reasons = [&state.reason, &state.pipeline_gw_reason].into_iter().filter(|reason| !reason.is_empty());
    let reasons: Vec<&str> = reasons.map(String::as_str).collect();
    let why = if reasons.is_empty() { String::new() } else { format!(": {}", reasons.join("; ")) };
    let models = if state.models_ready { "" } else { ", not all of its models are ready" };
    let version = state.pipeline_version;
    one_line(&format!("version {version} is {} (gateways: {}){models}{why}", names[0], names[1]))
}

/// Whether traffic is split as an experiment says. One without its candidates is waited for, since they may come.
pub(crate) fn active(status: &wire::ExperimentStatusResponse) -> Verdict {
    let is = if status.active { "active" } else { "not active" };
    let why =
        if status.status_description.is_empty() { String::new() } else { format!(": {}", status.status_description) };
    let text = one_line(&format!("{is}{why}"));
    if status.active { Verdict::Done(text) } else { Verdict::Waiting(text) }
}

/// A version of a model in one line.
pub(crate) fn describe(version: &wire::ModelVersionStatus) -> String {
    let state = version.state.clone().unwrap_or_default();
    let name = model_state(state.state).map_or_else(|| format!("in state {}", state.state), str::to_owned);
    let server = if version.server_name.is_empty() { String::new() } else { format!(" on {}", version.server_name) };
    let reason = if state.reason.is_empty() { String::new() } else { format!(": {}", state.reason) };
    one_line(&format!("version {} is {name}{server}{reason}", version.version))
}

#[cfg(test)]
mod tests {
    use messages::scheduler as wire;
    use wire::model_status::ModelState;
    use wire::pipeline_version_state::PipelineStatus as PipelineState;

    use super::{
        Verdict, active, in_state, loaded, pipeline_gone, pipeline_in_state, pipeline_ready, scaled, takes_requests,
        unloaded,
    };

    /// A model whose version `number` has this state, and whose older version still serves.
    fn status(number: u32, state: i32, deleted: bool) -> wire::ModelStatusResponse {
        let version = |version, state, reason: &str| wire::ModelVersionStatus {
            version,
            server_name: "onnx".to_owned(),
            state: Some(wire::ModelStatus { state, reason: reason.to_owned(), ..Default::default() }),
            ..Default::default()
        };
        let available = ModelState::ModelAvailable as i32;
        let versions = vec![version(number, state, "why"), version(number - 1, available, "")];
        wire::ModelStatusResponse { model_name: "iris".to_owned(), versions, deleted, ..Default::default() }
    }

    const STATES: [ModelState; 11] = [
        ModelState::Unknown,
        ModelState::ModelProgressing,
        ModelState::ModelAvailable,
        ModelState::ModelFailed,
        ModelState::ModelTerminating,
        ModelState::ModelTerminated,
        ModelState::ModelTerminateFailed,
        ModelState::ScheduleFailed,
        ModelState::ModelScaledDown,
        ModelState::ModelCreate,
        ModelState::ModelTerminate,
    ];

    /// The states for which `verdict` says so, in the order of their numbers.
    fn states(verdict: impl Fn(ModelState) -> Verdict, expected: fn(&Verdict) -> bool) -> Vec<ModelState> {
        STATES.into_iter().filter(|state| expected(&verdict(*state))).collect()
    }

    #[test]
    fn loading_is_over_when_the_wanted_version_serves_sleeps_or_cannot_be() {
        let verdict = |state| loaded(3, Some(&status(3, state as i32, false)));
        assert_eq!(
            states(verdict, |verdict| matches!(verdict, Verdict::Done(_))),
            [ModelState::ModelAvailable, ModelState::ModelScaledDown]
        );
        assert_eq!(
            states(verdict, |verdict| matches!(verdict, Verdict::Waiting(_))),
            [ModelState::Unknown, ModelState::ModelProgressing, ModelState::ScheduleFailed, ModelState::ModelCreate]
        );
        let failed = Verdict::Failed("version 3 is ModelFailed on onnx: why".to_owned());
        assert_eq!(verdict(ModelState::ModelFailed), failed);
        assert!(matches!(loaded(3, Some(&status(3, 77, false))), Verdict::Waiting(text) if text.contains("state 77")));
    }

    #[test]
    fn an_older_version_never_counts_and_a_newer_one_does() {
        let available = ModelState::ModelAvailable as i32;
        assert!(matches!(loaded(4, Some(&status(3, available, false))), Verdict::Waiting(_)));
        assert!(matches!(loaded(2, Some(&status(3, available, false))), Verdict::Done(_)));
        assert!(matches!(loaded(2, Some(&wire::ModelStatusResponse::default())), Verdict::Waiting(_)));
        assert!(matches!(loaded(2, None), Verdict::Failed(_)));
    }

    #[test]
    fn a_model_scaled_to_nothing_takes_no_requests() {
        assert!(takes_requests(&status(3, ModelState::ModelAvailable as i32, false)));
        assert!(!takes_requests(&status(3, ModelState::ModelScaledDown as i32, false)));
    }

    #[test]
    fn unloading_is_over_when_nothing_is_left_or_somebody_wants_it_again() {
        let verdict = |state| unloaded(Some(&status(3, state as i32, true)));
        assert_eq!(states(verdict, |verdict| matches!(verdict, Verdict::Done(_))), [ModelState::ModelTerminated]);
        assert_eq!(
            states(verdict, |verdict| matches!(verdict, Verdict::Failed(_))),
            [ModelState::ModelTerminateFailed]
        );
        assert!(matches!(unloaded(None), Verdict::Done(_)));
        let again = unloaded(Some(&status(3, ModelState::ModelProgressing as i32, false)));
        assert!(matches!(again, Verdict::Failed(text) if text.contains("loaded again")));
    }

    #[test]
    fn a_state_is_reached_when_the_latest_version_is_in_it() {
        for state in STATES {
            let verdict = |seen| in_state(state, &status(3, seen as i32, false));
            assert_eq!(states(verdict, |verdict| matches!(verdict, Verdict::Done(_))), [state]);
        }
        let empty = wire::ModelStatusResponse::default();
        assert!(matches!(in_state(ModelState::Unknown, &empty), Verdict::Waiting(_)));
    }

    #[test]
    fn an_experiment_is_waited_for_until_it_is_active() {
        let status = |active, text: &str| wire::ExperimentStatusResponse {
            active,
            status_description: text.to_owned(),
            ..Default::default()
        };
        assert_eq!(active(&status(true, "")), Verdict::Done("active".to_owned()));
        assert_eq!(active(&status(false, "no a")), Verdict::Waiting("not active: no a".to_owned()));
    }

    /// A pipeline whose version `number` has these states with the engines and the gateways.
    fn pipeline(number: u32, engines: PipelineState, gateways: PipelineState) -> wire::PipelineStatusResponse {
        let state = wire::PipelineVersionState {
            pipeline_version: number,
            status: engines.into(),
            pipeline_gw_status: gateways.into(),
            reason: "why".to_owned(),
            models_ready: true,
            ..Default::default()
        };
        let versions = vec![wire::PipelineWithState { state: Some(state), ..Default::default() }];
        wire::PipelineStatusResponse { pipeline_name: "p".to_owned(), versions, ..Default::default() }
    }

    #[test]
    fn a_pipeline_is_waited_for_until_both_sides_have_it_or_one_refuses() {
        let (create, ready, failed) =
            (PipelineState::PipelineCreate, PipelineState::PipelineReady, PipelineState::PipelineFailed);
        let verdict = |engines, gateways| pipeline_ready(3, Some(&pipeline(3, engines, gateways)));
        assert!(matches!(verdict(ready, ready), Verdict::Done(_)));
        assert!(matches!(verdict(ready, create), Verdict::Waiting(_)));
        assert!(matches!(verdict(create, ready), Verdict::Waiting(text) if text.contains("why")));
        assert!(matches!(verdict(failed, create), Verdict::Failed(text) if text.contains("why")));
        assert!(matches!(verdict(ready, failed), Verdict::Failed(_)));
        assert!(matches!(verdict(PipelineState::PipelineTerminating, ready), Verdict::Failed(_)));
        assert!(matches!(pipeline_ready(4, Some(&pipeline(3, ready, ready))), Verdict::Waiting(_)));
        assert!(matches!(pipeline_ready(0, None), Verdict::Failed(_)));
        let mut modelless = pipeline(3, ready, ready);
        modelless.versions[0].state.as_mut().expect("a state").models_ready = false;
        assert!(matches!(pipeline_ready(3, Some(&modelless)), Verdict::Waiting(text) if text.contains("models")));
    }

    #[test]
    fn a_state_of_a_pipeline_is_that_of_its_engines() {
        let (create, ready) = (PipelineState::PipelineCreate, PipelineState::PipelineReady);
        assert!(matches!(pipeline_in_state(ready, &pipeline(1, ready, create)), Verdict::Done(_)));
        assert!(matches!(pipeline_in_state(ready, &pipeline(1, create, ready)), Verdict::Waiting(_)));
        assert!(matches!(pipeline_in_state(ready, &wire::PipelineStatusResponse::default()), Verdict::Waiting(_)));
    }

    #[test]
    fn a_pipeline_is_gone_when_its_last_version_is() {
        let verdict = |state| pipeline_gone(Some(&pipeline(1, state, state)));
        assert!(matches!(verdict(PipelineState::PipelineTerminated), Verdict::Done(_)));
        assert!(matches!(verdict(PipelineState::PipelineTerminating), Verdict::Waiting(_)));
        assert!(matches!(verdict(PipelineState::PipelineReady), Verdict::Failed(_)));
        assert!(matches!(pipeline_gone(None), Verdict::Done(_)));
    }

    #[test]
    fn scaling_is_over_when_exactly_the_wanted_replicas_are_there() {
        let status = |available_replicas| wire::ServerStatusResponse { available_replicas, ..Default::default() };
        assert!(matches!(scaled(2, Some(&status(1))), Verdict::Waiting(_)));
        assert!(matches!(scaled(2, Some(&status(3))), Verdict::Waiting(_)));
        assert!(matches!(scaled(2, Some(&status(2))), Verdict::Done(_)));
        assert!(matches!(scaled(2, Some(&status(-1))), Verdict::Waiting(_)));
        assert!(matches!(scaled(0, None), Verdict::Done(_)));
        assert!(matches!(scaled(1, None), Verdict::Waiting(_)));
    }
}
