//! A server whose resources never change.
//!
//! ```sh
//! cargo run -p xds --example static -- 127.0.0.1:18000 10000 'a 127.0.0.1:8001' 'b 127.0.0.1:8002 127.0.0.1:8003' > envoy.yaml
//! envoy -c envoy.yaml
//! curl http://127.0.0.1:10000/a
//! ```
//!
//! The first argument is where Envoy reaches the server, the second Envoy's port, and each other one a cluster with its
//! addresses. Envoy's bootstrap is printed, feedback goes to standard error.

#[path = "support/gateway.rs"]
mod gateway;

use std::error::Error;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:18000".to_owned()).parse()?;
    let port = arguments.next().unwrap_or_else(|| "10000".to_owned()).parse()?;
    let targets = gateway::parse(&arguments.collect::<Vec<_>>().join("\n"))?;
    let ads = gateway::serve(address).await?;
    gateway::publish(&ads, &targets, &[], port)?;
    ads.open(false);
    std::future::pending().await
}
