//! Who may be given a first answer: it is large, so a server gives few at a time.
//!
//! Not here: what a first answer is (`session`).

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::ads::Shared;
use crate::time::Time;

/// Few streams at a time are in their first answers, which are large.
pub(crate) enum Admission {
    None,
    /// Others are; it is told when it may.
    Waiting,
    /// It is, and lets another one go on when this is dropped, or at this time, whatever its client reads.
    Held {
        _over: oneshot::Sender<()>,
        until: Time,
    },
    /// Its client takes long; others go on, and it does, too.
    Over,
}

impl Admission {
    pub fn advance(&mut self, is_first: bool, shared: &Shared, now: Time) {
        *self = match std::mem::replace(self, Admission::None) {
            _ if !is_first => Admission::None,
            Admission::Held { until, .. } if until <= now => Admission::Over,
            Admission::None | Admission::Waiting => match Arc::clone(&shared.admission).try_acquire_owned() {
                Ok(permit) => Admission::held(permit, shared),
                Err(_) => Admission::Waiting,
            },
            as_it_is @ (Admission::Held { .. } | Admission::Over) => as_it_is,
        };
    }

    pub fn held(permit: OwnedSemaphorePermit, shared: &Shared) -> Self {
        let until = shared.now().after(shared.config.first_answer_within.min(shared.config.lag_after));
        let (over, ended) = oneshot::channel::<()>();
        let timer = tokio::time::sleep_until(shared.instant(until));
        // A stream whose client does not read is not looked at, and so cannot give it back.
        tokio::spawn(async move {
            tokio::select! {
                () = timer => {}
                _dropped = ended => {}
            }
            drop(permit);
        });
        Admission::Held { _over: over, until }
    }

    pub fn allows(&self) -> bool {
        !matches!(self, Admission::Waiting)
    }
}
