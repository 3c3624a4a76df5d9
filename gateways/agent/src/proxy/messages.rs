//! The body of a gRPC call on its way to the server: every message gets the server's name of the model. Everything else
//! in a message is passed on as it came.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};
use http_body::Body;
use hyper::body::Incoming;

use super::body::Problem;
use super::frames::{Frames, PREFIX};

/// Below this the pieces of a message are copied together: one frame on the wire is cheaper than three.
const JOINED: usize = 16 << 10;

/// Memory for incomplete messages of all requests together.
#[derive(Debug)]
pub(crate) struct Budget {
    used: AtomicUsize,
    limit: usize,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), limit })
    }

    fn take(&self, bytes: usize) -> bool {
        let before = self.used.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) <= self.limit {
            return true;
        }
        self.give_back(bytes);
        false
    }

    fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

pub(crate) struct Messages {
    input: Incoming,
    frames: Frames,
    /// The server's name of the model; messages are passed on only once it is known.
    name: String,
    ready: VecDeque<Bytes>,
    budget: Arc<Budget>,
    taken: usize,
    is_over: bool,
}

impl Messages {
    pub(crate) fn new(input: Incoming, limit: usize, budget: Arc<Budget>) -> Self {
        let frames = Frames::new(limit);
        let name = String::new();
        Self { input, frames, name, ready: VecDeque::new(), budget, taken: 0, is_over: false }
    }

    /// The first message, unchanged; it must be given back with `begin`.
    pub(crate) async fn first(&mut self) -> Result<Option<Bytes>, Problem> {
        std::future::poll_fn(|context| self.poll_message(context)).await
    }

    /// From now on messages are for the model that the server calls `name`; `first` is the first of them.
    pub(crate) fn begin(&mut self, name: &str, first: Option<Bytes>) -> Result<(), Problem> {
        name.clone_into(&mut self.name);
        first.map_or(Ok(()), |first| self.rewrite(&first))
    }

    /// The next piece for the server.
    pub(crate) fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Problem>>> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(piece)));
            }
            match ready!(self.poll_message(context)) {
                Ok(Some(message)) => {
                    if let Err(problem) = self.rewrite(&message) {
                        return Poll::Ready(Some(Err(problem)));
                    }
                }
                Ok(None) => return Poll::Ready(None),
                Err(problem) => return Poll::Ready(Some(Err(problem))),
            }
        }
    }

    /// Whether `poll_piece` has nothing more.
    pub(crate) fn is_done(&self) -> bool {
        self.ready.is_empty() && (self.is_over || (self.input.is_end_stream() && self.frames.is_empty()))
    }

    fn poll_message(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Problem>> {
        loop {
            let next = self.frames.next();
            self.account()?;
            if let Some(message) = next? {
                return Poll::Ready(Ok(Some(message)));
            }
            if self.is_over {
                return Poll::Ready(self.frames.end().map(|()| None).map_err(Problem::from));
            }
            match ready!(Pin::new(&mut self.input).poll_frame(context)) {
                Some(Ok(frame)) => {
                    // gRPC requests have no trailers.
                    if let Ok(data) = frame.into_data() {
                        self.frames.push(data);
                    }
                }
                Some(Err(error)) => return Poll::Ready(Err(Problem::Client(Arc::new(error)))),
                None => self.is_over = true,
            }
        }
    }

    fn account(&mut self) -> Result<(), Problem> {
        let kept = self.frames.kept();
        if kept > self.taken {
            if !self.budget.take(kept - self.taken) {
                return Err(Problem::NoMemory);
            }
        } else {
            self.budget.give_back(self.taken - kept);
        }
        self.taken = kept;
        Ok(())
    }

    fn rewrite(&mut self, message: &Bytes) -> Result<(), Problem> {
        let message = oip::rewrite_model_name(message, &self.name)?;
        let length = message.len();
        let size = u32::try_from(length).map_err(|_| Problem::Grown)?;
        let joined = if length <= JOINED { length } else { message.head.len() };
        let mut head = BytesMut::with_capacity(PREFIX + joined);
        head.put_u8(0);
        head.put_u32(size);
        head.put_slice(&message.head);
        if length <= JOINED {
            message.rest.iter().for_each(|piece| head.put_slice(piece));
            self.ready.push_back(head.freeze());
        } else {
            self.ready.push_back(head.freeze());
            self.ready.extend(message.rest);
        }
        Ok(())
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        self.budget.give_back(self.taken);
    }
}
