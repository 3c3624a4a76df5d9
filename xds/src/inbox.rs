//! The requests of one stream, out of the bytes of its body; and what those that are not complete may cost. A stream that says
//! nothing keeps nothing. What is large of a request is read only as long as there is room for all that it announced, beside those
//! of all other streams, and its client must come on with it. So a thousand Envoys that come back at once, each listing all it has,
//! are read a part after another.
//!
//! Not here: what is in a request (`wire`).

use std::future::poll_fn;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::Body;
use prost::Message;
use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tonic::{Code, Status, body::Body as TonicBody};

use crate::wire;

/// A request at 100,000 models lists as many versions: 1.7 MB. Room for long names and forty times the models.
const MAX_REQUEST_BYTES: usize = 64 << 20;

/// What requests that are not complete may announce together. Who waits for room is not read, so that the transport keeps as much of
/// it as its window allows.
const ROOM_BYTES: usize = 4 * MAX_REQUEST_BYTES;

/// So much of a request is read without room: nearly every one is an acknowledgement.
const SMALL_BYTES: usize = 64 << 10;

/// How long a client may take for a request, without the time that it waits for room.
const COMPLETE_WITHIN: Duration = Duration::from_secs(60);

/// While others wait for room, so much has to come of a request that has some in each step.
const STEP: Duration = Duration::from_millis(500);
const STEP_BYTES: usize = 16 << 10;

/// The header of a gRPC message: whether it is compressed, and its length in four bytes.
const HEADER_BYTES: usize = 5;

/// Room for requests that have begun.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    kilobytes: Arc<Semaphore>,
    /// Requests that wait for it.
    waiting: Arc<AtomicUsize>,
}

impl Default for Room {
    fn default() -> Self {
        Room { kilobytes: Arc::new(Semaphore::new(kilobytes(ROOM_BYTES))), waiting: Arc::default() }
    }
}

fn kilobytes(bytes: usize) -> usize {
    bytes.div_ceil(1_024)
}

/// One that waits, until it is dropped.
struct Waiting(Arc<AtomicUsize>);

impl Waiting {
    fn new(room: &Room) -> Self {
        room.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(Arc::clone(&room.waiting))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Requests as they come.
pub(crate) struct Inbox<T> {
    slot: Arc<Mutex<Slot>>,
    requests: PhantomData<fn() -> T>,
}

impl<T: Message + Default> Inbox<T> {
    pub fn new(body: TonicBody, room: Room) -> Self {
        let reading = Reading { body, rest: Bytes::new(), part: Part::START, room };
        let slot = Arc::new(Mutex::new(Slot { reading: Ok(reading), waker: None }));
        Inbox { slot, requests: PhantomData }
    }

    /// The next request; `None` when the client is gone. Safe to cancel: one that is not complete stays.
    pub async fn next(&mut self) -> Result<Option<T>, Status> {
        let message = poll_fn(|context| self.poll_message(context)).await?;
        message.map(wire::read).transpose()
    }

    fn poll_message(&self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
        let Slot { reading, waker } = &mut *lock(&self.slot);
        let reading = reading.as_mut().map_err(|status| status.clone())?;
        match waker {
            Some(waker) => waker.clone_from(context.waker()),
            None => *waker = Some(context.waker().clone()),
        }
        reading.poll_message(context, &self.slot)
    }
}

/// Shared with who looks at the clock.
struct Slot {
    /// Or why nothing more is read.
    reading: Result<Reading, Status>,
    waker: Option<Waker>,
}

fn lock(slot: &Mutex<Slot>) -> MutexGuard<'_, Slot> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Reading {
    body: TonicBody,
    /// What has come and is not looked at.
    rest: Bytes,
    part: Part,
    room: Room,
}

/// What is read next.
enum Part {
    Header {
        bytes: [u8; HEADER_BYTES],
        have: usize,
    },
    Message {
        length: usize,
        have: BytesMut,
        turn: Turn,
        /// Since something of it is missing.
        watch: Option<oneshot::Sender<()>>,
    },
}

/// To be read beyond the first bytes.
enum Turn {
    None,
    Awaited {
        permit: Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send>>,
        _waiting: Waiting,
    },
    Taken {
        _permit: OwnedSemaphorePermit,
    },
}

impl Turn {
    /// Ready when it does not wait for room.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        if let Turn::Awaited { permit, .. } = self {
            let permit = ready!(permit.as_mut().poll(context));
            let permit = permit.map_err(|_closed| Status::unavailable("no more requests are read"))?;
            *self = Turn::Taken { _permit: permit };
        }
        Poll::Ready(Ok(()))
    }
}

