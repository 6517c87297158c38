//! The generic API server: registry, verbs, watches, authentication, TLS.

pub mod auth;
pub mod error;
pub mod namespaces;
pub mod tls;
pub mod wire;
