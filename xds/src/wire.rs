//! The requests of both variants in the session's words (its responses: `encode`). Decides nothing.

use bytes::{Buf, Bytes};
use envoy_types::pb::google::protobuf::Struct;
use prost::Message;
use prost::encoding::{DecodeContext, decode_key, skip_field};
use tonic::Status;

use crate::message::{Ask, Mode, Node, Nonce, Request};
use crate::resource::{Kind, Name, Version};

/// What of a client's error text is kept: Envoy repeats whole resources in some of them.
const MAX_ERROR_BYTES: usize = 4 << 10;

/// Fields of one request, nearly all of them names or listed versions: each costs much more memory than the two bytes that
/// an empty one needs. An Envoy with 100,000 models sends a tenth of it.
const MAX_FIELDS: usize = 1_000_000;

/// Longest id and cluster of a node: they are in logs, in metrics and in what people are told.
const NODE_NAME_BYTES_MAX: usize = 1_024;

/// Most metadata of a node. Read it needs a hundred times as much memory.
const METADATA_BYTES_MAX: usize = 64 << 10;

/// A request, after a look at how much there is to read.
pub(crate) fn read<M: Message + Default>(message: Bytes) -> Result<M, Status> {
    let malformed = |error: prost::DecodeError| Status::internal(format!("the request is no such message: {error}"));
    if fields(message.clone()).map_err(malformed)? > MAX_FIELDS {
        return Err(Status::resource_exhausted(format!("a request of more than {MAX_FIELDS} names and versions")));
    }
    M::decode(message).map_err(malformed)
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
    type Request: Message + Default + Send + 'static;

    fn type_url(request: &Self::Request) -> &str;
    fn node(request: &Self::Request) -> Option<&WireNode>;
    fn request(request: Self::Request, kind: Kind) -> Request;
}

/// What is read of `DiscoveryRequest`. What is not here costs nothing, however much there is of it.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SotwRequest {
    #[prost(message, optional, tag = "2")]
    node: Option<WireNode>,
    #[prost(string, repeated, tag = "3")]
    resource_names: Vec<String>,
    #[prost(string, tag = "4")]
    type_url: String,
    #[prost(string, tag = "5")]
    response_nonce: String,
    #[prost(message, optional, tag = "6")]
    error_detail: Option<WireStatus>,
}

/// The same of `Node`, of which Envoy says a hundred kilobytes.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct WireNode {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    cluster: String,
    /// Looked at before it is read.
    #[prost(bytes = "bytes", tag = "3")]
    metadata: Bytes,
}

/// The same of `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct WireStatus {
    #[prost(string, tag = "2")]
    message: String,
}

