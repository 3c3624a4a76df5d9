//! `grpc.health.v1.Health`: whether a client that comes now is answered. For load balancers, probes and other servers' clients.
//!
//! The messages and the service are `tonic-health`'s. Its server is not: that keeps a second copy of the state, and refuses to
//! watch what it does not know, where the protocol wants to be told SERVICE_UNKNOWN.

use std::pin::Pin;

use envoy_types::pb::envoy::service::status::v3::client_status_discovery_service_server::SERVICE_NAME as CSDS;
use futures_util::{Stream, stream};
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health as Service, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::lifetime::{End, Stage};
use crate::rpcs::RPCS;

#[derive(Debug)]
pub(crate) struct Health {
    stage: watch::Receiver<Stage>,
}

pub(crate) fn service(stage: watch::Receiver<Stage>) -> HealthServer<Health> {
    HealthServer::new(Health { stage })
}

/// The whole server has no name.
fn is_known(service: &str) -> bool {
    service.is_empty() || service == CSDS || RPCS.iter().any(|rpc| rpc.service == service)
}

fn status(stage: Stage) -> ServingStatus {
    if stage.serves() { ServingStatus::Serving } else { ServingStatus::NotServing }
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

/// One who watches, and what it was told last.
struct Watcher {
    stage: watch::Receiver<Stage>,
    is_known: bool,
    told: Option<ServingStatus>,
}

impl Watcher {
    /// The next word, until the server drains: then the last one, and the end.
    async fn next(mut self) -> Option<(Result<HealthCheckResponse, Status>, Option<Self>)> {
        loop {
            let stage = *self.stage.borrow_and_update();
            let now = if self.is_known { status(stage) } else { ServingStatus::ServiceUnknown };
            if self.told != Some(now) {
                self.told = Some(now);
                return Some((Ok(answer(now)), Some(self)));
            }
            if stage.is_draining() {
                return Some((Err(End::Drain.status()), None));
            }
            self.stage.changed().await.ok()?;
        }
    }
}

#[tonic::async_trait]
impl Service for Health {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let service = &request.get_ref().service;
        if !is_known(service) {
            return Err(Status::not_found(format!("service {service:?} is not served here")));
        }
        Ok(Response::new(answer(status(*self.stage.borrow()))))
    }

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let is_known = is_known(&request.get_ref().service);
        let watcher = Watcher { stage: self.stage.clone(), is_known, told: None };
        let words = stream::unfold(Some(watcher), async |watcher| watcher?.next().await);
        Ok(Response::new(Box::pin(words)))
    }
}
