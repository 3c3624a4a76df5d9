//! What the scheduler says of its Envoys (CSDS).

use xds::ClientStatus;

use super::{Error, channel, refused};
use crate::address::Address;

/// Of one Envoy, or of all, by their node ids.
pub(crate) async fn statuses<T>(
    address: &Address,
    node: Option<&str>,
    mut of: impl FnMut(ClientStatus) -> T,
) -> Result<Vec<T>, Error> {
    let channel = channel(address, None).await?;
    let fetched = xds::fetch(channel, node, |status| (status.node.clone(), of(status))).await;
    let mut statuses =
        fetched.map_err(|status| refused("ask for the status of Envoys".to_owned(), address, &status))?;
    statuses.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(statuses.into_iter().map(|(_, kept)| kept).collect())
}
