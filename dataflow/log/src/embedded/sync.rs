//! Group sync: one thread, one sync of the file for all appends that wait for it.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

use futures_util::FutureExt;
use futures_util::future::{self, BoxFuture};
use tokio::sync::oneshot;

use super::segment::Segment;
use super::{Durability, lock};
use crate::Error;

type Waiter = oneshot::Sender<Result<(), Error>>;

pub(super) struct GroupSync {
    durability: Durability,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Written to since the last sync, or now.
    segments: Vec<Arc<Segment>>,
    waiters: Vec<Waiter>,
    closed: bool,
}

impl GroupSync {
    pub(super) fn start(durability: Durability) -> Result<Self, Error> {
        Ok(Self { durability, state: Mutex::default(), changed: Condvar::new() })
    }

    /// From now on this segment is written to. The first call starts the thread.
    pub(super) fn follow(self: &Arc<Self>, segment: Arc<Segment>) {
        if self.durability == Durability::Process {
            return;
        }
        let first = {
            let mut state = lock(&self.state);
            state.segments.push(segment);
            state.segments.len() == 1
        };
        if first {
            let sync = Arc::clone(self);
            // Without it every wait ends in an error, because its sender is dropped.
            let thread = std::thread::Builder::new().name("log-sync".into()).spawn(move || sync.run());
            if thread.is_err() {
                self.close();
            }
        }
    }

    pub(super) fn rolled(&self, next: Arc<Segment>) {
        if self.durability == Durability::Disk {
            lock(&self.state).segments.push(next);
        }
    }

    /// Ends when everything that was appended before is as safe as was asked for.
    pub(super) fn wait(&self) -> BoxFuture<'static, Result<(), Error>> {
        if self.durability == Durability::Process {
            return future::ready(Ok(())).boxed();
        }
        let (waiter, synced) = oneshot::channel();
        {
            let mut state = lock(&self.state);
            if !state.closed {
                state.waiters.push(waiter);
            }
        }
        self.changed.notify_one();
        async move { synced.await.unwrap_or(Err(Error::Closed)) }.boxed()
    }

    pub(super) fn close(&self) {
        let mut state = lock(&self.state);
        state.closed = true;
        state.waiters.clear();
        drop(state);
        self.changed.notify_one();
    }

    fn run(&self) {
        loop {
            let (segments, waiters) = {
                let mut state = lock(&self.state);
                while state.waiters.is_empty() && !state.closed {
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                if state.closed {
                    return;
                }
                // The last one is written to and stays.
                let keep = state.segments.len().saturating_sub(1);
                let segments = state.segments.clone();
                state.segments.drain(..keep);
                (segments, std::mem::take(&mut state.waiters))
            };
            let synced = segments.iter().try_for_each(|segment| segment.file.sync_data());
            let outcome = synced.map_err(Error::io("sync the log"));
            for waiter in waiters {
                // Whoever is gone need not be told.
                let _gone = waiter.send(outcome.clone());
            }
        }
    }
}
