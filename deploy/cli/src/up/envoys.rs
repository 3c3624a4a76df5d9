//! The Envoys of `switchyard up`: each a child process that is started again when it dies.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use envoy::{Admin, Binary, Bootstrap, Envoy, FirstConfiguration};
use runtime::Stop;
use runtime::child::Backoff;
use runtime::health::Check;
use tracing::{info, warn};

/// An Envoy that dies is back after this long, and after twice as long each time it dies at once again.
const RESTART_AFTER: Duration = Duration::from_millis(50);
const RESTART_AT_MOST_EVERY: Duration = Duration::from_secs(5);

/// An Envoy that lives this long did not die at once.
const LIVES: Duration = Duration::from_secs(10);

/// How long one may take until it serves.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// How long clients get to finish when everything stops.
const DRAIN: Duration = Duration::from_secs(2);

/// Why an Envoy does not serve.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Start(#[from] envoy::StartError),
    #[error(transparent)]
    Ready(#[from] envoy::ReadyError),
}

/// What one Envoy needs.
pub(crate) struct Plan {
    pub(crate) binary: Binary,
    pub(crate) bootstrap: Bootstrap,
    pub(crate) folder: PathBuf,
    pub(crate) check: Check,
}

/// The bootstrap of the Envoy with that number.
pub(crate) fn bootstrap(
    number: u16,
    data_port: u16,
    stats_port: u16,
    xds: SocketAddr,
    folder: &std::path::Path,
) -> Bootstrap {
    let socket = folder.join("admin.sock");
    // The path of a Unix socket is short; a deep folder gets a port of the kernel's choice instead.
    let admin = match socket.as_os_str().len() {
        0..=100 => Admin::UnixSocket(socket),
        _ => Admin::Port(stats_port.saturating_add(5)),
    };
    Bootstrap {
        node_id: format!("envoy-{number}"),
        node_cluster: "switchyard".to_owned(),
        listen_address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        data_port,
        stats_port,
        admin,
        xds: vec![xds.into()],
        first_configuration: FirstConfiguration::Required,
        concurrency: None,
    }
}

/// Keeps the Envoy running until the stop; then drains it.
pub(crate) async fn keep_running(plan: Plan, mut envoy: Envoy, stop: Stop) -> Result<(), Error> {
    let mut backoff = Backoff::new(RESTART_AFTER, RESTART_AT_MOST_EVERY);
    loop {
        let started = tokio::time::Instant::now();
        tokio::select! {
            // Both arms are cancel-safe.
            () = stop.requested() => {
                let drained = envoy.drain(DRAIN).await;
                info!(node = plan.bootstrap.node_id, drained = ?drained.ok(), "envoy stopped");
                return Ok(());
            }
            status = envoy.exited() => {
                plan.check.set_unready("it died and is being started again");
                warn!(node = plan.bootstrap.node_id, status = ?status.ok(), "envoy died");
            }
        }
        if started.elapsed() >= LIVES {
            backoff.reset();
        }
        envoy = loop {
            tokio::select! {
                () = stop.requested() => return Ok(()),
                () = tokio::time::sleep(backoff.next_delay()) => {}
            }
            match start(&plan).await {
                Ok(envoy) => break envoy,
                Err(error) => warn!(node = plan.bootstrap.node_id, %error, "envoy cannot be started again"),
            }
        };
    }
}

/// Starts the Envoy; it serves when this returns.
pub(crate) async fn start(plan: &Plan) -> Result<Envoy, Error> {
    let mut envoy = Envoy::start(&plan.binary, &plan.bootstrap, &plan.folder, None).await?;
    envoy.ready(READY_WITHIN).await?;
    plan.check.set_ready();
    Ok(envoy)
}
