//! Where a version runs: one pure decision from a problem and the present to a placement, or why there is none.
//!
//! Rules: `spec/control-plane.md` §2.6, with partial placement always on (a wish that cannot be met in full is met
//! as far as it fits and never takes a working replica away, I10). Nothing else decides where a version runs.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fmt;

use domain::{Bytes, ReplicaIndex, ServerName};

use crate::model::Version;

/// Capability that an explainer needs on its replica.
const EXPLAINER_CAPABILITY: &str = "alibi-explain";

/// Servers that a shortfall names; the rest are counted.
const NAMED: usize = 8;

/// What is to be placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Replicas wished.
    pub replicas: u32,
    /// Memory that one replica needs.
    pub memory: Bytes,
    /// Capabilities that the server must offer.
    pub requirements: BTreeSet<String>,
    /// The version explains another one.
    pub is_explainer: bool,
    /// The one server that may be used.
    pub server: Option<ServerName>,
}

/// A server as placement sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerCandidate {
    /// Which server.
    pub name: ServerName,
    /// Open to versions without an explicit server.
    pub shared: bool,
    /// Its owner wants no replicas.
    pub scaled_to_zero: bool,
    /// Its replicas.
    pub replicas: Vec<Candidate>,
}

/// A replica as placement sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Which replica.
    pub index: ReplicaIndex,
    /// The version is there already, loaded, loading or failed; it may stay whatever its memory.
    pub holds: bool,
    /// New versions may come here.
    pub open: bool,
    /// What is there may stay.
    pub may_stay: bool,
    /// Reported free memory less what is arriving.
    pub free: Bytes,
    /// What it can run.
    pub capabilities: BTreeSet<String>,
}

/// Where the version shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The server; `None` when there is no place at all, or none is wished.
    pub server: Option<ServerName>,
    /// Its replicas.
    pub replicas: BTreeSet<ReplicaIndex>,
    /// Present when there are fewer than wished.
    pub shortfall: Option<Shortfall>,
}

/// Why a wish was not met in full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortfall {
    /// Replicas found.
    pub found: usize,
    /// Replicas wished.
    pub wished: u32,
    /// What excluded each server or the rest of its replicas.
    pub excluded: Vec<(ServerName, Exclusion)>,
}

/// What excluded a server, or the replicas of it that were not chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exclusion {
    /// The version asks for another server.
    OtherServer,
    /// The version names no server and this one is not shared.
    NotShared,
    /// Its owner wants no replicas.
    ScaledToZero,
    /// No agent is connected, or all that are leave.
    NoReplica,
    /// It lacks capabilities.
    Capability {
        /// What it lacks.
        lacks: Vec<String>,
    },
    /// No more of its replicas have the memory.
    Memory {
        /// What one replica needs.
        needs: Bytes,
        /// The most that one of the rest has.
        most: Bytes,
    },
    /// It has no more replicas.
    AllUsed {
        /// How many it has that could be used.
        replicas: usize,
    },
    /// It was not needed: another server holds the version or fits it better.
    NotChosen,
}

/// Smaller is better: hold it already, then more free memory, then the lower index.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct ReplicaScore {
    must_come: bool,
    free: Reverse<Bytes>,
    index: ReplicaIndex,
}

/// Smaller is better: keep what is held, then fit more replicas, then more free memory, then the name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct ServerScore {
    must_move: bool,
    missing: usize,
    free: Reverse<Bytes>,
    name: ServerName,
}

/// Decides where a version runs. Planning again with the result in place changes nothing (I5).
#[must_use]
pub fn place(problem: &Problem, servers: &[ServerCandidate]) -> Placement {
    if problem.replicas == 0 {
        return Placement { server: None, replicas: BTreeSet::new(), shortfall: None };
    }
    let wished = usize::try_from(problem.replicas).unwrap_or(usize::MAX);
    let mut excluded = Vec::new();
    let mut best: Option<(ServerScore, ServerName, BTreeSet<ReplicaIndex>)> = None;
    let mut rest = Vec::new();
    for server in servers {
        let chosen = match choose(problem, server, wished) {
            Ok(chosen) => chosen,
            Err(exclusion) => {
                excluded.push((server.name.clone(), exclusion));
                continue;
            }
        };
        if chosen.len() < wished {
            rest.push((server.name.clone(), remainder(problem, server, &chosen)));
        }
        let is_chosen = |candidate: &&Candidate| chosen.contains(&candidate.index);
        let score = ServerScore {
            must_move: !server.replicas.iter().any(|candidate| candidate.holds && candidate.may_stay),
            missing: wished.saturating_sub(chosen.len()),
            free: Reverse(server.replicas.iter().filter(is_chosen).map(|c| c.free).max().unwrap_or_default()),
            name: server.name.clone(),
        };
        if best.as_ref().is_none_or(|(other, _, _)| score < *other) {
            best = Some((score, server.name.clone(), chosen));
        }
    }
    let (server, replicas) = match best {
        Some((_, server, replicas)) => (Some(server), replicas),
        None => (None, BTreeSet::new()),
    };
    let shortfall = (replicas.len() < wished).then(|| {
        let relevant = rest.into_iter().map(|(name, exclusion)| {
            let exclusion = if Some(&name) == server.as_ref() { exclusion } else { Exclusion::NotChosen };
            (name, exclusion)
        });
        excluded.extend(relevant);
        Shortfall { found: replicas.len(), wished: problem.replicas, excluded }
    });
    Placement { server, replicas, shortfall }
}

