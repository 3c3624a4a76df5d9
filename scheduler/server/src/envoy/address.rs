//! Where something listens, as Envoy is told: always an IP address. A name would make Envoy refuse the whole resource.

use std::net::IpAddr;

use domain::Endpoint;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{Address, SocketAddress, address};

/// Why an endpoint is not shown to Envoy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unusable {
    #[error("host {host:?} of replica {replica} is no IP address; names are resolved before they come here")]
    Name { replica: String, host: String },
    #[error("host {host} of replica {replica} stands for no machine; the agent must announce an address of its own")]
    Nowhere { replica: String, host: IpAddr },
    #[error("port 0 of replica {replica} cannot be connected to")]
    NoPort { replica: String },
}

pub(super) fn socket(ip: IpAddr, port: u16) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: ip.to_string(),
            port_specifier: Some(PortSpecifier::PortValue(port.into())),
            ..SocketAddress::default()
        })),
    }
}

/// The address of a port of an endpoint.
pub(super) fn of(endpoint: &Endpoint, port: u16) -> Result<Address, Unusable> {
    let replica = || endpoint.replica.to_string();
    let Ok(host) = endpoint.host.parse::<IpAddr>() else {
        return Err(Unusable::Name { replica: replica(), host: endpoint.host.clone() });
    };
    if host.is_unspecified() || host.is_multicast() {
        return Err(Unusable::Nowhere { replica: replica(), host });
    }
    if port == 0 {
        return Err(Unusable::NoPort { replica: replica() });
    }
    Ok(socket(host, port))
}
