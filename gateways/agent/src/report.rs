//! Reports to the scheduler: each is sent until it is acknowledged, until the scheduler calls it stale, or until the
//! stream it belongs to is over (the next subscription says the same, only newer).

use std::time::Duration;

use api::agent::agent_service_client::AgentServiceClient;
use domain::{Bytes, ModelVersionId, ReplicaId};
use messages::agent::ModelEventMessage;
use messages::agent::model_event_message::Event;
use runtime::child::Backoff;
use tokio::sync::watch;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tracing::{debug, warn};

/// The scheduler answers when the report is on disk; a second is a bad day.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// Longest text of a failure: gRPC peers limit a message to 4 MiB, readers to much less.
const LONGEST_REASON: usize = 2000;

/// A stream of commands, and the connection it came over.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) number: u64,
    pub(crate) client: AgentServiceClient<Channel>,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Loaded,
    LoadFailed(String),
    Unloaded,
    UnloadFailed(String),
}

/// What a report is about.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    pub(crate) id: ModelVersionId,
    pub(crate) session: u64,
    pub(crate) fence: Option<u64>,
}

/// Sends reports over whichever stream there is.
#[derive(Clone, Debug)]
pub(crate) struct Reports {
    replica: ReplicaId,
    session: watch::Receiver<Option<Session>>,
}

impl Reports {
    pub(crate) fn new(replica: ReplicaId, session: watch::Receiver<Option<Session>>) -> Self {
        Self { replica, session }
    }

    /// Whether that stream still stands.
    pub(crate) fn is_current(&self, session: u64) -> bool {
        self.session.borrow().as_ref().is_some_and(|current| current.number == session)
    }

    pub(crate) async fn send(&self, subject: &Subject, outcome: Outcome, available: Bytes) {
        let message = self.message(subject, outcome, available);
        let mut sessions = self.session.clone();
        let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
        loop {
            let current = sessions.borrow_and_update().clone();
            let Some(session) = current.filter(|session| session.number == subject.session) else {
                debug!(model = %subject.id, replica = %self.replica, "report dropped: its stream is over");
                return;
            };
            let attempt = async {
                match deliver(session.client, message.clone()).await {
                    Ok(()) => true,
                    Err(status) => {
                        self.is_final(subject, &status) || {
                            tokio::time::sleep(backoff.next_delay()).await;
                            false
                        }
                    }
                }
            };
            tokio::select! {
                // Both arms may be dropped: a report may arrive twice.
                done = attempt => if done { return },
                _ = sessions.changed() => {}
            }
        }
    }

    fn is_final(&self, subject: &Subject, status: &Status) -> bool {
        match status.code() {
            Code::Internal if std::error::Error::source(status).is_none() => {
                debug!(model = %subject.id, replica = %self.replica, reason = status.message(), "report is stale");
                true
            }
            Code::InvalidArgument | Code::Unimplemented => {
                warn!(model = %subject.id, replica = %self.replica, reason = status.message(), "report refused");
                true
            }
            code => {
                debug!(model = %subject.id, replica = %self.replica, ?code, reason = status.message(), "report again");
                false
            }
        }
    }

    fn message(&self, subject: &Subject, outcome: Outcome, available: Bytes) -> ModelEventMessage {
        let (event, reason) = match outcome {
            Outcome::Loaded => (Event::Loaded, String::new()),
            Outcome::LoadFailed(reason) => (Event::LoadFailed, reason),
            Outcome::Unloaded => (Event::Unloaded, String::new()),
            Outcome::UnloadFailed(reason) => (Event::UnloadFailed, reason),
        };
        ModelEventMessage {
            server_name: self.replica.server.to_string(),
            replica_idx: self.replica.index.0,
            model_name: subject.id.model.to_string(),
            model_version: subject.id.number.0,
            event: event.into(),
            message: reason.chars().take(LONGEST_REASON).collect(),
            available_memory_bytes: available.0,
            runtime_info: None,
            fence: subject.fence,
        }
    }
}

async fn deliver(mut client: AgentServiceClient<Channel>, message: ModelEventMessage) -> Result<(), Status> {
    let mut request = Request::new(message);
    request.set_timeout(ANSWER_LIMIT);
    match tokio::time::timeout(ANSWER_LIMIT, client.agent_event(request)).await {
        Ok(answer) => answer.map(|_| ()),
        Err(_) => Err(Status::deadline_exceeded("the scheduler does not answer")),
    }
}
