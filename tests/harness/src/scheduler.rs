//! The scheduler as a process.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use api::agent::agent_service_client::AgentServiceClient;
use messages::agent::AgentDrainRequest;
use tonic::transport::Endpoint;

use crate::control::Control;
use crate::part::Part;
use crate::ports::{Ports, local};
use crate::until::until;

/// It opens its store and binds three ports; the machine may be busy.
const STARTS_WITHIN: Duration = Duration::from_secs(20);

/// One scheduler, always on the same ports and in the same folder.
#[derive(Debug)]
pub struct Scheduler {
    pub part: Part,
    pub xds_port: u16,
    pub control_port: u16,
    pub agents_port: u16,
    /// Where Envoys listen that ask for no port.
    pub data_port: u16,
}

impl Scheduler {
    /// Does not run yet. Its state is in `<folder>/scheduler`.
    pub fn new(folder: &Path, ports: &mut Ports) -> Result<Scheduler> {
        let (xds_port, control_port, agents_port) = (ports.free()?, ports.free()?, ports.free()?);
        let data_port = ports.free()?;
        let text = |port: u16| port.to_string();
        let part = Part::new(
            "scheduler",
            folder,
            &[
                "scheduler",
                "--db-path",
                &folder.join("scheduler").display().to_string(),
                "--listen-host",
                "127.0.0.1",
                "--data-host",
                "127.0.0.1",
                "--data-port",
                &text(data_port),
                "--envoy-port",
                &text(xds_port),
                "--scheduler-port",
                &text(control_port),
                "--agent-port",
                &text(agents_port),
                "--dataflow-port",
                "0",
                "--health-probe-port",
                "0",
                "--envoy-accesslog-path",
                &folder.join("access.log").display().to_string(),
            ],
        );
        Ok(Scheduler { part, xds_port, control_port, agents_port, data_port })
    }

    /// Starts it and waits until it answers.
    pub async fn start(&mut self) -> Result<()> {
        self.part.start().await?;
        let control = self.control();
        until(STARTS_WITHIN, "the scheduler answers", async || control.version().await.map(|_| ())).await
    }

    /// A client of it, which connects when it is used and again when it was lost.
    #[must_use]
    pub fn control(&self) -> Control {
        Control::new(local(self.control_port))
    }

    /// Empties a replica, as an operator asks for before it ends it.
    pub async fn drain(&self, server: &str, replica: u32) -> Result<()> {
        let address = format!("http://{}", local(self.agents_port));
        let channel = Endpoint::from_shared(address)?.connect().await?;
        let request = AgentDrainRequest { server_name: server.to_owned(), replica_idx: replica };
        let answer = AgentServiceClient::new(channel).agent_drain(request).await?;
        ensure!(answer.get_ref().success, "replica {replica} of {server} was not drained");
        Ok(())
    }

    #[must_use]
    pub fn address(&self) -> String {
        local(self.control_port).to_string()
    }
}
