//! Envoys with N models, fed by the real publisher and discovery server in this process.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use envoy::{Admin, Bootstrap, Envoy, FirstConfiguration};
use harness::Ports;
use http::StatusCode;
use scheduler::envoy::{Publication, tailor};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tonic::transport::server::TcpIncoming;
use xds::{Ads, Config, Feedback};

use crate::client::{Connection, Question};
use crate::process::time_of_threads;
use crate::program;
use crate::world::{Shape, World, question, settings};

/// Envoy loads 100,000 models in three seconds on a free machine, and a cluster for each of 10,000 in five.
const READY_WITHIN: Duration = Duration::from_secs(120);
/// How often is looked whether something is there; more often than the figures are precise.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Longer than a thread works on something without a pause.
const RESTS_AFTER: Duration = Duration::from_millis(50);

/// An Envoy of a mesh.
pub(crate) struct Seat {
    pub(crate) address: SocketAddr,
    statistics: SocketAddr,
    envoy: Envoy,
    /// From its start until the last model was answered.
    pub(crate) served_after: Duration,
}

/// The discovery server, with threads of its own so that it can be cut off.
struct Origin {
    ads: Ads,
    address: SocketAddr,
    /// The name of its threads.
    threads: String,
    runtime: Option<Runtime>,
}

pub(crate) struct Mesh {
    pub(crate) shape: Shape,
    pub(crate) world: World,
    origin: Origin,
    xds: SocketAddr,
    seats: Vec<Seat>,
    /// Where Envoys serve that are not told another port; the first takes it.
    port: u16,
    ports: Ports,
    folder: TempDir,
}

impl Mesh {
    /// Serves a world of `models` that all lead to `backend`, to no Envoy yet.
    pub(crate) async fn serve(shape: Shape, models: usize, sets: usize, backend: SocketAddr) -> Result<Mesh> {
        let folder = tempfile::Builder::new().prefix("switchyard-bench-").tempdir()?;
        let mut ports = Ports::block()?;
        let xds = SocketAddr::from((Ipv4Addr::LOCALHOST, ports.free()?));
        let port = ports.free()?;
        let mut world = World::new(shape, settings(port), models, sets, backend)?;
        let origin = Origin::start(&mut world, xds).await?;
        origin.open().await?;
        Ok(Mesh { shape, world, origin, xds, seats: Vec::new(), port, ports, folder })
    }

    /// The same with one Envoy, which answers for the last model when this returns.
    pub(crate) async fn start(shape: Shape, models: usize, backend: SocketAddr) -> Result<Mesh> {
        let mut mesh = Mesh::serve(shape, models, 1, backend).await?;
        mesh.add_envoys(1, 1).await?;
        Ok(mesh)
    }

    /// Starts Envoys at once and waits until each answers for the last model.
    pub(crate) async fn add_envoys(&mut self, count: usize, workers: u32) -> Result<()> {
        let binary = envoy::find(&|progress| eprintln!("{progress}")).context("find Envoy")?;
        let launcher = program::path()?;
        let question = question(self.world.models().saturating_sub(1))?;
        let mut started = Vec::new();
        for _ in 0..count {
            let number = self.seats.len() + started.len();
            let data_port = if number == 0 { self.port } else { self.ports.free()? };
            let stats_port = self.ports.free()?;
            let folder = self.folder.path().join(format!("envoy-{number}"));
            let bootstrap = Bootstrap {
                node_id: format!("bench-{number}"),
                node_cluster: "bench".to_owned(),
                listen_address: Ipv4Addr::LOCALHOST.into(),
                data_port,
                stats_port,
                admin: Admin::UnixSocket(folder.join("admin.sock")),
                xds: vec![self.xds.into()],
                first_configuration: FirstConfiguration::Required,
                concurrency: Some(workers),
            };
            let began = Instant::now();
            let envoy = Envoy::start(&binary, &bootstrap, &folder, Some(&launcher)).await.context("start Envoy")?;
            let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            started.push((envoy, local(data_port), local(stats_port), began));
        }
        let ready = started.into_iter().map(|(envoy, address, statistics, began)| {
            let question = question.clone();
            async move {
                let served_after = first_answer(address, &question, began).await?;
                anyhow::Ok(Seat { address, statistics, envoy, served_after })
            }
        });
        self.seats.extend(futures_util::future::try_join_all(ready).await?);
        Ok(())
    }

    pub(crate) fn seats(&self) -> &[Seat] {
        &self.seats
    }

    /// The first Envoy.
    pub(crate) fn seat(&self) -> Result<&Seat> {
        self.seats.first().context("an Envoy was started")
    }

    pub(crate) fn publish(&mut self, publication: Publication) -> Result<()> {
        let revision = self.origin.ads.publish(publication.changes, publication.gated).context("publish")?;
        self.world.published(revision);
        Ok(())
    }

    /// The server is killed, and another one with the same world starts in its place; it listens when it is opened.
    pub(crate) async fn restart_server(&mut self) -> Result<()> {
        self.origin.stop();
        self.origin = Origin::start(&mut self.world, self.xds).await?;
        Ok(())
    }

