//! The bootstrap: the little Envoy must know before the scheduler tells it the rest. Pure; what it contains is fixed
//! by a golden file and accepted by the real Envoy in the tests.
//!
//! Readiness follows from it: with `FirstConfiguration::Required` Envoy opens no listener, not even the one for
//! statistics, before the management server has answered for clusters and listeners; only its admin interface works.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Connections from clients; beyond it new ones are closed. Each costs tens of kB, so this many cost gigabytes.
const DOWNSTREAM_CONNECTIONS: u32 = 50_000;
/// The prefix in the names of the statistics listener's own statistics.
pub(crate) const STATS_PREFIX: &str = "stats";
/// The longest path of a Unix socket the kernel takes.
pub(crate) const SOCKET_PATH_BYTES: usize = 107;

/// What differs between one Envoy and another.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    pub node_id: String,
    pub node_cluster: String,
    /// Where the inference and statistics ports are opened.
    pub listen_address: IpAddr,
    /// Told to the management server, which sends the listener.
    pub data_port: u16,
    /// `/ready` and `/stats`.
    pub stats_port: u16,
    pub admin: Admin,
    /// The management servers; any one of them is enough.
    pub xds: Vec<Endpoint>,
    pub first_configuration: FirstConfiguration,
    /// Worker threads; None is one for each core.
    pub concurrency: Option<u32>,
}

/// Where the admin interface listens: it can end Envoy, so never on a public address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admin {
    /// Of 127.0.0.1.
    Port(u16),
    UnixSocket(PathBuf),
}

/// What Envoy does while no management server has answered yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstConfiguration {
    /// Waits, without a listener: nobody can send it requests that it would answer with 404.
    Required,
    /// Goes on after this long for clusters and again for listeners, and serves what it has.
    NotAfter(Duration),
}

/// A management server: a name or an IP address, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub host: String,
    pub port: u16,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not host:port (brackets around an IPv6 address)")]
pub struct EndpointError {
    text: String,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BootstrapError {
    #[error("envoy {node_id:?}: no management server given")]
    NoManagementServer { node_id: String },
    #[error("admin socket {path:?}: a path of a socket must be UTF-8 of at most {SOCKET_PATH_BYTES} bytes")]
    SocketPath { path: PathBuf },
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(address.into());
        }
        let parts = text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
        match parts {
            Some((host, port)) if !host.is_empty() && !host.contains([':', '/', '[', ' ']) => {
                Ok(Self { host: host.to_owned(), port })
            }
            _ => Err(EndpointError { text: text.to_owned() }),
        }
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self { host: address.ip().to_string(), port: address.port() }
    }
}

impl Bootstrap {
    pub fn yaml(&self) -> Result<String, BootstrapError> {
        if self.xds.is_empty() {
            return Err(BootstrapError::NoManagementServer { node_id: self.node_id.clone() });
        }
        Ok(format!(
            include_str!("bootstrap.yaml.in"),
            node_id = Quoted(&self.node_id),
            node_cluster = Quoted(&self.node_cluster),
            data_port = self.data_port,
            admin = self.admin_address()?,
            first_configuration = self.first_configuration_seconds(),
            listen_address = Quoted(&self.listen_address.to_string()),
            stats_port = self.stats_port,
            stats_prefix = STATS_PREFIX,
            discovery = self.discovery(),
            endpoints = self.endpoints(),
            connections = DOWNSTREAM_CONNECTIONS,
        ))
    }

    /// In flow style, because it stands at two depths.
    fn admin_address(&self) -> Result<String, BootstrapError> {
        match &self.admin {
            Admin::Port(port) => Ok(socket_address("127.0.0.1", *port)),
            Admin::UnixSocket(path) => match path.to_str() {
                Some(text) if text.len() <= SOCKET_PATH_BYTES => {
                    Ok(format!("{{ pipe: {{ path: {} }} }}", Quoted(text)))
                }
                _ => Err(BootstrapError::SocketPath { path: path.clone() }),
            },
        }
    }

