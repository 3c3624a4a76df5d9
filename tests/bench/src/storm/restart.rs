//! `kill -9` of the scheduler with many models and requests under way through a real Envoy: no request may fail, nothing
//! may be sent again, and the next process serves at once.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use envoy::{Admin, Bootstrap, Envoy, FirstConfiguration};
use harness::{Rest, until};
use http::StatusCode;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{Site, WITHIN, declare, model, named};
use crate::client::{Connection, Question};
use crate::fake::fleet;
use crate::statuses::Statuses;
use crate::table::Table;
use crate::{Size, backend, program};

/// Connections that ask without a pause in between but this.
const CONNECTIONS: usize = 4;
const PAUSE: Duration = Duration::from_millis(5);
/// Envoy is there.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// What every replica answers.
const ANSWER: &str = "{}";

pub(crate) async fn run(size: Size) -> Result<()> {
    let mut table = Table::new(&[
        "kill -9 of the scheduler at models",
        "exec → its API answers ms",
        "exec → Envoy in sync ms (limit 1000)",
        "exec → a new model answers ms",
        "requests under way",
        "failed (limit 0)",
        "resources sent again (limit 0)",
        "sent until the new model answers",
        "Envoy updated until in sync, clusters + scopes",
    ]);
    for models in size.pick([1_000, 10_000], [100, 300]) {
        table.row(restart(models).await?);
    }
    table.print();
    Ok(())
}

async fn restart(models: usize) -> Result<Vec<String>> {
    let mut site = Site::start().await?;
    let address = backend::start(ANSWER).await?;
    let agents = fleet(&site.scheduler, 2, 2, address).await?;
    let (mut envoy, data, stats) = start_envoy(&mut site).await?;
    let statuses = Statuses::subscribe(&site.scheduler, "bench").await?;
    let server = |number: usize| format!("server-{}", number % 2);
    declare(&site.scheduler, (0..models).map(|number| model(number, &server(number))).collect()).await?;
    statuses.available(models, WITHIN).await?;
    drop(statuses);

    let traffic = Traffic::start(data, models);
    traffic.asked(200).await?;
    let before = updates(&stats).await?;
    ensure!(before.0 > 0 && before.1 > 0, "Envoy counts its updates under other names: {before:?}");
    site.scheduler.kill9().await?;
    // Long enough that requests meet an Envoy without a scheduler.
    traffic.asked(400).await?;
    let executed = site.scheduler.exec().await?;
    let scheduler = &site.scheduler;
    until(WITHIN, "the scheduler answers", async || scheduler.control().version().await.map(|_| ())).await?;
    let answers = executed.elapsed();
    let resources = until(WITHIN, "Envoy is in sync", async || {
        let counters = scheduler.counters().await?;
        match (counters.get("switchyard_xds_synced_streams"), counters.get("switchyard_xds_resources")) {
            (Some(1..), Some(resources)) => Ok(*resources),
            _ => bail!("{counters:?}"),
        }
    })
    .await?;
    let in_sync = executed.elapsed();
    let after = updates(&stats).await?;
    // The whole path: agents are back, a new model is placed, loaded, routed.
    let new = named("newcomer", "server-1");
    let mut client = scheduler.client()?;
    client.load_model(messages::scheduler::LoadModelRequest { model: Some(new) }).await.context("declare a model")?;
    let question = Question::get("/v2/models/newcomer/ready").header(domain::header::MODEL, "newcomer")?;
    let mut connection = Connection::open(data).await?;
    until(WITHIN, "a new model answers", async || {
        let (status, _) = connection.ask(&question).await?;
        ensure!(status == StatusCode::OK, "{status}");
        Ok(())
    })
    .await?;
    let newcomer = executed.elapsed();
    let counters = scheduler.counters().await?;
    let later = counters.get("switchyard_xds_resources").context("a counter")?.saturating_sub(resources);
    let (asked, failed) = traffic.stop().await?;
    let millis = |time: Duration| time.as_millis().to_string();
    let row = vec![
        models.to_string(),
        millis(answers),
        millis(in_sync),
        millis(newcomer),
        asked.to_string(),
        failed.to_string(),
        resources.to_string(),
        later.to_string(),
        format!("{} + {}", after.0 - before.0, after.1 - before.1),
    ];
    drop(agents);
    envoy.stop().await.context("stop Envoy")?;
    site.scheduler.stop().await?;
    Ok(row)
}