    pub(crate) async fn open(&self) -> Result<()> {
        self.origin.open().await
    }

    /// Processor time of the server alone, without the publisher and whatever else is in this process, when it has nothing
    /// more to do: the kernel counts what a thread does when it rests.
    pub(crate) async fn processor_time(&self) -> Result<Duration> {
        let began = Instant::now();
        let mut time = time_of_threads(&self.origin.threads)?;
        loop {
            tokio::time::sleep(RESTS_AFTER).await;
            let before = std::mem::replace(&mut time, time_of_threads(&self.origin.threads)?);
            if before == time {
                return Ok(time);
            }
            ensure!(began.elapsed() < READY_WITHIN, "the server does not rest within {READY_WITHIN:?}");
        }
    }

    pub(crate) fn streams(&self) -> Vec<xds::StreamStatus> {
        self.origin.ads.streams()
    }

    /// Waits until as many streams have applied all of it.
    pub(crate) async fn synced(&self, count: usize) -> Result<()> {
        harness::until(READY_WITHIN, "Envoys have applied everything", async || {
            let streams = self.streams();
            let settled =
                |stream: &xds::StreamStatus| stream.synced && stream.kinds.iter().all(|kind| kind.in_flight == 0);
            let synced = streams.iter().filter(|stream| settled(stream)).count();
            ensure!(
                synced == count && streams.len() == count,
                "{synced} of {} streams, {count} expected",
                streams.len()
            );
            Ok(())
        })
        .await
    }

    pub(crate) async fn stop(mut self) -> Result<()> {
        for seat in &mut self.seats {
            seat.envoy.stop().await.context("stop Envoy")?;
        }
        self.origin.stop();
        Ok(())
    }
}

impl Seat {
    pub(crate) fn pid(&self) -> Result<u32> {
        self.envoy.pid().context("Envoy has ended")
    }

    /// One of its counters.
    pub(crate) async fn counter(&self, name: &str) -> Result<u64> {
        let mut connection = Connection::open(self.statistics).await?;
        let (_, body) = connection.ask(&Question::get(&format!("/stats?filter=^{name}$"))).await?;
        let text = String::from_utf8_lossy(&body).into_owned();
        let value = text.trim().rsplit_once(": ").and_then(|(_, value)| value.parse().ok());
        value.with_context(|| format!("counter {name}: {text:?}"))
    }

    /// Bytes it has received from the discovery server, with all framing of HTTP/2.
    pub(crate) async fn received(&self) -> Result<u64> {
        self.counter("cluster.management.upstream_cx_rx_bytes_total").await
    }
}

impl Origin {
    /// Publishes the whole world and is told that it is released, and does not listen yet.
    async fn start(world: &mut World, address: SocketAddr) -> Result<Origin> {
        let publication = world.whole()?;
        // Those of an earlier one may end later.
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        let threads = format!("xds-{}", STARTED.fetch_add(1, Ordering::Relaxed));
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.thread_name(&threads).enable_all().build().context("start the runtime")?;
        let tailor = Some(tailor(world.settings()));
        let ads = runtime.spawn(async move {
            let grace = Duration::from_secs(1);
            let config = Config { lag_after: READY_WITHIN, drain_grace: grace, tailor, ..Config::default() };
            Ads::new(config)
        });
        let (ads, mut feedback) = ads.await.context("start the server")?;
        let mut unreleased = publication.gated.len();
        let revision = ads.publish(publication.changes, publication.gated).context("publish")?;
        world.published(revision);
        ads.open(false);
        while unreleased > 0 {
            let told = tokio::time::timeout(READY_WITHIN, feedback.recv()).await;
            let told = told.ok().flatten().context("the server tells what it releases")?;
            unreleased -= usize::from(matches!(told, Feedback::Released { .. }));
        }
        runtime.spawn(async move { while feedback.recv().await.is_some() {} });
        Ok(Origin { ads, address, threads, runtime: Some(runtime) })
    }

    async fn open(&self) -> Result<()> {
        let (routes, address) = (self.ads.routes(), self.address);
        let opened = self.runtime.as_ref().context("the server runs")?.spawn(async move {
            let listener = TcpListener::bind(address).await.context("open a port for discovery")?;
            let server = tonic::transport::Server::builder().add_routes(routes);
            tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true))));
            anyhow::Ok(())
        });
        opened.await.context("open the server")?
    }

    /// Cuts all connections.
    fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.stop();
    }
}

/// From `began` until the answer is 200.
async fn first_answer(address: SocketAddr, question: &Question, began: Instant) -> Result<Duration> {
    loop {
        let answer = async { Connection::open(address).await?.ask(question).await };
        let last = match answer.await {
            Ok((StatusCode::OK, _)) => return Ok(began.elapsed()),
            Ok((status, body)) => format!("{status} {body:?}"),
            Err(error) => format!("{error:#}"),
        };
        ensure!(began.elapsed() < READY_WITHIN, "the last model is not answered within {READY_WITHIN:?}: {last}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
