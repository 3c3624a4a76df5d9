//! What may be sent to this client now: requirements, order of removal, patience, what it refused.
//!
//! Not here: what is sent and when. Reads the session, changes nothing.

use std::sync::Arc;

use bytes::Bytes;
use envoy_types::pb::envoy::service::runtime::v3::Runtime;
use envoy_types::pb::google::protobuf::Struct;
use prost::Message;

use super::lane::{Awaited, Lane, Why};
use super::{Session, Standing};
use crate::resource::{Key, Kind, Name, Resource, Revision, Visibility};
use crate::table::Table;
use crate::time::Time;

pub(super) enum Verdict {
    Put(Arc<Resource>),
    Remove,
    Hold,
    Skip,
    /// The client does not want it.
    Foreign,
}

impl Session {
    pub(super) fn judge(&self, lane: &Lane, name: &Name, why: Option<Why>, table: &Table, now: Time) -> Verdict {
        let entry = table.entry(lane.kind, name);
        let visibility = entry.map_or(Visibility::Wildcard, |entry| entry.visibility());
        if !lane.interest.wants(name, visibility) {
            // Dropped by name under a wildcard that does not show it: the client is told that it is gone.
            return if why == Some(Why::Asked) { Verdict::Remove } else { Verdict::Foreign };
        }
        let refused = lane.quarantine.get(name);
        if let Some(resource) = self.current(lane.kind, name, table) {
            if refused == Some(&Some(resource.version())) {
                return Verdict::Skip;
            }
            let met = resource.required().iter().all(|key| self.is_met(key, table, now));
            return if met { Verdict::Put(resource) } else { Verdict::Hold };
        }
        if refused == Some(&None) {
            return Verdict::Skip;
        }
        // The latest removal counts: in between, the name may have been there and in use again.
        let since = self.held_since(lane, name, table);
        let waits = || !self.may_break(since, now) || (self.may_use_older(since) && lane.may_keep(name));
        if lane.kind.is_referred_to() && why != Some(Why::Asked) && waits() { Verdict::Hold } else { Verdict::Remove }
    }

    /// The change that is held; of a name the table has forgotten, the first time it was held.
    pub(super) fn held_since(&self, lane: &Lane, name: &Name, table: &Table) -> Revision {
        match table.entry(lane.kind, name) {
            Some(entry) => entry.revision,
            None => lane.held_since(name).unwrap_or(table.revision()),
        }
    }

    /// Whether what this client is told of a kind differs from what is in the table.
    pub(super) fn has_its_own(&self, kind: Kind) -> bool {
        kind == Kind::Endpoints || self.tailor.as_ref().is_some_and(|tailor| tailor.kinds.contains(&kind))
    }

    /// The resource as this stream sees it.
    pub(super) fn current(&self, kind: Kind, name: &Name, table: &Table) -> Option<Arc<Resource>> {
        match table.live(kind, name) {
            // Envoy that was sent a cluster and lost the stream before its endpoints is still warming it, and lists the
            // old endpoints when it comes back. So endpoints have a version of their own under each version of their
            // cluster: the one this client was told.
            Some(resource) if kind == Kind::Endpoints => {
                let endpoints = self.tailored(resource);
                Some(match self.told.get(name) {
                    Some(cluster) if !endpoints.has_own_version() => {
                        Arc::new(endpoints.with_version(endpoints.version().under(*cluster)))
                    }
                    Some(_) | None => endpoints,
                })
            }
            Some(resource) => Some(self.tailored(resource)),
            // A bootstrap with a runtime layer that nobody answers holds Envoy up for 15 s.
            None if kind == Kind::Runtime => {
                let runtime = Runtime { name: name.to_string(), layer: Some(Struct::default()) };
                Some(Arc::new(Resource::new(kind, name.clone(), Bytes::from(runtime.encode_to_vec()))))
            }
            None => None,
        }
    }

    fn tailored(&self, resource: &Arc<Resource>) -> Arc<Resource> {
        let tailor = self.tailor.as_ref().filter(|tailor| tailor.kinds.contains(&resource.kind()));
        match tailor.and_then(|tailor| (tailor.rewrite)(&self.node, resource)) {
            Some(rewritten) => Arc::new(resource.with_body(rewritten.body().clone())),
            None => Arc::clone(resource),
        }
    }

    /// Whether a requirement is usable on this stream. One of the kind that is being built counts as met.
    fn is_met(&self, key: &Key, table: &Table, now: Time) -> bool {
        let Some(lane) = &self.lanes[key.kind.index()] else { return true };
        let visibility = table.entry(key.kind, &key.name).map_or(Visibility::Wildcard, |entry| entry.visibility());
        if !lane.interest.wants(&key.name, visibility) {
            return true;
        }
        match key.kind {
            Kind::Cluster => {
                let Some(acked_at) = self.clusters.get(&key.name) else { return false };
                table.live(Kind::Endpoints, &key.name).is_none()
                    || self.endpoints.contains(&key.name)
                    || (!self.asks_endpoints(&key.name) && now >= acked_at.after(self.patience))
            }
            Kind::Endpoints | Kind::Listener | Kind::ScopedRoute | Kind::Route | Kind::Secret | Kind::Runtime => {
                matches!(self.standing(key, table), Standing::Applied(_) | Standing::Foreign)
            }
        }
    }

