//! The words of a conversation with one client: who it is, what it asks, what it is told.
//!
//! Not here: rules (they are in `session`) and protobufs (they are in `wire`).

use std::fmt;
use std::sync::Arc;

use envoy_types::pb::google::protobuf::Struct;

use crate::resource::{Kind, Name, Resource, Revision, Version};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Sotw,
    Delta,
}

/// Who the client says it is. Several streams may say the same.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Node {
    pub id: String,
    pub cluster: String,
    pub metadata: Struct,
}

type Rewrite = dyn Fn(&Node, &Resource) -> Option<Resource> + Send + Sync;

/// Pure rewrite of single resources for one node, for instance the port of a listener. `None` leaves it as it is.
#[derive(Clone)]
pub struct Tailor {
    pub kinds: Vec<Kind>,
    pub rewrite: Arc<Rewrite>,
}

impl fmt::Debug for Tailor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tailor").field("kinds", &self.kinds).finish_non_exhaustive()
    }
}

/// One counter for each stream over all kinds, so that an ACK under the wrong kind is seen to be stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nonce(pub(crate) u64);

impl Nonce {
    /// A nonce that this server never gave.
    pub const FOREIGN: Nonce = Nonce(u64::MAX);

    /// `None` for the empty text of a request that answers nothing.
    #[must_use]
    pub fn parse(text: &str) -> Option<Nonce> {
        (!text.is_empty()).then(|| text.parse().map_or(Nonce::FOREIGN, Nonce))
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Which state of a kind a response is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VersionInfo {
    /// The latest change of the kind.
    Revision(Revision),
    /// The name that the owner gave that change.
    Given(Arc<str>),
}

impl fmt::Display for VersionInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VersionInfo::Revision(revision) => fmt::Display::fmt(revision, f),
            VersionInfo::Given(name) => f.write_str(name),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub kind: Kind,
    pub nonce: Option<Nonce>,
    /// The response of `nonce` was refused, with this message.
    pub error: Option<String>,
    pub ask: Ask,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    Sotw {
        names: Vec<Name>,
    },
    Delta {
        subscribe: Vec<Name>,
        unsubscribe: Vec<Name>,
        /// What the client has from before. Of a name that is there twice the last counts.
        initial: Vec<(Name, Version)>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub kind: Kind,
    pub nonce: Nonce,
    /// For people, no rule looks at it.
    pub version: VersionInfo,
    /// First answers of several streams share one list.
    pub resources: Arc<[Arc<Resource>]>,
    pub removed: Vec<Name>,
}
