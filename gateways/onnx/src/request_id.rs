//! Gives a request's `x-request-id` back with the answer and puts it on every log line of the request.

use axum::{extract::Request, middleware::Next, response::Response};
use tracing::Instrument;

const HEADER: &str = "x-request-id";

pub(crate) async fn echo(request: Request, next: Next) -> Response {
    let Some(id) = request.headers().get(HEADER).cloned() else { return next.run(request).await };
    let span = tracing::info_span!("request", request_id = id.to_str().unwrap_or_default());
    let mut response = next.run(request).instrument(span).await;
    response.headers_mut().insert(HEADER, id);
    response
}
