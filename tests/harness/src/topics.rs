//! The topics of an installation, by `log.v1`.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use api::log::log_client::LogClient;
use bytes::Bytes;
use messages::log as wire;
use tonic::transport::{Channel, Endpoint};

use crate::until;

const WITHIN: Duration = Duration::from_secs(10);

/// Partition and key of what [`Topics::append`] writes.
pub const MINE: (u32, &str) = (5, "5.mine");

/// A client of the log.
#[derive(Clone, Debug)]
pub struct Topics {
    client: LogClient<Channel>,
}

impl Topics {
    pub(crate) fn new(address: SocketAddr) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address makes a URL");
        Self { client: LogClient::new(endpoint.connect_lazy()) }
    }

    /// All topics whose names begin so.
    pub async fn list(&self, prefix: &str) -> Result<Vec<wire::Topic>> {
        let request = wire::ListRequest { prefix: prefix.to_owned() };
        Ok(self.client.clone().list(request).await?.into_inner().topics)
    }

    /// Whether there is a topic of that name.
    pub async fn has(&self, name: &str) -> Result<bool> {
        Ok(self.list(name).await?.iter().any(|topic| topic.name == name))
    }

    /// All records of a topic, one partition after the other.
    pub async fn read(&self, topic: &str) -> Result<Vec<wire::Record>> {
        let known = self.list(topic).await?.into_iter().find(|known| known.name == topic);
        let known = known.with_context(|| format!("there is no topic {topic}"))?;
        let mut records = Vec::new();
        for (partition, _) in (0_u32..).zip(known.partitions) {
            let request = wire::ReadRequest { topic: topic.to_owned(), partition, from: None };
            let mut stream = self.client.clone().read(request).await?.into_inner();
            while let Some(record) = stream.message().await? {
                records.push(record);
            }
        }
        Ok(records)
    }

    /// Appends a record as a foreign producer does, at [`MINE`]; gives its offset.
    pub async fn append(&self, topic: &str, value: Bytes, headers: &[(&str, &str)]) -> Result<u64> {
        let header = |(name, value): &(&str, &str)| wire::Header {
            name: (*name).into(),
            value: Bytes::from((*value).to_owned()),
        };
        let (partition, key) = MINE;
        let request = wire::AppendRequest {
            topic: topic.into(),
            partition,
            key: Bytes::from_static(key.as_bytes()),
            value,
            headers: headers.iter().map(header).collect(),
        };
        Ok(self.client.clone().append(request).await?.into_inner().offset)
    }

    /// Waits for so many records of a topic with that key.
    pub async fn arrives(&self, topic: &str, key: &str, count: usize) -> Result<Vec<wire::Record>> {
        until(WITHIN, &format!("{count} records in {topic}"), async || {
            let all = self.read(topic).await?.into_iter();
            let found: Vec<_> = all.filter(|record| record.key == key.as_bytes()).collect();
            ensure!(found.len() == count, "{} records", found.len());
            Ok(found)
        })
        .await
    }
}

/// All values of a record's header.
#[must_use]
pub fn header_of<'a>(record: &'a wire::Record, name: &str) -> Vec<&'a str> {
    let values = record.headers.iter().filter(|header| header.name == name);
    values.map(|header| std::str::from_utf8(&header.value).unwrap_or("no text")).collect()
}
