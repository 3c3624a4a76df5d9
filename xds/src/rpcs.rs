//! The names of the protocol's services and of their methods. Nothing of what they do.

use crate::resource::Kind;

/// One of the services of the protocol.
pub(crate) struct Rpc {
    pub service: &'static str,
    /// Its method for each variant.
    pub sotw: &'static str,
    pub delta: &'static str,
    /// What its streams are about; `None`: every request says it.
    pub kind: Option<Kind>,
}

pub(crate) const COUNT: usize = Kind::COUNT + 1;

pub(crate) const RPCS: [Rpc; COUNT] = [
    Rpc {
        service: "envoy.service.discovery.v3.AggregatedDiscoveryService",
        sotw: "StreamAggregatedResources",
        delta: "DeltaAggregatedResources",
        kind: None,
    },
    Rpc {
        service: "envoy.service.cluster.v3.ClusterDiscoveryService",
        sotw: "StreamClusters",
        delta: "DeltaClusters",
        kind: Some(Kind::Cluster),
    },
    Rpc {
        service: "envoy.service.endpoint.v3.EndpointDiscoveryService",
        sotw: "StreamEndpoints",
        delta: "DeltaEndpoints",
        kind: Some(Kind::Endpoints),
    },
    Rpc {
        service: "envoy.service.listener.v3.ListenerDiscoveryService",
        sotw: "StreamListeners",
        delta: "DeltaListeners",
        kind: Some(Kind::Listener),
    },
    Rpc {
        service: "envoy.service.route.v3.ScopedRoutesDiscoveryService",
        sotw: "StreamScopedRoutes",
        delta: "DeltaScopedRoutes",
        kind: Some(Kind::ScopedRoute),
    },
    Rpc {
        service: "envoy.service.route.v3.RouteDiscoveryService",
        sotw: "StreamRoutes",
        delta: "DeltaRoutes",
        kind: Some(Kind::Route),
    },
    Rpc {
        service: "envoy.service.secret.v3.SecretDiscoveryService",
        sotw: "StreamSecrets",
        delta: "DeltaSecrets",
        kind: Some(Kind::Secret),
    },
    Rpc {
        service: "envoy.service.runtime.v3.RuntimeDiscoveryService",
        sotw: "StreamRuntime",
        delta: "DeltaRuntime",
        kind: Some(Kind::Runtime),
    },
];
