//! The small words of Envoy's protobufs that every resource is made of.
//!
//! Canonical encoding: prost writes fields in order of their numbers and maps in random order. Maps with one entry are
//! written as they are; where more are needed, one message for each entry is encoded and the encodings are
//! concatenated, which protobuf defines as their merge (see `filters`).

use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{
    AggregatedConfigSource, ApiVersion, ConfigSource, DataSource, HeaderValue, HeaderValueOption, TypedExtensionConfig,
};
use envoy_types::pb::google::protobuf::{Any, BoolValue, Duration as WireDuration, UInt32Value};
use prost::{Message, Name};

pub(super) fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

pub(super) fn extension<M: Message + Name>(name: &str, message: &M) -> TypedExtensionConfig {
    TypedExtensionConfig { name: name.to_owned(), typed_config: Some(any(message)) }
}

pub(super) fn encode<M: Message>(message: &M) -> Bytes {
    message.encode_to_vec().into()
}

pub(super) fn ads(initial_fetch_timeout: Option<Duration>) -> ConfigSource {
    ConfigSource {
        initial_fetch_timeout: initial_fetch_timeout.map(wire),
        resource_api_version: ApiVersion::V3.into(),
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..ConfigSource::default()
    }
}

/// A duration of ours; Envoy takes whole nanoseconds below a second beside the seconds.
fn wire(duration: Duration) -> WireDuration {
    WireDuration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}

pub(super) fn duration(duration: Duration) -> Option<WireDuration> {
    Some(wire(duration))
}

pub(super) fn uint(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

pub(super) fn flag(value: bool) -> Option<BoolValue> {
    Some(BoolValue { value })
}

pub(super) fn text(text: impl Into<String>) -> DataSource {
    DataSource { specifier: Some(Specifier::InlineString(text.into())), ..DataSource::default() }
}

/// Adds the header, whatever was there goes.
pub(super) fn overwrite(name: &str, value: impl Into<String>) -> HeaderValueOption {
    header(name, value.into(), HeaderAppendAction::OverwriteIfExistsOrAdd)
}

/// Adds the header beside what is there.
pub(super) fn append(name: &str, value: impl Into<String>) -> HeaderValueOption {
    header(name, value.into(), HeaderAppendAction::AppendIfExistsOrAdd)
}

/// Adds the header if there is none of the name.
pub(super) fn unless_present(name: &str, value: impl Into<String>) -> HeaderValueOption {
    header(name, value.into(), HeaderAppendAction::AddIfAbsent)
}

fn header(name: &str, value: String, action: HeaderAppendAction) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue { key: name.to_owned(), value, ..HeaderValue::default() }),
        append_action: action.into(),
        ..HeaderValueOption::default()
    }
}
