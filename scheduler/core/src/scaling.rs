//! Wishes about the size of servers, for their owners (`spec/control-plane.md` §2.11).
//!
//! A wish is told once; it is told again when the owner has said something about the server since, and to whoever
//! subscribes while it stands. Its arithmetic saturates: however many empty replicas are there, the least is the
//! server's minimum.

use std::collections::BTreeSet;

use domain::{ReplicaId, ServerName};

use crate::effect::{Effect, ScalingRequest, Status};
use crate::machine::Machine;
use crate::settings::THOUSANDTHS;

/// What may have become true of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Occasion {
    /// A model could not get all replicas it wants.
    Short,
    /// A replica of it let go of a model.
    Emptied,
}

impl Machine {
    /// Notes that the size of a server is to be looked at when everything has been placed.
    pub(crate) fn resize(&mut self, server: &ServerName, occasion: Occasion) {
        if self.settings.server_autoscaling {
            self.resizes.insert((server.clone(), occasion));
        }
    }

    /// Looks at the servers that were noted.
    pub(crate) fn advance_scaling(&mut self, out: &mut Vec<Effect>) {
        for (server, occasion) in std::mem::take(&mut self.resizes) {
            let target = match occasion {
                Occasion::Short => self.more(&server),
                Occasion::Emptied => self.fewer(&server),
            };
            let Some(target) = target else { continue };
            if self.requested.insert(server.clone(), target) != Some(target) {
                out.extend(self.scaling_request(&server).map(|request| Effect::Notify(Status::Scaling(request))));
            }
        }
    }

    /// The wish about a server that stands.
    #[must_use]
    pub fn scaling_request(&self, server: &ServerName) -> Option<ScalingRequest> {
        let replicas = *self.requested.get(server)?;
        let bounds = self.servers.get(server)?.bounds.as_ref()?;
        Some(ScalingRequest { server: server.clone(), replicas, kubernetes: bounds.kubernetes.clone() })
    }

    /// The replicas that its models want, if that is more than it is to have and its maximum allows more. Who has said
    /// that a server is to have none, or removes it, is not asked for any.
    fn more(&self, server: &ServerName) -> Option<u32> {
        let bounds = self.servers.get(server)?.bounds.as_ref().filter(|bounds| bounds.expected > 0)?;
        let target = self.highest_wish(server).min(bounds.max);
        (target > bounds.expected).then_some(target)
    }

    /// As many as are not empty, if that is fewer than it is to have.
    fn fewer(&mut self, server: &ServerName) -> Option<u32> {
        let wish = self.highest_wish(server);
        let known = self.servers.get(server)?;
        let bounds = known.bounds.as_ref().filter(|bounds| bounds.expected > 1)?;
        let is_empty = |index| !self.residents.contains_key(&ReplicaId { server: server.clone(), index });
        let open = known.replicas.iter().filter(|(_, replica)| replica.takes_models());
        let empty = u32::try_from(open.filter(|(index, _)| is_empty(**index)).count()).unwrap_or(u32::MAX);
        let (least, expected) = (bounds.min.max(1), bounds.expected);
        let emptied = (empty > 0).then(|| expected.saturating_sub(empty).max(wish).max(least));
        let packed = (wish < expected && self.draws_packing()).then_some(wish.max(least));
        let target = emptied.into_iter().chain(packed).min()?;
        (target < expected).then_some(target)
    }

    /// Packing happens in a share of the cases. The machine draws no random numbers: it counts the share up.
    fn draws_packing(&mut self) -> bool {
        self.packing_due = self.packing_due.saturating_add(self.settings.packing.min(THOUSANDTHS));
        let due = self.packing_due >= THOUSANDTHS;
        if due {
            self.packing_due -= THOUSANDTHS;
        }
        due
    }

    /// The most replicas that a model on the server wants.
    fn highest_wish(&self, server: &ServerName) -> u32 {
        self.wishes.get(server).and_then(|wishes| wishes.keys().next_back()).copied().unwrap_or(0)
    }

    /// The owner has said something: what was asked for is asked again if it is still wanted.
    pub(crate) fn forget_requests(&mut self, servers: &BTreeSet<ServerName>) {
        for server in servers {
            if self.requested.remove(server).is_some() {
                self.resize(server, Occasion::Short);
            }
        }
    }
}
