//! What requests that are not answered yet may take up: places, and bytes of their bodies. Both are limits of the whole
//! gateway, and both are refused at once and not waited for: who sends slowly keeps nobody else out.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes};
use http_body::{Body as HttpBody, Frame};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

use crate::failure::Failure;
use crate::metrics::Metrics;

/// The limits. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Admission {
    places: Arc<Semaphore>,
    places_max: usize,
    bytes: Arc<Semaphore>,
    bytes_max: usize,
    metrics: Metrics,
}

/// What one request takes up; free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    admission: Admission,
    began: Instant,
    _place: OwnedSemaphorePermit,
    body: Mutex<Option<OwnedSemaphorePermit>>,
}

impl Admission {
    pub(crate) fn new(places_max: usize, bytes_max: usize, metrics: Metrics) -> Self {
        let (places, bytes) = (Arc::new(Semaphore::new(places_max)), Arc::new(Semaphore::new(bytes_max)));
        Self { places, places_max, bytes, bytes_max, metrics }
    }

    /// A place for a request that begins now.
    ///
    /// # Errors
    /// All are taken.
    pub(crate) fn enter(&self) -> Result<Arc<Place>, Failure> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| Failure::Full(self.places_max))?;
        self.metrics.waits();
        let admission = self.clone();
        Ok(Arc::new(Place { admission, began: Instant::now(), _place: place, body: Mutex::default() }))
    }
}

impl Place {
    /// When the request began.
    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    /// The body of the request, which fails when it takes up too much, is not there in time, or has nobody to go to any more:
    /// when `gone` ends.
    pub(crate) fn body(
        self: &Arc<Self>,
        body: Body,
        timeout: Duration,
        gone: impl Future<Output = ()> + Send + 'static,
    ) -> AdmittedBody {
        let end = Box::pin(tokio::time::sleep_until(self.began + timeout));
        AdmittedBody { body, place: Arc::clone(self), timeout, end, gone: Box::pin(gone) }
    }

    fn hold(&self, bytes: usize) -> Result<(), Failure> {
        let refusal = || Failure::Bytes(self.admission.bytes_max);
        let count = u32::try_from(bytes).map_err(|_| refusal())?;
        let more = Arc::clone(&self.admission.bytes).try_acquire_many_owned(count).map_err(|_| refusal())?;
        let mut held = self.body.lock().unwrap_or_else(PoisonError::into_inner);
        match held.as_mut() {
            Some(held) => held.merge(more),
            None => *held = Some(more),
        }
        Ok(())
    }

    /// Nobody keeps the body any more.
    pub(crate) fn drop_body(&self) {
        self.body.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.admission.metrics.left();
    }
}

/// A body that counts.
pub(crate) struct AdmittedBody {
    body: Body,
    place: Arc<Place>,
    timeout: Duration,
    end: Pin<Box<Sleep>>,
    gone: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl HttpBody for AdmittedBody {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        if self.end.as_mut().poll(context).is_ready() {
            return Poll::Ready(Some(Err(Failure::SlowBody(self.timeout.as_millis()))));
        }
        if self.gone.as_mut().poll(context).is_ready() {
            return Poll::Ready(Some(Err(Failure::Unloaded)));
        }
        let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(context)) else { return Poll::Ready(None) };
        let frame = frame.map_err(|error| Failure::Body(error.to_string()));
        let held = frame.and_then(|frame| {
            frame.data_ref().map_or(Ok(()), |data| self.place.hold(data.len()))?;
            Ok(frame)
        });
        Poll::Ready(Some(held))
    }
}
