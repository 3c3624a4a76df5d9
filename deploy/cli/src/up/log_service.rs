//! `switchyard.log.v1` over the embedded log: list, read, append, follow, for `pipeline inspect` and `tap` and for
//! producers of one's own.

use std::convert::Infallible;
use std::sync::Arc;

use api::log::log_server::{Log as Service, LogServer};
use domain::Time;
use messages::log as wire;
use messages::log::read_request::From;
use runtime::{OnError, Stop, Tasks};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use topic_log::{Append, Error, Fetched, Header, Log, Record};

/// Largest message: a record with its name.
const MESSAGE_LARGEST: usize = 80 << 20;

/// Records between the log and a socket.
const IN_FLIGHT: usize = 64;

/// Most topics that one caller follows.
const TOPICS_MAX: usize = 10_000;

const READ_BYTES: usize = 1 << 20;

struct Served {
    log: Arc<dyn Log>,
    tasks: Tasks,
    stop: Stop,
}

/// Serves the log until the stop.
pub(super) async fn serve(
    log: Arc<dyn Log>,
    listener: TcpListener,
    tasks: Tasks,
) -> Result<(), tonic::transport::Error> {
    let stop = tasks.stop().clone();
    let service = LogServer::new(Served { log, tasks, stop: stop.clone() })
        .max_decoding_message_size(MESSAGE_LARGEST)
        .max_encoding_message_size(MESSAGE_LARGEST);
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let server = tonic::transport::Server::builder().add_service(service);
    server.serve_with_incoming_shutdown(incoming, async move { stop.requested().await }).await
}

fn status(error: &Error) -> Status {
    match error {
        Error::NoTopic(_) | Error::NoPartition { .. } => Status::not_found(error.to_string()),
        Error::TooLarge { .. } => Status::invalid_argument(error.to_string()),
        Error::Full => Status::resource_exhausted(error.to_string()),
        Error::Io { .. } | Error::Catalog { .. } | Error::Closed => Status::unavailable(error.to_string()),
    }
}

fn record(topic: &str, partition: u32, record: Record) -> wire::Record {
    let headers = record.headers.into_iter();
    wire::Record {
        topic: topic.to_owned(),
        partition,
        offset: record.offset,
        time_ms: record.time.0,
        key: record.key,
        value: record.value,
        headers: headers.map(|header| wire::Header { name: header.name, value: header.value }).collect(),
    }
}

type Out<T> = Response<ReceiverStream<Result<T, Status>>>;

#[tonic::async_trait]
impl Service for Served {
    type ReadStream = ReceiverStream<Result<wire::Record, Status>>;
    type FollowStream = ReceiverStream<Result<wire::Followed, Status>>;

    async fn list(&self, request: Request<wire::ListRequest>) -> Result<Response<wire::ListResponse>, Status> {
        let topics = self.log.topics(&request.into_inner().prefix).await.map_err(|error| status(&error))?;
        let topics = topics.into_iter().map(|topic| wire::Topic {
            name: topic.name.to_string(),
            partitions: topic
                .partitions
                .into_iter()
                .map(|bounds| wire::Partition { start: bounds.start, end: bounds.end })
                .collect(),
        });
        Ok(Response::new(wire::ListResponse { topics: topics.collect() }))
    }

    async fn read(&self, request: Request<wire::ReadRequest>) -> Result<Out<wire::Record>, Status> {
        let wire::ReadRequest { topic, partition, from } = request.into_inner();
        let bounds = self.log.bounds(&topic, partition).await.map_err(|error| status(&error))?;
        let mut next = match from {
            None => bounds.start,
            Some(From::Offset(offset)) => match u64::try_from(offset) {
                Ok(offset) => offset,
                Err(_) => bounds.end.saturating_sub(offset.unsigned_abs()),
            },
            Some(From::TimeMs(time)) => {
                self.log.find(&topic, partition, Time(time)).await.map_err(|error| status(&error))?
            }
        };
        let (sender, stream) = mpsc::channel(IN_FLIGHT);
        let log = Arc::clone(&self.log);
        self.tasks.spawn("log-read", OnError::Log, async move {
            while next < bounds.end {
                match log.read(&topic, partition, next, READ_BYTES).await {
                    Ok(fetched) if fetched.next == next => break,
                    Ok(fetched) => {
                        next = fetched.next;
                        for one in fetched.records.into_iter().filter(|one| one.offset < bounds.end) {
                            if sender.send(Ok(record(&topic, partition, one))).await.is_err() {
                                return Ok::<(), Infallible>(());
                            }
                        }
                    }
                    Err(error) => {
                        // Whoever is gone need not know.
                        let _gone = sender.send(Err(status(&error))).await;
                        break;
                    }
                }
            }
            Ok(())
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn append(&self, request: Request<wire::AppendRequest>) -> Result<Response<wire::AppendResponse>, Status> {
        let wire::AppendRequest { topic, partition, key, value, headers } = request.into_inner();
        let headers = headers.into_iter().map(|header| Header { name: header.name, value: header.value }).collect();
        let appended = self.log.append(&topic, partition, Append { key, value, headers }).await;
        let appended = appended.map_err(|error| status(&error))?;
        Ok(Response::new(wire::AppendResponse { offset: appended.offset, time_ms: appended.time.0 }))
    }

    async fn follow(&self, request: Request<wire::FollowRequest>) -> Result<Out<wire::Followed>, Status> {
        let topics = request.into_inner().topics;
        if topics.len() > TOPICS_MAX {
            return Err(Status::invalid_argument(format!("topics: at most {TOPICS_MAX} can be followed")));
        }
        let mut reader = self.log.reader();
        for name in topics {
            let name: Arc<str> = name.into();
            let known = self.log.topics(&name).await.map_err(|error| status(&error))?;
            let known = known.into_iter().find(|known| known.name == name);
            let known = known.ok_or_else(|| status(&Error::NoTopic(Arc::clone(&name))))?;
            for (partition, bounds) in (0_u32..).zip(&known.partitions) {
                reader.assign(&name, partition, bounds.end).map_err(|error| status(&error))?;
            }
        }
        let (sender, stream) = mpsc::channel(IN_FLIGHT);
        let stop = self.stop.clone();
        self.tasks.spawn("log-follow", OnError::Log, async move {
            loop {
                let fetched = tokio::select! {
                    () = sender.closed() => return Ok::<(), Infallible>(()),
                    () = stop.requested() => return Ok(()),
                    fetched = reader.next() => fetched,
                };
                let Fetched { topic, partition, records, lost, .. } = match fetched {
                    Ok(fetched) => fetched,
                    Err(error) => {
                        let _gone = sender.send(Err(status(&error))).await;
                        return Ok(());
                    }
                };
                let mut missed = lost;
                for one in records {
                    let followed = wire::Followed { record: Some(record(&topic, partition, one)), missed };
                    missed = 0;
                    if sender.send(Ok(followed)).await.is_err() {
                        return Ok(());
                    }
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}
