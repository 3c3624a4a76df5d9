//! `infer`: one call, or a count of many, and the way that sticky calls went.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use clap::ValueEnum;
use domain::{ExperimentName, ModelName, PipelineName};
use http::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use http::uri::Authority;
use messages::inference::ModelInferRequest;
use oip::{InferResponse, TextStyle};
use tokio::time::Instant;

use crate::address::Address;
use crate::client;
use crate::client::inference::{Grpc, ROUTE_HEADER, Rest, for_json, for_model};
use crate::config::Session;
use crate::failure::Error;
use crate::output::json::indented;
use crate::output::table::one_line;
use crate::output::{Output, say};
use crate::voice::Voice;
use crate::{proto_json, verb};

/// A pipeline is called by its name and this; a model's name has no dot.
const PIPELINE_SUFFIX: &str = ".pipeline";

/// What a pipeline is called by.
pub(crate) fn of_pipeline(name: String) -> String {
    if name.ends_with(PIPELINE_SUFFIX) { name } else { name + PIPELINE_SUFFIX }
}

/// How a model is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// HTTP with JSON.
    Rest,
    /// gRPC; the request may be JSON of the Open Inference Protocol or of the protobuf message.
    Grpc,
}

/// How often a model is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Calls {
    Count(u32),
    For(Duration),
}

/// What is printed besides counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Show {
    pub(crate) headers: bool,
    pub(crate) request: bool,
    pub(crate) response: bool,
}

/// Everything that a call needs.
pub(crate) struct Plan {
    /// A model, or an experiment or a pipeline with its suffix.
    pub(crate) model: String,
    pub(crate) body: Bytes,
    pub(crate) mode: Mode,
    pub(crate) address: Address,
    pub(crate) authority: Option<Authority>,
    /// Of one call.
    pub(crate) timeout: Duration,
    pub(crate) calls: Calls,
    /// Sent besides, or instead of, those that are sent anyway.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) show: Show,
    /// Where the way of sticky calls is kept.
    pub(crate) session: Option<Session>,
}

/// Reads `NAME=VALUE`.
pub(crate) fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once('=').ok_or("write it as NAME=VALUE")?;
    let name: HeaderName = name.trim().parse().map_err(|error| format!("{name:?}: {error}"))?;
    if name == HOST || name == "authority" {
        return Err(format!("{name} cannot be set like this: use --authority"));
    }
    let value = HeaderValue::from_str(value).map_err(|error| format!("the value of {name}: {error}"))?;
    Ok((name, value))
}

/// A call and the way it took.
struct Called {
    routes: Vec<String>,
    text: String,
}

enum Transport {
    Rest { rest: Box<Rest>, body: Bytes },
    Grpc { grpc: Box<Grpc>, request: Box<ModelInferRequest> },
}

struct Caller {
    model: String,
    headers: HeaderMap,
    transport: Transport,
    show: Show,
    voice: Voice,
    /// The way that the next call is to go; `None` when calls are free.
    sticky: Option<Vec<String>>,
}

pub(crate) async fn run(plan: Plan, voice: Voice, output: &mut Output) -> Result<(), Error> {
    match plan.model.rsplit_once('.') {
        Some((experiment, "experiment")) => ExperimentName::parse(experiment).map(drop),
        Some((pipeline, "pipeline")) => PipelineName::parse(pipeline).map(drop),
        _ => ModelName::parse(&plan.model).map(drop),
    }
    .map_err(verb::Error::Name)?;
    let (calls, session) = (plan.calls, plan.session);
    let sticky = session.as_ref().map(Session::routes).transpose()?;
    let mut caller = Caller {
        headers: headers(&plan.model, plan.mode, &plan.headers),
        transport: Transport::new(plan.mode, plan.address, plan.authority, plan.timeout, plan.body, &plan.model)
            .await?,
        model: plan.model,
        show: plan.show,
        voice,
        sticky,
    };
    let ended = match calls {
        Calls::Count(1) => caller.once(output).await,
        Calls::Count(_) | Calls::For(_) => caller.often(calls, output).await,
    };
    if let (Some(session), Some(routes)) = (&session, &caller.sticky) {
        session.store(routes)?;
    }
    ended
}

/// The headers of every call.
fn headers(model: &str, mode: Mode, own: &[(HeaderName, HeaderValue)]) -> HeaderMap {
    let mut headers = match mode {
        Mode::Rest => for_json(model),
        Mode::Grpc => for_model(model),
    };
    for (name, _) in own {
        headers.remove(name);
    }
    for (name, value) in own {
        headers.append(name, value.clone());
    }
    headers
}

impl Transport {
    async fn new(
        mode: Mode,
        address: Address,
        authority: Option<Authority>,
        timeout: Duration,
        body: Bytes,
        model: &str,
    ) -> Result<Transport, Error> {
        Ok(match mode {
            Mode::Rest => Transport::Rest { rest: Box::new(Rest::new(address, timeout).addressed_to(authority)), body },
            Mode::Grpc => {
                let request = Box::new(proto_json::request(&body, model).map_err(verb::Error::Request)?);
                let grpc = Box::new(Grpc::connect_as(address, authority.as_ref(), timeout).await?);
                Transport::Grpc { grpc, request }
            }
        })
    }
}

impl Caller {
    async fn once(&mut self, output: &mut Output) -> Result<(), Error> {
        let called = self.call(output).await?;
        if self.show.response { Ok(output.line(&called.text)?) } else { Ok(()) }
    }

