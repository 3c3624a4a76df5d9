//! The cheapest replica there is: HTTP/2, one body for every request.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;

/// Answers `body` to everything for as long as the runtime runs.
pub(crate) async fn start(body: &'static str) -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("open a port for a backend")?;
    let address = listener.local_addr().context("the backend's address")?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // Without it the figures would be those of delayed acknowledgements.
            let _slower_then = stream.set_nodelay(true);
            let service =
                service_fn(move |_| async move { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(body)))) });
            // Envoy closes its connections when it ends.
            tokio::spawn(http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service));
        }
    });
    Ok(address)
}
