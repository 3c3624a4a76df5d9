//! The streams of a connection run in the connection's own task, in turn with it, and its socket is written to when all
//! have had their turn. So what a stream has ready goes out together: a client must not see the head of an answer whose
//! message and trailers are lost with the agent, because it cannot try such a call again.
//!
//! Not here: how much of an answer is ready at once (`grpc`).

use std::future::poll_fn;
use std::io;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use hyper::rt::Executor;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::unconstrained;
use tokio::time::timeout;

/// What waits for the end of a turn: more than a small answer.
const WAITING_MAX: usize = 128 << 10;

/// How long what waits when a connection ends may take.
const LAST_WORDS: Duration = Duration::from_secs(30);

/// Room that a connection keeps when nothing waits.
const WAITING_KEPT: usize = 16 << 10;

type Stream = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The streams of one connection that have begun since it was last looked.
#[derive(Clone, Default)]
pub(super) struct Streams(Arc<Mutex<Vec<Stream>>>);

impl Streams {
    fn begun(&self) -> MutexGuard<'_, Vec<Stream>> {
        // Nothing in here panics between two changes that belong together.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a connection, which begins streams here and writes to the socket, and them until it ends.
    pub(super) async fn run<T, S: AsyncWrite + Unpin>(
        self,
        connection: impl Future<Output = T>,
        socket: Gathering<S>,
    ) -> T {
        let mut connection = pin!(connection);
        let mut running = FuturesUnordered::new();
        let begun = Begun(self);
        let end = poll_fn(|context| {
            if let Poll::Ready(end) = connection.as_mut().poll(context) {
                return Poll::Ready(end);
            }
            running.extend(begun.0.begun().drain(..));
            // What they have ready wakes the connection, which is this task. Without a share of its budget: it may
            // have used it up for a request that is large.
            while let Poll::Ready(Some(())) = pin!(unconstrained(running.next())).poll(context) {}
            socket.end_turn(context);
            Poll::Pending
        })
        .await;
        drop(running);
        // Nobody waits for these any more but the client. A failure is its going away.
        let _late = timeout(LAST_WORDS, poll_fn(|context| socket.gathered().write(context))).await;
        end
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        // As in a task of its own, a stream that panics ends alone; the hook has said so.
        self.begun().push(Box::pin(AssertUnwindSafe(stream).catch_unwind().map(drop)));
    }
}

/// Each stream has an executor, so one that never ran would keep itself.
struct Begun(Streams);

impl Drop for Begun {
    fn drop(&mut self) {
        let never_ran = std::mem::take(&mut *self.0.begun());
        drop(never_ran);
    }
}

/// A socket to which nothing is written before the end of a turn, unless it is much.
pub(super) struct Gathering<S>(Arc<Mutex<Gathered<S>>>);

struct Gathered<S> {
    socket: S,
    waiting: BytesMut,
    broken: Option<io::ErrorKind>,
}

impl<S> Clone for Gathering<S> {
    fn clone(&self) -> Self {
        Gathering(Arc::clone(&self.0))
    }
}

impl<S> Gathering<S> {
    pub(super) fn new(socket: S) -> Self {
        Gathering(Arc::new(Mutex::new(Gathered { socket, waiting: BytesMut::new(), broken: None })))
    }

    fn gathered(&self) -> MutexGuard<'_, Gathered<S>> {
        // The socket itself does not panic between two changes that belong together.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: AsyncWrite + Unpin> Gathering<S> {
    /// Writes what waits, as far as the socket takes it; the task is woken when it takes more.
    fn end_turn(&self, context: &mut Context<'_>) {
        let mut gathered = self.gathered();
        let write = unconstrained(poll_fn(|context| gathered.write(context)));
        if let Poll::Ready(Err(error)) = pin!(write).poll(context) {
            // The connection is told in its next turn.
            gathered.broken = Some(error.kind());
            gathered.waiting.clear();
            context.waker().wake_by_ref();
        }
    }
}

