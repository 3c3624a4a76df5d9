//! The server itself: one listener for REST and gRPC, HTTP/1.1 and HTTP/2 with prior knowledge, until it is told to stop.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use axum::{Router, middleware};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto::Builder, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use runtime::Stop;
use tokio::{net::TcpListener, task::JoinSet};

use crate::{
    grpc, library,
    model::Sizing,
    repository::Repository,
    request_id,
    rest::{self, Rest},
};

/// How the server calls itself.
pub(crate) const NAME: &str = "switchyard-onnx";
/// What it can beyond the protocol.
pub(crate) const EXTENSIONS: [&str; 2] = ["binary_tensor_data", "model_repository"];

/// The largest message, REST and gRPC alike: what Envoy's stream windows are made for.
const MAX_MESSAGE_BYTES: usize = 64 * 1024 * 1024;
/// The first bytes of a connection decide between HTTP/1.1 and HTTP/2, and headers have to come in a while.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// A proxy opens one connection and many streams; beyond these its requests wait on its side.
const MAX_STREAMS: u32 = 1024;
/// Tensors are large: windows of 64 KiB would cost a round trip for each of them.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
/// Requests that run when the server is told to stop get this long; longer ones are cut.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);
/// After a failed accept (no file handles) the next try waits, or the loop would burn a core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a server needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// Every sub-folder is a model that can be loaded by its name.
    pub model_folder: PathBuf,
    /// Threads one run may use inside ONNX Runtime.
    pub intra_threads: usize,
    /// Runs of one model that can go on at the same time; each costs the memory of the model again.
    pub instances_per_model: usize,
    /// The largest request, in bytes.
    pub max_message_bytes: usize,
    /// The library of ONNX Runtime; `None` finds (or fetches) one, see [`crate::find_library`].
    pub runtime_library: Option<PathBuf>,
}

impl Config {
    /// The defaults for models in `model_folder`.
    #[must_use]
    pub fn new(model_folder: impl Into<PathBuf>) -> Self {
        Self {
            model_folder: model_folder.into(),
            intra_threads: 1,
            instances_per_model: 1,
            max_message_bytes: MAX_MESSAGE_BYTES,
            runtime_library: None,
        }
    }
}

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// ONNX Runtime is not there or does not work.
    #[error(transparent)]
    Library(#[from] library::Error),
    /// The model folder is not there and cannot be made.
    #[error("make the model folder {}", .path.display())]
    ModelFolder {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// A thread of the start-up died.
    #[error("open onnx runtime: the thread that does it panicked")]
    Panicked,
}

/// Serves until `stop` is requested, then lets running requests end.
///
/// # Errors
/// The library or the model folder cannot be used; once it serves it does not fail.
pub async fn run(config: Config, listener: TcpListener, stop: Stop) -> Result<(), Error> {
    let library = config.runtime_library.clone();
    let environment = tokio::task::spawn_blocking(move || {
        let library = match library {
            Some(library) => library,
            None => library::find_library(&|progress| tracing::info!("{progress}"))?,
        };
        library::environment(&library)
    })
    .await
    .map_err(|_| Error::Panicked)??;
    let make_folder = tokio::fs::create_dir_all(&config.model_folder).await;
    make_folder.map_err(|cause| Error::ModelFolder { path: config.model_folder.clone(), cause })?;

    let sizing = Sizing { intra_threads: config.intra_threads, instances: config.instances_per_model };
    let repository = Arc::new(Repository::new(config.model_folder, sizing, environment));
    serve(listener, router(repository, config.max_message_bytes), stop).await;
    Ok(())
}

fn router(repository: Arc<Repository>, max_message_bytes: usize) -> Router {
    let grpc = grpc::service(Arc::clone(&repository), max_message_bytes);
    let grpc = Router::new()
        .route_service("/inference.GRPCInferenceService/{method}", grpc)
        .layer(middleware::map_response(grpc::name_size_limit));
    rest::router(Rest { repository, max_message_bytes })
        .merge(grpc)
        .fallback(rest::not_found)
        .layer(middleware::from_fn(request_id::echo))
}

async fn serve(listener: TcpListener, router: Router, stop: Stop) {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            // Both arms are cancel-safe; stopping goes first, or a busy listener would never stop.
            biased;
            () = stop.requested() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "connection gone before it was served");
                    continue;
                }
                let service = TowerToHyperService::new(router.clone());
                let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
                let connection = graceful.watch(connection);
                connections.spawn(async move {
                    if let Err(error) = connection.await {
                        tracing::debug!(error = %error, "connection ended");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    if tokio::time::timeout(DRAIN_LIMIT, graceful.shutdown()).await.is_err() {
        tracing::warn!(limit = ?DRAIN_LIMIT, "requests still running at the end of the drain are cut");
    }
    connections.shutdown().await;
}
