//! The example `file` with a real Envoy: what stands in the file is what requests see, and a change costs none of them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

const DEADLINE: Duration = Duration::from_secs(30);

/// Answers everything with its name.
async fn backend(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                let mut line = String::new();
                while stream.read_line(&mut line).await.is_ok_and(|read| read > 0) {
                    // A request without a body ends with an empty line.
                    if line.trim().is_empty() {
                        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}", name.len());
                        stream.write_all(answer.as_bytes()).await.expect("Envoy reads");
                    }
                    line.clear();
                }
            });
        }
    });
    address
}

/// Built by `cargo test` together with the tests.
fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a running program has a path");
    let path = test.ancestors().nth(2).expect("tests are below the target folder").join("examples").join(name);
    assert!(path.is_file(), "{} is missing: cargo build --release -p xds --examples", path.display());
    path
}

async fn free() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address").port()
}

/// Starts the example; what it prints is what Envoy is to be started with.
async fn serve(folder: &Path, targets: &Path, port: u16) -> (Child, PathBuf) {
    let server = format!("127.0.0.1:{}", free().await);
    let mut command = Command::new(example("file"));
    command.arg(server).arg(port.to_string()).arg(targets).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.kill_on_drop(true).spawn().expect("the example starts");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut bootstrap = String::new();
    while let Some(line) = lines.next_line().await.expect("it prints") {
        if line.is_empty() {
            break;
        }
        bootstrap.push_str(&line);
        bootstrap.push('\n');
    }
    let path = folder.join("envoy.yaml");
    std::fs::write(&path, bootstrap).expect("write the bootstrap");
    (child, path)
}

fn envoy(bootstrap: &Path) -> Child {
    let binary = envoy::find(&|_| {}).expect("Envoy");
    let mut command = Command::new(binary.path);
    command.arg("-c").arg(bootstrap).args(["--use-dynamic-base-id", "--concurrency", "1", "--log-level", "error"]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn().expect("Envoy starts")
}

/// Status line and body of `GET /a`.
async fn get(port: u16) -> std::io::Result<(String, String)> {
    get_path(port, "/a").await
}

async fn get_path(port: u16, path: &str) -> std::io::Result<(String, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    Ok((head.lines().next().unwrap_or_default().to_owned(), body.to_owned()))
}

#[tokio::test]
async fn what_stands_in_the_file_is_what_requests_see() {
    let folder = tempfile::tempdir().expect("a folder");
    let (one, other) = (backend("one").await, backend("other").await);
    let (targets, port) = (folder.path().join("targets"), free().await);
    std::fs::write(&targets, format!("# the first\na {one}\n")).expect("write");
    let (mut server, bootstrap) = serve(folder.path(), &targets, port).await;
    let _envoy = envoy(&bootstrap);
    let began = Instant::now();
    loop {
        match get(port).await {
            Ok((status, body)) if status.contains("200") => break assert_eq!(body, "one"),
            other => assert!(began.elapsed() < DEADLINE, "no answer in time: {other:?}"),
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(get_path(port, "/a/b?c=d").await.expect("an answer").1, "one");
    assert!(get_path(port, "/ab").await.expect("an answer").0.contains("404"), "another name");
    // Nothing that cannot be read changes anything, and no change costs a request.
    std::fs::write(&targets, format!("a {other} nonsense")).expect("write");
    let mut said = BufReader::new(server.stderr.take().expect("a pipe")).lines();
    while !said.next_line().await.expect("it says so").expect("it goes on").contains("\"nonsense\" is no address") {}
    assert_eq!(get(port).await.expect("an answer").1, "one");
    std::fs::write(&targets, format!("a/b {other}\n")).expect("write");
    while !said.next_line().await.expect("it says so").expect("it goes on").contains("a/b is no single segment") {}
    std::fs::write(&targets, format!("a {other}\n")).expect("write");
    loop {
        let (status, body) = get(port).await.expect("an answer");
        assert!(status.contains("200"), "{status}");
        if body == "other" {
            break;
        }
        assert!(began.elapsed() < DEADLINE, "still {body}");
    }
}
