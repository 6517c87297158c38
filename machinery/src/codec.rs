//! Bodies in and out: JSON, YAML and Kubernetes' protobuf.

pub mod json;
pub mod protobuf;
pub mod yaml;

use serde_json::Value;

use crate::{error::ApiError, negotiate::Format};

/// A decoded request body.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// The document.
    pub value: Value,
    /// Paths of keys that stood more than once (`spec.color`); the last one won.
    pub duplicates: Vec<String>,
}

/// Metadata of a list, a Table or a bookmark.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListMeta {
    /// The revision at which the list is complete.
    pub resource_version: String,
    /// Where the next page starts, when there is one.
    pub continue_token: Option<String>,
    /// How many objects follow this page, when that is known.
    pub remaining_item_count: Option<i64>,
}

impl ListMeta {
    /// The `metadata` member of a list.
    pub fn to_value(&self) -> Value {
        todo!()
    }
}

/// Decodes a body of the given format (see [`crate::negotiate::body_format`]).
pub fn decode(_format: Format, _body: &[u8]) -> Result<Decoded, ApiError> {
    todo!()
}

/// Encodes a value as JSON (pretty on request) or YAML. Protobuf falls back to JSON: its
/// few messages are written by [`protobuf`].
pub fn encode<T: serde::Serialize>(_value: &T, _format: Format, _pretty: bool) -> Vec<u8> {
    todo!()
}
