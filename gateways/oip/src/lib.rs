//! The Open Inference Protocol, version 2, as a codec: JSON, protobuf and the binary tensor extension, every datatype.
//!
//! Every form is converted through one normal form (`Tensor`, `InferRequest`, `InferResponse`, `Metadata`). No sockets,
//! no models, no clock: bytes in, values or an [`Error`] that names every offending field out.
//!
//! Invariant: a [`Tensor`] that exists is consistent: its data is exactly what its datatype and shape call for.

mod datatype;
mod error;
mod json;
mod message;
mod parameter;
mod proto;
mod rewrite;
mod tensor;

pub use datatype::Datatype;
pub use error::{Error, Problem, Violation};
pub use json::{JsonBody, TextStyle};
pub use message::{InferRequest, InferResponse, Metadata, RequestedOutput, TensorMetadata};
pub use parameter::{Parameter, Parameters};
pub use proto::Contents;
pub use rewrite::{Malformed, Rewritten, peek_model_name, rewrite_model_name};
pub use tensor::{Tensor, TensorData};