    /// To Envoy, zero means without end.
    fn first_configuration_seconds(&self) -> f64 {
        match self.first_configuration {
            FirstConfiguration::Required => 0.0,
            FirstConfiguration::NotAfter(limit) => limit.max(Duration::from_millis(1)).as_secs_f64(),
        }
    }

    /// LOGICAL_DNS takes one name only; with several, each name's addresses are used.
    fn discovery(&self) -> &'static str {
        let all_addresses = self.xds.iter().all(|endpoint| endpoint.host.parse::<IpAddr>().is_ok());
        match (all_addresses, self.xds.len()) {
            (true, _) => "STATIC",
            (false, 1) => "LOGICAL_DNS",
            (false, _) => "STRICT_DNS",
        }
    }

    fn endpoints(&self) -> String {
        let line = |endpoint: &Endpoint| {
            format!("\n        - endpoint: {{ address: {} }}", socket_address(&endpoint.host, endpoint.port))
        };
        self.xds.iter().map(line).collect()
    }
}

fn socket_address(host: &str, port: u16) -> String {
    format!("{{ socket_address: {{ address: {}, port_value: {port} }} }}", Quoted(host))
}

/// A string in YAML, whatever is in it: a JSON string is one.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self.0).map_err(|_| fmt::Error)?)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn bootstrap(admin: Admin, xds: &[&str]) -> Bootstrap {
        Bootstrap {
            node_id: "envoy-0".to_owned(),
            node_cluster: "switchyard \"quoted\"".to_owned(),
            listen_address: Ipv4Addr::LOCALHOST.into(),
            data_port: 9000,
            stats_port: 9003,
            admin,
            xds: xds.iter().map(|text| text.parse().unwrap()).collect(),
            first_configuration: FirstConfiguration::Required,
            concurrency: None,
        }
    }

    #[test]
    fn bootstrap_is_the_golden_file() {
        let check = |name: &str, bootstrap: Bootstrap| {
            let path = format!("{}/tests/golden/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
            let actual = bootstrap.yaml().unwrap();
            if std::env::var_os("UPDATE").is_some() {
                std::fs::write(&path, &actual).unwrap();
            }
            let golden = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(actual == golden, "{path} differs (UPDATE=1 writes it):\n{actual}");
        };
        check("address", bootstrap(Admin::Port(9901), &["127.0.0.1:9002", "[::1]:9002"]));
        check("name", bootstrap(Admin::UnixSocket("/run/envoy/admin.sock".into()), &["scheduler:9002"]));
    }

    #[test]
    fn bootstrap_that_envoy_could_not_use_is_refused() {
        let check = |bootstrap: Bootstrap, expected: &str| {
            assert_eq!(bootstrap.yaml().unwrap_err().to_string(), expected);
        };
        check(bootstrap(Admin::Port(1), &[]), "envoy \"envoy-0\": no management server given");
        let long = "/a".repeat(60);
        let expected = format!("admin socket {long:?}: a path of a socket must be UTF-8 of at most 107 bytes");
        check(bootstrap(Admin::UnixSocket(long.into()), &["a:1"]), &expected);
    }

    #[test]
    fn endpoint_is_a_host_and_a_port() {
        let check = |text: &str, expected: Option<(&str, u16)>| {
            let parsed = text.parse::<Endpoint>().ok();
            assert_eq!(parsed.as_ref().map(|found| (found.host.as_str(), found.port)), expected, "{text}");
        };
        check("scheduler:9002", Some(("scheduler", 9002)));
        check("10.0.0.1:9002", Some(("10.0.0.1", 9002)));
        check("[::1]:9002", Some(("::1", 9002)));
        for wrong in ["scheduler", ":9002", "::1:9002", "http://a:1", "a:70000", ""] {
            check(wrong, None);
        }
    }
}
