//! Where something listens, as Envoy is told: always an IP address. A name would make Envoy refuse the whole resource.

use std::net::IpAddr;

use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{Address, SocketAddress, address};

/// Why an endpoint is not shown to Envoy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unusable {
    #[error("host {0:?} is no IP address; names are resolved before they come here")]
    Name(String),
    #[error("host {0} stands for no machine; an address of its own must be announced")]
    Nowhere(IpAddr),
    #[error("port 0 cannot be connected to")]
    NoPort,
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

/// The address of a port of a host.
pub(super) fn of(host: &str, port: u16) -> Result<Address, Unusable> {
    let Ok(ip) = host.parse::<IpAddr>() else { return Err(Unusable::Name(host.to_owned())) };
    if ip.is_unspecified() || ip.is_multicast() {
        return Err(Unusable::Nowhere(ip));
    }
    if port == 0 {
        return Err(Unusable::NoPort);
    }
    Ok(socket(ip, port))
}
