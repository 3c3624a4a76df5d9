//! One stream of one client, without the stream: requests in, responses out, the table and the time as arguments.
//! SotW and delta share every rule; they differ in how a request names its interest and in how a response says
//! "removed".
//!
//! Not here: sockets, protobufs, what other streams did. Nothing is keyed by node id.
//!
//! Rules, by the names the code uses:
//! - *one in flight*: one un-ACKed response for each kind; what changes meanwhile is merged into the next.
//! - *whole*: the first answer to a wildcard without `initial_resource_versions` is one response with everything,
//!   because Envoy opens the listener after it. It waits at most `patience` for what its resources require.
//! - *held*: a resource waits for its requirements on this stream alone and blocks nothing behind it.
//! - *usable*: a cluster is, when it and its endpoints were ACKed here (or listed equal on reconnect).
//! - *not asked for*: a requirement outside the stream's interest counts as met. A client that ACKed a cluster and
//!   within `patience` did not ask for its endpoints is taken not to use them.
//! - *break last*: clusters and endpoints go only when the stream has applied, of everything that may name them, the
//!   table as it was after their removal. A client that refused any of that goes on with what it had before, so as long
//!   as it does, what is removed is kept for it; but only the first of it, because one bad route might keep all for ever.
//! - *again*: whenever a cluster is sent its endpoints are sent, changed or not; Envoy warms the cluster until then.
//! - *awaited*: a name that is made on demand is not said to be missing, and nothing else of its kind is said, until it
//!   is in the table, was declined, or `patience` passed since it was asked for: a client that came back has it. In SotW
//!   no answer leaves a name out that was asked for and is held, as long as that: it would be gone.
//! - *bisect*: a refused response is sent again in parts until the culprit is alone; that one is quarantined. What the
//!   refusal speaks of is a part by itself and comes last: in SotW what is not in an answer is gone meanwhile.

mod intake;
mod lane;
mod puts;
mod readiness;
mod status;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crate::demand::{OnDemand, Wish};
use crate::message::{Mode, Node, Nonce, Request, Response, Tailor};
use crate::resource::{Key, Kind, Name, Version, Visibility};
use crate::subscription::TooManyNames;
use crate::table::Table;
use crate::time::Time;
use lane::{Inflight, Items, Lane, Settles, Why};
use puts::Puts;
use readiness::Verdict;
pub use status::{Behind, Counters, Delivery, KindStatus, Rejection, ResourceStatus, Standing};

#[derive(Debug)]
pub struct Session {
    mode: Mode,
    node: Node,
    patience: Duration,
    tailor: Option<Tailor>,
    lanes: [Option<Lane>; Kind::COUNT],
    /// Clusters whose current life was ACKed here, with the time of the first ACK.
    clusters: BTreeMap<Name, Time>,
    /// The version of each cluster the client has or was sent last.
    told: BTreeMap<Name, Version>,
    /// Endpoints ACKed here since their cluster was added.
    endpoints: BTreeSet<Name>,
    /// Clusters sent here whose endpoints the client had not asked for.
    owed: BTreeSet<Name>,
    /// When the client came, if it came with something (`initial_resource_versions`).
    resumed_at: Option<Time>,
    /// Counts what may make a held resource sendable.
    progress: u64,
    /// Counts what was refused, or stuck because of that, and is no more.
    pardons: u64,
    /// Counts requests that ask for more than before.
    asked: u64,
    nonce: u64,
    rejections: Vec<Rejection>,
    counters: Counters,
    /// First answers may be given.
    admitted: bool,
    on_demand: Option<OnDemand>,
    wishes: Vec<Wish>,
}

#[derive(Default)]
struct Batch {
    puts: Puts,
    removed: Vec<Name>,
    /// What a refusal did not speak of.
    is_rest: bool,
}

impl Batch {
    fn len(&self) -> usize {
        self.puts.len() + self.removed.len()
    }
}

