//! A server for Envoy's discovery protocol: ADS and every type by itself, SotW and delta.
//!
//! The table of resources has one writer; any number of streams read it. Pure parts: `resource`, `table`,
//! `subscription`, `session` (one stream without the stream), `gate` (who has applied what), `demand` (who asks for what
//! is made on demand), `lifetime` (when streams are answered and end). `ads` is the handle that owners hold; `service`,
//! `inbox`, `health`, `csds`, `wire` and `encode` are the gRPC border.
//!
//! Not here: models, placements, or what any resource says. Bodies are opaque bytes encoded by the caller.

/// The example in it is compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod admission;
mod ads;
mod csds;
mod demand;
mod encode;
mod gate;
mod health;
mod inbox;
mod lifetime;
mod message;
mod resource;
mod rpcs;
mod service;
mod session;
mod subscription;
mod table;
mod time;
mod wire;

pub use ads::{Ads, Config, StreamStatus};
pub use csds::{ClientStatus, Told, fetch};
pub use demand::{Demand, OnDemand, Wish};
pub use gate::{Feedback, Gate, Progress, StreamId};
pub use message::{Ask, Mode, Node, Nonce, Request, Response, Tailor, VersionInfo};
pub use resource::{Change, Key, Kind, Name, Resource, Revision, Version, Visibility};
pub use session::{Behind, Counters, Delivery, KindStatus, Rejection, ResourceStatus, Session, Standing};
pub use subscription::{Interest, Moves, TooManyNames};
pub use table::{Dangling, Table};
pub use time::Time;
