//! The generic API server: registry, verbs, watches, authentication, TLS.

pub mod error;
pub mod wire;
