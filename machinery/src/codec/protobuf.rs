//! Kubernetes' protobuf for the few messages that are published in it: PartialObjectMetadata
//! and its list, Status, watch events of them, and DeleteOptions as a request body.
//!
//! Written by hand, because garbage collector, quota and namespace controllers need just
//! these; field numbers are those of apimachinery's `meta/v1/generated.proto`. A message
//! stands in an envelope: four magic bytes and `runtime.Unknown`.

use jiff::Timestamp;
use serde_json::Value;

use super::protowire::{Field, Reader, Writer};
use crate::{
    codec::ListMeta,
    error::{ApiError, Status, StatusCause, StatusDetails},
    negotiate::MetaVersion,
    object::{self, Object},
};

/// What a body in this format begins with.
const MAGIC: &[u8; 4] = b"k8s\0";

/// A Status in its envelope.
#[must_use]
pub fn status(status: &Status) -> Vec<u8> {
    let mut out = Writer::default();
    out.message(1, |out| {
        out.text(2, &status.metadata.resource_version);
        out.text(3, &status.metadata.continue_token);
    });
    out.text(2, &status.status);
    out.text(3, &status.message);
    if let Some(reason) = status.reason {
        out.text(4, &reason.to_string());
    }
    if let Some(details) = &status.details {
        out.message(5, |out| write_details(out, details));
    }
    out.integer(6, i64::from(status.code));
    envelope("v1", "Status", &out.into_bytes())
}

fn write_details(out: &mut Writer, details: &StatusDetails) {
    out.text(1, &details.name);
    out.text(2, &details.group);
    out.text(3, &details.kind);
    for cause in &details.causes {
        out.message(4, |out| write_cause(out, cause));
    }
    out.integer(5, i64::from(details.retry_after_seconds));
    out.text(6, &details.uid);
}

fn write_cause(out: &mut Writer, cause: &StatusCause) {
    out.text(1, &cause.reason);
    out.text(2, &cause.message);
    out.text(3, &cause.field);
}

/// The bare PartialObjectMetadata message of an object, for
/// [`list_item`] and envelopes.
#[must_use]
pub fn partial_object_metadata_message(object: &Object) -> Vec<u8> {
    let mut out = Writer::default();
    out.message(1, |out| {
        if let Some(metadata) = object::metadata(object) {
            write_object_meta(out, metadata);
        }
    });
    out.into_bytes()
}

/// A PartialObjectMetadata in its envelope.
#[must_use]
pub fn partial_object_metadata(object: &Object, version: MetaVersion) -> Vec<u8> {
    enveloped_partial(&partial_object_metadata_message(object), version)
}

/// A bare PartialObjectMetadata message in its envelope.
#[must_use]
pub fn enveloped_partial(message: &[u8], version: MetaVersion) -> Vec<u8> {
    envelope(version.api_version(), "PartialObjectMetadata", message)
}

/// One of a list's items, from its bare message.
#[must_use]
pub fn list_item(message: &[u8]) -> Vec<u8> {
    let mut out = Writer::default();
    out.bytes(2, message);
    out.into_bytes()
}

/// A PartialObjectMetadataList in its envelope around items that are written apart, each by
/// [`list_item`]: what is before them and what is after them. `length` is that of all items.
#[must_use]
pub fn partial_list_frame(
    meta: &ListMeta,
    version: MetaVersion,
    length: usize,
) -> (Vec<u8>, Vec<u8>) {
    let mut out = Writer::default();
    out.message(1, |out| {
        out.text(2, &meta.resource_version);
        out.text(3, meta.continue_token.as_deref().unwrap_or_default());
        if let Some(count) = meta.remaining_item_count {
            out.integer(4, count);
        }
        if let Some(selector) = &meta.shard_selector {
            out.message(5, |out| out.text(1, selector));
        }
    });
    let start = out.into_bytes();
    let mut out = envelope_head(version.api_version(), "PartialObjectMetadataList");
    out.length(2, start.len().saturating_add(length));
    let mut head = out.into_bytes();
    head.extend_from_slice(&start);
    (head, ENVELOPE_TAIL.to_vec())
}

/// One frame of a watch: a four-byte length and a WatchEvent around an enveloped object.
#[must_use]
pub fn watch_frame(event_type: &str, enveloped: &[u8]) -> Vec<u8> {
    let mut event = Writer::default();
    event.text(1, event_type);
    event.message(2, |out| out.bytes(1, enveloped));
    let event = event.into_bytes();
    let length = u32::try_from(event.len()).expect("an object is far smaller than 4 GiB");
    let mut frame = Vec::with_capacity(event.len() + 4);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&event);
    frame
}

