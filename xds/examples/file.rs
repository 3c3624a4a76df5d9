//! A server whose resources are in a file that may change at any time.
//!
//! ```sh
//! echo 'a 127.0.0.1:8001' > targets
//! cargo run -p xds --example file -- 127.0.0.1:18000 10000 targets > envoy.yaml
//! envoy -c envoy.yaml
//! echo 'a 127.0.0.1:8002' > targets      # in use a moment later, without a failed request
//! ```
//!
//! Each line is a cluster with its addresses. A file that cannot be read leaves everything as it is.

#[path = "support/gateway.rs"]
mod gateway;

use std::error::Error;
use std::time::Duration;

/// How often the file is looked at.
const EVERY: Duration = Duration::from_millis(100);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().ok_or("where Envoy reaches the server is missing, for example 127.0.0.1:18000")?;
    let port = arguments.next().ok_or("Envoy's port is missing, for example 10000")?.parse()?;
    let path = arguments.next().ok_or("the file is missing")?;
    let mut text = tokio::fs::read_to_string(&path).await?;
    let mut targets = gateway::parse(&text)?;
    let ads = gateway::serve(address.parse()?).await?;
    gateway::publish(&ads, &targets, &[], port)?;
    ads.open(false);
    let mut look = tokio::time::interval(EVERY);
    loop {
        look.tick().await;
        let now = match tokio::fs::read_to_string(&path).await {
            Ok(now) if now != text => now,
            Ok(_) => continue,
            Err(error) => {
                eprintln!("{path}: {error}");
                continue;
            }
        };
        text = now;
        // Between an editor's or a shell's emptying the file and its writing it. Comments alone mean that nothing is there.
        if text.is_empty() {
            continue;
        }
        match gateway::parse(&text) {
            Ok(parsed) => {
                gateway::publish(&ads, &parsed, &targets, port)?;
                targets = parsed;
            }
            Err(problem) => eprintln!("{path}: {problem}"),
        }
    }
}
