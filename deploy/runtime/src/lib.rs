//! How a process of this project starts, logs, reports its health and metrics, supervises its tasks and child
//! processes, fetches pinned foreign parts, gives memory back, and stops. It knows nothing about models, and it decides
//! nothing: callers say what a failure means.

pub mod child;
pub mod health;
pub mod logging;
pub mod memory;
mod process_metrics;
mod request_id;
mod stop;
mod tasks;
pub mod wheel;

pub use request_id::RequestIds;
pub use stop::{Stop, on_signals};
pub use tasks::{OnError, Tasks, TasksFailed, chain};
