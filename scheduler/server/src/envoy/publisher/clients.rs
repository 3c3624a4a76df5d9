//! What of the routes gRPC clients are told: for names that they ask for, kept as the routes are.
//!
//! Not here: how a name is told (`proxyless`), and who waits for whom (`demand`).

use std::collections::BTreeSet;

use domain::{PlacementSet, RoutableName, Target, Time};
use scheduler_core::Address;
use xds::{Change, Key, Name};

use super::super::demand::Turn;
use super::super::gateways;
use super::super::proxyless::{self, Lead, Refusal, Repeat};
use super::{News, Publication, Publisher, routed};

/// How the names of pipelines and of experiments end.
const PIPELINE: &str = ".pipeline";
const EXPERIMENT: &str = ".experiment";

impl Publisher {
    /// A gRPC client asks for a resource.
    #[must_use]
    pub fn want(&mut self, key: &Key, now: Time) -> Publication {
        let mut out = Publication::default();
        let Some(name) = proxyless::name_of(key).map(Name::from) else { return out };
        if self.demand.ask(key.kind, &name) == Turn::Begins {
            self.stale.insert(name, false);
            self.refresh(now, &mut out);
        }
        out
    }

    /// No gRPC client asks for it any more.
    #[must_use]
    pub fn unwant(&mut self, key: &Key, now: Time) -> Publication {
        let mut out = Publication::default();
        let Some(name) = proxyless::name_of(key).map(Name::from) else { return out };
        if self.demand.cease(key.kind, &name, now) == Turn::Ends {
            self.end(&name, &mut out);
        }
        out
    }

    /// The name's route changes.
    pub(super) fn reroute(&mut self, name: &Name) {
        if self.demand.has(name) {
            self.stale.insert(name.clone(), true);
        }
    }

    /// The endpoints of a set change.
    pub(super) fn follow(&mut self, set: &PlacementSet) {
        for name in self.demand.followers(set) {
            self.stale.entry(name.clone()).or_insert(false);
        }
    }

    /// Other gateways answer for pipelines.
    pub(super) fn regate(&mut self, gateways: Vec<Address>) {
        self.gateways = gateways;
        for name in self.demand.names().filter(|name| name.as_str().ends_with(PIPELINE)) {
            self.stale.entry(name.clone()).or_insert(false);
        }
    }

    /// Somebody declared a name, or removed it.
    pub(super) fn declare(&mut self, name: &RoutableName, is: bool) {
        let key = routed(name);
        if self.demand.has(&key) {
            self.stale.entry(key.clone()).or_insert(false);
        }
        self.redeclared.insert(key.clone(), name.clone());
        if is {
            self.declared.insert(key);
        } else {
            self.declared.remove(&key);
        }
    }

    /// Tells gRPC clients what has changed for them.
    pub(super) fn refresh(&mut self, now: Time, out: &mut Publication) {
        for (name, rerouted) in std::mem::take(&mut self.stale) {
            let (lead, sets) = self.lead(&name);
            self.demand.lead(&name, sets);
            let resources = proxyless::resources(name.as_str(), lead, &self.settings);
            out.changes.extend(resources.into_iter().map(Change::Put));
            if rerouted {
                self.demand.hold(&name, now);
                out.gated.push(proxyless::endpoints_key(name.as_str()));
            }
        }
    }

    /// Nobody asks for a name any more.
    pub(super) fn end(&mut self, name: &Name, out: &mut Publication) {
        out.changes.extend(proxyless::keys(name.as_str()).map(Change::Remove));
        let released = self.demand.forget(name);
        self.news.extend(released.map(|(name, generation)| News::Released { name, generation }));
    }

    /// Where calls of a gRPC client of the name go: to whoever has a version of the model itself, never to what an
    /// experiment makes of its name, because nobody there knows that.
    fn lead(&self, name: &Name) -> (Lead, BTreeSet<PlacementSet>) {
        let published = self.names.get(name);
        let route = published.and_then(|published| published.route.as_ref());
        let targets = route.into_iter().flat_map(|route| &route.backends).map(|backend| &backend.target);
        let own = targets.filter_map(Target::model).filter(|(version, _)| version.model.as_str() == name.as_str());
        let sets: BTreeSet<PlacementSet> = own.map(|(_, set)| set.clone()).collect();
        let lead = match published.map(|published| &published.name) {
            _ if name.as_str().ends_with(EXPERIMENT) => Lead::Refused(Refusal::Experiment),
            Some(RoutableName::Pipeline(_)) if route.is_some() => {
                Lead::To(gateways::usable(&self.gateways), Repeat::Never)
            }
            _ if route.is_none() && !self.declared.contains(name) => Lead::Refused(Refusal::Unknown),
            _ => {
                let endpoints = sets.iter().filter_map(|set| self.sets.get(set)).flat_map(|state| &state.endpoints);
                Lead::To(proxyless::replicas(endpoints), Repeat::Unavailable)
            }
        };
        (lead, sets)
    }
}
