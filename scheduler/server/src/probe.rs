//! Asks every gRPC port of a scheduler whether it is well, as a client would, and says so to the process's health.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use api::health::health_check_service_client::HealthCheckServiceClient;
use messages::health::HealthCheckRequest;
use runtime::{Stop, health::Check};
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest as AnyHealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

/// How often the ports are asked; a prober of Kubernetes comes every five seconds.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long an answer may take. It takes a fraction of a millisecond unless the driver is stuck.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// A port, with what it is for.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// In words, for the reason.
    pub what: &'static str,
    /// Where it listens.
    pub at: SocketAddr,
    /// What it has to say.
    pub port: Port,
}

/// What a port has to say for a scheduler that is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// That the driver is well.
    Driver,
    /// Anything. Envoys may have to wait for an operator's first word about servers, and the operator for a scheduler that
    /// is ready; `grpc.health.v1` of the port says which.
    Envoys,
}

/// Asks until the process stops.
pub async fn probe(targets: Vec<Target>, check: Check, stop: Stop) -> Result<(), std::convert::Infallible> {
    let channels: Vec<(Target, Channel)> = targets.into_iter().map(|target| (target, channel(target.at))).collect();
    loop {
        let mut troubles = Vec::new();
        for (target, channel) in &channels {
            let answer = tokio::time::timeout(ANSWERS_WITHIN, ask(target.port, channel.clone())).await;
            let late = Err(format!("does not answer within {} s", ANSWERS_WITHIN.as_secs()));
            if let Err(trouble) = answer.unwrap_or(late) {
                troubles.push(format!("port {} ({}) {trouble}", target.at.port(), target.what));
            }
        }
        if troubles.is_empty() {
            check.set_ready();
        } else {
            check.set_unready(troubles.join("; "));
        }
        tokio::select! {
            // Both arms are cancel-safe.
            () = stop.requested() => return Ok(()),
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}

async fn ask(port: Port, channel: Channel) -> Result<(), String> {
    let answer = match port {
        Port::Driver => {
            let answer = HealthCheckServiceClient::new(channel).health_check(HealthCheckRequest {}).await;
            answer.map(|answer| answer.get_ref().ok)
        }
        Port::Envoys => HealthClient::new(channel).check(AnyHealthCheckRequest::default()).await.map(|_| true),
    };
    match answer {
        Ok(true) => Ok(()),
        Ok(false) => Err("says that it is not well".to_owned()),
        Err(status) => Err(format!("answers {:?}: {}", status.code(), status.message())),
    }
}

/// To a port of this machine; one that listens everywhere is reached on the loopback address.
fn channel(at: SocketAddr) -> Channel {
    let address = match at.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    let url = format!("http://{}", SocketAddr::new(address, at.port()));
    Endpoint::from_shared(url).expect("an address makes a URL").connect_timeout(ANSWERS_WITHIN).connect_lazy()
}
