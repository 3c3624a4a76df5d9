//! The cluster of all agents, and the scope of the calls that are about no model.
//!
//! Any agent answers `/v2/health/live`, `/v2/health/ready`, `/v2`, `ServerLive`, `ServerReady` and `ServerMetadata` for
//! the whole installation. Envoy cannot answer the gRPC ones itself.

use domain::Endpoint;
use xds::{Change, Key, Resource};

use super::cluster::{self, Door, Shape};
use super::scope;
use super::settings::Settings;

/// What has been published of the mesh.
#[derive(Debug)]
pub(super) struct Mesh {
    shape: Shape,
}

fn name(door: Door) -> String {
    format!("mesh-{}", door.word())
}

impl Mesh {
    /// Before any agent is known: every call is answered with 503 / UNAVAILABLE.
    pub(super) fn start(settings: &Settings) -> (Mesh, Vec<Change>) {
        let mesh = Mesh { shape: Shape::OnePort };
        let changes = mesh.all(&[], settings);
        (mesh, changes)
    }

    /// All agents there are now.
    pub(super) fn change(&mut self, endpoints: &[Endpoint], settings: &Settings) -> Vec<Change> {
        let shape = Shape::of(endpoints);
        if shape == self.shape {
            return self.endpoints(endpoints).map(Change::Put).collect();
        }
        let old = std::mem::replace(&mut self.shape, shape);
        let mut changes = self.all(endpoints, settings);
        changes.extend(old.doors().iter().flat_map(|door| gone(&name(*door))).map(Change::Remove));
        changes
    }

    fn all(&self, endpoints: &[Endpoint], settings: &Settings) -> Vec<Change> {
        let clusters = self.shape.doors().iter().map(|door| cluster::resource(&name(*door), *door, settings));
        clusters.chain(self.endpoints(endpoints)).chain([scope::mesh(self.shape, name)]).map(Change::Put).collect()
    }

    fn endpoints(&self, endpoints: &[Endpoint]) -> impl Iterator<Item = Resource> {
        self.shape.doors().iter().map(move |door| cluster::endpoints(&name(*door), *door, endpoints))
    }
}

fn gone(name: &str) -> [Key; 2] {
    [cluster::key(name), cluster::endpoints_key(name)]
}