impl Part {
    const START: Part = Part::Header { bytes: [0; HEADER_BYTES], have: 0 };
}

impl Reading {
    fn poll_message(
        &mut self,
        context: &mut Context<'_>,
        slot: &Arc<Mutex<Slot>>,
    ) -> Poll<Result<Option<Bytes>, Status>> {
        loop {
            match &mut self.part {
                Part::Header { bytes, have } => {
                    let taken = self.rest.split_to(self.rest.len().min(HEADER_BYTES - *have));
                    bytes[*have..*have + taken.len()].copy_from_slice(&taken);
                    *have += taken.len();
                    if *have == HEADER_BYTES {
                        let length = length(*bytes)?;
                        self.part = Part::Message { length, have: BytesMut::new(), turn: Turn::None, watch: None };
                        continue;
                    }
                }
                Part::Message { length, have, turn, watch } => {
                    ready!(turn.poll(context))?;
                    if have.is_empty() && self.rest.len() >= *length {
                        let message = self.rest.split_to(*length);
                        self.part = Part::START;
                        return Poll::Ready(Ok(Some(message)));
                    }
                    let allowed = match turn {
                        Turn::Taken { .. } => *length,
                        Turn::None | Turn::Awaited { .. } => SMALL_BYTES.min(*length),
                    };
                    have.reserve(allowed - have.len());
                    have.extend_from_slice(&self.rest.split_to(self.rest.len().min(allowed - have.len())));
                    if have.len() == *length {
                        let message = std::mem::take(have).freeze();
                        self.part = Part::START;
                        return Poll::Ready(Ok(Some(message)));
                    }
                    watch.get_or_insert_with(|| watched(&self.room, slot));
                    if have.len() == allowed {
                        let kilobytes = u32::try_from(kilobytes(*length)).unwrap_or(u32::MAX);
                        let permit = Box::pin(Arc::clone(&self.room.kilobytes).acquire_many_owned(kilobytes));
                        *turn = Turn::Awaited { permit, _waiting: Waiting::new(&self.room) };
                        continue;
                    }
                }
            }
            // All that has come is looked at.
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => self.rest = frame.into_data().unwrap_or_default(),
                Some(Err(status)) if status.code() == Code::Cancelled => return Poll::Ready(Ok(None)),
                Some(Err(status)) => return Poll::Ready(Err(status)),
                None => {
                    return Poll::Ready(match self.part {
                        Part::Header { have: 0, .. } => Ok(None),
                        Part::Header { .. } | Part::Message { .. } => {
                            Err(Status::internal("the requests end in the middle of one"))
                        }
                    });
                }
            }
        }
    }
}

/// Length of the message, from its header.
fn length(header: [u8; HEADER_BYTES]) -> Result<usize, Status> {
    let [is_compressed, a, b, c, d] = header;
    if is_compressed != 0 {
        return Err(Status::unimplemented(
            "a request is compressed: requests are read as they are (grpc-encoding: identity)",
        ));
    }
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    if length > MAX_REQUEST_BYTES {
        let text = format!("a request of {length} bytes; at most {MAX_REQUEST_BYTES} are read");
        return Err(Status::out_of_range(text));
    }
    Ok(length)
}

