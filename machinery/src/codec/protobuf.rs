//! Kubernetes' protobuf for the few messages that are published in it: PartialObjectMetadata
//! and its list, Status, watch events of them, and DeleteOptions as a request body.

use crate::{
    codec::ListMeta,
    error::{ApiError, Status},
    negotiate::MetaVersion,
    object::Object,
};

/// A Status in its envelope.
pub fn status(_status: &Status) -> Vec<u8> {
    todo!()
}

/// The bare PartialObjectMetadata message of an object, for
/// [`partial_object_metadata_list`] and caches.
pub fn partial_object_metadata_message(_object: &Object) -> Vec<u8> {
    todo!()
}

/// A PartialObjectMetadata in its envelope.
pub fn partial_object_metadata(_object: &Object, _version: MetaVersion) -> Vec<u8> {
    todo!()
}

/// A PartialObjectMetadataList in its envelope, from bare messages.
pub fn partial_object_metadata_list<'a>(
    _items: impl IntoIterator<Item = &'a [u8]>,
    _meta: &ListMeta,
    _version: MetaVersion,
) -> Vec<u8> {
    todo!()
}

/// One frame of a watch: a four-byte length and a WatchEvent around an enveloped object.
pub fn watch_frame(_event_type: &str, _enveloped: &[u8]) -> Vec<u8> {
    todo!()
}

/// Reads a DELETE body: DeleteOptions in its envelope.
pub fn decode_delete_options(_body: &[u8]) -> Result<Object, ApiError> {
    todo!()
}
