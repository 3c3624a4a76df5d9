//! The built-in inference server: the Open Inference Protocol, version 2, and its repository API over ONNX Runtime.
//!
//! One port serves REST and gRPC. It loads what it is told to load from one folder and fetches nothing itself; it knows
//! nothing of schedulers, routes or pipelines. ONNX Runtime is a library found at run time, once for each process.
//!
//! Invariant: no model file and no request takes the process down; each failure is an answer with its reason.

mod failure;
mod grpc;
mod library;
mod model;
mod repository;
mod request_id;
mod rest;
mod server;
mod signature;
mod value;

pub use library::{Error as FindError, find_library};
pub use server::{Config, Error, run};
