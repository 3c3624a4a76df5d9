//! The present.

use std::time::{SystemTime, UNIX_EPOCH};

use domain::Time;

/// Milliseconds since the epoch.
#[must_use]
pub fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
