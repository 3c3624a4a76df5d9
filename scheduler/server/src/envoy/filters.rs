//! The filters a request passes, in order: find out which model it is for, say so in a header, make the route's name a
//! header, route.
//!
//! A client that sends `seldon-model` pays for none of the finding. One that does not is served by its path or by the
//! first message of its call, so clients of the plain inference protocol need no change.

use std::collections::HashMap;

use bytes::BufMut;
use domain::header;
use envoy_types::pb::envoy::config::common::mutation_rules::v3::HeaderMutation as Mutation;
use envoy_types::pb::envoy::config::common::mutation_rules::v3::header_mutation::Action;
use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::config::core::v3::{DataSource, TypedExtensionConfig};
use envoy_types::pb::envoy::extensions::common::matching::v3::ExtensionWithMatcher;
use envoy_types::pb::envoy::extensions::filters::common::matcher::action::v3::SkipFilter;
use envoy_types::pb::envoy::extensions::filters::http::grpc_field_extraction::v3::{
    FieldExtractions, GrpcFieldExtractionConfig, RequestFieldValueDisposition,
};
use envoy_types::pb::envoy::extensions::filters::http::header_mutation::v3::{HeaderMutation, Mutations};
use envoy_types::pb::envoy::extensions::filters::http::lua::v3::Lua;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_filter::ConfigType;
use envoy_types::pb::envoy::r#type::matcher::v3::HttpRequestHeaderMatchInput;
use envoy_types::pb::google::protobuf::Any;
use envoy_types::pb::xds::core::v3::TypedExtensionConfig as XdsExtension;
use envoy_types::pb::xds::r#type::matcher::v3::matcher::matcher_list::predicate::{
    MatchType, SinglePredicate, single_predicate,
};
use envoy_types::pb::xds::r#type::matcher::v3::matcher::matcher_list::{FieldMatcher, Predicate};
use envoy_types::pb::xds::r#type::matcher::v3::matcher::{MatcherList, MatcherType, OnMatch, on_match};
use envoy_types::pb::xds::r#type::matcher::v3::regex_matcher::{EngineType, GoogleRe2};
use envoy_types::pb::xds::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::xds::r#type::matcher::v3::{Matcher, RegexMatcher, StringMatcher};
use prost::{Message, Name};

use super::proto::{any, extension, overwrite, text, unless_present};

/// The messages of the inference protocol, for the filter that reads the model's name in them.
const DESCRIPTORS: &[u8] = include_bytes!("../../golden/inference.desc");

const EXTRACTION: &str = "envoy.filters.http.grpc_field_extraction";

/// Key of the dynamic metadata that the model's name is left under for the script.
const EXTRACTED: &str = "model";

/// Methods that name a model, with the field that does, in order of the name.
const NAMING_METHODS: [(&str, &str); 4] = [
    ("inference.GRPCInferenceService.ModelInfer", "model_name"),
    ("inference.GRPCInferenceService.ModelMetadata", "name"),
    ("inference.GRPCInferenceService.ModelReady", "name"),
    ("inference.GRPCInferenceService.ModelStreamInfer", "model_name"),
];

/// The script that turns a path, or what was found in a message, into the header that chooses the scope.
const SCRIPT: &str = include_str!("model.lua");

/// All filters, in order.
pub(super) fn all() -> Vec<HttpFilter> {
    vec![
        filter(
            "model-in-message",
            any(&unless_named(TypedExtensionConfig {
                name: EXTRACTION.to_owned(),
                typed_config: Some(Any { type_url: GrpcFieldExtractionConfig::type_url(), value: extraction() }),
            })),
        ),
        filter("model-to-header", any(&Lua { default_source_code: Some(text(SCRIPT)), ..Lua::default() })),
        filter("route-headers", any(&route_headers())),
        filter("router", any(&Router::default())),
    ]
}

fn filter(name: &str, config: Any) -> HttpFilter {
    HttpFilter { name: name.to_owned(), config_type: Some(ConfigType::TypedConfig(config)), ..HttpFilter::default() }
}

/// The filter, skipped when the model's header is there and says something. Else it would hold the first message of
/// every call, and the window would bound messages for all.
fn unless_named(filter: TypedExtensionConfig) -> ExtensionWithMatcher {
    let input = HttpRequestHeaderMatchInput { header_name: header::MODEL.to_owned() };
    let something = StringMatcher {
        match_pattern: Some(MatchPattern::SafeRegex(RegexMatcher {
            regex: ".+".to_owned(),
            // Envoy refuses the listener without it.
            engine_type: Some(EngineType::GoogleRe2(GoogleRe2 {})),
        })),
        ..StringMatcher::default()
    };
    let named = SinglePredicate {
        input: Some(xds_extension("model", &input)),
        matcher: Some(single_predicate::Matcher::ValueMatch(something)),
    };
    let skip = OnMatch {
        on_match: Some(on_match::OnMatch::Action(xds_extension("skip", &SkipFilter {}))),
        ..OnMatch::default()
    };
    let matcher = FieldMatcher {
        predicate: Some(Predicate { match_type: Some(MatchType::SinglePredicate(named)) }),
        on_match: Some(skip),
    };
    ExtensionWithMatcher {
        xds_matcher: Some(Matcher {
            matcher_type: Some(MatcherType::MatcherList(MatcherList { matchers: vec![matcher] })),
            ..Matcher::default()
        }),
        extension_config: Some(filter),
        ..ExtensionWithMatcher::default()
    }
}

fn xds_extension<M: Message + Name>(name: &str, message: &M) -> XdsExtension {
    let TypedExtensionConfig { name, typed_config } = extension(name, message);
    XdsExtension { name, typed_config }
}

/// The encoded configuration. Its map has more than one entry, so each entry is encoded in a message of its own; their
/// concatenation is the merged message, in our order.
fn extraction() -> Vec<u8> {
    let descriptors =
        DataSource { specifier: Some(Specifier::InlineBytes(DESCRIPTORS.to_vec())), ..DataSource::default() };
    let head = GrpcFieldExtractionConfig { descriptor_set: Some(descriptors), ..GrpcFieldExtractionConfig::default() };
    let mut encoded = head.encode_to_vec();
    for (method, field) in NAMING_METHODS {
        let to = RequestFieldValueDisposition { metadata_key: EXTRACTED.to_owned(), ..Default::default() };
        let fields = FieldExtractions { request_field_extractions: HashMap::from([(field.to_owned(), to)]) };
        let entry = GrpcFieldExtractionConfig {
            extractions_by_method: HashMap::from([(method.to_owned(), fields)]),
            ..GrpcFieldExtractionConfig::default()
        };
        encoded.put_slice(&entry.encode_to_vec());
    }
    encoded
}

/// A client's own value of the internal header never gets through. What a route with several backends sets wins: in
/// requests it is set later, in responses earlier. (An answer of Envoy's own to a request without a
/// route says `x-seldon-route: ::`, which keeps a client nowhere; leaving it out would take a script for each answer.)
/// What an agent says to Envoy alone ends here.
fn route_headers() -> HeaderMutation {
    HeaderMutation {
        mutations: Some(Mutations {
            request_mutations: vec![mutation(Action::Append(overwrite(header::INTERNAL_MODEL, "%ROUTE_NAME%")))],
            response_mutations: vec![
                mutation(Action::Append(unless_present(header::ROUTE, ":%ROUTE_NAME%:"))),
                mutation(Action::Remove(header::REFUSED.to_owned())),
            ],
            ..Mutations::default()
        }),
        ..HeaderMutation::default()
    }
}

fn mutation(action: Action) -> Mutation {
    Mutation { action: Some(action) }
}
