//! A client of discovery that does nothing but listen and acknowledge: one connection, one delta stream, all scopes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use h2::SendStream;
use h2::client::ResponseFuture;
use http::{Request, header};
use prost::Message;
use prost::encoding::{WireType, decode_key, decode_varint};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use xds::Kind;

const PATH: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// `resources` and `nonce` of a delta response.
const RESOURCES: u32 = 2;
const NONCE: u32 = 5;
/// The head of a gRPC message.
const FRAME_BYTES: usize = 5;
/// What the server may send before it is read.
const WINDOW: u32 = 1 << 20;

/// What all subscribers together wait for.
#[derive(Debug)]
pub(crate) struct Round {
    epoch: Instant,
    missing: AtomicUsize,
    /// Nanoseconds since the epoch.
    last: AtomicU64,
    complete: Notify,
}

impl Round {
    pub(crate) fn new() -> Arc<Round> {
        Arc::new(Round {
            epoch: Instant::now(),
            missing: AtomicUsize::new(0),
            last: AtomicU64::new(0),
            complete: Notify::new(),
        })
    }

    /// From now on as many responses with resources are waited for.
    pub(crate) fn begin(&self, responses: usize) {
        self.last.store(0, Ordering::SeqCst);
        self.missing.store(responses, Ordering::SeqCst);
    }

    /// When the last of them came.
    pub(crate) async fn last(&self, within: Duration) -> Result<Instant> {
        let waited = tokio::time::timeout(within, self.complete.notified()).await;
        let missing = self.missing.load(Ordering::SeqCst);
        ensure!(waited.is_ok(), "{missing} responses are missing after {within:?}");
        Ok(self.epoch + Duration::from_nanos(self.last.load(Ordering::SeqCst)))
    }

    fn heard(&self) {
        let now = u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.last.fetch_max(now, Ordering::SeqCst);
        if self.missing.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.complete.notify_one();
        }
    }
}

/// Ends with its drop.
pub(crate) struct Subscriber {
    task: AbortHandle,
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Subscriber {
    /// Its first answer counts as heard in the round.
    pub(crate) async fn open(address: SocketAddr, number: usize, round: Arc<Round>) -> Result<Subscriber> {
        let stream = TcpStream::connect(address).await.context("connect to the discovery server")?;
        stream.set_nodelay(true)?;
        let handshake = h2::client::Builder::new()
            .initial_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .handshake::<_, Bytes>(stream);
        let (mut client, connection) = handshake.await.context("begin HTTP/2")?;
        let asked = Request::post(format!("http://{address}{PATH}"))
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .body(())?;
        let (response, mut requests) = client.send_request(asked, false).context("open the stream")?;
        let node = Node { id: format!("subscriber-{number}"), ..Node::default() };
        requests.send_data(framed(&DeltaDiscoveryRequest { node: Some(node), ..request("") }), false)?;
        // One task for both, because one wake costs less than two, and it is the server that is measured.
        let listening = tokio::spawn(async move {
            tokio::select! {
                // Whoever drives the round misses what it waits for, and says so.
                _ended = connection => {}
                _ended = listen(response, requests, &round) => {}
            }
        });
        Ok(Subscriber { task: listening.abort_handle() })
    }
}

async fn listen(response: ResponseFuture, mut requests: SendStream<Bytes>, round: &Round) -> Result<()> {
    let mut body = response.await.context("an answer")?.into_body();
    let mut buffer = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data.context("more of it")?;
        buffer.extend_from_slice(&data);
        body.flow_control().release_capacity(data.len())?;
        while let Some(message) = whole(&mut buffer) {
            let (resources, nonce) = read(message)?;
            if resources > 0 {
                round.heard();
            }
            requests.send_data(framed(&request(&nonce)), false)?;
        }
    }
    bail!("the stream has ended")
}

/// The next message, if all of it is there.
fn whole(buffer: &mut BytesMut) -> Option<Bytes> {
    let head: [u8; FRAME_BYTES] = buffer.get(..FRAME_BYTES)?.try_into().ok()?;
    let length = usize::try_from(u32::from_be_bytes([head[1], head[2], head[3], head[4]])).ok()?;
    if buffer.len() < FRAME_BYTES + length {
        buffer.reserve(FRAME_BYTES + length - buffer.len());
        return None;
    }
    buffer.advance(FRAME_BYTES);
    Some(buffer.split_to(length).freeze())
}

fn framed(request: &DeltaDiscoveryRequest) -> Bytes {
    let mut frame = BytesMut::with_capacity(FRAME_BYTES + request.encoded_len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(request.encoded_len()).unwrap_or(u32::MAX));
    frame.put_slice(&request.encode_to_vec());
    frame.freeze()
}

fn request(nonce: &str) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: Kind::ScopedRoute.type_url().to_owned(),
        response_nonce: nonce.to_owned(),
        ..DeltaDiscoveryRequest::default()
    }
}

/// How many resources, and the nonce; nothing is decoded, because it is the server that is measured.
fn read(mut message: Bytes) -> Result<(usize, String)> {
    let (mut resources, mut nonce) = (0, String::new());
    while message.has_remaining() {
        let (tag, wire) = decode_key(&mut message)?;
        ensure!(wire == WireType::LengthDelimited, "field {tag} of a response is {wire:?}");
        let length = usize::try_from(decode_varint(&mut message)?)?;
        ensure!(message.len() >= length, "half a response");
        let value = message.split_to(length);
        match tag {
            RESOURCES => resources += 1,
            NONCE => nonce = String::from_utf8(value.to_vec())?,
            _ => {}
        }
    }
    Ok((resources, nonce))
}
