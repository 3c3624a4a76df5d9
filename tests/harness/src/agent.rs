//! An agent as a process, with its inference server as its child.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::SERVER;
use crate::part::{self, Part};
use crate::ports::{Ports, local};
use crate::scheduler::Scheduler;

/// The variable that names ONNX Runtime; see [`crate::Stack`].
const RUNTIME_VARIABLE: &str = "ORT_DYLIB_PATH";

/// One agent, always on the same port and in the same folder.
#[derive(Debug)]
pub struct Agent {
    pub part: Part,
    pub index: u32,
    pub port: u16,
    folder: PathBuf,
}

impl Agent {
    /// The replica `index` of the built-in server. Does not run yet.
    pub fn new(
        folder: &Path,
        ports: &mut Ports,
        scheduler: &Scheduler,
        index: u32,
        memory: &str,
        runtime_library: &Path,
    ) -> Result<Agent> {
        let port = ports.free()?;
        let name = format!("agent-{index}");
        let own = folder.join(&name);
        let part = Part::new(
            &name,
            folder,
            &[
                "agent",
                "--server-name",
                SERVER,
                "--server-idx",
                &index.to_string(),
                "--scheduler-host",
                "127.0.0.1",
                "--scheduler-port",
                &scheduler.agents_port.to_string(),
                "--listen-host",
                "127.0.0.1",
                "--reverse-proxy-http-port",
                &port.to_string(),
                "--agent-folder",
                &own.display().to_string(),
                "--memory-bytes",
                memory,
            ],
        );
        let part = part.env(RUNTIME_VARIABLE, &runtime_library.display().to_string());
        Ok(Agent { part, index, port, folder: own })
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        local(self.port)
    }

    /// What the inference server writes.
    #[must_use]
    pub fn server_log(&self) -> PathBuf {
        self.folder.join("server.log")
    }

    /// The process of the inference server.
    pub fn inference_server(&self) -> Result<u32> {
        let pid = self.part.pid().with_context(|| format!("{} does not run", self.part.name()))?;
        match *part::children(pid)? {
            [server] => Ok(server),
            ref found => bail!("{} has the children {found:?} and should have one", self.part.name()),
        }
    }

    /// SIGKILL to the inference server only. The time is right after it.
    pub fn kill9_inference_server(&self) -> Result<Instant> {
        part::kill9(self.inference_server()?)?;
        Ok(Instant::now())
    }
}
