//! Calls to the log of an installation (`switchyard.log.v1`).

use api::log::log_client::LogClient;
use messages::log as wire;
use tonic::Streaming;
use tonic::transport::Channel;

use super::{Error, MAX_MESSAGE, channel, refused};
use crate::address::Address;

/// A connection to the log.
pub(crate) struct Log {
    client: LogClient<Channel>,
    address: Address,
}

impl Log {
    pub(crate) async fn connect(address: Address) -> Result<Self, Error> {
        let client = LogClient::new(channel(&address, None).await?).max_decoding_message_size(MAX_MESSAGE);
        Ok(Self { client, address })
    }

    /// Topics whose names begin so.
    pub(crate) async fn list(&mut self, prefix: &str) -> Result<Vec<wire::Topic>, Error> {
        let answer = self.client.list(wire::ListRequest { prefix: prefix.to_owned() }).await;
        let answer = answer.map_err(|status| refused("list topics".to_owned(), &self.address, &status))?;
        Ok(answer.into_inner().topics)
    }

    /// All records of a partition that there are.
    pub(crate) async fn read(
        &mut self,
        topic: &str,
        partition: u32,
        mut each: impl FnMut(wire::Record),
    ) -> Result<(), Error> {
        let request = wire::ReadRequest { topic: topic.to_owned(), partition, from: None };
        let failed = |status: &tonic::Status| refused(format!("read {topic}"), &self.address, status);
        let mut records = self.client.read(request).await.map_err(|status| failed(&status))?.into_inner();
        while let Some(record) = records.message().await.map_err(|status| failed(&status))? {
            each(record);
        }
        Ok(())
    }

    /// Records of these topics as they come.
    pub(crate) async fn follow(&mut self, topics: Vec<String>) -> Result<Streaming<wire::Followed>, Error> {
        let answer = self.client.follow(wire::FollowRequest { topics }).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| refused("follow topics".to_owned(), &self.address, &status))
    }
}