    /// Whether what is held waits for something that this client refused, or a removal for what it goes on with.
    pub(super) fn is_stuck(&self, kind: Kind, name: &Name, since: Revision, table: &Table, now: Time) -> bool {
        let Some(resource) = table.live(kind, name) else { return self.may_break(since, now) };
        resource.required().iter().any(|key| self.is_refused(key, table) && !self.is_met(key, table, now))
    }

    /// Whether the client refused what a stuck name waits for as that is now. The name may not have been judged since.
    pub(super) fn is_stuck_still(&self, kind: Kind, name: &Name, table: &Table) -> bool {
        table.live(kind, name).is_none_or(|resource| resource.required().iter().any(|key| self.is_refused(key, table)))
    }

    /// Whether a resource waits for something that may still come.
    fn is_waiting(&self, resource: &Resource, table: &Table, now: Time) -> bool {
        resource.required().iter().any(|key| !self.is_met(key, table, now) && !self.is_refused(key, table))
    }

    /// Whether this client refused a requirement as it is now, or what that cannot be used without, and has nothing of it
    /// from before that would do.
    fn is_refused(&self, key: &Key, table: &Table) -> bool {
        let is = |kind: Kind| {
            let Some(resource) = self.current(kind, &key.name, table) else { return false };
            let lane = self.lanes[kind.index()].as_ref();
            let lane = lane.filter(|lane| lane.interest.wants(&key.name, resource.visibility()));
            lane.is_some_and(|lane| lane.quarantine.get(&key.name) == Some(&Some(resource.version())))
        };
        match key.kind {
            Kind::Cluster if !self.clusters.contains_key(&key.name) => is(Kind::Cluster),
            Kind::Cluster => is(Kind::Endpoints) && !self.endpoints.contains(&key.name),
            Kind::Endpoints | Kind::Listener | Kind::ScopedRoute | Kind::Route | Kind::Secret | Kind::Runtime => {
                let lane = self.lanes[key.kind.index()].as_ref();
                is(key.kind) || lane.is_some_and(|lane| lane.stuck.contains_key(&key.name))
            }
        }
    }

    pub(super) fn asks_endpoints(&self, name: &Name) -> bool {
        let lane = self.lanes[Kind::Endpoints.index()].as_ref();
        lane.is_some_and(|lane| lane.interest.wants(name, Visibility::Wildcard))
    }

    /// Whether everything that may name a cluster is applied as of this revision, but for what was refused. A client that
    /// came back with routes asks for clusters first: until it asks for routes too, or `patience` passed, its old routes
    /// count.
    fn may_break(&self, since: Revision, now: Time) -> bool {
        let asks_routes = [Kind::ScopedRoute, Kind::Route].iter().any(|kind| self.lanes[kind.index()].is_some());
        let resuming = self.resumed_at.is_some_and(|at| now < at.after(self.patience));
        (asks_routes || !resuming) && self.referring().all(|lane| lane.synced.is_some_and(|synced| synced >= since))
    }

    /// Whether it refused something of that, or is stuck with it, and so may use what was before.
    fn may_use_older(&self, since: Revision) -> bool {
        !self.referring().all(|lane| lane.settled.is_some_and(|settled| settled >= since))
    }

    /// What the client has applied, nothing refused, of everything that may name a cluster.
    pub(super) fn settled(&self) -> Option<Revision> {
        self.referring().map(|lane| lane.settled).min().flatten()
    }

    fn referring(&self) -> impl Iterator<Item = &Lane> {
        Kind::REFERRING.iter().filter_map(|kind| self.lanes[kind.index()].as_ref())
    }

    /// The first answer of a wildcard is whole: it waits for all that its resources require, but not for ever.
    pub(super) fn must_wait(&self, lane: &Lane, table: &Table, now: Time) -> bool {
        let Some(since) = lane.whole_since else { return false };
        let unmet = |resource: &Arc<Resource>| {
            lane.interest.wants(resource.name(), resource.visibility()) && self.is_waiting(resource, table, now)
        };
        now < since.after(self.patience) && table.iter(lane.kind).any(unmet)
    }

    /// Until when an answer waits for a name that was asked for: one that is to be made, or in SotW one that requires
    /// something, because what is not in an answer is gone. The one that was found last is looked at first.
    pub(super) fn awaits(&self, lane: &mut Lane, table: &Table, now: Time) -> Option<Time> {
        if lane.awaited.is_empty() {
            return None;
        }
        let (kind, is_full_state) = (lane.kind, lane.is_full_state(self.mode));
        let waits = |(name, awaited): &(&Name, &Awaited)| {
            awaited.until > now
                && match table.live(kind, name) {
                    Some(resource) => is_full_state && self.is_waiting(resource, table, now),
                    None => awaited.is_made,
                }
        };
        let last = lane.awaits_for.as_ref().and_then(|name| lane.awaited.get_key_value(name));
        let found = last.filter(waits).or_else(|| lane.awaited.iter().find(waits));
        let found = found.map(|(name, awaited)| (name.clone(), awaited.until));
        if found.is_none() {
            // What is held from now on is held in favour of what the client has. What is made may go and come again.
            lane.awaited.retain(|_, awaited| awaited.until > now && awaited.is_made);
        }
        let (name, until) = found.unzip();
        lane.awaits_for = name;
        until
    }

    pub(super) fn next_patience(&self, now: Time) -> Time {
        let waiting = self.clusters.iter().filter(|(name, _)| !self.endpoints.contains(*name));
        let times = waiting.map(|(_, acked_at)| *acked_at).chain(self.resumed_at);
        times.map(|at| at.after(self.patience)).filter(|at| *at > now).min().unwrap_or(Time::NEVER)
    }
}
