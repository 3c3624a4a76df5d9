//! One loaded model: its sessions, and running requests on them.
//!
//! ONNX Runtime wants a session to itself for a run, so a model has a few sessions behind a semaphore. A run never holds
//! up the asynchronous runtime for long, and one nobody waits for any more is told to end.
//!
//! Invariant: a session taken for a run comes back, whatever the run does.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use oip::{InferRequest, InferResponse, Metadata};
use ort::{
    ErrorCode,
    environment::Environment,
    ep,
    session::{NoSelectedOutputs, RunOptions, Session},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    failure::Failure,
    signature::{Signature, UnsupportedInput, VERSION},
    value,
};

/// Requests that may wait for a session of one model; beyond it they are refused, because a queue this long is seconds
/// of work even for small models, and each waiting request holds its tensors.
const MAX_WAITING: usize = 4096;
/// A run that recently took less than this is done where the request is read: handing it to another thread and back
/// costs about as much. One such run delays its neighbours by no more than a busy poll would.
const INLINE_LIMIT: Duration = Duration::from_micros(100);
/// Files larger than this are not looked into, and their models never run inline.
const INLINE_FILE_BYTES: u64 = 16 * 1024 * 1024;
/// Operators whose work depends on the values of the inputs, as a model file spells them: field 4 of a node.
const LOOPS: [&[u8]; 3] = [b"\x22\x04Loop", b"\x22\x04Scan", b"\x22\x0aBeamSearch"];
/// How much larger than one that was fast a request may be and still count as fast.
const INLINE_GROWTH: usize = 4;

/// Why a model file does not become a model.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Runtime(#[from] ort::Error),
    #[error(transparent)]
    Input(#[from] UnsupportedInput),
}

/// How sessions are made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizing {
    pub(crate) intra_threads: usize,
    pub(crate) instances: usize,
}

#[derive(Debug)]
pub(crate) struct Model {
    name: String,
    signature: Signature,
    sessions: Mutex<Vec<Session>>,
    permits: Arc<Semaphore>,
    waiting: AtomicUsize,
    pace: Pace,
}

impl Model {
    /// Reads a model file. Blocks.
    pub(crate) fn open(environment: &Environment, name: &str, file: &Path, sizing: Sizing) -> Result<Self, Error> {
        let instances = sizing.instances.max(1);
        let sessions: Vec<Session> =
            (0..instances).map(|_| session(environment, file, sizing.intra_threads)).collect::<Result<_, _>>()?;
        let signature = match sessions.first() {
            Some(session) => Signature::new(session.inputs(), session.outputs())?,
            None => Signature::new(&[], &[])?,
        };
        Ok(Self {
            name: name.to_owned(),
            signature,
            sessions: Mutex::new(sessions),
            permits: Arc::new(Semaphore::new(instances)),
            waiting: AtomicUsize::new(0),
            pace: Pace::new(has_steady_cost(file)),
        })
    }

    pub(crate) fn metadata(&self) -> Metadata {
        self.signature.metadata(&self.name)
    }

    /// Answers a request. Dropping the future ends a run that is going on.
    pub(crate) async fn infer(self: Arc<Self>, request: InferRequest) -> Result<InferResponse, Failure> {
        self.signature.check(&request)?;
        let permit = self.permit().await?;
        let options =
            RunOptions::new().map_err(|error| Failure::Run { model: self.name.clone(), reason: error.to_string() })?;
        let lease = self.lease(permit)?;
        let size = request.inputs.iter().map(|tensor| tensor.element_count()).sum();
        if self.pace.is_fast(size) {
            return lease.run(size, |model, session| model.run(session, request, &options));
        }
        let running = Running(Arc::new(options));
        let options = Arc::clone(&running.0);
        let model = self.name.clone();
        let run = move || lease.run(size, |model, session| model.run(session, request, &options));
        let outcome = tokio::task::spawn_blocking(run).await;
        drop(running);
        outcome.unwrap_or(Err(Failure::Panicked { model }))
    }

    async fn permit(&self) -> Result<OwnedSemaphorePermit, Failure> {
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            return Ok(permit);
        }
        let waiting = Waiting(&self.waiting);
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        if before >= MAX_WAITING {
            return Err(Failure::Busy { model: self.name.clone(), waiting: before });
        }
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        drop(waiting);
        permit.map_err(|_| Failure::Stopping)
    }

    fn lease(self: &Arc<Self>, permit: OwnedSemaphorePermit) -> Result<Lease, Failure> {
        let session = self.sessions.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let session = session.ok_or_else(|| Failure::Panicked { model: self.name.clone() })?;
        Ok(Lease { session: Some(session), model: Arc::clone(self), _permit: permit })
    }
}

/// A session for one run; goes back when dropped, before the permit does.
struct Lease {
    session: Option<Session>,
    model: Arc<Model>,
    _permit: OwnedSemaphorePermit,
}

impl Lease {
    /// Runs `work` on the session; a panic of it is a failure like any other.
    fn run(
        mut self,
        size: usize,
        work: impl FnOnce(&Model, &mut Session) -> Result<InferResponse, Failure>,
    ) -> Result<InferResponse, Failure> {
        let model = Arc::clone(&self.model);
        let Some(session) = self.session.as_mut() else {
            return Err(Failure::Panicked { model: model.name.clone() });
        };
        let started = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| work(&model, session)));
        model.pace.note(started.elapsed(), size);
        outcome.unwrap_or_else(|_| Err(Failure::Panicked { model: model.name.clone() }))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            self.model.sessions.lock().unwrap_or_else(PoisonError::into_inner).push(session);
        }
    }
}

