//! The access log: one line of text for a request, by default only for those that failed.

use envoy_types::pb::envoy::config::accesslog::v3::access_log::ConfigType;
use envoy_types::pb::envoy::config::accesslog::v3::access_log_filter::FilterSpecifier;
use envoy_types::pb::envoy::config::accesslog::v3::comparison_filter::Op;
use envoy_types::pb::envoy::config::accesslog::v3::grpc_status_filter::Status;
use envoy_types::pb::envoy::config::accesslog::v3::{
    AccessLog as WireLog, AccessLogFilter, AndFilter, ComparisonFilter, GrpcStatusFilter, HeaderFilter, OrFilter,
    StatusCodeFilter,
};
use envoy_types::pb::envoy::config::core::v3::substitution_format_string::Format;
use envoy_types::pb::envoy::config::core::v3::{RuntimeUInt32, SubstitutionFormatString};
use envoy_types::pb::envoy::config::route::v3::HeaderMatcher;
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::extensions::access_loggers::file::v3::FileAccessLog;
use envoy_types::pb::envoy::extensions::access_loggers::file::v3::file_access_log::AccessLogFormat;
use envoy_types::pb::envoy::r#type::matcher::v3::StringMatcher;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;

use super::proto::{any, text};
use super::settings::AccessLog;

/// What a line says. The last three are ours: what was asked for, what it led to, and where it came from.
const LINE: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% \
                    %GRPC_STATUS_NUMBER% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
                    %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \
                    \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" \"%REQ(SELDON-MODEL)%\" \
                    \"%ROUTE_NAME%\" \"%DOWNSTREAM_REMOTE_ADDRESS%\"\n";

/// From this HTTP status on a request has failed.
const FIRST_FAILURE: u32 = 400;

/// Name that the runtime could change the status by. Nothing ever does; Envoy demands one.
const RUNTIME_KEY: &str = "switchyard.access_log.first_failure";

/// How Envoy is told to write the log.
pub(super) fn of(log: &AccessLog) -> WireLog {
    let file = FileAccessLog {
        path: log.path.to_string_lossy().into_owned(),
        access_log_format: Some(AccessLogFormat::LogFormat(SubstitutionFormatString {
            format: Some(Format::TextFormatSource(text(LINE))),
            ..SubstitutionFormatString::default()
        })),
    };
    WireLog {
        name: "envoy.access_loggers.file".to_owned(),
        filter: (!log.include_successful).then(failures),
        config_type: Some(ConfigType::TypedConfig(any(&file))),
    }
}

fn failures() -> AccessLogFilter {
    let rest = both(status(Op::Ge, FIRST_FAILURE), grpc(false));
    let rpc = both(
        grpc(true),
        filter(FilterSpecifier::GrpcStatusFilter(GrpcStatusFilter {
            statuses: vec![Status::Ok.into()],
            exclude: true,
        })),
    );
    filter(FilterSpecifier::OrFilter(OrFilter { filters: vec![rest, rpc] }))
}

/// Whether the request is gRPC.
pub(super) fn grpc(is: bool) -> AccessLogFilter {
    header(HeaderMatcher {
        name: "content-type".to_owned(),
        invert_match: !is,
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(StringMatcher {
            match_pattern: Some(MatchPattern::Prefix("application/grpc".to_owned())),
            ..StringMatcher::default()
        })),
        // Without it a request that has no such header matches neither a condition nor its opposite.
        treat_missing_header_as_empty: true,
    })
}

/// Whether the request has the header.
pub(super) fn present(name: &str) -> AccessLogFilter {
    header(HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::PresentMatch(true)),
        ..HeaderMatcher::default()
    })
}

pub(super) fn status(op: Op, value: u32) -> AccessLogFilter {
    let value = RuntimeUInt32 { default_value: value, runtime_key: RUNTIME_KEY.to_owned() };
    let comparison = ComparisonFilter { op: op.into(), value: Some(value) };
    filter(FilterSpecifier::StatusCodeFilter(StatusCodeFilter { comparison: Some(comparison) }))
}

pub(super) fn both(one: AccessLogFilter, other: AccessLogFilter) -> AccessLogFilter {
    filter(FilterSpecifier::AndFilter(AndFilter { filters: vec![one, other] }))
}

fn header(header: HeaderMatcher) -> AccessLogFilter {
    filter(FilterSpecifier::HeaderFilter(HeaderFilter { header: Some(header) }))
}

fn filter(specifier: FilterSpecifier) -> AccessLogFilter {
    AccessLogFilter { filter_specifier: Some(specifier) }
}
