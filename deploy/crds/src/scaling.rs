//! How many replicas a resource asks for: the rules that Model and Server share.

/// What the scheduler is told when there is no upper bound.
const UNLIMITED: u32 = u32::MAX;
/// Replicas when nothing is said.
const DEFAULT: u32 = 1;

/// Replica numbers that agree with each other: `min <= replicas <= max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scaling {
    /// Wanted.
    pub replicas: u32,
    /// Never fewer; 0 = no bound.
    pub min: u32,
    /// Never more.
    pub max: u32,
}

/// Numbers that contradict each other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadScaling {
    /// Fewer wanted than allowed.
    #[error("scaling spec is invalid: replicas ({replicas}) is less than minReplicas ({min})")]
    BelowMin {
        /// Wanted.
        replicas: i64,
        /// Allowed.
        min: i64,
    },
    /// More wanted than allowed.
    #[error("scaling spec is invalid: replicas ({replicas}) is more than maxReplicas ({max})")]
    AboveMax {
        /// Wanted.
        replicas: i64,
        /// Allowed.
        max: i64,
    },
    /// Nothing is allowed.
    #[error("scaling spec is invalid: minReplicas ({min}) is more than maxReplicas ({max})")]
    Bounds {
        /// Lower bound.
        min: i64,
        /// Upper bound.
        max: i64,
    },
    /// Less than nothing.
    #[error("scaling spec is invalid: {field} ({found}) is negative")]
    Negative {
        /// Which number.
        field: &'static str,
        /// As written.
        found: i64,
    },
}

impl BadScaling {
    /// The field that a user would change.
    #[must_use]
    pub fn field(&self) -> &'static str {
        match self {
            BadScaling::BelowMin { .. } | BadScaling::AboveMax { .. } => "replicas",
            BadScaling::Bounds { .. } => "minReplicas",
            BadScaling::Negative { field, .. } => field,
        }
    }
}

impl Scaling {
    /// What the three fields of a manifest mean; bounds of 0 count as not set.
    pub fn new(replicas: Option<i32>, min: Option<i32>, max: Option<i32>) -> Result<Scaling, BadScaling> {
        let number = |field, value: Option<i32>| match value {
            Some(value) => {
                u32::try_from(value).map(Some).map_err(|_| BadScaling::Negative { field, found: value.into() })
            }
            None => Ok(None),
        };
        let replicas = number("replicas", replicas)?;
        let min = number("minReplicas", min)?.unwrap_or(0);
        let max = number("maxReplicas", max)?.filter(|max| *max > 0).unwrap_or(UNLIMITED);
        if min > max {
            return Err(BadScaling::Bounds { min: min.into(), max: max.into() });
        }
        let replicas = replicas.unwrap_or(if min > 0 { min } else { DEFAULT });
        if replicas < min {
            return Err(BadScaling::BelowMin { replicas: replicas.into(), min: min.into() });
        }
        if replicas > max {
            return Err(BadScaling::AboveMax { replicas: replicas.into(), max: max.into() });
        }
        Ok(Scaling { replicas, min, max })
    }
}

#[cfg(test)]
mod tests {
    use super::{Scaling, UNLIMITED};

    #[test]
    fn replica_numbers_mean_one_thing_or_are_refused() {
        let some = |number: i32| (number >= -1).then_some(number);
        const UNSET: i32 = -2;
        let cases = [
            ((UNSET, UNSET, UNSET), Ok((1, 0, UNLIMITED))),
            ((UNSET, 2, UNSET), Ok((2, 2, UNLIMITED))),
            ((UNSET, UNSET, 5), Ok((1, 0, 5))),
            ((0, UNSET, UNSET), Ok((0, 0, UNLIMITED))),
            ((0, 0, 0), Ok((0, 0, UNLIMITED))),
            ((3, 2, 6), Ok((3, 2, 6))),
            ((UNSET, 3, 3), Ok((3, 3, 3))),
            ((1, 2, UNSET), Err("replicas (1) is less than minReplicas (2)")),
            ((0, 1, UNSET), Err("replicas (0) is less than minReplicas (1)")),
            ((7, UNSET, 6), Err("replicas (7) is more than maxReplicas (6)")),
            ((UNSET, 4, 3), Err("minReplicas (4) is more than maxReplicas (3)")),
            ((-1, UNSET, UNSET), Err("replicas (-1) is negative")),
            ((UNSET, -1, UNSET), Err("minReplicas (-1) is negative")),
            ((UNSET, UNSET, -1), Err("maxReplicas (-1) is negative")),
        ];
        for ((replicas, min, max), expected) in cases {
            let found = Scaling::new(some(replicas), some(min), some(max));
            let found = found.map(|s| (s.replicas, s.min, s.max)).map_err(|error| error.to_string());
            assert_eq!(found, expected.map_err(|reason| format!("scaling spec is invalid: {reason}")));
        }
    }
}