impl Model {
    fn run(
        &self,
        session: &mut Session,
        request: InferRequest,
        options: &RunOptions<NoSelectedOutputs>,
    ) -> Result<InferResponse, Failure> {
        let chosen = self.signature.chosen(&request);
        let inputs = request
            .inputs
            .into_iter()
            .map(|tensor| Ok((tensor.name.clone(), value::to_runtime(tensor)?)))
            .collect::<Result<Vec<_>, Failure>>()?;
        let values = session.run_with_options(inputs, options).map_err(|error| self.run_failure(&error))?;
        let outputs = chosen
            .into_iter()
            .map(|output| match values.get(&output.name) {
                Some(value) => value::from_runtime(output, value),
                None => Err(Failure::Output {
                    output: output.name.clone(),
                    reason: "the model gave no value for it".to_owned(),
                }),
            })
            .collect::<Result<_, _>>()?;
        Ok(InferResponse {
            model_name: self.name.clone(),
            model_version: VERSION.to_owned(),
            id: request.id,
            parameters: oip::Parameters::new(),
            outputs,
        })
    }

    fn run_failure(&self, error: &ort::Error) -> Failure {
        let (model, reason) = (self.name.clone(), error.message().to_owned());
        if error.code() == ErrorCode::InvalidArgument {
            Failure::Refused { model, reason }
        } else {
            Failure::Run { model, reason }
        }
    }
}

/// Ends the run when the one who waits for it goes away.
struct Running(Arc<RunOptions<NoSelectedOutputs>>);

impl Drop for Running {
    fn drop(&mut self) {
        // After a finished run this changes nothing: the options belong to one run.
        if let Err(error) = self.0.terminate() {
            tracing::debug!(%error, "a run could not be told to end");
        }
    }
}

struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How long recent runs took: the slowest, forgotten slowly; and the largest request that was fast.
#[derive(Debug)]
struct Pace {
    /// Whether requests of one size take about the same time.
    has_steady_cost: bool,
    slowest: AtomicU64,
    fast_size: AtomicUsize,
}

impl Pace {
    fn new(has_steady_cost: bool) -> Self {
        Self { has_steady_cost, slowest: AtomicU64::new(u64::MAX), fast_size: AtomicUsize::new(0) }
    }

    fn is_fast(&self, size: usize) -> bool {
        let limit = self.fast_size.load(Ordering::Relaxed).saturating_mul(INLINE_GROWTH);
        let slowest = u128::from(self.slowest.load(Ordering::Relaxed));
        self.has_steady_cost && slowest < INLINE_LIMIT.as_nanos() && size <= limit
    }

    fn note(&self, took: Duration, size: usize) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let slowest = match self.slowest.load(Ordering::Relaxed) {
            u64::MAX => took,
            before => took.max(before - before / 8),
        };
        self.slowest.store(slowest, Ordering::Relaxed);
        if u128::from(took) < INLINE_LIMIT.as_nanos() {
            self.fast_size.fetch_max(size, Ordering::Relaxed);
        }
    }
}

/// Whether the model surely has no loops, whose number of rounds may be an input.
fn has_steady_cost(file: &Path) -> bool {
    let is_small = std::fs::metadata(file).is_ok_and(|metadata| metadata.len() <= INLINE_FILE_BYTES);
    let Some(content) = is_small.then(|| std::fs::read(file).ok()).flatten() else { return false };
    !LOOPS.iter().any(|name| content.windows(name.len()).any(|window| window == *name))
}

/// A session as cheap as it gets: no arena, no threads of its own unless asked for, and none that spin.
fn session(environment: &Environment, file: &Path, intra_threads: usize) -> Result<Session, ort::Error> {
    Session::builder(environment)?
        .with_execution_providers([ep::CPU::default().with_arena_allocator(false).build()])?
        .with_memory_pattern(false)?
        .with_intra_threads(intra_threads.max(1))?
        .with_inter_threads(1)?
        .with_intra_op_spinning(false)?
        .with_inter_op_spinning(false)?
        .commit_from_file(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::library;

    #[tokio::test]
    async fn a_panic_in_one_run_leaves_the_model_usable() {
        let environment = library::environment(&library::find_library(&|_| ()).expect("library")).expect("opens");
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples/models/slow/model.onnx");
        let model = Model::open(environment, "slow", &file, Sizing { intra_threads: 1, instances: 1 }).expect("loads");
        let model = Arc::new(model);
        for _ in 0..3 {
            let permit = model.permit().await.expect("free");
            let lease = model.lease(permit).expect("a session");
            let outcome = lease.run(1, |_, _| panic!("as asked"));
            assert!(matches!(outcome, Err(Failure::Panicked { model }) if model == "slow"));
        }
        let rounds = oip::TensorData::Raw(1_i64.to_le_bytes().to_vec().into());
        let rounds = oip::Tensor::new("rounds", oip::Datatype::Int64, vec![1], rounds, oip::Parameters::new());
        let request = InferRequest { inputs: vec![rounds.expect("valid")], ..InferRequest::default() };
        let answer = model.infer(request).await.expect("still works");
        assert_eq!(answer.outputs.first().map(oip::Tensor::shape), Some([1].as_slice()));
    }
}
