//! Which names gRPC clients ask for, which of them wait for their clients, and until when a name is kept.
//!
//! Not here: what a name leads to (`publisher`) and how that is said (`proxyless`).
//! Invariants: a release that waits is told a moment after every client has taken over what came, or after a bound; names that
//! nobody asks for any more are never more than those that may be asked for; a name is to be looked at twice at most.

use std::collections::{BTreeMap, BTreeSet};

use domain::{Generation, PlacementSet, RoutableName, Time};
use xds::{Key, Kind, Name, OnDemand, Revision};

use super::proxyless;

/// Names that clients may ask for at once, by their listeners and by their clusters: each costs some kilobytes, whether
/// there is such a model or not. As many may be kept that nobody asks for.
const NAMES_MAX: usize = 10_000;

/// Half of them for one stream, so that a client leaves others room.
const NAMES_OF_STREAM_MAX: usize = NAMES_MAX / 2;

/// How long a name is kept that nobody asks for: longer than a client takes to come back that has lost its stream.
const GRACE_MS: u64 = 60_000;

/// How long the end of an older route waits for clients at most. Longer than the table's server takes to give up those that
/// are lost or say nothing; it is for those that refuse what they are told.
const HOLD_MS: u64 = 30_000;

/// A client acknowledges endpoints when it has read them; a call that chose its replica just before may not have left yet.
const SETTLE_MS: u64 = 200;

/// What the table's server asks about.
pub(crate) const ON_DEMAND: OnDemand =
    OnDemand { is: proxyless::is_one, limit: NAMES_MAX, limit_of_stream: NAMES_OF_STREAM_MAX };

/// A release of a route, told when clients have let go, too.
pub(super) type Release = (RoutableName, Generation);

/// One name that is published.
#[derive(Debug, Default)]
struct Asked {
    /// The kinds by which it is asked for; none when it only lingers.
    by: BTreeSet<Kind>,
    leaves: Option<Time>,
    /// The sets that it leads to.
    sets: BTreeSet<PlacementSet>,
    hold: Option<Hold>,
}

/// Clients have been told of other endpoints.
#[derive(Debug)]
struct Hold {
    /// Not known before it is published.
    revision: Option<Revision>,
    until: Time,
    /// All have acknowledged them; a moment later it is over.
    acknowledged: bool,
    release: Option<Release>,
}

/// What a name is looked at for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Watch {
    Hold,
    Leave,
}

/// What became of a change of demand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It is to be published.
    Begins,
    /// It is to be removed.
    Ends,
    /// Nothing is to be done.
    Nothing,
}

/// All names that are published for gRPC clients.
#[derive(Debug, Default)]
pub(super) struct Demand {
    names: BTreeMap<Name, Asked>,
    followers: BTreeMap<PlacementSet, BTreeSet<Name>>,
    /// When to look at which name.
    times: BTreeSet<(Time, Name, Watch)>,
    /// Names that only linger.
    lingering: usize,
    unconfirmed: BTreeSet<Name>,
}

impl Demand {
    pub(super) fn has(&self, name: &Name) -> bool {
        self.names.contains_key(name)
    }

    /// Names that lead to a set.
    pub(super) fn followers(&self, set: &PlacementSet) -> impl Iterator<Item = &Name> {
        self.followers.get(set).into_iter().flatten()
    }

    /// Names of pipelines.
    pub(super) fn names(&self) -> impl Iterator<Item = &Name> {
        self.names.keys()
    }

    /// Somebody asks for a resource of the name.
    pub(super) fn ask(&mut self, kind: Kind, name: &Name) -> Turn {
        let turn = if self.has(name) { Turn::Nothing } else { Turn::Begins };
        let asked = self.names.entry(name.clone()).or_default();
        asked.by.insert(kind);
        if let Some(at) = asked.leaves.take() {
            self.lingering -= 1;
            self.times.remove(&(at, name.clone(), Watch::Leave));
        }
        turn
    }

    /// Nobody asks for a resource of the name any more.
    pub(super) fn cease(&mut self, kind: Kind, name: &Name, now: Time) -> Turn {
        let Some(asked) = self.names.get_mut(name).filter(|asked| asked.leaves.is_none()) else { return Turn::Nothing };
        asked.by.remove(&kind);
        if !asked.by.is_empty() {
            return Turn::Nothing;
        }
        if self.lingering >= NAMES_MAX {
            return Turn::Ends;
        }
        let at = now.after(GRACE_MS);
        asked.leaves = Some(at);
        self.lingering += 1;
        self.times.insert((at, name.clone(), Watch::Leave));
        Turn::Nothing
    }