    async fn often(&mut self, calls: Calls, output: &mut Output) -> Result<(), Error> {
        let started = Instant::now();
        let more = |done: u32| match calls {
            Calls::Count(count) => done < count,
            Calls::For(time) => started.elapsed() < time,
        };
        let mut tally: BTreeMap<String, u32> = BTreeMap::new();
        let mut errors: BTreeMap<String, u32> = BTreeMap::new();
        let mut last = None;
        let mut done = 0;
        while more(done) {
            match self.call(output).await {
                Ok(called) => *tally.entry(called.routes.join(",")).or_default() += 1,
                // Nobody is there at all: that needs no counting.
                Err(error @ Error::Client(client::Error::Connect { .. })) if done == 0 => return Err(error),
                Err(error) => {
                    *errors.entry(kind(&error)).or_default() += 1;
                    last = Some(runtime::chain(&error));
                }
            }
            done = done.saturating_add(1);
        }
        output.line(&format!("Success: {}", map(&tally)))?;
        let Some(last) = last else { return Ok(()) };
        output.line(&format!("Errors: {}", map(&errors)))?;
        Err(verb::Error::Calls { errors: errors.values().sum(), calls: done, last }.into())
    }

    async fn call(&mut self, output: &mut Output) -> Result<Called, Error> {
        let mut headers = self.headers.clone();
        for route in self.sticky.iter().flatten() {
            let value = HeaderValue::from_str(route).map_err(|_| verb::Error::Route { route: route.clone() })?;
            headers.append(ROUTE_HEADER, value);
        }
        self.show_headers('>', &headers, output)?;
        let (answered, text) = match &mut self.transport {
            Transport::Rest { rest, body } => {
                if self.show.request {
                    output.line(&String::from_utf8_lossy(body))?;
                }
                let answer = rest.infer(&self.model, headers, body.clone()).await?;
                let answered = answer.headers.clone();
                (
                    answered,
                    answer
                        .successful(&self.model)
                        .map(|body| indented(&String::from_utf8_lossy(&body), self.voice.lists())),
                )
            }
            Transport::Grpc { grpc, request } => {
                if self.show.request {
                    output.line(&proto_json::request_text(request.as_ref().clone()))?;
                }
                let (answered, message) = grpc.infer(headers, request.as_ref().clone()).await?;
                let text = match self.voice {
                    Voice::Switchyard => InferResponse::from_proto(message).map(|answer| {
                        let body = answer.to_json(TextStyle::Text, |_| false).body;
                        indented(&String::from_utf8_lossy(&body), self.voice.lists())
                    }),
                    Voice::Seldon { .. } => proto_json::response_text(message),
                };
                let text = text.map_err(|cause| verb::Error::Answer { model: self.model.clone(), cause })?;
                (answered, Ok(text))
            }
        };
        self.show_headers('<', &answered, output)?;
        let text = text?;
        let routes = routes(&answered);
        if let Some(sticky) = self.sticky.as_mut().filter(|_| !routes.is_empty()) {
            sticky.clone_from(&routes);
        }
        Ok(Called { routes, text })
    }

    fn show_headers(&self, arrow: char, headers: &HeaderMap, output: &mut Output) -> Result<(), Error> {
        if !self.show.headers {
            return Ok(());
        }
        for name in headers.keys() {
            let values = headers.get_all(name).iter();
            let values: Vec<_> = values.map(|value| one_line(&String::from_utf8_lossy(value.as_bytes()))).collect();
            match (self.voice, &self.transport) {
                (Voice::Switchyard, _) => say(&format!("{arrow} {name}: {}", values.join(", "))),
                (Voice::Seldon { .. }, Transport::Rest { .. }) => {
                    output.line(&format!("{arrow} {}:[{}]", canonical(name.as_str()), values.join(" ")))?;
                }
                (Voice::Seldon { .. }, Transport::Grpc { .. }) => {
                    output.line(&format!("{arrow} {name}:[{}]", values.join(" ")))?;
                }
            }
        }
        Ok(())
    }
}

/// `x-seldon-route` as `X-Seldon-Route`.
fn canonical(name: &str) -> String {
    let word = |word: &str| {
        let mut letters = word.chars();
        letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect::<String>()
    };
    name.split('-').map(word).collect::<Vec<_>>().join("-")
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

/// The way that an answer came, `:iris_1:`; empty when nobody said it.
fn routes(headers: &HeaderMap) -> Vec<String> {
    headers.get_all(ROUTE_HEADER).iter().map(|value| one_line(&String::from_utf8_lossy(value.as_bytes()))).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Mode, canonical, header, headers, map};

    #[test]
    fn a_header_has_a_name_and_a_value_and_is_not_the_host() {
        let read = |text| header(text).map(|(name, value)| format!("{name}: {}", value.to_str().expect("text")));
        assert_eq!(read("X-Request-Id=a=b"), Ok("x-request-id: a=b".to_owned()));
        for bad in ["x", "=a", "a b=c", "host=x", "Authority=x", "x=\n"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn headers_of_ones_own_replace_those_that_are_sent_anyway() {
        let own = [header("Seldon-Model=other").expect("a header"), header("a=1").expect("a header")];
        let own = [own.as_slice(), &[header("a=2").expect("a header")]].concat();
        let found = headers("iris", Mode::Rest, &own);
        assert_eq!(found.get_all("seldon-model").iter().collect::<Vec<_>>(), ["other"]);
        assert_eq!(found.get_all("a").iter().collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(headers("iris", Mode::Grpc, &[]).get("content-type"), None);
    }

    #[test]
    fn counts_and_names_are_written_the_compatible_way() {
        let counts = BTreeMap::from([(":iris_1:".to_owned(), 3), (":iris_2:".to_owned(), 7)]);
        assert_eq!(map(&counts), "map[:iris_1::3 :iris_2::7]");
        assert_eq!(map(&BTreeMap::new()), "map[]");
        assert_eq!(canonical("x-seldon-route"), "X-Seldon-Route");
        assert_eq!(canonical("a--b"), "A--B");
    }
}