/// Looks after a request that is not complete, until what this returns is dropped. If it does not come on, what was read is freed, by
/// a task because nobody looks at a stream whose client takes no responses; the stream ends as soon as it is looked at.
fn watched(room: &Room, slot: &Arc<Mutex<Slot>>) -> oneshot::Sender<()> {
    let (complete, mut ended) = oneshot::channel();
    let (slot, room) = (Arc::downgrade(slot), room.clone());
    tokio::spawn(async move {
        let (mut spent, mut had, mut had_room) = (Duration::ZERO, 0, false);
        loop {
            tokio::select! {
                () = tokio::time::sleep(STEP) => {}
                _dropped = &mut ended => return,
            }
            let Some(slot) = slot.upgrade() else { return };
            let Slot { reading, waker } = &mut *lock(&slot);
            // It may have become complete in this moment.
            let (Err(TryRecvError::Empty), Ok(Reading { part: Part::Message { have, turn, .. }, .. })) =
                (ended.try_recv(), &mut *reading)
            else {
                return;
            };
            if matches!(turn, Turn::Awaited { .. }) {
                // The room is its own as soon as there is some, and so is the time from then on.
                if let Some(waker) = waker
                    && turn.poll(&mut Context::from_waker(waker)).is_ready()
                {
                    waker.wake_by_ref();
                }
                continue;
            }
            let (came, has_room) = (have.len() - had, matches!(turn, Turn::Taken { .. }));
            spent += STEP;
            let is_slow = had_room && came < STEP_BYTES && room.waiting.load(Ordering::Relaxed) > 0;
            (had, had_room) = (have.len(), has_room);
            let status = if is_slow {
                Status::resource_exhausted("a request did not come on while others waited for its room")
            } else if spent >= COMPLETE_WITHIN {
                let text = format!("a request was not complete after {} s", COMPLETE_WITHIN.as_secs());
                Status::deadline_exceeded(text)
            } else {
                continue;
            };
            *reading = Err(status);
            if let Some(waker) = waker.take() {
                waker.wake();
            }
            return;
        }
    });
    complete
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, StreamExt};
    use http_body::Frame;
    use proptest::prelude::*;
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

        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
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
        room.kilobytes.available_permits()
    }

    /// Of the longest request.
    const HALF: usize = MAX_REQUEST_BYTES / 2;

    /// Frames of a large request, so many that it needs room.
    const BEGUN: usize = 5;

    #[tokio::test(start_paused = true)]
    async fn a_large_request_waits_until_there_is_room_for_it_and_a_small_one_does_not() {
        let (room, began) = (Room::default(), tokio::time::Instant::now());
        let frames = large(2 * HALF - 1_024);
        let mut all: Vec<_> = (0..4).map(|_| inbox(&room)).collect();
        for (wire, inbox) in &mut all {
            send(wire, &frames[..BEGUN]);
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
        send(wire, &frames[BEGUN..]);
        assert!(matches!(first.next().await, Ok(Some(_))));
        assert!(matches!(waits.next().await, Ok(Some(_))));
        drop(all);
        tokio::task::yield_now().await;
        assert_eq!(free(&room), kilobytes(ROOM_BYTES), "whoever goes gives back what it had");
        assert_eq!(began.elapsed(), Duration::ZERO, "nobody's time was over");
    }

    #[tokio::test(start_paused = true)]
    async fn who_announces_much_and_does_not_come_on_is_left_when_others_wait() {
        let (room, began) = (Room::default(), tokio::time::Instant::now());
        let frames = large(2 * HALF - 1_024);
        // Four have room and three wait for it. Nobody looks at them.
        let mut idle: Vec<_> = (0..7).map(|_| inbox(&room)).collect();
        for (wire, inbox) in &mut idle {
            send(wire, &frames[..BEGUN]);
            assert!(inbox.next().now_or_never().is_none());
        }
        // It only announces, and has no room for that.
        let (announcing, mut announces) = inbox(&room);
        send(&announcing, &[frames[0].slice(..HEADER_BYTES)]);
        assert!(announces.next().now_or_never().is_none());
        for turn in 0..2 {
            // A slow one comes on with what a step needs.
            let (wire, mut slow) = inbox(&room);
            send(&wire, &frames[..BEGUN]);
            for frame in &frames[BEGUN..20] {
                let step = tokio::time::timeout(STEP / 2, slow.next()).await;
                assert!(step.is_err(), "it is read on: {step:?}");
                send(&wire, std::slice::from_ref(frame));
            }
            send(&wire, &frames[20..]);
            assert!(matches!(slow.next().await, Ok(Some(_))), "{turn}");
        }
        assert!(began.elapsed() < COMPLETE_WITHIN / 2, "{:?}", began.elapsed());
        for (number, (_, inbox)) in idle.iter_mut().enumerate().take(4) {
            let status = inbox.next().await.unwrap_err();
            assert_eq!(status.code(), Code::ResourceExhausted, "{number}");
            assert_eq!(status.message(), "a request did not come on while others waited for its room");
        }
        drop(announcing);
        assert!(announces.next().await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_request_that_is_not_complete_in_time_ends_its_stream_whether_it_is_looked_at_or_not() {
        let room = Room::default();
        let (wire, mut inbox) = inbox(&room);
        let (unseen_wire, mut unseen) = self::inbox(&room);
        for (wire, inbox) in [(&wire, &mut inbox), (&unseen_wire, &mut unseen)] {
            send(wire, &large(HALF)[..BEGUN]);
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
        let all: Vec<u8> =
            [SMALL_BYTES * 2, 0, 7, SMALL_BYTES].iter().flat_map(|bytes| large(*bytes).concat()).collect();
        for cut in [1, 3, 5, 1_000, SMALL_BYTES + 3] {
            all.chunks(cut).for_each(|part| wire.send(Bytes::copy_from_slice(part)).unwrap());
            for _ in 0..4 {
                assert!(matches!(inbox.next().await, Ok(Some(_))), "{cut}");
            }
            tokio::task::yield_now().await;
            assert_eq!(free(&room), kilobytes(ROOM_BYTES), "{cut}");
        }
    }

    #[tokio::test]
    async fn what_is_no_request_is_refused_by_what_is_wrong_with_it() {
        let refused = async |bytes: &'static [u8], ends: bool| {
            let (wire, mut inbox) = inbox(&Room::default());
            wire.send(Bytes::from_static(bytes)).unwrap();
            let _open = (!ends).then_some(wire);
            let status = inbox.next().await.unwrap_err();
            (status.code(), status.message().to_owned())
        };
        let (code, text) = refused(&[1, 0, 0, 0, 0], false).await;
        assert!(code == Code::Unimplemented && text.starts_with("a request is compressed"), "{text}");
        let (code, text) = refused(&[0, 4, 0, 0, 1], false).await;
        assert_eq!((code, &*text), (Code::OutOfRange, "a request of 67108865 bytes; at most 67108864 are read"));
        for cut in [&[0][..], &[0, 0, 0, 0, 1], &[0, 0, 0, 0, 2, 0]] {
            let (code, text) = refused(cut, true).await;
            assert_eq!((code, &*text), (Code::Internal, "the requests end in the middle of one"));
        }
        let (code, text) = refused(&[0, 0, 0, 0, 1, 0xff], false).await;
        assert!(code == Code::Internal && text.starts_with("the request is no such message"), "{text}");
        let (wire, mut inbox) = inbox(&Room::default());
        drop(wire);
        assert!(matches!(inbox.next().await, Ok(None)));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_bytes_are_requests_or_an_error(parts in prop::collection::vec(prop::collection::vec(prop_oneof![Just(0_u8), any::<u8>()], 0..40), 0..8)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            runtime.block_on(async {
                let (wire, mut inbox) = inbox(&Room::default());
                parts.into_iter().for_each(|part| wire.send(part.into()).unwrap());
                drop(wire);
                while let Ok(Some(_)) = inbox.next().await {}
            });
        }
    }
}
