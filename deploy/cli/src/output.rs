//! What is printed, and where: results to standard output, the rest to standard error. A reader that went away is an
//! error value here, never a panic. There are no colours.

pub(crate) mod experiment;
pub(crate) mod json;
pub(crate) mod pipeline;
pub(crate) mod request;
pub(crate) mod status;
pub(crate) mod table;
mod timestamp;

use std::io::{self, Write};

/// Why a result could not be printed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("standard output was closed")]
    Closed,
    #[error("write to standard output")]
    Write(#[source] io::Error),
}

/// Where results go.
pub(crate) struct Output(Box<dyn Write + Send>);

impl Output {
    pub(crate) fn stdout() -> Output {
        Output(Box::new(io::stdout()))
    }

    /// Prints `text` and an end of line.
    pub(crate) fn line(&mut self, text: &str) -> Result<(), Error> {
        let written = self.0.write_all(text.as_bytes()).and_then(|()| self.0.write_all(b"\n"));
        written.and_then(|()| self.0.flush()).map_err(|cause| match cause.kind() {
            io::ErrorKind::BrokenPipe => Error::Closed,
            _ => Error::Write(cause),
        })
    }
}

/// A message as JSON on one line.
pub(crate) fn as_json<T: serde::Serialize>(message: &T) -> String {
    serde_json::to_string(message).expect("messages have text keys and no number that JSON lacks")
}

/// Says something to the person who waits. Nobody may be there, so a failure is ignored.
pub(crate) fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Says what went wrong.
pub(crate) fn complain(text: &str) {
    say(&format!("Error: {text}"));
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};

    use super::{Error, Output};

    #[test]
    fn a_reader_that_went_away_is_told_from_other_failures() {
        struct Broken(io::ErrorKind);
        impl Write for Broken {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(self.0.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let line = |kind| Output(Box::new(Broken(kind))).line("x");
        assert!(matches!(line(io::ErrorKind::BrokenPipe), Err(Error::Closed)));
        assert!(matches!(line(io::ErrorKind::StorageFull), Err(Error::Write(_))));
    }
}
