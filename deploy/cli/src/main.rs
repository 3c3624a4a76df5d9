//! The one binary. Everything it does is in the library of the same name.

use std::process::ExitCode;

fn main() -> ExitCode {
    switchyard::start(std::env::args_os())
}
