//! `model infer`: one call, or a count of many.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use clap::ValueEnum;
use domain::ModelName;
use http::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use oip::{Contents, InferRequest, InferResponse, TextStyle};

use super::Infer;
use crate::client::inference::{Grpc, ROUTE_HEADER, Rest, for_json, for_model};
use crate::client::{self, MAX_MESSAGE};
use crate::failure::{self, Error};
use crate::manifest;
use crate::output::json::indented;
use crate::output::table::one_line;
use crate::output::{Output, say};
use crate::verb;

/// How a model is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// HTTP with JSON.
    Rest,
    /// gRPC; the same JSON is sent as a message, and the answer printed as JSON.
    Grpc,
}

/// Reads `NAME=VALUE`.
pub(super) fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once('=').ok_or("write it as NAME=VALUE")?;
    let name: HeaderName = name.trim().parse().map_err(|error| format!("{name:?}: {error}"))?;
    if name == HOST || name == "authority" {
        return Err(format!("{name} follows from --inference-host"));
    }
    let value = HeaderValue::from_str(value).map_err(|error| format!("the value of {name}: {error}"))?;
    Ok((name, value))
}

/// A call and the way it took.
struct Called {
    route: String,
    text: String,
}

enum Caller {
    Rest { rest: Box<Rest>, headers: HeaderMap, body: Bytes },
    Grpc { grpc: Box<Grpc>, headers: HeaderMap, request: Box<InferRequest> },
}

pub(super) async fn infer(flags: Infer, output: &mut Output) -> Result<(), Error> {
    ModelName::parse(&flags.name).map_err(verb::Error::Name)?;
    let body = match (&flags.request, &flags.file) {
        (Some(request), None) => request.clone(),
        (None, Some(file)) => manifest::read(file, MAX_MESSAGE)?,
        (Some(_), Some(_)) | (None, None) => return Err(verb::Error::OneRequest.into()),
    };
    let mut caller = Caller::new(&flags, Bytes::from(body)).await?;
    if flags.iterations == 1 {
        let called = caller.call(&flags.name, flags.show_headers).await?;
        return Ok(output.line(&called.text)?);
    }
    let mut tally: BTreeMap<String, u32> = BTreeMap::new();
    let mut errors: BTreeMap<String, u32> = BTreeMap::new();
    let mut last = None;
    for _ in 0..flags.iterations {
        match caller.call(&flags.name, flags.show_headers).await {
            Ok(called) => *tally.entry(called.route).or_default() += 1,
            Err(error) => {
                let text = failure::chain(&error);
                *errors.entry(kind(&error)).or_default() += 1;
                last = Some(text);
            }
        }
    }
    output.line(&format!("Success: {}", map(&tally)))?;
    let Some(last) = last else { return Ok(()) };
    output.line(&format!("Errors: {}", map(&errors)))?;
    let errors = errors.values().sum();
    Err(verb::Error::Calls { errors, calls: flags.iterations, last }.into())
}

/// The kind of an error, for counting.
fn kind(error: &Error) -> String {
    match error {
        Error::Client(client::Error::Http { code, .. }) => code.as_u16().to_string(),
        Error::Client(client::Error::Refused { code, .. }) => format!("{code:?}"),
        Error::Client(client::Error::Connect { .. }) => "connect".to_owned(),
        Error::Client(client::Error::Slow { .. }) => "timeout".to_owned(),
        _ => "answer".to_owned(),
    }
}

/// Counts as `map[a:1 b:2]`, the compatible way of writing them.
fn map(counts: &BTreeMap<String, u32>) -> String {
    let counts: Vec<String> = counts.iter().map(|(key, count)| format!("{key}:{count}")).collect();
    format!("map[{}]", counts.join(" "))
}

impl Caller {
    async fn new(flags: &Infer, body: Bytes) -> Result<Caller, Error> {
        let address = flags.inference.address(&flags.installation)?;
        let timeout = Duration::from_secs(flags.timeout_secs);
        let own = |mut headers: HeaderMap| {
            for (name, _) in &flags.header {
                headers.remove(name);
            }
            for (name, value) in &flags.header {
                headers.append(name, value.clone());
            }
            headers
        };
        Ok(match flags.inference_mode {
            Mode::Rest => {
                Caller::Rest { rest: Box::new(Rest::new(address, timeout)), headers: own(for_json(&flags.name)), body }
            }
            Mode::Grpc => {
                let mut request = InferRequest::from_json(&body, None).map_err(verb::Error::Request)?;
                request.model_name.clone_from(&flags.name);
                let grpc = Box::new(Grpc::connect(address, timeout).await?);
                Caller::Grpc { grpc, headers: own(for_model(&flags.name)), request: Box::new(request) }
            }
        })
    }

    async fn call(&mut self, model: &str, show_headers: bool) -> Result<Called, Error> {
        match self {
            Caller::Rest { rest, headers, body } => {
                show('>', headers, show_headers);
                let answer = rest.infer(model, headers.clone(), body.clone()).await?;
                show('<', &answer.headers, show_headers);
                let route = route(&answer.headers);
                let body = answer.successful(model)?;
                Ok(Called { route, text: indented(&String::from_utf8_lossy(&body)) })
            }
            Caller::Grpc { grpc, headers, request } => {
                show('>', headers, show_headers);
                let message = request.as_ref().clone().into_proto(Contents::Raw);
                let (headers, message) = grpc.infer(headers.clone(), message).await?;
                show('<', &headers, show_headers);
                let answer = InferResponse::from_proto(message)
                    .map_err(|cause| verb::Error::Answer { model: model.to_owned(), cause })?;
                let body = answer.to_json(TextStyle::Text, |_| false).body;
                Ok(Called { route: route(&headers), text: indented(&String::from_utf8_lossy(&body)) })
            }
        }
    }
}

fn show(arrow: char, headers: &HeaderMap, wanted: bool) {
    if wanted {
        for (name, value) in headers {
            say(&format!("{arrow} {name}: {}", one_line(&String::from_utf8_lossy(value.as_bytes()))));
        }
    }
}

/// The way that an answer came, `:iris_1:`; empty when nobody said it.
fn route(headers: &HeaderMap) -> String {
    let values: Vec<_> = headers.get_all(ROUTE_HEADER).iter().map(|v| String::from_utf8_lossy(v.as_bytes())).collect();
    one_line(&values.join(","))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{header, map};

    #[test]
    fn a_header_has_a_name_and_a_value_and_is_not_the_host() {
        let read = |text| header(text).map(|(name, value)| format!("{name}: {}", value.to_str().expect("text")));
        assert_eq!(read("X-Request-Id=a=b"), Ok("x-request-id: a=b".to_owned()));
        for bad in ["x", "=a", "a b=c", "host=x", "Authority=x", "x=\n"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn counts_are_written_the_compatible_way() {
        let counts = BTreeMap::from([(":iris_1:".to_owned(), 3), (":iris_2:".to_owned(), 7)]);
        assert_eq!(map(&counts), "map[:iris_1::3 :iris_2::7]");
        assert_eq!(map(&BTreeMap::new()), "map[]");
    }
}
