//! The real Envoy. This binary is the launcher of its children (`run-child …`), so it has a `main` of its own instead
//! of the test harness's.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::panic, reason = "a test fails by panicking")]

use std::net::{Ipv4Addr, SocketAddr, TcpListener as BlockingListener};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use envoy::{Admin, Binary, Bootstrap, Envoy, FirstConfiguration, ReadyError, StartError, find};
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use runtime::child::{NOT_EXECUTED, RUN_CHILD, run_child};
use tokio::net::TcpStream;

/// Envoy starts in a tenth of a second; generous because the machine may be busy.
const DEADLINE: Duration = Duration::from_secs(20);
/// How long Envoy waits for a management server that is not there, twice.
const NO_SERVER: FirstConfiguration = FirstConfiguration::NotAfter(Duration::from_millis(100));

fn main() {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|verb| verb == RUN_CHILD) {
        let error = run_child(arguments).unwrap_err();
        eprintln!("{error}");
        std::process::exit(NOT_EXECUTED);
    }
    let binary = find(&|progress| eprintln!("{progress}")).unwrap();
    let test = |name: &str, run: &dyn Fn(&Binary)| {
        run(&binary);
        println!("test {name} ... ok");
    };
    test("bootstraps_are_accepted_by_envoy", &bootstraps_are_accepted_by_envoy);
    test("readiness_turns_503_after_a_drain_and_statistics_go_on", &|binary| {
        block_on(readiness_turns_503_after_a_drain_and_statistics_go_on(binary));
    });
    test("envoy_without_its_first_configuration_is_not_ready_and_says_what_it_waits_for", &|binary| {
        block_on(envoy_without_its_first_configuration_is_not_ready_and_says_what_it_waits_for(binary));
    });
    test("taken_port_is_named_before_the_start", &|binary| block_on(taken_port_is_named_before_the_start(binary)));
    test("early_end_shows_the_reason_from_the_log", &|binary| {
        block_on(early_end_shows_the_reason_from_the_log(binary));
    });
}

fn block_on(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

/// With ports that are free now, and a management server that is not there.
fn bootstrap(folder: &Path, first_configuration: FirstConfiguration) -> Bootstrap {
    // All are held until all are known, so that they differ.
    let held = [(); 3].map(|()| BlockingListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    let [data_port, stats_port, nobody] = held.each_ref().map(|listener| listener.local_addr().unwrap().port());
    Bootstrap {
        node_id: "test".to_owned(),
        node_cluster: "tests".to_owned(),
        listen_address: Ipv4Addr::LOCALHOST.into(),
        data_port,
        stats_port,
        admin: Admin::UnixSocket(folder.join("admin.sock")),
        xds: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, nobody)).into()],
        first_configuration,
        concurrency: Some(1),
    }
}

fn bootstraps_are_accepted_by_envoy(binary: &Binary) {
    let check = |change: fn(&mut Bootstrap)| {
        let folder = tempfile::tempdir().unwrap();
        let mut bootstrap = bootstrap(folder.path(), FirstConfiguration::Required);
        change(&mut bootstrap);
        let file = folder.path().join("bootstrap.yaml");
        std::fs::write(&file, bootstrap.yaml().unwrap()).unwrap();
        let mut command = std::process::Command::new(&binary.path);
        let output = command.args(["--mode", "validate", "-c"]).arg(&file).stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        // Deprecated fields and missing limits are warnings.
        let complaints: Vec<_> = said.lines().filter(|line| line.contains("[warning]")).collect();
        assert_eq!(complaints, Vec::<&str>::new());
    };
    check(|_| {});
    check(|bootstrap| bootstrap.admin = Admin::Port(9901));
    check(|bootstrap| bootstrap.first_configuration = NO_SERVER);
    check(|bootstrap| bootstrap.xds = vec!["scheduler:9002".parse().unwrap()]);
    check(|bootstrap| bootstrap.xds = vec!["a.example:9002".parse().unwrap(), "b.example:9002".parse().unwrap()]);
    check(|bootstrap| bootstrap.xds = vec!["[::1]:9002".parse().unwrap(), "127.0.0.1:9002".parse().unwrap()]);
    check(|bootstrap| bootstrap.node_id = "quotes \" and\nlines: {é}".to_owned());
}

