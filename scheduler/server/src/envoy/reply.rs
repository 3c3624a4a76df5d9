//! What Envoy itself answers: JSON for REST, a message in plain words for gRPC, always with the model's name.
//!
//! The status stays Envoy's: 404 for a model without a scope, which gRPC clients see as UNIMPLEMENTED. A model or
//! pipeline that has been declared for a second has one, even when nobody serves it (`scope::unserved`).

use std::collections::HashMap;

use domain::header;
use envoy_types::pb::envoy::config::accesslog::v3::AccessLogFilter;
use envoy_types::pb::envoy::config::accesslog::v3::comparison_filter::Op;
use envoy_types::pb::envoy::config::core::v3::SubstitutionFormatString;
use envoy_types::pb::envoy::config::core::v3::substitution_format_string::Format;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    LocalReplyConfig, ResponseMapper,
};
use envoy_types::pb::google::protobuf::{Struct, Value, value};

use super::log::{both, grpc, present, status};
use super::proto::text;

/// No route: nothing answers by that name. Longer names than any model has are cut.
const UNKNOWN: &str = "model %REQ(seldon-model):300% is not known here: nobody declared it, or only just now, or it is an \
                       experiment that does not run";

/// No route and no name.
const NAMELESS: &str = "the request names no model: use the header seldon-model, a path below /v2/models/<name>/, or \
                        the model's name in the gRPC message";

/// What Envoy says by itself, such as "no healthy upstream".
const OWN_WORDS: &str = "%LOCAL_REPLY_BODY%";

const OK: u32 = 200;
const NOT_FOUND: u32 = 404;

/// Mappers are tried in order; the first whose condition holds decides.
pub(super) fn config() -> LocalReplyConfig {
    let not_found = || status(Op::Eq, NOT_FOUND);
    let named = || both(not_found(), present(header::MODEL));
    let mappers = vec![
        mapper(both(named(), grpc(true)), plain(UNKNOWN)),
        mapper(named(), json(UNKNOWN)),
        mapper(both(not_found(), grpc(true)), plain(NAMELESS)),
        mapper(not_found(), json(NAMELESS)),
        mapper(grpc(true), plain(OWN_WORDS)),
        // The canary's answer is no error.
        mapper(status(Op::Le, OK), plain(OWN_WORDS)),
    ];
    LocalReplyConfig { mappers, body_format: Some(json(OWN_WORDS)) }
}

fn mapper(filter: AccessLogFilter, body: SubstitutionFormatString) -> ResponseMapper {
    ResponseMapper { filter: Some(filter), body_format_override: Some(body), ..ResponseMapper::default() }
}

/// Envoy puts it into `grpc-message`.
fn plain(format: &str) -> SubstitutionFormatString {
    SubstitutionFormatString {
        format: Some(Format::TextFormatSource(text(format))),
        ..SubstitutionFormatString::default()
    }
}

/// `{"error": ...}`, escaped by Envoy. One entry, so its encoding is canonical.
fn json(format: &str) -> SubstitutionFormatString {
    let value = Value { kind: Some(value::Kind::StringValue(format.to_owned())) };
    SubstitutionFormatString {
        format: Some(Format::JsonFormat(Struct { fields: HashMap::from([("error".to_owned(), value)]) })),
        ..SubstitutionFormatString::default()
    }
}
