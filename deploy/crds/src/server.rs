//! The resource Server and what it says to the scheduler: its size. The rest is for whoever runs its pods, so parts
//! that only Kubernetes understands are kept as they are.

use domain::ServerName;
use messages::scheduler as wire;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::manifest::Metadata;
use crate::scaling::Scaling;
use crate::shape::{COUNT, Shape, optional, required};
use crate::violation::{Fault, Path, Problem};

/// A Server resource.
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    /// Its name and what Kubernetes keeps about it.
    pub metadata: Metadata,
    /// What is wanted.
    pub spec: ServerSpec,
}

/// What a Server wants.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServerSpec {
    /// Which ServerConfig it is made from.
    pub server_config: String,
    /// Capabilities beyond those of the ServerConfig.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extra_capabilities: Vec<String>,
    /// Capabilities instead of those of the ServerConfig.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<String>,
    /// No effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_overrides: Option<ImageOverrides>,
    /// Merged over the pod of the ServerConfig.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_spec: Option<Value>,
    /// What becomes of volume claims.
    #[serde(rename = "statefulSetPersistentVolumeClaimRetentionPolicy", skip_serializing_if = "Option::is_none")]
    pub retention_policy: Option<RetentionPolicy>,
    /// Wanted replicas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Floor of autoscaling.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_replicas: Option<i32>,
    /// Ceiling of autoscaling.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_replicas: Option<i32>,
    /// How pods are replaced where they are a Deployment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deployment_strategy: Option<DeploymentStrategy>,
    /// Stay as it is when the ServerConfig changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disable_auto_update: Option<bool>,
}

/// No effect.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ImageOverrides {
    /// A container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<Value>,
    /// A container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rclone: Option<Value>,
}

/// What becomes of volume claims: `Retain` or `Delete`; Kubernetes checks it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RetentionPolicy {
    /// When the server is deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when_deleted: Option<String>,
    /// When it gets smaller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when_scaled: Option<String>,
}

/// How pods are replaced.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeploymentStrategy {
    /// Its name.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Its numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rolling_update: Option<RollingUpdate>,
}

/// How many pods are replaced at a time: numbers or percentages; Kubernetes checks them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RollingUpdate {
    /// Pods beyond the wanted number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_surge: Option<Value>,
    /// Pods below the wanted number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_unavailable: Option<Value>,
}

/// The form of [`ServerSpec`].
pub(crate) const SHAPE: Shape = Shape::Object(&[
    required("serverConfig", Shape::FilledText),
    optional("extraCapabilities", Shape::List(&Shape::FilledText)),
    optional("capabilities", Shape::List(&Shape::FilledText)),
    optional(
        "imageOverrides",
        Shape::Object(&[optional("agent", Shape::AnyObject), optional("rclone", Shape::AnyObject)]),
    ),
    optional("podSpec", Shape::AnyObject),
    optional(
        "statefulSetPersistentVolumeClaimRetentionPolicy",
        Shape::Object(&[optional("whenDeleted", Shape::Text), optional("whenScaled", Shape::Text)]),
    ),
    optional("replicas", COUNT),
    optional("minReplicas", COUNT),
    optional("maxReplicas", COUNT),
    optional(
        "deploymentStrategy",
        Shape::Object(&[
            optional("type", Shape::Text),
            optional(
                "rollingUpdate",
                Shape::Object(&[
                    optional("maxSurge", Shape::NumberOrText),
                    optional("maxUnavailable", Shape::NumberOrText),
                ]),
            ),
        ]),
    ),
    optional("disableAutoUpdate", Shape::Flag),
]);

impl Server {
    /// What the scheduler is told: one of [`wire::ServerNotifyRequest::servers`]. Or everything that is wrong.
    pub fn to_wire(&self) -> Result<wire::ServerNotify, Vec<Fault>> {
        let mut faults = Vec::new();
        if let Err(bad) = ServerName::parse(&self.metadata.name) {
            faults.push(Fault { path: Path::of(&["metadata", "name"]), problem: Problem::Name(bad) });
        }
        match Scaling::new(self.spec.replicas, self.spec.min_replicas, self.spec.max_replicas) {
            Ok(scaling) if faults.is_empty() => Ok(wire::ServerNotify {
                name: self.metadata.name.clone(),
                expected_replicas: scaling.replicas,
                shared: false,
                kubernetes_meta: Some(self.metadata.to_wire()),
                min_replicas: scaling.min,
                max_replicas: scaling.max,
            }),
            Ok(_) => Err(faults),
            Err(bad) => {
                faults.push(Fault { path: Path::of(&["spec", bad.field()]), problem: Problem::Scaling(bad) });
                Err(faults)
            }
        }
    }
}
