//! JSON bodies ⇄ the normal form, with the binary tensor extension.
//!
//! A binary body is JSON followed by raw tensors; the header `Inference-Header-Content-Length` says where the JSON ends.
//! Names of headers and content types are the caller's business: clients send none.

mod data;
mod read;
mod write;

pub use write::{JsonBody, TextStyle};
