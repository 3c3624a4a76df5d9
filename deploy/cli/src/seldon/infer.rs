//! `model infer`, `pipeline infer` and where both are.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;

use super::command::{Infer, Inference};
use super::control::authority;
use crate::address::{self, Address, Place, Target};
use crate::client::MAX_MESSAGE;
use crate::command::variable;
use crate::config::{self, Session};
use crate::failure::Error;
use crate::manifest;
use crate::output::Output;
use crate::verb::Error as VerbError;
use crate::verb::infer::{self, Calls, Plan, Show};
use crate::voice::Voice;

/// The compatible command line has no limit for a call; this one is beyond what any model takes.
const CALL_TIMEOUT: Duration = Duration::from_secs(6 * 3600);

/// Where Envoy is.
pub(super) fn address(flags: &Inference) -> Result<Address, Error> {
    Ok(address::find(Target::Inference, flags.inference_host.as_deref(), Place::Seldon, variable)?)
}

/// Calls what `target` makes of the name.
pub(super) async fn run(flags: Infer, target: impl FnOnce(String) -> String, output: &mut Output) -> Result<(), Error> {
    let body = match (flags.data, flags.file_path.as_str()) {
        (_, file) if !file.is_empty() => manifest::read(Path::new(file), MAX_MESSAGE)?,
        (Some(data), _) => data,
        (None, _) => return Err(VerbError::OneRequest.into()),
    };
    let session = if flags.sticky_session { Some(Session::open(&config::folder(variable)?)) } else { None };
    let plan = Plan {
        model: target(flags.name),
        body: Bytes::from(body),
        mode: flags.inference_mode,
        address: address(&flags.inference)?,
        authority: authority(&flags.inference.authority)?,
        timeout: CALL_TIMEOUT,
        calls: match flags.seconds {
            0 => Calls::Count(flags.iterations),
            seconds => Calls::For(Duration::from_secs(seconds)),
        },
        headers: flags.header,
        show: Show {
            headers: flags.show_headers,
            request: flags.shown.show_request,
            response: flags.shown.show_response,
        },
        session,
    };
    infer::run(plan, Voice::Seldon { verbose: false }, output).await
}
