//! Puts requests of several callers into one call, across all shards of this gateway, and gives everybody their rows.
//!
//! The call they share carries no caller's headers, and nobody gets another one's: only the way it took is everybody's.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use dataflow_core::{BatchKey, Call, Failure, Format, Headers, Outcome, Parts, merge, split};
use domain::ModelName;
use messages::inference::{ModelInferRequest, ModelInferResponse};
use oip::{Contents, InferRequest, InferResponse};
use prost::Message;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::client::Client;

/// How long the first row waits if the pipeline does not say.
const WINDOW_DEFAULT: Duration = Duration::from_millis(100);

struct Member {
    request: InferRequest,
    rows: i64,
    headers: Headers,
    /// Its caller waits no longer.
    until: Instant,
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
    /// Wait for so long, then take the batch of that number and call, if nobody has.
    Wait(u64, Duration),
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
        let member = Member { request, rows, headers: call.headers, until: Instant::now() + limit, answer };
        let window = window.map_or(WINDOW_DEFAULT, |window| Duration::from_millis(window.into()));
        match self.join(&call.model, key, member, size.into(), window) {
            Part::Call(members) => run(client, &call.model, members).await,
            Part::Wait(number, window) => {
                // Whoever has little time does not wait for the others' window.
                match tokio::time::timeout(window.min(limit / 2), &mut mine).await {
                    Ok(outcome) => return outcome.unwrap_or_else(|_| lost(&call.model)),
                    Err(_) => {
                        if let Some(members) = self.take(number) {
                            run(client, &call.model, members).await;
                        }
                    }
                }
            }
        }
        match tokio::time::timeout(limit, mine).await {
            Ok(outcome) => outcome.unwrap_or_else(|_| lost(&call.model)),
            Err(_) => {
                let text = format!("model {} did not answer within {} ms", call.model, limit.as_millis());
                Outcome::Failed(Failure::new(call.model.as_str(), Failure::DEADLINE, text))
            }
        }
    }

    fn join(&self, model: &ModelName, key: BatchKey, member: Member, size: i64, window: Duration) -> Part {
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
        // The window is the first one's.
        Part::Wait(open.number, if open.members.len() == 1 { window } else { Duration::MAX })
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
async fn run(client: &Client, model: &ModelName, members: Vec<Member>) {
    let requests: Vec<InferRequest> = members.iter().map(|member| member.request.clone()).collect();
    let until = members.iter().map(|member| member.until).max().unwrap_or_else(Instant::now);
    let limit = until.saturating_duration_since(Instant::now());
    let message = encoded(model, merge(&requests));
    let none = Headers::new();
    let together = tokio::time::timeout(limit, client.grpc(model.as_str(), message, &none, limit));
    let shares = match together.await {
        Ok(Outcome::Answer(answer, headers)) => shares(&answer, &members).map(|shares| (shares, headers)),
        Ok(Outcome::Failed(_)) | Err(_) => None,
    };
    match shares {
        Some((shares, mut headers)) => {
            headers.retain(|(name, _)| name == dataflow_core::name::ROUTE);
            for (member, share) in members.into_iter().zip(shares) {
                let share = share.into_proto(Contents::Raw).encode_to_vec().into();
                // Whoever waits no more needs no answer.
                let _gone = member.answer.send(Outcome::Answer(share, headers.clone()));
            }
        }
        None => {
            for member in members {
                let message = encoded(model, member.request);
                let limit = member.until.saturating_duration_since(Instant::now());
                let call = client.grpc(model.as_str(), message, &member.headers, limit);
                let alone = tokio::time::timeout(limit, call).await;
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
