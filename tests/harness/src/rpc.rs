//! gRPC as any client does it.

use std::net::SocketAddr;
use std::time::Duration;

use api::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use tonic::transport::{Channel, Endpoint};

/// The client of the Open Inference Protocol.
pub type Rpc = GrpcInferenceServiceClient<Channel>;

/// The largest message a test sends.
const MESSAGE_BYTES: usize = 256 << 20;

/// A client that connects when it is used, and again when it was lost.
#[must_use]
pub fn rpc(address: SocketAddr) -> Rpc {
    let channel = Endpoint::from_shared(format!("http://{address}")).expect("an address makes a URL");
    let channel = channel.connect_timeout(Duration::from_secs(5)).tcp_nodelay(true).connect_lazy();
    GrpcInferenceServiceClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES)
        .max_encoding_message_size(MESSAGE_BYTES)
}

/// A message with metadata.
///
/// # Panics
/// When a value cannot be metadata.
#[must_use]
pub fn with_metadata<T>(message: T, metadata: &[(&'static str, &str)]) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    for (name, value) in metadata {
        request.metadata_mut().insert(*name, value.parse().expect("ASCII"));
    }
    request
}
