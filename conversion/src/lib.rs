//! The lenses between versions of the Widget kind.
//!
//! The hub is the v1 shape, which is also what is stored. Every other version has a module with
//! `get(hub)`, `create(version)`, `put(version, old_hub)` and `field_path(hub_path)`. All of them
//! are pure functions over plain JSON objects, so that a field that only a newer binary knows
//! survives a write by this one. The laws they keep are the tests in `tests/laws.rs`.

pub mod oci;
pub mod v1alpha1;

use serde_json::{Map, Value};

/// A whole API object: `apiVersion`, `kind`, `metadata` and the rest.
pub type Object = Map<String, Value>;

/// Why the hub cannot hold what a client wrote: an error of one field, at the path of the version
/// that the client wrote.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum LensError {
    /// A field without which others have no meaning is absent.
    #[error("{path} is required: {detail}")]
    Required {
        /// The absent field.
        path: &'static str,
        /// Why it is needed.
        detail: &'static str,
    },
    /// A value is malformed.
    #[error("{path} is invalid: {detail}")]
    Invalid {
        /// The field.
        path: &'static str,
        /// What the client wrote.
        value: Value,
        /// What it should be.
        detail: &'static str,
    },
    /// A value is none of the enumerated ones.
    #[error("{path} is not supported")]
    NotSupported {
        /// The field.
        path: &'static str,
        /// What the client wrote.
        value: Value,
        /// What is supported.
        supported: &'static [&'static str],
    },
}
