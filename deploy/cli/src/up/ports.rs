//! Which port is whose in `switchyard up`, and binding them: fixed ones, so that manifests, dashboards and habits fit.
//!
//! `--port-base B` maps port p to B + p − 9000. A port that is taken is named with what it was wanted for.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tokio::net::TcpListener;

/// The base that leaves every port as it is.
pub(crate) const USUAL_BASE: u16 = 9000;

/// Ports of the second Envoy lie this far above those of the first, and so on.
const ENVOY_STEP: u16 = 100;

/// Most Envoys of one process: their ports must stay below 9900 for the usual base, where other ports begin.
pub(crate) const MOST_ENVOYS: u16 = 8;

/// Why a port cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("bind port {port} for {purpose}: choose other ports with --port-base, or stop what uses it")]
    Bind {
        port: u16,
        purpose: &'static str,
        #[source]
        cause: io::Error,
    },
    #[error("--port-base {base}: port {usual} would become {wanted}, and ports end at 65535")]
    Beyond { base: u16, usual: u16, wanted: u32 },
    #[error("--port-base {base}: choose a base of at least 1024")]
    Low { base: u16 },
}

/// A mapping of the usual ports.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports {
    base: u16,
}

impl Ports {
    pub(crate) fn new(base: u16) -> Result<Self, Error> {
        if base < 1024 {
            return Err(Error::Low { base });
        }
        let ports = Self { base };
        ports.map(9999)?;
        Ok(ports)
    }

    fn map(self, usual: u16) -> Result<u16, Error> {
        let wanted = u32::from(self.base) + u32::from(usual) - u32::from(USUAL_BASE);
        u16::try_from(wanted).map_err(|_| Error::Beyond { base: self.base, usual, wanted })
    }

    /// Inference, of the Envoy with that number.
    pub(crate) fn inference(self, envoy: u16) -> Result<u16, Error> {
        self.map(9000 + ENVOY_STEP * envoy)
    }

    /// Readiness and statistics, of the Envoy with that number.
    pub(crate) fn statistics(self, envoy: u16) -> Result<u16, Error> {
        self.map(9003 + ENVOY_STEP * envoy)
    }

    pub(crate) async fn xds(self) -> Result<TcpListener, Error> {
        bind(self.map(9002)?, "Envoys (ADS)").await
    }

    pub(crate) async fn control(self) -> Result<TcpListener, Error> {
        bind(self.map(9004)?, "the scheduler API").await
    }

    pub(crate) async fn agents(self) -> Result<TcpListener, Error> {
        bind(self.map(9005)?, "agents").await
    }

    pub(crate) async fn workers(self) -> Result<TcpListener, Error> {
        bind(self.map(9008)?, "workers of the data plane").await
    }

    /// Of the pipeline gateway: REST and gRPC, both on both.
    pub(crate) async fn pipelines(self) -> Result<[TcpListener; 2], Error> {
        let purpose = "the pipeline gateway";
        Ok([bind(self.map(9010)?, purpose).await?, bind(self.map(9011)?, purpose).await?])
    }

    pub(crate) async fn log(self) -> Result<TcpListener, Error> {
        bind(self.map(9012)?, "the log").await
    }

    pub(crate) async fn health(self) -> Result<TcpListener, Error> {
        bind(self.map(9999)?, "health and metrics").await
    }
}

/// Any port that is free.
pub(crate) async fn free(purpose: &'static str) -> Result<TcpListener, Error> {
    bind(0, purpose).await
}

async fn bind(port: u16, purpose: &'static str) -> Result<TcpListener, Error> {
    let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
    TcpListener::bind(address).await.map_err(|cause| Error::Bind { port, purpose, cause })
}

#[cfg(test)]
mod tests {
    use super::{Error, Ports, USUAL_BASE};

    #[test]
    fn the_usual_base_leaves_ports_alone_and_another_one_moves_them_all() {
        let ports = |base| {
            let ports = Ports::new(base).expect("a good base");
            let of = |envoy| (ports.inference(envoy).expect("a port"), ports.statistics(envoy).expect("a port"));
            [of(0), of(1)]
        };
        assert_eq!(ports(USUAL_BASE), [(9000, 9003), (9100, 9103)]);
        assert_eq!(ports(20_000), [(20_000, 20_003), (20_100, 20_103)]);
    }

    #[test]
    fn a_base_without_room_is_refused() {
        assert!(matches!(Ports::new(65_000), Err(Error::Beyond { .. })));
        assert!(matches!(Ports::new(80), Err(Error::Low { .. })));
    }

    #[tokio::test]
    async fn a_taken_port_is_named_with_its_purpose() {
        let taken = super::free("a test").await.expect("a port");
        let port = taken.local_addr().expect("an address").port();
        let error = super::bind(port, "agents").await.expect_err("taken").to_string();
        assert!(
            error.contains(&port.to_string()) && error.contains("agents") && error.contains("--port-base"),
            "{error}"
        );
    }
}
