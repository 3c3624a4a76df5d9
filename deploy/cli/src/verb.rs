//! What a user can ask for, one file for each group of verbs.

pub(crate) mod apply;
pub(crate) mod config;
pub(crate) mod doctor;
pub(crate) mod envoy;
pub(crate) mod experiment;
pub(crate) mod file;
pub(crate) mod infer;
pub(crate) mod inspect;
pub(crate) mod model;
pub(crate) mod pipeline;
pub(crate) mod server;
pub(crate) mod status;
pub(crate) mod store;

use std::time::Duration;

use domain::{BadName, ExperimentName, ModelName, PipelineName, ServerName};
use tokio::time::{Instant, sleep, timeout_at};

use crate::manifest::{Kind, Named};
use crate::output::say;
use crate::wait::{self, Verdict};
use crate::{client, failure, proto_json};

/// The first pause between two looks; a small model is loaded within it or the next ones.
const FIRST_PAUSE: Duration = Duration::from_millis(25);
/// The longest pause between two looks: half a second late is not noticed after seconds of waiting.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// What a user asked for and cannot have.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Name(#[from] BadName),
    #[error("{0} is not known to the scheduler: `switchyard {kind} list` shows what is", kind = .0.kind)]
    Unknown(Named),
    #[error("no Envoy {node} is connected: {}", shown_nodes(.connected))]
    NoEnvoy { node: String, connected: Vec<String> },
    #[error("{0} is unloaded already, or about to be")]
    Leaving(Named),
    #[error("give the name of the {kind}, or a manifest with -f")]
    NameOrFile { kind: Kind },
    #[error("{text:?} names no topics: {problem}")]
    Expression { text: String, problem: String },
    #[error("the latest record has no tensor {tensor}, but {held}")]
    NoTensor { tensor: String, held: String },
    #[error("the log ends: {0}")]
    Tap(String),
    #[error("a request would not come through, see above")]
    Unwell,
    #[error("give the request as an argument or with -f, and not both")]
    OneRequest,
    #[error(transparent)]
    Request(#[from] proto_json::Error),
    #[error("the answer of model {model} cannot be read")]
    Answer {
        model: String,
        #[source]
        cause: oip::Error,
    },
    #[error("{text:?} (--authority) is no authority: write it as a host, or as host:port")]
    Authority { text: String },
    #[error("the stored route {route:?} is no header value: call once without -s, or remove the session file")]
    Route { route: String },
    #[error("{errors} of {calls} calls failed; the last one: {last}")]
    Calls { errors: u32, calls: u32, last: String },
}

impl Named {
    /// A name that follows the rule of its kind.
    pub(crate) fn checked(kind: Kind, name: String) -> Result<Named, Error> {
        match kind {
            Kind::Model => ModelName::parse(&name).map(drop),
            Kind::Experiment => ExperimentName::parse(&name).map(drop),
            Kind::Pipeline => PipelineName::parse(&name).map(drop),
            Kind::Server => ServerName::parse(&name).map(drop),
        }?;
        Ok(Named { kind, name })
    }
}

/// Until when something is waited for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    at: Instant,
    seconds: u64,
    /// What is waited for is not told.
    quiet: bool,
}

impl Deadline {
    pub(crate) fn after(seconds: u64) -> Deadline {
        Deadline { at: Instant::now() + Duration::from_secs(seconds), seconds, quiet: false }
    }

    /// The same, without telling what is waited for.
    pub(crate) fn quietly(self) -> Deadline {
        Deadline { quiet: true, ..self }
    }
}

/// Looks again and again until the verdict is final or the deadline is over. Tells what it waits for, once each time
/// it changes. A peer that is away is waited for: it may be restarting.
pub(crate) async fn wait_for<F>(what: &Named, deadline: Deadline, mut look: F) -> Result<String, failure::Error>
where
    F: AsyncFnMut() -> Result<Verdict, client::Error>,
{
    let mut pause = FIRST_PAUSE;
    let mut last = String::from("no answer yet");
    loop {
        let verdict = match timeout_at(deadline.at, look()).await {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(error)) if error.is_passing() => Verdict::Waiting(error.to_string()),
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => Verdict::Waiting(last.clone()),
        };
        match verdict {
            Verdict::Done(text) => return Ok(text),
            Verdict::Failed(reason) => return Err(wait::Error::Failed { what: what.clone(), reason }.into()),
            Verdict::Waiting(text) => {
                if text != last {
                    if !deadline.quiet {
                        say(&format!("{what}: {text}"));
                    }
                    last = text;
                }
            }
        }
        if Instant::now() + pause >= deadline.at {
            return Err(wait::Error::Timeout { what: what.clone(), seconds: deadline.seconds, last }.into());
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Which Envoys there are, for an error.
fn shown_nodes(nodes: &[String]) -> String {
    match nodes {
        [] => "none is".to_owned(),
        [..] => format!("{} are", nodes.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::{Deadline, wait_for};
    use crate::client::Error as ClientError;
    use crate::manifest::{Kind, Named};
    use crate::wait::Verdict;

    fn iris() -> Named {
        Named { kind: Kind::Model, name: "iris".to_owned() }
    }

    fn away() -> ClientError {
        ClientError::Refused { call: String::new(), code: tonic::Code::Unavailable, message: String::new() }
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_goes_on_until_a_final_verdict_also_while_the_peer_is_away() {
        let mut looks =
            vec![Ok(Verdict::Done("ready".to_owned())), Err(away()), Ok(Verdict::Waiting("soon".to_owned()))];
        let end = wait_for(&iris(), Deadline::after(60), async || looks.pop().expect("it stops at the verdict")).await;
        assert_eq!(end.expect("it was done"), "ready");
    }

    #[tokio::test(start_paused = true)]
    async fn failure_and_refusal_end_the_wait_at_once() {
        let iris = iris();
        let mut looks = 0;
        let end = wait_for(&iris, Deadline::after(60), async || {
            looks += 1;
            Ok(Verdict::Failed("no such file".to_owned()))
        });
        assert_eq!(end.await.expect_err("it failed").to_string(), "model iris: no such file");
        assert_eq!(looks, 1);
        let refused =
            || ClientError::Refused { call: "load".to_owned(), code: tonic::Code::Internal, message: "x".to_owned() };
        let end = wait_for(&iris, Deadline::after(60), async || Err(refused())).await;
        assert_eq!(end.expect_err("it was refused").to_string(), "load: Internal: x");
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_ends_the_wait_with_the_last_thing_seen() {
        let iris = iris();
        for stuck in [false, true] {
            let mut looks = 0;
            let end = wait_for(&iris, Deadline::after(3), async || {
                looks += 1;
                if stuck && looks > 1 {
                    std::future::pending::<()>().await;
                }
                Ok(Verdict::Waiting("no server".to_owned()))
            });
            let error = end.await.expect_err("it is over").to_string();
            assert_eq!(error, "model iris: still waiting after 3 s (--timeout-secs): no server");
        }
    }
}
