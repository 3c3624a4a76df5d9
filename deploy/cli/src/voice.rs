//! In whose words the program speaks: its own, or those of the compatible command line. The verbs are the same; what is
//! printed, how errors are worded and the exit status differ.

use runtime::chain;

use crate::failure::Error;
use crate::manifest::{self, Kind};
use crate::output::json::PlainLists;
use crate::output::{self, Output};
use crate::{client, wait};

/// The file name by which the compatible command line is called.
pub(crate) const SELDON: &str = "seldon";

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Voice {
    /// Sentences for people, and JSON where it is asked for.
    Switchyard,
    /// What scripts written for the compatible command line expect.
    Seldon {
        /// Requests and answers are printed too.
        verbose: bool,
    },
}

impl Voice {
    /// Shows what is sent, where that was asked for.
    pub(crate) fn request(self, output: &mut Output, text: impl FnOnce() -> String) -> Result<(), output::Error> {
        match self {
            Voice::Seldon { verbose: true } => output.line(&text()),
            Voice::Seldon { verbose: false } | Voice::Switchyard => Ok(()),
        }
    }

    /// How JSON is laid out.
    pub(crate) fn lists(self) -> PlainLists {
        match self {
            Voice::Switchyard => PlainLists::OneLine,
            Voice::Seldon { .. } => PlainLists::Spread,
        }
    }

    /// Shows an answer that has nothing in it, where that was asked for.
    pub(crate) fn empty_answer(self, output: &mut Output) -> Result<(), output::Error> {
        self.request(output, || "{}".to_owned())
    }
}

/// An error as the compatible command line words it.
pub(crate) fn compatible(error: &Error) -> String {
    match error {
        Error::Client(client::Error::Refused { code, message, .. }) => rpc_error(*code, message),
        Error::Client(error @ client::Error::Connect { protocol: client::Protocol::Grpc, .. }) => {
            rpc_error(tonic::Code::Unavailable, &chain(error))
        }
        Error::Client(client::Error::Http { code, error: Some(text), .. })
            if *code == http::StatusCode::BAD_REQUEST =>
        {
            text.clone()
        }
        Error::Client(client::Error::Http { code, body, .. }) => format!("V2 server error: {} {body}", code.as_u16()),
        Error::Wait(wait::Error::Timeout { what, last, .. }) => {
            let kind = match what.kind {
                Kind::Model => "Model",
                Kind::Experiment => "Experiment",
                Kind::Pipeline => "Pipeline",
                Kind::Server => "Server",
            };
            format!("{kind} wait status timeout: {last}")
        }
        Error::Manifest(manifest::Error::Violations(violations)) => {
            let lines = violations.iter().map(|violation| match violation.problem {
                crds::Problem::UnknownField { .. } => {
                    violation.to_string().replacen("unknown field", "json: unknown field", 1)
                }
                _ => violation.to_string(),
            });
            lines.collect::<Vec<_>>().join("\n")
        }
        error => chain(error),
    }
}

fn rpc_error(code: tonic::Code, message: &str) -> String {
    let name = match code {
        tonic::Code::Cancelled => "Canceled".to_owned(),
        code => format!("{code:?}"),
    };
    format!("rpc error: code = {name} desc = {message}")
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use tonic::Code;

    use super::compatible;
    use crate::client::Error as ClientError;
    use crate::failure::Error;
    use crate::manifest::{Error as ManifestError, Kind, Named};
    use crate::wait::Error as WaitError;

    #[test]
    fn errors_are_worded_as_scripts_expect_them() {
        let refused =
            |code| Error::Client(ClientError::Refused { call: "load".to_owned(), code, message: "no".to_owned() });
        let http = |code, error: Option<&str>| {
            let (model, body) = ("iris".to_owned(), "{\"error\":\"bad\"}".to_owned());
            Error::Client(ClientError::Http { model, step: None, code, body, error: error.map(str::to_owned) })
        };
        let late = |kind| {
            let what = Named { kind, name: "x".to_owned() };
            Error::Wait(WaitError::Timeout { what, seconds: 5, last: "loading".to_owned() })
        };
        let text =
            "apiVersion: mlops.seldon.io/v1alpha1\nkind: Model\nmetadata: {name: a}\nspec: {storageUri: /a, x: 1}\n";
        let violations = Error::Manifest(ManifestError::Violations(crds::parse(text, "f").expect_err("unknown field")));
        for (error, expected) in [
            (refused(Code::FailedPrecondition), "rpc error: code = FailedPrecondition desc = no"),
            (refused(Code::Cancelled), "rpc error: code = Canceled desc = no"),
            (http(StatusCode::BAD_REQUEST, Some("bad")), "bad"),
            (http(StatusCode::BAD_REQUEST, None), "V2 server error: 400 {\"error\":\"bad\"}"),
            (http(StatusCode::NOT_FOUND, Some("bad")), "V2 server error: 404 {\"error\":\"bad\"}"),
            (late(Kind::Model), "Model wait status timeout: loading"),
            (late(Kind::Experiment), "Experiment wait status timeout: loading"),
            (violations, r#"f:4: spec.x: json: unknown field "x""#),
        ] {
            assert_eq!(compatible(&error), expected);
        }
    }
}
