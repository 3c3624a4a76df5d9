//! Endless status streams: what there is, then every change, each at the subscriber's pace.
//!
//! A task for each stream carries messages from its feed to its socket. Whoever takes nothing for the limit is cut off
//! and forgotten; it comes back and is told everything.

use std::future::Future;
use std::hash::Hash;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use runtime::{OnError, Stop, Tasks};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};
use tracing::info;

use super::agents::Never;
use crate::counters::Counters;
use crate::driver::Rejected;
use crate::feed::{Feed, Item};

/// Messages between a feed and its socket: the socket's own buffers do the rest.
const IN_FLIGHT: usize = 16;

/// Messages that are looked up at once.
const CHUNK: usize = 64;

/// The answers of a stream.
pub(crate) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// How a stream is carried.
#[derive(Clone)]
pub(crate) struct Carrier {
    pub(crate) tasks: Tasks,
    pub(crate) stop: Stop,
    /// True once the start is over.
    pub(crate) synchronised: watch::Receiver<bool>,
    /// How long a subscriber may take nothing.
    pub(crate) limit: Duration,
    pub(crate) counters: Arc<Counters>,
}

/// How long changes are gathered before they are sent; none for what is urgent.
#[derive(Clone, Copy)]
pub(crate) struct Pace(pub(crate) Duration);

impl Carrier {
    /// A stream of what `subscribe` gives; entries without a message are resolved by `look`, which gives as many
    /// messages as there still are resources. `waits`: nothing is sent before the start is over.
    pub(crate) fn carry<K, M, S, L>(
        &self,
        waits: bool,
        pace: Pace,
        subscribe: impl FnOnce() -> S + Send + 'static,
        look: impl Fn(Vec<K>) -> L + Send + Sync + 'static,
    ) -> Response<Answers<M>>
    where
        K: Clone + Eq + Hash + Send + Sync + 'static,
        M: Clone + Send + Sync + 'static,
        S: Future<Output = Result<Arc<Feed<K, M>>, Rejected>> + Send,
        L: Future<Output = Result<Vec<M>, Rejected>> + Send,
    {
        let (outgoing, stream) = mpsc::channel(IN_FLIGHT);
        let (stop, limit, counters) = (self.stop.clone(), self.limit, self.counters.clone());
        let mut synchronised = self.synchronised.clone();
        self.tasks.spawn("status-stream", OnError::Log, async move {
            let carried = async {
                if waits && synchronised.wait_for(|is| *is).await.is_err() {
                    return Err(Rejected::Stopping); // its sender ends with the process
                }
                let feed = subscribe().await?;
                loop {
                    feed.filled().await;
                    tokio::select! {
                        // Both arms are cancel-safe.
                        () = feed.urgent() => {}
                        () = tokio::time::sleep(pace.0) => {}
                    }
                    if !pass_on(&feed, &look, &outgoing, limit).await? {
                        return Ok(());
                    }
                }
            };
            let outcome = tokio::select! {
                // All three arms may be dropped at any point: the feed is dropped with them.
                outcome = carried => outcome,
                () = outgoing.closed() => return Ok(()),
                () = stop.requested() => return Ok(()),
            };
            let last = match outcome {
                Ok(()) => {
                    counters.cut_off();
                    Status::deadline_exceeded("the subscriber does not read")
                }
                Err(error) => super::rejected(&error),
            };
            info!(code = ?last.code(), "status stream ended");
            // It waits behind what the subscriber has not read; whoever reads on is told why no more comes.
            tokio::select! {
                _told = outgoing.send(Err(last)) => {}
                () = stop.requested() => {}
            }
            Ok::<(), Never>(())
        });
        Response::new(ReceiverStream::new(stream).boxed())
    }
}

/// Sends what is in the feed. False: the subscriber takes nothing.
async fn pass_on<K, M, L>(
    feed: &Feed<K, M>,
    look: &impl Fn(Vec<K>) -> L,
    outgoing: &mpsc::Sender<Result<M, Status>>,
    limit: Duration,
) -> Result<bool, Rejected>
where
    K: Clone + Eq + Hash,
    M: Clone,
    L: Future<Output = Result<Vec<M>, Rejected>>,
{
    loop {
        let items = feed.take(CHUNK);
        if items.is_empty() {
            return Ok(true);
        }
        let mut unknown = Vec::new();
        let mut messages = Vec::new();
        for Item { key, message } in items {
            match message {
                Some(message) => messages.push(M::clone(&message)),
                None => unknown.push(key),
            }
        }
        if !unknown.is_empty() {
            // What is looked up is at least as new as what came with a message, and about other resources.
            let looked_up = look(unknown).await?;
            messages.splice(0..0, looked_up);
        }
        for message in messages {
            match tokio::time::timeout(limit, outgoing.send(Ok(message))).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Ok(false),
            }
        }
    }
}
