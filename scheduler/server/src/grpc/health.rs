//! `seldon.mlops.health.HealthCheckService`: ok while the driver answers.

use api::health::health_check_service_server::HealthCheckService;
use messages::health::{HealthCheckRequest, HealthCheckResponse};
use tonic::{Request, Response, Status};

use super::rejected;
use crate::handle::Scheduler;

pub(crate) struct Health {
    pub(crate) scheduler: Scheduler,
}

#[tonic::async_trait]
impl HealthCheckService for Health {
    async fn health_check(&self, _: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        self.scheduler.read(|_| ()).await.map_err(|error| rejected(&error))?;
        Ok(Response::new(HealthCheckResponse { ok: true }))
    }
}