/// The same of `DeltaDiscoveryRequest`, with its map as it is on the wire, a list of pairs: an Envoy that comes back to 100,000
/// scopes lists them all, and a map of copies of their names costs more than all that is decided about them.
#[derive(Clone, PartialEq, Message)]
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
#[derive(Clone, PartialEq, Message)]
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
    type Request = SotwRequest;

    fn type_url(request: &SotwRequest) -> &str {
        &request.type_url
    }

    fn node(request: &SotwRequest) -> Option<&WireNode> {
        request.node.as_ref()
    }

    fn request(request: SotwRequest, kind: Kind) -> Request {
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

/// The error names the field that is missing or too large.
pub(crate) fn node(node: Option<&WireNode>) -> Result<Node, Status> {
    let node = node.filter(|node| !node.id.is_empty()).ok_or_else(|| {
        Status::invalid_argument("node.id is missing in the first request of the stream: set it in the bootstrap")
    })?;
    let parts = [
        ("id", node.id.len(), NODE_NAME_BYTES_MAX),
        ("cluster", node.cluster.len(), NODE_NAME_BYTES_MAX),
        ("metadata", node.metadata.len(), METADATA_BYTES_MAX),
    ];
    if let Some((part, bytes, most)) = parts.into_iter().find(|(_, bytes, most)| bytes > most) {
        return Err(Status::invalid_argument(format!("node.{part} has {bytes} bytes; at most {most} are read")));
    }
    let metadata = Struct::decode(node.metadata.clone())
        .map_err(|error| Status::invalid_argument(format!("node.metadata is no struct: {error}")))?;
    Ok(Node { id: node.id.clone(), cluster: node.cluster.clone(), metadata })
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
    use envoy_types::pb::envoy::config::core::v3::{Extension, Node as FullNode};
    use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
    use envoy_types::pb::google::protobuf::{Any, Value, value};
    use envoy_types::pb::google::rpc::Status as FullStatus;
    use proptest::prelude::*;

    use super::*;

    /// With what is not read, too.
    fn full_node() -> FullNode {
        let value = Value { kind: Some(value::Kind::NumberValue(7.0)) };
        FullNode {
            id: "envoy-0".to_owned(),
            cluster: "all".to_owned(),
            metadata: Some(Struct { fields: [("port".to_owned(), value)].into() }),
            extensions: vec![Extension::default(); 3],
            ..FullNode::default()
        }
    }

    fn full_error() -> Option<FullStatus> {
        Some(FullStatus { code: 3, message: "no".to_owned(), details: vec![Any::default()] })
    }

    fn as_sent(node: &FullNode) -> WireNode {
        WireNode::decode(node.encode_to_vec().as_slice()).unwrap()
    }

    #[test]
    fn a_sotw_request_is_read_as_the_generated_type_writes_it() {
        let request = DiscoveryRequest {
            version_info: "3".to_owned(),
            node: Some(full_node()),
            resource_names: vec!["c".to_owned(), "d".to_owned()],
            type_url: Kind::ScopedRoute.type_url().to_owned(),
            response_nonce: "7".to_owned(),
            error_detail: full_error(),
            ..DiscoveryRequest::default()
        };
        let read = SotwRequest::decode(request.encode_to_vec().as_slice()).unwrap();
        let node = node(Sotw::node(&read)).unwrap();
        assert_eq!((&*node.id, &*node.cluster, Some(node.metadata)), ("envoy-0", "all", full_node().metadata));
        assert_eq!(Sotw::type_url(&read), request.type_url);
        let ask = Ask::Sotw { names: vec!["c".into(), "d".into()] };
        let expected = Request { kind: Kind::ScopedRoute, nonce: Nonce::parse("7"), error: Some("no".to_owned()), ask };
        assert_eq!(Sotw::request(read, Kind::ScopedRoute), expected);
    }

    #[test]
    fn what_a_node_says_too_much_of_is_named() {
        let check = |node: FullNode, expected: &str| {
            let refused = super::node(Some(&as_sent(&node))).unwrap_err();
            assert_eq!((refused.code(), refused.message()), (tonic::Code::InvalidArgument, expected));
        };
        let long = |bytes| "n".repeat(bytes);
        check(FullNode { id: long(1_025), ..full_node() }, "node.id has 1025 bytes; at most 1024 are read");
        check(FullNode { cluster: long(1_025), ..full_node() }, "node.cluster has 1025 bytes; at most 1024 are read");
        let fields = [(long(65_531), Value::default())].into();
        let metadata = Some(Struct { fields });
        check(FullNode { metadata, ..full_node() }, "node.metadata has 65539 bytes; at most 65536 are read");
        let missing = "node.id is missing in the first request of the stream: set it in the bootstrap";
        check(FullNode { id: String::new(), ..full_node() }, missing);
        let node = WireNode { metadata: Bytes::from_static(&[0x0a, 9]), ..as_sent(&full_node()) };
        assert!(super::node(Some(&node)).unwrap_err().message().starts_with("node.metadata is no struct: "));
        assert!(super::node(Some(&as_sent(&FullNode { id: long(1_024), ..full_node() }))).is_ok());
    }

    fn try_read<W: Wire>(bytes: &[u8]) {
        let Ok(request) = read::<W::Request>(Bytes::copy_from_slice(bytes)) else { return };
        let _told_or_refused = node(W::node(&request)).map(|node| node.id);
        let kind = Kind::from_type_url(W::type_url(&request)).unwrap_or(Kind::Cluster);
        let request = W::request(request, kind);
        assert!(request.error.is_none_or(|error| error.len() <= MAX_ERROR_BYTES));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            try_read::<Sotw>(&bytes);
            try_read::<Delta>(&bytes);
        }

        /// Nearly requests: what can be read, with bytes that are others, fewer or more.
        #[test]
        fn damaged_requests_are_read_or_refused(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            cut in any::<prop::sample::Index>(),
            more in prop::collection::vec(any::<u8>(), 0..8),
        ) {
            let sotw = DiscoveryRequest {
                node: Some(full_node()),
                resource_names: vec!["a".to_owned()],
                error_detail: full_error(),
                ..DiscoveryRequest::default()
            };
            let delta = DeltaDiscoveryRequest {
                node: Some(full_node()),
                resource_names_subscribe: vec!["a".to_owned()],
                initial_resource_versions: [("b".to_owned(), "1".to_owned())].into(),
                error_detail: full_error(),
                ..DeltaDiscoveryRequest::default()
            };
            for mut bytes in [sotw.encode_to_vec(), delta.encode_to_vec()] {
                for (at, byte) in &changes {
                    let at = at.index(bytes.len());
                    bytes[at] = *byte;
                }
                try_read::<Sotw>(&bytes);
                try_read::<Delta>(&bytes);
                bytes.extend(&more);
                try_read::<Delta>(&bytes);
                bytes.truncate(cut.index(bytes.len()));
                try_read::<Sotw>(&bytes);
                try_read::<Delta>(&bytes);
            }
        }
    }

    #[test]
    fn a_delta_request_is_read_as_the_generated_type_writes_it() {
        let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let listed = [("a", "1"), ("b", "00000000000000ff")];
        let request = DeltaDiscoveryRequest {
            node: Some(full_node()),
            type_url: Kind::ScopedRoute.type_url().to_owned(),
            resource_names_subscribe: names(&["c", "d"]),
            resource_names_unsubscribe: names(&["e"]),
            initial_resource_versions: listed.map(|(name, version)| (name.to_owned(), version.to_owned())).into(),
            response_nonce: "7".to_owned(),
            error_detail: full_error(),
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