async fn start_envoy(site: &mut Site) -> Result<(Envoy, SocketAddr, Rest)> {
    let binary = envoy::find(&|progress| eprintln!("{progress}")).context("find Envoy")?;
    let (data_port, stats_port) = (site.scheduler.data_port(), site.ports.free()?);
    let folder = site.folder.path().join("envoy");
    let bootstrap = Bootstrap {
        node_id: "bench".to_owned(),
        node_cluster: "bench".to_owned(),
        listen_address: Ipv4Addr::LOCALHOST.into(),
        data_port,
        stats_port,
        admin: Admin::UnixSocket(folder.join("admin.sock")),
        xds: vec![site.scheduler.xds().into()],
        first_configuration: FirstConfiguration::Required,
        concurrency: Some(1),
    };
    let launcher = program::path()?;
    let mut envoy = Envoy::start(&binary, &bootstrap, &folder, Some(&launcher)).await.context("start Envoy")?;
    envoy.ready(READY_WITHIN).await.context("wait for Envoy")?;
    let local = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    Ok((envoy, local(data_port), Rest::new(local(stats_port))))
}

/// How often Envoy has taken a new cluster and a new set of scopes.
async fn updates(stats: &Rest) -> Result<(u64, u64)> {
    let answer = stats.get("/stats?filter=(cluster_(added|modified|removed)|scoped_rds.*config_reload$)", &[]).await?;
    let sum = |part: &str| {
        let lines =
            answer.body.lines().filter_map(|line| line.split_once(": ")).filter(|(name, _)| name.contains(part));
        lines.filter_map(|(_, value)| value.trim().parse::<u64>().ok()).sum()
    };
    Ok((sum("cluster_manager"), sum("config_reload")))
}

/// Requests to all models in turn, by several keep-alive connections, until they are stopped.
struct Traffic {
    asked: watch::Receiver<(usize, usize)>,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<Result<()>>>,
}

impl Traffic {
    fn start(data: SocketAddr, models: usize) -> Traffic {
        let tell = watch::Sender::new((0, 0));
        let stop = watch::Sender::new(false);
        let tasks = (0..CONNECTIONS).map(|first| {
            let (tell, stopped) = (tell.clone(), stop.subscribe());
            tokio::spawn(async move {
                let mut connection = Connection::open(data).await?;
                let mut number = first * models / CONNECTIONS;
                while !*stopped.borrow() {
                    let name = format!("model-{:06}", number % models);
                    let question = Question::get(&format!("/v2/models/{name}")).header(domain::header::MODEL, &name)?;
                    let answer = connection.ask(&question).await;
                    let is_right = answer.is_ok_and(|(status, body)| status == StatusCode::OK && body == ANSWER);
                    tell.send_modify(|(asked, failed)| {
                        *asked += 1;
                        *failed += usize::from(!is_right);
                    });
                    if !is_right {
                        connection = Connection::open(data).await?;
                    }
                    number += 7;
                    tokio::time::sleep(PAUSE).await;
                }
                Ok(())
            })
        });
        let tasks = tasks.collect();
        Traffic { asked: tell.subscribe(), stop, tasks }
    }

    /// Waits for so many requests more.
    async fn asked(&self, more: usize) -> Result<()> {
        let mut seen = self.asked.clone();
        let wanted = seen.borrow().0 + more;
        let waiting = seen.wait_for(|(asked, _)| *asked >= wanted);
        tokio::time::timeout(READY_WITHIN, waiting).await.context("requests hang")?.context("requests ended")?;
        Ok(())
    }

    /// How many were asked, and how many of them failed.
    async fn stop(self) -> Result<(usize, usize)> {
        self.stop.send_replace(true);
        for task in self.tasks {
            task.await.context("requests")??;
        }
        let told = *self.asked.borrow();
        Ok(told)
    }
}
