//! Kubernetes API semantics as pure functions.

pub mod codec;
pub mod discovery;
pub mod negotiate;
pub mod openapi;
pub mod partial;
pub mod schema;
pub mod table;
