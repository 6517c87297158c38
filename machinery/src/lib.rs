//! Kubernetes API semantics as pure functions.

pub mod codec;
pub mod discovery;
pub mod error;
pub mod field;
pub mod lens;
pub mod names;
pub mod negotiate;
pub mod object;
pub mod openapi;
pub mod partial;
pub mod quote;
pub mod resource;
pub mod scale;
pub mod schema;
pub mod table;

pub use object::Object;
