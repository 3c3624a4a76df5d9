//! LDS: the one listener of the data port. It never changes with models; routes come to it as scopes.

use std::collections::HashMap;
use std::sync::Arc;

use domain::header;
use envoy_types::pb::envoy::config::core::v3::{Http2ProtocolOptions, HttpProtocolOptions};
use envoy_types::pb::envoy::config::listener::v3::filter::ConfigType;
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    CodecType, RouteSpecifier,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::scoped_routes::scope_key_builder::fragment_builder::{
    HeaderValueExtractor, Type, header_value_extractor::ExtractType,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::scoped_routes::scope_key_builder::FragmentBuilder;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::scoped_routes::{
    ConfigSpecifier, ScopeKeyBuilder,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, ScopedRds, ScopedRoutes,
};
use envoy_types::pb::google::protobuf::{Struct, Value, value};
use xds::{Kind, Node, Resource, Tailor};

use super::proto::{ads, any, duration, encode, flag, uint};
use super::settings::Settings;
use super::{address, filters, log, reply};

/// The listener's name.
pub(super) const NAME: &str = "http";

/// First part of the names of its metrics; the compatible one.
const STAT_PREFIX: &str = "seldon_http";

/// Name of the routes in metrics.
const SCOPES: &str = "scopes";

/// What an Envoy may say of itself: `node.metadata.switchyard.port`.
const NODE_METADATA: (&str, &str) = ("switchyard", "port");

/// The listener on a port.
pub(super) fn resource(settings: &Settings, port: u16) -> Resource {
    let message = Listener {
        name: NAME.to_owned(),
        address: Some(address::socket(settings.address, port)),
        filter_chains: vec![FilterChain {
            filters: vec![Filter {
                name: "http".to_owned(),
                config_type: Some(ConfigType::TypedConfig(any(&connections(settings)))),
            }],
            ..FilterChain::default()
        }],
        per_connection_buffer_limit_bytes: uint(settings.buffer_limit),
        // With it two Envoys of one machine share a port and nobody notices.
        enable_reuse_port: flag(false),
        ..Listener::default()
    };
    Resource::new(Kind::Listener, NAME, encode(&message))
}

/// Gives each Envoy the port it asks for.
#[must_use]
pub fn tailor(settings: &Settings) -> Tailor {
    let settings = settings.clone();
    let rewrite = move |node: &Node, listener: &Resource| {
        let asked = port(&node.metadata).filter(|port| *port != settings.port && listener.name().as_str() == NAME)?;
        Some(listener.with_body(resource(&settings, asked).body().clone()))
    };
    Tailor { kinds: vec![Kind::Listener], rewrite: Arc::new(rewrite) }
}

/// The port that an Envoy's metadata asks for, if it is one.
fn port(metadata: &Struct) -> Option<u16> {
    let (group, field) = NODE_METADATA;
    let value::Kind::StructValue(ours) = entry(&metadata.fields, group)? else { return None };
    let text = match entry(&ours.fields, field)? {
        value::Kind::NumberValue(number) => number.to_string(),
        value::Kind::StringValue(text) => text.clone(),
        _ => return None,
    };
    text.parse().ok().filter(|port| *port != 0)
}

fn entry<'a>(fields: &'a HashMap<String, Value>, name: &str) -> Option<&'a value::Kind> {
    fields.get(name)?.kind.as_ref()
}

fn connections(settings: &Settings) -> HttpConnectionManager {
    HttpConnectionManager {
        codec_type: CodecType::Auto.into(),
        stat_prefix: STAT_PREFIX.to_owned(),
        route_specifier: Some(RouteSpecifier::ScopedRoutes(scoped_routes())),
        http_filters: filters::all(),
        common_http_protocol_options: Some(HttpProtocolOptions {
            idle_timeout: duration(settings.idle_timeout),
            ..HttpProtocolOptions::default()
        }),
        http2_protocol_options: Some(Http2ProtocolOptions {
            initial_stream_window_size: uint(settings.window()),
            initial_connection_window_size: uint(settings.window()),
            ..Http2ProtocolOptions::default()
        }),
        stream_idle_timeout: duration(settings.idle_timeout),
        request_timeout: duration(std::time::Duration::ZERO),
        request_headers_timeout: duration(settings.request_headers_timeout),
        access_log: settings.access_log.iter().map(log::of).collect(),
        // The identity of a request is its client's, or the agent makes one.
        generate_request_id: flag(false),
        preserve_external_request_id: true,
        local_reply_config: Some(reply::config()),
        ..HttpConnectionManager::default()
    }
}

/// The header `seldon-model` chooses the scope.
fn scoped_routes() -> ScopedRoutes {
    let value = HeaderValueExtractor {
        name: header::MODEL.to_owned(),
        extract_type: Some(ExtractType::Index(0)),
        ..HeaderValueExtractor::default()
    };
    ScopedRoutes {
        name: SCOPES.to_owned(),
        scope_key_builder: Some(ScopeKeyBuilder {
            fragments: vec![FragmentBuilder { r#type: Some(Type::HeaderValueExtractor(value)) }],
        }),
        rds_config_source: Some(ads(None)),
        // No timeout: a listener that opens without its scopes answers 404 for models that exist.
        config_specifier: Some(ConfigSpecifier::ScopedRds(ScopedRds {
            scoped_rds_config_source: Some(ads(Some(std::time::Duration::ZERO))),
            ..ScopedRds::default()
        })),
    }
}
