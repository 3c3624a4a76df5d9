//! The nouns of the table: kinds, names, versions and resources.
//!
//! Not here: what a resource means to Envoy. A body is opaque bytes that were encoded once, canonically, by the caller.
//! Invariant: a resource's version is the hash of its body, so it is the same in every process and after every restart.

use std::borrow::{Borrow, Cow};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use xxhash_rust::xxh64::xxh64;

/// The seed of every version. Changing it makes every Envoy fetch everything once more.
const VERSION_SEED: u64 = 0;

/// The seed of versions that are not hashes of bodies.
const FOREIGN_SEED: u64 = 0x66_6f_72_65_69_67_6e;

/// The types of resource this server knows, in the order in which additions are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Cluster,
    Endpoints,
    Listener,
    ScopedRoute,
    Route,
    Secret,
    Runtime,
}

impl Kind {
    pub const COUNT: usize = 7;

    /// Make before break: what is referred to goes before what refers to it.
    pub const ALL: [Kind; Kind::COUNT] =
        [Kind::Cluster, Kind::Endpoints, Kind::Listener, Kind::ScopedRoute, Kind::Route, Kind::Secret, Kind::Runtime];

    /// The `type_url` of its messages on the wire.
    #[must_use]
    pub const fn type_url(self) -> &'static str {
        match self {
            Kind::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Kind::Endpoints => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Kind::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Kind::ScopedRoute => "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration",
            Kind::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            Kind::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            Kind::Runtime => "type.googleapis.com/envoy.service.runtime.v3.Runtime",
        }
    }

    #[must_use]
    pub fn from_type_url(type_url: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.type_url() == type_url)
    }

    /// Whether a first request without names means everything. Clients ask so for the kinds at the roots only; an
    /// empty request for another kind is a client that needs none of it at the moment.
    #[must_use]
    pub const fn is_root(self) -> bool {
        match self {
            Kind::Cluster | Kind::Listener | Kind::ScopedRoute => true,
            Kind::Endpoints | Kind::Route | Kind::Secret | Kind::Runtime => false,
        }
    }

    /// What traffic uses to find a cluster: a cluster may go only after these stopped naming it.
    pub(crate) const REFERRING: [Kind; 3] = [Kind::Listener, Kind::ScopedRoute, Kind::Route];

    /// Whether its removal waits until the stream has caught up on [`Kind::REFERRING`].
    pub(crate) const fn is_referred_to(self) -> bool {
        matches!(self, Kind::Cluster | Kind::Endpoints)
    }

    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

/// The name of a resource. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Name {
    fn from(name: &str) -> Self {
        Name(name.into())
    }
}

impl From<Arc<str>> for Name {
    fn from(name: Arc<str>) -> Self {
        Name(name)
    }
}

impl From<String> for Name {
    fn from(name: String) -> Self {
        Name(name.into())
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// What identifies a resource in the table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub kind: Kind,
    pub name: Name,
}

impl Key {
    pub fn new(kind: Kind, name: impl Into<Name>) -> Self {
        Key { kind, name: name.into() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.kind, self.name)
    }
}

/// The hash of a body; on the wire 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u64);

impl Version {
    #[must_use]
    pub fn of(body: &[u8]) -> Self {
        Version(xxh64(body, VERSION_SEED))
    }

    /// The version of something that must be sent again when `other` changes.
    #[must_use]
    pub fn under(self, other: Version) -> Self {
        Version(xxh64(&self.0.to_be_bytes(), other.0))
    }

    /// A hash of a name with this version.
    pub(crate) fn of_name(self, name: &Name) -> u64 {
        xxh64(name.as_str().as_bytes(), self.0)
    }

