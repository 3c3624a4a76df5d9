//! Whether the inference server serves right now, and the way to it. Written by the supervisor alone, read by everybody.

use std::sync::Arc;

use tokio::sync::watch;

use crate::inference::Control;
use crate::proxy::upstream::Upstream;

/// One life of the inference server, from the moment it holds everything it should.
pub(crate) struct Running {
    /// Numbers the lives.
    pub(crate) life: u64,
    pub(crate) control: Control,
    pub(crate) upstream: Upstream,
}

/// What the supervisor says about the server.
#[derive(Clone)]
pub(crate) enum Phase {
    /// Not there, or not yet holding what it should.
    Down,
    Up(Arc<Running>),
}

impl Phase {
    pub(crate) fn running(&self) -> Option<&Arc<Running>> {
        match self {
            Phase::Down => None,
            Phase::Up(running) => Some(running),
        }
    }

    pub(crate) fn is_life(&self, life: u64) -> bool {
        self.running().is_some_and(|running| running.life == life)
    }
}

/// Waits until the server serves; `None` when the supervisor has ended. Cancel-safe.
pub(crate) async fn wait_up(phase: &mut watch::Receiver<Phase>) -> Option<Arc<Running>> {
    let phase = phase.wait_for(|phase| phase.running().is_some()).await.ok()?;
    phase.running().cloned()
}
