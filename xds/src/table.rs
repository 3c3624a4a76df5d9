//! The table of resources and the log of its changes. One writer; streams read it from their cursors.
//!
//! The log holds one entry for each name: `name -> revision` and `revision -> name`, so a name that changes often
//! appears once, at its latest change. A removed name stays as a tombstone until every cursor has passed it.
//!
//! Not here: who subscribed to what, and what was sent.
//! Invariants: every required key of a live resource is live; work for a change does not depend on the table's size.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::message::VersionInfo;
use crate::resource::{Change, Key, Kind, Name, Resource, Revision, Version, Visibility};

/// Tombstones of one kind that streams may keep alive by not reading on. A stream behind that is told to start again
/// (it lists what it has when it reconnects), so one stuck client costs at most this many names.
const MAX_TOMBSTONES: usize = 100_000;

/// A reference to something that is not there; nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{from} requires {to}, which is not in the table")]
pub struct Dangling {
    pub from: Key,
    pub to: Key,
}

#[derive(Debug)]
pub(crate) enum State {
    Live(Arc<Resource>),
    Gone(Visibility),
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub revision: Revision,
    pub state: State,
}

impl Entry {
    pub fn visibility(&self) -> Visibility {
        match &self.state {
            State::Live(resource) => resource.visibility(),
            State::Gone(visibility) => *visibility,
        }
    }

    /// What a wildcard sees of it.
    fn seen(&self) -> Option<&Resource> {
        match &self.state {
            State::Live(resource) if resource.visibility() == Visibility::Wildcard => Some(resource),
            State::Live(_) | State::Gone(_) => None,
        }
    }
}

#[derive(Debug, Default)]
struct Log {
    entries: HashMap<Name, Entry>,
    order: BTreeMap<Revision, Name>,
    tombstones: BTreeMap<Revision, Name>,
    head: Revision,
    /// What the owner called the latest change.
    head_name: Option<Arc<str>>,
    /// A cursor below this may have missed a removal.
    floor: Revision,
    /// What a wildcard sees.
    seen: Seen,
    /// What streams that begin are being told. It goes with the last of them.
    first_answer: Mutex<Option<Weak<[Arc<Resource>]>>>,
}

/// A number of resources, and the sum of a hash of each: two sets of the same are the same, as far as a version says so of a
/// body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    count: usize,
    sum: u64,
}

impl Seen {
    fn add(&mut self, name: &Name, version: Version) {
        self.count += 1;
        self.sum = self.sum.wrapping_add(version.of_name(name));
    }

    fn remove(&mut self, name: &Name, version: Version) {
        self.count -= 1;
        self.sum = self.sum.wrapping_sub(version.of_name(name));
    }
}

#[derive(Debug, Default)]
pub struct Table {
    logs: [Log; Kind::COUNT],
    revision: Revision,
    referrers: HashMap<Key, usize>,
}

impl Table {
    #[must_use]
    pub fn new() -> Self {
        Table::default()
    }

    /// The revision of the latest change of any kind.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    #[must_use]
    pub fn live(&self, kind: Kind, name: &Name) -> Option<&Arc<Resource>> {
        match &self.entry(kind, name)?.state {
            State::Live(resource) => Some(resource),
            State::Gone(_) => None,
        }
    }

    /// All live resources of a kind, in no particular order.
    pub fn iter(&self, kind: Kind) -> impl Iterator<Item = &Arc<Resource>> {
        self.log(kind).entries.values().filter_map(|entry| match &entry.state {
            State::Live(resource) => Some(resource),
            State::Gone(_) => None,
        })
    }

    pub(crate) fn entry(&self, kind: Kind, name: &Name) -> Option<&Entry> {
        self.log(kind).entries.get(name)
    }

    /// The names changed after a cursor, oldest change first.
    pub(crate) fn after(&self, kind: Kind, cursor: Revision) -> impl Iterator<Item = (Revision, &Name)> {
        self.log(kind).order.range(Revision(cursor.0 + 1)..).map(|(revision, name)| (*revision, name))
    }

    /// The revision of the latest change of this kind.
    pub(crate) fn head(&self, kind: Kind) -> Revision {
        self.log(kind).head
    }