impl<S: AsyncWrite + Unpin> Gathered<S> {
    fn write(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.waiting.is_empty() {
            let written = ready!(Pin::new(&mut self.socket).poll_write(context, &self.waiting))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.waiting.advance(written);
        }
        // Its capacity is without what was advanced over.
        if self.waiting.try_reclaim(WAITING_KEPT + 1) {
            self.waiting = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }

    fn check(&self) -> io::Result<()> {
        self.broken.map_or(Ok(()), |kind| Err(kind.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathering<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut gathered = self.gathered();
        if let Some(kind) = gathered.broken {
            return Poll::Ready(Err(kind.into()));
        }
        Pin::new(&mut gathered.socket).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathering<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut gathered = self.gathered();
        gathered.check()?;
        let length: usize = slices.iter().map(|slice| slice.len()).sum();
        if gathered.waiting.len() + length > WAITING_MAX {
            ready!(gathered.write(context))?;
        }
        if length > WAITING_MAX {
            return Pin::new(&mut gathered.socket).poll_write_vectored(context, slices);
        }
        slices.iter().for_each(|slice| gathered.waiting.extend_from_slice(slice));
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Nothing: the turn is not over.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.gathered().check())
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut gathered = self.gathered();
        ready!(gathered.write(context))?;
        Pin::new(&mut gathered.socket).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, Request, Response};
    use http_body_util::{BodyExt, Empty, StreamBody};
    use hyper::body::{Frame, Incoming};
    use hyper::client::conn::http2;
    use hyper::service::service_fn;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use hyper_util::server::conn::auto::Builder;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;

    const HEADERS: u8 = 1;
    const END_STREAM: u8 = 1;
    const FRAME_HEAD: usize = 9;

    /// Keeps what is written at once.
    struct Recorder {
        inner: DuplexStream,
        writes: Arc<Mutex<Vec<Bytes>>>,
    }

    impl AsyncRead for Recorder {
        fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, b: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.inner).poll_read(context, b)
        }
    }

    impl AsyncWrite for Recorder {
        fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let written = ready!(Pin::new(&mut self.inner).poll_write(context, bytes))?;
            self.writes.lock().unwrap().push(Bytes::copy_from_slice(&bytes[..written]));
            Poll::Ready(Ok(written))
        }

        fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.inner).poll_flush(context)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.inner).poll_shutdown(context)
        }
    }

    type Client = http2::SendRequest<Empty<Bytes>>;

    /// Answers with as many bytes as the path says, and trailers.
    async fn answer(
        request: Request<Incoming>,
    ) -> Result<Response<impl http_body::Body<Data = Bytes, Error = io::Error>>, io::Error> {
        let size: usize = request.uri().path().trim_start_matches('/').parse().expect("a number");
        let frames = [Frame::data(Bytes::from(vec![b'x'; size])), Frame::trailers(HeaderMap::new())];
        Ok(Response::new(StreamBody::new(futures_util::stream::iter(frames.map(Ok)))))
    }

    fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(socket: Gathering<S>) {
        let streams = Streams::default();
        let builder = Builder::new(streams.clone());
        let connection = builder.serve_connection(TokioIo::new(socket.clone()), service_fn(answer)).into_owned();
        tokio::spawn(streams.run(connection, socket));
    }

    async fn connect() -> (Client, Arc<Mutex<Vec<Bytes>>>) {
        let (near, far) = tokio::io::duplex(1 << 20);
        let writes = Arc::default();
        serve(Gathering::new(Recorder { inner: far, writes: Arc::clone(&writes) }));
        let (client, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(near)).await.unwrap();
        tokio::spawn(connection);
        (client, writes)
    }

    async fn get(client: &mut Client, path: &str) -> Result<usize, hyper::Error> {
        let request = Request::get(format!("http://agent{path}")).body(Empty::new()).unwrap();
        Ok(client.send_request(request).await?.into_body().collect().await?.to_bytes().len())
    }

    /// Streams whose head is in a write and whose end is not.
    fn broken(write: &[u8]) -> Vec<u32> {
        let (mut open, mut rest) = (Vec::new(), write);
        while let [a, b, c, kind, flags, s, t, u, v, payload @ ..] = rest {
            let stream = u32::from_be_bytes([*s, *t, *u, *v]);
            if *kind == HEADERS {
                open.push(stream);
            }
            if *kind <= HEADERS && flags & END_STREAM != 0 {
                open.retain(|other| *other != stream);
            }
            let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
            assert!(payload.len() >= length, "a frame of {} bytes goes on in another write", length + FRAME_HEAD);
            rest = &payload[length..];
        }
        open
    }

    #[tokio::test]
    async fn all_of_what_streams_have_ready_is_one_write() {
        let (mut client, writes) = connect().await;
        for size in [0, 100, 300, 20_000, 60_000] {
            assert_eq!(get(&mut client, &format!("/{size}")).await.unwrap(), size);
        }
        let calls = (0..20).map(|_| {
            let mut client = client.clone();
            async move { get(&mut client, "/1000").await.unwrap() }
        });
        assert_eq!(futures_util::future::join_all(calls).await, [1_000; 20]);
        let writes = writes.lock().unwrap();
        assert!(writes.iter().any(|write| write.len() > 60_000));
        for write in writes.iter() {
            assert_eq!(broken(write), [0_u32; 0]);
        }
    }

    #[tokio::test]
    async fn what_is_more_than_may_wait_arrives_whole() {
        let (mut client, writes) = connect().await;
        for size in [WAITING_MAX, 3 * WAITING_MAX, 10 << 20] {
            assert_eq!(get(&mut client, &format!("/{size}")).await.unwrap(), size);
        }
        assert!(writes.lock().unwrap().iter().all(|write| write.len() <= WAITING_MAX));
    }

    #[tokio::test]
    async fn a_connection_keeps_no_room_that_it_needed_once() {
        let (near, mut far) = tokio::io::duplex(1_000);
        let socket = Gathering::new(near);
        let mut writer = socket.clone();
        let reading = tokio::spawn(async move {
            let mut all = Vec::new();
            far.read_to_end(&mut all).await.unwrap();
            all.len()
        });
        writer.write_all(&vec![0; WAITING_MAX]).await.unwrap();
        assert_eq!(socket.gathered().waiting.len(), WAITING_MAX, "it is not the end of the turn");
        poll_fn(|context| socket.gathered().write(context)).await.unwrap();
        assert!(!socket.gathered().waiting.try_reclaim(WAITING_KEPT + 1));
        writer.write_all(&[0; 1_000]).await.unwrap();
        writer.shutdown().await.unwrap();
        drop((socket, writer));
        assert_eq!(reading.await.unwrap(), WAITING_MAX + 1_000);
    }

    /// A client of HTTP/1.1 that reads little at a time, and wants the connection closed.
    #[tokio::test]
    async fn the_last_answer_of_a_connection_arrives_whole_through_a_small_socket() {
        let (mut near, far) = tokio::io::duplex(100);
        serve(Gathering::new(far));
        near.write_all(b"GET /100000 HTTP/1.1\r\nhost: agent\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        near.read_to_end(&mut answer).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200 OK"));
        assert_eq!(answer.iter().filter(|byte| **byte == b'x').count(), 100_000);
        assert!(answer.ends_with(b"0\r\n\r\n"));
    }

    #[tokio::test]
    async fn what_a_connection_has_not_written_when_it_ends_is_written() {
        let (near, mut far) = tokio::io::duplex(10);
        let socket = Gathering::new(near);
        let mut writer = socket.clone();
        let connection = async move { writer.write_all(&[b'x'; 1_000]).await };
        let running = tokio::spawn(Streams::default().run(connection, socket));
        let mut last = Vec::new();
        far.read_to_end(&mut last).await.unwrap();
        assert_eq!(last, [b'x'; 1_000]);
        running.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_stream_that_panics_ends_alone() {
        let (mut client, _) = connect().await;
        assert!(get(&mut client, "/no-number").await.is_err());
        assert_eq!(get(&mut client, "/7").await.unwrap(), 7);
    }

    #[tokio::test]
    async fn a_stream_that_begins_as_its_connection_ends_is_dropped() {
        let (streams, token) = (Streams::default(), Arc::new(()));
        let executor = streams.clone();
        let (inner, left) = (executor.clone(), Arc::downgrade(&token));
        let connection = async move { executor.execute(async move { drop((inner, token)) }) };
        let (near, _far) = tokio::io::duplex(1);
        streams.run(connection, Gathering::new(near)).await;
        assert!(left.upgrade().is_none());
    }
}
