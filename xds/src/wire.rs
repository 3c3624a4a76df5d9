//! The requests of both variants in the session's words (its responses: `encode`). Decides nothing.

use std::marker::PhantomData;

use bytes::{Buf, Bytes};
use envoy_types::pb::envoy::config::core::v3::Node as WireNode;
use envoy_types::pb::envoy::service::discovery::v3::DiscoveryRequest;
use envoy_types::pb::google::rpc::Status as WireStatus;
use prost::encoding::{DecodeContext, decode_key, skip_field};
use tonic::Status;
use tonic::codec::{DecodeBuf, Decoder};

use crate::message::{Ask, Mode, Node, Nonce, Request};
use crate::resource::{Kind, Name, Version};

/// What of a client's error text is kept: Envoy repeats whole resources in some of them.
const MAX_ERROR_BYTES: usize = 4 << 10;

/// Fields of one request, nearly all of them names or listed versions: each costs much more memory than the two bytes that
/// an empty one needs. An Envoy with 100,000 models sends a tenth of it.
const MAX_FIELDS: usize = 1_000_000;

/// Reads requests of one type, after a look at how much there is to read.
pub(crate) struct Requests<M>(PhantomData<M>);

impl<M> Requests<M> {
    pub fn new() -> Self {
        Requests(PhantomData)
    }
}

impl<M: prost::Message + Default> Decoder for Requests<M> {
    type Item = M;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<M>, Status> {
        let message = buffer.copy_to_bytes(buffer.remaining());
        let malformed =
            |error: prost::DecodeError| Status::internal(format!("the request is no such message: {error}"));
        if fields(message.clone()).map_err(malformed)? > MAX_FIELDS {
            return Err(Status::resource_exhausted(format!("a request of more than {MAX_FIELDS} names and versions")));
        }
        M::decode(message).map(Some).map_err(malformed)
    }
}

/// How many fields a message has, without what is in them.
fn fields(mut message: Bytes) -> Result<usize, prost::DecodeError> {
    let mut count = 0;
    while message.has_remaining() {
        let (tag, wire_type) = decode_key(&mut message)?;
        skip_field(wire_type, tag, &mut message, DecodeContext::default())?;
        count += 1;
    }
    Ok(count)
}

/// One variant of the protocol on the wire.
pub(crate) trait Wire: 'static {
    const MODE: Mode;
    type Request: prost::Message + Default + Send + 'static;

    fn type_url(request: &Self::Request) -> &str;
    fn node(request: &Self::Request) -> Option<&WireNode>;
    fn request(request: Self::Request, kind: Kind) -> Request;
}

/// `DeltaDiscoveryRequest` with its map as it is on the wire, a list of pairs: an Envoy that comes back to 100,000 scopes
/// lists them all, and a map of copies of their names costs more than all that is decided about them.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct DeltaRequest {
    #[prost(message, optional, tag = "1")]
    node: Option<WireNode>,
    #[prost(string, tag = "2")]
    type_url: String,
    #[prost(string, repeated, tag = "3")]
    resource_names_subscribe: Vec<String>,
    #[prost(string, repeated, tag = "4")]
    resource_names_unsubscribe: Vec<String>,
    #[prost(message, repeated, tag = "5")]
    initial_resource_versions: Vec<Pair>,
    #[prost(string, tag = "6")]
    response_nonce: String,
    #[prost(message, optional, tag = "7")]
    error_detail: Option<WireStatus>,
}

/// Bytes of the message, which are not copied.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Pair {
    #[prost(bytes = "bytes", tag = "1")]
    name: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    version: Bytes,
}

pub(crate) struct Sotw;
pub(crate) struct Delta;

impl Wire for Sotw {
    const MODE: Mode = Mode::Sotw;
    type Request = DiscoveryRequest;

    fn type_url(request: &DiscoveryRequest) -> &str {
        &request.type_url
    }

    fn node(request: &DiscoveryRequest) -> Option<&WireNode> {
        request.node.as_ref()
    }