impl Session {
    #[must_use]
    pub fn new(mode: Mode, node: Node, patience: Duration, tailor: Option<Tailor>) -> Self {
        Session {
            mode,
            node,
            patience,
            tailor,
            lanes: [const { None }; Kind::COUNT],
            clusters: BTreeMap::new(),
            told: BTreeMap::new(),
            endpoints: BTreeSet::new(),
            owed: BTreeSet::new(),
            resumed_at: None,
            progress: 0,
            pardons: 0,
            asked: 0,
            nonce: 0,
            rejections: Vec::new(),
            counters: Counters::default(),
            admitted: true,
            on_demand: None,
            wishes: Vec::new(),
        }
    }

    /// With resources that are made on demand.
    #[must_use]
    pub fn on_demand(self, on_demand: OnDemand) -> Self {
        Session { on_demand: Some(on_demand), ..self }
    }

    /// What is made on demand and was asked for or dropped since the last call.
    pub fn take_wishes(&mut self) -> Vec<Wish> {
        std::mem::take(&mut self.wishes)
    }

    /// It will not be made. If it is there all the same, it is waited for as what is not made on demand.
    pub fn decline(&mut self, key: &Key) {
        if let Some(awaited) = self.lanes[key.kind.index()].as_mut().and_then(|lane| lane.awaited.get_mut(&key.name)) {
            awaited.is_made = false;
        }
    }

    /// Whether first answers may be given: they are large, and a server gives few at a time. Patience begins with it.
    pub fn admit(&mut self, admitted: bool, now: Time) {
        if admitted && !std::mem::replace(&mut self.admitted, admitted) {
            self.lanes.iter_mut().flatten().filter_map(|lane| lane.whole_since.as_mut()).for_each(|since| *since = now);
        }
        self.admitted = admitted;
    }

    /// A first answer is due or not ACKed yet.
    #[must_use]
    pub fn is_in_first_answer(&self) -> bool {
        let is_first = |lane: &Lane| {
            lane.whole_since.is_some() || lane.inflight.as_ref().is_some_and(|inflight| inflight.is_first)
        };
        self.lanes.iter().flatten().any(is_first)
    }

    /// Differs from what it was when the client may take what it refused, or did not want, before.
    #[must_use]
    pub fn openness(&self) -> u64 {
        self.pardons + self.asked
    }

