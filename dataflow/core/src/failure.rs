//! Why a request ends with an error, in a form that keeps the status.

use bytes::Bytes;

use crate::envelope::{Headers, name, text};

/// An error on its way to the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The step that failed, or the pipeline.
    pub step: String,
    /// Code of gRPC.
    pub code: i32,
    /// Status of HTTP.
    pub status: u16,
    /// What went wrong, for a person.
    pub text: String,
}

impl Failure {
    /// Codes of gRPC that we give ourselves, with the status of HTTP that goes with them.
    pub const INVALID: (i32, u16) = (3, 400);
    /// It took too long.
    pub const DEADLINE: (i32, u16) = (4, 504);
    /// What it needs is not there.
    pub const PRECONDITION: (i32, u16) = (9, 422);
    /// Something of ours is broken.
    pub const INTERNAL: (i32, u16) = (13, 500);
    /// Something does not answer.
    pub const UNAVAILABLE: (i32, u16) = (14, 503);

    /// An error with one of our own codes.
    pub fn new(step: impl Into<String>, (code, status): (i32, u16), text: impl Into<String>) -> Self {
        Self { step: step.into(), code, status, text: text.into() }
    }

    /// The error of a record, if it is one. A foreign one without a code is UNKNOWN, as the compatible system says.
    #[must_use]
    pub fn of(headers: &Headers, value: &[u8]) -> Option<Self> {
        const UNKNOWN: (i32, u16) = (2, 400);
        let failed = text(headers, name::ERRORS)?;
        let number = |name: &str| text(headers, name).and_then(|number| number.parse::<u16>().ok());
        Some(Self {
            step: text(headers, name::ERROR_STEP).unwrap_or(failed).to_owned(),
            code: number(name::ERROR_CODE).filter(|code| (1..=16).contains(code)).map_or(UNKNOWN.0, i32::from),
            status: number(name::ERROR_STATUS).filter(|status| (400..600).contains(status)).unwrap_or(UNKNOWN.1),
            text: String::from_utf8_lossy(value).into_owned(),
        })
    }

    /// Headers that say so, beside others; `failed` is what the compatible header names.
    #[must_use]
    pub fn headers(&self, failed: &str) -> Headers {
        let header = |name: &str, value: String| (name.to_owned(), Bytes::from(value));
        vec![
            header(name::ERRORS, failed.to_owned()),
            header(name::ERROR_CODE, self.code.to_string()),
            header(name::ERROR_STATUS, self.status.to_string()),
            header(name::ERROR_STEP, self.step.clone()),
        ]
    }
}
