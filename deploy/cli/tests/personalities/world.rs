//! A scheduler on a thread of its own, with an own folder and free ports.

use std::net::{Ipv4Addr, SocketAddr};
use std::thread::JoinHandle;

use runtime::Stop;
use scheduler::{Config, Listeners};
use tokio::net::TcpListener;

use crate::{Folder, Said};

pub struct World {
    pub folder: Folder,
    address: String,
    stop: Stop,
    thread: Option<JoinHandle<()>>,
}

impl World {
    /// It listens when this returns.
    pub fn start() -> World {
        let folder = Folder::new();
        let stop = Stop::new();
        let config = Config::new(folder.path().join("state"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let bind = || runtime.block_on(TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))).expect("a port");
        let listeners = Listeners { xds: bind(), control: bind(), agents: bind(), workers: bind() };
        let address = listeners.control.local_addr().expect("an address").to_string();
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            runtime.block_on(scheduler::run(config, listeners, stopped)).expect("it ends in good order");
        });
        World { folder, address, stop, thread: Some(thread) }
    }

    /// The program under one of its names, which finds the scheduler by its environment.
    pub fn run(&self, name: &str, arguments: &str) -> Said {
        self.folder.run(name, &[("SELDON_SCHEDULE_HOST", &self.address)], arguments)
    }

    pub fn seldon(&self, arguments: &str) -> Said {
        self.run("seldon", arguments)
    }

    pub fn switchyard(&self, arguments: &str) -> Said {
        self.run("switchyard", arguments)
    }

    pub fn address(&self) -> &str {
        &self.address
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.request();
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || !matches!(ended, Some(Err(_))), "the scheduler ended badly");
    }
}