    /// Whether a cursor has missed removals that the log no longer knows.
    pub(crate) fn is_behind(&self, kind: Kind, cursor: Revision) -> bool {
        cursor < self.log(kind).floor
    }

    /// The state of this kind, for responses.
    pub(crate) fn version(&self, kind: Kind) -> VersionInfo {
        let log = self.log(kind);
        log.head_name.clone().map_or(VersionInfo::Revision(log.head), VersionInfo::Given)
    }

    /// Applies all changes or none.
    pub fn apply(&mut self, changes: Vec<Change>) -> Result<Revision, Dangling> {
        self.apply_as(changes, None)
    }

    /// The same; `name` is what responses call the state after it.
    pub fn apply_as(&mut self, changes: Vec<Change>, name: Option<&str>) -> Result<Revision, Dangling> {
        // The last change of a key wins. The order of first mention is kept, it is the order of the log.
        let mut places: HashMap<Key, usize> = HashMap::with_capacity(changes.len());
        let mut staged: Vec<(Key, Option<Resource>)> = Vec::with_capacity(changes.len());
        for change in changes {
            let key = change.key();
            let wanted = match change {
                Change::Put(resource) => Some(resource),
                Change::Remove(_) => None,
            };
            match places.get(&key).and_then(|place| staged.get_mut(*place)) {
                Some(slot) => slot.1 = wanted,
                None => {
                    places.insert(key.clone(), staged.len());
                    staged.push((key, wanted));
                }
            }
        }
        staged.retain(|(key, wanted)| self.differs(key, wanted.as_ref()));
        self.check(&staged)?;
        let name: Option<Arc<str>> = name.map(Arc::from);
        for (key, wanted) in staged {
            self.logs[key.kind.index()].head_name.clone_from(&name);
            self.set(key, wanted);
        }
        Ok(self.revision)
    }

    /// Whether these are all that a wildcard sees of a kind, each as it is now. Costs a hash of each, and no look at the table.
    pub(crate) fn is_all(&self, kind: Kind, listed: &[(Name, Version)]) -> bool {
        let mut seen = Seen::default();
        for (name, version) in listed {
            seen.add(name, *version);
        }
        seen == self.log(kind).seen
    }

    /// What other streams that begin are being told.
    pub(crate) fn first_answer(&self, kind: Kind) -> Option<Arc<[Arc<Resource>]>> {
        let first_answer = self.log(kind).first_answer.lock().unwrap_or_else(PoisonError::into_inner);
        first_answer.as_ref().and_then(Weak::upgrade)
    }

