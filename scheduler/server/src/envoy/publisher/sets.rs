//! The clusters of placement sets: when they come and when they go.
//!
//! Unused ones stay for a grace, so a set that comes back in time costs nothing.

use std::collections::{BTreeMap, BTreeSet};

use domain::{Endpoint, PlacementSet, Time};
use xds::{Change, Name};

use super::super::cluster::{self, Door, Shape};
use super::{Publication, Publisher};

/// How long a cluster without routes stays: longer than a restart of a server or a roll-out takes to use it again, and
/// than requests that are on their way to it usually take.
pub const SET_GRACE_MS: u64 = 60_000;

/// A placement set whose clusters are in the table.
#[derive(Debug)]
pub(super) struct Set {
    pub(super) shape: Shape,
    pub(super) endpoints: Vec<Endpoint>,
    /// False when no route uses the set any more.
    pub(super) wanted: bool,
    /// Its clusters in the table, with when they became unused.
    pub(super) clusters: BTreeMap<Door, Option<Time>>,
    /// The names that lead to it.
    pub(super) users: BTreeSet<Name>,
}

impl Publisher {
    pub(super) fn set(&mut self, set: PlacementSet, endpoints: Vec<Endpoint>, now: Time, out: &mut Publication) {
        // Without any replica there is nothing to tell the shape by.
        let known = self.sets.get(&set).map(|state| state.shape);
        let shape = known.filter(|_| endpoints.is_empty()).unwrap_or_else(|| Shape::of(&endpoints));
        let state = self.sets.entry(set.clone()).or_insert_with(|| Set::new(shape));
        state.wanted = true;
        let changed = state.endpoints != endpoints;
        state.endpoints = endpoints;
        let reshaped = std::mem::replace(&mut state.shape, shape) != shape;
        let users: Vec<Name> = if reshaped { state.users.iter().cloned().collect() } else { Vec::new() };
        if changed {
            self.clusters_changed(&set);
        }
        self.settle(&set, now, out);
        self.follow(&set);
        for name in users {
            self.translate(&name, out);
        }
    }

    pub(super) fn drop_set(&mut self, set: &PlacementSet, now: Time) {
        let Some(state) = self.sets.get_mut(set) else { return };
        if !state.users.is_empty() {
            tracing::error!(%set, users = state.users.len(), "set was dropped while routes use it, it is kept");
            return;
        }
        state.wanted = false;
        self.settle(set, now, &mut Publication::default());
    }

    /// Brings a set's clusters in line with its shape: what is needed is published, what is not gets its time.
    fn settle(&mut self, set: &PlacementSet, now: Time, out: &mut Publication) {
        let Some(state) = self.sets.get_mut(set) else { return };
        let needed: &[Door] = if state.wanted { state.shape.doors() } else { &[] };
        for door in needed {
            let name = cluster::name(set, *door);
            match state.clusters.insert(*door, None) {
                Some(Some(due)) => {
                    self.unused.remove(&(due, set.clone(), *door));
                }
                Some(None) => {}
                None => out.changes.push(Change::Put(cluster::resource(&name, *door, &self.settings))),
            }
            out.changes.push(Change::Put(cluster::endpoints(&name, *door, &state.endpoints)));
        }
        for (door, unused) in state.clusters.iter_mut().filter(|(door, _)| !needed.contains(door)) {
            if unused.is_none() {
                let due = now.after(SET_GRACE_MS);
                *unused = Some(due);
                self.unused.insert((due, set.clone(), *door));
            }
        }
    }

    /// Removes the clusters that have been unused for the grace.
    pub(super) fn remove_unused(&mut self, now: Time, out: &mut Publication) {
        while let Some((due, set, door)) = self.unused.first().cloned().filter(|(due, ..)| *due <= now) {
            self.unused.remove(&(due, set.clone(), door));
            let Some(state) = self.sets.get_mut(&set) else { continue };
            state.clusters.remove(&door);
            let name = cluster::name(&set, door);
            self.refusals.gone(&name);
            out.changes.push(Change::Remove(cluster::key(&name)));
            out.changes.push(Change::Remove(cluster::endpoints_key(&name)));
            if state.clusters.is_empty() {
                self.sets.remove(&set);
            }
        }
    }
}

impl Set {
    fn new(shape: Shape) -> Self {
        Set { shape, endpoints: Vec::new(), wanted: true, clusters: BTreeMap::new(), users: BTreeSet::new() }
    }
}
