//! The requests of one stream, and what those that are not complete may cost: a large one is read only as long as there is
//! room for all that it announced, beside those of all other streams, and its client must end it in time. So a thousand Envoys
//! that come back at once, each listing all it has, are read a part after another.
//!
//! Not here: what is in a request (`wire`).

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use http_body::{Body, Frame};
use prost::Message;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, oneshot};
use tonic::codec::Streaming;
use tonic::{Status, body::Body as TonicBody};

use crate::wire::Requests;

/// A request at 100,000 models lists as many versions: 1.7 MB. Room for long names and forty times the models.
const MAX_REQUEST_BYTES: usize = 64 << 20;

/// What requests that are not complete may announce together.
const ROOM_BYTES: usize = 4 * MAX_REQUEST_BYTES;

/// A shorter one needs no room: nearly every request is an acknowledgement.
const SMALL_BYTES: usize = 64 << 10;

/// How long a client may take for a longer one.
const COMPLETE_WITHIN: Duration = Duration::from_secs(60);

/// The header of a gRPC message: whether it is compressed, and its length in four bytes.
const HEADER_BYTES: usize = 5;

/// Room for requests that have begun, in kilobytes.
#[derive(Clone, Debug)]
pub(crate) struct Room(Arc<Semaphore>);

impl Default for Room {
    fn default() -> Self {
        Room(Arc::new(Semaphore::new(kilobytes(ROOM_BYTES))))
    }
}

fn kilobytes(bytes: usize) -> usize {
    bytes.div_ceil(1_024)
}

/// Requests as they come.
pub(crate) struct Inbox<T>(Arc<Mutex<Slot<T>>>);

struct Slot<T> {
    /// `None` after a request that was not complete in time.
    requests: Option<Streaming<T>>,
    waker: Option<Waker>,
}

