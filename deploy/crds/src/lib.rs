//! Manifests: the custom resources of API group `mlops.seldon.io/v1alpha1` as types, read strictly from YAML or JSON,
//! and what each of them says to the scheduler. Not a client of anything: text in, values or every violation out.
//!
//! Invariant: a [`Manifest`] that [`parse`] returned can be turned into its wire form.

mod document;
mod experiment;
mod manifest;
mod model;
mod pipeline;
mod quantity;
mod scaling;
mod server;
mod shape;
mod violation;

pub use document::MAX_TEXT;
pub use experiment::{Experiment, ExperimentCandidate, ExperimentMirror, ExperimentSpec, ResourceType};
pub use manifest::{API_VERSION, Manifest, Metadata, parse};
pub use model::{Dataflow, Explainer, Llm, Logger, Model, ModelSpec, Parameter};
pub use pipeline::{JoinType, Pipeline, PipelineBatch, PipelineInput, PipelineOutput, PipelineSpec, PipelineStep};
pub use quantity::{BadQuantity, Quantity};
pub use scaling::{BadScaling, Scaling};
pub use server::{DeploymentStrategy, ImageOverrides, RetentionPolicy, RollingUpdate, Server, ServerSpec};
pub use violation::{Fault, Path, Problem, Segment, Violation};