    fn request(request: DiscoveryRequest, kind: Kind) -> Request {
        Request {
            kind,
            nonce: Nonce::parse(&request.response_nonce),
            error: request.error_detail.map(error),
            ask: Ask::Sotw { names: names(request.resource_names) },
        }
    }
}

impl Wire for Delta {
    const MODE: Mode = Mode::Delta;
    type Request = DeltaRequest;

    fn type_url(request: &DeltaRequest) -> &str {
        &request.type_url
    }

    fn node(request: &DeltaRequest) -> Option<&WireNode> {
        request.node.as_ref()
    }

    fn request(request: DeltaRequest, kind: Kind) -> Request {
        let listed = request.initial_resource_versions.iter();
        // What is no UTF-8 is no name of ours either.
        let text = String::from_utf8_lossy;
        Request {
            kind,
            nonce: Nonce::parse(&request.response_nonce),
            error: request.error_detail.map(error),
            ask: Ask::Delta {
                subscribe: names(request.resource_names_subscribe),
                unsubscribe: names(request.resource_names_unsubscribe),
                initial: listed
                    .map(|pair| (Name::from(&*text(&pair.name)), Version::parse(&text(&pair.version))))
                    .collect(),
            },
        }
    }
}

pub(crate) fn node(node: &WireNode) -> Node {
    Node { id: node.id.clone(), cluster: node.cluster.clone(), metadata: node.metadata.clone().unwrap_or_default() }
}

fn names(names: Vec<String>) -> Vec<Name> {
    names.into_iter().map(Name::from).collect()
}

fn error(status: WireStatus) -> String {
    let mut message = status.message;
    let end = (0..=MAX_ERROR_BYTES.min(message.len())).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
    message.truncate(end);
    message
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
    use prost::Message;

    use super::*;

    #[test]
    fn a_delta_request_is_read_as_the_generated_type_writes_it() {
        let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let listed = [("a", "1"), ("b", "00000000000000ff")];
        let request = DeltaDiscoveryRequest {
            node: Some(WireNode { id: "envoy-0".to_owned(), ..WireNode::default() }),
            type_url: Kind::ScopedRoute.type_url().to_owned(),
            resource_names_subscribe: names(&["c", "d"]),
            resource_names_unsubscribe: names(&["e"]),
            initial_resource_versions: listed.map(|(name, version)| (name.to_owned(), version.to_owned())).into(),
            response_nonce: "7".to_owned(),
            error_detail: Some(WireStatus { message: "no".to_owned(), ..WireStatus::default() }),
            ..DeltaDiscoveryRequest::default()
        };
        let read = DeltaRequest::decode(request.encode_to_vec().as_slice()).unwrap();
        assert_eq!(Delta::node(&read).map(|node| node.id.as_str()), Some("envoy-0"));
        assert_eq!(Delta::type_url(&read), request.type_url);
        let ask = Ask::Delta {
            subscribe: vec!["c".into(), "d".into()],
            unsubscribe: vec!["e".into()],
            initial: listed.map(|(name, version)| (Name::from(name), Version::parse(version))).into(),
        };
        let mut read = Delta::request(read, Kind::ScopedRoute);
        if let Ask::Delta { initial, .. } = &mut read.ask {
            // The generated type has a map, which is in no order.
            initial.sort();
        }
        let expected = Request { kind: Kind::ScopedRoute, nonce: Nonce::parse("7"), error: Some("no".to_owned()), ask };
        assert_eq!(read, expected);
    }

    #[test]
    fn fields_are_counted_before_they_are_read() {
        let request = DeltaDiscoveryRequest {
            type_url: "t".to_owned(),
            resource_names_subscribe: vec![String::new(); 3],
            initial_resource_versions: [(String::new(), String::new())].into(),
            ..DeltaDiscoveryRequest::default()
        };
        assert_eq!(fields(request.encode_to_vec().into()).unwrap(), 5);
        assert!(fields(Bytes::from_static(&[0x2a, 5, 1])).is_err(), "half a field");
    }
}
