//! `seldon.mlops.health.HealthCheckService`, ok while the driver answers; and `grpc.health.v1.Health`, which says the same to
//! everybody else's probes and balancers. Who watches is told that the scheduler stops, and not that its driver is stuck.
//!
//! Not here: the port for Envoys; `xds` knows when that is well.

use std::pin::Pin;

use api::health::health_check_service_server::HealthCheckService;
use futures_util::{Stream, StreamExt, stream};
use messages::health::{HealthCheckRequest, HealthCheckResponse};
use runtime::Stop;
use tonic::{Request, Response, Status};
use tonic_health::pb;
use tonic_health::pb::health_check_response::ServingStatus;

use super::rejected;
use crate::handle::Scheduler;

#[derive(Clone)]
pub(crate) struct Health {
    pub(crate) scheduler: Scheduler,
    /// What else is on the port; all of it has no name.
    pub(crate) services: &'static [&'static str],
    pub(crate) stop: Stop,
}

impl Health {
    fn is_known(&self, service: &str) -> bool {
        service.is_empty() || self.services.contains(&service)
    }
}

#[tonic::async_trait]
impl HealthCheckService for Health {
    async fn health_check(&self, _: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        self.scheduler.read(|_| ()).await.map_err(|error| rejected(&error))?;
        Ok(Response::new(HealthCheckResponse { ok: true }))
    }
}

fn answer(status: ServingStatus) -> pb::HealthCheckResponse {
    pb::HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl pb::health_server::Health for Health {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<pb::HealthCheckResponse, Status>> + Send>>;

    async fn check(
        &self,
        request: Request<pb::HealthCheckRequest>,
    ) -> Result<Response<pb::HealthCheckResponse>, Status> {
        let service = &request.get_ref().service;
        if !self.is_known(service) {
            return Err(Status::not_found(format!("service {service:?} is not served here")));
        }
        let is_well = !self.stop.is_requested() && self.scheduler.read(|_| ()).await.is_ok();
        Ok(Response::new(answer(if is_well { ServingStatus::Serving } else { ServingStatus::NotServing })))
    }

    async fn watch(&self, request: Request<pb::HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let is_known = self.is_known(&request.get_ref().service);
        let (now, later) = match is_known {
            true => (ServingStatus::Serving, ServingStatus::NotServing),
            false => (ServingStatus::ServiceUnknown, ServingStatus::ServiceUnknown),
        };
        let stop = self.stop.clone();
        let last = stream::once(async move {
            stop.requested().await;
            Ok(answer(later))
        });
        Ok(Response::new(Box::pin(stream::iter([Ok(answer(now))]).chain(last))))
    }
}
