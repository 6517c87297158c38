//! PartialObjectMetadata: objects reduced to their metadata.

use crate::{codec::ListMeta, negotiate::MetaVersion, object::Object};

/// The metadata of an object as PartialObjectMetadata.
pub fn from_object(_object: &Object, _version: MetaVersion) -> Object {
    todo!()
}

/// Writes an object's PartialObjectMetadata as JSON, without building it.
pub fn write_json(_out: &mut Vec<u8>, _object: &Object, _version: MetaVersion) {
    todo!()
}

/// Writes a PartialObjectMetadataList as JSON.
pub fn write_list_json<'a>(
    _out: &mut Vec<u8>,
    _objects: impl IntoIterator<Item = &'a Object>,
    _meta: &ListMeta,
    _version: MetaVersion,
) {
    todo!()
}
