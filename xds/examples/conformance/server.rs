//! The server itself: lines of JSON become publications.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tonic::transport::server::TcpIncoming;
use xds::{Ads, Change, Config, Key, Kind, Resource};

/// Longest line: a resource of 48 MB.
const LINE_BYTES: u64 = 64 << 20;

/// One line.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(default)]
    clear: bool,
    r#type: Option<String>,
    name: Option<String>,
    value: Option<String>,
    version: Option<String>,
}

/// The table, and what is in it.
#[derive(Clone)]
struct State {
    ads: Ads,
    keys: Arc<Mutex<BTreeSet<Key>>>,
}

/// Serves both until one of them fails.
///
/// # Errors
/// A listener failed.
pub async fn serve(xds: TcpListener, control: TcpListener) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let config = Config { drain_grace: Duration::ZERO, ..Config::default() };
    let (ads, mut feedback) = Ads::new(config);
    ads.open(false);
    let state = State { ads: ads.clone(), keys: Arc::default() };
    let server = tonic::transport::Server::builder().add_routes(ads.routes());
    tokio::select! {
        served = server.serve_with_incoming(TcpIncoming::from(xds).with_nodelay(Some(true))) => served?,
        // Nobody waits for what clients did with it.
        () = async { while feedback.recv().await.is_some() {} } => {}
        failed = accept(control, state) => failed?,
    }
    Ok(())
}

async fn accept(control: TcpListener, state: State) -> std::io::Result<()> {
    loop {
        let (stream, _) = control.accept().await?;
        let state = state.clone();
        tokio::spawn(async move {
            // Whoever is gone is told nothing.
            let _gone = talk(stream, &state).await;
        });
    }
}

async fn talk(stream: TcpStream, state: &State) -> std::io::Result<()> {
    let (reading, mut writing) = stream.into_split();
    let mut reading = BufReader::new(reading);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut reading).take(LINE_BYTES).read_until(b'\n', &mut line).await?;
        if read == 0 {
            return Ok(());
        }
        let answer = match state.apply(&line) {
            Ok(()) => serde_json::json!({ "ok": true }),
            Err(error) => serde_json::json!({ "error": error }),
        };
        writing.write_all(format!("{answer}\n").as_bytes()).await?;
    }
}

impl State {
    fn apply(&self, line: &[u8]) -> Result<(), String> {
        let line: Line =
            serde_json::from_slice(line).map_err(|error| format!("the line is no such object: {error}"))?;
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if line.clear {
            if line.r#type.is_some() || line.name.is_some() {
                return Err("clear: it clears everything, so type and name say nothing".to_owned());
            }
            let changes = keys.iter().cloned().map(Change::Remove).collect();
            self.publish(changes, line.version.as_deref())?;
            keys.clear();
            return Ok(());
        }
        let url = line.r#type.ok_or("type: is missing")?;
        let kind = Kind::from_type_url(&url).ok_or_else(|| format!("type: {url:?} is not served"))?;
        let key = Key::new(kind, line.name.ok_or("name: is missing")?);
        let change = match line.value {
            Some(value) => {
                let body = BASE64_STANDARD.decode(value).map_err(|error| format!("value: no base64: {error}"))?;
                let resource = Resource::new(kind, key.name.clone(), body.into());
                Change::Put(match &line.version {
                    Some(version) => resource.versioned(version),
                    None => resource,
                })
            }
            None => Change::Remove(key.clone()),
        };
        let is_there = matches!(change, Change::Put(_));
        self.publish(vec![change], line.version.as_deref())?;
        if is_there {
            keys.insert(key)
        } else {
            keys.remove(&key)
        };
        Ok(())
    }

    fn publish(&self, changes: Vec<Change>, version: Option<&str>) -> Result<(), String> {
        // The empty version of a removal is none.
        let version = version.filter(|version| !version.is_empty());
        self.ads.publish_as(changes, Vec::new(), version).map(drop).map_err(|dangling| dangling.to_string())
    }
}
