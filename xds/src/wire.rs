//! The protobuf messages of both variants, to and from the session's words. Decides nothing.

use envoy_types::pb::envoy::config::core::v3::Node as WireNode;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource as WireResource,
};
use envoy_types::pb::google::protobuf::Any;
use envoy_types::pb::google::rpc::Status as WireStatus;

use crate::message::{Ask, Mode, Node, Nonce, Request, Response};
use crate::resource::{Kind, Name, Resource, Version};

/// What of a client's error text is kept: Envoy repeats whole resources in some of them.
const MAX_ERROR_BYTES: usize = 4 << 10;

/// One variant of the protocol on the wire.
pub(crate) trait Wire: 'static {
    const MODE: Mode;
    type Request: Send + 'static;
    type Response: Send + 'static;

    fn type_url(request: &Self::Request) -> &str;
    fn node(request: &Self::Request) -> Option<&WireNode>;
    fn request(request: Self::Request, kind: Kind) -> Request;
    fn response(response: Response) -> Self::Response;
}

pub(crate) struct Sotw;
pub(crate) struct Delta;

impl Wire for Sotw {
    const MODE: Mode = Mode::Sotw;
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;

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

    fn response(response: Response) -> DiscoveryResponse {
        DiscoveryResponse {
            version_info: response.revision.to_string(),
            resources: response.resources.iter().map(|resource| any(resource)).collect(),
            type_url: response.kind.type_url().to_owned(),
            nonce: response.nonce.to_string(),
            ..DiscoveryResponse::default()
        }
    }
}

impl Wire for Delta {
    const MODE: Mode = Mode::Delta;
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;

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

    fn response(response: Response) -> DeltaDiscoveryResponse {
        let resource = |resource: &Resource| WireResource {
            name: resource.name().to_string(),
            version: resource.version().to_string(),
            resource: Some(any(resource)),
            ..WireResource::default()
        };
        DeltaDiscoveryResponse {
            system_version_info: response.revision.to_string(),
            resources: response.resources.iter().map(|shared| resource(shared)).collect(),
            type_url: response.kind.type_url().to_owned(),
            removed_resources: response.removed.iter().map(Name::to_string).collect(),
            nonce: response.nonce.to_string(),
            ..DeltaDiscoveryResponse::default()
        }
    }
}

pub(crate) fn node(node: &WireNode) -> Node {
    Node { id: node.id.clone(), cluster: node.cluster.clone(), metadata: node.metadata.clone().unwrap_or_default() }
}

fn any(resource: &Resource) -> Any {
    Any { type_url: resource.kind().type_url().to_owned(), value: resource.body().to_vec() }
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
