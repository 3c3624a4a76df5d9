//! A worker of the data plane without work: it says hello, takes orders, and applies, refuses or lets go as it is told.

use std::collections::{BTreeMap, BTreeSet};

use api::worker::workers_client::WorkersClient;
use messages::worker as wire;
use messages::worker::order::Order;
use messages::worker::report::Report;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use crate::world::{World, channel, until};

/// Reports that may wait for the socket.
const REPORTS: usize = 1_000;

/// A connected worker.
pub struct Worker {
    seen: watch::Receiver<Seen>,
    running: JoinHandle<()>,
}

/// What a worker has been told.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Pipelines with the versions it knows, and whether each takes entries.
    pub pipelines: BTreeMap<String, Vec<(u32, bool)>>,
    pub entries: BTreeMap<String, Vec<u32>>,
    pub models: BTreeSet<String>,
    /// Pipelines whose topics it was told to delete.
    pub cleaned: BTreeSet<String>,
    /// Models whose topics it was told to delete.
    pub cleaned_models: BTreeSet<String>,
    pub shards: BTreeSet<u32>,
    pub epochs: BTreeMap<u32, u64>,
    pub pieces: usize,
    pub partitions: u32,
    pub ended: Option<Code>,
}

/// Who says hello.
pub fn hello(role: wire::Role, name: &str) -> wire::Hello {
    wire::Hello { role: role.into(), name: name.into(), host: "127.0.0.1".into(), port: 9010, held: Vec::new() }
}

fn report(report: Report) -> wire::Report {
    wire::Report { report: Some(report) }
}

/// The outcome of a stream whose first reports are these.
pub async fn first_answer(world: &World, reports: Vec<wire::Report>) -> Result<Option<wire::Order>, Status> {
    let mut client = WorkersClient::new(channel(world.workers_at));
    client.work(tokio_stream::iter(reports)).await?.into_inner().message().await
}

impl Worker {
    pub async fn start(world: &World, role: wire::Role, name: &str) -> Worker {
        Worker::refusing(world, role, name, &[]).await
    }

    /// One that cannot run these pipelines.
    pub async fn refusing(world: &World, role: wire::Role, name: &str, refused: &[&str]) -> Worker {
        let (reports, queue) = mpsc::channel(REPORTS);
        reports.send(report(Report::Hello(hello(role, name)))).await.unwrap();
        let mut client = WorkersClient::new(channel(world.workers_at));
        let mut orders = client.work(ReceiverStream::new(queue)).await.unwrap().into_inner();
        let (tell, seen) = watch::channel(Seen::default());
        let refused: BTreeSet<String> = refused.iter().map(|name| (*name).to_owned()).collect();
        let running = tokio::spawn(async move {
            let code = loop {
                let order = match orders.message().await {
                    Ok(Some(order)) => order.order.unwrap(),
                    Ok(None) => break Code::Ok,
                    Err(status) => break status.code(),
                };
                let mut answer = None;
                tell.send_modify(|seen| answer = seen.take(order, &refused));
                if let Some(answer) = answer {
                    reports.send(report(answer)).await.unwrap();
                }
            };
            tell.send_modify(|seen| seen.ended = Some(code));
        });
        let worker = Worker { seen, running };
        worker.until("it has its snapshot", |seen| seen.pieces > 0).await;
        worker
    }

    pub async fn until(&self, what: &str, holds: impl Fn(&Seen) -> bool) -> Seen {
        until(&self.seen, what, holds).await
    }

    /// Dies without a word.
    pub async fn die(self) {
        self.running.abort();
        let ended = self.running.await;
        assert!(ended.is_err_and(|error| error.is_cancelled()));
    }
}

impl Seen {
    fn take(&mut self, order: Order, refuses: &BTreeSet<String>) -> Option<Report> {
        match order {
            Order::Desired(desired) => {
                self.pieces += 1;
                if desired.first {
                    self.pipelines.clear();
                    self.models.clear();
                    self.partitions = desired.partitions;
                }
                let mut refused = Vec::new();
                for pipeline in desired.pipelines {
                    if pipeline.clean_topics {
                        self.cleaned.insert(pipeline.name.clone());
                    }
                    let latest = pipeline.versions.last().map(|version| version.version);
                    if let Some(version) = latest.filter(|_| refuses.contains(&pipeline.name)) {
                        let (name, reason) = (pipeline.name.clone(), "its topic has 4 partitions".to_owned());
                        refused.push(wire::Refused { pipeline: name, model: String::new(), version, reason });
                    }
                    let versions: Vec<(u32, bool)> = pipeline.versions.iter().map(|v| (v.version, v.active)).collect();
                    self.entries.insert(pipeline.name.clone(), pipeline.entries);
                    match versions.is_empty() {
                        true => drop(self.pipelines.remove(&pipeline.name)),
                        false => drop(self.pipelines.insert(pipeline.name, versions)),
                    }
                }
                for model in desired.models {
                    if model.clean_topics {
                        self.cleaned_models.insert(model.name.clone());
                    }
                    match model.removed {
                        true => self.models.remove(&model.name),
                        false => self.models.insert(model.name),
                    };
                }
                (!desired.more).then_some(Report::Applied(wire::Applied { revision: desired.revision, refused }))
            }
            Order::Grant(grant) => {
                let shard = grant.shard.unwrap();
                self.shards.insert(shard.partition);
                self.epochs.insert(shard.partition, shard.epoch);
                None
            }
            Order::Revoke(revoke) => {
                let shard = revoke.shard.unwrap();
                self.shards.remove(&shard.partition);
                Some(Report::Released(wire::Released { shard: Some(shard) }))
            }
        }
    }
}
