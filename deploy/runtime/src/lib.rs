//! How a process of this project starts, logs, reports its health and metrics, supervises its tasks and child
//! processes, and stops. It knows nothing about models, and it decides nothing: callers say what a failure means.

pub mod logging;
mod stop;
mod tasks;

pub use stop::{Stop, on_signals};
pub use tasks::{OnError, Tasks, TasksFailed};
