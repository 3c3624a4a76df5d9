//! A client of discovery that does nothing but listen and acknowledge: one connection, one delta stream, all scopes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, Bytes};
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use http::uri::PathAndQuery;
use prost::Message;
use prost::encoding::{WireType, decode_key, decode_varint};
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder, Streaming};
use tonic::transport::Endpoint;
use tonic::{Request, Status};
use xds::Kind;

const PATH: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// `resources` and `nonce` of a delta response.
const RESOURCES: u32 = 2;
const NONCE: u32 = 5;

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
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?.tcp_nodelay(true);
        let endpoint = endpoint.initial_stream_window_size(1 << 20).initial_connection_window_size(1 << 20);
        let channel = endpoint.connect().await.context("connect to the discovery server")?;
        let mut client = tonic::client::Grpc::new(channel).max_decoding_message_size(usize::MAX);
        client.ready().await.context("the connection")?;
        let (requests, outgoing) = mpsc::channel(4);
        let node = Node { id: format!("subscriber-{number}"), ..Node::default() };
        requests.send(DeltaDiscoveryRequest { node: Some(node), ..request("") }).await?;
        let responses =
            client.streaming(Request::new(ReceiverStream::new(outgoing)), PathAndQuery::from_static(PATH), Raw).await;
        let responses = responses.context("open the stream")?.into_inner();
        let listening = tokio::spawn(async move {
            // The driver misses what it waits for, and says so.
            let _ended = listen(responses, requests, &round).await;
        });
        Ok(Subscriber { task: listening.abort_handle() })
    }
}

async fn listen(
    mut responses: Streaming<Bytes>,
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    round: &Round,
) -> Result<()> {
    while let Some(response) = responses.message().await? {
        let (resources, nonce) = read(response)?;
        if resources > 0 {
            round.heard();
        }
        requests.send(request(&nonce)).await?;
    }
    bail!("the stream has ended")
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

/// Requests are encoded, responses left as they are.
struct Raw;

impl Codec for Raw {
    type Encode = DeltaDiscoveryRequest;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = DeltaDiscoveryRequest;
    type Error = Status;

    fn encode(&mut self, item: DeltaDiscoveryRequest, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(item.encoded_len());
        item.encode(buffer).map_err(|error| Status::internal(error.to_string()))
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let length = buffer.remaining();
        Ok(Some(buffer.copy_to_bytes(length)))
    }
}
