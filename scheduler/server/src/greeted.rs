//! Connections whose peers must say something: one that opens a socket and never begins HTTP/2 would be kept for ever, because
//! whether a peer is alive is asked (`http2_keepalive_interval`) only when it has begun.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;
use tonic::transport::server::Connected;

/// How long a peer may take for the first words of HTTP/2.
const WITHIN: Duration = Duration::from_secs(10);

/// How many bytes those are (RFC 9113, 3.4).
const PREFACE_BYTES: usize = 24;

/// A connection that ends with an error if its peer does not begin in time.
#[derive(Debug)]
pub(crate) struct Greeted<S> {
    stream: S,
    missing: usize,
    until: Option<Pin<Box<Sleep>>>,
}

impl<S> Greeted<S> {
    /// The time begins now. Must be called inside a tokio runtime.
    pub(crate) fn new(stream: S) -> Self {
        Greeted { stream, missing: PREFACE_BYTES, until: Some(Box::pin(tokio::time::sleep(WITHIN))) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Greeted<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Greeted { stream, missing, until } = self.get_mut();
        let before = buffer.filled().len();
        let read = Pin::new(stream).poll_read(context, buffer);
        let Some(late) = until else { return read };
        if read.is_ready() {
            *missing = missing.saturating_sub(buffer.filled().len() - before);
            if *missing == 0 {
                *until = None;
            }
            return read;
        }
        ready!(late.as_mut().poll(context));
        let text = format!("the peer did not begin HTTP/2 within {} s", WITHIN.as_secs());
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, text)))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Greeted<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl<S: Connected> Connected for Greeted<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::time::Instant;

    use super::*;

    fn pair() -> (DuplexStream, Greeted<DuplexStream>) {
        let (peer, stream) = duplex(1_024);
        (peer, Greeted::new(stream))
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_does_not_begin_is_left() {
        for said in [0, PREFACE_BYTES - 1] {
            let (mut peer, mut stream) = pair();
            let began = Instant::now();
            peer.write_all(&vec![b'P'; said]).await.expect("room");
            let ended = stream.read_exact(&mut [0; PREFACE_BYTES]).await.expect_err("nothing more comes");
            assert_eq!((ended.kind(), began.elapsed().as_secs()), (io::ErrorKind::TimedOut, WITHIN.as_secs()));
            assert_eq!(ended.to_string(), "the peer did not begin HTTP/2 within 10 s");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_has_begun_may_be_silent() {
        let (mut peer, mut stream) = pair();
        for _ in 0..2 {
            peer.write_all(&[b'P'; PREFACE_BYTES / 2]).await.expect("room");
            stream.read_exact(&mut [0; PREFACE_BYTES / 2]).await.expect("half of it");
        }
        assert!(tokio::time::timeout(100 * WITHIN, stream.read_u8()).await.is_err(), "it is waited for");
        peer.write_u8(7).await.expect("room");
        assert_eq!(stream.read_u8().await.expect("it goes on"), 7);
    }
}