/// The best replicas of one server, at least one, or what excludes the server.
fn choose(problem: &Problem, server: &ServerCandidate, wished: usize) -> Result<BTreeSet<ReplicaIndex>, Exclusion> {
    match &problem.server {
        Some(wanted) if *wanted != server.name => return Err(Exclusion::OtherServer),
        None if !server.shared => return Err(Exclusion::NotShared),
        Some(_) | None => {}
    }
    if server.scaled_to_zero {
        return Err(Exclusion::ScaledToZero);
    }
    let there: Vec<&Candidate> = server.replicas.iter().filter(|c| c.open || (c.holds && c.may_stay)).collect();
    if there.is_empty() {
        return Err(Exclusion::NoReplica);
    }
    let able: Vec<&Candidate> =
        there.iter().copied().filter(|candidate| problem.lacks(&candidate.capabilities).is_empty()).collect();
    if able.is_empty() {
        return Err(Exclusion::Capability {
            lacks: there.first().map(|c| problem.lacks(&c.capabilities)).unwrap_or_default(),
        });
    }
    let mut scored: Vec<ReplicaScore> = able
        .iter()
        .filter(|candidate| candidate.holds || candidate.free >= problem.memory)
        .map(|c| ReplicaScore { must_come: !c.holds, free: Reverse(c.free), index: c.index })
        .collect();
    if scored.is_empty() {
        let most = able.iter().map(|candidate| candidate.free).max().unwrap_or_default();
        return Err(Exclusion::Memory { needs: problem.memory, most });
    }
    scored.sort();
    Ok(scored.into_iter().take(wished).map(|score| score.index).collect())
}

/// What keeps the replicas that were not chosen out.
fn remainder(problem: &Problem, server: &ServerCandidate, chosen: &BTreeSet<ReplicaIndex>) -> Exclusion {
    let others = || server.replicas.iter().filter(|c| !chosen.contains(&c.index) && c.open);
    let able = others().filter(|candidate| problem.lacks(&candidate.capabilities).is_empty());
    match able.map(|candidate| candidate.free).max() {
        Some(most) => Exclusion::Memory { needs: problem.memory, most },
        None => match others().next() {
            Some(candidate) => Exclusion::Capability { lacks: problem.lacks(&candidate.capabilities) },
            None => Exclusion::AllUsed { replicas: chosen.len() },
        },
    }
}

impl Problem {
    /// The problem of placing a version.
    pub(crate) fn of(version: &Version) -> Self {
        let spec = &version.definition.spec;
        let requirements = spec.requirements.iter().map(|need| need.trim().to_owned()).filter(|need| !need.is_empty());
        Self {
            replicas: version.definition.deployment.replicas,
            memory: version.memory(),
            requirements: requirements.collect(),
            is_explainer: spec.explainer.is_some(),
            server: spec.server.clone(),
        }
    }

    /// What a replica with these capabilities does not offer.
    pub(crate) fn lacks(&self, capabilities: &BTreeSet<String>) -> Vec<String> {
        let mut lacks: Vec<String> = self.requirements.difference(capabilities).cloned().collect();
        if self.is_explainer && !capabilities.contains(EXPLAINER_CAPABILITY) {
            lacks.push(EXPLAINER_CAPABILITY.to_owned());
        }
        lacks
    }
}

impl Shortfall {
    /// More memory somewhere would help.
    pub(crate) fn is_of_memory(&self) -> bool {
        self.excluded.iter().any(|(_, exclusion)| matches!(exclusion, Exclusion::Memory { .. }))
    }
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.found == 0 {
            f.write_str("no server fits")?;
        } else {
            write!(f, "{} of {} replicas", self.found, self.wished)?;
        }
        if self.excluded.is_empty() {
            return f.write_str(": no server is known yet");
        }
        for (position, (server, exclusion)) in self.excluded.iter().take(NAMED).enumerate() {
            let separator = if position == 0 { ":" } else { ";" };
            write!(f, "{separator} server {server} {exclusion}")?;
        }
        match self.excluded.len().saturating_sub(NAMED) {
            0 => Ok(()),
            more => write!(f, "; and {more} more servers"),
        }
    }
}

impl fmt::Display for Exclusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exclusion::OtherServer => f.write_str("is not the one the model asks for"),
            Exclusion::NotShared => f.write_str("takes only models that name it"),
            Exclusion::ScaledToZero => f.write_str("is scaled to 0 replicas"),
            Exclusion::NoReplica => f.write_str("has no connected replica that takes models"),
            Exclusion::Capability { lacks } => write!(f, "does not offer capability {}", lacks.join(", ")),
            Exclusion::Memory { needs, most } => write!(f, "has too little free memory ({needs} needed, {most} free)"),
            Exclusion::AllUsed { replicas: 1 } => f.write_str("has only 1 replica"),
            Exclusion::AllUsed { replicas } => write!(f, "has only {replicas} replicas"),
            Exclusion::NotChosen => f.write_str("was not chosen"),
        }
    }
}
