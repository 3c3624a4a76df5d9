//! The gRPC services of the scheduler, and the one place where its errors become gRPC statuses.

pub(crate) mod agents;
pub(crate) mod control;
pub(crate) mod health;
pub(crate) mod streams;
pub(crate) mod workers;

use api::convert::Invalid;
use scheduler_core::Refusal;
use tonic::Status;

use crate::driver::Rejected;

/// Statuses of the scheduler API. FAILED_PRECONDITION is permanent for a client, RESOURCE_EXHAUSTED and UNAVAILABLE
/// are worth another try (`spec/control-plane.md` row 103).
pub(crate) fn rejected(rejected: &Rejected) -> Status {
    let text = rejected.to_string();
    match rejected {
        Rejected::Refused(Refusal::StaleReport { .. }) => Status::internal(text),
        Rejected::Refused(
            Refusal::UnknownModel(_)
            | Refusal::UnknownServer(_)
            | Refusal::UnknownExperiment(_)
            | Refusal::StoppedExperiment(_)
            | Refusal::BadExperiment(_)
            | Refusal::DefaultTaken { .. }
            | Refusal::StillTerminating(_, _)
            | Refusal::UnknownPipeline(_)
            | Refusal::PipelineStillTerminating(_)
            | Refusal::BadPipeline(_),
        ) => Status::failed_precondition(text),
        Rejected::NoSpace { .. } => Status::resource_exhausted(text),
        Rejected::Stopping => Status::unavailable(text),
    }
}

/// A message that is not what it should be will not get better by sending it again.
pub(crate) fn invalid(invalid: &Invalid) -> Status {
    Status::failed_precondition(invalid.to_string())
}
