//! What Envoys said of the routes and clusters that they refused, and which routes nobody took because of a cluster.

use std::collections::{BTreeMap, BTreeSet};

use domain::{Generation, PlacementSet, Route, Target};
use xds::{Key, Kind, Name, Revision, Version};

use super::super::{cluster, gateways, scope};
use super::{Publication, Publisher};

/// Resources of which a text is kept, some kilobytes each.
const REFUSALS_MAX: usize = 1_000;

/// The last text of each resource. Of those that others had taken long before nothing more is heard, so the oldest makes
/// room.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    texts: BTreeMap<Key, Refusal>,
    order: BTreeMap<u64, Key>,
    next: u64,
    /// Names that nobody took, with the clusters that they lead to.
    stuck: BTreeMap<Name, BTreeSet<Name>>,
    /// The same, by cluster.
    stuck_on: BTreeMap<Name, BTreeSet<Name>>,
    /// When the endpoints of a cluster last changed.
    changed_at: BTreeMap<Name, Revision>,
    /// Clusters whose endpoints have changed and are not published yet.
    unconfirmed: Vec<Name>,
    /// Names to be published anew, because their cluster has changed since nobody took them.
    again: BTreeSet<Name>,
}

#[derive(Debug)]
struct Refusal {
    turn: u64,
    /// Of the route; a cluster has none.
    generation: Option<Generation>,
    text: String,
}

impl Refusals {
    pub fn insert(&mut self, key: &Key, generation: Option<Generation>, text: String) {
        self.forget(key);
        if self.texts.len() >= REFUSALS_MAX
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.texts.remove(&oldest);
        }
        let turn = self.next;
        self.next += 1;
        self.order.insert(turn, key.clone());
        self.texts.insert(key.clone(), Refusal { turn, generation, text });
    }

    fn get(&self, key: &Key, generation: Option<Generation>) -> Option<&Refusal> {
        self.texts.get(key).filter(|refusal| refusal.generation == generation)
    }

    pub fn forget(&mut self, key: &Key) {
        if let Some(refusal) = self.texts.remove(key) {
            self.order.remove(&refusal.turn);
        }
    }

    /// The endpoints of a cluster have changed.
    pub fn changed(&mut self, cluster: &str) {
        self.forget(&cluster::endpoints_key(cluster));
        for name in self.stuck_on.get(cluster).cloned().unwrap_or_default() {
            self.unstick(&name);
            self.again.insert(name);
        }
        self.unconfirmed.push(Name::from(cluster));
    }

    /// Nobody took the name, and nobody will before one of these clusters changes.
    fn stick(&mut self, name: &Name, clusters: BTreeSet<Name>) {
        self.unstick(name);
        for cluster in &clusters {
            self.stuck_on.entry(cluster.clone()).or_default().insert(name.clone());
        }
        self.stuck.insert(name.clone(), clusters);
    }

    /// The name leads elsewhere or is gone, or somebody took it.
    pub fn unstick(&mut self, name: &Name) {
        for cluster in self.stuck.remove(name).unwrap_or_default() {
            if let Some(names) = self.stuck_on.get_mut(&cluster) {
                names.remove(name);
                if names.is_empty() {
                    self.stuck_on.remove(&cluster);
                }
            }
        }
    }

    /// All changes so far are in the table.
    pub fn published(&mut self, revision: Revision) {
        self.changed_at.extend(self.unconfirmed.drain(..).map(|cluster| (cluster, revision)));
    }

    /// The cluster is gone.
    pub fn gone(&mut self, cluster: &str) {
        self.forget(&cluster::endpoints_key(cluster));
        self.forget(&cluster::key(cluster));
        self.changed_at.remove(cluster);
    }
}

impl Publisher {
    /// An Envoy refused a resource.
    pub(super) fn refused(&mut self, key: &Key, version: Option<Version>, node: &str, message: &str) {
        if let Some((_, generation)) = self.with_version(key, version) {
            self.refusals.insert(key, Some(generation), format!("Envoy {node} refused its route: {message}"));
        } else if matches!(key.kind, Kind::Cluster | Kind::Endpoints) {
            let what = if key.kind == Kind::Cluster { "its cluster" } else { "the endpoints of its cluster" };
            self.refusals.insert(key, None, format!("Envoy {node} refused {what} {}: {message}", key.name));
        }
    }

