//! A server that is told its resources over TCP, for conformance tests of any kind.
//!
//! ```sh
//! cargo run -p xds --example conformance -- 127.0.0.1:18000 127.0.0.1:17000
//! echo '{"type": "type.googleapis.com/envoy.config.cluster.v3.Cluster", "name": "a", "value": "CgFh", "version": "1"}' \
//!   | nc -q1 127.0.0.1 17000
//! ```
//!
//! The first address serves ADS and every type by itself, in both variants. The second takes one JSON object a line, and
//! answers each with a line when it is so: `{"type": url, "name": n, "value": base64 of the encoded resource, or null to
//! delete it, "version": v}` and `{"clear": true}`. The version is the resource's, and what `version_info` and
//! `system_version_info` say.

mod server;

use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut addresses = std::env::args().skip(1);
    let xds = addresses.next().unwrap_or_else(|| "127.0.0.1:18000".to_owned());
    let control = addresses.next().unwrap_or_else(|| "127.0.0.1:17000".to_owned());
    let (xds, control) = (TcpListener::bind(xds).await?, TcpListener::bind(control).await?);
    println!("xDS on {}, resources on {}", xds.local_addr()?, control.local_addr()?);
    server::serve(xds, control).await?;
    Ok(())
}
