//! Numbers that identify things, and identities made of several parts.

use std::fmt;

use crate::{ModelName, ServerName};

macro_rules! number {
    ($(#[$doc:meta])* $type:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(pub $inner);

        impl $type {
            /// The number after this one.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// Numbers the versions of one model, from 1.
    VersionNumber(u32)
);
number!(
    /// Numbers the replicas of one server, from 0.
    ReplicaIndex(u32)
);
number!(
    /// Fence of a command: a report about an older one changes nothing.
    Clock(u64)
);
number!(
    /// Counts the changes of one route; what Envoy has applied is told by it.
    Generation(u64)
);
number!(
    /// Identifies a request that waits for its reply.
    Ticket(u64)
);

/// One immutable version of a model.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelVersionId {
    /// The model.
    pub model: ModelName,
    /// Which of its versions.
    pub number: VersionNumber,
}

impl ModelVersionId {
    /// The name on the wire: `<model>_<version>` (`spec/data-plane.md` §0.3).
    #[must_use]
    pub fn internal_name(&self) -> String {
        format!("{}_{}", self.model, self.number)
    }

    /// The inverse of [`ModelVersionId::internal_name`].
    #[must_use]
    pub fn from_internal_name(text: &str) -> Option<Self> {
        let (model, number) = text.rsplit_once('_')?;
        Some(Self { model: ModelName::parse(model).ok()?, number: VersionNumber(number.parse().ok()?) })
    }
}

impl fmt::Display for ModelVersionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.model, self.number)
    }
}

/// One replica of a server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId {
    /// The server.
    pub server: ServerName,
    /// Which of its replicas.
    pub index: ReplicaIndex,
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.server, self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::{ModelVersionId, VersionNumber};
    use crate::ModelName;

    #[test]
    fn internal_names_go_there_and_back() {
        let id = ModelVersionId { model: ModelName::parse("a-b").expect("a name"), number: VersionNumber(12) };
        assert_eq!(id.internal_name(), "a-b_12");
        assert_eq!(ModelVersionId::from_internal_name("a-b_12"), Some(id));
        for bad in ["", "iris", "iris_", "_1", "iris_x", "Iris_1", "iris_-1", "iris_99999999999"] {
            assert_eq!(ModelVersionId::from_internal_name(bad), None, "{bad}");
        }
    }
}
