//! What can go wrong with a log.

use std::io;
use std::sync::Arc;

/// Why a call of the log failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Nobody made the topic, or it is deleted.
    #[error("no topic {0}")]
    NoTopic(Arc<str>),
    /// The topic has fewer.
    #[error("topic {topic} has {partitions} partitions, so none has the number {partition}")]
    NoPartition {
        /// Which topic.
        topic: Arc<str>,
        /// How many it has.
        partitions: u32,
        /// The one asked for.
        partition: u32,
    },
    /// A record of this size is never taken.
    #[error("a record of {bytes} bytes is larger than the limit of {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// Most that is taken.
        limit: usize,
    },
    /// Nothing more can be written now.
    #[error("the disk of the log is full")]
    Full,
    /// The disk fails.
    #[error("{doing}")]
    Io {
        /// What was tried.
        doing: String,
        /// What the system says.
        #[source]
        cause: Arc<io::Error>,
    },
    /// The list of topics and offsets fails.
    #[error("{doing} in the list of topics")]
    Catalog {
        /// What was tried.
        doing: &'static str,
        /// What LMDB says.
        #[source]
        cause: Arc<heed::Error>,
    },
    /// The log was closed meanwhile.
    #[error("the log is closed")]
    Closed,
}

impl Error {
    /// An error of the disk; a full one has a name of its own.
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |cause| match cause.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => Error::Full,
            _ => Error::Io { doing, cause: Arc::new(cause) },
        }
    }

    pub(crate) fn catalog(doing: &'static str) -> impl FnOnce(heed::Error) -> Self {
        move |cause| Error::Catalog { doing, cause: Arc::new(cause) }
    }

    /// Trying the same again later may help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Full | Error::Io { .. } | Error::Catalog { .. } => true,
            Error::NoTopic(_) | Error::NoPartition { .. } | Error::TooLarge { .. } | Error::Closed => false,
        }
    }
}
