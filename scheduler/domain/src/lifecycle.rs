//! How one version gets on and off one replica: one total table.
//!
//! Names and wire numbers are the compatible ones (`spec/control-plane.md` §1.1.1, §2.4). `None` in the table means
//! the input says nothing about an assignment in that state; a report that meets it is stale.

/// How far one version is on one replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lifecycle {
    /// Chosen by placement; the agent has not been told yet.
    LoadRequested,
    /// The agent has been told to load it.
    Loading,
    /// The agent has it; Envoy may not route to it yet.
    Loaded,
    /// The agent could not load it.
    LoadFailed,
    /// Envoy must let go of it first.
    UnloadEnvoyRequested,
    /// Envoy has let go; the agent has not been told yet.
    UnloadRequested,
    /// The agent has been told to unload it.
    Unloading,
    /// Gone.
    Unloaded,
    /// The agent could not unload it.
    UnloadFailed,
    /// Loaded, and every gating Envoy has acknowledged a route to it.
    Available,
    /// Loaded, but Envoy refused its route.
    LoadedUnavailable,
    /// Loaded on a replica that is leaving.
    Draining,
}

/// What can happen to an assignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Input {
    /// Placement wants the version here.
    Place,
    /// Placement no longer wants it here, or the version or the model is being removed.
    Leave,
    /// The replica is being drained.
    Drain,
    /// The pending command was handed to the agent.
    CommandSent,
    /// The agent's stream broke with the command unanswered.
    CommandLost,
    /// The agent reports a finished load.
    ReportLoaded,
    /// The agent reports a failed load.
    ReportLoadFailed,
    /// The agent reports a finished unload.
    ReportUnloaded,
    /// The agent reports a failed unload.
    ReportUnloadFailed,
    /// The gating Envoys acknowledged a route to it.
    RouteApplied,
    /// Envoy refused the route to it.
    RouteRejected,
    /// No Envoy routes to it any more.
    RouteReleased,
    /// The agent subscribed and listed it.
    AgentHas,
    /// The agent subscribed and did not list it.
    AgentLacks,
    /// The replica is lost for good.
    ReplicaGone,
}

impl Lifecycle {
    /// All states, in wire order of their meaning.
    pub const ALL: [Lifecycle; 12] = [
        Lifecycle::LoadRequested,
        Lifecycle::Loading,
        Lifecycle::Loaded,
        Lifecycle::LoadFailed,
        Lifecycle::UnloadEnvoyRequested,
        Lifecycle::UnloadRequested,
        Lifecycle::Unloading,
        Lifecycle::Unloaded,
        Lifecycle::UnloadFailed,
        Lifecycle::Available,
        Lifecycle::LoadedUnavailable,
        Lifecycle::Draining,
    ];

    /// The state after `input`, or `None` when the input does not apply to this state.
    #[must_use]
    pub const fn next(self, input: Input) -> Option<Lifecycle> {
        use Input as I;
        use Lifecycle as L;
        match (self, input) {
            // Wanted here. What is still routed is kept; an unload already decided is followed by a load.
            (L::UnloadRequested | L::Unloading, I::Place) => Some(L::LoadRequested),
            (L::Unloaded | L::LoadFailed | L::UnloadFailed, I::Place) => Some(L::LoadRequested),
            (L::UnloadEnvoyRequested, I::Place) => Some(L::Loaded),
            (L::LoadRequested | L::Loading | L::Loaded | L::Available | L::LoadedUnavailable, I::Place) => None,
            // Placement never chooses a replica that is leaving; one that came back has not left.
            (L::Draining, I::Place) => Some(L::Loaded),

            // Not wanted here. What may be routed leaves by way of Envoy, the rest directly.
            (L::LoadRequested | L::LoadFailed, I::Leave) => Some(L::Unloaded),
            (L::Loading, I::Leave) => Some(L::UnloadRequested),
            (L::Loaded | L::Available | L::LoadedUnavailable | L::Draining, I::Leave) => Some(L::UnloadEnvoyRequested),
            (L::UnloadEnvoyRequested | L::UnloadRequested | L::Unloading | L::Unloaded, I::Leave) => None,
            (L::UnloadFailed, I::Leave) => None,

            // The replica is leaving: what serves goes on until it is replaced.
            (L::Loaded | L::Available | L::LoadedUnavailable, I::Drain) => Some(L::Draining),
            (L::LoadRequested | L::LoadFailed, I::Drain) => Some(L::Unloaded),
            (L::Loading, I::Drain) => Some(L::UnloadRequested),
            (L::UnloadEnvoyRequested | L::UnloadRequested | L::Unloading | L::Unloaded, I::Drain) => None,
            (L::UnloadFailed | L::Draining, I::Drain) => None,

            (L::LoadRequested, I::CommandSent) => Some(L::Loading),
            (L::UnloadRequested, I::CommandSent) => Some(L::Unloading),
            (_, I::CommandSent) => None,

            (L::Loading, I::CommandLost) => Some(L::LoadRequested),
            (L::Unloading, I::CommandLost) => Some(L::UnloadRequested),
            (_, I::CommandLost) => None,

            (L::Loading, I::ReportLoaded) => Some(L::Loaded),
            (_, I::ReportLoaded) => None,
            (L::Loading, I::ReportLoadFailed) => Some(L::LoadFailed),
            (_, I::ReportLoadFailed) => None,
            (L::Unloading, I::ReportUnloaded) => Some(L::Unloaded),
            (_, I::ReportUnloaded) => None,
            (L::Unloading, I::ReportUnloadFailed) => Some(L::UnloadFailed),
            (_, I::ReportUnloadFailed) => None,

            (L::Loaded | L::LoadedUnavailable, I::RouteApplied) => Some(L::Available),
            (_, I::RouteApplied) => None,
            (L::Loaded | L::Available, I::RouteRejected) => Some(L::LoadedUnavailable),
            (_, I::RouteRejected) => None,
            (L::UnloadEnvoyRequested, I::RouteReleased) => Some(L::UnloadRequested),
            (_, I::RouteReleased) => None,

            // What the agent says it holds wins over what we remember.
            (L::LoadRequested | L::Loading, I::AgentHas) => Some(L::Loaded),
            // (a replica that was given up may still be routed to by an Envoy that is away: it leaves by way of Envoy)
            (L::Unloaded | L::LoadFailed | L::UnloadFailed, I::AgentHas) => Some(L::UnloadEnvoyRequested),
            (L::UnloadRequested | L::Unloading, I::AgentHas) => Some(L::UnloadEnvoyRequested),
            (L::Loaded | L::Available | L::LoadedUnavailable | L::Draining, I::AgentHas) => None,
            (L::UnloadEnvoyRequested, I::AgentHas) => None,

            (L::Loading | L::Loaded | L::Available | L::LoadedUnavailable, I::AgentLacks) => Some(L::LoadRequested),
            (L::UnloadEnvoyRequested | L::UnloadRequested | L::Unloading, I::AgentLacks) => Some(L::Unloaded),
            (L::UnloadFailed | L::Draining, I::AgentLacks) => Some(L::Unloaded),
            (L::LoadRequested | L::LoadFailed | L::Unloaded, I::AgentLacks) => None,

            (L::Unloaded, I::ReplicaGone) => None,
            (_, I::ReplicaGone) => Some(L::Unloaded),
        }
    }