    /// This is what a stream is told that begins now.
    pub(crate) fn set_first_answer(&self, kind: Kind, resources: &Arc<[Arc<Resource>]>) {
        *self.log(kind).first_answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::downgrade(resources));
    }

    /// Forgets tombstones that every cursor has passed, and the oldest beyond the limit.
    pub(crate) fn forget(&mut self, kind: Kind, passed: Revision) {
        let log = &mut self.logs[kind.index()];
        while let Some((&revision, _)) = log.tombstones.first_key_value() {
            let over = log.tombstones.len() > MAX_TOMBSTONES;
            if revision > passed && !over {
                break;
            }
            if revision > passed {
                log.floor = revision;
            }
            if let Some(name) = log.tombstones.remove(&revision) {
                log.order.remove(&revision);
                log.entries.remove(&name);
            }
        }
    }

    pub(crate) fn has_tombstones(&self, kind: Kind) -> bool {
        !self.log(kind).tombstones.is_empty()
    }

    fn log(&self, kind: Kind) -> &Log {
        &self.logs[kind.index()]
    }

    fn differs(&self, key: &Key, wanted: Option<&Resource>) -> bool {
        self.live(key.kind, &key.name).map(Arc::as_ref) != wanted
    }

    /// Every reference of the staged resources, and every reference to what is removed, holds afterwards.
    fn check(&self, staged: &[(Key, Option<Resource>)]) -> Result<(), Dangling> {
        let after: HashMap<&Key, bool> = staged.iter().map(|(key, wanted)| (key, wanted.is_some())).collect();
        let mut lost: HashMap<&Key, usize> = HashMap::new();
        for (key, wanted) in staged {
            for to in wanted.iter().flat_map(Resource::required) {
                let exists = after.get(to).copied().unwrap_or_else(|| self.live(to.kind, &to.name).is_some());
                if !exists {
                    return Err(Dangling { from: key.clone(), to: to.clone() });
                }
            }
            for to in self.live(key.kind, &key.name).iter().flat_map(|old| old.required()) {
                *lost.entry(to).or_default() += 1;
            }
        }
        // References from staged resources were checked above, so only those from untouched ones are left.
        for (to, _) in staged.iter().filter(|(_, wanted)| wanted.is_none()) {
            let before = self.referrers.get(to).copied().unwrap_or(0);
            if before > lost.get(to).copied().unwrap_or(0) {
                return Err(Dangling { from: self.referrer(to, &after), to: to.clone() });
            }
        }
        Ok(())
    }

    /// One untouched resource that refers to a key. Searches the table: only for the text of an error.
    fn referrer(&self, to: &Key, touched: &HashMap<&Key, bool>) -> Key {
        Kind::ALL
            .into_iter()
            .flat_map(|kind| self.iter(kind))
            .filter(|resource| resource.required().contains(to))
            .map(|resource| resource.key())
            .filter(|key| !touched.contains_key(key))
            .min()
            .unwrap_or_else(|| to.clone())
    }

    fn set(&mut self, key: Key, wanted: Option<Resource>) {
        self.revision = Revision(self.revision.0 + 1);
        let revision = self.revision;
        let wanted =
            wanted.map(|wanted| wanted.requiring(|to| self.referrers.get_key_value(to).map(|(known, _)| known)));
        for to in wanted.iter().flat_map(Resource::required) {
            *self.referrers.entry(to.clone()).or_default() += 1;
        }
        let log = &mut self.logs[key.kind.index()];
        log.head = revision;
        let old = log.entries.remove(&key.name);
        let visibility = old.as_ref().map_or(Visibility::Wildcard, Entry::visibility);
        if let Some(old) = old {
            if let Some(resource) = old.seen() {
                log.seen.remove(&key.name, resource.version());
            }
            log.order.remove(&old.revision);
            log.tombstones.remove(&old.revision);
            if let State::Live(resource) = old.state {
                for to in resource.required() {
                    if let Some(count) = self.referrers.get_mut(to) {
                        *count -= 1;
                        if *count == 0 {
                            self.referrers.remove(to);
                        }
                    }
                }
            }
        }
        let log = &mut self.logs[key.kind.index()];
        let state = match wanted {
            Some(resource) => State::Live(Arc::new(resource)),
            None => {
                log.tombstones.insert(revision, key.name.clone());
                State::Gone(visibility)
            }
        };
        let entry = Entry { revision, state };
        if let Some(resource) = entry.seen() {
            log.seen.add(&key.name, resource.version());
        }
        log.order.insert(revision, key.name.clone());
        log.entries.insert(key.name, entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn resource(kind: Kind, name: &str, body: &str) -> Resource {
        Resource::new(kind, name, Bytes::copy_from_slice(body.as_bytes()))
    }

    fn scope(name: &str, cluster: &str) -> Change {
        Change::Put(resource(Kind::ScopedRoute, name, cluster).requires([Key::new(Kind::Cluster, cluster)]))
    }

    fn cluster(name: &str) -> Change {
        Change::Put(resource(Kind::Cluster, name, name))
    }

    fn gone(name: &str) -> Change {
        Change::Remove(Key::new(Kind::Cluster, name))
    }

    #[test]
    fn an_equal_put_is_no_change() {
        let mut table = Table::new();
        let first = table.apply(vec![cluster("c")]).unwrap();
        assert_eq!(table.apply(vec![cluster("c")]).unwrap(), first);
        assert_eq!(table.apply(vec![gone("unknown")]).unwrap(), first);
    }

    #[test]
    fn a_dangling_reference_changes_nothing() {
        let mut table = Table::new();
        let refused = table.apply(vec![cluster("other"), scope("s", "c")]).unwrap_err();
        assert_eq!(refused.to_string(), "ScopedRoute s requires Cluster c, which is not in the table");
        assert_eq!(table.revision(), Revision::ZERO);
        table.apply(vec![scope("s", "c"), cluster("c")]).unwrap();
        let refused = table.apply(vec![gone("c")]).unwrap_err();
        assert_eq!(refused, Dangling { from: Key::new(Kind::ScopedRoute, "s"), to: Key::new(Kind::Cluster, "c") });
        table.apply(vec![cluster("d"), scope("s", "d"), gone("c")]).unwrap();
        table.apply(vec![gone("d"), Change::Remove(Key::new(Kind::ScopedRoute, "s"))]).unwrap();
        assert_eq!(table.referrers.len(), 0);
    }

    #[test]
    fn the_log_holds_each_name_once_at_its_latest_change() {
        let mut table = Table::new();
        for body in ["1", "2", "3"] {
            table.apply(vec![Change::Put(resource(Kind::Cluster, "a", body)), cluster("b")]).unwrap();
        }
        table.apply(vec![gone("b")]).unwrap();
        let log: Vec<_> =
            table.after(Kind::Cluster, Revision::ZERO).map(|(at, name)| (at.get(), name.as_str())).collect();
        assert_eq!(log, [(4, "a"), (5, "b")]);
    }

    #[test]
    fn tombstones_go_when_every_cursor_passed() {
        let mut table = Table::new();
        table.apply(vec![cluster("a"), cluster("b")]).unwrap();
        table.apply(vec![gone("a")]).unwrap();
        table.forget(Kind::Cluster, Revision(2));
        assert!(table.has_tombstones(Kind::Cluster));
        table.forget(Kind::Cluster, Revision(3));
        assert!(!table.has_tombstones(Kind::Cluster));
        assert!(!table.is_behind(Kind::Cluster, Revision(0)));
        assert_eq!(table.after(Kind::Cluster, Revision::ZERO).count(), 1);
    }

    #[test]
    fn a_stuck_cursor_costs_a_bounded_number_of_tombstones() {
        let mut table = Table::new();
        for i in 0..=MAX_TOMBSTONES {
            let name = format!("c{i}");
            table.apply(vec![cluster(&name)]).unwrap();
            table.apply(vec![gone(&name)]).unwrap();
        }
        table.forget(Kind::Cluster, Revision::ZERO);
        assert!(table.is_behind(Kind::Cluster, Revision(1)));
        assert!(!table.is_behind(Kind::Cluster, Revision(2)));
    }

    #[test]
    fn a_list_is_all_only_if_it_has_each_once_and_as_it_is_now() {
        let mut table = Table::new();
        let put = |name: &str, body: &str| Change::Put(resource(Kind::ScopedRoute, name, body));
        let hidden = resource(Kind::ScopedRoute, "hidden", "1").named_only();
        table.apply(vec![put("a", "1"), put("b", "1"), put("c", "1"), Change::Put(hidden)]).unwrap();
        table.apply(vec![put("a", "2"), Change::Remove(Key::new(Kind::ScopedRoute, "c"))]).unwrap();
        let is_all = |table: &Table, listed: &[(&str, &str)]| {
            let listed = listed.iter().map(|(name, body)| (Name::from(*name), Version::of(body.as_bytes())));
            table.is_all(Kind::ScopedRoute, &listed.collect::<Vec<_>>())
        };
        assert!(is_all(&table, &[("b", "1"), ("a", "2")]));
        let others: [&[(&str, &str)]; 7] = [
            &[],
            &[("a", "2")],
            &[("a", "2"), ("a", "2")],
            &[("a", "1"), ("b", "1")],
            &[("a", "2"), ("c", "1")],
            &[("a", "2"), ("hidden", "1")],
            &[("a", "2"), ("b", "1"), ("b", "1")],
        ];
        for listed in others {
            assert!(!is_all(&table, listed), "{listed:?}");
        }
        table.apply(vec![put("c", "1")]).unwrap();
        assert!(is_all(&table, &[("a", "2"), ("b", "1"), ("c", "1")]) && !is_all(&table, &[("b", "1"), ("a", "2")]));
    }
}
