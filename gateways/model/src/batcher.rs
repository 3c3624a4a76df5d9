//! Puts requests of several callers into one call, across all shards of this gateway, and gives everybody their rows.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use dataflow_core::{BatchKey, Call, Failure, Format, Headers, Outcome, Parts, merge, split};
use domain::ModelName;
use messages::inference::{ModelInferRequest, ModelInferResponse};
use oip::{Contents, InferRequest, InferResponse};
use prost::Message;
use tokio::sync::oneshot;

use crate::client::Client;

/// How long the first row waits if the pipeline does not say.
const WINDOW_DEFAULT: Duration = Duration::from_millis(100);

struct Member {
    request: InferRequest,
    rows: i64,
    answer: oneshot::Sender<Outcome>,
}

struct Open {
    model: ModelName,
    key: BatchKey,
    rows: i64,
    number: u64,
    members: Vec<Member>,
}

/// Batches that wait for more rows. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Batcher {
    open: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    batches: Vec<Open>,
    next: u64,
}

/// What a new member has to do.
enum Part {
    /// The batch is complete: call the model.
    Call(Vec<Member>),
    /// It was the first: wait for the window, then take the batch of that number.
    Lead(u64),
    /// Somebody else calls.
    Wait,
}

impl Batcher {
    /// Calls the model together with others, if the record can be.
    pub(crate) async fn call(&self, client: &Client, call: Call, limit: Duration) -> Outcome {
        if limit.is_zero() {
            let text = format!("the time of the request was over before model {} was called", call.model);
            return Outcome::Failed(Failure::new(call.model.as_str(), Failure::DEADLINE, text));
        }
        let Some((size, window)) = call.batch else { return client.call(call, limit).await };
        let request = request(&call.value);
        let Some((key, rows)) = request.as_ref().and_then(BatchKey::of) else { return client.call(call, limit).await };
        let Some(request) = request else { return client.call(call, limit).await };
        let (answer, mut mine) = oneshot::channel();
        let member = Member { request, rows, answer };
        let window = window.map_or(WINDOW_DEFAULT, |window| Duration::from_millis(window.into())).min(limit / 2);
        match self.join(&call.model, key, member, size.into()) {
            Part::Call(members) => run(client, &call.model, &call.headers, members, limit).await,
            Part::Lead(number) => {
                let is_early = tokio::time::timeout(window, &mut mine).await;
                match is_early {
                    Ok(outcome) => return outcome.unwrap_or_else(|_| lost(&call.model)),
                    Err(_) => {
                        if let Some(members) = self.take(number) {
                            run(client, &call.model, &call.headers, members, limit).await;
                        }
                    }
                }
            }
            Part::Wait => {}
        }
        match tokio::time::timeout(limit, mine).await {
            Ok(outcome) => outcome.unwrap_or_else(|_| lost(&call.model)),
            Err(_) => {
                let text = format!("model {} did not answer within {} ms", call.model, limit.as_millis());
                Outcome::Failed(Failure::new(call.model.as_str(), Failure::DEADLINE, text))
            }
        }
    }

    fn join(&self, model: &ModelName, key: BatchKey, member: Member, size: i64) -> Part {
        let mut state = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let at = state.batches.iter().position(|open| open.model == *model && open.key == key);
        let at = at.unwrap_or_else(|| {
            state.next += 1;
            let number = state.next;
            state.batches.push(Open { model: model.clone(), key, rows: 0, number, members: Vec::new() });
            state.batches.len() - 1
        });
        let open = &mut state.batches[at];
        open.rows += member.rows;
        open.members.push(member);
        if open.rows >= size {
            return Part::Call(state.batches.swap_remove(at).members);
        }
        if open.members.len() == 1 { Part::Lead(open.number) } else { Part::Wait }
    }

    fn take(&self, number: u64) -> Option<Vec<Member>> {
        let mut state = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let at = state.batches.iter().position(|open| open.number == number)?;
        Some(state.batches.swap_remove(at).members)
    }
}

fn lost(model: &ModelName) -> Outcome {
    Outcome::Failed(Failure::new(model.as_str(), Failure::INTERNAL, "the batch of the request was lost"))
}

/// The record as a request, whatever of both messages it is.
fn request(value: &Bytes) -> Option<InferRequest> {
    let (format, parts) = Parts::detect(value).ok()?;
    let value = match format {
        Format::Request => value.clone(),
        Format::Response => parts.write(Format::Request),
    };
    InferRequest::from_proto(ModelInferRequest::decode(value).ok()?).ok()
}

fn encoded(model: &ModelName, request: InferRequest) -> Bytes {
    let request = InferRequest { model_name: model.to_string(), model_version: "1".into(), ..request };
    request.into_proto(Contents::Raw).encode_to_vec().into()
}

/// Calls the model once for all; if that fails, once for each.
async fn run(client: &Client, model: &ModelName, headers: &Headers, members: Vec<Member>, limit: Duration) {
    let requests: Vec<InferRequest> = members.iter().map(|member| member.request.clone()).collect();
    let together =
        tokio::time::timeout(limit, client.grpc(model.as_str(), encoded(model, merge(&requests)), headers, limit));
    let shares = match together.await {
        Ok(Outcome::Answer(answer, headers)) => shares(&answer, &members).map(|shares| (shares, headers)),
        Ok(Outcome::Failed(_)) | Err(_) => None,
    };
    match shares {
        Some((shares, headers)) => {
            for (member, share) in members.into_iter().zip(shares) {
                let share = share.into_proto(Contents::Raw).encode_to_vec().into();
                // Whoever waits no more needs no answer.
                let _gone = member.answer.send(Outcome::Answer(share, headers.clone()));
            }
        }
        None => {
            for member in members {
                let message = encoded(model, member.request);
                let alone = tokio::time::timeout(limit, client.grpc(model.as_str(), message, headers, limit)).await;
                let _gone = member.answer.send(alone.unwrap_or_else(|_| lost(model)));
            }
        }
    }
}

fn shares(answer: &Bytes, members: &[Member]) -> Option<Vec<InferResponse>> {
    let answer = InferResponse::from_proto(ModelInferResponse::decode(answer.clone()).ok()?).ok()?;
    let rows: Vec<i64> = members.iter().map(|member| member.rows).collect();
    let mut shares = split(&answer, &rows).ok()?;
    for (share, member) in shares.iter_mut().zip(members) {
        share.id.clone_from(&member.request.id);
    }
    Some(shares)
}