    /// The sets that a name leads to now.
    pub(super) fn lead(&mut self, name: &Name, sets: BTreeSet<PlacementSet>) {
        let Some(asked) = self.names.get_mut(name) else { return };
        let before = std::mem::replace(&mut asked.sets, sets.clone());
        for set in before.difference(&sets) {
            if let Some(names) = self.followers.get_mut(set) {
                names.remove(name);
                if names.is_empty() {
                    self.followers.remove(set);
                }
            }
        }
        for set in sets {
            self.followers.entry(set).or_default().insert(name.clone());
        }
    }

    /// The name's route has changed: until clients know, its older one is not released.
    pub(super) fn hold(&mut self, name: &Name, now: Time) {
        let Some(asked) = self.names.get_mut(name) else { return };
        let until = now.after(HOLD_MS);
        let before = asked.hold.take();
        if let Some(before) = &before {
            self.times.remove(&(before.until, name.clone(), Watch::Hold));
        }
        let release = before.and_then(|hold| hold.release);
        asked.hold = Some(Hold { revision: None, until, acknowledged: false, release });
        self.times.insert((until, name.clone(), Watch::Hold));
        self.unconfirmed.insert(name.clone());
    }

    /// What was handed out is in the table.
    pub(super) fn published(&mut self, revision: Revision) {
        for name in std::mem::take(&mut self.unconfirmed) {
            if let Some(hold) = self.names.get_mut(&name).and_then(|asked| asked.hold.as_mut()) {
                hold.revision = Some(revision);
            }
        }
    }

    /// Envoys have released a route. `None`: clients have not, it is told later.
    pub(super) fn release(&mut self, name: &Name, release: Release) -> Option<Release> {
        match self.names.get_mut(name).and_then(|asked| asked.hold.as_mut()) {
            Some(hold) => {
                hold.release = Some(release);
                None
            }
            None => Some(release),
        }
    }

    /// Clients have taken over a change of these endpoints.
    pub(super) fn acknowledge(&mut self, key: &Key, revision: Revision, now: Time) {
        let Some(name) = proxyless::name_of(key).filter(|_| key.kind == Kind::Endpoints).map(Name::from) else {
            return;
        };
        let hold = self.names.get_mut(&name).and_then(|asked| asked.hold.as_mut());
        let Some(hold) = hold.filter(|hold| hold.revision == Some(revision)) else { return };
        hold.acknowledged = true;
        self.times.remove(&(hold.until, name.clone(), Watch::Hold));
        hold.until = now.after(SETTLE_MS);
        self.times.insert((hold.until, name, Watch::Hold));
    }

    /// What is due: names to remove, and releases that have waited long enough.
    pub(super) fn due(&mut self, now: Time) -> (Vec<Name>, Vec<Release>) {
        let (mut gone, mut released) = (Vec::new(), Vec::new());
        while let Some((at, name, watch)) = self.times.first().cloned().filter(|(at, ..)| *at <= now) {
            self.times.remove(&(at, name.clone(), watch));
            match watch {
                Watch::Leave => gone.push(name),
                Watch::Hold => {
                    let Some(hold) = self.names.get_mut(&name).and_then(|asked| asked.hold.take()) else { continue };
                    if !hold.acknowledged {
                        tracing::warn!(%name, "gRPC clients do not take new endpoints over, they are not waited for");
                    }
                    released.extend(hold.release);
                }
            }
        }
        (gone, released)
    }

    /// When to ask for what is due.
    pub(super) fn next(&self) -> Option<Time> {
        self.times.first().map(|(at, ..)| *at)
    }

    /// Forgets a name that is removed; what waited for its clients does not any more.
    pub(super) fn forget(&mut self, name: &Name) -> Option<Release> {
        self.lead(name, BTreeSet::new());
        let asked = self.names.remove(name)?;
        if let Some(at) = asked.leaves {
            self.lingering -= 1;
            self.times.remove(&(at, name.clone(), Watch::Leave));
        }
        let hold = asked.hold?;
        self.times.remove(&(hold.until, name.clone(), Watch::Hold));
        hold.release
    }
}
