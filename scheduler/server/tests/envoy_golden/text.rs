//! Resources as text: the debug form of the messages, what is inside an `Any` shown like the rest, and nothing that
//! has its default.

use std::fmt::Debug;
use std::fmt::Write;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::route::v3::ScopedRouteConfiguration;
use envoy_types::pb::envoy::extensions::access_loggers::file::v3::FileAccessLog;
use envoy_types::pb::envoy::extensions::common::matching::v3::ExtensionWithMatcher;
use envoy_types::pb::envoy::extensions::filters::common::matcher::action::v3::SkipFilter;
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::HttpFault;
use envoy_types::pb::envoy::extensions::filters::http::grpc_field_extraction::v3::GrpcFieldExtractionConfig;
use envoy_types::pb::envoy::extensions::filters::http::header_mutation::v3::HeaderMutation;
use envoy_types::pb::envoy::extensions::filters::http::lua::v3::Lua;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::envoy::extensions::load_balancing_policies::least_request::v3::LeastRequest;
use envoy_types::pb::envoy::extensions::load_balancing_policies::round_robin::v3::RoundRobin;
use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::r#type::matcher::v3::HttpRequestHeaderMatchInput;
use prost::{Message, Name};
use xds::{Change, Kind};

pub fn of(changes: &[Change]) -> String {
    let mut text = String::new();
    for change in changes {
        match change {
            Change::Put(resource) => {
                let body = resource.body();
                let shown = match resource.kind() {
                    Kind::Cluster => show::<Cluster>(body),
                    Kind::Endpoints => show::<ClusterLoadAssignment>(body),
                    Kind::Listener => show::<Listener>(body),
                    Kind::ScopedRoute => show::<ScopedRouteConfiguration>(body),
                    Kind::Route | Kind::Secret | Kind::Runtime => panic!("nobody publishes {}", resource.key()),
                };
                let requires: Vec<String> = resource.required().iter().map(ToString::to_string).collect();
                writeln!(text, "put {} ({} bytes) requires {requires:?}\n{shown}\n", resource.key(), body.len())
            }
            Change::Remove(key) => writeln!(text, "remove {key}\n"),
        }
        .expect("a string takes everything");
    }
    narrow(&text)
}

fn show<M: Message + Default + Debug>(bytes: &[u8]) -> String {
    let message = M::decode(bytes).expect("we encoded it");
    open(&drop_defaults(&format!("{message:#?}")))
}

fn drop_defaults(text: &str) -> String {
    const DEFAULTS: [&str; 7] = [": None,", ": [],", ": \"\",", ": 0,", ": false,", ": {},", ": 0.0,"];
    let told = |line: &&str| !DEFAULTS.iter().any(|default| line.ends_with(default));
    text.lines().filter(told).collect::<Vec<_>>().join("\n")
}

/// Half the indentation is enough.
fn narrow(text: &str) -> String {
    let line = |line: &str| {
        let inner = line.trim_start();
        format!("{:indent$}{inner}\n", "", indent = (line.len() - inner.len()) / 2)
    };
    text.lines().map(line).collect()
}

/// Replaces the bytes of each `Any` by what they mean. The bytes of a value stand one on a line.
fn open(text: &str) -> String {
    let mut out = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let Some(type_url) = line.trim().strip_prefix("type_url: \"").and_then(|rest| rest.strip_suffix("\",")) else {
            // Other bytes are summed up.
            if line.trim_end().ends_with(": [") || line.trim_end().ends_with("InlineBytes(") {
                let bytes = lines.peek().is_some_and(|next| next.trim().trim_end_matches(',').parse::<u8>().is_ok());
                if bytes {
                    let mut count = 0;
                    while lines.peek().is_some_and(|next| next.trim().trim_end_matches(',').parse::<u8>().is_ok()) {
                        lines.next();
                        count += 1;
                    }
                    writeln!(out, "{line} {count} bytes").expect("a string takes everything");
                    continue;
                }
            }
            writeln!(out, "{line}").expect("a string takes everything");
            continue;
        };
        let indent = line.len() - line.trim_start().len();
        let mut bytes = Vec::new();
        if lines.peek().is_some_and(|next| next.trim() == "value: [") {
            lines.next();
            for next in lines.by_ref() {
                match next.trim().trim_end_matches(',').parse::<u8>() {
                    Ok(byte) => bytes.push(byte),
                    Err(_) => break,
                }
            }
        }
        for inner in any(type_url, &bytes).lines() {
            writeln!(out, "{:indent$}{inner}", "").expect("a string takes everything");
        }
    }
    out.trim_end().to_owned()
}

fn any(type_url: &str, bytes: &[u8]) -> String {
    macro_rules! known {
        ($($type:ty),* $(,)?) => {
            $(if type_url == <$type>::type_url() { return show::<$type>(bytes); })*
        };
    }
    known!(
        ExtensionWithMatcher,
        FileAccessLog,
        HeaderMutation,
        HttpConnectionManager,
        HttpFault,
        HttpProtocolOptions,
        HttpRequestHeaderMatchInput,
        LeastRequest,
        Lua,
        PreviousHostsPredicate,
        RoundRobin,
        Router,
        SkipFilter,
    );
    if type_url == GrpcFieldExtractionConfig::type_url() {
        let config = GrpcFieldExtractionConfig::decode(bytes).expect("we encoded it");
        let methods: std::collections::BTreeMap<_, _> = config.extractions_by_method.into_iter().collect();
        return format!("GrpcFieldExtractionConfig of\n{}", drop_defaults(&format!("{methods:#?}")));
    }
    panic!("nobody knows how to show a {type_url}");
}