    /// The agent holds it and requests may be sent there.
    #[must_use]
    pub const fn is_serving(self) -> bool {
        matches!(self, Lifecycle::Loaded | Lifecycle::Available | Lifecycle::LoadedUnavailable)
    }

    /// It takes, or may take, memory on the replica that the agent has not yet accounted for.
    #[must_use]
    pub const fn is_arriving(self) -> bool {
        matches!(self, Lifecycle::LoadRequested | Lifecycle::Loading)
    }

    /// Placement counts it as being there.
    #[must_use]
    pub const fn is_wanted(self) -> bool {
        self.is_serving() || self.is_arriving()
    }

    /// It is on its way out.
    #[must_use]
    pub const fn is_leaving(self) -> bool {
        matches!(self, Lifecycle::UnloadEnvoyRequested | Lifecycle::UnloadRequested | Lifecycle::Unloading)
    }

    /// Nothing of it is left on the replica and nothing more will happen.
    #[must_use]
    pub const fn is_over(self) -> bool {
        matches!(self, Lifecycle::Unloaded | Lifecycle::UnloadFailed | Lifecycle::LoadFailed)
    }
}

#[cfg(test)]
mod tests {
    use super::{Input, Lifecycle};

    const INPUTS: [Input; 15] = [
        Input::Place,
        Input::Leave,
        Input::Drain,
        Input::CommandSent,
        Input::CommandLost,
        Input::ReportLoaded,
        Input::ReportLoadFailed,
        Input::ReportUnloaded,
        Input::ReportUnloadFailed,
        Input::RouteApplied,
        Input::RouteRejected,
        Input::RouteReleased,
        Input::AgentHas,
        Input::AgentLacks,
        Input::ReplicaGone,
    ];

    /// One line for each pair that changes something; `UPDATE=1` writes it anew.
    #[test]
    fn table() {
        let mut lines = String::new();
        for state in Lifecycle::ALL {
            for input in INPUTS {
                if let Some(next) = state.next(input) {
                    lines.push_str(&format!("{state:?} {input:?} {next:?}\n"));
                }
            }
        }
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/lifecycle_table.txt");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(path, &lines).expect("write the golden table");
        }
        assert_eq!(lines, std::fs::read_to_string(path).expect("read the golden table"), "run with UPDATE=1");
    }

    #[test]
    fn no_input_leaves_a_state_where_it_is_by_naming_it_again() {
        for state in Lifecycle::ALL {
            for input in INPUTS {
                assert_ne!(state.next(input), Some(state), "{state:?} {input:?}");
            }
        }
    }

    #[test]
    fn what_serves_never_leaves_past_envoy() {
        for state in Lifecycle::ALL.into_iter().filter(|state| state.is_serving()) {
            for input in [Input::Leave, Input::Drain] {
                let next = state.next(input);
                assert!(matches!(next, Some(Lifecycle::UnloadEnvoyRequested | Lifecycle::Draining)), "{state:?}");
            }
        }
    }

    #[test]
    fn every_state_belongs_to_one_group() {
        for state in Lifecycle::ALL {
            let groups = [
                state.is_serving(),
                state.is_arriving(),
                state.is_leaving(),
                state.is_over(),
                state == Lifecycle::Draining,
            ];
            assert_eq!(groups.iter().filter(|member| **member).count(), 1, "{state:?}");
        }
    }
}
