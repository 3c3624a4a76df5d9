//! Servers as their owners declare them: `ServerNotify`.

use domain::{ServerBounds, ServerName};
use messages::scheduler as wire;

use super::{Invalid, model};

/// Most replicas that a server can be said to have; an index above it is a mistake.
pub const MOST_REPLICAS: u32 = 10_000;

/// Name, bounds and whether models without an explicit server may use it.
pub fn notify(index: usize, notify: wire::ServerNotify) -> Result<(ServerName, ServerBounds, bool), Invalid> {
    let mut invalid = Invalid::default();
    if notify.expected_replicas > MOST_REPLICAS {
        let reason = format!("is {}, at most {MOST_REPLICAS} are accepted", notify.expected_replicas);
        invalid.add(format!("servers[{index}].expectedReplicas"), reason);
    }
    if notify.max_replicas != 0 && notify.min_replicas > notify.max_replicas {
        let reason = format!("is {}, above maxReplicas {}", notify.min_replicas, notify.max_replicas);
        invalid.add(format!("servers[{index}].minReplicas"), reason);
    }
    let field = format!("servers[{index}].kubernetesMeta");
    let kubernetes = notify.kubernetes_meta.map(|meta| model::small_kubernetes(&field, meta)).transpose();
    let kubernetes = kubernetes.unwrap_or_else(|error| {
        invalid.extend(error);
        None
    });
    let name = match ServerName::parse(&notify.name) {
        Ok(name) => name,
        Err(error) => {
            invalid.add(format!("servers[{index}].name"), error);
            return Err(invalid);
        }
    };
    let bounds = ServerBounds {
        expected: notify.expected_replicas,
        min: notify.min_replicas,
        max: notify.max_replicas,
        kubernetes,
    };
    invalid.or((name, bounds, notify.shared))
}
