//! Tables: what `kubectl get` prints.

use jiff::Timestamp;
use serde_json::Value;

use crate::{
    codec::ListMeta, error::ApiError, negotiate::MetaVersion, object::Object, resource::VersionInfo,
};

/// What a row carries of its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// PartialObjectMetadata.
    #[default]
    Metadata,
    /// The whole object.
    Object,
}

impl IncludeObject {
    /// Reads the `includeObject` query parameter; 400 when it is none of upstream's.
    pub fn parse(_value: Option<&str>) -> Result<Self, ApiError> {
        todo!()
    }
}

/// How a Table is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TableOptions {
    /// What rows carry.
    pub include: IncludeObject,
    /// `meta.k8s.io/v1` or `v1beta1`.
    pub version: MetaVersion,
}

/// One row as JSON text; the object is of the version's shape.
pub fn write_row(
    _out: &mut Vec<u8>,
    _version: &VersionInfo,
    _object: &Object,
    _options: TableOptions,
    _now: Timestamp,
) {
    todo!()
}

/// Everything of a Table before its rows: rows (comma separated) and `]}` follow.
/// Column definitions are left out of a watch's later events.
pub fn write_head(
    _out: &mut Vec<u8>,
    _version: &VersionInfo,
    _meta: &ListMeta,
    _options: TableOptions,
    _with_columns: bool,
) {
    todo!()
}

/// A whole Table.
pub fn write_table<'a>(
    _out: &mut Vec<u8>,
    _version: &VersionInfo,
    _objects: impl IntoIterator<Item = &'a Object>,
    _meta: &ListMeta,
    _options: TableOptions,
) {
    todo!()
}

/// A cell for a creation time: `5m12s`, or `<unknown>`.
pub fn age(_creation_timestamp: Option<&str>, _now: Timestamp) -> Value {
    todo!()
}

/// A span of time as kubectl writes it.
pub fn human_duration(_seconds: i64) -> String {
    todo!()
}
