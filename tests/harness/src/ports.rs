//! Ports that nobody else takes: each stack has a block of them below those that the system gives away, guarded by a
//! lock file against other test processes of this machine.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Mutex;

use anyhow::{Context, Result, bail};

/// The first block. Below are the usual ports of this project.
const FIRST: u16 = 10_000;
/// As many as `switchyard up --port-base` spreads its ports over.
const BLOCK: u16 = 1_000;
/// Linux gives away ports from 32768 on.
const BLOCKS: u16 = 22;

/// Blocks that this process has; a lock file does not guard against the process that holds it.
static TAKEN: Mutex<Vec<u16>> = Mutex::new(Vec::new());

/// A block of ports.
#[derive(Debug)]
pub struct Ports {
    base: u16,
    next: u16,
    _lock: File,
}

impl Ports {
    pub fn block() -> Result<Ports> {
        let folder = std::env::temp_dir().join("switchyard-test-ports");
        std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        let mut taken = TAKEN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // Where to begin differs between processes, so that a port that has just been left is not used again at once.
        let first = u16::try_from(std::process::id() % u32::from(BLOCKS)).unwrap_or(0);
        for turn in 0..BLOCKS {
            let base = FIRST + (first + turn) % BLOCKS * BLOCK;
            if taken.contains(&base) {
                continue;
            }
            let path = folder.join(base.to_string());
            let lock = File::create(&path).with_context(|| format!("make {}", path.display()))?;
            // An installation that is nobody's test may have it.
            let is_free = TcpListener::bind((Ipv4Addr::UNSPECIFIED, base)).is_ok();
            if is_free && lock.try_lock().is_ok() {
                taken.push(base);
                return Ok(Ports { base, next: base, _lock: lock });
            }
        }
        bail!("all {BLOCKS} blocks of ports are in use by other tests");
    }

    /// The first port of the block, for programs that spread their ports themselves.
    #[must_use]
    pub fn base(&self) -> u16 {
        self.base
    }

    /// A port that is free.
    pub fn free(&mut self) -> Result<u16> {
        while self.next < self.base + BLOCK {
            let port = self.next;
            self.next += 1;
            if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
                return Ok(port);
            }
        }
        bail!("no port of {}..{} is free", self.base, self.base + BLOCK);
    }
}

impl Drop for Ports {
    fn drop(&mut self) {
        let mut taken = TAKEN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        taken.retain(|base| *base != self.base);
    }
}

pub(crate) fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}
