//! What the gate says.

use crate::resource::{Key, Revision, Version};

/// What the owner of the table is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Feedback {
    Applied {
        key: Key,
        revision: Revision,
    },
    Released {
        key: Key,
        revision: Revision,
    },
    /// One client refused it; others may have applied it. Comes before `Applied` or `Refused` of the same change, if they come at
    /// all. `version` is `None` for a refused removal.
    Rejected {
        key: Key,
        version: Option<Version>,
        node: String,
        message: String,
    },
    /// Comes instead of `Applied`: of all clients that were waited for some refused it, or something that it requires, and none
    /// applied it. `Applied` and `Released` come after it if one does that comes later.
    Refused {
        key: Key,
        revision: Revision,
    },
    Connected {
        streams: usize,
    },
    /// Somebody asks for a resource that is made on demand ([`crate::OnDemand`]).
    Wanted {
        key: Key,
    },
    /// Nobody asks for it any more.
    Unwanted {
        key: Key,
    },
}
