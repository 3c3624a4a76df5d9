//! `DIR/endpoints.json`: where a running `switchyard up` listens, for the verbs.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

/// The content of the file.
#[derive(Debug, Serialize)]
pub(crate) struct Endpoints {
    /// The scheduler API.
    pub(crate) scheduler: String,
    /// Inference, of the first Envoy.
    pub(crate) inference: String,
    /// Inference, of every Envoy.
    pub(crate) envoys: Vec<String>,
    /// The log.
    pub(crate) log: String,
    /// The scheduler's port for Envoys.
    pub(crate) xds: String,
    /// Health and metrics.
    pub(crate) health: String,
    /// The process.
    pub(crate) pid: u32,
}

/// The file, for as long as the process runs.
pub(crate) struct File(PathBuf);

impl Endpoints {
    /// Writes the file so that a reader sees all of it or nothing.
    pub(crate) fn write(&self, dir: &Path) -> io::Result<File> {
        let path = dir.join(crate::address::ENDPOINTS_FILE);
        let temporary = path.with_extension("json.new");
        let mut file = std::fs::File::create(&temporary)?;
        serde_json::to_writer_pretty(&mut file, self)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        std::fs::rename(&temporary, &path)?;
        Ok(File(path))
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // After a kill -9 it stays; the verbs then say that nobody answers there.
        let _it_may_be_gone = std::fs::remove_file(&self.0);
    }
}
