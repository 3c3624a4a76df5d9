//! Puts the parts of an agent together and takes them apart in order: the stream first, then requests, then the server.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use runtime::{OnError, Stop, Tasks, TasksFailed};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::info;

use crate::config::Config;
use crate::fetch::Limits;
use crate::link::{Identity, Link};
use crate::operations::{Operations, Parts};
use crate::proxy::{self, Proxy, Settling};
use crate::reason::chain;
use crate::report::Reports;
use crate::repository::{self, Repository};
use crate::residency::Residency;
use crate::serving::Phase;
use crate::supervise::Supervisor;

/// The stream and the operations end at once; they only have to notice.
const LINK_LIMIT: Duration = Duration::from_secs(2);
/// The server's own drain, and a little more than the grace it is given.
const SERVER_LIMIT: Duration = Duration::from_secs(13);

/// Why an agent does not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing to subscribe to.
    #[error("schedulers: give at least one host:port")]
    NoScheduler,
    /// The folder cannot be used.
    #[error("prepare the folder {}", .path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// The listener has no address.
    #[error("ask the listener for its address")]
    Listener(#[source] io::Error),
    /// A part did not end well.
    #[error(transparent)]
    Tasks(#[from] TasksFailed),
}

impl Error {
    fn folder(config: &Config, cause: &(dyn std::error::Error + 'static)) -> Self {
        Error::Folder { path: config.folder.clone(), cause: io::Error::other(chain(cause)) }
    }
}

/// Runs an agent on `listener` until `stop` is requested.
///
/// # Errors
/// The folder cannot be used, or a part failed; an inference server or scheduler that is not there is waited for.
pub async fn run(config: Config, listener: TcpListener, stop: Stop) -> Result<(), Error> {
    if config.schedulers.is_empty() {
        return Err(Error::NoScheduler);
    }
    let address = listener.local_addr().map_err(Error::Listener)?;
    let repository = prepare(&config).await?;
    info!(replica = %config.replica, %address, folder = %config.folder.display(), "agent starts");

    let residency = Arc::new(Residency::default());
    let (phase, phases) = watch::channel(Phase::Down);
    let (session, sessions) = watch::channel(None);
    // The link ends with the stop; the server lives until the last request is answered.
    let (links, servers) = (Tasks::new(stop.child()), Tasks::new(Stop::new()));
    let supervisor = Supervisor {
        replica: config.replica.clone(),
        inference: config.inference.clone(),
        log: config.folder.join("server.log"),
        repository: Arc::clone(&repository),
        residency: Arc::clone(&residency),
        phase,
        tasks: servers.clone(),
        stop: servers.stop().clone(),
    };
    servers.spawn("inference-server", OnError::Log, supervisor.run());
    let operations = Operations::new(Parts {
        residency: Arc::clone(&residency),
        repository,
        phase: phases.clone(),
        reports: Reports::new(config.replica.clone(), sessions),
        memory: config.memory,
        tasks: links.clone(),
    });
    let told = Arc::default();
    let link = Link {
        identity: identity(&config, address),
        schedulers: config.schedulers.clone(),
        residency: Arc::clone(&residency),
        operations,
        phase: phases.clone(),
        session,
        told: Arc::clone(&told),
        stop: links.stop().clone(),
    };
    links.spawn("scheduler-link", OnError::Log, link.run());

    let settling = Settling::new(told, config.settles_after);
    let proxy = Proxy::new(config.replica.clone(), residency, phases, settling, config.max_message_bytes);
    proxy::serve(proxy, listener, stop).await;
    let linked = links.finish(LINK_LIMIT).await;
    servers.finish(SERVER_LIMIT).await?;
    info!(replica = %config.replica, "agent stopped");
    Ok(linked?)
}

async fn prepare(config: &Config) -> Result<Arc<Repository>, Error> {
    let folder = std::path::absolute(&config.folder).map_err(|cause| Error::folder(config, &cause))?;
    let repository = Arc::new(Repository::new(&folder, config.artifact_roots.clone(), Limits::DEFAULT));
    let cleared = {
        let repository = Arc::clone(&repository);
        tokio::task::spawn_blocking(move || repository.clear()).await
    };
    let cleared: Result<(), repository::Error> = cleared.map_err(|cause| Error::folder(config, &cause))?;
    cleared.map_err(|cause| Error::folder(config, &cause))?;
    Ok(repository)
}

fn identity(config: &Config, address: SocketAddr) -> Identity {
    Identity {
        replica: config.replica.clone(),
        host: config.advertise_host.clone(),
        port: address.port(),
        memory: config.memory,
        capabilities: config.capabilities.iter().cloned().collect(),
        over_commit_percentage: config.over_commit_percentage,
    }
}
