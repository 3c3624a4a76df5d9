//! Records, as they are appended and as they are read.

use bytes::Bytes;
use domain::Time;

/// Name and value beside a record's value. Names may repeat.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Header {
    /// UTF-8.
    pub name: String,
    /// Any bytes.
    pub value: Bytes,
}

impl Header {
    /// A header with a text.
    pub fn text(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self { name: name.into(), value: Bytes::from(value.into()) }
    }
}

/// A record on its way into the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Append {
    /// Who belongs together.
    pub key: Bytes,
    /// What is said.
    pub value: Bytes,
    /// In the order in which they are read again.
    pub headers: Vec<Header>,
}

impl Append {
    /// What counts against the limit of a record.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let headers = self.headers.iter().map(|header| header.name.len() + header.value.len() + 6).sum::<usize>();
        self.key.len() + self.value.len() + headers
    }
}

/// Where a record went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Its number in the partition.
    pub offset: u64,
    /// When the log took it; never less than that of the record before.
    pub time: Time,
}

/// A record of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its number in the partition.
    pub offset: u64,
    /// When the log took it.
    pub time: Time,
    /// As appended.
    pub key: Bytes,
    /// As appended.
    pub value: Bytes,
    /// As appended.
    pub headers: Vec<Header>,
}

impl Record {
    /// The value of the last header of that name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&Bytes> {
        self.headers.iter().rev().find(|header| header.name == name).map(|header| &header.value)
    }
}
