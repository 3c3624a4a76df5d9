//! The health port over real connections.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use runtime::health::{Health, serve};
use runtime::{OnError, Stop, Tasks};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const DEADLINE: Duration = Duration::from_secs(10);

struct Server {
    address: SocketAddr,
    health: Health,
    tasks: Tasks,
}

async fn server() -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (health, tasks) = (Health::new(), Tasks::new(Stop::new()));
    tasks.spawn("health", OnError::StopProcess, serve(listener, health.clone(), tasks.stop().clone()));
    Server { address, health, tasks }
}

/// Status and body.
async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    tokio::time::timeout(DEADLINE, stream.read_to_string(&mut response)).await.unwrap().unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[tokio::test]
async fn process_is_ready_while_every_check_is_and_started_once_each_was() {
    let Server { address, health, .. } = server().await;
    let (store, link) = (health.check("store"), health.check("link"));
    store.set_ready();
    let starting = r#"[{"name":"link","ready":false,"reason":"starting"},{"name":"store","ready":true}]"#;
    assert_eq!(get(address, "/live").await.0, 200);
    assert_eq!(get(address, "/ready").await, (500, starting.to_owned()));
    assert_eq!(get(address, "/startup").await.0, 500);
    link.set_ready();
    assert_eq!(get(address, "/ready").await.0, 200);
    assert_eq!(get(address, "/startup").await.0, 200);
    store.set_unready("disk is full");
    assert_eq!(get(address, "/startup").await.0, 200);
    let (status, body) = get(address, "/ready").await;
    assert_eq!((status, body.contains("disk is full")), (500, true));
}

#[tokio::test]
async fn metrics_are_those_of_the_process_and_of_its_parts() {
    let Server { address, health, .. } = server().await;
    health.add_metrics(Arc::new(|text: &mut String| text.push_str("models_loaded 3\n")));
    let (status, body) = get(address, "/metrics").await;
    assert_eq!(status, 200);
    let names =
        ["process_resident_memory_bytes ", "process_cpu_seconds_total ", "process_open_fds ", "models_loaded 3"];
    for name in names {
        assert!(body.lines().any(|line| line.starts_with(name)), "{name} is not in\n{body}");
    }
}

#[tokio::test]
async fn unknown_paths_are_told_what_there_is() {
    let (status, body) = get(server().await.address, "/healthz").await;
    assert_eq!((status, body.as_str()), (404, "there is /live, /ready, /startup and /metrics\n"));
}

#[tokio::test]
async fn stop_ends_the_server_despite_an_idle_connection() {
    let Server { address, tasks, .. } = server().await;
    let _idle = TcpStream::connect(address).await.unwrap();
    assert_eq!(get(address, "/live").await.0, 200);
    assert_eq!(tasks.finish(DEADLINE).await, Ok(()));
}
