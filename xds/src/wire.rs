//! The requests of both variants in the session's words (its responses: `encode`). Decides nothing.

use envoy_types::pb::envoy::config::core::v3::Node as WireNode;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use envoy_types::pb::google::rpc::Status as WireStatus;

use crate::message::{Ask, Mode, Node, Nonce, Request};
use crate::resource::{Kind, Name, Version};

/// What of a client's error text is kept: Envoy repeats whole resources in some of them.
const MAX_ERROR_BYTES: usize = 4 << 10;

/// One variant of the protocol on the wire.
pub(crate) trait Wire: 'static {
    const MODE: Mode;
    type Request: prost::Message + Default + Send + 'static;

    fn type_url(request: &Self::Request) -> &str;
    fn node(request: &Self::Request) -> Option<&WireNode>;
    fn request(request: Self::Request, kind: Kind) -> Request;
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
    type Request = DeltaDiscoveryRequest;

    fn type_url(request: &DeltaDiscoveryRequest) -> &str {
        &request.type_url
    }

    fn node(request: &DeltaDiscoveryRequest) -> Option<&WireNode> {
        request.node.as_ref()
    }

    fn request(request: DeltaDiscoveryRequest, kind: Kind) -> Request {
        let listed = request.initial_resource_versions.into_iter();
        Request {
            kind,
            nonce: Nonce::parse(&request.response_nonce),
            error: request.error_detail.map(error),
            ask: Ask::Delta {
                subscribe: names(request.resource_names_subscribe),
                unsubscribe: names(request.resource_names_unsubscribe),
                initial: listed.map(|(name, version)| (Name::from(name), Version::parse(&version))).collect(),
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
