//! `switchyard up` as a user runs it: one process with everything, killed whole and started again in its folder.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::{Load, Part, Ports, Rest, Said, Target, iris, root, run, until};
use http::StatusCode;

use crate::{LOADS_WITHIN, RATE};

/// How long the load runs before the kill and after the return.
const WINDOW: Duration = Duration::from_millis(800);

/// Stated bound: everything answers again this long after the second start.
const IS_BACK: Duration = Duration::from_secs(10);

/// What a running installation says about itself.
struct Installation {
    envoys: Vec<SocketAddr>,
    pid: u32,
}

fn installation(dir: &Path) -> Result<Installation> {
    let text = std::fs::read_to_string(dir.join("endpoints.json")).context("read endpoints.json")?;
    let json: serde_json::Value = serde_json::from_str(&text)?;
    let envoys = json["envoys"].as_array().context("envoys")?.iter();
    let envoys = envoys.map(|envoy| Ok(envoy.as_str().context("an address")?.parse()?)).collect::<Result<_>>()?;
    Ok(Installation { envoys, pid: json["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).context("a pid")? })
}

/// Waits until an installation other than the one with `old_pid` is up.
async fn is_up(dir: &Path, old_pid: Option<u32>) -> Result<Installation> {
    until(LOADS_WITHIN, "endpoints.json is written", async || {
        let found = installation(dir)?;
        ensure!(Some(found.pid) != old_pid, "it is the old one");
        Ok(found)
    })
    .await
}

async fn answers(envoy: SocketAddr, model: &str, within: Duration) -> Result<()> {
    let rest = Rest::new(envoy);
    until(within, "the model answers", async || {
        let answer = rest.infer(model, iris::BODY).await?;
        ensure!(answer.status == StatusCode::OK, "{model} at {envoy}: {} {}", answer.status, answer.body);
        iris::check_json(&answer.body)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_comes_back_after_the_whole_process_was_killed() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let dir = folder.path().join("up");
    let ports = Ports::block()?;
    let (dir_text, base) = (dir.display().to_string(), ports.base().to_string());
    let mut up = Part::new(
        "up",
        folder.path(),
        &["up", "--dir", &dir_text, "--port-base", &base, "--envoys", "2", "--replica-memory", "64"],
    );
    up.start().await?;
    let first = is_up(&dir, None).await?;
    ensure!(first.envoys.len() == 2, "two Envoys from one scheduler");
    let verb = async |arguments: &[&str]| {
        let arguments: Vec<&str> = arguments.iter().copied().chain(["--dir", &dir_text]).collect();
        run(folder.path(), &[], &arguments).await
    };
    let sample = root().join("samples/iris.yaml").display().to_string();
    verb(&["model", "load", "-f", &sample, "--wait"]).await?.well()?;
    let said = verb(&["server", "scale", "onnx", "--replicas", "3", "--wait"]).await?.well()?;
    ensure!(said.contains("3 of 3 replicas"), "the launcher started a third replica: {said}");
    let said = verb(&["server", "scale", "onnx", "--replicas", "1", "--wait"]).await?.well()?;
    ensure!(said.contains("1 of 1 replicas"), "the launcher drained two replicas: {said}");
    for envoy in &first.envoys {
        answers(*envoy, "iris", LOADS_WITHIN).await?;
    }
    let health = Rest::new(SocketAddr::from(([127, 0, 0, 1], ports.base() + 999)));
    until(LOADS_WITHIN, "every part is ready", async || {
        let answer = health.get("/ready", &[]).await?;
        ensure!(answer.status == StatusCode::OK, "{} {}", answer.status, answer.body);
        for part in
            ["scheduler", "server-onnx", "envoy-0", "envoy-1", "pipeline-gateway-0", "engine-0", "model-gateway-0"]
        {
            ensure!(answer.body.contains(part), "{part}: {}", answer.body);
        }
        for path in ["/startup", "/live"] {
            ensure!(health.get(path, &[]).await?.status == StatusCode::OK, "{path}");
        }
        Ok(())
    })
    .await?;

    envoys_are_shown(&verb).await?;

    let load = |envoys: &[SocketAddr]| {
        let targets = envoys.iter().map(|envoy| Target { envoy: *envoy, model: "iris".to_owned() });
        Load::start(targets.collect(), RATE)
    };
    let before = load(&first.envoys);
    before.window(WINDOW).await;
    before.stop().await?.none_failed()?;
    up.kill9().await?;
    until(LOADS_WITHIN, "its children are gone with it", async || {
        let alive: Vec<_> = first.envoys.iter().filter(|envoy| std::net::TcpStream::connect(envoy).is_ok()).collect();
        ensure!(alive.is_empty(), "still open: {alive:?}");
        Ok(())
    })
    .await?;

    let restarted = Instant::now();
    up.start().await?;
    let second = is_up(&dir, Some(first.pid)).await?;
    for envoy in &second.envoys {
        answers(*envoy, "iris", IS_BACK).await?;
    }
    let took = restarted.elapsed();
    println!("up: everything is back {} ms after the start (bound {} s)", took.as_millis(), IS_BACK.as_secs());
    ensure!(took <= IS_BACK, "only after {took:?}");
    let said = verb(&["model", "list"]).await?.well()?;
    ensure!(said.contains("iris") && said.contains("ModelAvailable"), "{said}");
    let said = verb(&["server", "list"]).await?.well()?;
    ensure!(said.contains("1/1"), "the size that was asked for last: {said}");
    let after = load(&second.envoys);
    after.window(WINDOW).await;
    after.stop().await?.none_failed()?;
    let status = up.stop().await?;
    ensure!(status.success(), "an orderly end: {status}");
    ensure!(!dir.join("endpoints.json").exists(), "nobody is told to call it any more");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_ends_with_status_0_and_a_taken_port_with_status_1_and_its_number() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let ports = Ports::block()?;
    let base = ports.base().to_string();
    let dir = folder.path().join("up").display().to_string();
    let demo = ["up", "--dir", &dir, "--port-base", &base, "--demo", "--exit-after-demo"];
    let said = run(folder.path(), &[], &demo).await?.failed(0)?;
    for word in [
        "setosa, versicolor, virginica",
        "file-type",
        "REST",
        "gRPC",
        "ready after",
        "it says \"Handle with care\"",
        "by way of flip; keep did not run",
    ] {
        ensure!(said.contains(word), "{word}: {said}");
    }
    let taken = ports.base() + 4;
    let _listener = std::net::TcpListener::bind(("127.0.0.1", taken))?;
    let said = run(folder.path(), &[], &["up", "--dir", &dir, "--port-base", &base]).await?.failed(1)?;
    ensure!(said.contains(&taken.to_string()) && said.contains("--port-base"), "{said}");
    Ok(())
}

/// What each Envoy has, with nothing left to send.
async fn envoys_are_shown(verb: &impl AsyncFn(&[&str]) -> Result<Said>) -> Result<()> {
    until(LOADS_WITHIN, "both Envoys have everything", async || {
        let listed: serde_json::Value = serde_json::from_str(&verb(&["envoy", "list", "-o", "json"]).await?.well()?)?;
        let nodes: Vec<&str> = listed.as_array().into_iter().flatten().filter_map(|of| of["node"].as_str()).collect();
        ensure!(nodes.len() == 2 && nodes[0] != nodes[1], "{listed}");
        for node in &nodes {
            let kinds = verb(&["envoy", "status", node]).await?.well()?;
            ensure!(
                ["Cluster", "Endpoints", "Listener", "ScopedRoute"].iter().all(|kind| kinds.contains(kind)),
                "{kinds}"
            );
            let left = verb(&["envoy", "diff", node]).await?.well()?;
            ensure!(left.trim().is_empty(), "{left}");
        }
        Ok(())
    })
    .await?;
    let said = verb(&["envoy", "status", "nobody"]).await?.failed(1)?;
    ensure!(said.contains("no Envoy nobody is connected") && said.contains("envoy-0"), "{said}");
    Ok(())
}
