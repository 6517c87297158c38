//! What both binaries share around their real work: logs and traces, metrics,
//! health checks, the stop signal, and a small HTTP server for operators.
//!
//! It knows no resource, no database and no Kubernetes client. actix-web lives
//! here only in [`http`].

mod error;
pub mod health;
pub mod http;
pub mod metrics;
pub mod shutdown;
pub mod telemetry;

pub use error::PlumbingError;