fn lock<T>(slot: &Mutex<Slot<T>>) -> MutexGuard<'_, Slot<T>> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: Message + Default + Send + 'static> Inbox<T> {
    pub fn new(body: TonicBody, room: Room) -> Self {
        let slot = Arc::new(Mutex::new(Slot { requests: None, waker: None }));
        let closed: Weak<Mutex<Slot<T>>> = Arc::downgrade(&slot);
        // A stream whose client takes no responses is not looked at, so it is told from outside, and what it read is freed.
        let close = move || {
            if let Some(slot) = closed.upgrade() {
                let Slot { requests, waker } = &mut *lock(&slot);
                *requests = None;
                waker.take().into_iter().for_each(Waker::wake);
            }
        };
        let body = Metered { body, place: Place::START, turn: Turn::None, room, close: Arc::new(close) };
        let requests = Streaming::new_request(Requests::new(), body, None, Some(MAX_REQUEST_BYTES));
        lock(&slot).requests = Some(requests);
        Inbox(slot)
    }

    /// The next request; `None` when the client is gone. Safe to cancel: one that is not complete stays.
    pub async fn next(&mut self) -> Result<Option<T>, Status> {
        poll_fn(|context| {
            let mut slot = lock(&self.0);
            let Some(requests) = &mut slot.requests else {
                let text = format!("a request was not complete after {} s", COMPLETE_WITHIN.as_secs());
                return Poll::Ready(Err(Status::deadline_exceeded(text)));
            };
            match Pin::new(requests).poll_next(context) {
                Poll::Ready(next) => Poll::Ready(next.transpose()),
                Poll::Pending => {
                    slot.waker = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }
}

/// Where in its messages a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Header { bytes: [u8; HEADER_BYTES], have: usize },
    Message { length: usize, missing: usize },
}

impl Place {
    const START: Place = Place::Header { bytes: [0; HEADER_BYTES], have: 0 };

    /// The place after these bytes, and whether a message has begun or ended in them.
    fn after(mut self, mut data: &[u8]) -> (Place, bool) {
        let mut is_other = false;
        while !data.is_empty() {
            let missing = match &self {
                Place::Header { have, .. } => HEADER_BYTES - have,
                Place::Message { missing, .. } => *missing,
            };
            let (taken, rest) = data.split_at(missing.min(data.len()));
            data = rest;
            match &mut self {
                Place::Header { bytes, have } => {
                    bytes[*have..*have + taken.len()].copy_from_slice(taken);
                    *have += taken.len();
                    if *have == HEADER_BYTES {
                        let [_, a, b, c, d] = *bytes;
                        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
                        self = Place::Message { length, missing: length };
                        is_other = true;
                    }
                }
                Place::Message { missing, .. } => *missing -= taken.len(),
            }
            if matches!(self, Place::Message { missing: 0, .. }) {
                self = Place::START;
                is_other = true;
            }
        }
        (self, is_other)
    }
}

/// A large request's.
enum Turn {
    None,
    Awaited {
        permit: Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send>>,
        /// With which it began.
        data: Bytes,
    },
    Taken {
        _over: oneshot::Sender<()>,
    },
}

/// The body of the requests, read as there is room.
struct Metered {
    body: TonicBody,
    place: Place,
    turn: Turn,
    room: Room,
    close: Arc<dyn Fn() + Send + Sync>,
}

impl Metered {
    /// Takes note of what was read; a large request that began in it waits for its turn.
    fn note(&mut self, data: &Bytes) {
        let (place, is_other) = self.place.after(data);
        self.place = place;
        if is_other {
            self.turn = Turn::None;
        }
        // One that is too long is an error before anything of it is kept.
        if let (true, Place::Message { length: length @ SMALL_BYTES..=MAX_REQUEST_BYTES, .. }) = (is_other, place) {
            let kilobytes = u32::try_from(kilobytes(length)).unwrap_or(u32::MAX);
            let permit = Box::pin(Arc::clone(&self.room.0).acquire_many_owned(kilobytes));
            self.turn = Turn::Awaited { permit, data: data.clone() };
        }
    }

    fn take_turn(&mut self, permit: OwnedSemaphorePermit) {
        let (over, ended) = oneshot::channel::<()>();
        let close = Arc::clone(&self.close);
        let late = tokio::time::sleep(COMPLETE_WITHIN);
        tokio::spawn(async move {
            tokio::select! {
                () = late => close(),
                _dropped = ended => {}
            }
            drop(permit);
        });
        self.turn = Turn::Taken { _over: over };
    }
}

impl Body for Metered {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            if let Turn::Awaited { permit, data } = &mut self.turn {
                let permit = ready!(permit.as_mut().poll(context));
                let permit = permit.map_err(|_closed| Status::unavailable("no more requests are read"))?;
                let data = std::mem::take(data);
                self.take_turn(permit);
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(frame) => frame?,
                None => return Poll::Ready(None),
            };
            if let Some(data) = frame.data_ref() {
                self.note(data);
            }
            if !matches!(self.turn, Turn::Awaited { .. }) {
                return Poll::Ready(Some(Ok(frame)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, StreamExt};
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::UnboundedReceiverStream;

    use super::*;
    use crate::wire::DeltaRequest;

    type Wire = mpsc::UnboundedSender<Bytes>;

    /// What of a body has not been sent yet comes by the sender.
    struct Coming(UnboundedReceiverStream<Bytes>);

    impl Body for Coming {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            self.0.poll_next_unpin(context).map(|data| data.map(|data| Ok(Frame::data(data))))
        }
    }

    fn inbox(room: &Room) -> (Wire, Inbox<DeltaRequest>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (sender, Inbox::new(TonicBody::new(Coming(UnboundedReceiverStream::new(receiver))), room.clone()))
    }

    /// A request whose type is as long as this, in frames as HTTP/2 has them.
    fn large(bytes: usize) -> Vec<Bytes> {
        let mut message = vec![2 << 3 | 2];
        prost::encode_length_delimiter(bytes, &mut message).unwrap();
        message.resize(message.len() + bytes, b'x');
        let mut framed = vec![0];
        framed.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
        framed.extend(message);
        framed.chunks(16 << 10).map(Bytes::copy_from_slice).collect()
    }

    fn send(wire: &Wire, frames: &[Bytes]) {
        frames.iter().for_each(|frame| wire.send(frame.clone()).unwrap());
    }

    fn free(room: &Room) -> usize {
        room.0.available_permits()
    }

    const HALF: usize = ROOM_BYTES / 8;

    #[tokio::test(start_paused = true)]
    async fn a_large_request_waits_until_there_is_room_for_it_and_a_small_one_does_not() {
        let room = Room::default();
        let frames = large(2 * HALF - 1_024);
        let mut all: Vec<_> = (0..4).map(|_| inbox(&room)).collect();
        for (wire, inbox) in &mut all {
            send(wire, &frames[..2]);
            assert!(inbox.next().now_or_never().is_none());
        }
        assert_eq!(free(&room), 0, "all is taken, for all that they announced");
        let (wire, mut waits) = inbox(&room);
        send(&wire, &large(SMALL_BYTES));
        assert!(waits.next().now_or_never().is_none());
        let (other_wire, mut other) = inbox(&room);
        send(&other_wire, &large(100));
        assert!(other.next().now_or_never().is_some(), "an acknowledgement needs none");
        let (wire, first) = &mut all[0];
        send(wire, &frames[2..]);
        assert!(matches!(first.next().await, Ok(Some(_))));
        assert!(matches!(waits.next().await, Ok(Some(_))));
        drop(all);
        tokio::task::yield_now().await;
        assert_eq!(free(&room), kilobytes(ROOM_BYTES), "whoever goes gives back what it had");
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_request_that_is_not_complete_in_time_ends_its_stream_whether_it_is_looked_at_or_not() {
        let room = Room::default();
        let (wire, mut inbox) = inbox(&room);
        let (unseen_wire, mut unseen) = self::inbox(&room);
        for (wire, inbox) in [(&wire, &mut inbox), (&unseen_wire, &mut unseen)] {
            send(wire, &large(HALF)[..3]);
            assert!(inbox.next().now_or_never().is_none());
        }
        let status = inbox.next().await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
        assert_eq!(status.message(), "a request was not complete after 60 s");
        tokio::task::yield_now().await;
        assert_eq!(free(&room), kilobytes(ROOM_BYTES));
        assert!(unseen_wire.is_closed(), "what it read is freed");
        assert!(unseen.next().await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn requests_are_told_apart_wherever_they_are_cut() {
        let room = Room::default();
        let (wire, mut inbox) = inbox(&room);
        let all: Vec<u8> = [SMALL_BYTES * 2, 0, 7, SMALL_BYTES].iter().flat_map(|bytes| large(*bytes).concat()).collect();
        for cut in [1, 3, 5, 1_000, SMALL_BYTES + 3] {
            all.chunks(cut).for_each(|part| wire.send(Bytes::copy_from_slice(part)).unwrap());
            for _ in 0..4 {
                assert!(matches!(inbox.next().await, Ok(Some(_))), "{cut}");
            }
            tokio::task::yield_now().await;
            assert_eq!(free(&room), kilobytes(ROOM_BYTES), "{cut}");
        }
    }
}
