//! Kubernetes API semantics as pure functions.

pub mod codec;
pub mod continue_token;
pub mod discovery;
pub mod error;
pub mod field;
pub mod field_selector;
pub mod history;
pub mod label_selector;
pub mod lens;
pub mod meta;
pub mod names;
pub mod negotiate;
pub mod object;
pub mod openapi;
pub mod options;
pub mod partial;
pub mod patch;
pub mod quantity;
pub mod quote;
pub mod resource;
pub mod revision;
pub mod scale;
pub mod schema;
pub mod shard_selector;
pub mod table;

pub use object::Object;