    /// All that was sent is acknowledged, or refused.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.lanes.iter().flatten().all(|lane| lane.inflight.is_none())
    }

    #[must_use]
    pub fn node(&self) -> &Node {
        &self.node
    }

    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What was refused since the last call.
    pub fn take_rejections(&mut self) -> Vec<Rejection> {
        std::mem::take(&mut self.rejections)
    }

    #[must_use]
    pub fn status(&self) -> Vec<KindStatus> {
        let status = |lane: &Lane| KindStatus {
            kind: lane.kind,
            wildcard: lane.interest.is_wildcard(),
            names: lane.interest.names().len(),
            cursor: lane.cursor,
            settled: lane.synced,
            in_flight: lane.inflight.as_ref().map_or(0, |inflight| inflight.items.len()),
            pending: lane.pending.len(),
            held: lane.held.len() + lane.stuck.len(),
            quarantined: lane.quarantine.len(),
        };
        self.lanes.iter().flatten().map(status).collect()
    }

    /// Takes in one request. What it leads to comes out of [`Session::poll`].
    pub fn on_request(&mut self, request: Request, table: &Table, now: Time) -> Result<(), TooManyNames> {
        let slot = request.kind.index();
        let lane = self.lanes[slot].take();
        let first = lane.is_none();
        let mut lane = lane.unwrap_or_else(|| Lane::new(request.kind));
        let done = self.take_in(&mut lane, first, request, table, now);
        self.lanes[slot] = Some(lane);
        done
    }

    /// All responses that may be sent now: additions in the order of the kinds, then what only removes, in reverse.
    pub fn poll(&mut self, table: &Table, now: Time) -> Result<Vec<Response>, Behind> {
        let mut responses = Vec::new();
        // Twice, because a lane of the first round may settle and so let a cluster go.
        for _ in 0..2 {
            for slot in 0..Kind::COUNT {
                if let Some(mut lane) = self.lanes[slot].take() {
                    let built = self.build(&mut lane, table, now);
                    self.lanes[slot] = Some(lane);
                    responses.extend(built?);
                }
            }
        }
        responses.sort_by_key(|response: &Response| {
            match response.resources.is_empty() && !response.removed.is_empty() {
                false => response.kind.index(),
                true => 2 * Kind::COUNT - response.kind.index(),
            }
        });
        Ok(responses)
    }

    /// When to poll again although nothing happened.
    #[must_use]
    pub fn due(&self) -> Option<Time> {
        let lanes = self.lanes.iter().flatten();
        lanes
            .flat_map(|lane| {
                // Nothing is sent before what is in flight is answered, or what is awaited has come.
                let awaited = lane.awaits_until.filter(|_| lane.inflight.is_none());
                let is_free = lane.inflight.is_none() && awaited.is_none();
                let whole = lane.whole_since.filter(|_| is_free && self.admitted).map(|at| at.after(self.patience));
                let held = is_free && !lane.held.is_empty() && lane.whole_since.is_none();
                whole.into_iter().chain(held.then_some(lane.retry_at)).chain(awaited)
            })
            .filter(|at| *at != Time::NEVER)
            .min()
    }

    /// How the stream stands with the table's current state of a key.
    #[must_use]
    pub fn standing(&self, key: &Key, table: &Table) -> Standing {
        let Some(lane) = &self.lanes[key.kind.index()] else { return Standing::Foreign };
        let entry = table.entry(key.kind, &key.name);
        let visibility = entry.map_or(Visibility::Wildcard, |entry| entry.visibility());
        if !lane.interest.wants(&key.name, visibility) {
            return Standing::Foreign;
        }
        // A removal is forgotten when every cursor has passed it, which says nothing about its acknowledgement.
        let revision = entry.map_or(lane.cursor, |entry| entry.revision);
        if revision > lane.cursor || lane.is_outstanding(&key.name) {
            return Standing::Outstanding;
        }
        if lane.stuck.contains_key(&key.name) {
            return match self.is_stuck_still(key.kind, &key.name, table) {
                true => Standing::Rejected(revision),
                false => Standing::Outstanding,
            };
        }
        let version = self.current(key.kind, &key.name, table).map(|resource| resource.version());
        if lane.quarantine.get(&key.name) == Some(&version) {
            return Standing::Rejected(revision);
        }
        Standing::Applied(revision)
    }

    fn is_made(&self, kind: Kind, name: &Name) -> bool {
        self.on_demand.is_some_and(|on_demand| on_demand.makes(kind, name))
    }

    fn build(&mut self, lane: &mut Lane, table: &Table, now: Time) -> Result<Option<Response>, Behind> {
        if lane.inflight.is_some() {
            return Ok(None);
        }
        let mut batch = Batch::default();
        while batch.len() == 0
            && let Some(part) = lane.bisect.pop_front()
        {
            batch.is_rest = part.is_rest;
            for name in part.names {
                self.consider(lane, &mut batch, &name, None, table, now);
            }
            self.leave_unsaid(lane, &mut batch);
        }
        let mut settles = Settles::default();
        if batch.len() == 0 {
            batch.is_rest = false;
            if lane.whole_since.is_none() && table.is_behind(lane.kind, lane.cursor) {
                return Err(Behind { kind: lane.kind });
            }
            lane.awaits_until = self.awaits(lane, table, now);
            let is_admitted = lane.whole_since.is_none() || self.admitted;
            if lane.awaits_until.is_some() || !is_admitted || self.must_wait(lane, table, now) {
                return Ok(None);
            }
            if lane.whole_since.is_some() && self.mode == Mode::Delta {
                batch.puts = Puts::like(table.first_answer(lane.kind));
            }
            settles = self.gather(lane, &mut batch, table, now);
            self.leave_unsaid(lane, &mut batch);
        }
        if !lane.answer_owed && batch.len() == 0 {
            lane.settle(settles);
            return Ok(None);
        }
        lane.answer_owed = false;
        let is_first = lane.whole_since.take().is_some();
        Ok(Some(self.send(lane, batch, is_first, settles, table)))
    }

    /// SotW cannot say of these kinds that something is gone; whatever named it goes instead.
    fn leave_unsaid(&self, lane: &Lane, batch: &mut Batch) {
        if self.mode == Mode::Sotw && !lane.is_full_state(self.mode) {
            batch.removed.clear();
        }
    }

    /// Collects what to send up to the limit.
    fn gather(&mut self, lane: &mut Lane, batch: &mut Batch, table: &Table, now: Time) -> Settles {
        let limit = lane.limit(self.mode);
        let mut seen: HashSet<Name> = HashSet::new();
        while batch.len() < limit
            && let Some((name, why)) = lane.pending.pop_first()
        {
            self.consider(lane, batch, &name, Some(why), table, now);
            seen.insert(name);
        }
        let is_judged = self.judge_again(lane, batch, &mut seen, table, now);
        let has_nothing = lane.whole_since.is_some() && lane.last_nonce.is_none();
        let mut cut = false;
        for (revision, name) in table.after(lane.kind, lane.cursor) {
            if batch.len() >= limit {
                cut = true;
                break;
            }
            lane.cursor = revision;
            // A client that was told nothing needs no removals. One that asked by names before may have what is gone.
            let is_unknown = has_nothing && table.live(lane.kind, name).is_none();
            if !is_unknown && !seen.contains(name) {
                self.consider(lane, batch, name, None, table, now);
            }
        }
        if !cut {
            lane.cursor = table.revision();
        }
        if !lane.held.is_empty() && lane.retry_at == Time::NEVER {
            lane.retry_at = self.next_patience(now);
        }
        let is_all = !cut && is_judged && lane.pending.is_empty() && lane.held.is_empty();
        let up_to = |is_there: bool| is_there.then_some(table.revision());
        Settles { synced: up_to(is_all), settled: up_to(is_all && lane.stuck.is_empty() && lane.quarantine.is_empty()) }
    }

    /// Considers what might not be sent so far, up to the limit of what may be sent at once. Returns whether that was all.
    fn judge_again(
        &mut self,
        lane: &mut Lane,
        batch: &mut Batch,
        seen: &mut HashSet<Name>,
        table: &Table,
        now: Time,
    ) -> bool {
        let judged = (self.progress, table.head(Kind::Cluster), table.head(Kind::Endpoints));
        // Removals that are kept depend on how far all is that refers to them.
        let pardons = (self.pardons, self.settled().filter(|_| lane.kind.is_referred_to()));
        // Removals depend on all that refers to them.
        let is_due = lane.kind.is_referred_to() || lane.judged != Some(judged) || now >= lane.retry_at;
        let mut names: Vec<Name> = Vec::new();
        if !lane.held.is_empty() && is_due {
            names.extend(lane.held.keys().cloned());
            lane.retry_at = self.next_patience(now);
        }
        if !lane.stuck.is_empty() && lane.stuck_judged != Some(pardons) {
            names.extend(lane.stuck.keys().cloned());
        }
        let mut names = names.into_iter();
        while batch.len() < lane.limit(self.mode)
            && let Some(name) = names.next()
        {
            if seen.insert(name.clone()) {
                self.consider(lane, batch, &name, None, table, now);
            }
        }
        let is_all = names.len() == 0;
        (lane.judged, lane.stuck_judged) = (is_all.then_some(judged), is_all.then_some(pardons));
        is_all
    }

    /// It is told now, whatever it was before, or is of no interest any more.
    fn pardon(&mut self, lane: &mut Lane, name: &Name) {
        self.pardons += u64::from(lane.unhold(name) | lane.release(name));
    }

    fn consider(
        &mut self,
        lane: &mut Lane,
        batch: &mut Batch,
        name: &Name,
        why: Option<Why>,
        table: &Table,
        now: Time,
    ) {
        match self.judge(lane, name, why, table, now) {
            Verdict::Put(resource) => {
                self.pardon(lane, name);
                batch.puts.push(resource);
            }
            Verdict::Remove => {
                self.pardon(lane, name);
                batch.removed.push(name.clone());
            }
            Verdict::Hold => {
                let since = self.held_since(lane, name, table);
                // Refused as it was, and not told yet how it is now.
                let now_is = self.current(lane.kind, name, table).map(|resource| resource.version());
                if lane.quarantine.get(name).is_some_and(|refused| *refused != now_is) {
                    self.pardons += u64::from(lane.release(name));
                }
                let was_stuck = lane.unhold(name);
                let is_stuck = self.is_stuck(lane.kind, name, since, table, now);
                let into = if is_stuck { &mut lane.stuck } else { &mut lane.held };
                into.insert(name.clone(), since);
                // What requires this may be stuck from now on, or no more.
                self.progress += u64::from(is_stuck && !was_stuck);
                self.pardons += u64::from(was_stuck && !is_stuck);
            }
            Verdict::Skip => self.pardons += u64::from(lane.unhold(name)),
            Verdict::Foreign => self.pardon(lane, name),
        }
    }

    fn send(&mut self, lane: &mut Lane, batch: Batch, is_first: bool, settles: Settles, table: &Table) -> Response {
        self.nonce += 1;
        let nonce = Nonce(self.nonce);
        if lane.kind == Kind::Cluster {
            self.clusters_sent(&batch);
        }
        let is_rest = batch.is_rest;
        let mut state = BTreeMap::new();
        let (items, resources, removed);
        if is_first && self.mode == Mode::Delta && batch.removed.is_empty() {
            resources = batch.puts.into_list();
            table.set_first_answer(lane.kind, &resources);
            items = Items::Everything(Arc::clone(&resources));
            removed = Vec::new();
        } else {
            let put = batch.puts.iter().map(|resource| (resource.name().clone(), Some(resource.version())));
            let gone = batch.removed.iter().map(|name| (name.clone(), None));
            items = Items::Named(put.chain(gone).collect());
            if lane.is_full_state(self.mode) {
                state.clone_from(&lane.state);
                state.extend(batch.puts.iter().map(|resource| (resource.name().clone(), Arc::clone(resource))));
                state.retain(|name, resource| {
                    items.says(name, None) != Some(true) && lane.interest.wants(name, resource.visibility())
                });
                resources = state.values().cloned().collect();
            } else {
                resources = batch.puts.into_list();
            }
            removed = if self.mode == Mode::Sotw { Vec::new() } else { batch.removed };
        }
        lane.last_nonce = Some(nonce);
        lane.inflight = Some(Inflight { items, settles, state, is_first, is_rest });
        self.counters.responses += 1;
        self.counters.resources += u64::try_from(resources.len()).unwrap_or(u64::MAX);
        Response { kind: lane.kind, nonce, version: table.version(lane.kind), resources, removed }
    }

    /// Envoy warms a cluster it was sent until its endpoints come again, changed or not.
    fn clusters_sent(&mut self, batch: &Batch) {
        for resource in batch.puts.iter() {
            let name = resource.name();
            self.told.insert(name.clone(), resource.version());
            if !self.clusters.contains_key(name) {
                // A new life of the cluster: endpoints of the one before do not count.
                self.endpoints.remove(name);
            }
            if !self.asks_endpoints(name) {
                self.owed.insert(name.clone());
            } else if let Some(endpoints) = &mut self.lanes[Kind::Endpoints.index()] {
                endpoints.pending.insert(name.clone(), Why::Again);
            }
        }
        for name in &batch.removed {
            self.unuse(Kind::Cluster, name);
        }
    }
}