/// Go writes the last two fields even when they are empty.
const ENVELOPE_TAIL: &[u8; 4] = b"\x1a\x00\x22\x00";

fn envelope(api_version: &str, kind: &str, message: &[u8]) -> Vec<u8> {
    let mut out = envelope_head(api_version, kind);
    out.bytes(2, message);
    let mut out = out.into_bytes();
    out.extend_from_slice(ENVELOPE_TAIL);
    out
}

fn envelope_head(api_version: &str, kind: &str) -> Writer {
    let mut out = Writer::with_prefix(MAGIC, 64);
    out.message(1, |out| {
        out.text(1, api_version);
        out.text(2, kind);
    });
    out
}

fn write_object_meta(out: &mut Writer, metadata: &Object) {
    let text = |key: &str| {
        metadata
            .get(key)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    out.text(1, text("name"));
    out.text(2, text("generateName"));
    out.text(3, text("namespace"));
    out.text(4, text("selfLink"));
    out.text(5, text("uid"));
    out.text(6, text("resourceVersion"));
    if let Some(generation) = metadata.get("generation").and_then(Value::as_i64) {
        out.integer(7, generation);
    }
    write_time(out, 8, metadata.get("creationTimestamp"));
    write_time(out, 9, metadata.get("deletionTimestamp"));
    if let Some(seconds) = metadata
        .get("deletionGracePeriodSeconds")
        .and_then(Value::as_i64)
    {
        out.integer_or_zero(10, seconds);
    }
    write_texts(out, 11, metadata.get("labels"));
    write_texts(out, 12, metadata.get("annotations"));
    for owner in members(metadata.get("ownerReferences")) {
        out.message(13, |out| write_owner(out, owner));
    }
    for finalizer in items(metadata.get("finalizers")).filter_map(Value::as_str) {
        out.bytes(14, finalizer.as_bytes());
    }
    for entry in members(metadata.get("managedFields")) {
        out.message(17, |out| write_managed_fields(out, entry));
    }
}

fn write_owner(out: &mut Writer, owner: &Object) {
    for (number, key) in [(1, "kind"), (3, "name"), (4, "uid"), (5, "apiVersion")] {
        out.text(
            number,
            owner.get(key).and_then(Value::as_str).unwrap_or_default(),
        );
    }
    for (number, key) in [(6, "controller"), (7, "blockOwnerDeletion")] {
        if let Some(value) = owner.get(key).and_then(Value::as_bool) {
            out.integer_or_zero(number, i64::from(value));
        }
    }
}

fn write_managed_fields(out: &mut Writer, entry: &Object) {
    let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default();
    out.text(1, text("manager"));
    out.text(2, text("operation"));
    out.text(3, text("apiVersion"));
    write_time(out, 4, entry.get("time"));
    out.text(6, text("fieldsType"));
    if let Some(fields) = entry.get("fieldsV1") {
        out.message(7, |out| out.bytes(1, fields.to_string().as_bytes()));
    }
    out.text(8, text("subresource"));
}

fn write_time(out: &mut Writer, number: u32, time: Option<&Value>) {
    let Some(time) = time
        .and_then(Value::as_str)
        .and_then(|t| t.parse::<Timestamp>().ok())
    else {
        return;
    };
    out.message(number, |out| out.integer(1, time.as_second()));
}

fn write_texts(out: &mut Writer, number: u32, map: Option<&Value>) {
    for (key, value) in map.and_then(Value::as_object).into_iter().flatten() {
        out.message(number, |out| {
            out.bytes(1, key.as_bytes());
            out.bytes(2, value.as_str().unwrap_or_default().as_bytes());
        });
    }
}

fn items(list: Option<&Value>) -> impl Iterator<Item = &Value> {
    list.and_then(Value::as_array).into_iter().flatten()
}

fn members(list: Option<&Value>) -> impl Iterator<Item = &Object> {
    items(list).filter_map(Value::as_object)
}

/// Reads a DELETE body: DeleteOptions in its envelope. `apiVersion` and `kind` are those of
/// the envelope; whether they are DeleteOptions' is for the caller to judge, as with JSON.
pub fn decode_delete_options(body: &[u8]) -> Result<Object, ApiError> {
    read_delete_options(body).ok_or_else(|| {
        ApiError::bad_request(
            "provided data does not appear to be a protobuf message of kind DeleteOptions",
        )
    })
}

fn read_delete_options(body: &[u8]) -> Option<Object> {
    let mut options = Object::new();
    let mut raw: &[u8] = b"";
    for field in Reader::new(body.strip_prefix(MAGIC)?) {
        match field? {
            (1, Field::Bytes(type_meta)) => read_type_meta(type_meta, &mut options)?,
            (2, Field::Bytes(message)) => raw = message,
            (3, Field::Bytes(encoding)) if !encoding.is_empty() => return None,
            _ => {}
        }
    }
    let mut dry_run = Vec::new();
    for field in Reader::new(raw) {
        let (key, value) = match field? {
            (1, Field::Varint(seconds)) => ("gracePeriodSeconds", seconds.cast_signed().into()),
            (2, Field::Bytes(message)) => ("preconditions", read_preconditions(message)?),
            (3, Field::Varint(orphan)) => ("orphanDependents", (orphan != 0).into()),
            (4, Field::Bytes(policy)) => ("propagationPolicy", text(policy)?),
            (5, Field::Bytes(stage)) => {
                dry_run.push(text(stage)?);
                continue;
            }
            (6, Field::Varint(ignore)) => (
                "ignoreStoreReadErrorWithClusterBreakingPotential",
                (ignore != 0).into(),
            ),
            _ => continue,
        };
        options.insert(key.to_owned(), value);
    }
    if !dry_run.is_empty() {
        options.insert("dryRun".to_owned(), Value::Array(dry_run));
    }
    Some(options)
}

fn read_type_meta(message: &[u8], options: &mut Object) -> Option<()> {
    read_texts(message, &["apiVersion", "kind"], options)
}

fn read_preconditions(message: &[u8]) -> Option<Value> {
    let mut preconditions = Object::new();
    read_texts(message, &["uid", "resourceVersion"], &mut preconditions)?;
    Some(Value::Object(preconditions))
}

/// Reads a message whose fields are texts with the numbers 1, 2, … in the order of `keys`.
fn read_texts(message: &[u8], keys: &[&str], out: &mut Object) -> Option<()> {
    for field in Reader::new(message) {
        if let (number, Field::Bytes(bytes)) = field? {
            let index = usize::try_from(number).ok()?.checked_sub(1)?;
            if let Some(key) = keys.get(index).filter(|_| !bytes.is_empty()) {
                out.insert((*key).to_owned(), text(bytes)?);
            }
        }
    }
    Some(())
}

fn text(bytes: &[u8]) -> Option<Value> {
    std::str::from_utf8(bytes).ok().map(Value::from)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Object {
        let Value::Object(object) = value else {
            panic!("no object")
        };
        object
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn partial_object_metadata_has_upstreams_bytes() {
        let widget = object(json!({
            "metadata": {
                "name": "w", "namespace": "d", "uid": "u", "resourceVersion": "7", "generation": 2,
                "creationTimestamp": "1970-01-01T00:00:05Z", "labels": {"a": "b"},
                "finalizers": ["f"], "deletionGracePeriodSeconds": 0,
                "ownerReferences": [{
                    "apiVersion": "v1", "kind": "K", "name": "n", "uid": "i", "controller": true,
                    "blockOwnerDeletion": false,
                }],
            },
            "spec": {"color": "blue"},
        }));
        let expected = [
            "0a39",             // metadata
            "0a0177",           // 1 name
            "1a0164",           // 3 namespace
            "2a0175",           // 5 uid
            "320137",           // 6 resourceVersion
            "3802",             // 7 generation
            "42020805",         // 8 creationTimestamp
            "5000",             // 10 deletionGracePeriodSeconds
            "5a060a0161120162", // 11 labels
            "6a11",             // 13 ownerReferences
            "0a014b1a016e2201692a02763130013800",
            "720166", // 14 finalizers
        ];
        let bytes = partial_object_metadata_message(&widget);
        let mut expected = expected.concat();
        let length = expected.len() / 2 - 2;
        expected.replace_range(0..4, &format!("0a{length:02x}"));
        assert_eq!(hex(&bytes), expected);
    }

    #[test]
    fn the_envelope_names_the_kind() {
        let bytes = partial_object_metadata(&Object::new(), MetaVersion::V1);
        let mut expected =
            b"k8s\0\x0a\x27\x0a\x0emeta.k8s.io/v1\x12\x15PartialObjectMetadata".to_vec();
        expected.extend_from_slice(b"\x12\x02\x0a\x00\x1a\x00\x22\x00");
        assert_eq!(bytes, expected);
    }

    #[test]
    fn a_list_holds_its_items_and_its_revision() {
        let items: [&[u8]; 2] = [b"\x0a\x00", b"\x0a\x00"];
        let meta = ListMeta {
            resource_version: "9".into(),
            continue_token: Some("c".into()),
            remaining_item_count: Some(3),
            shard_selector: Some("s".into()),
        };
        let items = items.map(list_item).concat();
        let (head, tail) = partial_list_frame(&meta, MetaVersion::V1Beta1, items.len());
        let bytes = [head, items, tail].concat();
        let mut fields = Reader::new(bytes.strip_prefix(MAGIC).unwrap()).map(Option::unwrap);
        let Some((2, Field::Bytes(message))) = fields.nth(1) else {
            panic!("the second field holds the list");
        };
        let whole = envelope("meta.k8s.io/v1beta1", "PartialObjectMetadataList", message);
        assert_eq!(bytes, whole, "the length is that of what follows");
        let message =
            b"\x0a\x0d\x12\x019\x1a\x01c\x20\x03\x2a\x03\x0a\x01s\x12\x02\x0a\x00\x12\x02\x0a\x00";
        assert!(bytes.windows(message.len()).any(|window| window == message));
        assert!(
            bytes
                .windows(19)
                .any(|window| window == b"meta.k8s.io/v1beta1")
        );
    }

    #[test]
    fn a_watch_frame_is_a_length_and_an_event() {
        assert_eq!(
            watch_frame("ADDED", b"xy"),
            b"\0\0\0\x0d\x0a\x05ADDED\x12\x04\x0a\x02xy"
        );
    }

    #[test]
    fn a_status_tells_code_reason_and_details() {
        let error = ApiError::too_many_requests("slow down", 3);
        let bytes = status(error.status());
        let message =
            b"\x12\x07Failure\x1a\x09slow down\x22\x0fTooManyRequests\x2a\x02\x28\x03\x30\xad\x03";
        assert!(
            bytes.windows(message.len()).any(|window| window == message),
            "{bytes:?}"
        );
    }

    #[test]
    fn delete_options_are_read() {
        let mut raw = Writer::default();
        raw.integer_or_zero(1, 0);
        raw.message(2, |out| {
            out.text(1, "uid-1");
            out.text(2, "42");
        });
        raw.integer_or_zero(3, 0);
        raw.text(4, "Background");
        raw.text(5, "All");
        raw.text(99, "of the future");
        let body = envelope("meta.k8s.io/v1", "DeleteOptions", &raw.into_bytes());
        assert_eq!(
            Value::Object(decode_delete_options(&body).unwrap()),
            json!({
                "apiVersion": "meta.k8s.io/v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0,
                "preconditions": {"uid": "uid-1", "resourceVersion": "42"},
                "orphanDependents": false, "propagationPolicy": "Background", "dryRun": ["All"],
            })
        );
    }

    #[test]
    fn what_is_no_protobuf_is_a_bad_request() {
        for body in [
            &b""[..],
            b"{}",
            b"k8s\0garbage",
            b"k8s\0\x12\xff\xff\xff\xff\x0f",
            b"k8s",
        ] {
            assert_eq!(
                decode_delete_options(body).unwrap_err().code(),
                400,
                "{body:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut body = MAGIC.to_vec();
            body.extend_from_slice(&bytes);
            drop(decode_delete_options(&body));
        }

        #[test]
        fn any_metadata_is_written(name in ".*", labels in prop::collection::btree_map(".*", ".*", 0..4)) {
            let labels: Object =
                labels.into_iter().map(|(key, value)| (key, Value::from(value))).collect();
            let object = object(json!({"metadata": {"name": name, "labels": labels}}));
            let bytes = partial_object_metadata_message(&object);
            let (number, Field::Bytes(meta)) = Reader::new(&bytes).next().unwrap().unwrap() else {
                panic!("metadata is a message");
            };
            prop_assert_eq!(number, 1);
            let read: Vec<_> = Reader::new(meta).map(Option::unwrap).collect();
            let written = read.iter().filter(|(number, _)| *number == 11).count();
            prop_assert_eq!(written, labels_of(&object));
        }
    }

    fn labels_of(object: &Object) -> usize {
        object::labels(object).map_or(0, serde_json::Map::len)
    }
}
