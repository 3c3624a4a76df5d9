//! The start with an empty store: placement waits until the owner of the servers has said which there are and their
//! agents are there, or for a limit. With a filled store, or with nobody who will say, it waits for nothing (DESIGN §9).

use std::collections::BTreeSet;

use domain::ReplicaId;

use crate::effect::{Effect, Status};
use crate::machine::{Freed, Machine};
use crate::server::Link;

/// Whether placement waits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Sync {
    /// For the first word about servers.
    Waiting,
    /// For so many agents.
    Agents(u64),
    /// For nothing.
    #[default]
    Done,
}

impl Machine {
    /// Placement happens and statuses are told.
    #[must_use]
    pub fn is_synchronised(&self) -> bool {
        self.sync == Sync::Done
    }

    /// What placement waits for, in words.
    pub(crate) fn waits_for(&self) -> Option<String> {
        match self.sync {
            Sync::Done => None,
            Sync::Waiting => Some("waiting for the first word about servers".to_owned()),
            Sync::Agents(expected) => Some(format!(
                "waiting for the servers: {} of {expected} agents are there",
                self.connected_agents().len()
            )),
        }
    }

    /// The first word about servers: so many agents are expected. A later one changes nothing.
    pub(crate) fn first_sync(&mut self, expected: u64, out: &mut Vec<Effect>) {
        if self.sync == Sync::Waiting {
            self.sync = Sync::Agents(expected);
            self.advance_sync(out);
        }
    }

    /// An agent came; one that was there before does not count twice.
    pub(crate) fn advance_sync(&mut self, out: &mut Vec<Effect>) {
        if let Sync::Agents(expected) = self.sync
            && self.connected_agents().len() as u64 >= expected
        {
            self.end_sync(out);
        }
    }

    /// Waiting is over, one way or the other.
    pub(crate) fn end_sync(&mut self, out: &mut Vec<Effect>) {
        if self.sync != Sync::Done {
            self.sync = Sync::Done;
            out.push(Effect::Notify(Status::Synchronised));
            self.free(Freed::Everything);
        }
    }

    fn connected_agents(&self) -> BTreeSet<ReplicaId> {
        let replicas = self.servers.values().flat_map(|server| {
            let there = server.replicas.iter().filter(|(_, replica)| matches!(replica.link, Link::Connected(_)));
            there.map(|(index, _)| ReplicaId { server: server.name.clone(), index: *index })
        });
        replicas.collect()
    }
}