    /// Why nobody took a route that was published at a revision. It is published anew when the endpoints of a cluster
    /// that it leads to change, or soon if they have since.
    pub(super) fn why_refused(&mut self, name: &Name, generation: Generation, revision: Revision) -> String {
        // Nothing more is told of what was before.
        if let Some(published) = self.names.get_mut(name) {
            published.sent.retain(|sent| sent.revision.is_none_or(|at| at >= revision));
        }
        let route = self.names.get(name).and_then(|published| published.route.as_ref());
        let of_target = |target: &Target| match target {
            Target::Model { set, .. } => self.clusters(set),
            Target::Pipeline(_) => vec![gateways::CLUSTER.to_owned()],
        };
        let clusters = route.into_iter().flat_map(Route::targets).flat_map(of_target).map(Name::from);
        let clusters: BTreeSet<Name> = clusters.collect();
        let own = self.refusals.get(&scope::key(name.as_str()), Some(generation));
        let of_cluster = |cluster: &Name| {
            let keys = [cluster::key(cluster.as_str()), cluster::endpoints_key(cluster.as_str())];
            keys.map(|key| self.refusals.get(&key, None)).into_iter().flatten()
        };
        // What was said last is why; others may have taken long ago what was said of before.
        let last = own.into_iter().chain(clusters.iter().flat_map(of_cluster)).max_by_key(|refusal| refusal.turn);
        let why = last.map_or("no Envoy took its route", |refusal| &refusal.text).to_owned();
        let has_changed = |cluster: &Name| self.refusals.changed_at.get(cluster).is_some_and(|at| *at > revision);
        if clusters.iter().any(has_changed) {
            self.refusals.again.insert(name.clone());
        } else {
            self.refusals.stick(name, clusters);
        }
        why
    }

    /// The endpoints of a set have changed.
    pub(super) fn clusters_changed(&mut self, set: &PlacementSet) {
        for cluster in self.clusters(set) {
            self.refusals.changed(&cluster);
        }
    }

    /// Publishes what nobody took and somebody may take now.
    pub(super) fn publish_again(&mut self, out: &mut Publication) {
        for name in std::mem::take(&mut self.refusals.again) {
            self.translate(&name, out);
        }
    }

    fn clusters(&self, set: &PlacementSet) -> Vec<String> {
        let doors = self.sets.get(set).map_or(&[][..], |state| state.shape.doors());
        doors.iter().map(|door| cluster::name(set, *door)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        scope::key(name)
    }

    fn text<'a>(refusals: &'a Refusals, key: &Key, generation: Option<Generation>) -> Option<&'a str> {
        refusals.get(key, generation).map(|refusal| &*refusal.text)
    }

    fn numbered(number: usize) -> Key {
        key(&format!("m{number}"))
    }

    #[test]
    fn the_oldest_text_makes_room_and_a_name_has_one() {
        let mut refusals = Refusals::default();
        // The first in the order of names, so that no order of names passes.
        let newest = key("a");
        let (first, second) = (Some(Generation(1)), Some(Generation(2)));
        for number in 0..REFUSALS_MAX {
            refusals.insert(&numbered(number), first, format!("{number}"));
        }
        refusals.insert(&numbered(0), second, "again".to_owned());
        refusals.insert(&newest, first, "newest".to_owned());
        refusals.insert(&numbered(REFUSALS_MAX), first, "one more".to_owned());
        assert_eq!((refusals.texts.len(), refusals.order.len()), (REFUSALS_MAX, REFUSALS_MAX));
        assert_eq!(text(&refusals, &newest, first), Some("newest"));
        assert_eq!(text(&refusals, &numbered(0), second), Some("again"), "it was refused anew");
        assert_eq!(text(&refusals, &numbered(1), first), None, "the oldest");
        assert_eq!(text(&refusals, &numbered(2), first), None, "the next");
        assert_eq!(text(&refusals, &numbered(3), second), None, "of another generation");
        refusals.forget(&numbered(4));
        assert_eq!(text(&refusals, &numbered(4), first), None);
        assert_eq!(refusals.texts.len(), refusals.order.len());
    }
}
