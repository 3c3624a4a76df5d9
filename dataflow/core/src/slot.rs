//! Identity of what is emitted (`spec/delivery.md` §2): a pure function of lineage.

use std::fmt;

use domain::PipelineName;
use xxhash_rust::xxh3::Xxh3;

/// What all records of one request have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Root(pub u128);

/// Identity of one emission: two records with one slot are one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u128);

/// Which of several records of one root and one operator: how often it came back by a cycle, and by which sides of `any`
/// joins it came.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Branch {
    /// Back edges of cycles on its way.
    pub count: u32,
    /// Sides of `any` joins on its way, the oldest first; of a long way a hash and the rest.
    pub sides: Vec<u16>,
}

/// Most sides of a branch; the next one makes a hash of them, or every return of a cycle would make its records longer.
const SIDES_MAX: usize = 64;

impl Branch {
    /// The same after a side of an `any` join.
    #[must_use]
    pub fn by(mut self, side: u16) -> Self {
        if self.sides.len() >= SIDES_MAX {
            let hash = self.sides.iter().fold(Hash::of("sides"), |hash, side| hash.with(&side.to_le_bytes()));
            let hash = hash.end().to_le_bytes();
            self.sides = hash.chunks(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
        }
        self.sides.push(side);
        self
    }

    /// The same in a pipeline that another one feeds: it has come back to nothing there.
    #[must_use]
    pub fn entering(self) -> Self {
        let by = match u16::try_from(self.count).unwrap_or(u16::MAX) {
            0 => self,
            count => self.by(count),
        };
        Self { count: 0, ..by }
    }

    /// The way out of its `Display`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let count = parts.next()?.parse().ok()?;
        let sides = parts.map(|side| side.parse().ok()).collect::<Option<Vec<u16>>>()?;
        (sides.len() <= SIDES_MAX).then_some(Self { count, sides })
    }
}

impl fmt::Display for Branch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.count)?;
        self.sides.iter().try_for_each(|side| write!(f, ".{side}"))
    }
}

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Thirty-two hexadecimal digits.
pub(crate) fn parse_hex(text: &str) -> Option<u128> {
    let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    digits.then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

/// A hash over parts, none of which can be taken for a piece of its neighbour.
struct Hash(Xxh3);

impl Hash {
    fn of(kind: &str) -> Self {
        Hash(Xxh3::new()).with(kind.as_bytes())
    }

    fn with(mut self, part: &[u8]) -> Self {
        self.0.update(&(part.len() as u64).to_le_bytes());
        self.0.update(part);
        self
    }

    fn end(self) -> u128 {
        self.0.digest128()
    }
}

impl Root {
    /// Of a record that none of us wrote. A topic that was deleted and made again is another incarnation.
    #[must_use]
    pub fn of_foreign(topic: &str, incarnation: u64, partition: u32, offset: u64) -> Self {
        let hash = Hash::of("foreign").with(topic.as_bytes()).with(&incarnation.to_le_bytes());
        Root(hash.with(&partition.to_le_bytes()).with(&offset.to_le_bytes()).end())
    }

    /// Of records of several pipelines that are joined by their key.
    #[must_use]
    pub(crate) fn of_key(key: &[u8]) -> Self {
        Root(Hash::of("key").with(key).end())
    }
}

impl Slot {
    /// Of the record that enters a pipeline.
    #[must_use]
    pub fn of_entry(root: Root) -> Self {
        Slot(Hash::of("entry").with(&root.0.to_le_bytes()).end())
    }

    /// Of what an operator emits. Nothing else goes in: no arrival order, no payload, no sides that happened to be there.
    #[must_use]
    pub fn of_emission(pipeline: &PipelineName, operator: &str, root: Root, branch: &Branch) -> Self {
        let hash = Hash::of("emission").with(pipeline.as_str().as_bytes()).with(operator.as_bytes());
        let mut hash = hash.with(&root.0.to_le_bytes()).with(&branch.count.to_le_bytes());
        for side in &branch.sides {
            hash = hash.with(&side.to_le_bytes());
        }
        Slot(hash.end())
    }

    /// Of a model's answer, or of its error.
    #[must_use]
    pub fn of_answer(input: Slot) -> Self {
        Slot(Hash::of("answer").with(&input.0.to_le_bytes()).end())
    }

    /// Of what ends a request: its error, or its answer if it can have only one.
    #[must_use]
    pub fn of_end(pipeline: &PipelineName, root: Root) -> Self {
        Slot(Hash::of("end").with(pipeline.as_str().as_bytes()).with(&root.0.to_le_bytes()).end())
    }
}

/// What a record written for this topic and partition says in its header; another value is a copy's.
pub(crate) fn home(topic: &str, partition: u32) -> u64 {
    // The upper half is as good as any.
    u64::try_from(Hash::of("home").with(topic.as_bytes()).with(&partition.to_le_bytes()).end() >> 64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{Branch, SIDES_MAX};

    #[test]
    fn branches_of_long_ways_differ_and_stay_short() {
        let mut seen = BTreeSet::new();
        let mut branch = Branch::default();
        for step in 0..10 * SIDES_MAX {
            for side in 0..2 {
                let next = branch.clone().by(side);
                assert!(next.sides.len() <= SIDES_MAX, "after {step}");
                assert_eq!(Branch::parse(&next.to_string()), Some(next.clone()), "it is read as it was written");
                assert!(seen.insert(next), "two ways have one branch after {step}");
            }
            branch = branch.by(u16::from(step % 3 == 0));
        }
    }
}
