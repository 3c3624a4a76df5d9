//! The streams of a connection run in the connection's own task, in turn with it. What a stream has ready goes out
//! together: a client must not see the head of an answer whose message and trailers are lost with the agent, because it
//! cannot try such a call again.
//!
//! Not here: how much of an answer is ready at once (`grpc`).

use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use hyper::rt::Executor;

type Stream = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The streams of one connection that have begun since it was last looked.
#[derive(Clone, Default)]
pub(super) struct Streams(Arc<Mutex<Vec<Stream>>>);

impl Streams {
    fn begun(&self) -> MutexGuard<'_, Vec<Stream>> {
        // Nothing in here panics between two changes that belong together.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a connection, which begins streams here, and them until it ends.
    pub(super) async fn run<T>(self, connection: impl Future<Output = T>) -> T {
        let mut connection = pin!(connection);
        let mut running = FuturesUnordered::new();
        poll_fn(|context| {
            if let Poll::Ready(end) = connection.as_mut().poll(context) {
                return Poll::Ready(end);
            }
            running.extend(self.begun().drain(..));
            // What they have ready wakes the connection, which is this task.
            while let Poll::Ready(Some(())) = running.poll_next_unpin(context) {}
            Poll::Pending
        })
        .await
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        // As in a task of its own, a stream that panics ends alone; the hook has said so.
        self.begun().push(Box::pin(AssertUnwindSafe(stream).catch_unwind().map(drop)));
    }
}
