//! What the scheduler says of its Envoys (CSDS).

use xds::ClientStatus;

use super::{Error, channel, refused};
use crate::address::Address;

/// Of one Envoy, or of all, by their node ids.
pub(crate) async fn statuses(address: &Address, node: Option<&str>) -> Result<Vec<ClientStatus>, Error> {
    let channel = channel(address, None).await?;
    let fetched = xds::fetch(channel, node).await;
    let mut statuses =
        fetched.map_err(|status| refused("ask for the status of Envoys".to_owned(), address, &status))?;
    statuses.sort_by(|a, b| a.node.cmp(&b.node));
    Ok(statuses)
}