    /// The version with that text: what a client lists, or an owner gives.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let is_hash = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f'));
        let hash = if is_hash { u64::from_str_radix(text, 16).ok() } else { None };
        Version(hash.unwrap_or_else(|| xxh64(text.as_bytes(), FOREIGN_SEED)))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A point in the history of the table; every change of a resource has its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub(crate) u64);

impl Revision {
    /// Before the first change.
    pub const ZERO: Revision = Revision(0);

    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Who sees a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visibility {
    /// A wildcard subscription and whoever names it.
    Wildcard,
    /// Only who names it.
    NamedOnly,
}

/// One named message, encoded and hashed once for all streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    kind: Kind,
    name: Name,
    version: Version,
    /// What the owner calls the version, if it is not the hash.
    given: Option<Arc<str>>,
    body: Bytes,
    visibility: Visibility,
    requires: Vec<Key>,
}

impl Resource {
    /// `body` is the encoded message. Its encoding must be canonical (maps in key order): its hash is the version.
    pub fn new(kind: Kind, name: impl Into<Name>, body: Bytes) -> Self {
        let version = Version::of(&body);
        let visibility = Visibility::Wildcard;
        Resource { kind, name: name.into(), version, given: None, body, visibility, requires: Vec::new() }
    }

    /// With a version of the owner's, which says by itself whether two bodies are the same. Endpoints with one are not sent
    /// again to a client that lost its stream between a cluster and its endpoints.
    #[must_use]
    pub fn versioned(self, text: &str) -> Self {
        Resource { version: Version::parse(text), given: Some(text.into()), ..self }
    }

    /// Hides it from wildcard subscriptions.
    #[must_use]
    pub fn named_only(mut self) -> Self {
        self.visibility = Visibility::NamedOnly;
        self
    }

    /// What must be usable on a stream before this is sent there, and must be in the table as long as this is.
    #[must_use]
    pub fn requires(mut self, keys: impl IntoIterator<Item = Key>) -> Self {
        self.requires = keys.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
        self
    }

    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }

    #[must_use]
    pub fn key(&self) -> Key {
        Key { kind: self.kind, name: self.name.clone() }
    }

    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// The version as clients are told it.
    #[must_use]
    pub fn version_text(&self) -> Cow<'_, str> {
        match &self.given {
            Some(given) => Cow::Borrowed(given),
            None => Cow::Owned(self.version.to_string()),
        }
    }

    pub(crate) fn has_own_version(&self) -> bool {
        self.given.is_some()
    }

    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    #[must_use]
    pub fn visibility(&self) -> Visibility {
        self.visibility
    }

    #[must_use]
    pub fn required(&self) -> &[Key] {
        &self.requires
    }

    /// The same resource with the caller's copy of its name, so that there is one.
    #[must_use]
    pub fn sharing(mut self, name: &Name) -> Self {
        if self.name == *name {
            self.name.clone_from(name);
        }
        self
    }

    /// The same resource with the table's copies of what it requires.
    pub(crate) fn requiring<'a>(mut self, known: impl Fn(&Key) -> Option<&'a Key>) -> Self {
        for key in &mut self.requires {
            if let Some(known) = known(key) {
                key.clone_from(known);
            }
        }
        self
    }

    pub(crate) fn with_version(&self, version: Version) -> Self {
        Resource { version, ..self.clone() }
    }

    /// The same resource with another body.
    #[must_use]
    pub fn with_body(&self, body: Bytes) -> Self {
        Resource { version: Version::of(&body), given: None, body, ..self.clone() }
    }
}

/// One change of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Put(Resource),
    Remove(Key),
}

impl Change {
    #[must_use]
    pub fn key(&self) -> Key {
        match self {
            Change::Put(resource) => resource.key(),
            Change::Remove(key) => key.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_back_from_its_text() {
        let version = Version::of(b"body");
        assert_eq!(Version::parse(&version.to_string()), version);
        let texts = ["", "1", "v1", "zzzzzzzzzzzzzzzz", "00000000000000000", "0000000000000000", "000000000000000A"];
        let versions: BTreeSet<Version> = texts.iter().map(|text| Version::parse(text)).collect();
        assert_eq!(versions.len(), texts.len(), "each text is a version of its own");
    }

    #[test]
    fn a_version_is_stable_over_restarts() {
        assert_eq!(Version::of(b"switchyard").to_string(), format!("{:016x}", xxh64(b"switchyard", 0)));
        assert_eq!(Version::of(b"").to_string(), "ef46db3751d8e999");
    }

    #[test]
    fn every_kind_is_found_by_its_type_url() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_type_url(kind.type_url()), Some(kind));
        }
        assert_eq!(Kind::from_type_url("type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"), None);
    }
}