async fn readiness_turns_503_after_a_drain_and_statistics_go_on(binary: &Binary) {
    let folder = tempfile::tempdir().unwrap();
    let bootstrap = bootstrap(folder.path(), NO_SERVER);
    let mut envoy = Envoy::start(binary, &bootstrap, folder.path(), None).await.unwrap();
    envoy.ready(DEADLINE).await.unwrap();
    let get = |path: &'static str| get(bootstrap.stats_port, "GET", path);
    assert_eq!(get("/ready").await.0, 200);
    let (status, text) = get("/stats/prometheus").await;
    assert_eq!((status, text.contains("envoy_server_live")), (200, true));
    assert_eq!(get("/quitquitquit").await.0, 404);
    assert_eq!(get("/stats/../quitquitquit").await.0, 404);
    assert_eq!(self::get(bootstrap.stats_port, "POST", "/stats/recentlookups/clear").await.0, 404);

    envoy.begin_drain().await.unwrap();
    assert_eq!(get("/ready").await.0, 503);
    assert_eq!(get("/stats/prometheus").await.0, 200);
    assert_eq!(envoy.state().await.unwrap(), "DRAINING");

    let drained = envoy.drain(DEADLINE).await.unwrap();
    assert_eq!((drained.requests_cut, drained.status.code()), (Some(0), Some(0)));
    assert_eq!(envoy.exited().await.unwrap().code(), Some(0));
    assert_eq!(envoy.pid(), None);
}

/// Its statistics port accepts nothing either: a load balancer cannot take it for ready.
async fn envoy_without_its_first_configuration_is_not_ready_and_says_what_it_waits_for(binary: &Binary) {
    let folder = tempfile::tempdir().unwrap();
    let bootstrap = bootstrap(folder.path(), FirstConfiguration::Required);
    let mut envoy = Envoy::start(binary, &bootstrap, folder.path(), None).await.unwrap();
    let error = loop {
        match envoy.ready(Duration::from_millis(500)).await.unwrap_err() {
            // It has not opened its admin interface yet.
            ReadyError::Late { state, .. } if state == "unknown" => {}
            error => break error.to_string(),
        }
    };
    assert!(error.contains("PRE_INITIALIZING (it waits for clusters and listeners from the scheduler)"), "{error}");
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, bootstrap.stats_port)).await.is_err());
    envoy.stop().await.unwrap();
}

async fn taken_port_is_named_before_the_start(binary: &Binary) {
    let folder = tempfile::tempdir().unwrap();
    let mut bootstrap = bootstrap(folder.path(), NO_SERVER);
    let other = BlockingListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    bootstrap.data_port = other.local_addr().unwrap().port();
    let error = Envoy::start(binary, &bootstrap, folder.path(), None).await.unwrap_err();
    assert!(matches!(error, StartError::PortTaken { .. }), "{error}");
    let expected = format!("port {} of 127.0.0.1 is needed for inference requests", bootstrap.data_port);
    assert!(error.to_string().starts_with(&expected), "{error}");
}

async fn early_end_shows_the_reason_from_the_log(binary: &Binary) {
    let folder = tempfile::tempdir().unwrap();
    let mut bootstrap = bootstrap(folder.path(), NO_SERVER);
    bootstrap.admin = Admin::UnixSocket(folder.path().join("no/such/folder/admin.sock"));
    let mut envoy = Envoy::start(binary, &bootstrap, folder.path(), None).await.unwrap();
    match envoy.ready(DEADLINE).await.unwrap_err() {
        ReadyError::Ended { status, tail, .. } => {
            assert_eq!((status.success(), tail.contains("no/such/folder")), (false, true), "{tail}");
        }
        error => panic!("{error}"),
    }
}

/// Status and text of an answer.
async fn get(port: u16, method: &str, path: &str) -> (u16, String) {
    let exchange = async {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        let (mut sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
        let request = Request::builder().method(method).uri(path).header("host", "x");
        let answered = async {
            let response = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
            let status = response.status().as_u16();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            (status, String::from_utf8_lossy(&body).into_owned())
        };
        let driven = async {
            let _ = connection.await;
            std::future::pending().await
        };
        tokio::select! {
            answer = answered => answer,
            never = driven => never,
        }
    };
    tokio::time::timeout(DEADLINE, exchange).await.unwrap()
}
