//! The server over real sockets, with the real ONNX Runtime and plain clients.

mod grpc;
mod harness;
mod repository;
mod rest;
